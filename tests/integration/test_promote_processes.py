"""Whole commands, each a process of its own, over a store in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.store.local import LocalStore
from pipeline.trust.keys import Keyring
from tests.fakes.world import Publisher

IMAGES = ("edge-db", "edge-web")
CHANNELS = """\
channels:
  - name: dev
  - name: candidate
    gates: {soak: 1h}
"""
PATIENCE = 120  # seconds, for anything that takes one


class Project:
    """A project with keys and a store, on which `recast` is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in IMAGES:
            tests = folder / "images" / name / "tests"
            tests.mkdir(parents=True)
            (tests / "test_it.py").write_text("def test_it(): pass\n")
            text = f"name: {name}\ndistribution: debian\nrelease: trixie\n"
            (tests.parent / "image.yaml").write_text(text)
        (folder / "images" / "channels.yaml").write_text(CHANNELS)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RECAST_")
        } | {"RECAST_PROJECT": str(folder), "COLUMNS": "100"}
        self.run("init", "--no-passphrase")
        artifacts = folder / "artifacts"
        self.store = LocalStore(artifacts / "store")
        self.publisher = Publisher(self.store, Keyring(artifacts / "keys"))

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", *words],
            cwd=Path(__file__).parents[2],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> str:
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, out + err
        return out if code == 0 else err


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.soak
def test_two_commands_at_once_lose_nothing(project: Project) -> None:
    releases = {name: project.publisher.publish(name) for name in IMAGES}
    commands = [project.start("promote", name, "--to", "dev") for name in IMAGES]
    for command in commands:
        out, err = command.communicate(timeout=PATIENCE)
        assert command.returncode == 0, out + err
    (dev,) = (each for each in json.loads(project.run("channels", "--json")) if each["version"] > 1)
    assert {name: held["version"] for name, held in dev["images"].items()} == {
        name: release.version for name, release in releases.items()
    }
    log = json.loads(project.run("log", "dev", "--json"))
    assert [entry["action"] for entry in log] == ["promote", "promote", "init"]


def test_a_whole_life_of_a_release(project: Project) -> None:
    first, second = project.publisher.publish(), project.publisher.publish()
    project.run("promote", f"edge-web@{first.version}", "--to", "dev")
    project.run("promote", "edge-web", "--to", "dev", "--reason", "newer")
    assert "soak" in project.run("promote", "edge-web", "--to", "candidate", code=10)
    project.run("revoke", f"edge-web@{second.version}", "--reason", "CVE-1")
    back = json.loads(project.run("rollback", "edge-web", "--channel", "dev", "--json"))
    assert (back["version"], back["outcome"]["published"]) == (first.version, True)
    log = json.loads(project.run("log", "dev", "edge-web", "--json"))
    assert [entry["action"] for entry in log] == ["rollback", "revoke", "promote", "promote"]
    assert "revoked" in project.run("releases", "edge-web")


@pytest.mark.soak
def test_a_wait_that_is_interrupted_ends_at_once_and_changes_nothing(project: Project) -> None:
    project.publisher.publish()
    project.run("promote", "edge-web", "--to", "dev")
    waiting = project.start("promote", "edge-web", "--to", "candidate", "--wait")
    assert waiting.stderr is not None
    line = waiting.stderr.readline()
    assert "waiting for soak" in line
    asked = time.monotonic()
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 130, out + err
    assert time.monotonic() - asked < PATIENCE / 2
    assert "Traceback" not in err
    assert "stopped on request" in err
    assert json.loads(project.run("channels", "candidate", "--json"))["images"] == {}
