"""``recast revoke``: make every machine refuse a version."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.outcomes import outcome_data, outcome_text, print_json, tell_notices
from pipeline.cli.terminal import colour, printable
from pipeline.errors import TrustError, UsageError

if TYPE_CHECKING:
    from pipeline.channels.desk import Desk
    from pipeline.channels.revoking import Revoked


@click.command()
@click.argument("release", metavar="IMAGE@VERSION")
@click.option("--reason", required=True, help="Why; machines and people are told.")
@click.option("--channel", "channels", multiple=True, help="Only in this channel; repeatable.")
@click.option(
    "--propose", is_flag=True, help="Leave it for others to sign where your keys are not enough."
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def revoke(
    release: str, reason: str, channels: tuple[str, ...], propose: bool, as_json: bool
) -> None:
    """Make every machine refuse a version, in all channels.

    No channel takes it any more, and no machine installs it or anything with the same root.
    A channel that holds it goes on holding it until it is rolled back: the command for that is
    printed. Nothing is changed before it is sure that your keys reach every channel. Without
    VERSION the newest published release is meant.

    \b
    Example:
      recast revoke edge-web@20260301.120000.g0123456789ab --reason "CVE-2026-1234"
    """
    from pipeline.channels.revoking import revoke as carry_out

    context = Context.find()
    desk = context.desk
    for name in channels:
        desk.definition(name)
    image, version, root_hash = _find(context, desk, release)
    done = carry_out(desk, image, version, root_hash, reason, channels=channels, propose=propose)
    if as_json:
        print_json(_as_data(done))
    else:
        click.echo(printable(_as_text(done), sys.stdout))
    for outcome in done.outcomes.values():
        tell_notices(outcome)


def _find(context: Context, desk: Desk, words: str) -> tuple[str, str, str]:
    """Image, version and root hash of what *words* mean, be it published, held or only built.

    Raises:
        UsageError: there is no such release anywhere.
    """
    from pipeline import releases
    from pipeline.channels.choose import choose
    from pipeline.channels.revoking import find_root_hash

    image, version = releases.split(words)
    try:
        found = choose(desk, words, context.known_images())
        return image, found.version, found.root_hash
    except (UsageError, TrustError) as error:
        # Its description may be gone or damaged: that is no reason to let machines install it.
        root_hash = find_root_hash(desk.views_that_are(), image, version) if version else None
        local = context.releases.find(image, version) if version and root_hash is None else None
        if local is not None:
            root_hash = local.release.root_hash
        if root_hash is None:
            raise error
        return image, version, root_hash


def _as_data(done: Revoked) -> dict[str, object]:
    return {
        "image": done.image,
        "version": done.revocation.version,
        "root_hash": done.revocation.root_hash,
        "reason": done.revocation.reason,
        "channels": {name: outcome_data(outcome) for name, outcome in done.outcomes.items()},
        "held_by": [{"channel": each.channel, "back_to": each.back} for each in done.holders],
    }


def _as_text(done: Revoked) -> str:
    what = f"{done.image} {done.revocation.version}"
    lines = []
    for channel, outcome in done.outcomes.items():
        if outcome is None:
            lines.append(f"{channel} refuses {what} already")
        else:
            lines.append(outcome_text(outcome, f"{channel} refuses {what}"))
    for holder in done.holders:
        lines += ["", f"{colour(holder.channel, '', bold=True)} still holds it:"]
        if holder.back is not None:
            lines.append(
                f"  recast rollback {done.image} --channel {holder.channel}   # to {holder.back}"
            )
        else:
            lines.append(
                "  it has held nothing else that it could go back to; the next promotion replaces "
                "it"
            )
    return "\n".join(lines)
