"""If these fail, a site asks a troubled server too often, too late, or believes odd headers."""

from __future__ import annotations

import io
import socket
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.store.http_errors import Again, Patience, reason
from pipeline.store.http_headers import etag_of, length, modified, retry_after, unless
from pipeline.store.paced import Pace, PaceError, _Counted


def test_pauses_grow_have_a_limit_and_are_not_in_step() -> None:
    patience = Patience(attempts=9, first=1.0, longest=10.0)
    for failures, most in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (8, 10)]:
        pauses = [patience.pause(Again("x"), failures) for _ in range(100)]
        assert all(pause is not None and most / 2 <= pause <= most for pause in pauses)
        assert len(set(pauses)) > 50
    assert patience.pause(Again("x"), 9) is None


def test_a_server_may_ask_for_a_pause_within_reason() -> None:
    patience = Patience(attempts=3, first=0.1, longest=10.0)
    assert patience.pause(Again("x", after=10.0), 1) == 10.0
    assert patience.pause(Again("x", after=10.1), 1) is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "no answer came in time"),
        (ValueError("odd"), "ValueError"),
    ],
)
def test_a_reason_is_found_under_layers(error: Exception, text: str) -> None:
    try:
        try:
            raise error
        except type(error) as inner:
            raise RuntimeError("HTTPPool(…): Max retries exceeded", inner) from inner
    except RuntimeError as outer:
        found = reason(outer)
    assert found == (text if text != "ValueError" else "RuntimeError")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("12", 12), ("", None), ("-1", None), ("1 2", None), ("９", None), ("9" * 19, None)],
)
def test_a_length_is_a_number_or_nothing(text: str, size: int | None) -> None:
    assert length({"Content-Length": text}) == size


def test_a_time_to_come_again() -> None:
    assert retry_after({}) == 0
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"Retry-After": "soon"}) == 0
    soon = f"{datetime.now(UTC) + timedelta(seconds=100):%a, %d %b %Y %H:%M:%S GMT}"
    assert 90 < retry_after({"Retry-After": soon}) <= 100
    assert retry_after({"Retry-After": "Mon, 02 Mar 2020 10:00:00 GMT"}) == 0


@pytest.mark.parametrize(
    "text", ["", "yesterday", "Mon, 99 Mar 2026 10:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -0500"]
)
def test_an_odd_time_of_change_is_long_ago(text: str) -> None:
    assert modified({"Last-Modified": text}) == datetime.fromtimestamp(0, UTC)


def test_conditions() -> None:
    time = "Mon, 02 Mar 2026 10:00:00 GMT"
    assert unless("") == unless("of another store") == {}
    assert unless('"x"') == {"If-None-Match": '"x"'}
    assert unless('W/"x"') == {"If-None-Match": 'W/"x"'}
    assert unless(time) == {"If-Modified-Since": time}
    assert etag_of({"ETag": '"x"', "Last-Modified": time}) == '"x"'
    assert etag_of({"Last-Modified": time}) == ""
    assert etag_of({"Last-Modified": time, "Date": "nonsense"}) == ""


class Clock:
    """A socket whose every byte takes a second; and the clock that says so."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time

    def source(self, pieces: list[int]) -> io.RawIOBase:
        clock = self

        class Source(io.RawIOBase):
            def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
                clock.time += 1
                return pieces.pop(0) if pieces else 0

        return Source()


@pytest.mark.parametrize(
    ("pieces", "fails"),
    [
        ([10] * 100, False),
        ([9] * 10, True),
        ([0] * 9, False),
        ([100] + [0] * 9, False),
        ([1000] + [0] * 30, True),
    ],
)
def test_a_pace_is_an_average_over_a_while(
    monkeypatch: pytest.MonkeyPatch, pieces: list[int], fails: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr("pipeline.store.paced.time", clock)
    count = len(pieces)
    counted = _Counted(clock.source(pieces), Pace(rate=10.0, window=10.0))

    def read() -> None:
        for _ in range(count):
            counted.readinto(bytearray(1000))
            clock.time += 1000  # what the reader does meanwhile does not count

    if fails:
        with pytest.raises(PaceError, match="too slow"):
            read()
    else:
        read()
