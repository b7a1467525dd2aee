"""From what is known of a release and of the channels to the facts that the gates ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pipeline.policy.budgets import Download
from pipeline.policy.promotion import (
    Approvals,
    PromotionFacts,
    TestResult,
    judge,
    stays_of,
)

if TYPE_CHECKING:
    from pipeline.channels.desk import Desk
    from pipeline.channels.facts import Dossier
    from pipeline.channels.starts import Start
    from pipeline.models.pointer import Pointer, Revocation
    from pipeline.policy.verdict import Verdict
    from pipeline.releases import ReleaseDiff
    from pipeline.trust.views import ChannelView

Action = Literal["promote", "rollback"]


@dataclass(frozen=True)
class Surroundings:
    """What the other channels say of an image.

    Attributes:
        before: name of the channel before; None for the first.
        pointer: what that channel says of the image; None if nothing.
        revocations: of the image in all other channels, each with the channel's name.
    """

    before: str | None
    pointer: Pointer | None
    revocations: tuple[tuple[str, Revocation], ...]


def look_around(desk: Desk, channel: str, image: str) -> Surroundings:
    """What the channels other than *channel* say of *image*.

    Raises:
        TrustError, NetworkError, HostError: the store cannot be believed or reached.
    """
    before = desk.channels.before(channel)
    views = {view.name: view for view in desk.views_that_are() if view.name != channel}
    found = views.get(before.name) if before is not None else None
    return Surroundings(
        before=before.name if before is not None else None,
        pointer=found.pointers.get(image) if found is not None else None,
        revocations=revocations(list(views.values()), image),
    )


def revocations(views: Sequence[ChannelView], image: str) -> tuple[tuple[str, Revocation], ...]:
    """All revocations of an image, each with its channel's name."""
    return tuple(
        (view.name, each)
        for view in views
        if image in view.pointers
        for each in view.pointers[image].revoked
    )


def decide(
    desk: Desk,
    action: Action,
    dossier: Dossier,
    view: ChannelView,
    around: Surroundings,
    changes: ReleaseDiff,
    starts: Sequence[Start],
    *,
    propose: bool,
    now: datetime,
) -> Verdict:
    """Ask every gate.

    Args:
        desk: knows what the channel asks for.
        action: forwards, or back.
        dossier: the release, and what is known of it.
        view: the channel.
        around: the other channels.
        changes: against what the channel holds.
        starts: what it costs machines, by release that they run now.
        propose: may others sign later?
        now: the present moment.
    """
    image = dossier.release.image
    pointer = view.pointers.get(image)
    facts = PromotionFacts(
        action=action,
        release=dossier.release,
        channel=desk.definition(view.name),
        before=around.before,
        approvals=Approvals(view.threshold, view.ours, view.keyholders, propose),
        stays=stays_of(around.pointer, dossier.release),
        present=pointer.release if pointer else None,
        history=pointer.history if pointer else (),
        previous=pointer.previous if pointer else None,
        frozen=view.frozen,
        revocations=(*revocations([view], image), *around.revocations),
        tests=_tests(dossier),
        provenance=_provenance(dossier),
        problems=_problems(dossier),
        missing=dossier.missing,
        package_changes=_package_changes(changes),
        download=_download(starts),
    )
    return judge(facts, now)


def _tests(dossier: Dossier) -> tuple[TestResult, ...]:
    from pipeline.trust.attestations import VerifiedTest

    return tuple(
        TestResult(found.provider, found.passed, found.root_hash, found.when)
        for each in dossier.evidence
        if isinstance(found := each.verified, VerifiedTest)
    )


def _provenance(dossier: Dossier) -> tuple[str, ...]:
    from pipeline.trust.attestations import VerifiedProvenance

    for each in dossier.evidence:
        if isinstance(each.verified, VerifiedProvenance):
            return each.verified.signers
    return ()


def _problems(dossier: Dossier) -> dict[str, str]:
    """Why evidence does not count; a second attestation of a kind makes up for a bad one."""
    good = {
        (each.evidence.kind, each.evidence.provider)
        for each in dossier.evidence
        if not each.problem
    }
    return {
        each.evidence.provider or each.evidence.kind: each.problem
        for each in dossier.evidence
        if each.problem and (each.evidence.kind, each.evidence.provider) not in good
    }


def _package_changes(changes: ReleaseDiff) -> int | None:
    if changes.old is None:
        return None
    packages = changes.packages
    return len(packages.added) + len(packages.removed) + len(packages.changed)


def _download(starts: Sequence[Start]) -> Download | None:
    """What the dearest of the releases that the channel holds costs."""
    totals = [start.total for start in starts if start.kind == "held"]
    dearest = max(totals, key=lambda each: each.size, default=None)
    return Download(dearest.size, dearest.ways) if dearest is not None else None
