"""``recast channels``: the channels, and what they hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.images import ago
from pipeline.cli.outcomes import print_json, rollout_data, rollout_text, waves_text
from pipeline.cli.terminal import colour, fitting_table, printable, table
from pipeline.clock import iso
from pipeline.files import format_size
from pipeline.models.fields import format_duration

if TYPE_CHECKING:
    from pipeline.channels.desk import Desk
    from pipeline.models.channel import ChannelDefinition
    from pipeline.models.pointer import Pointer
    from pipeline.trust.views import ChannelView

_HEADERS = ("channel", "image", "version", "root hash", "since", "rollout", "marks")
_LESS = ("since", "root hash")  # what a narrow terminal does without, in this order
_SHORT_HASH = 12
_LABEL = 14  # columns


@click.command()
@click.argument("channel", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the channels as JSON.")
def channels(channel: str | None, as_json: bool) -> None:
    """List the channels and what they hold.

    With CHANNEL everything about that one: its gates and waves, who signs it, what it holds and
    has held, and what it refuses.

    \b
    Example:
      recast channels
      recast channels stable
    """
    desk = Context.find().desk
    views = [desk.view(channel)] if channel else desk.views_that_are()
    now = desk.clock()
    if as_json:
        data = [channel_data(desk.definition(view.name), view, now) for view in views]
        print_json(data[0] if channel else data)
    elif channel:
        click.echo(printable(_detail(desk, views[0], now), sys.stdout))
    else:
        click.echo(printable(_as_table(desk, views, now), sys.stdout))
    notices = desk.repository.load().notices
    for notice in notices:
        click.echo(printable(f"Note: {notice}", sys.stderr), err=True)


def channel_data(
    definition: ChannelDefinition, view: ChannelView, now: datetime
) -> dict[str, object]:
    """A channel as JSON-able data."""
    return {
        "channel": view.name,
        "description": definition.description,
        "version": view.version,
        "frozen": view.frozen or None,
        "signatures": view.threshold,
        "keyholders": list(view.keyholders),
        "ours": list(view.ours),
        "gates": definition.gates.model_dump(mode="json"),
        "images": {
            image: _pointer_data(view.pointers[image], now) for image in sorted(view.pointers)
        },
    }


def marks(pointer: Pointer) -> list[str]:
    """``frozen``, ``revoked``: what a person must not overlook."""
    release = pointer.release
    words = ["frozen"] if pointer.frozen else []
    if release is not None and pointer.revocation(release.version, release.root_hash):
        words.append("revoked")
    return words


def _pointer_data(pointer: Pointer, now: datetime) -> dict[str, object]:
    release = pointer.release
    return {
        "version": release.version if release else None,
        "root_hash": release.root_hash if release else None,
        "commit": release.commit if release else None,
        "since": iso(pointer.since) if pointer.since else None,
        "previous": pointer.previous.version if pointer.previous else None,
        "rollout": rollout_data(pointer.rollout, now) if pointer.rollout else None,
        "frozen": bool(pointer.frozen),
        "revoked": "revoked" in marks(pointer),
        "history": [each.model_dump(mode="json") for each in pointer.history],
        "revocations": [each.model_dump(mode="json") for each in pointer.revoked],
    }


def _as_table(desk: Desk, views: Sequence[ChannelView], now: datetime) -> str:
    rows: list[dict[str, str]] = []
    for view in views:
        held = [p for _, p in sorted(view.pointers.items()) if p.release is not None]
        rows += [_row(pointer, now) for pointer in held]
        if not held:
            frozen = colour("frozen", "red") if view.frozen else ""
            rows.append({"channel": view.name, "image": "nothing yet", "marks": frozen})
    there = {view.name for view in views}
    missing = [name for name in desk.channels.names if name not in there]
    rows += [{"channel": name, "image": "no keys yet"} for name in missing]
    return fitting_table(rows, _HEADERS, _LESS)


def _row(pointer: Pointer, now: datetime) -> dict[str, str]:
    release = pointer.release
    assert release is not None  # whoever asks has made sure
    return {
        "channel": pointer.channel,
        "image": pointer.image,
        "version": release.version,
        "root hash": release.root_hash[:_SHORT_HASH],
        "since": ago(pointer.since, now) if pointer.since else "",
        "rollout": rollout_text(pointer.rollout, now) if pointer.rollout else "",
        "marks": " ".join(colour(word, "red") for word in marks(pointer)),
    }


def _detail(desk: Desk, view: ChannelView, now: datetime) -> str:
    definition = desk.definition(view.name)
    about = f": {definition.description}" if definition.description else ""
    lines = [f"{colour(view.name, '', bold=True)}{about}"]
    fields = [
        ("frozen", colour(view.frozen, "red") if view.frozen else ""),
        ("signatures", f"{view.threshold} of {', '.join(view.keyholders)}"),
        ("your keys", ", ".join(view.ours) or "none of them"),
        ("gates", _gates(definition)),
        ("rollout", waves_text(definition.waves)),
        ("version", str(view.version)),
    ]
    if view.last is not None:
        event = view.last.event
        what = " ".join(word for word in (event.action, event.image, event.version) if word)
        who = ", ".join(view.last.signers)
        fields.append(("last change", f"{what}, {ago(event.at, now)}, signed by {who}"))
        fields.append(("good until", iso(view.last.expires)))
    lines += [f"  {label:<{_LABEL}}{value}" for label, value in fields if value]
    for image in sorted(view.pointers):
        lines += ["", *_image(view.pointers[image], now)]
    return "\n".join(lines)


def _gates(definition: ChannelDefinition) -> str:
    gates = definition.gates
    words = [f"tests on {name}" for name in gates.tests]
    if gates.soak:
        words.append(f"soak {format_duration(gates.soak)}")
    if gates.max_package_changes is not None:
        words.append(f"at most {gates.max_package_changes} package changes")
    if gates.max_growth is not None:
        words.append(f"at most {format_size(gates.max_growth)} more")
    if gates.wire_budget is not None:
        words.append(f"at most {format_size(gates.wire_budget)} to download")
    return ", ".join(words) or "those that every channel has"


def _image(pointer: Pointer, now: datetime) -> list[str]:
    release = pointer.release
    lines = [colour(pointer.image, "", bold=True)]
    if release is None:
        lines.append("  holds no release")
    else:
        word = " ".join(colour(mark, "red") for mark in marks(pointer))
        fields = [
            ("version", f"{release.version} {word}".rstrip()),
            ("root hash", release.root_hash),
            ("commit", release.commit),
            ("since", f"{iso(pointer.since)} ({ago(pointer.since, now)})" if pointer.since else ""),
            ("rollout", rollout_text(pointer.rollout, now) if pointer.rollout else ""),
            ("others run", pointer.previous.version if pointer.previous else ""),
        ]
        lines += [f"  {label:<{_LABEL}}{value}" for label, value in fields if value]
    if pointer.history:
        rows = [
            (
                f"  {each.version}",
                each.root_hash[:_SHORT_HASH],
                f"{iso(each.since)} to {iso(each.until)}",
                "revoked" if pointer.revocation(each.version, each.root_hash) else "",
            )
            for each in pointer.history
        ]
        lines.append(table(rows, ("  held before", "root hash", "time", "")))
    for each in pointer.revoked:
        lines.append(f"  refuses {each.version} since {iso(each.when)}: {each.reason}")
    return lines
