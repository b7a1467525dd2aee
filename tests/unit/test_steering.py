"""Rollouts that are steered, channels that are frozen and thawed, versions that are revoked."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.channels.pointers import new_rollout
from pipeline.channels.promote import promote
from pipeline.channels.revoking import find_root_hash, revoke
from pipeline.channels.steering import NO_REASON, freeze, steer, thaw
from pipeline.errors import ConflictError, NetworkError, RefusedError, UsageError
from pipeline.models.channel import ChannelDefinition, Channels, Gates
from pipeline.models.pointer import Pointer, PublishedRelease, Rollout
from pipeline.policy.rollout import reached, share, wave_at
from pipeline.trust.views import ChannelChange, ChannelView
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.world import HOUR, World

DAY = 24 * HOUR


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def rolling(world: World) -> PublishedRelease:
    """A release that spreads in stable: 10% for an hour, 50% for four, then all."""
    release = world.publish()
    world.hold("candidate", release)
    world.wait(DAY)
    promote(world.desk, release, "stable")
    return release


def rollout_of(world: World, image: str = "edge-web") -> Rollout:
    rollout = world.client().pointer("stable", image).rollout
    assert rollout is not None
    return rollout


# --- rollouts


def test_a_rollout_is_advanced_held_resumed_and_halted(
    world: World, rolling: PublishedRelease
) -> None:
    steer(world.desk, "edge-web", "stable", "advance")
    assert reached(rollout_of(world), world.present) == 0.5
    steer(world.desk, "edge-web", "stable", "hold", reason="look first")
    world.wait(DAY)
    assert (rollout_of(world).state, share(rollout_of(world), world.present)) == ("held", 0.5)
    steer(world.desk, "edge-web", "stable", "resume")
    world.wait(3 * HOUR)
    assert wave_at(rollout_of(world), world.present) == 1
    world.wait(HOUR)
    assert wave_at(rollout_of(world), world.present) == 2
    steer(world.desk, "edge-web", "stable", "halt")
    assert share(rollout_of(world), world.present) == 0
    events = [entry.event for entry in world.repository.history("stable")]
    assert [event.action for event in events[:4]] == ["roll"] * 4
    assert [event.reason for event in events[:4]] == [
        "halt",
        "resume",
        "hold: look first",
        "advance",
    ]
    assert {event.version for event in events[:4]} == {rolling.version}


def test_a_rollout_that_is_so_already_is_told_and_not_signed(
    world: World, rolling: PublishedRelease
) -> None:
    steer(world.desk, "edge-web", "stable", "hold")
    version = world.desk.view("stable").version
    with pytest.raises(UsageError, match="held already"):
        steer(world.desk, "edge-web", "stable", "hold")
    with pytest.raises(UsageError, match="stable holds no release of `edge-wbe`") as caught:
        steer(world.desk, "edge-wbe", "stable", "hold")
    assert "edge-web" in caught.value.hint
    assert world.desk.view("stable").version == version


def test_steering_is_about_the_rollout_that_was_seen(
    world: World, rolling: PublishedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = world.publish()
    seen = world.desk.view("stable")
    world.hold("stable", other)
    monkeypatch.setattr(type(world.desk), "view", lambda _desk, _channel: seen)
    with pytest.raises(ConflictError, match=other.version):
        steer(world.desk, "edge-web", "stable", "halt")


# --- frozen


def test_nothing_moves_in_a_frozen_channel_until_it_is_thawed(
    world: World, rolling: PublishedRelease
) -> None:
    done = freeze(world.desk, "stable", reason="a holiday")
    assert done.outcome is not None
    pointer = world.client().pointer("stable", "edge-web")
    assert pointer.frozen == "a holiday"
    with pytest.raises(RefusedError, match="stable is frozen: a holiday") as caught:
        steer(world.desk, "edge-web", "stable", "advance")
    assert "recast thaw stable" in caught.value.hint
    with pytest.raises(RefusedError, match="stable is frozen"):
        promote(world.desk, world.publish(), "stable")
    revoke(world.desk, "edge-web", rolling.version, rolling.root_hash, "bad")
    assert world.client().pointer("stable", "edge-web").revoked
    thaw(world.desk, "stable", reason="over")
    assert world.client().pointer("stable", "edge-web").frozen == ""
    steer(world.desk, "edge-web", "stable", "advance")
    actions = [entry.event.action for entry in world.repository.history("stable")]
    assert actions[:4] == ["roll", "thaw", "revoke", "freeze"]


def test_time_in_the_ice_opens_no_wave(world: World, rolling: PublishedRelease) -> None:
    world.wait(1.5 * HOUR)
    freeze(world.desk, "stable")
    world.wait(30 * DAY)
    freeze(world.desk, "stable", reason="still")
    world.wait(DAY)
    thaw(world.desk, "stable")
    assert wave_at(rollout_of(world), world.present) == 1
    assert wave_at(rollout_of(world), world.wait(4 * HOUR)) == 2


def test_a_rollout_that_was_held_is_held_after_the_thaw(
    world: World, rolling: PublishedRelease
) -> None:
    steer(world.desk, "edge-web", "stable", "hold")
    freeze(world.desk, "stable")
    thaw(world.desk, "stable")
    assert rollout_of(world).state == "held"


def test_freezing_and_thawing_twice_changes_nothing(world: World) -> None:
    assert freeze(world.desk, "dev").outcome is not None
    assert world.desk.view("dev").frozen == NO_REASON
    assert freeze(world.desk, "dev").outcome is None
    assert freeze(world.desk, "dev", reason="another").outcome is not None
    assert thaw(world.desk, "dev").outcome is not None
    assert thaw(world.desk, "dev").outcome is None
    with pytest.raises(UsageError, match="there is no channel `dve`"):
        freeze(world.desk, "dve")


# --- revoked


def test_a_version_is_revoked_in_every_channel_and_the_way_back_is_told(world: World) -> None:
    old, bad = world.publish(), world.publish()
    world.hold("dev", old, bad)
    world.hold("candidate", bad)
    done = revoke(world.desk, "edge-web", bad.version, bad.root_hash, "CVE-1")
    assert [name for name, outcome in done.outcomes.items() if outcome] == list(
        world.channels.names
    )
    assert [(each.channel, each.back) for each in done.holders] == [
        ("dev", old.version),
        ("candidate", None),
    ]
    for name in world.channels.names:
        pointer = world.client().pointer(name, "edge-web")
        assert [(each.version, each.reason) for each in pointer.revoked] == [(bad.version, "CVE-1")]
    again = revoke(world.desk, "edge-web", bad.version, bad.root_hash, "CVE-1")
    assert set(again.outcomes.values()) == {None}
    assert [each.channel for each in again.holders] == ["dev", "candidate"]


def test_a_version_that_no_channel_holds_is_revoked_as_well(world: World) -> None:
    release = world.publish()
    done = revoke(world.desk, "edge-web", release.version, release.root_hash, "bad")
    assert done.holders == ()
    assert world.client().pointer("stable", "edge-web").release is None


def test_only_some_channels_when_asked_for(world: World) -> None:
    release = world.publish()
    done = revoke(
        world.desk, "edge-web", release.version, release.root_hash, "bad", channels=("dev",)
    )
    assert list(done.outcomes) == ["dev"]
    assert world.desk.view("stable").pointers == {}
    with pytest.raises(UsageError, match="there is no channel `dve`"):
        revoke(world.desk, "edge-web", release.version, release.root_hash, "", channels=("dve",))


def test_a_key_that_is_missing_is_named_before_anything_is_written(tmp_path: Path) -> None:
    channels = Channels(
        channels=(
            ChannelDefinition(name="dev"),
            ChannelDefinition(name="candidate"),
            ChannelDefinition(name="stable", gates=Gates(approvals=2)),
        )
    )
    holders = {"candidate": ("bob",), "stable": ("alice", "bob", "carol")}
    world = World(tmp_path, channels=channels, holders=holders)
    release = world.publish()
    world.hold("dev", release)
    versions = [view.version for view in world.desk.views()]
    alice = world.engineer("alice", "online")
    with pytest.raises(RefusedError) as caught:
        revoke(alice, "edge-web", release.version, release.root_hash, "bad")
    assert "candidate needs the key bob" in caught.value.message
    assert "stable needs 2 of alice, bob, carol; here is alice" in caught.value.message
    assert "`--channel dev` revokes it there alone" in caught.value.hint
    assert [view.version for view in world.desk.views()] == versions
    done = revoke(
        alice,
        "edge-web",
        release.version,
        release.root_hash,
        "bad",
        channels=("dev", "stable"),
        propose=True,
    )
    assert done.outcomes["dev"] is not None
    assert done.outcomes["stable"] is not None
    assert (done.outcomes["dev"].published, done.outcomes["stable"].missing) == (True, 1)


def test_a_cut_between_two_channels_says_where_it_is_revoked_and_can_be_gone_on_with(
    tmp_path: Path,
) -> None:
    store = FaultyStore(MemoryStore())
    world = World(tmp_path, store=store)
    release = world.publish()

    def cut(channel: str) -> None:
        if channel == "candidate":
            store.faults = {"5xx"}

    with pytest.raises(NetworkError, match="is revoked in dev already") as caught:
        revoke(world.desk, "edge-web", release.version, release.root_hash, "bad", notify=cut)
    assert caught.value.hint
    store.faults = set()
    done = revoke(world.desk, "edge-web", release.version, release.root_hash, "bad")
    assert [name for name, outcome in done.outcomes.items() if outcome] == ["candidate", "stable"]


def test_the_root_of_a_version_is_known_from_any_channel(world: World) -> None:
    old, new = world.publish(), world.publish()
    world.hold("candidate", old, new)
    views = world.desk.views()
    assert find_root_hash(views, "edge-web", new.version) == new.root_hash
    assert find_root_hash(views, "edge-web", old.version) == old.root_hash
    assert find_root_hash(views, "edge-web", "1999") is None
    assert find_root_hash(views, "edge-db", new.version) is None


def test_a_rollout_that_names_a_time_to_come_is_frozen_as_it_stands(world: World) -> None:
    """As when the clock of whoever signed it was ahead."""
    release = world.publish()

    def ahead(view: ChannelView) -> ChannelChange:
        rollout = new_rollout(
            view.name, release, world.channels["stable"].waves, world.present + timedelta(days=1)
        )
        pointer = Pointer(
            channel="stable",
            image="edge-web",
            release=release,
            since=world.present,
            rollout=rollout,
        )
        event = next(world.repository.history("stable")).event
        return ChannelChange(event=event, pointers={"edge-web": pointer})

    world.repository.change_channel("stable", ahead)
    freeze(world.desk, "stable")
    thaw(world.desk, "stable")
    assert (rollout_of(world).wave, rollout_of(world).opened) == (0, world.present)
