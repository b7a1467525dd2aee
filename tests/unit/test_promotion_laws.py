"""The laws that the gates of a promotion keep together, whatever the facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.channel import ChannelDefinition, Gates
from pipeline.models.pointer import (
    PublishedRelease,
)
from pipeline.policy.budgets import Download
from pipeline.policy.promotion import (
    Approvals,
    PromotionFacts,
    Stay,
    TestResult,
    judge,
)
from tests.fakes.promotions import (
    HOUR,
    NOW,
    digest,
    dirty,
    gate,
    held,
    release,
    revocation,
)

MOMENTS = st.integers(-(10**6), 10**6).map(lambda seconds: NOW + timedelta(seconds=seconds))
RELEASES = st.one_of(
    st.integers(0, 4).map(release),
    st.builds(lambda n, d: dirty(n, f"{d:08x}"), st.integers(0, 4), st.integers(0, 2)),
)
PEOPLE = st.lists(st.sampled_from(["anna", "bert", "carl"]), max_size=3).map(tuple)


@st.composite
def stays(draw: st.DrawFn) -> Stay:
    since = draw(MOMENTS)
    until = draw(st.none() | st.integers(0, 10**6).map(lambda s: since + timedelta(seconds=s)))
    return Stay(since, until)


RESULTS = st.builds(
    TestResult,
    st.sampled_from(["qemu", "aws"]),
    st.booleans(),
    st.integers(0, 4).map(digest),
    MOMENTS,
)
CHANNELS = st.builds(
    lambda gates: ChannelDefinition(name="stable", gates=gates),
    st.builds(
        Gates,
        tests=st.sampled_from([(), ("qemu",), ("qemu", "aws")]),
        soak=st.floats(0, 10**6),
        max_package_changes=st.none() | st.integers(0, 9),
        max_growth=st.none() | st.integers(1, 10**9),
        wire_budget=st.none() | st.integers(1, 10**9),
    ),
)
DOWNLOADS = st.builds(
    Download,
    st.integers(0, 10**9),
    st.sampled_from([(), ("delta",), ("delta", "whole")]),
)
FACTS = st.builds(
    PromotionFacts,
    action=st.sampled_from(["promote", "rollback"]),
    release=RELEASES,
    channel=CHANNELS,
    before=st.none() | st.just("candidate"),
    approvals=st.builds(Approvals, st.integers(1, 3), PEOPLE, PEOPLE, st.booleans()),
    stays=st.lists(stays(), max_size=3).map(tuple),
    present=st.none() | RELEASES,
    history=st.lists(RELEASES, max_size=3).map(
        lambda many: tuple(held(each, NOW - HOUR, NOW) for each in many)
    ),
    previous=st.none() | RELEASES,
    frozen=st.sampled_from(["", "audit"]),
    revocations=st.lists(RELEASES, max_size=1).map(
        lambda many: tuple(("dev", revocation(each)) for each in many)
    ),
    tests=st.lists(RESULTS, max_size=3).map(tuple),
    provenance=st.sampled_from([(), ("builder",)]),
    problems=st.dictionaries(st.sampled_from(["provenance", "qemu"]), st.just("bad"), max_size=1),
    missing=st.sampled_from([(), ("objects/ab/abcd",)]),
    package_changes=st.none() | st.integers(0, 12),
    download=st.none() | DOWNLOADS,
)


@given(FACTS, MOMENTS)
def test_every_question_is_answered_with_every_gate(what: PromotionFacts, now: datetime) -> None:
    verdict = judge(what, now)
    names = [each.name for each in verdict.gates]
    tests = [f"tests on {name}" for name in what.channel.gates.tests] or ["tests"]
    order = "newer" if what.action == "promote" else "held before"
    assert names == [
        "stored", "not revoked", "not frozen", "not there", order, "clean",
        "provenance", *tests, "soak", "package changes", "growth", "wire budget",
        "approvals",
    ]  # fmt: skip
    assert all(each.reason for each in verdict.gates)
    assert all(each.opens is None or not each.passed for each in verdict.gates)
    assert judge(what, now) == verdict


@given(FACTS, MOMENTS)
def test_nothing_revoked_is_ever_allowed(what: PromotionFacts, now: datetime) -> None:
    revoked = (("dev", revocation(what.release)),)
    assert not judge(replace(what, revocations=revoked), now).allowed


@given(FACTS, MOMENTS)
def test_these_alone_always_stand_in_the_way(what: PromotionFacts, now: datetime) -> None:
    for change in ({"frozen": "x"}, {"missing": ("k",)}, {"present": what.release}):
        assert not judge(replace(what, **change), now).allowed
    stranger = replace(what.approvals, signed=("eve",), keyholders=("anna",))
    assert not judge(replace(what, approvals=stranger), now).allowed


@given(FACTS, MOMENTS)
def test_a_dirty_build_never_leaves_the_first_channel(what: PromotionFacts, now: datetime) -> None:
    if what.release.dirty and what.before is not None:
        assert not judge(what, now).allowed


@given(FACTS, MOMENTS, st.integers(0, 10**7))
def test_time_never_closes_a_gate(what: PromotionFacts, now: datetime, seconds: int) -> None:
    later = judge(what, now + timedelta(seconds=seconds))
    for before, after in zip(judge(what, now).gates, later.gates, strict=True):
        assert after.passed or not before.passed


@given(FACTS, MOMENTS, st.floats(0, 10**6))
def test_a_longer_stay_never_closes_a_gate(
    what: PromotionFacts, now: datetime, more: float
) -> None:
    longer = tuple(replace(each, since=each.since - timedelta(seconds=more)) for each in what.stays)
    before, after = judge(what, now), judge(replace(what, stays=longer), now)
    assert after.allowed or not before.allowed


@given(FACTS, MOMENTS)
def test_a_shorter_demand_never_closes_a_gate(what: PromotionFacts, now: datetime) -> None:
    gates = what.channel.gates.model_copy(
        update={
            "soak": 0.0,
            "max_package_changes": None,
            "max_growth": None,
            "wire_budget": None,
            "tests": (),
        }
    )
    easier = replace(what, channel=what.channel.model_copy(update={"gates": gates}))
    assert judge(easier, now).allowed or not judge(what, now).allowed


@given(FACTS, MOMENTS, DOWNLOADS, st.integers(0, 10**9))
def test_fewer_bytes_never_close_a_gate(
    what: PromotionFacts, now: datetime, download: Download, fewer: int
) -> None:
    smaller = replace(download, size=max(download.size - fewer, 0))
    before = judge(replace(what, download=download), now)
    after = judge(replace(what, download=smaller), now)
    for large, small in zip(before.gates, after.gates, strict=True):
        assert small.passed or not large.passed
        assert large.name == "wire budget" or small == large


@given(FACTS, MOMENTS)
def test_another_signature_never_closes_a_gate(what: PromotionFacts, now: datetime) -> None:
    more = replace(what.approvals, signed=(*what.approvals.signed, "carl"))
    assert judge(replace(what, approvals=more), now).allowed or not judge(what, now).allowed


@given(FACTS, MOMENTS, RESULTS)
def test_a_failed_test_never_opens_a_gate(
    what: PromotionFacts, now: datetime, result: TestResult
) -> None:
    worse = replace(what, tests=(*what.tests, replace(result, passed=False)))
    assert judge(what, now).allowed or not judge(worse, now).allowed


@given(FACTS, MOMENTS)
def test_when_time_alone_opens_it_it_is_open_then_and_not_before(
    what: PromotionFacts, now: datetime
) -> None:
    opens = judge(what, now).opens
    if opens is not None:
        assert opens > now
        assert judge(what, opens).allowed
        assert not judge(what, opens - timedelta(milliseconds=1)).allowed


@given(FACTS, MOMENTS)
def test_a_promotion_never_replaces_a_release_by_an_older_one(
    what: PromotionFacts, now: datetime
) -> None:
    verdict = judge(what, now)
    if what.action == "promote" and what.present is not None and verdict.allowed:
        assert what.release.created >= what.present.created


@given(RELEASES, RELEASES)
def test_of_two_clean_releases_only_one_can_follow_the_other(
    one: PublishedRelease, two: PublishedRelease
) -> None:
    if not (one.dirty or two.dirty):
        forth = gate("newer", release=one, present=two).passed
        back_again = gate("newer", release=two, present=one).passed
        assert forth + back_again == (one != two)
