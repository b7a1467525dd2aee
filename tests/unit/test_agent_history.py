"""What a machine tells of its past: bounded, and readable after any cut."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.agent import history as module
from pipeline.agent.history import Event, History
from pipeline.agent.journal import Journal

WHEN = datetime(2026, 6, 1, tzinfo=UTC)


def event(number: int) -> Event:
    return Event(when=WHEN, step="written", text=str(number))


def test_events_come_back_in_order_the_newest_of_them(tmp_path: Path) -> None:
    history = History(tmp_path / "there/history.jsonl")
    for number in range(5):
        history.add(event(number))
    assert [each.text for each in history.read(3)] == ["2", "3", "4"]


def test_it_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    history = History(tmp_path / "history.jsonl")
    for number in range(55):
        history.add(event(number))
        assert len((tmp_path / "history.jsonl").read_bytes().splitlines()) <= 20
    assert [each.text for each in history.read(10)] == [str(n) for n in range(45, 55)]


def test_a_line_that_a_power_cut_tore_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.add(event(1))
    path.write_bytes(path.read_bytes() + b'{"when": "2026-0')
    history.add(event(2))
    assert [each.text for each in history.read()] == ["1", "2"]


def test_a_disk_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file/history.jsonl")
    history.add(event(1))
    assert history.read() == ()


def test_the_journal_gets_fields_that_programs_can_select(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        Journal(path).tell("it runs", step="booted", release="edge_2_amd64", outcome="")
        lines = receiver.recv(1 << 16).decode().splitlines()
        Journal(path).tell("two\nlines")
        framed = receiver.recv(1 << 16)
    assert {"MESSAGE=it runs", "PRIORITY=6", "RECAST_STEP=booted"} <= {*lines}
    assert "SYSLOG_IDENTIFIER=recast-agent" in lines
    assert not [line for line in lines if line.startswith("RECAST_OUTCOME")]
    assert framed.startswith(b"MESSAGE\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n")


def test_without_a_journal_it_is_silent(tmp_path: Path) -> None:
    Journal(tmp_path / "nothing").tell("it runs")
