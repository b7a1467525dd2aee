"""If these fail, somebody who was slower undoes what somebody else has signed, or is not told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuf.api.metadata import Targets

from pipeline import clock
from pipeline.errors import (
    ConflictError,
    NetworkError,
    RefusedError,
)
from pipeline.models.pointer import Event
from pipeline.trust.draft import Drafter
from pipeline.trust.key_edits import remove_key
from pipeline.trust.views import ChannelChange, ChannelView
from tests.fakes.pointers import make_pointer
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.team import WEB, Team, held, look, promote, version

LIMIT = 10_000_000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def team(tmp_path: Path, store: MemoryStore) -> Team:
    return Team(tmp_path, store).create()


def test_a_clean_retry(team: Team) -> None:
    """Two promote different images into one channel: both come through."""
    alice, bob = team.engineer("alice", "online"), team.engineer("bob", "online")
    calls: list[int] = []

    def decide(view: ChannelView) -> ChannelChange:
        calls.append(view.version)
        if len(calls) == 1:
            promote(bob, "dev", 1, image="edge-db")
        event = Event(action="promote", at=clock.now(), image=WEB)
        return ChannelChange(event, {WEB: make_pointer("dev", WEB, 1)})

    assert alice.change_channel("dev", decide).published
    assert calls == [1, 2]
    machine = team.client()
    assert held(machine, "dev") == version(1)
    assert held(machine, "dev", "edge-db") == version(1, "edge-db")


def test_a_conflict_names_who_won_and_what_it_changed(team: Team) -> None:
    alice, bob = team.engineer("alice", "online"), team.engineer("bob", "online")
    calls: list[int] = []

    def decide(view: ChannelView) -> ChannelChange:
        calls.append(view.version)
        if len(calls) == 1:
            promote(bob, "dev", 2)
        elif view.pointers[WEB].release is not None:
            raise RefusedError("dev has a newer one already")
        event = Event(action="promote", at=clock.now(), image=WEB)
        return ChannelChange(event, {WEB: make_pointer("dev", WEB, 1)})

    with pytest.raises(ConflictError) as caught:
        alice.change_channel("dev", decide)
    assert f"bob promoted {WEB} {version(2)} on " in caught.value.message
    assert "a newer one already" in caught.value.message
    assert held(team.client(), "dev") == version(2)


def test_others_are_always_faster(team: Team) -> None:
    alice, bob = team.engineer("alice", "online"), team.engineer("bob", "online")
    numbers = iter(range(1, 1000))

    def decide(_: ChannelView) -> ChannelChange:
        promote(bob, "dev", next(numbers))
        event = Event(action="promote", at=clock.now(), image=WEB)
        return ChannelChange(event, {WEB: make_pointer("dev", WEB, 5000)})

    with pytest.raises(ConflictError, match="bob promoted edge-web"):
        alice.change_channel("dev", decide)
    look(team.client())


def test_the_right_to_sign_goes_while_it_signs(team: Team) -> None:
    """What bob signed with a key that was just taken away counts for nothing."""
    boss = team.engineer()
    promote(team.engineer("alice", "online"), "dev", 1)
    state = boss.load()
    drafter = Drafter(state, team.channels.expiry, clock.now())
    event = Event(action="keys", at=clock.now())
    draft = drafter.targets(lambda targets: remove_key(targets, "dev", "bob"), event)
    draft.sign(state, boss.keyring)
    calls: list[int] = []

    class Slow(FaultyStore):
        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            if key.endswith(".dev.json") and not calls:
                calls.append(1)
                boss.publisher.carry_out(state, draft)

    machine = team.client()
    look(machine)
    with pytest.raises(RefusedError, match="no key of theirs"):
        promote(team.engineer("bob", "online", store=Slow(team.store)), "dev", 2)
    assert calls
    assert held(machine, "dev") == version(1)
    look(team.client())
    assert promote(team.engineer("alice", "online"), "dev", 3).version == 4
    assert held(machine, "dev") == version(3)


def test_a_channel_is_signed_by_keys_that_are_just_being_taken_away(team: Team) -> None:
    calls: list[int] = []

    def edit(targets: Targets) -> None:
        if not calls:
            calls.append(1)
            promote(team.engineer("bob", "online"), "dev", 1)
        remove_key(targets, "dev", "bob")

    machine = team.client()
    look(machine)
    assert team.engineer().change_targets(edit).published
    assert held(machine, "dev") == version(1)
    channel = machine.channel("dev")
    assert channel is not None
    assert channel.signers == ("alice",)


def test_between_snapshot_and_timestamp(team: Team) -> None:
    """Bob publishes in between: alice's snapshot is left unused, her change is not lost."""
    bob = team.engineer("bob", "online")
    calls: list[int] = []

    class Slow(FaultyStore):
        def replace(self, key: str, data: bytes, *, etag: str) -> str:
            if not calls:
                calls.append(1)
                promote(bob, "dev", 1, image="edge-db")
            return super().replace(key, data, etag=etag)

    alice = team.engineer("alice", "carol", "online", store=Slow(team.store))
    machine = team.client()
    look(machine)
    assert promote(alice, "stable", 1).published
    assert calls
    assert held(machine, "stable") == version(1)
    assert held(machine, "dev", "edge-db") == version(1, "edge-db")


def test_an_answer_that_is_lost(team: Team) -> None:
    """The write took effect and its answer never came: the next command goes on."""
    for number, key in enumerate(("metadata/2.dev.json", "metadata/timestamp.json"), 1):
        faulty = FaultyStore(team.store, "timeout", only=("create", "replace"), keys=key)
        with pytest.raises(NetworkError):
            promote(team.engineer("alice", "online", store=faulty), "dev", number)
        team.engineer("online").refresh()
        assert held(team.client(), "dev") == version(number)
