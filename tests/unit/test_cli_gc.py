"""What `recast gc` prints, and what it is told to leave alone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import digest
from pipeline.cli.context import Context
from pipeline.cli.main import main
from pipeline.store.base import object_key
from tests.fakes.store import MemoryStore
from tests.fakes.world import CHANNELS, World


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Of three releases stable holds the second; all are old."""
    store = MemoryStore()
    world = World(tmp_path, store=store)
    releases = [world.publish() for _ in range(3)]
    world.hold("stable", releases[1])
    for key in store.snapshot():
        store.age(key, timedelta(days=30))
    desk = world.desk
    context = SimpleNamespace(
        store=store, trust=desk.client, repository=desk.repository, channels=CHANNELS
    )
    monkeypatch.setattr(Context, "find", lambda: context)
    return store


def test_a_dry_run_shows_what_would_go_and_touches_nothing(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.snapshot()
    assert main(["gc", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "Would remove 2 releases, " in out
    assert "1 release stays: 1 held by a channel." in out
    lines = [line for line in out.splitlines() if line.startswith("release ")]
    assert len(lines) == 2
    assert all("30d" in line and "no channel needs it" in line for line in lines)
    after = store.snapshot()
    after.pop("gc/last.json")
    assert after == before


def test_what_goes_is_gone_and_the_second_time_there_is_nothing(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gc"]) == 0
    assert "Removed 2 releases, " in capsys.readouterr().out
    assert len([key for key in store.snapshot() if key.startswith("releases/")]) == 1
    assert main(["gc"]) == 0
    assert "There is nothing to remove." in capsys.readouterr().out


def test_of_very_much_the_largest_are_shown(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(250):
        data = b"x" * (5000 + number)
        key = object_key(digest.of_bytes(data))
        store.put(key, data, sha256=digest.of_bytes(data))
        store.age(key, timedelta(days=30))
    assert main(["gc", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert digest.of_bytes(b"x" * 5249) in out
    assert digest.of_bytes(b"x" * 5000) not in out
    assert "more, " in out
    assert "`--json` lists them" in out


def test_json_has_it_all(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    kinds = {each["kind"] for each in data["removed"]}
    assert kinds >= {"release", "object"}
    assert data["dry_run"] is True
    assert data["removed_bytes"] == sum(each["size"] for each in data["removed"])
    assert all(each["age"] > 29 * 86400 and each["reason"] for each in data["removed"])
    assert {"kind": "release", "reason": "held by a channel", "count": 1} in data["kept"]
    assert set(store.snapshot()) >= {each["key"] for each in data["removed"]}


def test_what_cannot_be_read_ends_it_with_the_code_of_trust(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    pointers = [key for key in store.snapshot() if key.startswith("targets/stable/")]
    for key in pointers:
        store.delete(key)
    before = set(store.snapshot())
    assert main(["gc"]) == 9
    assert "recast: error:" in capsys.readouterr().err
    assert set(store.snapshot()) - {"gc/last.json"} == before


def test_a_damaged_description_is_named_with_what_to_do(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.touch(next(key for key in store.snapshot() if key.startswith("releases/")))
    young = min(key for key in store.snapshot() if key.startswith("releases/"))
    store.corrupt(young, b"{")
    assert main(["gc"]) == 9
    err = capsys.readouterr().err
    assert young in err
    assert "nothing can be removed" in err
    assert "hint:" in err


def test_the_help_says_what_it_is_not_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "artifacts/images and artifacts/cache, is not touched" in text
    assert "recast gc --dry-run" in text
