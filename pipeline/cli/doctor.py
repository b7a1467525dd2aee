"""``recast doctor``: check this machine, and name what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.cli.context import find_artifacts, find_project
from pipeline.cli.terminal import colour, table
from pipeline.doctor import Finding, Host, State, examine, healthy, packages
from pipeline.errors import HostError, UsageError

_COLOURS = {State.OK: "green", State.NOTE: "yellow", State.MISSING: "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> int:
    """Check this machine, and name what is missing.

    Nothing is changed. The exit code is 0 when everything that a build and a test need is there,
    and 4 when something is missing.

    \b
    Example:
      recast doctor
    """
    host = Host()
    findings = examine(host, **_places())
    command = install_command(packages(findings), root=host.uid == 0)
    if as_json:
        click.echo(json.dumps(_as_data(findings, command), indent=2))
    else:
        click.echo(_as_text(findings, command))
    return 0 if healthy(findings) else HostError.exit_code


def install_command(names: Sequence[str], *, root: bool) -> str:
    """The one command that installs *names*; empty when there are none."""
    if not names:
        return ""
    return f"{'' if root else 'sudo '}apt-get install --yes {' '.join(names)}"


def _places() -> dict[str, Path]:
    """Where to look: without a project the current folder stands for its artifacts."""
    try:
        project = find_project()
    except UsageError:
        given = os.environ.get("RECAST_ARTIFACTS")
        return {"artifacts": Path(given).absolute() if given else Path.cwd()}
    return {"project": project, "artifacts": find_artifacts(project)}


def _as_data(findings: Sequence[Finding], command: str) -> dict[str, object]:
    return {
        "healthy": healthy(findings),
        "install": command,
        "findings": [
            {
                "check": finding.check,
                "state": finding.state.value,
                "detail": finding.detail,
                "package": finding.package,
            }
            for finding in findings
        ],
    }


def _as_text(findings: Sequence[Finding], command: str) -> str:
    rows = [
        (colour(finding.state.value, _COLOURS[finding.state]), finding.check, finding.detail)
        for finding in findings
    ]
    missing = sum(finding.state is State.MISSING for finding in findings)
    lines = [table(rows, ("state", "check", "what was found")), ""]
    if not missing:
        lines.append("This machine can build and test images.")
    elif command:
        lines.append(f"{missing} missing. Install with: {command}")
    else:
        lines.append(f"{missing} missing; no package mends that: see above.")
    return "\n".join(lines)
