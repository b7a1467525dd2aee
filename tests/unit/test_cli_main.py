"""If these fail, an error reaches a person as a wall of text, or with the wrong exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pipeline import __version__
from pipeline.cli.main import COMMANDS, main
from pipeline.errors import DefinitionError, RecastError


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`recast runs` raises what the test sets; returns the artifacts folder."""
    monkeypatch.setenv("RECAST_ARTIFACTS", str(tmp_path))
    return tmp_path


def command_that(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    command = click.Command(
        "runs", callback=fail, params=[click.Option(["--json", "as_json"], is_flag=True)]
    )
    monkeypatch.setattr("pipeline.cli.runs.runs", command)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_and_its_help_has_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    assert f"Example:\n    recast {name}" in capsys.readouterr().out.replace("sudo ", "")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"recast {__version__}\n")
    for name, text in COMMANDS.items():
        assert name in out
        assert text in out


def test_help_imports_nothing_heavy() -> None:
    heavy = ["pydantic", "boto3", "diskimage_builder", "testinfra", "yaml", "cyclonedx", "pytest"]
    code = (
        "import sys; from pipeline.cli.main import main; main(['--help']); "
        f"sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_an_error_is_a_sentence_and_a_hint(
    raising: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(DefinitionError("images/x is wrong", hint="Mend it."), monkeypatch)
    assert main(["runs"]) == 3
    assert capsys.readouterr().err == "recast: error: images/x is wrong\nhint: Mend it.\n"
    assert main(["runs", "--json"]) == 3
    error = json.loads(capsys.readouterr().err)
    assert error == {"error": "images/x is wrong", "hint": "Mend it.", "code": 3}


def test_a_defect_leaves_its_traceback_in_a_file(
    raising: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(ZeroDivisionError("oops"), monkeypatch)
    assert main(["runs"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    (saved,) = (raising / "runs").glob("crash-*.txt")
    assert str(saved) in err
    assert "Traceback" in saved.read_text()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "stopped on request"),
        (click.Abort(), 130, "stopped on request"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 4, "Permission denied: /a"),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "No space left"),
        (RecastError("x"), 1, "recast: error: x"),
        (click.UsageError("no"), 2, "no"),
    ],
)
def test_each_end_has_its_code_and_its_words(
    raising: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    command_that(error, monkeypatch)
    assert main(["runs"]) == code
    assert words in capsys.readouterr().err


def test_a_typing_error_is_met_with_a_proposal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["biuld"]) == 2
    assert "Did you mean `recast build`?" in capsys.readouterr().err
    assert main(["run", "--jbos", "2"]) == 2
    assert main(["run", "--jobs", "0", "--json"]) == 2
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["code"] == 2


def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="yaml")

    monkeypatch.setattr("pipeline.cli.main.importlib.import_module", missing)
    assert main(["plan"]) == 1
    err = capsys.readouterr().err
    assert "`yaml`" in err
    assert "pip install 'recast[build]'" in err


def test_a_reader_that_has_gone_is_met_with_silence() -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", "schema"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_behind_stdout_is_told_in_a_sentence() -> None:
    with Path("/dev/full").open("wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", "schema"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr.startswith("recast: error: No space left on device\n")
    assert "Traceback" not in done.stderr
