"""How a promotion or a rollback is shown: every gate, and what changes for sites."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.channels.promote import Promotion
from pipeline.cli.outcomes import outcome_data, rollout_data, waves_text
from pipeline.cli.terminal import colour, printable, table
from pipeline.cli.wire import fleet_data, fleet_text
from pipeline.clock import iso
from pipeline.files import format_size
from pipeline.releases import format_growth

if TYPE_CHECKING:
    from pipeline.channels.starts import Fleet
    from pipeline.policy.verdict import Verdict

_CHANGES = 15  # packages that are named; --json has them all
_LABEL = 12  # columns
_SHORT_HASH = 12
_PARTS = ("root", "uki")


def gates_table(verdict: Verdict) -> str:
    """Every gate with its outcome and its reason."""
    signs = {True: colour("✓", "green"), False: colour("✗", "red")}
    rows = [(signs[gate.passed], gate.name, gate.reason) for gate in verdict.gates]
    return table(rows, ("", "gate", "reason"))


def promotion_text(promotion: Promotion, fleet: Fleet) -> str:
    """Everything about a promotion that has been decided, for a person.

    Args:
        promotion: what was decided.
        fleet: from where machines start.
    """
    release = promotion.release
    word = "into" if promotion.action == "promote" else "back into"
    title = colour(f"{release.image} {release.version} {word} {promotion.channel}", "", bold=True)
    if promotion.already:
        return f"{title}\n\n{promotion.channel} holds it already: nothing is to be done."
    parts = [title, gates_table(promotion.verdict), _sites(promotion)]
    parts.append(fleet_text(fleet, back=promotion.action == "rollback"))
    return printable("\n\n".join(part for part in parts if part), sys.stdout)


def promotion_data(promotion: Promotion, fleet: Fleet, now: datetime) -> dict[str, object]:
    """A promotion as JSON-able data; arguments as for :func:`promotion_text`."""
    release, before, opens = promotion.release, promotion.before, promotion.verdict.opens
    return {
        "action": promotion.action,
        "image": release.image,
        "version": release.version,
        "root_hash": release.root_hash,
        "channel": promotion.channel,
        "reason": promotion.reason,
        "already": promotion.already,
        "allowed": promotion.verdict.allowed,
        "opens": iso(opens) if opens else None,
        "gates": [
            {
                "name": gate.name,
                "passed": gate.passed,
                "reason": gate.reason,
                "opens": iso(gate.opens) if gate.opens else None,
            }
            for gate in promotion.verdict.gates
        ],
        "before": {"version": before.version, "root_hash": before.root_hash} if before else None,
        "changes": promotion.changes.model_dump(mode="json") if promotion.changes.old else None,
        "download_size": release.download_size,
        "downloads": fleet_data(fleet),
        "rollout": rollout_data(promotion.rollout, now),
        "outcome": outcome_data(promotion.outcome),
    }


def _sites(promotion: Promotion) -> str:
    """What machines of the channel get."""
    release, before, changes = promotion.release, promotion.before, promotion.changes
    lines = [colour(f"what changes for sites of {promotion.channel}", "", bold=True)]
    if before is None:
        lines.append(_field("from", "nothing: it is the first release there"))
    else:
        lines.append(_field("from", f"{before.version} (root {before.root_hash[:_SHORT_HASH]})"))
    lines.append(_field("to", f"{release.version} (root {release.root_hash[:_SHORT_HASH]})"))
    if changes.old is not None:
        same = "; the root is the same" if changes.old.root_hash == release.root_hash else ""
        lines.append(_field("packages", f"{changes.packages.summary()}{same}"))
        named = changes.packages.lines()
        lines += [_field("", line) for line in named[:_CHANGES]]
        if len(named) > _CHANGES:
            lines.append(_field("", f"… and {len(named) - _CHANGES} more: `--json` lists all"))
        for role in _PARTS:
            if role in changes.sizes:
                lines.append(_field(role, format_growth(changes.sizes[role])))
    lines.append(_field("download", f"{format_size(release.download_size)} at most"))
    lines.append(_field("rollout", waves_text(promotion.rollout.waves)))
    return "\n".join(lines)


def _field(label: str, value: str) -> str:
    return f"  {label:<{_LABEL}}{value}"
