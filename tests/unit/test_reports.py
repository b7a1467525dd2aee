"""If these fail, machines go silent, forget how an update ended, or wait for a dead link."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.agent.reports import MOST, Outbox
from pipeline.fleet.envelope import opened, place_of
from pipeline.models.checkin import MAX_CHECKIN, checkin_key, history_key
from tests.fakes.machines import said

DEAD = "http://127.0.0.1:9"
NEWEST = checkin_key("berlin-2")


class Collector(http.server.ThreadingHTTPServer):
    """Takes what it is sent, or answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.got: list[tuple[str, bytes]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        return [path.removeprefix("/") for path, _ in self.got]

    def numbers(self) -> list[int]:
        return [payload(data)["number"] for _, data in self.got]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append(dict(self.headers))
        default = (201, dict[str, str](), b"")
        status, headers, body = self.server.answers.pop(0) if self.server.answers else default
        if status < 300 and not headers:
            self.server.got.append((self.path, data))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def outbox(tmp_path: Path, url: str | None, seconds: float = 10.0) -> Outbox:
    return Outbox(tmp_path / "queue", url, tmp_path / "device.key", seconds=seconds)


def payload(data: bytes) -> dict[str, Any]:
    found = json.loads(base64.b64decode(json.loads(data)["payload"]))
    assert isinstance(found, dict)
    return found


def test_a_report_is_one_that_the_fleet_believes(tmp_path: Path, collector: Collector) -> None:
    box = outbox(tmp_path, collector.url)
    box.send(said(step="written", reason="grün"))
    assert (box.trouble, box.waiting(), collector.paths) == ("", 0, [NEWEST])
    place = place_of(NEWEST)
    assert place is not None
    signed = opened(collector.got[0][1], place)
    assert signed.checkin.number == 1
    assert signed.checkin.reason == "grün"
    sent = {name.lower() for name in collector.headers[0]}
    assert not sent & {"cookie", "authorization"}


def test_the_key_is_made_once_and_is_nobody_elses(tmp_path: Path, collector: Collector) -> None:
    for _ in range(2):
        outbox(tmp_path, collector.url).send(said())
    assert len({payload(data)["key"] for _, data in collector.got}) == 1
    assert stat.S_IMODE((tmp_path / "device.key").stat().st_mode) == 0o600


def test_numbers_grow_over_restarts(tmp_path: Path, collector: Collector) -> None:
    for _ in range(3):
        outbox(tmp_path, collector.url).send(said(step="written"))
    assert collector.numbers() == [1, 2, 3]


def test_numbers_grow_even_when_they_were_forgotten(tmp_path: Path, collector: Collector) -> None:
    outbox(tmp_path, collector.url).send(said(step="written"))
    (tmp_path / "queue" / ".memory.json").write_bytes(b"\0\0")
    outbox(tmp_path, collector.url).send(said(step="booted"))
    assert collector.numbers()[1] > 1_000_000


def test_how_updates_ended_is_not_lost_offline(tmp_path: Path, collector: Collector) -> None:
    box = outbox(tmp_path, DEAD)
    box.send(said(step="failed", target="3", reason="health.d/10-web"))
    assert "Connection refused" in box.trouble
    for step in ("chosen", "written", "booted"):
        box.send(said(step=step, target="4"))
    box.send(said(step="confirmed", target="4"))
    assert box.waiting() == 2
    again = outbox(tmp_path, collector.url)
    again.flush()
    assert (again.trouble, again.waiting()) == ("", 0)
    assert collector.paths == [
        history_key("berlin-2", 1),
        history_key("berlin-2", 5),
        NEWEST,
    ]
    assert collector.numbers() == [1, 5, 5]


def test_an_outcome_is_told_once(tmp_path: Path, collector: Collector) -> None:
    for reason in ("", "the store is away", "the window opens in 3h"):
        waits = said(step="confirmed", outcome="waiting", reason=reason)
        outbox(tmp_path, collector.url).send(waits)
    assert collector.paths == [history_key("berlin-2", 1), NEWEST, NEWEST, NEWEST]


def test_the_queue_has_a_bound_and_keeps_the_newest(tmp_path: Path) -> None:
    box = outbox(tmp_path, None)
    for each in range(MOST + 5):
        box.send(said(step="failed", target=str(each)))
    assert box.waiting() == MOST
    names = sorted(name for name in os.listdir(tmp_path / "queue") if name[0] != ".")
    assert names[0].startswith(f"{6:016d}.")
    assert names[-1].startswith(f"{MOST + 5:016d}.")


def test_a_link_that_is_cut_in_between_loses_nothing(tmp_path: Path, collector: Collector) -> None:
    box = outbox(tmp_path, None)
    for each in range(3):
        box.send(said(step="failed", target=str(each)))
    box.url = collector.url
    collector.answers = [(201, {}, b""), (503, {}, b"later\n")]
    box.flush()
    assert box.waiting() == 2
    assert "503: later" in box.trouble
    box.flush()
    assert collector.numbers() == [1, 2, 3, 3]


def test_a_server_that_never_answers_costs_its_time_and_no_more(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        box = outbox(tmp_path, url, seconds=0.3)
        before = time.monotonic()
        box.send(said())
        assert time.monotonic() - before < 5
    assert box.waiting() == 1
    assert box.trouble


def test_a_server_that_drips_costs_no_more_either(tmp_path: Path) -> None:
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while not ended.wait(0.05):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        box = outbox(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.5)
        before = time.monotonic()
        box.send(said())
        seconds = time.monotonic() - before
        ended.set()
        thread.join()
    assert seconds < 5
    assert "does not answer within" in box.trouble
    assert box.waiting() == 1


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (200, {"Content-Type": "text/html"}, b"<h1>Log in</h1>", "no receipt"),
        (302, {"Location": "http://portal.example/"}, b"", "answers 302"),
        (403, {}, b"another key\n", "403: another key"),
        (405, {}, b"", "answers 405"),
        (307, {"Location": "ftp://127.0.0.1/x"}, b"", "redirects"),
        (500, {}, b"\x1b[2J", "500"),
    ],
)
def test_what_is_no_receipt_leaves_the_report_in_the_queue(
    tmp_path: Path,
    collector: Collector,
    status: int,
    headers: dict[str, str],
    body: bytes,
    words: str,
) -> None:
    collector.answers = [(status, headers, body)]
    box = outbox(tmp_path, collector.url)
    box.send(said(step="written"))
    assert words in box.trouble
    assert box.trouble.isprintable()
    assert box.waiting() == 1
    assert collector.got == []


