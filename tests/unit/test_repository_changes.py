"""If these fail, what engineers sign does not reach machines, or what they did not does."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from pipeline import clock
from pipeline.errors import (
    HostError,
    RefusedError,
    TrustError,
    UsageError,
)
from pipeline.models.channel import ChannelDefinition, Channels, Gates
from pipeline.models.pointer import Event
from pipeline.trust import layout
from pipeline.trust.views import ChannelChange
from tests.fakes.pointers import make_pointer
from tests.fakes.store import MemoryStore
from tests.fakes.team import HOLDERS, WEB, Team, held, look, promote, version

LIMIT = 10_000_000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def team(tmp_path: Path, store: MemoryStore) -> Team:
    return Team(tmp_path, store).create()


class TestCreate:
    def test_what_it_makes(self, team: Team, store: MemoryStore) -> None:
        assert set(store.snapshot()) == {
            "metadata/1.root.json",
            "metadata/1.targets.json",
            "metadata/1.dev.json",
            "metadata/1.stable.json",
            "metadata/1.snapshot.json",
            "metadata/timestamp.json",
        }
        machine = team.client()
        look(machine)
        assert machine.channels() == ("dev", "stable")
        channel = machine.channel("stable")
        assert channel is not None
        assert channel.state is not None
        assert channel.state.event.action == "init"
        assert channel.threshold == 2
        keys, threshold = machine.attesters("builder")
        assert [layout.key_name(key) for key in keys] == ["builder"]
        assert threshold == 1
        assert len(store.get(layout.TIMESTAMP_KEY, limit=1024)) < 1024

    def test_again_with_the_same_keys_changes_nothing(self, team: Team, store: MemoryStore) -> None:
        before, root = store.snapshot(), team.root
        assert team.create().root == root
        assert store.snapshot() == before

    def test_other_keys_are_refused(self, team: Team, store: MemoryStore, tmp_path: Path) -> None:
        before = store.snapshot()
        with pytest.raises(UsageError, match="already, made with other keys") as caught:
            Team(tmp_path / "other", store).create()
        assert "root.json" in caught.value.hint
        assert store.snapshot() == before

    def test_something_else_in_its_place_is_named(self, tmp_path: Path) -> None:
        store = MemoryStore()
        store.create("metadata/1.root.json", b"{}")
        with pytest.raises(UsageError, match=r"1\.root\.json"):
            Team(tmp_path, store).create()

    def test_too_few_keys(self, tmp_path: Path) -> None:
        strict = Channels(channels=(ChannelDefinition(name="stable", gates=Gates(approvals=4)),))
        with pytest.raises(UsageError, match="stable needs 4 signatures and has 3 keys"):
            Team(tmp_path, MemoryStore(), channels=strict).create()

    def test_a_private_key_that_is_elsewhere(self, tmp_path: Path) -> None:
        store = MemoryStore()
        team = Team(tmp_path, store)
        del team.signers["targets-1"], team.signers["targets-2"]
        team.keyring = lambda *_: type(team).keyring(team, *team.signers)  # type: ignore[method-assign]
        with pytest.raises(UsageError, match="targets needs 1 signature more, of targets-1 or"):
            team.create()
        assert layout.TIMESTAMP_KEY not in store.snapshot()


class TestChangeChannel:
    def test_a_change_reaches_machines(self, team: Team) -> None:
        machine = team.client()
        look(machine)
        outcome = promote(team.engineer("alice", "bob", "online"), "stable", 1, reason="ready")
        assert (outcome.version, outcome.published, outcome.missing) == (2, True, 0)
        assert outcome.signed_by == ("alice", "bob")
        assert held(machine, "stable") == version(1)
        assert held(team.client(), "stable") == version(1)
        channel = machine.channel("stable")
        assert channel is not None
        assert channel.state is not None
        assert channel.state.event.reason == "ready"

    def test_what_does_not_change_stays(self, team: Team) -> None:
        alice = team.engineer("alice", "online")
        promote(alice, "dev", 3)
        promote(alice, "dev", 1, image="edge-db")
        machine = team.client()
        assert held(machine, "dev") == version(3)
        assert held(machine, "dev", "edge-db") == version(1, "edge-db")

    def test_no_more_keys_sign_than_are_needed(self, team: Team) -> None:
        assert promote(team.engineer(), "dev", 1).signed_by == ("alice",)

    def test_the_view(self, team: Team) -> None:
        promote(team.engineer("bob", "alice", "online"), "stable", 1)
        view = team.engineer("carol", "dave").channel("stable")
        assert view.keyholders == HOLDERS["stable"]
        assert view.ours == ("carol",)
        assert (view.version, view.threshold, view.frozen) == (2, 2, "")
        assert dict(view.pointers) == {WEB: make_pointer("stable", WEB, 1)}
        assert view.last is not None
        assert view.last.signers == ("alice", "bob")
        assert view.last.event.version == version(1)
        with pytest.raises(KeyError):
            view.pointers["edge-db"]

    def test_frozen_stays_until_it_is_thawed(self, team: Team) -> None:
        alice = team.engineer("alice", "online")

        def freeze(words: str | None) -> None:
            event = Event(action="freeze", at=clock.now())
            alice.change_channel("dev", lambda _: ChannelChange(event, {}, frozen=words))

        freeze("Christmas")
        assert alice.channel("dev").frozen == "Christmas"
        freeze(None)
        assert alice.channel("dev").frozen == "Christmas"
        freeze("")
        assert alice.channel("dev").frozen == ""

    def test_too_few_keys_for_the_threshold(self, team: Team, store: MemoryStore) -> None:
        before = store.snapshot()
        with pytest.raises(RefusedError, match="1 more signature, of bob or carol") as caught:
            promote(team.engineer("alice", "online"), "stable", 1)
        assert "--propose" in caught.value.hint
        with pytest.raises(RefusedError, match="no key of theirs"):
            promote(team.engineer("dave", "online"), "stable", 1)
        assert store.snapshot() == before

    def test_no_such_channel(self, team: Team) -> None:
        with pytest.raises(UsageError, match="no channel `beta`") as caught:
            promote(team.engineer(), "beta", 1)
        assert "dev, stable" in caught.value.hint

    def test_a_channel_without_a_role(self, team: Team) -> None:
        wider = Channels(channels=(*team.channels.channels, ChannelDefinition(name="beta")))
        with pytest.raises(UsageError, match="nobody may sign it yet") as caught:
            promote(team.engineer(channels=wider), "beta", 1)
        assert "recast keys add beta" in caught.value.hint

    def test_a_refusal_changes_nothing(self, team: Team, store: MemoryStore) -> None:
        promote(team.engineer(), "dev", 2)
        before = store.snapshot()
        with pytest.raises(RefusedError):
            promote(team.engineer(), "dev", 1)
        assert store.snapshot() == before

    def test_a_store_that_cannot_keep_writers_apart(self, tmp_path: Path) -> None:
        store = MemoryStore(exclusive=False)
        team = Team(tmp_path, store)
        with pytest.raises(HostError, match="two writers apart") as caught:
            team.create()
        assert "single_writer: true" in caught.value.hint
        assert not store.snapshot()
        store._exclusive = True
        team.create()
        store._exclusive = False
        for change in (
            lambda: promote(team.engineer(), "dev", 1),
            lambda: team.engineer().refresh(),
            lambda: team.engineer().approve("abc"),
            lambda: team.engineer().change_root(lambda _: None),
        ):
            with pytest.raises(HostError, match="two writers apart"):
                change()
        assert promote(team.engineer(single_writer=True), "dev", 1).published


class TestWithoutTheOnlineKey:
    def test_it_waits_and_is_published_by_whoever_has_the_key(self, team: Team) -> None:
        machine = team.client()
        look(machine)
        outcome = promote(team.engineer("alice"), "dev", 1)
        assert (outcome.version, outcome.published) == (2, False)
        assert any("online key" in notice for notice in outcome.notices)
        assert not machine.check()
        said = team.engineer("online").refresh()
        assert any("Published version 2 of dev: alice promoted" in each for each in said)
        assert held(machine, "dev") == version(1)

    def test_the_next_change_is_built_on_it(self, team: Team) -> None:
        assert not promote(team.engineer("alice"), "dev", 1).published
        assert not promote(team.engineer("bob"), "dev", 1, image="edge-db").published
        with pytest.raises(RefusedError, match="already"):
            promote(team.engineer("carol"), "dev", 1)
        assert promote(team.engineer("carol", "online"), "dev", 2).version == 4
        machine = team.client()
        assert held(machine, "dev") == version(2)
        assert held(machine, "dev", "edge-db") == version(1, "edge-db")

    def test_any_command_with_the_key_publishes_it(self, team: Team) -> None:
        promote(team.engineer("alice"), "dev", 1)
        promote(team.engineer("alice", "bob", "online"), "stable", 1)
        assert held(team.client(), "dev") == version(1)

    @pytest.mark.parametrize("what", ["garbage", "unsigned", "by a stranger", "other base"])
    def test_what_does_not_count_is_skipped_and_named(
        self, team: Team, store: MemoryStore, what: str
    ) -> None:
        promote(team.engineer("alice", "online"), "dev", 1)
        data = b"garbage"
        if what != "garbage":
            good = store.get("metadata/2.dev.json", limit=LIMIT)
            metadata: Metadata[Targets] = Metadata.from_bytes(good)
            metadata.signed.version = 3
            metadata.signatures.clear()
            if what == "by a stranger":
                metadata.sign(team.signers["builder"])
            if what == "other base":  # signed by one who may, and not made from version 2
                metadata.sign(team.signers["bob"])
            data = metadata.to_bytes()
        store.create("metadata/3.dev.json", data)
        state = team.engineer("online").load()
        assert state.channels["dev"].version == 2
        assert any("metadata/3.dev.json does not count" in each for each in state.notices)
        said = team.engineer("online").refresh()
        assert any("metadata/3.dev.json" in each for each in said)
        outcome = promote(team.engineer("alice", "online"), "dev", 2)
        assert outcome.version == 4
        assert held(team.client(), "dev") == version(2)
        assert not team.engineer("online").load().notices

    def test_what_ran_out_while_it_waited_is_not_published(self, team: Team) -> None:
        promote(team.engineer("alice"), "dev", 1)
        late = clock.now() + timedelta(days=181)
        team.now = lambda: late
        state = team.engineer("online").load()
        assert state.channels["dev"].version == 1
        assert any("has run out" in each for each in state.notices)


class TestDamage:
    def test_a_store_that_was_set_back(self, team: Team, store: MemoryStore) -> None:
        alice = team.engineer("alice", "online")
        before = store.snapshot()
        promote(alice, "dev", 1)
        store.restore(before)
        with pytest.raises(TrustError, match="set back"):
            promote(alice, "dev", 2)

    def test_no_metadata(self, team: Team, store: MemoryStore) -> None:
        alice = team.engineer("alice", "online")
        store.restore({})
        with pytest.raises(UsageError, match="no signed metadata") as caught:
            promote(alice, "dev", 1)
        assert "recast init" in caught.value.hint

    @pytest.mark.parametrize("damage", ["gone", "changed"])
    def test_a_damaged_channel_stops_that_channel_alone(
        self, team: Team, store: MemoryStore, damage: str
    ) -> None:
        promote(team.engineer("alice", "online"), "dev", 1)
        key = "metadata/2.dev.json"
        good = store.get(key, limit=LIMIT)
        if damage == "gone":
            store.delete(key)
        else:
            store.corrupt(key, good.replace(b"promote", b"rollbac"))
        with pytest.raises(TrustError, match=r"metadata/2\.dev\.json"):
            promote(team.engineer("alice", "online"), "dev", 2)
        machine = team.client()
        promote(team.engineer("alice", "bob", "online"), "stable", 1)
        assert held(machine, "stable") == version(1)
        store.corrupt(key, good)
        assert held(machine, "dev") == version(1)

    @pytest.mark.parametrize("role", ["targets", "snapshot"])
    def test_damage_above_the_channels_stops_all(
        self, team: Team, store: MemoryStore, role: str
    ) -> None:
        promote(team.engineer("alice", "online"), "dev", 1)
        number = {"targets": 1, "snapshot": 2}[role]
        store.delete(f"metadata/{number}.{role}.json")
        with pytest.raises(TrustError, match=rf"{number}\.{role}\.json"):
            promote(team.engineer("alice", "online"), "dev", 2)

    def test_a_damaged_pointer_is_named(self, team: Team, store: MemoryStore) -> None:
        promote(team.engineer("alice", "online"), "dev", 1)
        key = next(key for key in store.snapshot() if key.startswith("targets/dev/"))
        store.corrupt(key, b"{}")
        with pytest.raises(TrustError, match=key):
            promote(team.engineer("alice", "online"), "dev", 2)


def test_a_changed_approvals_reaches_the_role(team: Team) -> None:
    stricter = Channels(
        channels=(
            ChannelDefinition(name="dev", gates=Gates(approvals=2)),
            ChannelDefinition(name="beta"),
            team.channels["stable"],
        )
    )
    promote(team.engineer("dave", "online"), "dev", 1)
    boss = team.engineer(channels=stricter)
    machine = team.client()
    look(machine)
    with pytest.raises(UsageError, match="channel beta has no role yet"):
        boss.sync_channels({})
    outcome = boss.sync_channels({"beta": [team.signers["alice"].public_key]})
    assert outcome is not None
    assert outcome.published
    look(machine)
    channel = machine.channel("dev")
    assert channel is not None
    assert len(channel.signers) == 2
    assert held(machine, "dev") == version(1)
    assert machine.channel("beta") is not None
    assert boss.sync_channels({}) is None
    with pytest.raises(RefusedError):
        promote(team.engineer("alice", "online", channels=stricter), "dev", 2)
    assert promote(team.engineer("alice", "online", channels=stricter), "beta", 1).published


def test_time_is_an_argument(tmp_path: Path) -> None:
    moment = datetime.fromisoformat("2031-05-06T07:08:09+00:00")
    team = Team(tmp_path, MemoryStore(), now=lambda: moment).create()
    state = team.engineer().load()
    assert state.timestamp.signed.expires == moment + timedelta(days=7)
    assert state.snapshot.signed.expires == moment + timedelta(days=14)
    assert state.root.signed.expires == moment + timedelta(days=365)
    assert state.targets.signed.expires == moment + timedelta(days=365)
    assert state.channels["dev"].signed.expires == moment + timedelta(days=180)
