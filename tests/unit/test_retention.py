"""What stays in a store, and the laws of that."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.pointer import Pointer, PublishedRelease, Revocation
from pipeline.policy.retention import (
    BEFORE,
    HELD,
    PREVIOUS,
    PROPOSED,
    REFERRED,
    YOUNG,
    is_young,
    keep_objects,
    keep_releases,
    objects_of,
    references,
)
from tests.fakes.published import T0, bodies, names_of, pointer, published

NOW = T0 + timedelta(days=30)
GRACE = 7 * 86400.0
OLD = NOW - timedelta(days=8)


def why(*pointers: Pointer, proposed: tuple[Pointer, ...] = (), keep: int = 2) -> dict[int, str]:
    """Why each of ten old releases stays, by number."""
    found = {(r.image, r.version): n for n, r in enumerate(map(published, range(10)))}
    times = dict.fromkeys(found, OLD)
    kept = keep_releases(times, references(pointers, proposed, keep), grace=GRACE, now=NOW)
    return {found[name]: reason for name, reason in kept.items()}


def revoked(number: int) -> Revocation:
    release = published(number)
    return Revocation(version=release.version, root_hash=release.root_hash, reason="bad", when=NOW)


def test_what_a_channel_holds_held_and_can_go_back_to_stays() -> None:
    stable = pointer(
        "stable", published(9), previous=published(7), history=map(published, (8, 7, 6, 5))
    )
    assert why(stable) == {9: HELD, 7: PREVIOUS, 8: BEFORE}
    assert why(stable, keep=4) == {9: HELD, 7: PREVIOUS, 8: BEFORE, 6: BEFORE, 5: BEFORE}


def test_nothing_that_is_revoked_anywhere_is_gone_back_to_or_counts() -> None:
    stable = pointer("stable", published(9), history=map(published, (8, 7, 6, 5)))
    dev = pointer("dev", None).model_copy(update={"revoked": (revoked(8),)})
    assert why(stable, dev) == {9: HELD, 7: BEFORE, 6: BEFORE}
    elsewhere = dev.model_copy(update={"image": "edge-base"})
    assert why(stable, elsewhere) == {9: HELD, 8: BEFORE, 7: BEFORE}, "of another image"


def test_what_machines_run_stays_though_it_is_revoked() -> None:
    stable = pointer("stable", published(9), previous=published(8)).model_copy(
        update={"revoked": (revoked(9), revoked(8))}
    )
    assert why(stable) == {9: HELD, 8: PREVIOUS}


def test_each_channel_keeps_its_own() -> None:
    found = why(pointer("dev", published(9)), pointer("stable", published(3)))
    assert found == {9: HELD, 3: HELD}


def test_what_is_proposed_stays() -> None:
    change = pointer("stable", published(9), previous=published(3), history=[published(3)])
    assert why(pointer("stable", published(3)), proposed=(change,)) == {3: HELD, 9: PROPOSED}


def test_what_is_young_stays() -> None:
    name = ("edge-web", published(1).version)
    for age, stays in ((GRACE - 1, True), (GRACE, False), (-3600.0, True)):
        modified = NOW - timedelta(seconds=age)
        kept = keep_releases({name: modified}, (), grace=GRACE, now=NOW)
        assert kept == ({name: YOUNG} if stays else {})


def test_a_release_is_all_its_objects() -> None:
    assert objects_of(published(4)) == bodies(names_of(4)).keys()


def test_an_object_stays_with_a_release_or_while_it_is_young() -> None:
    found = dict.fromkeys(bodies([*names_of(4), "orphan"]), OLD)
    (orphan,) = bodies(["orphan"])
    (young,) = bodies(["just uploaded"])
    kept = keep_objects({**found, young: NOW}, [published(4)], grace=GRACE, now=NOW)
    assert kept == {**dict.fromkeys(bodies(names_of(4)), REFERRED), young: YOUNG}
    assert orphan not in kept


# --- laws

RELEASES = st.integers(0, 9).map(published)
POINTERS = st.builds(
    pointer,
    st.sampled_from(["dev", "stable"]),
    st.none() | RELEASES,
    previous=st.none() | RELEASES,
    history=st.lists(RELEASES, max_size=4, unique_by=lambda release: release.version),
)
MANY = st.lists(POINTERS, max_size=4)
TIMES = st.lists(
    st.integers(0, 14 * 86400).map(lambda seconds: NOW - timedelta(seconds=seconds)),
    min_size=10,
    max_size=10,
)


def kept_of(
    pointers: list[Pointer], proposed: list[Pointer], times: list[datetime], keep: int = 3
) -> set[tuple[str, str]]:
    found = {
        (r.image, r.version): modified
        for r, modified in zip(map(published, range(10)), times, strict=True)
    }
    return set(keep_releases(found, references(pointers, proposed, keep), grace=GRACE, now=NOW))


@given(MANY, MANY, TIMES)
def test_what_a_channel_holds_never_goes(
    pointers: list[Pointer], proposed: list[Pointer], times: list[datetime]
) -> None:
    kept = kept_of(pointers, proposed, times)
    for each in (*pointers, *proposed):
        for release in (each.release, each.previous):
            assert release is None or (release.image, release.version) in kept


@given(MANY, MANY, MANY, TIMES)
def test_another_pointer_never_lets_anything_go(
    pointers: list[Pointer], more: list[Pointer], proposed: list[Pointer], times: list[datetime]
) -> None:
    assert kept_of(pointers, proposed, times) <= kept_of([*pointers, *more], proposed, times)
    assert kept_of(pointers, [], times) <= kept_of(pointers, proposed, times)


@given(MANY, TIMES, st.integers(1, 5), st.integers(0, 5))
def test_keeping_more_never_lets_anything_go(
    pointers: list[Pointer], times: list[datetime], keep: int, more: int
) -> None:
    assert kept_of(pointers, [], times, keep) <= kept_of(pointers, [], times, keep + more)


@given(MANY, TIMES)
def test_all_that_goes_is_old_and_no_channels(
    pointers: list[Pointer], times: list[datetime]
) -> None:
    kept = kept_of(pointers, [], times)
    referred = {each.id for each in references(pointers, [], 3)}
    for release, modified in zip(map(published, range(10)), times, strict=True):
        name = (release.image, release.version)
        assert (name in kept) == (name in referred or is_young(modified, NOW, GRACE))


@given(st.lists(RELEASES, max_size=4))
def test_every_object_of_every_release_that_stays_stays(releases: list[PublishedRelease]) -> None:
    everything = {name: OLD for number in range(10) for name in bodies(names_of(number))}
    kept = keep_objects(everything, releases, grace=GRACE, now=NOW)
    needed = {name for release in releases for name in objects_of(release)}
    assert set(kept) == needed


@pytest.mark.parametrize("keep", [1, 5])
def test_a_reference_tells_which_channel_it_is_for(keep: int) -> None:
    stable = pointer("stable", published(9), history=map(published, (8, 7)))
    found = references([stable], (), keep)
    assert {each.where for each in found} == {"stable"}
    assert [each.root_hash for each in found][:2] == [
        published(9).root_hash,
        published(8).root_hash,
    ]
