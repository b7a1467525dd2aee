"""``recast gc``: remove from the store what nothing refers to."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.terminal import colour, duration, fitting_table, is_terminal, printable
from pipeline.clock import iso
from pipeline.files import format_size

if TYPE_CHECKING:
    from pipeline.channels.gc import Collected, Waste

_MANY = 200  # lines; JSON has them all
_DAY = 86400.0


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what goes and what stays as JSON.")
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove from the store what nothing refers to.

    What stays: every release that a channel holds, that its machines may still run, that it can
    go back to (`retention.keep` of images/channels.yaml), or that is proposed; and whatever is
    younger than `retention.grace`. The history of channels stays whole. What is unclear stops it:
    nothing is removed while something that stays cannot be read.

    It may run at any time, beside others who publish and promote, and asks nothing. It is about
    the store that releases are published to; what was built on this machine, in
    artifacts/images and artifacts/cache, is not touched.

    \b
    Example:
      recast gc --dry-run
      recast gc
    """
    from pipeline.channels.gc import collect
    from pipeline.channels.look import look

    context = Context.find()
    client, repository = context.trust, context.repository
    if is_terminal(sys.stderr) and not as_json:
        click.echo(printable(f"Reading {context.store.url} …", sys.stderr), err=True)
    found = collect(
        context.store,
        lambda: look(client, repository),
        context.channels.retention,
        dry_run=dry_run,
    )
    if as_json:
        click.echo(json.dumps(_data(found, context.store.url, dry_run), indent=2))
        return
    click.echo(printable(_text(found, dry_run)))
    for notice in found.notices:
        click.echo(printable(f"{colour('note:', 'yellow')} {notice}", sys.stderr), err=True)


def _data(found: Collected, url: str, dry_run: bool) -> dict[str, object]:
    return {
        "store": url,
        "now": iso(found.now),
        "dry_run": dry_run,
        "removed": [
            {
                "key": each.key,
                "kind": each.kind,
                "size": each.size,
                "reason": each.reason,
                "modified": iso(each.modified),
                "age": round((found.now - each.modified).total_seconds()),
            }
            for each in found.removed
        ],
        "removed_bytes": found.removed_bytes,
        "spared": [each.key for each in found.spared],
        "kept": [
            {"kind": kind, "reason": reason, "count": count}
            for (kind, reason), count in sorted(found.kept.items())
        ],
        "kept_bytes": found.kept_bytes,
        "repaired": found.repaired,
        "left_over": found.left_over,
        "notices": found.notices,
    }


def _text(found: Collected, dry_run: bool) -> str:
    lines = []
    if found.removed:
        kinds = list(dict.fromkeys(each.kind for each in found.removed))
        removed = sorted(found.removed, key=lambda each: (kinds.index(each.kind), -each.size))
        rows = [_row(each, found.now) for each in removed[:_MANY]]
        headers = ["KIND", "SIZE", "AGE", "WHAT", "WHY"]
        lines += [fitting_table(rows, headers, ["AGE", "WHY", "SIZE"])]
        if len(removed) > _MANY:
            rest = removed[_MANY:]
            size = format_size(sum(each.size for each in rest))
            lines.append(f"… and {len(rest)} more, {size} (`--json` lists them)")
        lines.append("")
    goes = "Would remove" if dry_run else "Removed"
    if found.removed:
        counts = Counter(each.kind for each in found.removed)
        words = ", ".join(_counted(count, kind) for kind, count in counts.items())
        lines.append(f"{colour(goes, 'yellow')} {words}: {format_size(found.removed_bytes)}.")
    else:
        lines.append("There is nothing to remove.")
    for kind in ("release", "object"):
        reasons = [(why, count) for (k, why), count in sorted(found.kept.items()) if k == kind]
        if reasons:
            total = sum(count for _, count in reasons)
            why = ", ".join(f"{count} {reason}" for reason, count in reasons)
            lines.append(f"{_counted(total, kind)} {'stays' if total == 1 else 'stay'}: {why}.")
    if found.kept_bytes:
        lines.append(f"Together they have {format_size(found.kept_bytes)}.")
    if found.spared:
        lines.append(f"Came into use meanwhile, and left alone: {len(found.spared)}.")
    if found.repaired:
        lines.append(f"Written again, for a channel holds it: {', '.join(found.repaired)}.")
    if found.left_over:
        lines.append(f"{_counted(found.left_over, 'cut upload')} cleared away.")
    return "\n".join(lines)


def _row(waste: Waste, now: datetime) -> dict[str, str]:
    return {
        "KIND": waste.kind,
        "SIZE": format_size(waste.size),
        "AGE": _age((now - waste.modified).total_seconds()),
        "WHAT": _name(waste),
        "WHY": waste.reason,
    }


def _name(waste: Waste) -> str:
    if waste.kind != "release":
        return waste.key
    image, _, version = waste.key.removeprefix("releases/").partition("/")
    return f"{image}@{version.removesuffix('.json')}"


def _age(seconds: float) -> str:
    return f"{seconds // _DAY:.0f}d" if seconds >= 2 * _DAY else duration(max(seconds, 0.0))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
