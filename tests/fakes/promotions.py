"""A promotion and a rollback to which nothing can be objected, to be changed by one thing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.models.channel import ChannelDefinition, Gates
from pipeline.models.pointer import (
    Held,
    PublishedPart,
    PublishedRelease,
    Revocation,
    StoredObject,
)
from pipeline.policy.budgets import Download
from pipeline.policy.promotion import (
    Approvals,
    PromotionFacts,
    Stay,
    TestResult,
    judge,
)
from pipeline.policy.verdict import Gate

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MIB = 1 << 20


def digest(number: int) -> str:
    return f"{number:064x}"


def release(number: int = 2, **changes: Any) -> PublishedRelease:
    """The *number*th release of an image: a later commit than those with smaller numbers."""
    commit = f"{number:040x}"
    created = datetime(2026, 3, 1, tzinfo=UTC) + number * HOUR
    values: dict[str, Any] = {
        "image": "edge-web",
        "version": f"{created:%Y%m%d.%H%M%S}.g{commit[-12:]}",
        "commit": commit,
        "created": created,
        "build_key": "k",
        "root_hash": digest(number),
        "boot_digest": "b",
        "manifest": StoredObject(digest=digest(900 + number), size=10),
        "parts": {
            "root": PublishedPart(file="r", digest=digest(100 + number), size=100 * MIB),
            "uki": PublishedPart(file="u", digest=digest(200 + number), size=20 * MIB),
        },
        **changes,
    }
    return PublishedRelease(**values)


def held(what: PublishedRelease, since: datetime, until: datetime) -> Held:
    return Held(version=what.version, root_hash=what.root_hash, since=since, until=until)


def revocation(what: PublishedRelease) -> Revocation:
    return Revocation(
        version=what.version, root_hash=what.root_hash, reason="it eats disks", when=NOW - HOUR
    )


def passed(what: PublishedRelease, provider: str = "qemu", **changes: Any) -> TestResult:
    return replace(TestResult(provider, True, what.root_hash, NOW - 30 * HOUR), **changes)


STABLE = ChannelDefinition(name="stable", gates=Gates(soak=24 * 3600.0))
ONE = Approvals(1, ("anna",), ("anna", "bert"))


def facts(**changes: Any) -> PromotionFacts:
    """A promotion into stable to which nothing can be objected."""
    good = PromotionFacts(
        action="promote",
        release=release(2),
        channel=STABLE,
        before="candidate",
        approvals=ONE,
        stays=(Stay(NOW - 25 * HOUR),),
        present=release(1),
        tests=(passed(release(2)),),
        provenance=("builder",),
        package_changes=3,
        download=Download(int(6.2 * MIB), ("delta",)),
    )
    return replace(good, **changes)


def back(**changes: Any) -> PromotionFacts:
    """A rollback of stable from the third release to the first."""
    return facts(
        **{
            "action": "rollback",
            "release": release(1),
            "present": release(3),
            "history": (held(release(1), NOW - 90 * HOUR, NOW - 50 * HOUR),),
            "stays": (),
            "tests": (),
            "provenance": (),
            "package_changes": None,
            "download": None,
            **changes,
        }
    )


def gate(name: str, **changes: Any) -> Gate:
    (found,) = (each for each in judge(facts(**changes), NOW).gates if each.name == name)
    return found


def refusals(what: PromotionFacts) -> dict[str, str]:
    return {each.name: each.reason for each in judge(what, NOW).refusals}


def dirty(number: int, digits: str = "01234567", **changes: Any) -> PublishedRelease:
    plain = release(number)
    version = f"{plain.version}.dirty.{digits}"
    return release(number, **{"version": version, "dirty": True, **changes})
