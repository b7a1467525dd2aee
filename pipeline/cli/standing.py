"""What a store knows of a release: its evidence, where it stands, and its whole story."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from pipeline.cli.channel_log import about, entry_data, entry_line
from pipeline.cli.outcomes import rollout_data, rollout_text
from pipeline.cli.releases import held_by, revoked_in
from pipeline.cli.terminal import colour, duration, printable, visible_width
from pipeline.clock import iso
from pipeline.errors import RecastError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pipeline.channels.facts import Examined
    from pipeline.cli.context import Context
    from pipeline.models.pointer import Pointer, PublishedRelease
    from pipeline.trust.views import HistoryEntry

_LABEL = 16  # columns


@dataclass(frozen=True)
class Standing:
    """What a store knows of a release.

    Attributes:
        release: its description.
        evidence: each attestation, looked at.
        pointers: of the channels that hold it, by channel.
        revoked: the reason, by channel that refuses it.
        story: every change of a channel that was about it, each with the channel, newest first.
    """

    release: PublishedRelease
    evidence: tuple[Examined, ...]
    pointers: Mapping[str, Pointer]
    revoked: Mapping[str, str]
    story: tuple[tuple[str, HistoryEntry], ...]


def find_standing(context: Context, image: str, version: str) -> Standing | None:
    """What the store knows of a release; None without a store, or if it has not got it.

    A store that cannot be read or believed is told of on standard error: what is known here can
    be shown without.
    """
    try:
        if context.find_root() is None:
            return None
        release = context.published.find(image, version)
        return stand(context, release) if release is not None else None
    except RecastError as error:
        note = f"Note: the store is left out: {error.message}"
        click.echo(printable(note, sys.stderr), err=True)
        return None


def stand(context: Context, release: PublishedRelease) -> Standing:
    """What the store knows of a published release.

    Raises:
        RecastError: the store cannot be read, or not be believed.
    """
    from pipeline.channels.facts import look_at

    desk = context.desk
    views = desk.views_that_are()
    story = [
        (view.name, entry)
        for view in views
        for entry in desk.repository.history(view.name)
        if about(entry, release.image, release.version)
    ]
    return Standing(
        release=release,
        evidence=tuple(look_at(desk, release)),
        pointers={
            view.name: view.pointers[release.image]
            for view in views
            if view.name in held_by(views, release)
        },
        revoked=revoked_in(views, release),
        story=tuple(sorted(story, key=lambda each: each[1].event.at, reverse=True)),
    )


def standing_data(standing: Standing, now: datetime) -> dict[str, object]:
    """A standing as JSON-able data."""
    return {
        "evidence": [
            {
                "kind": each.evidence.kind,
                "provider": each.evidence.provider,
                "digest": each.evidence.stored.digest,
                "verified": each.verified is not None,
                "signers": list(each.verified.signers) if each.verified is not None else [],
                "problem": each.problem,
            }
            for each in standing.evidence
        ],
        "channels": {
            name: {
                "since": iso(pointer.since) if pointer.since else None,
                "rollout": rollout_data(pointer.rollout, now) if pointer.rollout else None,
                "frozen": bool(pointer.frozen),
            }
            for name, pointer in standing.pointers.items()
        },
        "revoked": dict(standing.revoked),
        "download_size": standing.release.download_size,
        "story": [entry_data(channel, entry) for channel, entry in standing.story],
    }


def standing_sections(standing: Standing, now: datetime) -> list[str]:
    """Evidence, where it stands, and its story; each a section for a person."""
    return [_evidence(standing), _where(standing, now), _story(standing, now)]


def _evidence(standing: Standing) -> str:
    lines = [colour("evidence", "", bold=True)]
    for each in standing.evidence:
        kind = each.evidence.kind
        label = f"tests on {each.evidence.provider}" if kind == "test" else kind
        if each.verified is None:
            lines.append(_field(label, f"{colour('✗', 'red')} not believed: {each.problem}"))
        else:
            who = ", ".join(each.verified.signers)
            said = _said(each)
            lines.append(_field(label, f"{colour('✓', 'green')} signed by {who}{said}"))
    if len(lines) == 1:
        lines.append("  none: no gate that asks for any lets it pass")
    return "\n".join(lines)


def _said(each: Examined) -> str:
    from pipeline.trust.attestations import VerifiedProvenance, VerifiedTest

    found = each.verified
    if isinstance(found, VerifiedTest):
        count = f"{found.tests} tests" if found.tests != 1 else "1 test"
        word = colour("passed", "green") if found.passed else colour("failed", "red")
        return f": {word}, {count} in {duration(found.seconds)}, {iso(found.when)}"
    if isinstance(found, VerifiedProvenance):
        run = f" by run {found.run}" if found.run else ""
        many = len(found.materials)
        return f": built{run} of {many} material{'' if many == 1 else 's'}"
    return ""


def _where(standing: Standing, now: datetime) -> str:
    lines = [colour("channels", "", bold=True)]
    for name, pointer in standing.pointers.items():
        since = f"since {iso(pointer.since)}" if pointer.since else ""
        rollout = f", {rollout_text(pointer.rollout, now)}" if pointer.rollout else ""
        frozen = f", {colour('frozen', 'red')}" if pointer.frozen else ""
        lines.append(_field(name, f"{since}{rollout}{frozen}"))
    if not standing.pointers:
        lines.append("  none holds it now")
    for reason in dict.fromkeys(standing.revoked.values()):
        names = ", ".join(name for name, why in standing.revoked.items() if why == reason)
        lines.append(_field(colour("revoked", "red"), f"in {names}: {reason}"))
    return "\n".join(lines)


def _story(standing: Standing, now: datetime) -> str:
    if not standing.story:
        return ""
    lines = [colour("story", "", bold=True)]
    for channel, entry in standing.story:
        lines += [f"  {line}" for line in entry_line(entry, now, channel).split("\n")]
    return "\n".join(lines)


def _field(label: str, value: str) -> str:
    return f"  {label}{' ' * max(_LABEL - visible_width(label), 1)}{value}"
