"""If these fail, a kill or a race leaves a store that machines refuse, or loses what was signed.

Machines look after every single write: one that starts anew, and one that has followed all along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from pipeline import digest
from pipeline.errors import ConflictError, RefusedError
from pipeline.models.pointer import Event
from pipeline.store.base import Store
from pipeline.store.local import LocalStore
from pipeline.trust import layout
from pipeline.trust.draft import Drafter
from pipeline.trust.key_edits import add_key, remove_key, replace_key
from pipeline.trust.repository import Repository
from pipeline.trust.views import ChannelChange
from tests.fakes.store import Cut, FaultyStore, MemoryStore
from tests.fakes.team import WEB, Team, held, look, promote, version
from tests.fakes.watched import Watched, run_all, watch

Action = Callable[[Team, Repository], object]


def rotate_online(team: Team, repository: Repository) -> object:
    key = team.signers["online-2"].public_key

    def edit(root: object) -> None:
        for role in (layout.SNAPSHOT, layout.TIMESTAMP):
            replace_key(root, role, "online", key)  # type: ignore[arg-type]

    return repository.change_root(edit)


def rotate_targets(team: Team, repository: Repository) -> object:
    """Both keys of targets go: what they have signed must be signed anew."""
    key = team.signers["targets-3"].public_key

    def edit(root: object) -> None:
        replace_key(root, layout.TARGETS, "targets-1", key)  # type: ignore[arg-type]
        remove_key(root, layout.TARGETS, "targets-2")  # type: ignore[arg-type]

    return repository.change_root(edit)


def take_from_channel(_: Team, repository: Repository) -> object:
    return repository.change_targets(lambda targets: remove_key(targets, "dev", "alice"))


def add_to_channel(team: Team, repository: Repository) -> object:
    key = team.signers["erin"].public_key
    return repository.change_targets(lambda targets: add_key(targets, "dev", key))


def change(_: Team, repository: Repository) -> object:
    return promote(repository, "dev", 2)


def approve(_: Team, repository: Repository) -> object:
    (proposal,) = repository.proposals()
    return repository.approve(proposal.id)


def refresh(_: Team, repository: Repository) -> object:
    return repository.refresh(within=1000 * 86400)


ACTIONS: dict[str, Action] = {
    "change": change,
    "approve": approve,
    "refresh": refresh,
    "a new online key": rotate_online,
    "new keys of targets": rotate_targets,
    "a channel's key taken away": take_from_channel,
    "a channel's key added": add_to_channel,
}


def begin(folder: Path) -> tuple[Team, MemoryStore]:
    """A store with releases in both channels, and one change that waits for a signature."""
    store = MemoryStore()
    team = Team(folder, store).create()
    for name in ("online-2", "targets-3", "erin"):
        team.new_key(name)
    promote(team.engineer("alice", "online"), "dev", 1)
    promote(team.engineer("alice", "bob", "online"), "stable", 1)
    promote(team.engineer("alice"), "stable", 2, propose=True)
    return team, store


def everything(team: Team, store: Store | None = None) -> Repository:
    return team.engineer(*team.signers, store=store)


@pytest.mark.parametrize("name", ACTIONS)
def test_machines_accept_every_instant(name: str, tmp_path: Path) -> None:
    team, store = begin(tmp_path)
    watched = Watched(store)
    old = watch(team, watched)
    ACTIONS[name](team, everything(team, watched))  # type: ignore[arg-type]
    assert not watched.problems
    assert watched.looks >= 3
    old.check()
    # What was published tells machines of the newest root: their next look is cheap again.
    assert not old.check()
    newest = old.metadata()
    assert layout.told_root(newest.timestamp.signed) == newest.root.signed.version
    assert not team.engineer().load().notices


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ACTIONS)
def test_a_kill_at_any_write(name: str, when: Literal["before", "after"], tmp_path: Path) -> None:
    team, store = begin(tmp_path)
    start = store.snapshot()
    cut_at = 0
    while True:
        cut_at += 1
        store.restore(start)
        old = team.client()
        look(old)
        faulty = FaultyStore(store, cut_at=cut_at, cut=when)
        try:
            ACTIONS[name](team, everything(team, faulty))
        except Cut:
            pass
        else:
            break
        look(old)
        look(team.client())
        # The next command, of whatever kind, goes on: nothing is half done afterwards.
        promote(everything(team), "dev", 5)
        state = team.engineer().load()
        assert not state.unpublished
        assert not state.stale_online
        assert state.announced is None
        assert held(old, "dev") == held(team.client(), "dev") == version(5)
        look(old)
        if name == "approve":  # the other signature is there, or can be given again
            proposals = everything(team).proposals()
            for proposal in proposals:
                everything(team).approve(proposal.id)
            assert held(old, "stable") == version(2)
    assert cut_at > 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_it_is_created(when: Literal["before", "after"], tmp_path: Path) -> None:
    cut_at = 0
    while True:
        cut_at += 1
        store = MemoryStore()
        team = Team(tmp_path / f"{cut_at}", store)
        try:
            team.create(FaultyStore(store, cut_at=cut_at, cut=when))
        except Cut:
            pass
        else:
            break
        before = store.snapshot()
        if layout.TIMESTAMP_KEY in before:  # it was complete, and only the answer is missing
            assert team.create().root == before["metadata/1.root.json"]
            assert store.snapshot() == before
        team.create()
        look(team.client())
        promote(team.engineer(), "dev", 1)
        assert held(team.client(), "dev") == version(1)
    assert cut_at == 7


def test_two_create_at_once(tmp_path: Path) -> None:
    store = MemoryStore()
    team = Team(tmp_path, store)
    roots: list[bytes] = []

    def create() -> None:
        roots.append(
            Repository.create(store, team.keyring(), team.channels, team.roles, now=team.now)
        )

    run_all([create, create, create])
    assert len(set(roots)) == 1
    team.root = roots[0]
    look(team.client())


@pytest.mark.parametrize("engineers", [2, 4])
@pytest.mark.parametrize("kind", ["memory", "local"])
def test_engineers_at_once(kind: str, engineers: int, tmp_path: Path) -> None:
    """All promote another image into one channel: all come through, and nothing is lost."""
    inner: Store = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "store")
    team = Team(tmp_path, inner).create()
    watched = Watched(inner)
    old = watch(team, watched)
    images = [f"image-{number}" for number in range(engineers)]
    names = ["alice", "bob", "carol", "dave"]
    repositories = [
        team.engineer(name, "online", store=watched)  # type: ignore[arg-type]
        for name in names[:engineers]
    ]
    run_all(
        [
            lambda at=at: promote(repositories[at], "dev", 1, image=images[at])  # type: ignore[misc]
            for at in range(engineers)
        ]
    )
    assert not watched.problems
    for image in images:
        assert held(old, "dev", image) == version(1, image)
    story = list(team.engineer().history("dev"))
    assert {entry.event.image for entry in story[:-1]} == set(images)
    assert {entry.signers for entry in story[:-1]} == {(name,) for name in names[:engineers]}


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_engineers_want_the_same_at_once(kind: str, tmp_path: Path) -> None:
    """One wins; the others hear who, and what it changed, or see that it is done already."""
    inner: Store = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "store")
    team = Team(tmp_path, inner).create()
    watched = Watched(inner)
    watch(team, watched)
    repositories = [
        team.engineer(name, "online", store=watched)  # type: ignore[arg-type]
        for name in ("alice", "bob", "carol")
    ]
    barrier = threading.Barrier(len(repositories))
    outcomes: list[object] = []

    def run(repository: Repository) -> None:
        barrier.wait()
        try:
            outcomes.append(promote(repository, "dev", 1).version)
        except (ConflictError, RefusedError) as error:
            outcomes.append(error)

    run_all([lambda each=each: run(each) for each in repositories])  # type: ignore[misc]
    assert not watched.problems
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert won == [2]
    for lost in outcomes:
        if isinstance(lost, ConflictError):
            assert f"promoted {WEB} {version(1)}" in lost.message
    assert held(team.client(inner), "dev") == version(1)


def test_promotions_a_refresh_and_changes_of_keys_at_once(tmp_path: Path) -> None:
    team, inner = begin(tmp_path)
    watched = Watched(inner)
    old = watch(team, watched)

    def engineer() -> Repository:
        return everything(team, watched)  # type: ignore[arg-type]

    bob = team.engineer("bob", "carol", "online", "online-2", store=watched)  # type: ignore[arg-type]
    run_all(
        [
            lambda: [promote(bob, "dev", number) for number in range(3, 7)],
            lambda: engineer().refresh(within=1000 * 86400),
            lambda: rotate_online(team, engineer()),
            lambda: add_to_channel(team, engineer()),
            lambda: take_from_channel(team, engineer()),
        ]
    )
    everything(team).refresh()
    assert not watched.problems
    assert held(old, "dev") == version(6)
    assert held(team.client(inner), "dev") == version(6)
    state = everything(team).load()
    names = [layout.key_name(key) for key in state.keys("dev")]
    assert names == ["bob", "carol", "dave", "erin"]
    assert [layout.key_name(key) for key in state.keys(layout.TIMESTAMP)] == ["online-2"]


def test_two_refresh_at_once(tmp_path: Path) -> None:
    team, inner = begin(tmp_path)
    promote(team.engineer("alice"), "dev", 7)
    watched = Watched(inner)
    old = watch(team, watched)
    run_all(
        [
            lambda: team.engineer("online", store=watched).refresh()  # type: ignore[arg-type]
            for _ in range(3)
        ]
    )
    assert not watched.problems
    assert held(old, "dev") == version(7)
    before = inner.snapshot()
    team.engineer("online").refresh()
    assert inner.snapshot() == before


def test_two_finish_one_proposal_at_once(tmp_path: Path) -> None:
    team, inner = begin(tmp_path)
    watched = Watched(inner)
    old = watch(team, watched)
    (proposal,) = team.engineer().proposals()
    outcomes: list[object] = []
    run_all(
        [
            lambda name=name: outcomes.append(  # type: ignore[misc]
                team.engineer(name, "online", store=watched).approve(proposal.id)  # type: ignore[arg-type]
            )
            for name in ("bob", "carol")
        ],
        allowed=(Exception,),
    )
    assert not watched.problems
    assert outcomes
    assert held(old, "stable") == version(2)


def test_old_machines_follow_every_root(tmp_path: Path) -> None:
    team, _ = begin(tmp_path)
    old = team.client()
    look(old)
    for number in range(10):
        key = team.new_key(f"root-{number + 4}")
        gone = f"root-{number + 1}"
        everything(team).change_root(
            lambda root, gone=gone, key=key: replace_key(root, layout.ROOT, gone, key)  # type: ignore[misc]
        )
    rotate_online(team, everything(team))
    promote(everything(team), "dev", 3)
    assert held(old, "dev") == version(3)
    assert held(team.client(), "dev") == version(3)
    assert old.metadata().root.signed.version == 12


def test_what_lost_a_race_and_came_into_force_after_all(tmp_path: Path) -> None:
    """Alice signs while her right is taken away; bob's next version lets that count again."""
    team, store = begin(tmp_path)
    alice, bob = team.engineer("alice", "online"), team.engineer("bob", "online")
    promote(bob, "dev", 2)
    state = alice.load()
    drafter = Drafter(state, team.channels.expiry, team.now())
    event = Event(action="freeze", at=team.now())
    draft = drafter.channel("dev", ChannelChange(event, {}, "wait"))
    draft.sign(state, alice.keyring)
    looks: list[str] = []

    class Slow(FaultyStore):
        def replace(self, key: str, data: bytes, *, etag: str) -> str:
            if not looks:
                looks.append("alice")
                alice.publisher.carry_out(state, draft)
            return super().replace(key, data, etag=etag)

        def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
            if looks:
                looks.append("look")
            if len(looks) == 3:
                promote(bob, "dev", 3)
            return super().get_changed(key, etag, limit=limit)

    outcome = everything(team, Slow(store)).change_targets(
        lambda targets: remove_key(targets, "dev", "alice")
    )
    assert len(looks) >= 3
    assert (outcome.version, outcome.published) == (2, True)
    assert held(team.client(), "dev") == version(3)
    names = [layout.key_name(key) for key in team.engineer().load().keys("dev")]
    assert names == ["bob", "carol", "dave"]


def test_the_digest_of_a_pointer_names_it(tmp_path: Path) -> None:
    _, store = begin(tmp_path)
    keys = [key for key in store.snapshot() if key.startswith(layout.POINTERS)]
    assert keys
    for key in keys:
        assert digest.of_bytes(store.get(key, limit=layout.MAX_POINTER)) in key
