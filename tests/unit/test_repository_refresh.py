"""If these fail, a store runs out unnoticed, or its history can be edited."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from pipeline import clock
from pipeline.errors import RefusedError, TrustError, UsageError
from pipeline.models.channel import ChannelDefinition, Channels
from pipeline.models.pointer import Event
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from pipeline.trust.draft import Drafter, load_part
from pipeline.trust.key_edits import add_key, remove_key, replace_key
from pipeline.trust.views import ChannelChange
from tests.fakes.repository import travel
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.team import WEB, Team, held, look, promote, version

DAY = timedelta(days=1)
LIMIT = 10_000_000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def team(tmp_path: Path, store: MemoryStore) -> Team:
    return Team(tmp_path, store).create()


class TestRefresh:
    def test_nothing_is_due(self, team: Team, store: MemoryStore) -> None:
        before = store.snapshot()
        (said,) = team.engineer().refresh()
        assert "Nothing is due" in said
        assert store.snapshot() == before

    def test_timestamp_and_snapshot_when_half_is_left(
        self, team: Team, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = clock.now()
        before = store.snapshot()
        travel(monkeypatch, start + 3.4 * DAY)
        team.engineer("online").refresh()
        assert store.snapshot() == before
        travel(monkeypatch, start + 3.6 * DAY)
        (said,) = team.engineer("online").refresh()
        assert "Signed snapshot and timestamp anew" in said
        state = team.engineer().load()
        assert state.timestamp.signed.expires == start + 3.6 * DAY + 7 * DAY
        assert store.snapshot() != before
        again = store.snapshot()
        assert "Nothing is due" in team.engineer("online").refresh()[0]
        assert store.snapshot() == again

    def test_a_store_that_ran_out_is_brought_back(
        self, team: Team, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = team.client()
        look(machine)
        travel(monkeypatch, clock.now() + 30 * DAY)
        with pytest.raises(TrustError):
            look(machine)
        team.engineer("online").refresh()
        look(machine)
        look(team.client())

    def test_without_the_online_key(self, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
        travel(monkeypatch, clock.now() + 6 * DAY)
        (said,) = team.engineer("alice").refresh()
        assert "the key online is not here" in said
        assert "timestamp is good until" in said
        travel(monkeypatch, clock.now() + 6 * DAY)
        assert "ran out on" in team.engineer("alice").refresh()[0]

    def test_what_people_sign_when_a_quarter_is_left(
        self, team: Team, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        promote(team.engineer(), "dev", 1)
        start = clock.now()
        travel(monkeypatch, start + 130 * DAY)
        assert not [each for each in team.engineer().refresh() if "dev" in each]
        travel(monkeypatch, start + 140 * DAY)
        said = team.engineer().refresh()
        assert any("Signed dev anew (version 3): good until" in each for each in said)
        assert any("Signed stable anew (version 2)" in each for each in said)
        assert not any("targets" in each or "root" in each for each in said)
        entry = next(team.engineer().history("dev"))
        assert entry.event.action == "refresh"
        assert entry.event.reason
        assert held(team.client(), "dev") == version(1)
        travel(monkeypatch, start + 290 * DAY)
        said = team.engineer().refresh()
        assert any("Signed targets anew (version 2)" in each for each in said)
        assert any("Signed root anew (version 2)" in each for each in said)
        look(team.client())
        assert held(team.client(), "dev") == version(1)
        assert "Nothing is due" in team.engineer().refresh()[0]

    def test_who_must_sign_by_when(self, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
        expires = team.engineer().load().channels["stable"].signed.expires
        travel(monkeypatch, clock.now() + 140 * DAY)
        said = team.engineer("alice", "online").refresh()
        (stable,) = (each for each in said if each.startswith("stable"))
        assert clock.iso(expires) in stable
        assert "bob or carol" in stable
        assert "recast refresh" in stable
        assert any("Signed dev anew" in each for each in said)

    def test_several_sign_by_proposal(self, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
        travel(monkeypatch, clock.now() + 140 * DAY)
        said = team.engineer("alice", "online").refresh(propose=True)
        (proposal,) = team.engineer().proposals()
        assert proposal.role == "stable"
        assert any(f"recast approve {proposal.id}" in each for each in said)
        again = team.engineer("alice", "online").refresh(propose=True)
        assert any(f"the proposal {proposal.id}" in each for each in again)
        assert len(team.engineer().proposals()) == 1
        team.engineer("bob", "online").approve(proposal.id)
        assert not [each for each in team.engineer("online").refresh() if "stable" in each]

    def test_within(self, team: Team) -> None:
        said = team.engineer().refresh(within=200 * 86400)
        for role in ("dev", "stable"):
            assert any(f"Signed {role} anew" in each for each in said)
        assert not any("root" in each for each in said)
        assert "Nothing is due" in team.engineer().refresh(within=86400)[0]

    def test_a_new_root_reaches_machines_that_look_at_the_timestamp_alone(self, team: Team) -> None:
        """The root's keepers have no online key; the next refresh has machines look."""
        machine = team.client()
        look(machine)
        key = team.new_key("root-4")
        outcome = team.engineer("root-1", "root-2").change_root(
            lambda root: add_key(root, layout.ROOT, key)
        )
        assert not outcome.published
        assert not machine.check()
        team.engineer("online").refresh()
        assert machine.check()
        assert machine.metadata().root.signed.version == 2


