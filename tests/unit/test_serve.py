"""If these fail, `recast serve` misleads who starts it. What it answers: tests/integration."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.errors import HostError, UsageError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "images").mkdir()
    monkeypatch.setenv("RECAST_PROJECT", str(tmp_path))
    for name in ("RECAST_STORE", "RECAST_ARTIFACTS", "RECAST_KEYS", "RECAST_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class FakeServer:
    """Listens to nobody, and asks for an end at once."""

    url = "http://127.0.0.1:8080"

    def __init__(
        self, store: object, host: str, port: int, *, log: object, uploads: object
    ) -> None:
        self.store = store
        if host != "127.0.0.1":
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> FakeServer:
        os.kill(os.getpid(), signal.SIGINT)
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.serve.Server", FakeServer)


def test_it_says_where_and_how(
    project: Path, fake: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"Serving {project}/artifacts/store at http://127.0.0.1:8080"
    assert "`recast init`" in out
    assert "nothing in the store yet" in out
    assert err == "Stopped by SIGINT.\n"
    (project / "images" / "root.json").write_text("{}")
    (project / "artifacts" / "store").mkdir(parents=True)
    assert main(["serve"]) == 0
    out = capsys.readouterr().out
    assert f"{project}/images/root.json" in out
    assert "nothing in the store" not in out


def test_reports_are_taken_only_when_asked(
    project: Path, fake: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--checkins"]) == 0
    assert "reports are taken" in capsys.readouterr().out
    assert main(["serve"]) == 0
    assert "reports are taken" not in capsys.readouterr().out


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_it_warns_when_others_can_read(
    project: Path, fake: None, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert main(["serve", "--host", host]) == 0
    assert "warning: everybody who reaches" in capsys.readouterr().err
    assert main(["serve", "--host", host, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["loopback"] is False
    assert err == ""


def test_json(project: Path, fake: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "url": "http://127.0.0.1:8080",
        "folder": f"{project}/artifacts/store",
        "loopback": True,
        "checkins": False,
    }


def test_what_cannot_be_served_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Remote:
        url = "s3://bucket"

    monkeypatch.setattr("pipeline.store.locate.open_store", lambda *_: Remote())
    assert main(["serve"]) == UsageError.exit_code
    assert "served by S3 itself" in capsys.readouterr().err


def test_an_address_that_is_not_ours_is_told(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--host", "192.0.2.1", "--port", "0"]) == HostError.exit_code
    assert "cannot be listened on" in capsys.readouterr().err
    assert main(["serve", "--port", "70000"]) == 2
