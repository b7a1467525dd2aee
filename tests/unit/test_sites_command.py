"""If these fail, a person is not told which machine runs what, or what to do about one."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import clock
from pipeline.cli.main import main
from pipeline.errors import UsageError
from pipeline.models.checkin import checkin_key, history_key
from pipeline.store.local import LocalStore
from tests.fakes.machines import Reporter

WAITS = {"wanted": "3", "outcome": "waiting", "reason": "outside its window"}
FAILED = {"wanted": "3", "target": "3", "step": "failed", "outcome": "failed", "reason": "web died"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    (tmp_path / "images").mkdir()
    monkeypatch.setenv("RECAST_PROJECT", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("RECAST_STORE", "RECAST_ARTIFACTS", "RECAST_KEYS", "RECAST_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return LocalStore(tmp_path / "artifacts" / "store")


@pytest.fixture
def fleet(store: LocalStore) -> LocalStore:
    sent = clock.iso(clock.now())
    store.create(checkin_key("a"), Reporter("a").report(sent=sent))
    store.create(checkin_key("b"), Reporter("b").report(sent=sent, site="rome", **WAITS))
    store.create(checkin_key("c"), Reporter("c").report(sent=sent, **WAITS))
    failing = Reporter("d")
    store.create(history_key("d", 3), Reporter("d").report(3, sent=sent))
    store.create(history_key("d", 4), failing.report(4, sent=sent, **FAILED))
    store.create(checkin_key("d"), failing.report(5, sent=sent, seconds={"written": 3}, **FAILED))
    return store


def out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["sites", *words]) == 0
    return capsys.readouterr().out


def test_nobody_has_reported(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys)
    assert "No machine has reported yet." in text
    assert "recast serve --checkins" in text


def test_who_runs_what_and_who_lags_and_why(
    fleet: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = out(capsys).splitlines()
    assert lines[0].split() == ["device", "site", "image", "runs", "wanted", "heard", "state"]
    rows = {line.split()[0]: " ".join(line.split()) for line in lines[1:5]}
    assert rows["a"] == "a berlin edge-web 2 2 now up to date"
    assert rows["b"] == "b rome edge-web 2 3 now waiting: outside its window"
    assert rows["d"] == "d berlin edge-web 2 3 now failed: 3: web died"
    rest = [" ".join(line.split()) for line in lines[6:]]
    assert rest == [
        "edge-web 2: 4 of 4 machines (100 %)",
        "",
        "3 of 4 lag:",
        "2 waiting: outside its window (b, c)",
        "1 failed: 3: web died (d)",
    ]


def test_only_some_of_them(fleet: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*words: str) -> list[str]:
        found = json.loads(out(capsys, "--json", *words))
        return [machine["device"] for machine in found["machines"]]

    assert names() == ["a", "b", "c", "d"]
    assert names("--lagging") == ["b", "c", "d"]
    assert names("--site", "rome") == ["b"]
    assert names("--image", "edge-db") == names("--channel", "beta") == names("--release", "3")
    assert "None of 4 machines" in out(capsys, "--image", "edge-db")


def test_json_has_all_of_it(fleet: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.create(checkin_key("e"), b"{}")
    found = json.loads(out(capsys, "--json"))
    assert [problem["device"] for problem in found["problems"]] == ["e"]
    assert found["releases"][0]["machines"] == 4
    assert found["lagging"][0]["devices"] == ["b", "c"]
    failed = found["machines"][3]
    assert (failed["state"], failed["why"], failed["lagging"]) == ("failed", "3: web died", True)


def test_a_forged_report_is_told_and_stops_nothing(
    fleet: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.create(checkin_key("e"), Reporter("a").report())
    assert main(["sites"]) == 0
    text, err = capsys.readouterr()
    assert "4 of 4 machines" in text
    assert "the report of e is passed over: it is a report of a, not of e" in err


def test_silence(
    fleet: LocalStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = clock.now() + timedelta(hours=2)
    monkeypatch.setattr("pipeline.cli.sites.now", lambda: late)
    assert "4  silent (a, b, c, d)" in out(capsys)
    assert "silent" not in out(capsys, "--silence", "3h")
    assert main(["sites", "--silence", "soon"]) == UsageError.exit_code


def test_one_machine(fleet: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in out(capsys, "d").splitlines()]
    assert "state failed: 3: web died" in lines
    assert "update 3: failed" in lines
    assert "took written 3.0s" in lines
    assert any(line.endswith("confirmed (signed with another key)") for line in lines)
    assert any(line.endswith("3 failed web died") for line in lines)
    found = json.loads(out(capsys, "d", "--json"))
    assert [entry["number"] for entry in found["history"]] == [3, 4]
    assert found["newest"]["number"] == 5
    assert main(["sites", "nobody"]) == UsageError.exit_code


def test_forgetting(fleet: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert "3 reports of d removed" in out(capsys, "--forget", "d")
    assert [info.key for info in fleet.list()] == [checkin_key(name) for name in "abc"]
    assert main(["sites", "--forget", "d"]) == UsageError.exit_code
    assert main(["sites", "--forget"]) == UsageError.exit_code
    assert main(["sites", "--forget", "../x"]) == UsageError.exit_code
