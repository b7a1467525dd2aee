"""How it is shown what a release costs a machine's link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.cli.terminal import colour, fitting_table
from pipeline.files import format_size
from pipeline.transfer.costs import LINK, WAYS, Costs, by_way, link_seconds, link_time, total

if TYPE_CHECKING:
    from pipeline.channels.starts import Fleet, Start

_TIME = f"{LINK // 1000} kbit/s"
_KINDS = {"held": "", "before": " (before)", "reported": ""}


def costs_data(costs: Costs) -> dict[str, object]:
    """What a release costs, as JSON-able data: bytes by way, and the cheapest."""
    best = total(costs)
    return {
        "ways": dict(by_way(costs)),
        "parts": {role: {cost.way: cost.size for cost in found} for role, found in costs.items()},
        "cheapest": {"ways": list(best.ways), "size": best.size},
        "seconds": link_seconds(best.size),
    }


def cost_cells(costs: Costs) -> dict[str, str]:
    """What a release costs, by header of :func:`cost_headers`."""
    sizes = by_way(costs)
    cells = {str(way): format_size(sizes[way]) if way in sizes else "–" for way in WAYS}
    return cells | {_TIME: link_time(total(costs).size)}


def cost_headers(many: list[Costs]) -> list[str]:
    """Headers for several costs: no way that none of them has."""
    there = {way for costs in many for way in by_way(costs)}
    return [*(way for way in WAYS if way in there), _TIME]


def fleet_data(fleet: Fleet) -> dict[str, object]:
    """What machines download, as JSON-able data."""
    return {
        "bits_per_second": LINK,
        "from": [
            {
                "version": each.version,
                "kind": each.kind,
                "machines": each.machines,
                **costs_data(each.costs),
            }
            for each in fleet.starts
        ],
        "reports": fleet.reports,
        "reports_read": fleet.read,
        "other_machines": fleet.others,
        "problem": fleet.problem or None,
    }


def fleet_text(fleet: Fleet, *, back: bool) -> str:
    """What machines download, for a person; empty if there is nothing to tell.

    Args:
        fleet: from where machines start.
        back: do they go back to what many of them have still got?
    """
    if not fleet.starts:
        return ""
    counted = any(each.machines is not None for each in fleet.starts)
    headers = ["from", *(["machines"] if counted else [])]
    headers += cost_headers([each.costs for each in fleet.starts])
    rows = [_row(each) for each in fleet.starts]
    title = colour("what a machine downloads, at most", "", bold=True)
    lines = [title, fitting_table(rows, headers, ("chunks", "delta", "machines"))]
    lines += [f"  {note}" for note in _notes(fleet, back=back)]
    return "\n".join(lines)


def _row(start: Start) -> dict[str, str]:
    return {
        "from": start.version + _KINDS[start.kind],
        "machines": "" if start.machines is None else str(start.machines),
        **cost_cells(start.costs),
    }


def _notes(fleet: Fleet, *, back: bool) -> list[str]:
    notes = []
    if back:
        notes.append("Nothing where a machine's other slot still holds it.")
    if fleet.problem:
        notes.append(f"Machines are not counted: {fleet.problem}.")
    if fleet.read < fleet.reports:
        notes.append(f"Machines are counted in {fleet.read} of {fleet.reports} reports.")
    if fleet.others:
        many = "machine runs" if fleet.others == 1 else "machines run"
        notes.append(f"{fleet.others} {many} still other releases: see `recast sites`.")
    return notes
