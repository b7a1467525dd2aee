"""``recast freeze``: stop everything in a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.outcomes import outcome_data, print_json, tell, tell_notices

if TYPE_CHECKING:
    from pipeline.channels.steering import Frozen


@click.command()
@click.argument("channel")
@click.option("--reason", default="", help="Why; told wherever it stops something.")
@click.option("--propose", is_flag=True, help="Leave it for others to sign if need be.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def freeze(channel: str, reason: str, propose: bool, as_json: bool) -> None:
    """Stop everything in a channel.

    Promotions, rollbacks and rollouts are refused, and machines that have not begun to install
    stay as they are, until `recast thaw`. Revoking stays possible.

    \b
    Example:
      recast freeze stable --reason "No changes before Monday"
    """
    from pipeline.channels import steering

    done = steering.freeze(Context.find().desk, channel, reason=reason, propose=propose)
    show(done, as_json)


def show(done: Frozen, as_json: bool) -> None:
    """Tell what came of freezing or thawing a channel."""
    if as_json:
        data = {"channel": done.channel, "frozen": done.reason or None}
        print_json({**data, "outcome": outcome_data(done.outcome)})
        tell_notices(done.outcome)
        return
    state = f"is frozen: {done.reason}" if done.reason else "is thawed"
    already = "is frozen already, for just that" if done.reason else "is not frozen"
    tell(done.outcome, f"{done.channel} {state}", f"{done.channel} {already}")
