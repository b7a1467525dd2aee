"""If these fail, a bad server or a bad link harms a site, or stops it for longer than it must."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.errors import NetworkError, TrustError
from pipeline.store.base import ChangedError
from pipeline.store.http import HttpStore, Limits
from pipeline.store.http_errors import Patience
from pipeline.store.paced import Pace
from tests.contract.store_suite import MEBIBYTE, noise
from tests.fakes.bad_server import (
    Answer,
    BadServer,
    drip,
    head,
    say,
    say_and_reset,
    silence,
)

KEY = "objects/ab/x"
ETAG = '"one"'
DATA = noise(3 * MEBIBYTE + 5)
QUICK = Patience(attempts=3, first=0.01, longest=2.0)
LIMITS = Limits(answer=20.0, patience=QUICK)
SLOW = Limits(answer=20.0, pace=Pace(rate=1000.0, window=0.5), patience=QUICK)


def part(start: int, end: int | None = None, *, total: int = len(DATA), etag: str = ETAG) -> bytes:
    """The head of an answer to a range of DATA."""
    return head(
        "206 Partial Content",
        Content_Range=f"bytes {start}-{total - 1}/{total}",
        Content_Length=(end or total) - start,
        ETag=etag,
    )


WHOLE = head(Content_Length=len(DATA), ETag=ETAG)
FIRST = say(WHOLE, DATA[:MEBIBYTE])


def read(server: BadServer, limits: Limits = LIMITS, *, start: int = 0) -> bytes:
    with HttpStore(server.url, limits) as store:
        return b"".join(store.stream(KEY, start=start))


def get(server: BadServer, limits: Limits = LIMITS, *, limit: int = 1000) -> bytes:
    with HttpStore(server.url, limits) as store:
        return store.get(KEY, limit=limit)


@pytest.mark.parametrize("cut", [say, say_and_reset])
def test_a_cut_transfer_goes_on_where_it_stood(cut: Callable[..., Answer]) -> None:
    # A reset may take back what was sent but not read: the rest is asked for from there.
    answers: list[Answer] = [cut(WHOLE, DATA[:MEBIBYTE])]

    def rest(connection: socket.socket) -> None:
        start = int(server.header(1, "Range").removeprefix("bytes=").removesuffix("-"))
        say(part(start), DATA[start:])(connection)

    def again(connection: socket.socket) -> None:
        if server.header(-1, "Range"):
            rest(connection)
        else:
            say(WHOLE, DATA)(connection)

    with BadServer(*answers, again) as server:
        assert read(server) == DATA
        if cut is say:
            assert server.header(1, "Range") == f"bytes={MEBIBYTE}-"
            assert server.header(1, "If-Range") == ETAG
        assert len(server.requests) == 2


def test_a_link_that_is_cut_again_and_again_brings_it_all_while_there_is_progress() -> None:
    data = noise(6 * MEBIBYTE)

    def some(connection: socket.socket) -> None:
        words = server.header(-1, "Range").removeprefix("bytes=").removesuffix("-")
        start = int(words or 0)
        end = start + MEBIBYTE
        begin = part(start, len(data), total=len(data)) if start else b""
        say(begin or head(Content_Length=len(data), ETag=ETAG), data[start:end])(connection)

    with BadServer(some) as server:
        assert read(server) == data
        assert len(server.requests) == 6


def test_a_link_that_brings_next_to_nothing_is_given_up() -> None:
    with BadServer(say(WHOLE, DATA[:10])) as server, HttpStore(server.url, LIMITS) as store:
        with pytest.raises(NetworkError, match="cut"):
            list(store.stream(KEY))
        assert len(server.requests) == QUICK.attempts


def test_a_server_without_ranges_sends_it_all_and_it_is_still_whole() -> None:
    with BadServer(FIRST, say(WHOLE, DATA)) as server:
        assert read(server) == DATA
    with BadServer(say(WHOLE, DATA)) as server:
        assert read(server, start=MEBIBYTE + 7) == DATA[MEBIBYTE + 7 :]


@pytest.mark.parametrize(
    "second",
    [
        say(part(MEBIBYTE, etag='"two"'), DATA[MEBIBYTE:]),
        say(part(MEBIBYTE, total=len(DATA) + 1), DATA[MEBIBYTE:]),
        say(head(Content_Length=len(DATA), ETag='"two"'), DATA),
        say(head(Content_Length=10, ETag=ETAG), DATA[:10]),
        say(head("416 Range Not Satisfiable", Content_Range="bytes */10", Content_Length=0)),
    ],
    ids=["other etag", "other size", "other object", "shorter object", "not satisfiable"],
)
def test_an_object_that_changes_meanwhile_is_told(second: Answer) -> None:
    with BadServer(FIRST, second) as server, pytest.raises(ChangedError, match="has changed"):
        read(server)


def test_another_part_than_was_asked_for_is_refused() -> None:
    with (
        BadServer(FIRST, say(part(0), DATA)) as server,
        pytest.raises(NetworkError, match="another part"),
    ):
        read(server)


def test_a_promise_of_more_than_comes_is_a_cut() -> None:
    with BadServer(say(head(Content_Length=10), b"hello")) as server:
        with pytest.raises(NetworkError, match="the connection was cut"):
            get(server)
        assert len(server.requests) == QUICK.attempts


def test_more_than_was_promised_is_not_taken() -> None:
    with BadServer(say(head(Content_Length=5), b"hello, and more")) as server:
        assert get(server) == b"hello"
        assert read(server) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        drip(head(), bytes(4096), 0),
        drip(head(Transfer_Encoding="chunked"), b"1000\r\n" + bytes(4096) + b"\r\n", 0),
        drip(head(Content_Length=10**15), bytes(4096), 0),
        drip(head(Content_Length="9" * 5000), bytes(4096), 0),
    ],
    ids=["no length", "chunked", "huge", "no number"],
)
def test_a_body_without_an_end_is_cut_off(answer: Answer) -> None:
    with BadServer(answer) as server, pytest.raises((TrustError, NetworkError), match=KEY):
        get(server)


@pytest.mark.parametrize(
    "answer",
    [
        drip(head(Content_Length=1000), b"x", 0.02),
        drip(head(Transfer_Encoding="chunked"), b"1\r\nx\r\n", 0.02),
        drip(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x", 0.02),
        drip(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.05),
    ],
    ids=["body", "chunks", "a header", "headers"],
)
def test_a_server_that_drips_is_left(answer: Answer) -> None:
    with BadServer(answer) as server:
        with pytest.raises(NetworkError, match="too slow: it sent") as caught:
            get(server, SLOW)
        assert KEY in caught.value.message
        assert "mirror" in caught.value.hint
        assert len(server.requests) == 1


def test_headers_without_an_end_are_cut_off() -> None:
    with BadServer(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0)) as server:
        with pytest.raises(NetworkError, match="headers without an end"):
            get(server)
        assert len(server.requests) == 1


def test_a_reader_that_takes_its_time_is_not_the_servers_fault() -> None:
    limits = Limits(pace=Pace(rate=1e6, window=0.2), patience=QUICK)
    pieces: list[bytes] = []
    with BadServer(say(WHOLE, DATA)) as server, HttpStore(server.url, limits) as store:
        for piece in store.stream(KEY):
            if len(pieces) < 3:
                time.sleep(0.3)
            pieces.append(piece)
    assert b"".join(pieces) == DATA


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Busy", "429 Slow Down"])
def test_a_server_that_is_busy_is_asked_again(status: str) -> None:
    busy = say(head(status, Content_Length=0))
    with BadServer(busy, busy, say(head(Content_Length=2), b"ok")) as server:
        assert get(server) == b"ok"
    with BadServer(busy) as server:
        with pytest.raises(NetworkError, match=status) as caught:
            get(server)
        assert server.url in caught.value.message
        assert len(server.requests) == QUICK.attempts


def test_a_server_may_say_when_to_come_again() -> None:
    busy = say(head("503 Busy", Retry_After=1, Content_Length=0))
    with BadServer(busy, say(head(Content_Length=2), b"ok")) as server:
        begin = time.monotonic()
        assert get(server) == b"ok"
        assert time.monotonic() - begin >= 1
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%a, %d %b %Y %H:%M:%S GMT}"
    for words in ("86400", tomorrow):
        with BadServer(say(head("503 Busy", Retry_After=words, Content_Length=0))) as server:
            with pytest.raises(NetworkError, match="503 Busy"):
                get(server)
            assert len(server.requests) == 1, "nobody waits for a day"


@pytest.mark.parametrize("status", ["401 Unauthorized", "400 Bad", "501 No", "304 Not Modified"])
def test_a_refusal_is_final(status: str) -> None:
    with BadServer(say(head(status, Content_Length=0))) as server:
        with pytest.raises(NetworkError, match=status):
            get(server)
        assert len(server.requests) == 1


def test_a_server_that_says_nothing_is_left() -> None:
    limits = Limits(answer=0.2, patience=QUICK)
    with (
        BadServer(silence) as server,
        pytest.raises(NetworkError, match="no answer came in time"),
    ):
        get(server, limits)


def test_nobody_there_is_told_in_a_few_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        HttpStore(f"http://127.0.0.1:{port}/store", LIMITS) as store,
        pytest.raises(NetworkError) as caught,
    ):
        store.find(KEY)
    assert caught.value.message == (
        f"{KEY} cannot be read from http://127.0.0.1:{port}/store: Connection refused"
    )


@pytest.mark.parametrize(
    "answer",
    [
        say(b"SSH-2.0-OpenSSH_9.2\r\n"),
        say(b"HTTP/1.1 abc\r\n\r\n"),
        say(b""),
        say(head(Content_Length=3, Content_Encoding="gzip"), b"abc"),
        say(head(Transfer_Encoding="chunked"), b"zzz\r\n"),
    ],
    ids=["no HTTP", "no status", "nothing", "compressed", "no chunks"],
)
def test_what_is_no_answer_is_told(answer: Answer) -> None:
    with BadServer(answer) as server, pytest.raises(NetworkError, match=KEY):
        get(server)


def test_without_etags_a_time_tells_states_apart_once_it_is_old() -> None:
    old, now = "Mon, 02 Mar 2026 10:00:00 GMT", "Mon, 02 Mar 2026 10:00:59 GMT"
    later = "Mon, 02 Mar 2026 10:01:00 GMT"

    def answer(date: str) -> Answer:
        return say(head(Content_Length=2, Last_Modified=old, Date=date), b"ok")

    unchanged = say(head("304 Not Modified"))
    with BadServer(answer(now), answer(later), unchanged) as server, HttpStore(server.url) as store:
        assert store.get_changed(KEY, "", limit=9) == (b"ok", "")
        assert store.get_changed(KEY, "", limit=9) == (b"ok", old)
        assert store.get_changed(KEY, old, limit=9) is None
        assert server.header(2, "If-Modified-Since") == old


def test_a_server_that_knows_no_conditions_costs_more_and_nothing_else() -> None:
    same = say(head(Content_Length=2, ETag=ETAG), b"ok")
    with BadServer(same) as server, HttpStore(server.url, LIMITS) as store:
        assert store.get_changed(KEY, ETAG, limit=9) is None
