"""The workflows for GitHub: every script in them runs here, and calls commands that exist."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from pipeline.cli.main import cli
from pipeline.engine.plan import Plan

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# What GitHub would have put in for each expression, as far as a script sees it.
CONTEXT = {
    "${{ github.event_name }}": "push",
    "${{ github.event.pull_request.base.sha || github.event.before }}": "0" * 40,
    "${{ join(matrix.family.images, ' ') }}": "edge-base edge-web",
    "${{ vars.RECAST_KEYS }}": "online: awskms:alias/recast-online\ndev: awskms:alias/recast-dev",
    "${{ vars.RECAST_STORE }}": "s3://bucket/prefix",
    "${{ vars.RECAST_STORE_URL }}": "https://releases.example/recast",
    "${{ inputs.image }}": "edge-web",
    "${{ inputs.version }}": "20260301.120000.g1a2b3c4d5e6f",
    "${{ inputs.channel }}": "candidate",
    "${{ inputs.reason }}": 'it\'s "good"; $(false) `false`',
    "${{ inputs.dry_run }}": "true",
}

# Stand-ins for what would change the machine; each notes its words, one JSON list per line.
STANDIN = """#!{python}
import json, os, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
if {name!r} == "sudo":
    words = [w for w in sys.argv[1:] if not w.startswith("--preserve-env")]
    if words[0] == "tee":
        sys.stdin.read()
    elif words[0] not in ("udevadm", "rm"):
        os.execvp(words[0], words)
elif {name!r} == "recast" and sys.argv[1] == "plan":
    print(open({plan!r}).read())
elif {name!r} == "recast":
    print("recast said something")
    sys.exit(int(os.environ.get("STANDIN_CODE", "0")))
"""


class Step(NamedTuple):
    """A script of a workflow."""

    workflow: str
    job: str
    name: str
    script: str
    env: dict[str, str]

    def __str__(self) -> str:
        return f"{self.workflow}-{self.job}-{self.name}".replace(" ", "_")


def steps() -> Iterator[Step]:
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        for job_name, job in workflow["jobs"].items():
            for step in job["steps"]:
                if "run" in step:
                    env = {**job.get("env", {}), **step.get("env", {})}
                    yield Step(path.stem, job_name, step["name"], step["run"], env)


STEPS = list(steps())


class Shell:
    """A checkout, as a runner's shell sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.calls_file = folder / "calls"
        self.summary = folder / "summary.md"
        self.output = folder / "output"
        self.bin = folder / "bin"
        for each in (self.folder, self.bin):
            each.mkdir()
        plan = folder / "plan.json"
        plan.write_text(json.dumps(PLAN))
        for name in ("make", "sudo", "recast"):
            text = STANDIN.format(
                python=sys.executable, calls=str(self.calls_file), name=name, plan=str(plan)
            )
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        subprocess.run(["git", "init", "--quiet", self.folder], check=True)
        (self.folder / ".ci").mkdir()
        (self.folder / ".ci" / "run").write_text("#!/bin/sh\nexec make test\n")
        (self.folder / ".ci" / "run").chmod(0o755)
        release = self.folder / "artifacts" / "images" / "edge-web" / "1"
        release.mkdir(parents=True)
        (release / "x.raw").write_bytes(b"disk")
        (self.folder / "artifacts" / "runs").mkdir()

    def run(self, step: Step, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a step's script as GitHub does: in bash, with -e and pipefail."""
        env = {name: CONTEXT.get(str(value), str(value)) for name, value in step.env.items()}
        left = [text for text in [step.script, *env.values()] if "${{" in text]
        assert not left, f"an expression in a script, or unknown here: {left}"
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step.script],
            cwd=self.folder,
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "GITHUB_PATH": os.devnull,
                "GITHUB_OUTPUT": str(self.output),
                "GITHUB_STEP_SUMMARY": str(self.summary),
                **env,
                **more,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[list[str]]:
        if not self.calls_file.exists():
            return []
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]

    def of(self, program: str) -> list[list[str]]:
        return [words[1:] for words in self.calls if words[0] == program]


PLAN: dict[str, Any] = {
    "version": "20260301.120000.g1a2b3c4d5e6f",
    "images": [
        {"image": "edge-base", "action": "unchanged", "reasons": ["unchanged"]},
        {"image": "edge-web", "action": "build", "reasons": ["element nginx-site changed"]},
    ],
    "families": [{"name": "edge-base", "images": ["edge-web"], "key": "ab12"}],
}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def step_named(workflow: str, name: str) -> Step:
    return next(step for step in STEPS if (step.workflow, step.name) == (workflow, name))


