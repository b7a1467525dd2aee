"""``recast approve``: add a signature to a proposed change."""

from __future__ import annotations

import sys

import click

from pipeline.cli.context import Context
from pipeline.cli.outcomes import outcome_data, print_json, tell, tell_notices
from pipeline.cli.proposals import choose, proposal_data, proposal_text
from pipeline.cli.terminal import printable


@click.command()
@click.argument("proposal")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def approve(proposal: str, as_json: bool) -> None:
    """Add your signature to a proposed change.

    Shows what the change would do, and signs it with those of your keys that may. The last
    signature that is needed carries it out. PROPOSAL is an id from `recast proposals`, or the
    beginning of one.

    \b
    Example:
      recast approve 3f2a
    """
    desk = Context.find().desk
    found = choose(desk.repository.proposals(), proposal)
    if not as_json and len(found) == 1:
        click.echo(printable(proposal_text(found[0], desk.clock()), sys.stdout) + "\n")
    # The id in full: what was shown is what is signed, whatever else has come meanwhile.
    outcome = desk.repository.approve(found[0].id if len(found) == 1 else proposal)
    if as_json:
        data = {"proposal": proposal_data(found[0]), "outcome": outcome_data(outcome)}
        print_json(data)
        tell_notices(outcome)
    else:
        tell(outcome, f"{outcome.channel} is changed", "")
