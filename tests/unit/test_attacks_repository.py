"""The attacks again, one of each kind, against a store that Recast itself has made and changed.

All of them are in test_attacks.py, against metadata made by hand: what the two have in common is
what machines rely on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from pipeline import digest
from pipeline.errors import TrustError
from pipeline.models.pointer import PublishedRelease
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from pipeline.trust.refusals import ExpiredError
from tests.fakes.repository import travel
from tests.fakes.store import MemoryStore
from tests.fakes.world import World

WEB = "edge-web"
_T = TypeVar("_T", Root, Timestamp, Snapshot, Targets)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def world(store: MemoryStore, tmp_path: Path) -> World:
    """Stable holds its second release; alice signs for dev, bob and carol for stable."""
    holders = {"dev": ["alice"], "candidate": ["alice"], "stable": ["bob", "carol"]}
    world = World(tmp_path, store=store, holders=holders)
    world.hold("stable", world.publish(), world.publish())
    return world


@pytest.fixture
def machine(world: World) -> TrustClient:
    """A machine that has followed stable so far."""
    client = world.client()
    follow(client)
    return client


def follow(client: TrustClient) -> str:
    """Look for news; the version that the machine should run."""
    client.check()
    release = client.pointer("stable", WEB).release
    assert release is not None
    return release.version


def newer(world: World) -> PublishedRelease:
    """A release that has just come into stable."""
    release = world.publish()
    world.hold("stable", release)
    return release


def newest(store: MemoryStore, role: str) -> str:
    """The key of the newest file of a role."""
    if role == layout.TIMESTAMP:
        return layout.TIMESTAMP_KEY
    parsed = (layout.parse_metadata_key(key) for key in store.snapshot())
    return layout.metadata_key(role, max(each[1] for each in parsed if each and each[0] == role))


def forge(
    world: World, store: MemoryStore, role: str, edit: Callable[[_T], None], *names: str
) -> None:
    """Sign the next version of a role's metadata with stolen keys."""
    metadata: Metadata[_T] = Metadata.from_bytes(store.snapshot()[newest(store, role)])
    metadata.signed.version += 1
    edit(metadata.signed)
    metadata.signatures.clear()
    for name in names:
        signer = world.keyring.signer(world.keyring.public(name))
        assert signer is not None
        metadata.sign(signer, append=True)
    store.corrupt(layout.metadata_key(role, metadata.signed.version), metadata.to_bytes())


def vouch(world: World, store: MemoryStore, *roles: str) -> None:
    """Sign snapshot and timestamp for forged files, with the stolen online key."""

    def name_roles(snapshot: Snapshot) -> None:
        for role in roles:
            data = store.snapshot()[newest(store, role)]
            meta = snapshot.meta[f"{role}.json"]
            meta.version += 1
            meta.length, meta.hashes = len(data), {"sha256": digest.of_bytes(data)}

    def name_snapshot(timestamp: Timestamp) -> None:
        data = store.snapshot()[newest(store, layout.SNAPSHOT)]
        meta = timestamp.snapshot_meta
        meta.version += 1
        meta.length, meta.hashes = len(data), {"sha256": digest.of_bytes(data)}

    forge(world, store, layout.SNAPSHOT, name_roles, layout.ONLINE)
    forge(world, store, layout.TIMESTAMP, name_snapshot, layout.ONLINE)


def refuses(client: TrustClient, *words: str) -> TrustError:
    with pytest.raises(TrustError) as caught:
        follow(client)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint
    return caught.value


def nothing(_: Timestamp) -> None:
    """Changes nothing but the version."""


def test_honest_changes_are_followed(world: World, machine: TrustClient) -> None:
    assert not machine.check()
    release = newer(world)
    assert follow(machine) == release.version
    channel = machine.channel("stable")
    assert channel is not None
    assert channel.state is not None
    assert channel.state.event.action == "promote"
    assert set(channel.signers) <= {"bob", "carol"}
    world.wait(timedelta(days=4))
    world.repository.refresh()
    assert machine.check()


