"""What a site's link carries: counted on a real socket, both ways, headers included.

If these fail, a thousand machines behind a slow line pay for every release that was ever made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.serve import serve
from pipeline.store.base import release_key
from pipeline.store.http import HttpStore
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from tests.fakes.bad_server import Wire
from tests.fakes.nginx import nginx
from tests.fakes.pointers import make_pointer, make_published
from tests.fakes.proxy import Proxy
from tests.fakes.repository import SignedStore

IMAGES = tuple(f"edge-image-{number:02}" for number in range(20))
RELEASES = 50  # of each image: 1,000 in all
CHANGES = 40  # versions of each channel before the last one
HISTORY = 10  # releases that a channel can go back to
REVOKED = 20

IDLE = 1024
FIRST = 40 << 10


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SignedStore, Path]:
    """A store in which much has happened, in memory and in a folder."""
    signed = SignedStore(images=[])
    for image in IMAGES:
        for number in range(1, RELEASES + 1):
            release = make_published(image, number)
            key = release_key(image, release.version)
            signed.store.create(key, release.model_dump_json().encode())
    for channel in ("dev", "candidate", "stable"):
        for number in range(1, CHANGES + 1):
            image = IMAGES[number % len(IMAGES)]
            signed.change(channel, make_pointer(channel, image, number))
        pointers = (
            make_pointer(channel, image, RELEASES, history=HISTORY, revoked=REVOKED)
            for image in IMAGES
        )
        signed.change(channel, *pointers)
    folder = tmp_path_factory.mktemp("wire") / "store"
    signed.write_to(folder)
    return signed, folder


@pytest.fixture(scope="module", params=["recast serve", "nginx"])
def url(
    request: pytest.FixtureRequest,
    signed: tuple[SignedStore, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Where the store is served."""
    _, folder = signed
    if request.param == "nginx":
        with nginx(folder, tmp_path_factory.mktemp("nginx") / "work") as at:
            yield at
    else:
        with serve(folder) as server:
            yield server.url


def test_a_first_and_an_idle_check(
    signed: tuple[SignedStore, Path], url: str, tmp_path: Path
) -> None:
    root, image = signed[0].root, IMAGES[7]
    assert len(list((signed[1] / "releases").rglob("*.json"))) == 1000
    with Wire(url) as wire, HttpStore(wire.url) as store:
        client = TrustClient(store, tmp_path / "trust", root)
        assert client.check()
        pointer = client.pointer("stable", image)
        first = wire.total
    assert pointer.release == make_published(image, RELEASES)
    assert pointer.previous == make_published(image, RELEASES - 1)
    assert (len(pointer.history), len(pointer.revoked)) == (HISTORY, REVOKED)
    with Wire(url) as wire, HttpStore(wire.url) as store:
        client = TrustClient(store, tmp_path / "trust", root)
        assert not client.check()
        idle = wire.total
        assert client.pointer("stable", image) == pointer
        assert wire.total == idle
        assert wire.connections == 1
    assert 5000 < first < FIRST
    assert 100 < idle < IDLE


def test_an_idle_check_is_one_conditional_request(
    signed: tuple[SignedStore, Path], url: str, tmp_path: Path
) -> None:
    with Proxy(url).running() as proxy, HttpStore(proxy.url) as store:
        assert TrustClient(store, tmp_path, signed[0].root).check()
        proxy.seen.clear()
        assert not TrustClient(store, tmp_path, signed[0].root).check()
    (seen,) = proxy.seen
    assert (seen.method, seen.path) == ("GET", f"/{layout.TIMESTAMP_KEY}")
    assert seen.headers["if-none-match"]


def test_news_of_another_channel_cost_little(tmp_path: Path) -> None:
    """Whatever happens in dev, all day long, a machine that follows stable asks for none of it."""
    signed = SignedStore(images=IMAGES)
    folder = tmp_path / "store"
    signed.write_to(folder)
    with serve(folder) as server, HttpStore(server.url) as store:
        client = TrustClient(store, tmp_path / "trust", signed.root)
        client.pointer("stable", IMAGES[0])
        signed.change("dev", make_pointer("dev", IMAGES[0], 2))
        signed.write_to(folder)
        with Wire(server.url) as wire, HttpStore(wire.url) as store:
            client = TrustClient(store, tmp_path / "trust", signed.root)
            assert client.check()
            client.pointer("stable", IMAGES[0])
            assert 1000 < wire.total < 4096
