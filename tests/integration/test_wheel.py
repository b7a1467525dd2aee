"""The wheel that is built is what a user gets: all elements, with the bits that make them run."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline import command, digest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        timeout=120,
    )
    (built,) = folder.glob("*.whl")
    return built


INSTALLERS = {
    "pip": ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"],
    "uv": ["-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"],
}


@pytest.fixture(scope="module", params=sorted(INSTALLERS))
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    target = tmp_path_factory.mktemp(request.param)
    command.run(
        [sys.executable, *INSTALLERS[request.param], "--target", str(target), str(wheel)],
        timeout=120,
    )
    return target


@pytest.mark.parametrize("package", ["pipeline", "stages"])
def test_an_installed_wheel_holds_what_the_repository_does(installed: Path, package: str) -> None:
    # The digest covers names, contents and executable bits: what diskimage-builder goes by.
    assert digest.of_folder(installed / package) == digest.of_folder(ROOT / package)


def test_the_elements_in_it_can_be_run(installed: Path) -> None:
    hooks = [
        path
        for path in (installed / "pipeline" / "elements").glob("*/*.d/*")
        if re.fullmatch(r"\d\d-.*", path.name) and path.parent.name != "environment.d"
    ]
    assert hooks
    assert [path for path in hooks if not os.access(path, os.X_OK)] == []


def test_its_commands_start(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    for name, program in (("recast", "cli"), ("recast-agent", "agent")):
        told = command.run(
            [sys.executable, "-m", f"pipeline.{program}.main", "--version"],
            env=environment,
            cwd=installed,
            timeout=60,
        )
        assert re.fullmatch(rf"{name} \d+\.\d+\.\d+\n", told.stdout)


def test_the_lock_pins_every_dependency_with_hashes_and_names_no_place() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^([a-z0-9-]+)==(\S+)[^\n]*\\\n +--hash=sha256:", lock, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z0-9]", lock, re.MULTILINE))
    for place in ("://", "--index", "--find-links", "-e ", " @ ", "/"):
        assert place not in re.sub(r"^#.*$", "", lock, flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = {
        re.split(r"[^a-z0-9-]", line.lower())[0]
        for line in [*project["dependencies"], *(line for extra in extras for line in extra)]
    }
    assert wanted - {"recast"} <= {name for name, _ in pinned}, "run `make lock`"


def test_what_a_device_needs_stays_small() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^a-z0-9-]", line.lower())[0] for line in project["dependencies"]}
    assert names == {"pydantic", "requests", "securesystemslib", "tuf", "zstandard"}