def parsed(words: list[str]) -> click.Context:
    """What click makes of a command line; an option that is gone is an error."""
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None, f"there is no command {words[0]}"
    return command.make_context(words[0], words[1:])


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_every_script_runs_and_calls_commands_that_exist(step: Step, shell: Shell) -> None:
    if "handed-over" in step.script:
        assert shell.run(step_named("images", "Pack the releases")).returncode == 0
        (shell.folder / "handed-over" / "releases-edge-base").mkdir(parents=True)
        packed = shell.folder / "handed-over" / "releases-edge-base" / "releases.tar.zst"
        (shell.folder / "releases.tar.zst").rename(packed)
        shutil.rmtree(shell.folder / "artifacts")
    ended = shell.run(step)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert shell.calls or shell.folder.is_dir()
    for words in shell.of("recast"):
        parsed(words)
    for target in [word for words in shell.of("make") for word in words]:
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target


def test_a_plan_becomes_the_jobs_and_a_summary(shell: Shell) -> None:
    shell.run(step_named("images", "Plan")).check_returncode()
    name, _, value = shell.output.read_text().partition("=")
    assert (name, json.loads(value)) == ("families", PLAN["families"])
    assert "- **edge-web**: build (element nginx-site changed)" in shell.summary.read_text()
    assert shell.of("recast") == [["plan", "--json"]], "nothing is known before the first push"


def test_a_plan_is_about_what_was_pushed(shell: Shell) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@invalid"]
    git = ["git", "-C", str(shell.folder), *who]
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    step = step_named("images", "Plan")
    shell.run(step._replace(env={"EVENT": "push", "BEFORE": head.stdout.strip()}))
    shell.run(step._replace(env={"EVENT": "schedule", "BEFORE": ""}))
    assert shell.of("recast") == [
        ["plan", "--json", "--since", head.stdout.strip()],
        ["plan", "--json", "--refresh"],
    ]


def test_the_jobs_are_those_of_a_real_plan() -> None:
    from datetime import UTC, datetime

    from pipeline.cli.plan import as_data
    from pipeline.source import Source

    data = as_data(Plan(images=(), source=Source("a" * 40, datetime(2026, 3, 1, tzinfo=UTC), None)))
    assert PLAN.keys() <= data.keys()
    assert data["families"] == [], "an empty matrix is what the next job is not started for"


def test_releases_are_handed_over_whole(shell: Shell) -> None:
    shell.run(step_named("images", "Pack the releases")).check_returncode()
    names = subprocess.run(
        ["tar", "--list", "--zstd", "--file", "releases.tar.zst"],
        cwd=shell.folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "artifacts/images/edge-web/1/x.raw" in names


def test_what_people_type_is_never_a_script(shell: Shell) -> None:
    shell.run(step_named("promote", "Promote")).check_returncode()
    (words,) = shell.of("recast")
    assert parsed(words).params["reason"] == CONTEXT["${{ inputs.reason }}"]
    assert "--dry-run" in words


def test_a_refused_promotion_fails_and_is_summarised(shell: Shell) -> None:
    ended = shell.run(step_named("promote", "Promote"), STANDIN_CODE="10")
    assert ended.returncode == 10
    assert "recast said something" in shell.summary.read_text()


def test_a_failed_publication_fails(shell: Shell) -> None:
    assert shell.run(step_named("images", "Publish"), STANDIN_CODE="7").returncode == 7


def test_keys_are_for_nobody_elses_eyes(shell: Shell) -> None:
    shell.run(step_named("refresh", "Name the keys")).check_returncode()
    keys = shell.folder / "artifacts" / "keys"
    assert keys.stat().st_mode & 0o777 == 0o700
    named = yaml.safe_load((keys / "keys.yaml").read_text())
    assert named == {
        "online": "awskms:alias/recast-online",
        "dev": "awskms:alias/recast-dev",
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_more_is_allowed_than_is_needed(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        more = {
            k: v for k, v in job.get("permissions", {}).items() if (k, v) != ("contents", "read")
        }
        assert more in ({}, {"id-token": "write"}), name
        assert "timeout-minutes" in job, name
        for step in job["steps"]:
            if "uses" in step:
                _, _, commit = step["uses"].partition("@")
                assert len(commit) == 40, f"{name}: {step['uses']} is not pinned by digest"


def test_no_publication_is_ever_cancelled() -> None:
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        for job in workflow["jobs"].values():
            if job.get("permissions", {}).get("id-token") == "write":
                assert "concurrency" not in job | {
                    k: v for k, v in workflow.items() if k == "concurrency"
                }
