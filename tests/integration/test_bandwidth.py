"""A site's limit on a real link, as the server sees it; and the requests that it is read with."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from pipeline.agent.compose import open_readers
from pipeline.errors import NetworkError
from pipeline.models.site import Site, parse_bandwidth
from pipeline.serve import Request, serve
from pipeline.store.base import Reader
from pipeline.store.http import HttpStore, Limits
from pipeline.store.http_errors import Patience
from pipeline.store.local import LocalStore
from pipeline.store.throttled import BURST
from tests.contract.store_suite import noise
from tests.fakes.bad_server import BadServer, head, say
from tests.fakes.link import Link
from tests.fakes.nginx import nginx

KEY = "objects/ab/x"
DATA = noise(300_000)
RATE = 100_000  # bytes per second: 800 kbit/s
SPAN = 120_000
LIMITS = Limits(span=lambda: SPAN, patience=Patience(3, 0.01, 0.1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "store" / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    return tmp_path / "store"


def limited(*urls: str) -> list[Reader]:
    """Stores as the agent opens them."""
    return open_readers(Site(store=urls, bandwidth=(parse_bandwidth("800 kbit/s"),)))


def test_a_server_sees_no_more_than_the_limit(folder: Path) -> None:
    """Two mirrors, and small things between: one limit for them all."""
    began = time.monotonic()
    with serve(folder) as one, serve(folder) as other:
        first, second = limited(one.url, other.url)
        stream = first.stream(KEY)
        came = next(stream)
        assert second.get(KEY, limit=len(DATA)) == DATA
        assert came + b"".join(stream) == DATA
    assert time.monotonic() - began >= 2 * len(DATA) / RATE - BURST


def test_a_link_never_runs_far_ahead_of_the_limit(folder: Path) -> None:
    """What passes on the wire, its heads included, while nobody here has room for it."""
    size = 4_000_000
    (folder / "objects/ab/large").write_bytes(bytes(size))
    with serve(folder) as server, Link(int(server.url.rpartition(":")[2])).running() as link:
        (reader,) = limited(f"http://127.0.0.1:{link.own_port}")
        began = time.monotonic()
        came = 0
        for piece in reader.stream("objects/ab/large"):
            came += len(piece)
            if came > 2 * RATE:
                break
        passed, took = link.passed, time.monotonic() - began
    assert took >= 2 - BURST
    assert passed <= (took + BURST + 5) * RATE + 1000, "what is asked for at a time is bounded"


def test_a_folder_takes_nothing_of_a_link(folder: Path) -> None:
    site = Site(store=(folder.as_uri(),), bandwidth=(parse_bandwidth("8 kbit/s"),))
    (reader,) = open_readers(site)
    assert isinstance(reader, LocalStore)


def test_an_object_is_asked_for_part_by_part_over_one_connection(folder: Path) -> None:
    asked: list[Request] = []
    with serve(folder, log=asked.append) as server, HttpStore(server.url, LIMITS) as store:
        assert b"".join(store.stream(KEY)) == DATA
        assert [each.status for each in asked] == [206, 206, 206]
        assert [each.size for each in asked] == [SPAN, SPAN, len(DATA) - 2 * SPAN]
        assert b"".join(store.stream(KEY, start=250_000)) == DATA[250_000:]
        assert len(asked) == 4


def test_nginx_gives_parts_as_well(folder: Path, tmp_path: Path) -> None:
    (folder / "empty").write_bytes(b"")
    with nginx(folder, tmp_path / "nginx") as url, HttpStore(url, LIMITS) as store:
        assert b"".join(store.stream(KEY)) == DATA
        assert list(store.stream("empty")) == []
        assert list(store.stream(KEY, start=len(DATA))) == []


def part(start: int, end: int, total: object = len(DATA)) -> bytes:
    return head(
        "206 Partial Content",
        Content_Range=f"bytes {start}-{end - 1}/{total}",
        Content_Length=end - start,
        ETag='"one"',
    )


def test_a_server_that_gives_no_parts_is_read_whole() -> None:
    whole = say(head(Content_Length=len(DATA), ETag='"one"'), DATA)
    with BadServer(whole) as server, HttpStore(server.url, LIMITS) as store:
        assert b"".join(store.stream(KEY)) == DATA
        assert len(server.requests) == 1


def test_a_server_that_gives_smaller_parts_is_asked_on() -> None:
    answers = [
        say(part(at, min(at + 50_000, len(DATA))), DATA[at : at + 50_000])
        for at in range(0, len(DATA), 50_000)
    ]
    with BadServer(*answers) as server, HttpStore(server.url, LIMITS) as store:
        assert b"".join(store.stream(KEY)) == DATA
        assert server.header(1, "Range") == "bytes=50000-169999"
        assert server.header(1, "If-Range") == '"one"'


def test_a_server_that_does_not_say_how_much_there_is_is_asked_for_the_rest() -> None:
    answers = [
        say(part(0, SPAN, "*"), DATA[:SPAN]),
        say(part(SPAN, len(DATA), "*"), DATA[SPAN:]),
    ]
    with BadServer(*answers) as server, HttpStore(server.url, LIMITS) as store:
        assert b"".join(store.stream(KEY)) == DATA
        assert server.header(1, "Range") == f"bytes={SPAN}-"


def test_a_part_that_was_cut_is_taken_up() -> None:
    def rest(connection: socket.socket) -> None:
        start = int(server.header(-1, "Range").removeprefix("bytes=").partition("-")[0])
        end = min(start + SPAN, len(DATA))
        say(part(start, end), DATA[start:end])(connection)

    cut = say(part(0, SPAN), DATA[: SPAN // 2])
    with BadServer(cut, rest) as server, HttpStore(server.url, LIMITS) as store:
        assert b"".join(store.stream(KEY)) == DATA
        assert server.header(1, "Range") == f"bytes={SPAN // 2}-{SPAN // 2 + SPAN - 1}"


def test_a_server_that_gives_parts_of_nothing_is_given_up() -> None:
    nothing = head(
        "206 Partial Content",
        Content_Range=f"bytes 0-0/{len(DATA)}",
        Content_Length=0,
        ETag='"one"',
    )
    with (
        BadServer(say(nothing)) as server,
        HttpStore(server.url, LIMITS) as store,
        pytest.raises(NetworkError),
    ):
        list(store.stream(KEY))