class TestOnlineKeys:
    def test_keepers_of_the_root_without_the_online_key_go_in_three_steps(self, team: Team) -> None:
        keepers = ("root-1", "root-2")
        old = team.client()
        look(old)
        key = team.new_key("online-2")

        def swap(root: object) -> None:
            for role in (layout.SNAPSHOT, layout.TIMESTAMP):
                replace_key(root, role, "online", key)  # type: ignore[arg-type]

        with pytest.raises(RefusedError, match="machines would refuse the store") as caught:
            team.engineer(*keepers).change_root(swap)
        assert "three steps" in caught.value.hint

        def add(root: object) -> None:
            for role in (layout.SNAPSHOT, layout.TIMESTAMP):
                add_key(root, role, key)  # type: ignore[arg-type]

        def remove(root: object) -> None:
            for role in (layout.SNAPSHOT, layout.TIMESTAMP):
                remove_key(root, role, "online")  # type: ignore[arg-type]

        team.engineer(*keepers).change_root(add)
        look(old)
        team.engineer("online", "online-2").refresh()
        look(old)
        team.engineer(*keepers).change_root(remove)
        look(old)
        look(team.client())
        assert promote(team.engineer("alice", "online-2"), "dev", 1).published
        assert held(old, "dev") == version(1)

    def test_lost_keys_of_targets(self, team: Team) -> None:
        """Only the root's keys are left to say who may sign in their place."""
        old = team.client()
        look(old)
        key = team.new_key("targets-3")

        def edit(root: object) -> None:
            replace_key(root, layout.TARGETS, "targets-1", key)  # type: ignore[arg-type]
            remove_key(root, layout.TARGETS, "targets-2")  # type: ignore[arg-type]

        left = ("root-1", "root-2", "targets-3", "online")
        with pytest.raises(RefusedError, match="targets-1 or targets-2"):
            team.engineer(*left).change_root(edit)
        assert team.engineer(*left).change_root(edit, lost=True).published
        look(old)
        look(team.client())

    def test_a_thief_who_sets_the_store_back_with_the_old_online_key(
        self, team: Team, store: MemoryStore
    ) -> None:
        """After the key was replaced, what the old one signs moves neither machines nor us."""
        before = store.snapshot()
        promote(team.engineer("alice", "online"), "dev", 1)
        key = team.new_key("online-2")

        def swap(root: object) -> None:
            for role in (layout.SNAPSHOT, layout.TIMESTAMP):
                replace_key(root, role, "online", key)  # type: ignore[arg-type]

        team.engineer(*team.signers).change_root(swap)
        machine = team.client()
        assert held(machine, "dev") == version(1)
        store.corrupt(layout.TIMESTAMP_KEY, before[layout.TIMESTAMP_KEY])
        with pytest.raises(TrustError):
            machine.check()
        team.engineer("online-2").refresh()  # a machine of ours that remembers nothing
        assert held(machine, "dev") == version(1)
        assert held(team.client(), "dev") == version(1)
        promote(team.engineer("alice", "online-2"), "dev", 2)
        assert held(machine, "dev") == version(2)


