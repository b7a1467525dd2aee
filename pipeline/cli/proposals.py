"""``recast proposals``: the changes that wait for signatures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.images import ago
from pipeline.cli.outcomes import print_json, waves_text
from pipeline.cli.terminal import colour, printable
from pipeline.clock import iso
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.models.pointer import Pointer
    from pipeline.trust.views import Proposal

_LABEL = 12  # columns


@click.command()
@click.argument("proposal", required=False)
@click.option("--withdraw", is_flag=True, help="Remove PROPOSAL, and what was signed of it.")
@click.option("--json", "as_json", is_flag=True, help="Print the proposals as JSON.")
def proposals(proposal: str | None, withdraw: bool, as_json: bool) -> None:
    """List the changes that wait for signatures, the oldest first.

    What a change would do is read from the very bytes that are to be signed. PROPOSAL, or the
    beginning of it, shows that one alone.

    \b
    Example:
      recast proposals
      recast proposals 3f2a --withdraw
    """
    if withdraw and not proposal:
        raise UsageError("--withdraw needs the id of a proposal", hint="`recast proposals` has it.")
    desk = Context.find().desk
    if withdraw and proposal:
        gone = desk.repository.withdraw(proposal)
        if as_json:
            print_json(proposal_data(gone))
        else:
            click.echo(f"withdrawn: {gone.id} ({gone.role})")
        return
    found = choose(desk.repository.proposals(), proposal or "")
    if as_json:
        print_json([proposal_data(each) for each in found])
    elif found:
        now = desk.clock()
        texts = [proposal_text(each, now) for each in found]
        click.echo(printable("\n\n".join(texts), sys.stdout))
    else:
        click.echo("Nothing waits for signatures.")


def choose(found: Sequence[Proposal], beginning: str) -> list[Proposal]:
    """Those whose id begins so.

    Raises:
        UsageError: there is none.
    """
    chosen = [each for each in found if each.id.startswith(beginning)]
    if beginning and not chosen:
        raise UsageError(
            f"there is no proposal `{beginning}`", hint="`recast proposals` lists them."
        )
    return chosen


def proposal_text(proposal: Proposal, now: datetime) -> str:
    """A proposal, for a person who is to sign it."""
    event = proposal.event
    words = [event.action, event.image, event.version] if event is not None else ["keys"]
    what = " ".join(word for word in words if word)
    lines = [colour(f"{proposal.id}  {proposal.role}: {what}", "", bold=True)]
    lines.append(_field("proposed", f"{iso(proposal.proposed)} ({ago(proposal.proposed, now)})"))
    if event is not None and event.reason:
        lines.append(_field("reason", event.reason))
    for image, pointer in proposal.new.items():
        lines += [_field("", text) for text in _pointer_changes(proposal.old.get(image), pointer)]
    before, after = proposal.frozen
    if before != after:
        lines.append(_field("", f"frozen: {after}" if after else "thawed"))
    lines += [_field("", change) for change in proposal.changes]
    if event is not None:
        lines += [_field("gates" if not n else "", gate) for n, gate in enumerate(event.gates)]
    lines.append(_field("signed by", ", ".join(proposal.signed_by) or "nobody yet"))
    if proposal.stale:
        lines.append(_field("", f"{colour('stale', 'red')}: {proposal.stale}"))
    else:
        holders = ", ".join(proposal.keyholders)
        lines.append(_field("needs", f"{proposal.missing} more of {holders}"))
    lines += [_field("note", notice) for notice in proposal.notices]
    return "\n".join(lines)


def proposal_data(proposal: Proposal) -> dict[str, object]:
    """A proposal as JSON-able data."""
    event = proposal.event
    return {
        "id": proposal.id,
        "role": proposal.role,
        "base": proposal.base,
        "version": proposal.version,
        "proposed": iso(proposal.proposed),
        "event": event.model_dump(mode="json") if event else None,
        "old": {
            image: pointer.model_dump(mode="json") if pointer else None
            for image, pointer in proposal.old.items()
        },
        "new": {image: p.model_dump(mode="json") for image, p in proposal.new.items()},
        "frozen": {"before": proposal.frozen[0], "after": proposal.frozen[1]},
        "changes": list(proposal.changes),
        "signed_by": list(proposal.signed_by),
        "missing": proposal.missing,
        "keyholders": list(proposal.keyholders),
        "stale": proposal.stale,
        "notices": list(proposal.notices),
    }


def _pointer_changes(old: Pointer | None, new: Pointer) -> list[str]:
    """What sites of the channel would be told of an image."""
    lines = []
    before = old.release.version if old is not None and old.release is not None else "nothing"
    after = new.release.version if new.release is not None else "nothing"
    if before != after:
        lines.append(f"{new.image}: {before} → {after}")
    known = old.revoked if old is not None else ()
    lines += [f"{new.image}: refuse {r.version}: {r.reason}" for r in new.revoked if r not in known]
    dropped = [r for r in known if r not in new.revoked]
    lines += [f"{new.image}: refuse {r.version} no longer" for r in dropped]
    rollout = new.rollout
    if rollout is not None and (old is None or old.rollout != rollout):
        waves = waves_text(rollout.waves)
        lines.append(f"{new.image}: rollout {rollout.state}, wave {rollout.wave + 1}: {waves}")
    return lines


def _field(label: str, value: str) -> str:
    return f"  {label:<{_LABEL}}{value}".rstrip()
