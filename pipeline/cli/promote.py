"""``recast promote``: move a release into a channel, past every gate."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.outcomes import print_json, tell, tell_notices
from pipeline.cli.terminal import duration, is_terminal, printable
from pipeline.clock import iso
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.channels.desk import Desk
    from pipeline.channels.promote import Promotion

_TICK_SECONDS = 1.0  # between two looks at the clock
_QUIET_SECONDS = 600.0  # between two lines where nobody watches


@click.command()
@click.argument("release", metavar="IMAGE[@VERSION]")
@click.option("--to", "channel", required=True, metavar="CHANNEL", help="The channel to enter.")
@click.option("--reason", default="", help="Why; it is signed, and stands in the channel's log.")
@click.option("--dry-run", is_flag=True, help="Show every gate and what would change; no more.")
@click.option(
    "--propose", is_flag=True, help="Leave it for others to sign where your keys are not enough."
)
@click.option("--waves", metavar="WAVES", help='How it spreads, such as "10%:1h,50%:4h,100%".')
@click.option("--now", "now_all", is_flag=True, help="To all machines at once: an emergency.")
@click.option("--wait", is_flag=True, help="Wait for what time alone opens: a soak.")
@click.option("--json", "as_json", is_flag=True, help="Print gates, changes and outcome as JSON.")
def promote(
    release: str,
    channel: str,
    reason: str,
    dry_run: bool,
    propose: bool,
    waves: str | None,
    now_all: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Move a release into the next channel.

    Nothing is built: the digest that was tested is signed into the channel, if every gate of
    images/channels.yaml is open. Without VERSION it is the release that the channel before
    holds (for the first channel, the newest that is published). A refusal ends with exit code
    10, and says what is missing and, where that is time alone, when it opens.

    For each release that machines of the channel run now it is told how many do, by what they
    report, and what they download from there: bytes by way, and the time that the cheapest takes
    over a link of 256 kbit/s.

    \b
    Example:
      recast promote edge-web --to candidate --dry-run
      recast promote edge-web --to stable --reason "Soaked well" --wait
      recast promote edge-web@20260301 --to stable --waves "1%:2h,100%"
    """
    if waves and now_all:
        raise UsageError("--waves and --now exclude each other: --now is one wave of 100%")
    context = Context.find()
    desk = context.desk
    plan = _planner(context, release, channel, reason, waves, now_all, propose)
    planned = plan()
    if wait:
        planned = _wait(desk, planned, plan)
    carry_out(desk, planned, dry_run=dry_run, as_json=as_json)


def carry_out(desk: Desk, planned: Promotion, *, dry_run: bool, as_json: bool) -> None:
    """Show what was decided, do it, and tell what came of it.

    Raises:
        GatesError: gates say no; they were shown.
        RecastError: it could not be done.
    """
    from pipeline.channels import promote as channels
    from pipeline.channels.starts import Fleet, ask_machines
    from pipeline.cli.promotions import promotion_data, promotion_text

    refused = not planned.verdict.allowed and not planned.already
    fleet = Fleet(planned.starts)
    if not planned.already:
        fleet = ask_machines(desk, planned.channel, planned.release, planned.starts)
    if not as_json:
        click.echo(promotion_text(planned, fleet))
    if refused or dry_run or planned.already:
        if as_json:
            print_json(promotion_data(planned, fleet, desk.clock()))
        elif dry_run and not refused and not planned.already:
            click.echo("\nThis was a dry run: nothing has changed.")
        if refused:
            raise channels.GatesError(planned)
        return
    done = channels.carry_out(desk, planned)
    if as_json:
        print_json(promotion_data(done, fleet, desk.clock()))
        tell_notices(done.outcome)
        return
    click.echo()
    tell(done.outcome, f"{done.channel} holds {done.release.image} {done.release.version}", "")


def _planner(
    context: Context,
    words: str,
    channel: str,
    reason: str,
    waves: str | None,
    now_all: bool,
    propose: bool,
) -> Callable[[], Promotion]:
    """What decides, as often as it is asked to, about the release that *words* mean now."""
    from pipeline.channels.choose import choose_for
    from pipeline.channels.pointers import parse_waves
    from pipeline.channels.promote import plan_promotion

    desk = context.desk
    desk.definition(channel)
    spread = parse_waves(waves) if waves else None
    chosen = choose_for(desk, words, channel, context.known_images())

    def plan() -> Promotion:
        return plan_promotion(
            desk,
            chosen,
            channel,
            reason=reason,
            waves=spread,
            now_all=now_all,
            propose=propose,
        )

    return plan


def _wait(desk: Desk, planned: Promotion, plan: Callable[[], Promotion]) -> Promotion:
    """Decide anew whenever time has opened what it can open, until nothing is left of that."""
    while planned.verdict.opens is not None and not planned.already:
        names = ", ".join(gate.name for gate in planned.verdict.refusals)
        _wait_until(planned.verdict.opens, desk.clock, f"waiting for {names}")
        planned = plan()
    return planned


def _wait_until(moment: datetime, clock: Callable[[], datetime], what: str) -> None:
    watched = is_terminal(sys.stderr)
    told: float | None = None
    try:
        while (left := (moment - clock()).total_seconds()) > 0:
            if watched:
                line = f"\r\x1b[K{what}: {duration(left)} left, until {iso(moment)}"
                click.echo(printable(line, sys.stderr), err=True, nl=False)
            elif told is None or told - left >= _QUIET_SECONDS:
                click.echo(f"{what}: {duration(left)} left, until {iso(moment)}", err=True)
                told = left
            time.sleep(min(left, _TICK_SECONDS))
    finally:
        if watched:
            click.echo("\r\x1b[K", err=True, nl=False)
