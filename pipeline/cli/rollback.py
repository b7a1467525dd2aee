"""``recast rollback``: move a channel back to an earlier release."""

from __future__ import annotations

import click

from pipeline.cli.context import Context


@click.command()
@click.argument("image")
@click.option("--channel", required=True, help="The channel that goes back.")
@click.option("--to", "version", metavar="VERSION", help="The release to go back to.")
@click.option("--reason", default="", help="Why; it is signed, and stands in the channel's log.")
@click.option("--dry-run", is_flag=True, help="Show every gate and what would change; no more.")
@click.option(
    "--propose", is_flag=True, help="Leave it for others to sign where your keys are not enough."
)
@click.option("--waves", metavar="WAVES", help="How it spreads; all at once if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print gates, changes and outcome as JSON.")
def rollback(
    image: str,
    channel: str,
    version: str | None,
    reason: str,
    dry_run: bool,
    propose: bool,
    waves: str | None,
    as_json: bool,
) -> None:
    """Move a channel back to an earlier release of an image.

    It goes to the newest that the channel has held before, is not newer than what it holds now,
    and is not revoked; or to VERSION. All machines go back at once, unless --waves is given:
    what is there does not work. What the release had to pass was asked when it came in.

    \b
    Example:
      recast rollback edge-web --channel stable --reason "Sites lose their uplink"
      recast rollback edge-web --channel stable --to 20260301
    """
    from pipeline.channels.pointers import parse_waves
    from pipeline.channels.promote import plan_rollback
    from pipeline.cli.promote import carry_out

    desk = Context.find().desk
    planned = plan_rollback(
        desk,
        image,
        channel,
        version,
        reason=reason,
        waves=parse_waves(waves) if waves else None,
        propose=propose,
    )
    carry_out(desk, planned, dry_run=dry_run, as_json=as_json)
