"""If these fail, reports do not get from a machine to the person who asks `recast sites`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from pipeline.agent.reports import Outbox
from pipeline.fleet.accept import Acceptor
from pipeline.fleet.arrivals import StoreCheckIns
from pipeline.models.checkin import MAX_CHECKIN, checkin_key, history_key
from pipeline.serve import Request, Server, Uploads
from pipeline.store.local import LocalStore
from tests.fakes.machines import Reporter, said
from tests.fakes.nginx import nginx

README = Path(__file__).parents[2] / "README.md"
NEWEST = checkin_key("berlin-2")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.create("metadata/timestamp.json", b"{}")
    return store


@pytest.fixture
def lines() -> list[Request]:
    return []


@pytest.fixture
def server(store: LocalStore, lines: list[Request]) -> Iterator[Server]:
    uploads = Uploads("checkins/", MAX_CHECKIN, Acceptor(store))
    with Server(store, uploads=uploads, timeout=20, log=lines.append) as server:
        yield server


def machine(folder: Path, url: str) -> Outbox:
    return Outbox(folder / "queue", url, folder / "device.key")


def put(server: Server, key: str, data: bytes, **more: str) -> requests.Response:
    return requests.put(f"{server.url}/{key}", data=data, headers=more, timeout=60)


def test_a_machine_reports_and_a_person_reads_it(
    tmp_path: Path, server: Server, store: LocalStore, lines: list[Request]
) -> None:
    box = machine(tmp_path / "m", server.url)
    for step in ("written", "activated", "booted", "confirmed"):
        box.send(said(step=step, target="3", reason=f"at {step}"))
        assert (box.trouble, box.waiting()) == ("", 0)
    newest, history = StoreCheckIns(store).of("berlin-2")
    assert newest is not None
    assert newest.signed is not None
    assert (newest.signed.checkin.number, newest.signed.checkin.step) == (4, "confirmed")
    assert [each.signed.checkin.number for each in history if each.signed] == [4]
    assert [line.status for line in lines] == [201, 204, 204, 201, 204]


def test_a_machine_that_was_installed_anew_is_let_in_by_hand(
    tmp_path: Path, server: Server, store: LocalStore
) -> None:
    machine(tmp_path / "old", server.url).send(said(step="written"))
    new = machine(tmp_path / "new", server.url)
    new.send(said(step="written"))
    assert "recast sites --forget berlin-2" in new.trouble
    assert new.waiting() == 1
    StoreCheckIns(store).forget("berlin-2")
    new.flush()
    assert (new.trouble, new.waiting()) == ("", 0)


def test_a_machine_that_lost_its_count_is_heard(tmp_path: Path, server: Server) -> None:
    box = machine(tmp_path / "m", server.url)
    for _ in range(3):
        box.send(said(step="written"))
    (tmp_path / "m" / "queue" / ".memory.json").write_text('{"number": 0}')
    again = machine(tmp_path / "m", server.url)
    again.send(said(step="failed", reason="why"))
    assert (again.trouble, again.waiting()) == ("", 0)


@pytest.mark.parametrize(
    "key", ["metadata/timestamp.json", "objects/ab/x", "x", "", "checkins", "checkins/../x"]
)
def test_nothing_can_be_put_elsewhere(server: Server, store: LocalStore, key: str) -> None:
    answer = put(server, key, Reporter().report())
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD, PUT"
    assert [info.key for info in store.list()] == ["metadata/timestamp.json"]
    assert store.get("metadata/timestamp.json", limit=9) == b"{}"


def test_only_reports_are_taken(server: Server, store: LocalStore) -> None:
    reporter = Reporter()
    assert put(server, NEWEST, b"rubbish").status_code == 400
    assert put(server, NEWEST, b"").status_code == 400
    assert put(server, "checkins/x", reporter.report()).status_code == 404
    assert put(server, checkin_key("rome-1"), reporter.report()).status_code == 400
    assert put(server, NEWEST, b"x" * (MAX_CHECKIN + 1)).status_code == 413
    chunks = iter([reporter.report()])
    answer = requests.put(f"{server.url}/{NEWEST}", data=chunks, timeout=60)
    assert answer.status_code == 411
    assert [info.key for info in store.list()] == ["metadata/timestamp.json"]


def test_nobody_is_taken_for_another_and_nothing_is_replayed(server: Server) -> None:
    reporter = Reporter()
    first = reporter.report(1)
    assert put(server, NEWEST, first).status_code == 201
    assert put(server, NEWEST, reporter.report(2)).status_code == 204
    assert put(server, NEWEST, first).status_code == 409
    answer = put(server, NEWEST, Reporter().report(3))
    assert answer.status_code == 403
    assert "another key" in answer.text


def test_what_machines_say_is_not_for_their_neighbours(server: Server) -> None:
    assert put(server, NEWEST, Reporter().report()).status_code == 201
    assert requests.get(f"{server.url}/{NEWEST}", timeout=60).status_code == 404
    assert requests.get(f"{server.url}/metadata/timestamp.json", timeout=60).status_code == 200


def test_one_connection_brings_many_reports(server: Server, store: LocalStore) -> None:
    reporter = Reporter()
    with requests.Session() as session:
        for number in range(1, 30):
            url = f"{server.url}/{NEWEST}"
            assert session.put(url, data=reporter.report(number), timeout=60).status_code < 300
    newest, _ = StoreCheckIns(store).of("berlin-2")
    assert newest is not None
    assert newest.signed is not None
    assert newest.signed.checkin.number == 29


def test_many_machines_report_at_once(server: Server, store: LocalStore) -> None:
    start = threading.Barrier(16)

    def report(index: int) -> None:
        reporter = Reporter(f"m{index}")
        start.wait(60)
        for number in (1, 2):
            assert put(server, history_key(f"m{index}", number), reporter.report(number)).ok
            assert put(server, checkin_key(f"m{index}"), reporter.report(number)).ok

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(report, range(16)))
    found = StoreCheckIns(store).newest()
    assert [each.signed.checkin.number for each in found if each.signed] == [2] * 16


def test_a_store_in_trouble_answers_and_lives(server: Server, store: LocalStore) -> None:
    (store.folder / "checkins").write_text("in the way")
    assert put(server, NEWEST, Reporter().report()).status_code == 500
    (store.folder / "checkins").unlink()
    assert put(server, NEWEST, Reporter().report()).status_code == 201


def test_the_commands_together(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    env = {**os.environ, "RECAST_PROJECT": str(tmp_path), "COLUMNS": "200"}
    for name in ("RECAST_ARTIFACTS", "RECAST_STORE"):
        env.pop(name, None)
    recast = [sys.executable, "-m", "pipeline.cli.main"]
    argv = [*recast, "serve", "--port", "0", "--checkins"]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[-1]
            box = machine(tmp_path / "m", url)
            box.send(said(step="failed", outcome="failed", wanted="3", target="3", reason="web"))
            assert box.trouble == ""
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert f"PUT /{NEWEST} 201" in out
    listed = subprocess.run(
        [*recast, "sites"], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert "failed: 3: web" in listed.stdout


def test_nginx_takes_reports_as_the_readme_says(tmp_path: Path, store: LocalStore) -> None:
    found = re.search(
        r"^    (location /checkins/ \{\n.*?^    \})$", README.read_text(), re.M | re.S
    )
    assert found is not None
    with nginx(store.folder, tmp_path / "work", more=found[1]) as url:
        box = machine(tmp_path / "m", url)
        for step in ("written", "confirmed"):
            box.send(said(step=step))
            assert (box.trouble, box.waiting()) == ("", 0)
        assert requests.put(f"{url}/x", data=b"x", timeout=60).status_code == 405
        assert requests.get(f"{url}/{NEWEST}", timeout=60).status_code == 403
        large = requests.put(f"{url}/{NEWEST}", data=bytes(MAX_CHECKIN + 1), timeout=60)
        assert large.status_code == 413
    newest, history = StoreCheckIns(store).of("berlin-2")
    assert newest is not None
    assert newest.signed is not None
    assert newest.signed.checkin.number == 2
    assert len(history) == 1
