"""``recast thaw``: let a frozen channel move again."""

from __future__ import annotations

import click

from pipeline.cli.context import Context
from pipeline.cli.freeze import show


@click.command()
@click.argument("channel")
@click.option("--reason", default="", help="Why; it is signed, and stands in the channel's log.")
@click.option("--propose", is_flag=True, help="Leave it for others to sign if need be.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def thaw(channel: str, reason: str, propose: bool, as_json: bool) -> None:
    """Let a frozen channel move again.

    Rollouts go on at the wave where they stood, whose soak begins anew.

    \b
    Example:
      recast thaw stable --reason "It is Monday"
    """
    from pipeline.channels import steering

    done = steering.thaw(Context.find().desk, channel, reason=reason, propose=propose)
    show(done, as_json)
