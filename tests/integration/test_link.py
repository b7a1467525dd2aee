"""A part over a bad link: it resumes or says why not, and nothing that is right comes twice.

A real web server behind links that are cut, slow, lossy, or bring other bytes. Sizes and pauses are
those of tests; rates are relative to them.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.errors import DigestError, NetworkError, RecastError, TrustError
from pipeline.models.pointer import PublishedRelease
from pipeline.serve import serve
from pipeline.store.base import MissingError, object_key
from pipeline.store.http import HttpStore, Limits
from pipeline.store.http_errors import Patience
from pipeline.store.paced import Pace
from pipeline.transfer.source import StoreSource
from pipeline.trust.client import TrustClient
from tests.fakes.bad_server import BadServer, drip, head, say
from tests.fakes.link import Link
from tests.fakes.machine import WEB, version
from tests.fakes.nginx import nginx
from tests.fakes.places import Place, framed, named
from tests.fakes.pointers import make_pointer
from tests.fakes.proxy import Fault, Proxy
from tests.fakes.repository import SignedStore
from tests.fakes.store import MemoryStore

SEGMENT = 64 << 10
SIZE = 40 * SEGMENT - 123
THIN = 4e6  # bytes per second; then not all is in buffers already when a link is cut
REQUEST = 1 << 10  # bytes of an answer's head, at most
LIMITS = Limits(
    connect=5.0, answer=5.0, pace=Pace(rate=1000.0, window=1.0), patience=Patience(2, 0.01, 0.1)
)


@dataclass
class World:
    """A store on a disk, and what is in it."""

    folder: Path
    data: bytes
    release: PublishedRelease

    @property
    def stored(self) -> int:
        part = self.release.parts["root"]
        assert part.stored is not None
        return part.stored.size

    @property
    def key(self) -> str:
        part = self.release.parts["root"]
        assert part.stored is not None
        return object_key(part.stored.digest)

    @property
    def table(self) -> str:
        part = self.release.parts["root"]
        assert part.segments is not None
        return object_key(part.segments.digest)


@pytest.fixture(params=["zstd", "plain"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    chance = random.Random(1)
    data = b"".join(chance.randbytes(SEGMENT // 2) + bytes(SEGMENT // 2) for _ in range(40))[:SIZE]
    store = MemoryStore()
    release = framed(store, data, SEGMENT, compressed=request.param == "zstd")
    folder = tmp_path / "store"
    for key, body in store.snapshot().items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return World(folder, data, release)


@contextmanager
def linked(world: World) -> Iterator[tuple[Link, HttpStore]]:
    """A link to a server of *world*, and a store behind it."""
    with serve(world.folder) as server:
        port = urlsplit(server.url).port
        assert port is not None
        with (
            Link(port).running() as link,
            HttpStore(f"http://127.0.0.1:{link.own_port}", LIMITS) as store,
        ):
            yield link, store


def fill(world: World, store: HttpStore, target: Place) -> int:
    """Fetch the root; returns the bytes that came."""
    return StoreSource(store).fill(world.release, "root", target, []).downloaded


# --- cuts -------------------------------------------------------------------------------------


@pytest.mark.soak
def test_a_link_that_is_cut_at_random_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cut ends the fetching; the next one goes on. What is whole does not come again."""
    monkeypatch.setattr("pipeline.transfer.ranged._PROGRESS", SIZE)  # as if it stayed away
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    target = Place(b"", SIZE)
    cuts = 0
    with linked(world) as (link, _):
        for _ in range(200):
            link.cut_after = chance.randrange(1, world.stored // 3)
            # A store that gives up at once, as after many cuts in a row.
            impatient = Limits(patience=Patience(1, 0.01, 0.1))
            with HttpStore(f"http://127.0.0.1:{link.own_port}", impatient) as store:
                try:
                    fill(world, store, target)
                    break
                except NetworkError:
                    cuts += 1
        passed = link.passed
    assert bytes(target.data) == world.data, f"seed {seed}"
    assert cuts
    assert target.written == SIZE, "each block is written once"
    # Of each try: the table once more, and of one segment what had come before the cut.
    table = (world.folder / world.table).stat().st_size
    most = world.stored + (cuts + 1) * (table + SEGMENT + SEGMENT // 100 + 2 * REQUEST + (64 << 10))
    assert passed <= most, f"{passed} bytes came for {world.stored}, with {cuts} cuts; seed {seed}"


def test_a_link_that_is_cut_and_is_back_at_once_is_not_noticed(world: World) -> None:
    target = Place(b"", SIZE)
    with linked(world) as (link, store):
        link.cut_after = world.stored // 2
        downloaded = fill(world, store, target)
    assert bytes(target.data) == world.data
    table = (world.folder / world.table).stat().st_size
    assert downloaded == world.stored + table


def test_after_the_link_came_back_only_the_rest_is_fetched(world: World) -> None:
    target = Place(b"", SIZE)
    with linked(world) as (link, store):
        link.rate = THIN

        def heard(right: int, _: int) -> None:
            if right >= SIZE // 2:
                link.up = False
                link.cut()

        with pytest.raises(NetworkError):
            StoreSource(store).fill(world.release, "root", target, [], progress=heard)
        kept = sum(world.data[at] == target.data[at] for at in range(0, SIZE, SEGMENT))
        assert target.durable == bytes(target.data), "what came must outlive a power cut"
        assert kept >= 19
        link.up = True
        downloaded = fill(world, store, target)
    assert bytes(target.data) == world.data
    assert downloaded <= world.stored * 0.56 + 4096, "half was there"


def test_a_link_that_is_cut_again_and_again_brings_all_in_one_go(world: World) -> None:
    """Segments are large: on a link that comes and goes, each would else begin anew for ever."""
    target = Place(b"", SIZE)
    impatient = Limits(patience=Patience(1, 0.01, 0.1))
    with linked(world) as (link, _):
        link.cut_every = 200_000
        with HttpStore(f"http://127.0.0.1:{link.own_port}", impatient) as store:
            filled = StoreSource(store).fill(world.release, "root", target, [])
    assert bytes(target.data) == world.data
    assert link.cuts > 3
    assert filled.downloaded == world.stored + (world.folder / world.table).stat().st_size


# --- thin and bad links -----------------------------------------------------------------------


def test_a_thin_link_that_loses_for_a_while(world: World) -> None:
    """A fifth of what passes has to be sent again; the server is slow, and never stalls."""
    target = Place(b"", SIZE)
    with linked(world) as (link, store):
        link.rate, link.loss, link.wait = 2e6, 0.2, 0.005

        def heard(right: int, _: int) -> None:
            if right >= SIZE // 4:
                link.rate = link.loss = 0.0

        StoreSource(store).fill(world.release, "root", target, [], progress=heard)
        table = (world.folder / world.table).stat().st_size
        assert link.passed <= world.stored + table + 2 * REQUEST
    assert bytes(target.data) == world.data


def test_a_link_that_is_too_thin_for_any_use_is_told(world: World) -> None:
    target = Place(b"", SIZE)
    with linked(world) as (link, store):
        link.rate = 500.0
        with pytest.raises(NetworkError, match="too slow"):
            fill(world, store, target)
    assert not any(target.data)


def test_a_proxy_that_damages_now_and_then(world: World) -> None:
    """Segments that came wrong come again, the others do not; and nothing wrong is written."""
    target = Place(b"", SIZE)
    with linked(world) as (link, store):
        for _ in range(100):
            link.damage = 0.01
            try:
                fill(world, store, target)
                break
            except RecastError:  # a head that was damaged, or one segment three times
                link.damage = 0.0
                assert all(
                    target.data[at : at + SEGMENT]
                    in (bytes(SEGMENT), world.data[at : at + SEGMENT])
                    for at in range(0, SIZE - SEGMENT, SEGMENT)
                )
        passed = link.passed
    assert bytes(target.data) == world.data
    assert target.written <= SIZE
    assert passed < 6 * world.stored


def test_a_proxy_that_always_damages_is_told(world: World) -> None:
    target = Place(b"", SIZE)
    with (
        serve(world.folder) as server,
        Proxy(server.url).running() as proxy,
        HttpStore(proxy.url, LIMITS) as store,
    ):
        proxy.fault(Fault.WRONG_BYTES, path=world.key, times=float("inf"))
        with pytest.raises(DigestError) as caught:
            fill(world, store, target)
        assert world.key in caught.value.message
        assert "segment" in caught.value.message
        assert "changes what passes" in caught.value.hint
        proxy.behave()
        written = target.written
        fill(world, store, target)
        assert target.written == SIZE, "what had come right was not written again"
        assert written > 0
    assert bytes(target.data) == world.data


# --- what is no store -------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["from the beginning", "in the middle"])
def test_a_captive_portal(world: World, when: str) -> None:
    """It answers HTML with 200 to everything, until somebody signs in."""
    target = Place(b"", SIZE)
    with linked(world) as (link, store):
        if when == "from the beginning":
            link.portal = True

        link.rate = THIN

        def heard(right: int, _: int) -> None:
            if right >= SIZE // 2 and not link.portal:
                link.portal = True
                link.cut()

        with pytest.raises(NetworkError, match="a web page came") as caught:
            StoreSource(store).fill(world.release, "root", target, [], progress=heard)
        assert "sign in" in caught.value.hint
        link.portal = False
        kept = target.written
        fill(world, store, target)
        assert target.written == SIZE
        assert (kept > 0) == (when == "in the middle")
    assert bytes(target.data) == world.data


@pytest.mark.parametrize("what", ["table", "object"])
@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_the_store_has_not(world: World, what: str, status: int) -> None:
    key = world.table if what == "table" else world.key
    target = Place(b"", SIZE)
    with (
        serve(world.folder) as server,
        Proxy(server.url).running() as proxy,
        HttpStore(proxy.url, LIMITS) as store,
    ):
        proxy.fault(Fault.REFUSED, path=key, status=status, times=float("inf"))
        with pytest.raises(MissingError, match=key) as caught:
            fill(world, store, target)
        assert world.release.name in caught.value.hint
        proxy.behave()
        fill(world, store, target)
    assert bytes(target.data) == world.data


def test_a_server_that_answers_with_another_range(world: World) -> None:
    body = (world.folder / world.key).read_bytes()
    table = (world.folder / world.table).read_bytes()
    wrong = head(
        "206 Partial Content",
        Content_Length=len(body),
        Content_Range=f"bytes 0-{len(body) - 1}/{len(body)}",
    )
    target = Place(world.data)
    target.data[5 * SEGMENT] ^= 1
    answers = [say(head(Content_Length=len(table)), table), say(wrong, body)]
    with (
        BadServer(*answers) as server,
        HttpStore(server.url, LIMITS) as store,
        pytest.raises(NetworkError, match="another part of"),
    ):
        fill(world, store, target)
    assert target.writes == []


def test_a_server_without_ranges_is_enough(world: World) -> None:
    """More comes then than is wanted; what is put together is the same."""
    body = (world.folder / world.key).read_bytes()
    table = (world.folder / world.table).read_bytes()
    target = Place(world.data)
    target.data[5 * SEGMENT] ^= 1
    answers = [say(head(Content_Length=len(each)), each) for each in (table, body)]
    with BadServer(*answers) as server, HttpStore(server.url, LIMITS) as store:
        fill(world, store, target)
    assert bytes(target.data) == world.data


@pytest.mark.parametrize("body", [b"\0", b"<html>", b"\x28\xb5\x2f\xfd"])
def test_a_body_without_end(world: World, body: bytes) -> None:
    table = (world.folder / world.table).read_bytes()
    target = Place(b"", SIZE)
    answers = [say(head(Content_Length=len(table)), table), drip(head(), body * 20_000, 0.001)]
    with (
        BadServer(*answers) as server,
        HttpStore(server.url, LIMITS) as store,
        pytest.raises((DigestError, NetworkError)),
    ):
        fill(world, store, target)
    assert target.writes == []


def test_a_table_without_end(world: World) -> None:
    target = Place(b"", SIZE)
    with (
        BadServer(drip(head(), bytes(1 << 16), 0.001)) as server,
        HttpStore(server.url, LIMITS) as store,
        pytest.raises(DigestError, match=world.table),
    ):
        fill(world, store, target)
    assert target.writes == []


def test_a_mirror_of_plain_files(world: World, tmp_path: Path) -> None:
    """nginx, as a site would have it: gaps are fetched by range."""
    target = Place(world.data)
    for number in (3, 4, 20, 39):
        target.data[number * SEGMENT] ^= 1
    with nginx(world.folder, tmp_path / "nginx") as url, HttpStore(url) as store:
        fill(world, store, target)
    assert bytes(target.data) == world.data


def test_a_store_that_goes_back_in_time_is_refused(tmp_path: Path) -> None:
    """What is signed and old is refused before a byte of a release is asked for."""
    signed = SignedStore()
    folder = tmp_path / "store"
    old = signed.store.snapshot()
    signed.change("stable", make_pointer("stable", WEB, 2))
    signed.write_to(folder)
    with serve(folder) as server, HttpStore(server.url, LIMITS) as store:
        client = TrustClient(store, tmp_path / "trust", signed.root)
        client.check()
        release = client.pointer("stable", WEB).release
        assert release is not None
        assert release.version == version(2)
        signed.store.restore(old)
        signed.write_to(folder)
        with pytest.raises(TrustError):
            TrustClient(store, tmp_path / "trust", signed.root).check()


# --- memory -----------------------------------------------------------------------------------

FILLER = """
import re, sys
from pathlib import Path
from pipeline.models.pointer import PublishedRelease
from pipeline.store.http import HttpStore
from pipeline.transfer.source import StoreSource
import requests, zstandard
class File:
    def __init__(self, path, name=""):
        self.file = open(path, "r+b", buffering=0); self.name = name
        self.size = self.file.seek(0, 2)
    def identity(self):
        return self.name
    def read(self, at, size):
        self.file.seek(at); return self.file.read(size)
    def write(self, at, data):
        self.file.seek(at); self.file.write(data)
    def sync(self): pass
def most():  # not ru_maxrss, which begins with that of who started this process
    return int(re.search("VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())[1])
url, description, root, seed, name = sys.argv[1:]
release = PublishedRelease.model_validate_json(Path(description).read_bytes())
store = HttpStore(url)
zstandard.ZstdDecompressor().decompress(zstandard.ZstdCompressor().compress(b"x"))
before = most()
filled = StoreSource(store).fill(release, "root", File(root), [File(seed, name=name)])
print(most() - before, filled.downloaded, filled.how)
"""


def grown(tmp_path: Path, data: bytes, old: bytes, way: str) -> tuple[int, int, str]:
    """Fill a file by one way, over HTTP, in a process of its own.

    Returns:
        KiB by which the process grew, bytes that were downloaded, and how.
    """
    store = MemoryStore()
    release = framed(
        store,
        data,
        1 << 20,
        bases=[old] if way == "delta" else (),
        chunked=[old] if way == "chunks" else None,
    )
    for key, body in store.snapshot().items():
        path = tmp_path / "store" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    (tmp_path / "release.json").write_text(release.model_dump_json())
    (tmp_path / "seed").write_bytes(old)
    with (tmp_path / "root").open("wb") as file:
        file.truncate(len(data))
    words = [str(tmp_path / name) for name in ("release.json", "root", "seed")]
    with serve(tmp_path / "store") as server:
        done = subprocess.run(
            [sys.executable, "-c", FILLER, server.url, *words, named(old).identity()],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert (tmp_path / "root").read_bytes() == data
    size, downloaded, how = done.stdout.strip().split(" ", 2)
    print(f"{size} KiB, {how}")
    return int(size), int(downloaded), how


def test_memory_stays_small_for_a_large_image(tmp_path: Path) -> None:
    """256 MiB, with a seed that is of no use."""
    half = random.Random(0).randbytes(1 << 19)
    data = b"".join(half + bytes([number]) * (1 << 19) for number in range(256))
    size, _, how = grown(tmp_path, data, bytes(1 << 20), "whole")
    assert how.startswith("whole")
    assert size < 24 << 10, f"{size} KiB"


@pytest.mark.parametrize("way", ["delta", "chunks"])
def test_memory_stays_small_for_an_update(tmp_path: Path, way: str) -> None:
    """64 MiB of which some has moved, some is patched, some resembles what was, some is new."""
    chance = random.Random(0)
    old = bytearray(chance.randbytes(64 << 20))
    data = bytearray()
    for number in range(64):
        there = old[number << 20 : (number + 1) << 20]
        patched = there[1 << 19 : 3 << 18]
        patched[::64] = bytes(len(patched) // 64)
        moved = old[(63 - number) << 20 :][: 1 << 19]
        data += moved + patched + there[7 * 13 :][: 1 << 17] + chance.randbytes(1 << 17)
    size, downloaded, how = grown(tmp_path, bytes(data), bytes(old), way)
    assert how.startswith(way)
    assert downloaded < len(data) * (0.3 if way == "delta" else 0.6)
    assert size < 32 << 10, f"{size} KiB"
