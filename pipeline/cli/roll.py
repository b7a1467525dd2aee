"""``recast roll``: look at a rollout, and steer it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.outcomes import (
    outcome_data,
    outcome_text,
    print_json,
    rollout_data,
    rollout_text,
    tell_notices,
)
from pipeline.cli.terminal import colour, duration, printable, table
from pipeline.clock import iso

if TYPE_CHECKING:
    from pipeline.channels.steering import Steer
    from pipeline.models.pointer import Pointer, Rollout
    from pipeline.trust.views import Outcome

_Command = Callable[..., None]


@click.group()
def roll() -> None:
    """Look at how a release spreads in a channel, and steer it.

    Machines count on by themselves: each wave opens when the soak of the one before is over.
    What is changed here is signed, and every machine follows it at its next check.

    \b
    Example:
      recast roll status edge-web --channel stable
      recast roll halt edge-web --channel stable --reason "Sites lose their uplink"
    """


@roll.command()
@click.argument("image")
@click.option("--channel", required=True, help="The channel.")
@click.option("--json", "as_json", is_flag=True, help="Print the rollout as JSON.")
def status(image: str, channel: str, as_json: bool) -> None:
    """Show the waves of a rollout, and which are open.

    \b
    Example:
      recast roll status edge-web --channel stable
    """
    from pipeline.channels.desk import held_pointer

    desk = Context.find().desk
    pointer = held_pointer(desk.view(channel), image)
    _show(pointer, None, desk.clock(), as_json)


def _steering(how: Steer, text: str) -> _Command:
    """A command that steers a rollout; *text* is its help."""

    def steer(image: str, channel: str, reason: str, propose: bool, as_json: bool) -> None:
        from pipeline.channels import steering

        desk = Context.find().desk
        done = steering.steer(desk, image, channel, how, reason=reason, propose=propose)
        _show(done.pointer, done.outcome, desk.clock(), as_json)

    steer.__doc__ = (
        f"{text}\n\n    \b\n    Example:\n      recast roll {how} edge-web --channel stable\n"
    )
    command: _Command = steer
    for add in (
        click.option("--json", "as_json", is_flag=True, help="Print the rollout as JSON."),
        click.option("--propose", is_flag=True, help="Leave it for others to sign if need be."),
        click.option("--reason", default="", help="Why; it stands in the channel's log."),
        click.option("--channel", required=True, help="The channel."),
        click.argument("image"),
    ):
        command = add(command)
    return roll.command(name=how)(command)


advance = _steering("advance", "Open the next wave now, without waiting for the soak.")
hold = _steering("hold", "Let open waves go on, and open no further one.")
resume = _steering("resume", "Go on at the wave where it was held or halted; its soak begins anew.")
halt = _steering("halt", "Let no machine start that has not begun, whichever wave it is in.")


def _show(pointer: Pointer, outcome: Outcome | None, now: datetime, as_json: bool) -> None:
    release, rollout = pointer.release, pointer.rollout
    assert release is not None  # whoever asks has made sure
    assert rollout is not None
    if as_json:
        data = {
            "channel": pointer.channel,
            "image": pointer.image,
            "version": release.version,
            "frozen": pointer.frozen or None,
            "rollout": rollout_data(rollout, now),
            "outcome": outcome_data(outcome),
        }
        print_json(data)
    else:
        lines = [
            f"{pointer.image} {release.version} in {pointer.channel}: {rollout_text(rollout, now)}"
        ]
        if pointer.frozen:
            lines.append(f"{colour('frozen', 'red')}: {pointer.frozen}")
        lines += ["", _waves(rollout, now, frozen=bool(pointer.frozen))]
        if outcome is not None:
            done = f"{pointer.channel} says so"
            lines += ["", outcome_text(outcome, done)]
        click.echo(printable("\n".join(lines), sys.stdout))
    tell_notices(outcome)


def _waves(rollout: Rollout, now: datetime, *, frozen: bool) -> str:
    from pipeline.models.fields import format_duration
    from pipeline.policy.rollout import wave_at

    current = wave_at(rollout, now)
    last = len(rollout.waves) - 1
    rows = []
    for index, wave in enumerate(rollout.waves):
        soak = "" if index == last else format_duration(wave.soak)
        rows.append(
            (
                index + 1,
                f"{wave.share * 100:g}%",
                soak,
                _state(rollout, index, current, now, frozen),
            )
        )
    return table(rows, ("wave", "machines", "soak", "state"))


def _state(rollout: Rollout, wave: int, current: int, now: datetime, frozen: bool) -> str:
    """``open since …``, ``opens …, in 3h00m``, ``open``, ``closed``."""
    from pipeline.policy.rollout import opening

    opens = opening(rollout, wave)
    if wave <= current:
        if rollout.state == "halted":
            return colour("halted", "red")
        since = f" since {iso(opens)}" if opens is not None else ""
        return colour(f"open{since}", "green")
    if opens is None or frozen:
        return "closed"
    return f"opens {iso(opens)}, in {duration(max((opens - now).total_seconds(), 0.0))}"
