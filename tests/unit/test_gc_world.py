"""Clearing up a store that is truly signed: what channels say is read and verified."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.channels.desk import Desk
from pipeline.channels.facts import touch_objects
from pipeline.channels.gc import Collected, collect
from pipeline.channels.lease import Lease, wait_for_collectors
from pipeline.channels.look import look
from pipeline.channels.pointers import moved, new_rollout
from pipeline.errors import TrustError, UsageError
from pipeline.models.channel import ALL_AT_ONCE, ChannelDefinition, Channels, Gates, Retention
from pipeline.models.pointer import Event, PublishedRelease
from pipeline.policy.retention import objects_of
from pipeline.store.base import object_key, release_key
from pipeline.trust import layout
from pipeline.trust.views import ChannelChange, ChannelView
from tests.fakes.store import MemoryStore
from tests.fakes.world import World

RETENTION = Retention(keep=2, grace=86400.0)
TWO = Channels(
    channels=(
        ChannelDefinition(name="dev"),
        ChannelDefinition(name="stable", gates=Gates(approvals=2)),
    ),
    retention=RETENTION,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def world(tmp_path: Path, store: MemoryStore) -> World:
    return World(tmp_path, store=store)


def clear(world: World, store: MemoryStore, desk: Desk | None = None) -> Collected:
    """Two days later, when all that is there is old."""
    for key in store.snapshot():
        store.age(key, timedelta(days=2))
    who = desk or world.desk
    return collect(world.store, lambda: look(who.client, who.repository), RETENTION)


def keys_of(*releases: PublishedRelease) -> set[str]:
    return {
        key
        for release in releases
        for key in (
            release_key(release.image, release.version),
            *map(object_key, objects_of(release)),
        )
    }


def left(store: MemoryStore) -> set[str]:
    return {key for key in store.snapshot() if key.startswith(("objects/", "releases/"))}


def into(world: World, release: PublishedRelease) -> Callable[[ChannelView], ChannelChange]:
    """The change that puts *release* into a channel."""

    def decide(view: ChannelView) -> ChannelChange:
        rollout = new_rollout(view.name, release, ALL_AT_ONCE, world.present)
        pointer = moved(view.pointers.get(release.image), view.name, release, rollout, keep=2)
        event = Event(action="promote", at=world.present, image=release.image)
        return ChannelChange(event=event, pointers={release.image: pointer})

    return decide


def test_channels_keep_what_they_hold_and_can_go_back_to(world: World, store: MemoryStore) -> None:
    releases = [world.publish() for _ in range(6)]
    world.hold("stable", *releases[:4])
    world.hold("dev", releases[5])
    found = clear(world, store)
    # Of what stable held, the last two that it can go back to; the fifth nobody ever held.
    assert left(store) == keys_of(*releases[1:4], releases[5])
    assert not found.notices


def test_a_store_that_was_cleared_is_whole_for_old_and_new_machines(
    world: World, store: MemoryStore
) -> None:
    releases = [world.publish() for _ in range(4)]
    old = world.client()
    world.hold("stable", *releases)
    old.check()
    versions = [entry.version for entry in world.repository.history("stable")]
    found = clear(world, store)
    assert {each.kind for each in found.removed} >= {"snapshot", "release"}
    for client in (old, world.client()):
        client.check()
        pointer = client.pointer("stable", "edge-web")
        assert pointer.release == releases[-1]
    assert [entry.version for entry in world.repository.history("stable")] == versions
    world.hold("stable", releases[-2])  # and it can be changed
    assert world.client().pointer("stable", "edge-web").release == releases[-2]


def test_what_is_signed_and_not_yet_published_stays(world: World, store: MemoryStore) -> None:
    """It waits for the online key: no machine sees it yet."""
    releases = [world.publish() for _ in range(2)]
    world.hold("stable", releases[0])
    alice = world.engineer("alice")
    outcome = alice.repository.change_channel("stable", into(world, releases[1]))
    assert not outcome.published
    assert world.client().pointer("stable", "edge-web").release == releases[0]
    clear(world, store)
    assert left(store) == keys_of(*releases)


def test_what_is_proposed_stays_until_the_channel_moves_on(
    tmp_path: Path, store: MemoryStore
) -> None:
    world = World(
        tmp_path,
        store=store,
        channels=TWO,
        holders={"stable": ("alice", "bert"), "dev": ("alice",)},
    )
    held, proposed, other = (world.publish() for _ in range(3))
    world.hold("stable", held)
    alice = world.engineer("alice", "online")
    outcome = alice.repository.change_channel(
        "stable",
        into(world, proposed),
        propose=True,
    )
    assert outcome.proposal
    world.publish()  # the waste that shows that anything goes at all
    clear(world, store)
    assert left(store) == keys_of(held, proposed)
    bert = world.engineer("bert", "online")
    assert bert.repository.approve(outcome.proposal).published, "it can still be approved"

    again = alice.repository.change_channel("stable", into(world, held), propose=True)
    assert again.proposal
    world.hold("stable", world.publish())
    found = clear(world, store)
    assert {each.key for each in found.removed if each.kind == "proposal"} == {
        key for key in (each.key for each in found.removed) if again.proposal in key
    }
    assert not any(key.startswith("proposals/") for key in store.snapshot())
    assert not keys_of(other) & left(store) - keys_of(held, proposed)


def test_whoever_has_no_keys_can_clear_up(world: World, store: MemoryStore) -> None:
    release = world.publish()
    world.publish()
    world.hold("stable", release)
    clear(world, store, world.engineer())
    assert left(store) == keys_of(release)


@pytest.mark.parametrize("role", ["stable", "targets", "snapshot"])
def test_metadata_that_cannot_be_believed_stop_everything(
    world: World, store: MemoryStore, role: str
) -> None:
    release = world.publish()
    world.publish()
    world.hold("stable", release)
    version = max(
        parsed[1]
        for key in store.snapshot()
        if (parsed := layout.parse_metadata_key(key)) and parsed[0] == role
    )
    key = layout.metadata_key(role, version)
    store.corrupt(key, store.get(key, limit=1 << 20).replace(b'"version"', b'"versiom"'))
    before = left(store)
    with pytest.raises(TrustError):
        clear(world, store, world.engineer())
    assert left(store) == before


def test_a_lost_pointer_stops_everything(world: World, store: MemoryStore) -> None:
    release = world.publish()
    world.publish()
    world.hold("stable", release)
    (key,) = (key for key in store.snapshot() if key.startswith("targets/stable/"))
    store.delete(key)
    before = left(store)
    with pytest.raises(TrustError):
        clear(world, store, world.engineer())
    assert left(store) == before


def test_a_promotion_waits_for_a_collector_and_notices_what_it_took(
    world: World, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = world.publish()
    lost = object_key(release.manifest.digest)
    with Lease(store) as lease:

        def sleep(_seconds: float) -> None:
            """The collector had looked before we touched; it removes, and ends."""
            store.delete(lost)
            store.delete(lease.key)

        monkeypatch.setattr(wait_for_collectors, "__kwdefaults__", {"sleep": sleep})
        with pytest.raises(UsageError, match="is not whole in the store") as caught:
            touch_objects(world.desk, release)
    assert lost in caught.value.message
