"""Attacks that need a wire: a server that is slow without end, or never ends, or lies about it.

The others are in tests/unit/test_attacks.py.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.errors import NetworkError, TrustError
from pipeline.serve import serve
from pipeline.store.http import HttpStore, Limits
from pipeline.store.http_errors import Patience
from pipeline.store.paced import Pace
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from tests.fakes.bad_server import Answer, BadServer, drip, head, say, silence
from tests.fakes.machine import WEB, version
from tests.fakes.pointers import make_pointer
from tests.fakes.proxy import Fault, Proxy
from tests.fakes.repository import SignedStore

# As a device has it, in less time: 1,000 bytes per second over a second.
LIMITS = Limits(
    connect=5.0, answer=2.0, pace=Pace(rate=1000.0, window=1.0), patience=Patience(2, 0.01, 0.1)
)
LONG = 60.0  # seconds; an attacker's server would take for ever


class TestSlowRetrieval:
    """A server keeps a machine waiting for ever, so that it never gets to ask another one."""

    @pytest.mark.parametrize("what", ["drips", "drips headers", "is silent"])
    def test_a_slow_timestamp(self, tmp_path: Path, what: str) -> None:
        signed = SignedStore()
        data = signed.store.snapshot()[layout.TIMESTAMP_KEY]
        answers: dict[str, Answer] = {
            "drips": drip(head(Content_Length=len(data)), data[:1], 0.05),
            "drips headers": drip(b"HTTP/1.1 200 OK\\r\\nX: ", b"x", 0.05),
            "is silent": silence,
        }
        started = time.monotonic()
        with BadServer(answers[what]) as server, HttpStore(server.url, LIMITS) as store:
            with pytest.raises(NetworkError) as caught:
                TrustClient(store, tmp_path, signed.root).check()
            assert server.url in str(caught.value)
            assert layout.TIMESTAMP_KEY in str(caught.value)
            assert "mirror" in caught.value.hint or "reached" in caught.value.hint
        assert time.monotonic() - started < LONG

    @pytest.mark.parametrize("file", ["2.root", "2.snapshot", "2.stable", "targets/stable"])
    def test_any_other_file(self, tmp_path: Path, file: str) -> None:
        """The machine gives up, keeps what it has, and takes the news once they come."""
        signed = SignedStore()
        folder = tmp_path / "store"
        signed.write_to(folder)
        with (
            serve(folder) as server,
            Proxy(server.url).running() as proxy,
            HttpStore(proxy.url, LIMITS) as store,
        ):
            client = TrustClient(store, tmp_path / "trust", signed.root)
            assert wanted(client) == version(1)
            signed.change_root(lambda root: None)
            signed.change("stable", make_pointer("stable", WEB, 2))
            signed.write_to(folder)
            proxy.fault(Fault.DRIP, path=file, times=10)
            started = time.monotonic()
            with pytest.raises(NetworkError, match="too slow"):
                follow(client)
            assert time.monotonic() - started < LONG
            proxy.behave()
            assert follow(client) == version(2)


class TestEndlessData:
    """A server sends what never ends: no more is read than the file can honestly have."""

    @pytest.mark.parametrize("length", [None, 1 << 40, 5])
    def test_a_timestamp_without_end(self, tmp_path: Path, length: int | None) -> None:
        signed = SignedStore()
        begin = head() if length is None else head(Content_Length=length)
        with (
            BadServer(say(begin, *[bytes(1 << 16)] * 400)) as server,
            HttpStore(server.url) as store,
        ):
            with pytest.raises(TrustError) as caught:
                TrustClient(store, tmp_path, signed.root).check()
            if length != 5:
                assert "longer than the 16384 bytes" in str(caught.value)
            else:
                assert "cannot be read as signed metadata" in str(caught.value)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 20_000


def wanted(client: TrustClient) -> str:
    release = client.pointer("stable", WEB).release
    assert release is not None
    return release.version


def follow(client: TrustClient) -> str:
    client.check()
    return wanted(client)