def test_arbitrary_software(world: World, store: MemoryStore, machine: TrustClient) -> None:
    newer(world)
    for key in [key for key in store.snapshot() if key.startswith("targets/stable/")]:
        store.corrupt(key, store.snapshot()[key].replace(b"edge-web", b"edge-bad"))
    refuses(machine, "is not what channel stable has signed for edge-web")


def test_rollback(world: World, store: MemoryStore, machine: TrustClient) -> None:
    old = store.snapshot()
    newer(world)
    follow(machine)
    store.restore(old)
    refuses(machine, "step back", "of the timestamp")


def test_fast_forward_recovery(world: World, store: MemoryStore, machine: TrustClient) -> None:
    """Versions were driven up with the stolen online key; its holders change that key."""

    def far(timestamp: Timestamp) -> None:
        timestamp.version += 10**9

    honest = store.snapshot()
    forge(world, store, layout.TIMESTAMP, far, layout.ONLINE)
    machine.check()
    store.restore(honest)
    refuses(machine, "step back", "has seen version 100")
    key = world.keyring.generate("online-2", None)

    def edit(root: Root) -> None:
        for role in (layout.SNAPSHOT, layout.TIMESTAMP):
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            root.add_key(key, role)

    world.repository.change_root(edit)
    release = newer(world)
    assert follow(machine) == release.version
    forge(world, store, layout.TIMESTAMP, nothing, layout.ONLINE)
    refuses(machine, "metadata/timestamp.json", "0 of the 1 signatures")


def test_indefinite_freeze(
    world: World, machine: TrustClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    travel(monkeypatch, world.present + timedelta(days=8))
    assert isinstance(refuses(machine, "the timestamp", "was good until"), ExpiredError)


def test_endless_data(world: World, store: MemoryStore, machine: TrustClient) -> None:
    store.corrupt(layout.TIMESTAMP_KEY, bytes(layout.MAX_TIMESTAMP + 1))
    refuses(machine, layout.TIMESTAMP_KEY, "not read any further")


def test_extraneous_dependencies(world: World, store: MemoryStore, machine: TrustClient) -> None:
    """The keys of stable are stolen too: even they cannot serve what belongs to dev."""
    world.hold("dev", world.publish())
    (pointer,) = (d for k, d in store.snapshot().items() if k.startswith("targets/dev/"))

    def edit(stable: Targets) -> None:
        target = TargetFile.from_data("stable/edge-web.json", pointer, ["sha256"])
        stable.targets[target.path] = target
        store.corrupt(layout.POINTERS + target.get_prefixed_paths()[0], pointer)

    forge(world, store, "stable", edit, "bob", "carol")
    vouch(world, store, "stable")
    refuses(machine, "in channel dev, not of edge-web in stable", "only where it belongs")


def test_mix_and_match(world: World, store: MemoryStore, machine: TrustClient) -> None:
    old = store.snapshot()[newest(store, "stable")]
    newer(world)
    store.corrupt(newest(store, "stable"), old)
    refuses(machine, newest(store, "stable"), "different states of a store are mixed")


@pytest.mark.parametrize("thief", ["online", "alice", "builder", "tester", "targets", "root"])
def test_stolen_keys(world: World, store: MemoryStore, machine: TrustClient, thief: str) -> None:
    """Whoever has one of them and the online key cannot change stable."""

    def edit(stable: Targets) -> None:
        stable.targets.clear()

    forge(world, store, "stable", edit, thief)
    vouch(world, store, "stable")
    refuses(machine, newest(store, "stable"), "0 of the 1 signatures that channel stable needs")


@pytest.mark.parametrize("role", [layout.TIMESTAMP, layout.SNAPSHOT])
def test_the_online_roles_need_the_online_key(
    world: World, store: MemoryStore, machine: TrustClient, role: str
) -> None:
    vouch(world, store)
    data = json.loads(store.snapshot()[newest(store, role)])
    data["signatures"][0]["sig"] = "00" * 64
    store.corrupt(newest(store, role), json.dumps(data, separators=(",", ":")).encode())
    reason = "0 of the 1" if role == layout.TIMESTAMP else "is not the file that"
    refuses(machine, newest(store, role), reason)
