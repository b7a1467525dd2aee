"""Which release may enter which channel: every gate by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.models.channel import ChannelDefinition, Gates
from pipeline.models.pointer import (
    Pointer,
    PublishedPart,
)
from pipeline.policy.budgets import Download
from pipeline.policy.promotion import (
    Approvals,
    Stay,
    TestResult,
    judge,
    stays_of,
)
from pipeline.policy.verdict import Gate
from tests.fakes.promotions import (
    HOUR,
    MIB,
    NOW,
    STABLE,
    back,
    digest,
    dirty,
    facts,
    gate,
    held,
    passed,
    refusals,
    release,
    revocation,
)

NAMES = [
    "stored", "not revoked", "not frozen", "not there", "newer", "clean", "provenance",
    "tests on qemu", "soak", "package changes", "growth", "wire budget",
    "approvals",
]  # fmt: skip


# --- the whole


def test_a_promotion_that_fulfils_everything_is_allowed_and_tells_why() -> None:
    verdict = judge(facts(), NOW)
    assert verdict.allowed
    assert [each.name for each in verdict.gates] == NAMES
    reasons = {each.name: each.reason for each in verdict.gates}
    assert reasons["newer"] == f"newer than {release(1).version}"
    assert reasons["tests on qemu"] == "passed at 2026-03-09T06:00:00Z, on this very root"
    assert reasons["soak"] == "in candidate for 25h00m, 1d asked for"
    assert reasons["provenance"] == "signed by builder"
    assert reasons["package changes"] == f"3 packages since {release(1).version}; no limit"
    assert reasons["growth"] == f"as large as {release(1).version}; no limit"
    assert reasons["wire budget"] == f"6.2 MiB from {release(1).version}, by delta; no limit"
    assert reasons["approvals"] == "1 of 1: anna"


def test_a_first_release_has_nothing_to_be_compared_with() -> None:
    verdict = judge(facts(present=None, package_changes=None), NOW)
    assert verdict.allowed
    assert gate("newer", present=None).reason == "the first release of edge-web in stable"


def test_the_first_channel_asks_for_no_soak_and_takes_dirty_builds() -> None:
    dev = ChannelDefinition(name="dev")
    assert judge(facts(channel=dev, before=None, stays=(), release=dirty(2)), NOW).allowed


# --- one gate at a time


def test_a_half_uploaded_release_stays_out() -> None:
    assert refusals(facts(missing=("objects/ab/abcd",))) == {
        "stored": "objects/ab/abcd is not in the store"
    }
    assert "and 2 more of its objects are" in gate("stored", missing=("a", "b", "c")).reason


def test_what_any_channel_has_revoked_enters_none() -> None:
    found = refusals(facts(revocations=(("dev", revocation(release(2))),)))
    assert found == {"not revoked": "revoked in dev since 2026-03-10T11:00:00Z: it eats disks"}
    assert gate("not revoked", revocations=(("dev", revocation(release(1))),)).passed


def test_a_rebuild_with_the_root_of_a_revoked_version_is_revoked() -> None:
    twin = release(1, root_hash=release(2).root_hash)
    reason = gate("not revoked", revocations=(("stable", revocation(twin)),)).reason
    assert f"with {twin.version}, which has the same root" in reason


def test_a_frozen_channel_takes_nothing() -> None:
    assert refusals(facts(frozen="audit")) == {"not frozen": "stable is frozen: audit"}
    assert refusals(back(frozen="audit")) == {"not frozen": "stable is frozen: audit"}


@pytest.mark.parametrize("make", [facts, back])
def test_what_is_there_already_need_not_come(make: Any) -> None:
    there = make()
    found = refusals(replace(there, present=there.release))
    assert found["not there"] == f"{there.release.version} is there already"


def test_a_promotion_never_goes_back() -> None:
    assert refusals(facts(present=release(3))) == {
        "newer": f"older than {release(3).version}, which stable holds"
    }


def test_commits_of_one_second_are_in_the_order_of_their_versions() -> None:
    moment = release(2).created
    twin = release(7, created=moment, version=release(2).version[:-1] + "f")
    assert judge(facts(present=release(2), release=twin, tests=(passed(twin),)), NOW).allowed
    assert not gate("newer", present=twin).passed


def test_builds_of_one_commit_are_in_the_order_of_building() -> None:
    early, late = dirty(2, "ffffffff", built=NOW), dirty(2, "00000000", built=NOW + HOUR)
    assert gate("newer", release=late, present=early).passed
    assert not gate("newer", release=early, present=late).passed


def test_builds_of_one_commit_without_a_known_order_may_follow_each_other() -> None:
    one, two = dirty(2, "ffffffff"), dirty(2, "00000000")
    for new, old in ((one, two), (two, one), (release(2), one), (one, release(2))):
        assert gate("newer", release=new, present=old).passed


def test_a_dirty_build_stays_in_the_first_channel() -> None:
    found = refusals(facts(release=dirty(2), tests=(passed(release(2)),)))
    assert list(found) == ["clean"]
    assert "cannot leave the first channel" in found["clean"]


def test_nothing_moves_without_signed_provenance() -> None:
    assert refusals(facts(provenance=())) == {
        "provenance": "nobody has signed how it was built",
    }
    why = "signed by a key that is not the builder's"
    assert refusals(facts(problems={"provenance": why})) == {"provenance": why}


TESTS: dict[str, tuple[tuple[TestResult, ...], str]] = {
    "none": ((), "no signed result of its tests there"),
    "failed": ((passed(release(2), passed=False),), "failed at 2026-03-09T06:00:00Z"),
    "another root": (
        (passed(release(2), root_hash="ab" * 32),),
        "what was tested there is root abababababab…, and this is 000000000000…",
    ),
    "elsewhere": ((passed(release(2), "aws"),), "no signed result of its tests there"),
    "failed later": (
        (passed(release(2)), passed(release(2), passed=False, when=NOW)),
        "failed at 2026-03-10T12:00:00Z",
    ),
    "both at once": (
        (passed(release(2)), passed(release(2), passed=False)),
        "failed at 2026-03-09T06:00:00Z",
    ),
}


@pytest.mark.parametrize("case", TESTS)
def test_its_tests_must_have_passed_on_this_very_root(case: str) -> None:
    results, reason = TESTS[case]
    assert refusals(facts(tests=results)) == {"tests on qemu": reason}
    assert refusals(facts(tests=results[::-1])) == {"tests on qemu": reason}


def test_a_result_that_is_not_to_be_believed_says_why() -> None:
    found = refusals(facts(tests=(), problems={"qemu": "signed by nobody we know"}))
    assert found == {"tests on qemu": "signed by nobody we know"}


def test_each_named_provider_must_have_passed() -> None:
    both = STABLE.model_copy(update={"gates": Gates(tests=("qemu", "aws"))})
    found = refusals(facts(channel=both))
    assert list(found) == ["tests on aws"]
    good = (passed(release(2)), passed(release(2), "aws"))
    assert judge(facts(channel=both, tests=good), NOW).allowed


def test_a_channel_may_ask_for_no_tests() -> None:
    none = STABLE.model_copy(update={"gates": Gates(tests=())})
    assert gate("tests", channel=none, tests=()).reason == "stable asks for none"


def test_a_release_soaks_in_the_channel_before() -> None:
    found = judge(facts(stays=(Stay(NOW - 3 * HOUR),)), NOW)
    assert [each.reason for each in found.refusals] == [
        "in candidate for 3h00m of 1d, over at 2026-03-11T09:00:00Z"
    ]
    assert found.opens == NOW + 21 * HOUR
    assert judge(facts(stays=(Stay(NOW - 3 * HOUR),)), NOW + 21 * HOUR).allowed


def test_where_it_has_never_been_it_has_not_soaked() -> None:
    assert refusals(facts(stays=())) == {"soak": "has never been in candidate"}
    no_soak = STABLE.model_copy(update={"gates": Gates()})
    assert refusals(facts(channel=no_soak, stays=())) == {"soak": "has never been in candidate"}


def test_a_release_that_was_superseded_keeps_what_it_has_soaked() -> None:
    whole = Stay(NOW - 100 * HOUR, NOW - 70 * HOUR)
    assert judge(facts(stays=(whole,)), NOW).allowed
    part = Stay(NOW - 100 * HOUR, NOW - 90 * HOUR)
    found = judge(facts(stays=(part,)), NOW)
    assert found.refusals[0].reason == "in candidate for 10h00m of 1d, and no longer there"
    assert found.opens is None, "time alone never opens it"


def test_several_stays_count_together_and_none_twice() -> None:
    stays = (Stay(NOW - HOUR), Stay(NOW - 30 * HOUR, NOW - 20 * HOUR))
    found = judge(facts(stays=stays), NOW)
    assert found.opens == NOW + 13 * HOUR
    twice = (*stays, Stay(NOW - 29 * HOUR, NOW - 21 * HOUR))
    assert judge(facts(stays=twice), NOW).opens == NOW + 13 * HOUR


def test_a_stay_that_begins_in_the_future_has_not_begun() -> None:
    found = judge(facts(stays=(Stay(NOW + HOUR),)), NOW)
    assert not found.allowed
    assert found.opens == NOW + 25 * HOUR


BUDGETS: dict[str, tuple[dict[str, Any], str]] = {
    "packages": (
        {"channel": STABLE.model_copy(update={"gates": Gates(max_package_changes=2)})},
        f"3 packages since {release(1).version}; at most 2",
    ),
    "unknown": (
        {
            "channel": STABLE.model_copy(update={"gates": Gates(max_package_changes=2)}),
            "package_changes": None,
        },
        f"what changed since {release(1).version} cannot be told",
    ),
    "growth": (
        {
            "channel": STABLE.model_copy(update={"gates": Gates(max_growth=10 * MIB)}),
            "present": release(
                1, parts={"root": PublishedPart(file="r", digest=digest(1), size=MIB)}
            ),
        },
        f"119 MiB more than {release(1).version}; at most 10.0 MiB more",
    ),
}


@pytest.mark.parametrize("case", BUDGETS)
def test_a_change_that_is_larger_than_its_budget_stays_out(case: str) -> None:
    changes, reason = BUDGETS[case]
    assert list(refusals(facts(**changes)).values()) == [reason]


def test_a_budget_is_kept_up_to_its_last_package() -> None:
    exact = STABLE.model_copy(update={"gates": Gates(max_package_changes=3, max_growth=1)})
    assert judge(facts(channel=exact), NOW).allowed
    assert gate("package changes", package_changes=1).reason.startswith("1 package since")


def wire(budget: int | None, **changes: Any) -> Gate:
    channel = STABLE.model_copy(update={"gates": Gates(wire_budget=budget)})
    return gate("wire budget", channel=channel, **changes)


WIRE: dict[str, tuple[int | None, dict[str, Any], bool, str]] = {
    "within": (20 * MIB, {}, True, "6.2 MiB from {}, by delta; budget 20.0 MiB"),
    "beyond": (5 * MIB, {}, False, "6.2 MiB from {}, by delta; budget 5.0 MiB"),
    "several ways": (
        5 * MIB,
        {"download": Download(231 * MIB, ("delta", "whole"))},
        False,
        "231 MiB from {}, by delta and whole; budget 5.0 MiB",
    ),
    "the same bytes": (1, {"download": Download(0)}, True, "nothing from {}; budget 1 B"),
    "unknown": (
        5 * MIB,
        {"download": None},
        False,
        "what a machine downloads that runs {} cannot be told; budget 5.0 MiB",
    ),
    "unknown, and nobody asks": (
        None,
        {"download": None},
        True,
        "what a machine downloads that runs {} cannot be told; no limit",
    ),
    "first": (
        1,
        {"present": None, "package_changes": None, "download": None},
        True,
        "the first release: machines start from nothing",
    ),
}


@pytest.mark.parametrize("case", WIRE)
def test_a_release_that_links_cannot_carry_stays_out(case: str) -> None:
    budget, changes, passes, reason = WIRE[case]
    found = wire(budget, **changes)
    assert found == Gate("wire budget", passes, reason.format(release(1).version))


def test_the_wire_budget_is_kept_up_to_its_last_byte() -> None:
    assert wire(MIB, download=Download(MIB, ("delta",))).passed
    assert not wire(MIB, download=Download(MIB + 1, ("delta",))).passed


APPROVALS: dict[str, tuple[Approvals, bool, str]] = {
    "enough": (Approvals(2, ("anna", "bert"), ("anna", "bert")), True, "2 of 2: anna, bert"),
    "one missing": (
        Approvals(2, ("anna",), ("anna", "bert", "carl")),
        False,
        "1 of 2: anna; 1 more of bert, carl",
    ),
    "proposed": (
        Approvals(2, ("anna",), ("anna", "bert"), propose=True),
        True,
        "1 of 2: anna; 1 more of bert, to whom it is proposed",
    ),
    "no key to propose with": (
        Approvals(2, (), ("anna", "bert"), propose=True),
        False,
        "0 of 2; 2 more of anna, bert",
    ),
    "a stranger's": (Approvals(1, ("eve",), ("anna",)), False, "0 of 1; 1 more of anna"),
    "twice the same": (
        Approvals(2, ("anna", "anna"), ("anna", "bert")),
        False,
        "1 of 2: anna; 1 more of bert",
    ),
    "out of reach": (
        Approvals(3, ("anna",), ("anna", "bert"), propose=True),
        False,
        "1 of 3: anna; only 2 have a key",
    ),
}


@pytest.mark.parametrize("case", APPROVALS)
def test_enough_people_must_sign(case: str) -> None:
    who, allowed, reason = APPROVALS[case]
    assert gate("approvals", approvals=who) == Gate("approvals", allowed, reason)


# --- back


def test_a_rollback_asks_for_what_it_needs_and_no_more() -> None:
    verdict = judge(back(), NOW)
    assert verdict.allowed
    assert [each.name for each in verdict.gates] == [
        "held before" if name == "newer" else name for name in NAMES
    ]
    asked = [each.name for each in verdict.gates if "not asked" not in each.reason]
    assert asked == [
        "stored", "not revoked", "not frozen", "not there", "held before", "clean", "approvals",
    ]  # fmt: skip


def test_a_rollback_goes_only_to_what_the_channel_has_held() -> None:
    assert judge(back(history=(), previous=release(1)), NOW).allowed
    assert list(refusals(back(history=()))) == ["held before"]
    other = held(release(1, root_hash="cd" * 32), NOW - 9 * HOUR, NOW - 8 * HOUR)
    assert "with another root" in refusals(back(history=(other,)))["held before"]


def test_a_rollback_is_never_too_much_for_a_link() -> None:
    tiny = STABLE.model_copy(update={"gates": Gates(wire_budget=1)})
    assert judge(back(channel=tiny, download=Download(MIB, ("whole",))), NOW).allowed


def test_a_rollback_does_not_go_to_what_is_revoked_or_gone() -> None:
    assert list(refusals(back(revocations=(("dev", revocation(release(1))),)))) == ["not revoked"]
    assert list(refusals(back(missing=("objects/ab/abcd",)))) == ["stored"]


# --- how long it was there


def test_a_pointer_tells_when_a_release_was_there() -> None:
    first, second = release(1), release(2)
    pointer = Pointer(
        channel="candidate",
        image="edge-web",
        release=second,
        since=NOW - HOUR,
        history=(
            held(first, NOW - 5 * HOUR, NOW - HOUR),
            held(second, NOW - 9 * HOUR, NOW - 5 * HOUR),
        ),
    )
    assert stays_of(pointer, second) == (
        Stay(NOW - HOUR),
        Stay(NOW - 9 * HOUR, NOW - 5 * HOUR),
    )
    assert stays_of(pointer, first) == (Stay(NOW - 5 * HOUR, NOW - HOUR),)
    assert stays_of(pointer, release(3)) == ()
    assert stays_of(pointer, release(2, root_hash="ef" * 32)) == (), "another root soaks anew"
    assert stays_of(None, second) == ()