def test_a_report_that_is_never_taken_does_not_block_the_others(
    tmp_path: Path, collector: Collector
) -> None:
    collector.answers = [(413, {}, b"too large\n")]
    box = outbox(tmp_path, collector.url)
    box.send(said(step="written"))
    assert "too large" in box.trouble
    assert box.waiting() == 0
    box.send(said(step="booted"))
    assert collector.numbers() == [2]


def test_a_number_that_was_used_before_is_not_the_end(tmp_path: Path, collector: Collector) -> None:
    collector.answers = [(409, {}, b"there is report 7 already\n")]
    box = outbox(tmp_path, collector.url)
    box.send(said(step="written"))
    assert (box.trouble, box.waiting()) == ("", 0)
    assert collector.numbers()[0] > 1_000_000


def test_a_redirect_is_followed_with_the_report(tmp_path: Path, collector: Collector) -> None:
    collector.answers = [(308, {"Location": f"{collector.url}/new/{NEWEST}"}, b"")]
    box = outbox(tmp_path, collector.url)
    box.send(said(step="written"))
    assert (box.trouble, collector.paths) == ("", [f"new/{NEWEST}"])


def test_a_stick_takes_reports_only_while_it_is_there(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    box = outbox(tmp_path, f"file://{stick}")
    box.send(said())
    assert f"there is no folder {stick}" in box.trouble
    assert not stick.exists()
    stick.mkdir()
    box.flush()
    assert (box.trouble, box.waiting()) == ("", 0)
    assert payload((stick / NEWEST).read_bytes())["number"] == 1
    assert (stick / history_key("berlin-2", 1)).is_file()


def test_a_stick_cannot_make_the_machine_write_elsewhere(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    (tmp_path / "etc").mkdir()
    stick.mkdir()
    (stick / "checkins").symlink_to(tmp_path / "etc")
    box = outbox(tmp_path, f"file://{stick}")
    box.send(said())
    assert "symbolic link" in box.trouble
    assert os.listdir(tmp_path / "etc") == []


def test_a_queue_that_cannot_be_written_is_reported_all_the_same(
    tmp_path: Path, collector: Collector
) -> None:
    outbox(tmp_path, collector.url).send(said(step="written"))
    blocked = Outbox(tmp_path / "device.key" / "x", collector.url, tmp_path / "device.key")
    blocked.send(said(step="failed", reason="the disk is full"))
    assert collector.paths[-1] == NEWEST
    assert collector.numbers()[-1] > 1
    assert "cannot be kept" in blocked.trouble


def test_without_a_key_there_is_no_report_and_no_error(
    tmp_path: Path, collector: Collector
) -> None:
    (tmp_path / "device.key").write_text("rubbish")
    box = outbox(tmp_path, collector.url)
    box.send(said())
    assert "holds no key" in box.trouble
    assert collector.got == []


def test_what_is_too_large_is_told_in_fewer_words(tmp_path: Path, collector: Collector) -> None:
    labels = {f"{each:03}": "x" * 128 for each in range(200)}
    box = outbox(tmp_path, collector.url)
    box.send(said(step="written", labels=labels, reason="why"))
    data = collector.got[0][1]
    assert len(data) <= MAX_CHECKIN
    assert payload(data)["labels"] == {}
    assert payload(data)["reason"] == "why"


@given(
    steps=st.lists(st.sampled_from(["written", "booted", "confirmed", "failed"]), max_size=12),
    links=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_whatever_the_link_does_outcomes_arrive_in_order_and_the_newest_is_last(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], links: list[bool]
) -> None:
    folder = tmp_path_factory.mktemp("machine")
    stick = folder / "stick"
    stick.mkdir()
    box = outbox(folder, None)
    expected = []
    for index, (step, link) in enumerate(zip(steps, links, strict=False)):
        box.url = f"file://{stick}" if link else None
        box.send(said(step=step, target=str(index)))
        if step in ("confirmed", "failed"):
            expected.append(index + 1)
    box.url = f"file://{stick}"
    box.flush()
    history = stick / "checkins" / "history" / "berlin-2"
    found = sorted(os.listdir(history)) if history.is_dir() else []
    assert [int(name.partition(".")[0]) for name in found] == expected
    if steps:
        assert payload((stick / NEWEST).read_bytes())["number"] == len(steps)
    assert box.waiting() == 0