class TestHistory:
    def test_who_when_what_why(self, team: Team) -> None:
        promote(team.engineer("alice", "online"), "dev", 1, reason="first")
        promote(team.engineer("bob", "online"), "dev", 2, reason="second")
        third, second, first = team.engineer().history("dev")
        assert [entry.version for entry in (third, second, first)] == [3, 2, 1]
        assert (third.signers, third.event.reason) == (("bob",), "second")
        assert (second.signers, second.event.version) == (("alice",), version(1))
        assert (first.event.action, first.signers) == ("init", ("alice",))

    def test_no_such_channel(self, team: Team) -> None:
        with pytest.raises(UsageError):
            team.engineer().history("beta")

    def test_signers_keep_their_names_when_their_keys_go(self, team: Team) -> None:
        promote(team.engineer("alice", "online"), "dev", 1)
        promote(team.engineer("dave", "online"), "dev", 2)
        boss = team.engineer()
        for name in ("dave", "alice"):
            boss.change_targets(lambda targets, name=name: remove_key(targets, "dev", name))  # type: ignore[misc]
        promote(team.engineer("carol", "online"), "dev", 3)
        story = list(team.engineer().history("dev"))
        told = [(entry.event.action, entry.signers) for entry in story]
        assert told == [
            ("promote", ("carol",)),
            ("keys", ("bob",)),
            ("keys", ("alice",)),
            ("promote", ("dave",)),
            ("promote", ("alice",)),
            ("init", ("alice",)),
        ]

    def test_a_number_that_was_left_out(self, team: Team, store: MemoryStore) -> None:
        store.create("metadata/2.dev.json", b"garbage")
        promote(team.engineer("alice", "online"), "dev", 1)
        assert [entry.version for entry in team.engineer().history("dev")] == [3, 1]

    def test_what_was_signed_under_keys_that_never_came_into_force(self, team: Team) -> None:
        """Cut before `targets` was written: the channel's part counts, by the old keys."""
        promote(team.engineer("alice", "online"), "dev", 1)
        faulty = FaultyStore(team.store, "read-only", only=("create",), keys="metadata/2.targets")
        with pytest.raises(Exception, match="Read-only"):
            team.engineer(store=faulty).change_targets(
                lambda targets: remove_key(targets, "dev", "alice")
            )
        promote(team.engineer("carol", "online"), "dev", 2)
        boss = team.engineer()
        boss.change_targets(lambda targets: remove_key(targets, "dev", "dave"))
        assert [entry.version for entry in boss.history("dev")] == [4, 3, 2, 1]

    @pytest.mark.parametrize("damage", ["gone", "edited", "another"])
    def test_it_cannot_be_edited(self, team: Team, store: MemoryStore, damage: str) -> None:
        for number in range(1, 5):
            promote(team.engineer("alice", "online"), "dev", number, reason=f"for {number}")
        key = "metadata/3.dev.json"
        data = store.get(key, limit=LIMIT)
        if damage == "gone":
            store.delete(key)
        elif damage == "edited":
            store.corrupt(key, data.replace(b"for 2", b"for 9"))
        else:
            store.corrupt(key, store.get("metadata/2.dev.json", limit=LIMIT))
        story = team.engineer().history("dev")
        assert [next(story).version for _ in range(2)] == [5, 4]
        with pytest.raises(TrustError, match=key):
            next(story)
        look(team.client())

    def test_a_thousand_versions_are_read_one_by_one(
        self, tmp_path: Path, store: MemoryStore
    ) -> None:
        team = Team(
            tmp_path, store, channels=Channels(channels=(ChannelDefinition(name="dev"),))
        ).create()
        engineer = team.engineer("alice", "online")
        state = replace(engineer.load(), free={})
        for number in range(1000):
            event = Event(action="freeze", at=clock.now(), reason=f"{number}")
            drafter = Drafter(state, team.channels.expiry, clock.now())
            draft = drafter.channel("dev", ChannelChange(event, {}))
            draft.sign(state, engineer.keyring)
            part = load_part(draft.main)
            store.create(layout.metadata_key("dev", part.version), part.data)
            state = state.with_parts({"dev": part})
        engineer.publisher.publish(state)
        counting = FaultyStore(store)
        story = team.engineer(store=counting).history("dev")
        before = len(counting.operations)
        assert [entry.event.reason for entry in islice(story, 3)] == ["999", "998", "997"]
        assert len(counting.operations) - before <= 3
        assert len(list(story)) == 998
        assert len(counting.operations) - before <= 1001
        # What a machine reads does not grow with it.
        watched = FaultyStore(store)
        machine = TrustClient(watched, tmp_path / "new", team.root)
        machine.check()
        machine.channel("dev")
        assert watched.received < 40 << 10
        read = watched.received
        assert not machine.check()
        assert watched.received == read


def test_events_outlive_a_newer_recast(team: Team) -> None:
    """Every event of a history is one of the model's; its time is the one that was given."""
    moment = datetime.fromisoformat("2031-05-06T07:08:09+00:00")
    event = Event(action="roll", at=moment, image=WEB, before="1", gates=("soak: passed",))
    team.engineer().change_channel("dev", lambda _: ChannelChange(event, {}))
    assert next(team.engineer().history("dev")).event == event
