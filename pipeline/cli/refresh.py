"""``recast refresh``: signs anew what expires soon; made for cron."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.terminal import printable
from pipeline.clock import iso, now
from pipeline.errors import TrustError, UsageError

if TYPE_CHECKING:
    from pipeline.models.channel import Expiry
    from pipeline.trust.state import State

_DUE = 0.5  # share of its life below which what is signed online must have been renewed


@click.command()
@click.option(
    "--within",
    metavar="TIME",
    help="Renew what expires within this time, such as 30d; by default what is past half of its "
    "life (channels, targets and root: three quarters).",
)
@click.option(
    "--propose",
    is_flag=True,
    help="Where your signatures are too few, leave a proposal in the store for others.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def refresh(within: str | None, propose: bool, as_json: bool) -> None:
    """Sign again what expires soon, and publish what waits for the online key.

    Made for cron: it may run at any time, twice at once, and does nothing when nothing is due. It
    fails only when something that machines need now could not be signed or published.

    \b
    Example:
      recast refresh
      recast refresh --within 60d --propose
    """
    context = Context.find()
    done = context.repository.refresh(within=_seconds(within), propose=propose)
    behind = list(_behind(context.repository.load(), context.channels.expiry, now()))
    if as_json:
        click.echo(json.dumps({"done": done, "behind": behind}, indent=2))
    else:
        for sentence in done:
            click.echo(printable(sentence))
    if behind:
        raise TrustError(
            f"what machines need of {context.store.url} is not signed: {'; '.join(behind)}",
            hint="Run `recast refresh` where the keys are that are named above.",
        )


def _seconds(text: str | None) -> float | None:
    from pipeline.models.fields import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--within: {error}") from error


def _behind(state: State, expiry: Expiry, moment: datetime) -> Iterator[str]:
    """What should have been done and is not, in words."""
    online = (
        ("timestamp", state.timestamp.signed.expires, expiry.timestamp),
        ("snapshot", state.snapshot.signed.expires, expiry.snapshot),
    )
    for role, expires, life in online:
        if expires <= moment:
            yield f"{role} ran out at {iso(expires)}"
        elif expires - moment < timedelta(seconds=life) * _DUE:
            yield f"{role} runs out at {iso(expires)}"
    if state.stale_online:
        yield "timestamp and snapshot lack the signature of the new online key"
    for role in state.unpublished:
        yield f"{role} waits for the online key"
    ends = {role: loaded.signed.expires for role, loaded in state.channels.items()}
    ends |= {"root": state.root.signed.expires, "targets": state.targets.signed.expires}
    for role, expires in ends.items():
        if expires <= moment:
            yield f"{role} ran out at {iso(expires)}"
    for role in state.broken:
        yield f"{role} is refused"
