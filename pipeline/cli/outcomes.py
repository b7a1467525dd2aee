"""What came of a change of a channel, told the same way by every command that makes one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.cli.terminal import colour, printable
from pipeline.clock import iso
from pipeline.models.channel import Wave
from pipeline.models.fields import format_duration

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.models.pointer import Rollout
    from pipeline.trust.views import Outcome


def outcome_data(outcome: Outcome | None) -> dict[str, object] | None:
    """An outcome as JSON-able data."""
    if outcome is None:
        return None
    return asdict(outcome)


def outcome_text(outcome: Outcome, done: str) -> str:
    """An outcome in one or two lines.

    Args:
        outcome: what came of it.
        done: what is so now, if it is: ``stable holds edge-web 2026…``.
    """
    who = " and ".join(outcome.signed_by) or "nobody yet"
    if outcome.proposal is not None and outcome.version is None:
        more = "signature" if outcome.missing == 1 else "signatures"
        return (
            f"{colour('proposed', 'yellow')} as {outcome.proposal}, signed by {who}. "
            f"{outcome.missing} more {more} needed: `recast approve {outcome.proposal}`"
        )
    text = f"{colour(done, 'green')} (version {outcome.version}, signed by {who})"
    if not outcome.published:
        text += (
            "\nSites see it once the online key has signed: `recast refresh`, by whoever has it."
        )
    return text


def tell(outcome: Outcome | None, done: str, unchanged: str) -> None:
    """Print an outcome, and what a person should read besides."""
    click.echo(printable(outcome_text(outcome, done) if outcome is not None else unchanged))
    tell_notices(outcome)


def tell_notices(outcome: Outcome | None) -> None:
    """Print what a person should read besides an outcome; to standard error."""
    for notice in outcome.notices if outcome is not None else ():
        click.echo(printable(f"Note: {notice}", sys.stderr), err=True)


def print_json(data: object) -> None:
    """Print *data* as JSON, indented."""
    click.echo(json.dumps(data, indent=2))


def waves_text(waves: Sequence[Wave]) -> str:
    """``10% for 1h, 50% for 4h, 100%``; ``all at once``."""
    if len(waves) == 1:
        return "all at once"
    parts = [f"{wave.share * 100:g}% for {format_duration(wave.soak)}" for wave in waves[:-1]]
    return ", ".join([*parts, f"{waves[-1].share * 100:g}%"])


def rollout_text(rollout: Rollout, now: datetime) -> str:
    """``everywhere``, ``10%, wave 1 of 3``, ``held at 10%``, ``halted at 50%``."""
    from pipeline.policy.rollout import reached, wave_at

    share = f"{reached(rollout, now) * 100:g}%"
    if rollout.state != "rolling":
        word = colour(rollout.state, "red" if rollout.state == "halted" else "yellow")
        return f"{word} at {share}"
    wave, count = wave_at(rollout, now) + 1, len(rollout.waves)
    return "everywhere" if wave == count else f"{share}, wave {wave} of {count}"


def rollout_data(rollout: Rollout, now: datetime) -> dict[str, object]:
    """A rollout as JSON-able data."""
    from pipeline.policy.rollout import next_opening, opening, reached, wave_at

    following = next_opening(rollout, now)
    waves = []
    for index, wave in enumerate(rollout.waves):
        opens = opening(rollout, index)
        waves.append(
            {"share": wave.share, "soak_seconds": wave.soak, "opens": iso(opens) if opens else None}
        )
    return {
        "id": rollout.id,
        "state": rollout.state,
        "wave": wave_at(rollout, now),
        "share": reached(rollout, now),
        "next": iso(following) if following else None,
        "waves": waves,
    }
