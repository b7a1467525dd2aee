"""A passphrase for new keys: from the environment, or typed twice."""

from __future__ import annotations

import os
import sys

import click

from pipeline.cli.terminal import is_terminal
from pipeline.errors import UsageError


def choose_passphrase(wanted: bool | None) -> str | None:
    """What encrypts new key files; None for nothing.

    Args:
        wanted: must there be one; None leaves it to ``RECAST_PASSPHRASE`` and whoever types.

    Raises:
        UsageError: one is wanted, and there is no terminal to ask on.
    """
    given = os.environ.get("RECAST_PASSPHRASE")
    if wanted is False:
        return None
    if given:
        return given
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        if wanted:
            raise UsageError(
                "there is no terminal to ask for a passphrase on", hint="Set RECAST_PASSPHRASE."
            )
        return None
    words = "Passphrase for new keys" + ("" if wanted else " (empty: do not encrypt them)")
    typed = click.prompt(  # with a default of None it asks until something is typed
        words,
        default=None if wanted else "",
        show_default=False,
        hide_input=True,
        confirmation_prompt="The same again",
        err=True,
    )
    return str(typed) or None
