"""If these fail, people sign what they were not shown, or signatures are lost or miscounted."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Targets

from pipeline import clock, digest
from pipeline.errors import ConflictError, RefusedError, TrustError, UsageError
from pipeline.trust import layout
from pipeline.trust.key_edits import add_key, set_threshold
from pipeline.trust.repository import Repository
from tests.fakes.pointers import make_pointer
from tests.fakes.store import Cut, FaultyStore, MemoryStore
from tests.fakes.team import WEB, Team, held, look, promote, version

LIMIT = 10_000_000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def team(tmp_path: Path, store: MemoryStore) -> Team:
    team = Team(tmp_path, store).create()
    promote(team.engineer("alice", "bob", "online"), "stable", 1)
    return team


def propose(team: Team, number: int = 2, *names: str) -> str:
    engineer = team.engineer(*(names or ("alice",)))
    outcome = promote(engineer, "stable", number, propose=True, reason="it is time")
    assert outcome.proposal is not None
    return outcome.proposal


def test_from_proposal_to_machines(team: Team) -> None:
    machine = team.client()
    look(machine)
    outcome = promote(team.engineer("alice"), "stable", 2, propose=True, reason="it is time")
    assert (outcome.version, outcome.missing, outcome.published) == (None, 1, False)
    assert outcome.signed_by == ("alice",)
    assert not machine.check()
    (shown,) = team.engineer("dave").proposals()
    assert shown.id == outcome.proposal
    assert (shown.role, shown.base, shown.version, shown.stale) == ("stable", 2, 3, "")
    assert shown.event is not None
    assert (shown.event.version, shown.event.reason) == (version(2), "it is time")
    assert shown.old == {WEB: make_pointer("stable", WEB, 1)}
    assert shown.new == {WEB: make_pointer("stable", WEB, 2)}
    assert shown.signed_by == ("alice",)
    assert (shown.missing, shown.keyholders) == (1, ("bob", "carol"))
    assert shown.frozen == ("", "")
    assert any("would be good until" in each for each in shown.changes)
    done = team.engineer("carol", "online").approve(shown.id[:6])
    assert (done.version, done.missing, done.published) == (3, 0, True)
    assert done.signed_by == ("alice", "carol")
    assert held(machine, "stable") == version(2)
    assert team.engineer().proposals() == []
    assert not list(team.store.list(layout.PROPOSALS))


def test_whoever_has_no_online_key_can_finish(team: Team) -> None:
    done = team.engineer("bob").approve(propose(team))
    assert (done.version, done.missing, done.published) == (3, 0, False)
    team.engineer("online").refresh()
    assert held(team.client(), "stable") == version(2)


def test_nothing_is_proposed_that_our_keys_can_do(team: Team) -> None:
    outcome = promote(team.engineer("alice", "bob", "online"), "stable", 2, propose=True)
    assert (outcome.proposal, outcome.version) == (None, 3)


def test_somebody_without_a_key_can_propose(team: Team) -> None:
    outcome = promote(team.engineer("dave"), "stable", 2, propose=True)
    assert (outcome.signed_by, outcome.missing) == ((), 2)
    assert outcome.proposal is not None
    assert team.engineer("alice").approve(outcome.proposal).missing == 1
    assert team.engineer("bob", "online").approve(outcome.proposal).published


def test_one_key_counts_once(team: Team) -> None:
    identity = propose(team)
    with pytest.raises(RefusedError, match="alice signed it already, and one key counts once"):
        team.engineer("alice", "online").approve(identity)
    (shown,) = team.engineer().proposals()
    assert (shown.signed_by, shown.missing) == (("alice",), 1)


def test_a_key_without_the_right_is_refused_by_name(team: Team) -> None:
    identity = propose(team)
    with pytest.raises(RefusedError, match="online or dave may not sign stable") as caught:
        team.engineer("dave", "online").approve(identity)
    assert "bob or carol" in caught.value.message
    (shown,) = team.engineer().proposals()
    assert shown.signed_by == ("alice",)


@pytest.mark.parametrize("who", ["dave", "bob"])
def test_a_signature_that_was_put_there(team: Team, store: MemoryStore, who: str) -> None:
    """By a key without the right; or one with it, that signed something else."""
    identity = propose(team)
    signer = team.signers[who]
    signature = signer.sign(b"something else").to_dict()
    if who == "dave":
        raw = json.loads(store.get(layout.proposal_key("stable", identity), limit=LIMIT))
        data = json.dumps({"signatures": [], "signed": raw["parts"]["stable"]}).encode()
        part: Metadata[Targets] = Metadata.from_bytes(data)
        signature = signer.sign(part.signed_bytes).to_dict()
    key = layout.signature_key("stable", identity, signer.public_key.keyid)
    store.create(key, digest.canonical({"signatures": {"stable": signature}}))
    (shown,) = team.engineer().proposals()
    assert (shown.signed_by, shown.missing) == (("alice",), 1)
    (notice,) = shown.notices
    assert f"`{who}`" in notice
    if who == "dave":
        assert "may not sign stable" in notice
    # It does not keep the real one out.
    assert team.engineer("bob", "online").approve(identity).published
    assert held(team.client(), "stable") == version(2)


def test_what_has_changed_since_makes_it_stale(team: Team) -> None:
    identity = propose(team)
    promote(team.engineer("bob", "carol", "online"), "stable", 5)
    (shown,) = team.engineer().proposals()
    assert f"bob and carol promoted {WEB} {version(5)}" in shown.stale
    with pytest.raises(ConflictError, match="can no longer be carried out") as caught:
        team.engineer("bob", "online").approve(identity)
    assert "bob and carol promoted" in caught.value.message
    assert held(team.client(), "stable") == version(5)
    assert team.engineer("dave").withdraw(identity).stale
    assert team.engineer().proposals() == []


def test_other_keys_make_it_stale(team: Team) -> None:
    identity = propose(team)
    key = team.new_key("erin")
    boss = team.engineer()
    boss.change_targets(lambda targets: add_key(targets, "stable", key))
    (shown,) = boss.proposals()
    assert "version 1 of targets" in shown.stale
    with pytest.raises(ConflictError):
        team.engineer("bob").approve(identity)


def test_it_runs_out(team: Team) -> None:
    identity = propose(team)
    late = clock.now() + timedelta(days=181)
    team.now = lambda: late
    (shown,) = team.engineer().proposals()
    assert "it was good until" in shown.stale
    with pytest.raises(ConflictError):
        team.engineer("bob").approve(identity)


def test_withdrawn(team: Team, store: MemoryStore) -> None:
    identity = propose(team)
    withdrawn = team.engineer("dave").withdraw(identity[:4])
    assert withdrawn.id == identity
    assert withdrawn.event is not None
    assert not list(store.list(layout.PROPOSALS))
    with pytest.raises(UsageError, match="no proposals"):
        team.engineer("bob").approve(identity)


def test_more_than_one(team: Team) -> None:
    first, second = propose(team, 2), propose(team, 3)
    assert {each.id for each in team.engineer().proposals()} == {first, second}
    with pytest.raises(UsageError, match="no proposals") as caught:
        team.engineer("bob").approve("zzz")
    assert first in caught.value.hint
    assert team.engineer("bob", "online").approve(second).published
    (left,) = team.engineer().proposals()
    assert left.id == first
    assert "alice and bob promoted" in left.stale


def test_three_signatures(team: Team) -> None:
    boss = team.engineer()
    boss.change_targets(lambda targets: set_threshold(targets, "stable", 3))
    identity = propose(team)
    waiting = team.engineer("bob").approve(identity)
    assert (waiting.proposal, waiting.missing, waiting.version) == (identity, 1, None)
    assert waiting.signed_by == ("alice", "bob")
    assert team.engineer("carol", "online").approve(identity).published
    entry = next(team.engineer().history("stable"))
    assert entry.signers == ("alice", "bob", "carol")


def test_a_change_of_keys_is_shown_in_words(team: Team) -> None:
    key = team.new_key("erin")

    def edit(targets: Targets) -> None:
        add_key(targets, "dev", key)
        set_threshold(targets, "stable", 3)

    outcome = team.engineer("targets-1", "alice").change_targets(
        edit, reason="more eyes", propose=True
    )
    assert outcome.proposal is not None
    (shown,) = team.engineer("dave").proposals()
    assert shown.event is not None
    assert shown.event.reason == "more eyes"
    text = " ".join(shown.changes)
    assert "erin" in text
    assert "may sign dev" in text
    assert "stable needs 3 signatures in place of 2." in text
    assert "stable is signed anew." in text
    assert set(shown.signed_by) == {"targets-1", "alice"}
    assert team.engineer("bob", "online").approve(outcome.proposal).missing == 1
    assert team.engineer("carol", "online").approve(outcome.proposal).published
    machine = team.client()
    look(machine)
    channel = machine.channel("stable")
    assert channel is not None
    assert channel.signers == ("alice", "bob", "carol")
    assert held(machine, "stable") == version(1)


def test_a_change_of_the_root_is_shown_in_words(team: Team) -> None:
    key = team.new_key("root-4")
    outcome = team.engineer("root-1").change_root(
        lambda root: add_key(root, layout.ROOT, key), propose=True
    )
    assert outcome.proposal is not None
    (shown,) = team.engineer("dave").proposals()
    assert "root-4" in " ".join(shown.changes)
    assert (shown.base, shown.version, shown.missing) == (1, 2, 1)
    # Whoever gives the last signature has no online key: machines are told by the next refresh.
    assert not team.engineer("root-3").approve(outcome.proposal).published
    team.engineer("online").refresh()
    machine = team.client()
    look(machine)
    assert machine.metadata().root.signed.version == 2


def change_signed(proposal: dict[str, Any], what: str) -> None:
    part = proposal["parts"]["stable"]
    if what == "expiry":
        part["expires"] = "2099-01-01T00:00:00Z"
    elif what == "another channel":
        part["targets"]["dev/x.json"] = next(iter(part["targets"].values()))
    elif what == "delegations":
        part["delegations"] = {"keys": {}, "roles": []}
    elif what == "history":
        part["x-recast"]["previous"] = "0" * 64
    elif what == "no event":
        del part["x-recast"]
    elif what == "a field":
        part["x-other"] = 1
    elif what == "another role":
        proposal["parts"]["dev"] = part
    elif what == "kind":
        part["_type"] = "snapshot"
        part["meta"] = {}


@pytest.mark.parametrize(
    "what",
    ["expiry", "another channel", "delegations", "history", "no event", "a field", "another role"],
)
def test_what_no_recast_proposes_is_not_signed(team: Team, store: MemoryStore, what: str) -> None:
    """Whoever can write to the store can leave anything there for others to sign."""
    raw = json.loads(store.get(layout.proposal_key("stable", propose(team)), limit=LIMIT))
    change_signed(raw, what)
    if what == "another role":
        raw["base"]["dev"] = 1
    data = digest.canonical(raw)
    identity = digest.of_bytes(data)[:12]
    store.create(layout.proposal_key("stable", identity), data)
    with pytest.raises((TrustError, ConflictError)) as caught:
        team.engineer("bob", "carol", "online").approve(identity)
    assert identity in caught.value.message
    shown = next(each for each in team.engineer().proposals() if each.id == identity)
    assert shown.stale
    assert held(team.client(), "stable") == version(1)
    assert not [each for each in store.list(layout.PROPOSALS) if "sig" in each.key and
                identity in each.key]  # fmt: skip


@pytest.mark.parametrize("what", ["kind", "garbage", "other bytes"])
def test_what_cannot_be_read_can_be_withdrawn(team: Team, store: MemoryStore, what: str) -> None:
    identity = propose(team)
    key = layout.proposal_key("stable", identity)
    raw = json.loads(store.get(key, limit=LIMIT))
    if what == "garbage":
        store.corrupt(key, b"garbage")
    else:
        change_signed(raw, "kind" if what == "kind" else "expiry")
        store.corrupt(key, digest.canonical(raw))
    assert team.engineer().proposals() == []
    with pytest.raises(TrustError):
        team.engineer("bob").approve(identity)
    assert team.engineer("dave").withdraw(identity).stale
    assert not list(store.list(layout.PROPOSALS))


def test_a_pointer_that_is_missing_or_wrong(team: Team, store: MemoryStore) -> None:
    identity = propose(team)
    (shown,) = team.engineer().proposals()
    pointer = layout.pointer_bytes(shown.new[WEB])
    key = layout.pointer_key("stable", WEB, digest.of_bytes(pointer))
    store.delete(key)
    (shown,) = team.engineer().proposals()
    assert "missing" in shown.stale
    with pytest.raises(TrustError, match=key):
        team.engineer("bob", "online").approve(identity)


@pytest.mark.parametrize("cut_at", [1, 2, 3, 4, 5])
def test_a_kill_while_it_is_proposed(team: Team, store: MemoryStore, cut_at: int) -> None:
    faulty = FaultyStore(store, cut_at=cut_at, cut="after")
    with contextlib.suppress(Cut):
        promote(team.engineer("alice", store=faulty), "stable", 2, propose=True)
    repository: Repository = team.engineer("alice")
    found = repository.proposals()
    identity = found[0].id if found else propose(team)
    if found and not found[0].signed_by:
        repository.approve(identity)
    assert team.engineer("bob", "online").approve(identity).published
    assert held(team.client(), "stable") == version(2)


@pytest.mark.parametrize("role", ["beta", "builder"])
def test_a_proposal_for_a_role_that_nobody_signs(team: Team, store: MemoryStore, role: str) -> None:
    raw = json.loads(store.get(layout.proposal_key("stable", propose(team)), limit=LIMIT))
    raw["role"], raw["parts"] = role, {role: raw["parts"]["stable"]}
    raw["parts"][role]["targets"]["no/such/path"] = {"length": 1, "hashes": {"sha256": "0" * 64}}
    data = digest.canonical(raw)
    identity = digest.of_bytes(data)[:12]
    store.create(layout.proposal_key(role, identity), data)
    shown = {each.id: each for each in team.engineer().proposals()}
    assert shown[identity].stale == f"there is no channel {role}"
    with pytest.raises(ConflictError, match=f"there is no channel {role}"):
        team.engineer().approve(identity)
