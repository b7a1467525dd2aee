"""Releases that move through channels, forwards and back: what is refused, and what is signed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import digest
from pipeline.channels.choose import choose_for, require_image
from pipeline.channels.desk import Desk
from pipeline.channels.promote import (
    GatesError,
    Promotion,
    carry_out,
    plan_promotion,
    plan_rollback,
    promote,
)
from pipeline.channels.revoking import revoke
from pipeline.channels.steering import freeze
from pipeline.errors import (
    ConflictError,
    DigestError,
    NetworkError,
    RefusedError,
    TrustError,
    UsageError,
)
from pipeline.models.channel import ALL_AT_ONCE, ChannelDefinition, Channels, Gates, Wave
from pipeline.models.pointer import PublishedRelease
from pipeline.store.base import Store, object_key, release_key
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.stored import BASE
from tests.fakes.world import HOUR, World

DAY = 24 * HOUR


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(promotion: Promotion) -> set[str]:
    return {gate.name for gate in promotion.verdict.refusals}


def holds(world: World, channel: str, image: str = "edge-web") -> str:
    """The version that a machine is told of which has never seen the store before."""
    release = world.client().pointer(channel, image).release
    assert release is not None
    return release.version


def rollback(desk: Desk, channel: str, to: str | None = None) -> Promotion:
    return carry_out(desk, plan_rollback(desk, "edge-web", channel, to))


def test_a_release_goes_through_all_channels_as_it_was_tested(world: World) -> None:
    release = world.publish()
    for channel in world.channels.names:
        done = promote(world.desk, release, channel, reason="it works")
        assert done.outcome is not None
        assert done.outcome.published
        world.wait(DAY)
    for channel in world.channels.names:
        pointer = world.client().pointer(channel, "edge-web")
        assert pointer.release == release
        assert pointer.rollout is not None
        assert pointer.rollout.waves == world.channels[channel].waves
    last = next(world.repository.history("stable"))
    assert (last.event.action, last.event.version) == ("promote", release.version)
    assert (last.event.reason, last.signers) == ("it works", ("alice",))
    assert "tests on qemu: passed" in " ".join(last.event.gates)


def test_time_alone_is_told_apart_from_what_needs_somebody(world: World) -> None:
    release = world.publish()
    promote(world.desk, release, "dev")
    since = world.present
    world.wait(0.5 * HOUR)
    with pytest.raises(GatesError, match="soak: in dev for 30m00s of 1h") as caught:
        promote(world.desk, release, "candidate")
    assert caught.value.exit_code == 10
    assert caught.value.promotion.verdict.opens == since + HOUR
    assert "`--wait` waits for that" in caught.value.hint
    world.wait(0.5 * HOUR)
    assert promote(world.desk, release, "candidate").outcome is not None
    untested = world.publish(tests={})
    planned = plan_promotion(world.desk, untested, "candidate")
    assert refused(planned) == {"soak", "tests on qemu"}
    assert planned.verdict.opens is None


def test_a_dry_run_decides_and_changes_nothing(world: World) -> None:
    release = world.publish()
    before = world.store.snapshot() if isinstance(world.store, MemoryStore) else {}
    planned = promote(world.desk, release, "dev", dry_run=True)
    assert planned.verdict.allowed
    assert planned.outcome is None
    assert not promote(world.desk, release, "stable", dry_run=True).verdict.allowed
    assert isinstance(world.store, MemoryStore)
    assert world.store.snapshot() == before


def test_what_changes_for_sites_is_told_against_what_they_have(world: World) -> None:
    old = world.publish(sizes={"root": 400 << 20})
    new = world.publish(sizes={"root": 441 << 20})
    first = promote(world.desk, old, "dev")
    assert (first.before, first.changes.old) == (None, None)
    planned = plan_promotion(world.desk, new, "dev")
    assert planned.before == old
    assert planned.changes.old is not None
    assert planned.changes.packages.summary() == "1 upgraded"
    assert planned.changes.sizes["root"].growth == 41 << 20


def test_it_spreads_as_it_is_told(world: World) -> None:
    release = world.publish()
    waves = (Wave(share=0.5, soak=60.0), Wave(share=1.0))
    assert promote(world.desk, release, "dev", waves=waves).rollout.waves == waves
    world.hold("candidate", release)
    world.wait(DAY)
    assert promote(world.desk, release, "stable", now_all=True).rollout.waves == ALL_AT_ONCE
    assert world.client().pointer("dev", "edge-web").rollout is not None


def test_what_is_there_already_is_left_alone(world: World) -> None:
    release = world.publish()
    promote(world.desk, release, "dev")
    version = world.desk.view("dev").version
    again = promote(world.desk, release, "dev")
    assert again.already
    assert again.outcome is None
    assert world.desk.view("dev").version == version


# --- what a release has to show


def test_a_result_of_tests_that_nobody_trusted_has_signed_does_not_count(
    world: World, tmp_path: Path
) -> None:
    stranger = World(tmp_path / "stranger")
    foreign = stranger.publish()
    for key, data in stranger.store.snapshot().items():  # type: ignore[attr-defined]
        if key.startswith(("objects/", "releases/")):
            world.store.put(key, data, sha256=digest.of_bytes(data))
    planned = plan_promotion(world.desk, foreign, "dev")
    assert refused(planned) == {"provenance", "tests on qemu"}
    reasons = {gate.name: gate.reason for gate in planned.verdict.refusals}
    assert "is not signed by a tester's key" in reasons["tests on qemu"]


def test_failed_tests_and_missing_provenance_are_refused(world: World) -> None:
    assert refused(plan_promotion(world.desk, world.publish(tests={"qemu": False}), "dev")) == {
        "tests on qemu"
    }
    assert refused(plan_promotion(world.desk, world.publish(attested=False), "dev")) == {
        "provenance"
    }


def test_evidence_that_is_damaged_or_gone_is_named(world: World) -> None:
    damaged, gone = world.publish(), world.publish()
    assert isinstance(world.store, MemoryStore)
    (test,) = (each for each in damaged.evidence if each.kind == "test")
    key = object_key(test.stored.digest)
    world.store.corrupt(key, b"x" * test.stored.size)
    (gate,) = plan_promotion(world.desk, damaged, "dev").verdict.refusals
    assert gate.name == "tests on qemu"
    assert key in gate.reason
    (test,) = (each for each in gone.evidence if each.kind == "test")
    world.store.delete(object_key(test.stored.digest))
    planned = plan_promotion(world.desk, gone, "dev")
    assert refused(planned) == {"stored", "tests on qemu"}


def test_a_release_of_which_a_part_is_missing_says_which_and_what_to_do(world: World) -> None:
    release = world.publish()
    stored = release.parts["uki"].stored
    assert stored is not None
    world.store.delete(object_key(stored.digest))
    with pytest.raises(GatesError, match=stored.digest) as caught:
        promote(world.desk, release, "dev")
    assert f"recast publish edge-web@{release.version}" in caught.value.hint


def test_a_part_of_another_size_and_a_manifest_of_other_bytes_are_damage(world: World) -> None:
    release = world.publish()
    assert isinstance(world.store, MemoryStore)
    stored = release.parts["root"].stored
    assert stored is not None
    key = object_key(stored.digest)
    world.store.corrupt(key, b"too short")
    with pytest.raises(DigestError, match=key):
        promote(world.desk, release, "dev")
    other = world.publish()
    world.store.corrupt(object_key(other.manifest.digest), b"x" * other.manifest.size)
    with pytest.raises(DigestError, match=other.manifest.digest):
        promote(world.desk, other, "dev")


def test_a_description_that_somebody_has_changed_does_not_agree_with_its_manifest(
    world: World,
) -> None:
    release = world.publish()
    lie = release.model_copy(update={"commit": "f" * 40})
    with pytest.raises(TrustError, match="commit"):
        promote(world.desk, lie, "dev")


def test_a_dirty_build_never_leaves_the_first_channel(world: World) -> None:
    release = world.publish(dirty="abc123")
    promote(world.desk, release, "dev")
    world.wait(DAY)
    assert refused(plan_promotion(world.desk, release, "candidate")) == {"clean"}


def test_budgets_are_those_of_the_channel(tmp_path: Path) -> None:
    gates = Gates(max_package_changes=1, max_growth=1 << 20)
    channels = Channels(channels=(ChannelDefinition(name="dev", gates=gates),))
    world = World(tmp_path, channels=channels)
    promote(world.desk, world.publish(), "dev")
    small = plan_promotion(world.desk, world.publish(packages=BASE), "dev")
    assert small.verdict.allowed
    bloated = world.publish(packages=BASE[:1], sizes={"root": 500 << 20})
    assert refused(plan_promotion(world.desk, bloated, "dev")) == {"package changes", "growth"}


def test_a_release_without_a_delta_is_too_much_for_the_links(tmp_path: Path) -> None:
    channels = Channels(channels=(ChannelDefinition(name="dev", gates=Gates(wire_budget=64)),))
    world = World(tmp_path, channels=channels)
    old = world.publish()
    promote(world.desk, old, "dev")
    new = world.publish()
    with pytest.raises(GatesError, match=rf"from {old.version}, by whole; budget 64 B") as caught:
        promote(world.desk, new, "dev")
    assert "`recast publish" in caught.value.hint
    assert f"`recast diff edge-web@{old.version} edge-web@{new.version}`" in caught.value.hint
    assert promote(world.desk, world.publish(deltas=[old]), "dev").outcome is not None
    rolled = rollback(world.desk, "dev")
    assert rolled.release == old, "nobody is kept from going back"


def test_while_a_rollout_is_under_way_machines_start_from_two_releases(world: World) -> None:
    old, new = world.publish(), world.publish()
    world.hold("stable", old)
    world.hold("candidate", new)
    world.wait(DAY)
    promote(world.desk, new, "stable")
    newest = world.publish(deltas=[new])
    found = plan_promotion(world.desk, newest, "stable").starts
    assert [(each.version, each.kind) for each in found] == [
        (new.version, "held"),
        (old.version, "before"),
    ]
    assert found[0].total.size == 30
    assert found[1].total.size == newest.download_size
    world.wait(DAY)
    (alone,) = plan_promotion(world.desk, newest, "stable").starts
    assert alone.version == new.version


def test_what_was_revoked_anywhere_enters_nowhere(world: World) -> None:
    release = world.publish()
    revoke(
        world.desk,
        "edge-web",
        release.version,
        release.root_hash,
        "CVE-1",
        channels=("stable",),
    )
    with pytest.raises(GatesError, match=r"revoked in stable .*CVE-1"):
        promote(world.desk, release, "dev")
    same_root = world.publish(packages=world.desk.published.manifest(release).packages)
    assert refused(plan_promotion(world.desk, same_root, "dev")) == {"not revoked"}


def test_older_than_what_is_there_needs_a_rollback(world: World) -> None:
    old, new = world.publish(), world.publish()
    world.hold("dev", old, new)
    assert refused(plan_promotion(world.desk, old, "dev")) == {"newer"}
    assert rollback(world.desk, "dev").release == old


def test_objects_are_made_young_before_the_channel_names_them(world: World) -> None:
    release = world.publish()
    assert isinstance(world.store, MemoryStore)
    keys = [object_key(each.digest) for each in release.objects]
    keys.append(release_key("edge-web", release.version))
    for key in keys:
        world.store.age(key, timedelta(days=30))
    start = min(info.modified for info in world.store.list("metadata/"))
    promote(world.desk, release, "dev")
    for key in keys:
        found = world.store.find(key)
        assert found is not None
        assert found.modified >= start


# --- signatures of several people


def two_signatures() -> Channels:
    return Channels(
        channels=(
            ChannelDefinition(name="dev"),
            ChannelDefinition(name="stable", gates=Gates(approvals=2)),
        )
    )


def test_a_change_that_two_must_sign_is_proposed_by_one_and_approved_by_another(
    tmp_path: Path,
) -> None:
    holders = {"stable": ("alice", "bob", "carol")}
    world = World(tmp_path, channels=two_signatures(), holders=holders)
    release = world.publish()
    world.hold("dev", release)
    alice, bob = world.engineer("alice"), world.engineer("bob", "online")
    with pytest.raises(GatesError, match="approvals: 1 of 2: alice") as caught:
        promote(alice, release, "stable")
    assert "`--propose`" in caught.value.hint
    proposed = promote(alice, release, "stable", reason="good", propose=True)
    assert proposed.outcome is not None
    assert (proposed.outcome.version, proposed.outcome.missing) == (None, 1)
    assert proposed.outcome.proposal is not None
    (waiting,) = bob.repository.proposals()
    assert waiting.event is not None
    assert (waiting.event.reason, waiting.signed_by) == ("good", ("alice",))
    outcome = bob.repository.approve(proposed.outcome.proposal)
    assert (outcome.signed_by, outcome.published) == (("alice", "bob"), True)
    assert holds(world, "stable") == release.version


def test_who_has_no_key_is_told_who_has(world: World) -> None:
    release = world.publish()
    nobody = world.engineer()
    with pytest.raises(GatesError, match="approvals: 0 of 1; 1 more of alice"):
        promote(nobody, release, "dev")
    with pytest.raises(GatesError, match="approvals"):
        promote(nobody, release, "dev", propose=True)


def test_without_the_online_key_sites_see_it_after_a_refresh(world: World) -> None:
    old, new = world.publish(), world.publish()
    world.hold("dev", old)
    done = promote(world.engineer("alice"), new, "dev")
    assert done.outcome is not None
    assert not done.outcome.published
    assert holds(world, "dev") == old.version
    world.engineer("online").repository.refresh()
    assert holds(world, "dev") == new.version


# --- two at once


def together(*calls: Callable[[], object]) -> list[object]:
    """Call all at one time; what each returned or raised."""
    barrier = threading.Barrier(len(calls))
    results: list[object] = [None] * len(calls)

    def run(place: int, call: Callable[[], object]) -> None:
        barrier.wait(60)
        try:
            results[place] = call()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place, call)) for place, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return results


@pytest.mark.soak
def test_two_who_promote_different_images_at_once_both_succeed(world: World) -> None:
    web, db = world.publish("edge-web"), world.publish("edge-db")
    one, two = world.engineer("alice", "online"), world.engineer("alice", "online")
    results = together(lambda: promote(one, web, "dev"), lambda: promote(two, db, "dev"))
    assert all(isinstance(result, Promotion) for result in results), results
    assert holds(world, "dev", "edge-web") == web.version
    assert holds(world, "dev", "edge-db") == db.version
    actions = [entry.event.image for entry in world.repository.history("dev")]
    assert sorted(actions) == ["", "edge-db", "edge-web"]


@pytest.mark.soak
def test_two_who_promote_one_image_at_once_never_undo_each_other(world: World) -> None:
    releases = [world.publish() for _ in range(2)]
    desks = [world.engineer("alice", "online") for _ in range(2)]
    # Both have decided, from the same state, before either signs.
    plans = [
        plan_promotion(desk, release, "dev") for desk, release in zip(desks, releases, strict=True)
    ]
    results = together(
        *(lambda d=d, p=p: carry_out(d, p) for d, p in zip(desks, plans, strict=True))
    )
    won = [result for result in results if isinstance(result, Promotion)]
    lost = [result for result in results if isinstance(result, ConflictError)]
    assert (len(won), len(lost)) == (1, 1), results
    assert holds(world, "dev") == won[0].release.version
    assert won[0].release.version in lost[0].message
    assert "recast channels dev" in lost[0].hint
    assert len(list(world.repository.history("dev"))) == 2


@pytest.mark.soak
def test_a_revocation_and_a_promotion_at_once_never_lose_the_revocation(world: World) -> None:
    release = world.publish()
    one, two = world.engineer("alice", "online"), world.engineer("alice", "online")
    planned = plan_promotion(one, release, "dev")
    results = together(
        lambda: carry_out(one, planned),
        lambda: revoke(two, "edge-web", release.version, release.root_hash, "bad"),
    )
    assert not isinstance(results[1], Exception), results
    pointer = world.client().pointer("dev", "edge-web")
    assert [each.version for each in pointer.revoked] == [release.version]
    if isinstance(results[0], Promotion):
        assert pointer.release == release
    else:  # refused by its gates, or told that somebody else's change rules it out
        assert isinstance(results[0], GatesError | ConflictError), results
        assert "revoked in dev" in results[0].message
        assert pointer.release is None


def test_what_was_decided_is_asked_again_when_it_is_signed(world: World) -> None:
    release = world.publish()
    planned = plan_promotion(world.desk, release, "dev")
    freeze(world.engineer("alice", "online"), "dev", reason="a holiday")
    with pytest.raises(GatesError, match="dev is frozen: a holiday") as caught:
        carry_out(world.desk, planned)
    assert "recast thaw dev" in caught.value.hint


def test_a_store_that_fails_midway_is_told_and_nothing_is_half_done(tmp_path: Path) -> None:
    inner = MemoryStore()
    world = World(tmp_path, store=inner)
    release = world.publish()
    broken = Desk(
        store=FaultyStore(inner, "5xx", only=["touch"]),
        repository=world.repository,
        published=world.desk.published,
        client=world.desk.client,
        channels=world.channels,
        clock=world.desk.clock,
    )
    with pytest.raises(NetworkError):
        promote(broken, release, "dev")
    assert world.desk.view("dev").pointers == {}


# --- back


def test_a_rollback_goes_to_the_release_before_at_once(world: World) -> None:
    old, new = world.publish(), world.publish()
    world.hold("stable", old, new)
    world.wait(HOUR)
    done = carry_out(
        world.desk, plan_rollback(world.desk, "edge-web", "stable", reason="uplinks are lost")
    )
    assert done.before == new
    pointer = world.client().pointer("stable", "edge-web")
    assert pointer.release == old
    assert pointer.rollout is not None
    assert pointer.rollout.waves == ALL_AT_ONCE
    assert [held.version for held in pointer.history] == [new.version]
    event = next(world.repository.history("stable")).event
    assert (event.action, event.version, event.before) == ("rollback", old.version, new.version)
    assert event.reason == "uplinks are lost"


def test_a_second_rollback_goes_further_back_and_not_forth(world: World) -> None:
    releases = [world.publish() for _ in range(3)]
    world.hold("dev", *releases)
    assert rollback(world.desk, "dev").release == releases[1]
    assert rollback(world.desk, "dev").release == releases[0]
    with pytest.raises(UsageError, match="nothing older") as caught:
        rollback(world.desk, "dev")
    assert releases[2].version in caught.value.hint
    assert rollback(world.desk, "dev", releases[2].version).release == releases[2]


def test_a_rollback_passes_over_what_is_revoked(world: World) -> None:
    good, bad, new = (world.publish() for _ in range(3))
    world.hold("dev", good, bad, new)
    revoke(world.desk, "edge-web", bad.version, bad.root_hash, "bad")
    with pytest.raises(RefusedError, match="is revoked: bad"):
        plan_rollback(world.desk, "edge-web", "dev", bad.version)
    assert rollback(world.desk, "dev").release == good


def test_a_rollback_may_spread_slowly_and_may_be_named_by_its_beginning(world: World) -> None:
    old, new = world.publish(), world.publish()
    world.hold("dev", old, new)
    waves = (Wave(share=0.1, soak=60.0), Wave(share=1.0))
    planned = plan_rollback(world.desk, "edge-web", "dev", old.version[:15], waves=waves)
    assert planned.release == old
    assert carry_out(world.desk, planned).rollout.waves == waves


def test_there_must_be_something_to_go_back_to(world: World) -> None:
    with pytest.raises(UsageError, match="dev holds no release of `edge-web`"):
        rollback(world.desk, "dev")
    release = world.publish()
    world.hold("dev", release)
    with pytest.raises(UsageError, match="nothing else") as caught:
        rollback(world.desk, "dev")
    assert "recast freeze dev" in caught.value.hint
    with pytest.raises(UsageError, match="has not held edge-web@1999"):
        rollback(world.desk, "dev", "1999")


def test_what_a_channel_goes_back_to_is_what_it_has_signed_before(world: World) -> None:
    old, new = world.publish(), world.publish()
    world.hold("dev", old, new)
    assert isinstance(world.store, MemoryStore)
    key = release_key("edge-web", old.version)
    forged = old.model_copy(update={"manifest": new.manifest})
    world.store.corrupt(key, forged.model_dump_json().encode())
    with pytest.raises(TrustError, match="is not that of the release that the channel held"):
        rollback(world.desk, "dev")
    world.store.delete(key)
    with pytest.raises(UsageError, match="is not in the store any more"):
        rollback(world.desk, "dev")


# --- which release is meant


def test_without_a_version_it_is_what_the_channel_before_holds(world: World) -> None:
    old, new = world.publish(), world.publish()
    world.hold("dev", old)
    assert choose_for(world.desk, "edge-web", "dev") == new
    assert choose_for(world.desk, "edge-web", "candidate") == old
    assert choose_for(world.desk, f"edge-web@{new.version}", "candidate") == new


def test_what_cannot_be_meant_says_what_to_do(world: World) -> None:
    world.publish()
    with pytest.raises(UsageError, match="dev holds no release of edge-web") as caught:
        choose_for(world.desk, "edge-web", "candidate")
    assert "recast promote edge-web --to dev" in caught.value.hint
    with pytest.raises(UsageError, match="there is no image `edge-wbe`") as caught:
        choose_for(world.desk, "edge-wbe", "candidate")
    assert "edge-web" in caught.value.hint
    with pytest.raises(UsageError, match="edge-db has no release") as caught:
        require_image(world.desk, "edge-db", ["edge-db"])
    assert "recast run edge-db" in caught.value.hint
    with pytest.raises(UsageError, match="there is no channel `stabel`") as caught:
        plan_promotion(world.desk, published(world), "stabel")
    assert "stable" in caught.value.hint


def published(world: World) -> PublishedRelease:
    found = world.desk.published.latest("edge-web")
    assert found is not None
    return found


def test_what_somebody_clears_away_meanwhile_does_not_enter_a_channel(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = world.publish()
    stored = release.parts["root"].stored
    assert stored is not None

    def clear_up(store: Store) -> bool:
        store.delete(object_key(stored.digest))
        return True

    monkeypatch.setattr("pipeline.channels.facts.wait_for_collectors", clear_up)
    with pytest.raises(UsageError, match=stored.digest) as caught:
        promote(world.desk, release, "dev")
    assert "recast publish" in caught.value.hint
    assert world.desk.view("dev").pointers == {}
