"""Publish a tested release: sign what is known of it, upload it, move the first channel to it.

Everything is done once: a release that the first channel holds, with all evidence that there is,
is left alone. So is one that is older than what the channel holds: a rebuild of an old commit is
no reason to take machines back.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pipeline import releases
from pipeline.channels.attesting import attest
from pipeline.channels.bases import find_bases
from pipeline.channels.promote import carry_out, plan_promotion
from pipeline.channels.publish import JOBS, Published, publish
from pipeline.engine.records import BuildRecord, Records
from pipeline.errors import BuildError, ConflictError, RefusedError
from pipeline.files import format_size

if TYPE_CHECKING:
    from pipeline.channels.desk import Desk
    from pipeline.channels.promote import Promotion
    from pipeline.engine.stage import Outcome, Work
    from pipeline.models.pointer import PublishedRelease
    from pipeline.models.release import Release
    from pipeline.releases import Stored
    from pipeline.trust.attest import Build, Material
    from pipeline.trust.keys import Keyring

_LEFT_ALONE = frozenset({"newer", "not there"})
"""Gates by which a release that is not newer than what the channel holds fails."""

_TRIES = 3  # others may move the same image meanwhile


class PublishStage:
    """The stage ``publish``.

    Args:
        desk: the store and its channels.
        keyring: what is signed with.
        enter: move the first channel as well.
        jobs: uploads at once, for each image.
    """

    name = "publish"
    cores = 1
    memory = 1024  # MiB; what comparing two images takes, beside their own pages

    def __init__(
        self, desk: Desk, keyring: Keyring, *, enter: bool = True, jobs: int = JOBS
    ) -> None:
        self._desk = desk
        self._keyring = keyring
        self._enter = enter
        self._jobs = jobs
        self._first = desk.channels.first
        self._lock = threading.Lock()  # keys and metadata are for one thread at a time

    def run(self, work: Work) -> Outcome:
        """Publish the release, or find that it is published.

        With ``work.force`` the store is made whole again even if the channel holds the release.

        Raises:
            BuildError: there is no release, or a file of it is damaged.
            RefusedError: it was not tested where the first channel demands it, or another of
                the channel's gates says no.
            ConflictError: the store has another release under this version.
            TrustError: the store's metadata cannot be believed, or a key is missing.
            DiskFullError: no space is left, here or in the store.
            NetworkError, HostError: the store cannot be reached, read or written.
            Interrupted: ``work.stop`` was set.
        """
        stored = _find(work)
        wanted = self._desk.channels.images
        if wanted is not None and work.image not in wanted:
            work.note = "not one of `images:` in images/channels.yaml"
            return "cached"
        work.progress("looking at what is published")
        with self._lock:
            self._desk.client.check()
            attested = attest(
                self._desk, self._keyring, stored, lambda: build_of(work, stored.release)
            )
            there = self._holds(stored)
        if there and not attested.new and not work.force:
            work.note = f"{self._first.name} in {self._desk.store.url} holds it"
            return "cached"
        if self._enter:
            self._require_tests(stored, attested.passed)
        published = publish(
            self._desk.store,
            stored,
            attested.new,
            bases=find_bases(self._desk, stored.release),
            local=releases.Releases(work.artifacts),
            scratch=work.scratch,
            jobs=self._jobs,
            grace=self._desk.channels.retention.grace,
            progress=lambda progress: work.progress(str(progress)),
            stop=work.stop,
        )
        sent = _tell(work, published)
        if there or not self._enter:
            work.note = f"in {self._desk.store.url}: {sent}"
            return "done" if published.changed or published.uploaded else "cached"
        work.progress(f"moving {self._first.name}")
        answer, moved = self._move(work, published.release)
        work.note = f"{answer}: {sent}"
        return "done" if moved or published.changed or published.uploaded else "cached"

    def _holds(self, stored: Stored) -> bool:
        """Does the first channel hold this very release?"""
        pointer = self._desk.view(self._first.name).pointers.get(stored.release.image)
        held = pointer.release if pointer is not None else None
        mine = stored.release
        return held is not None and (held.version, held.root_hash) == (mine.version, mine.root_hash)

    def _require_tests(self, stored: Stored, passed: frozenset[str]) -> None:
        """Refuse before anything is uploaded what could not enter afterwards."""
        missing = [name for name in self._first.gates.tests if name not in passed]
        if missing:
            raise RefusedError(
                f"{stored.release.name} has not passed its tests on {', '.join(missing)}, which "
                f"{self._first.name} demands: nothing was published",
                hint=f"`recast test {stored.release.image}@{stored.release.version}` tests it.",
            )

    def _move(self, work: Work, release: PublishedRelease) -> tuple[str, bool]:
        """Move the first channel to *release*; what came of it, and whether it was needed."""
        for attempt in range(_TRIES):
            work.stop.check()
            with self._lock:
                planned = plan_promotion(
                    self._desk,
                    release,
                    self._first.name,
                    reason=f"published by run {work.run}",
                    propose=True,
                )
                if answer := self._no_need(planned):
                    return answer, False
                try:
                    done = carry_out(self._desk, planned)
                except ConflictError:
                    if attempt + 1 == _TRIES:
                        raise
                    continue
                return self._outcome(work, done), True
        raise AssertionError("the last attempt raises or returns")

    def _no_need(self, planned: Promotion) -> str:
        place = f"{self._first.name} in {self._desk.store.url}"
        if planned.already:
            return f"{place} holds it"
        refusals = {gate.name for gate in planned.verdict.refusals}
        if refusals and refusals <= _LEFT_ALONE and planned.before is not None:
            return f"not newer than {planned.before.version}, {place} left alone"
        for proposal in self._desk.repository.proposals():
            pointer = proposal.new.get(planned.release.image)
            same = pointer is not None and pointer.release == planned.release
            if same and proposal.role == self._first.name and not proposal.stale:
                return f"proposed for {place} as {proposal.id} already"
        return ""

    def _outcome(self, work: Work, done: Promotion) -> str:
        outcome = done.outcome
        place = f"{self._first.name} in {self._desk.store.url}"
        for notice in outcome.notices if outcome is not None else ():
            work.log.write(f"{notice}\n")
        if outcome is not None and outcome.version is None:
            return f"proposed for {place}: `recast approve {outcome.proposal}`"
        if outcome is not None and not outcome.published:
            return f"into {place}, which waits for `recast refresh` by who has the online key"
        return f"into {place}"


def build_of(work: Work, release: Release) -> Build:
    """What is known of the build of *release*: what it was made of, by which run, and when.

    A release that was built elsewhere, or too long ago, is known by its manifest alone.
    """
    from pipeline.trust.attest import Build, Material

    materials = [Material("source", {"gitCommit": release.commit})]
    records = Records(work.artifacts)
    record = records.find(release.image, release.build_key)
    if record is None:
        return Build(materials)
    materials += _materials(record)
    if release.parent is not None:
        materials.append(_parent(work, records, record, release.parent))
    return Build(materials, record.run, record.started, record.built)


def _materials(record: BuildRecord) -> list[Material]:
    from pipeline import digest
    from pipeline.trust.attest import Material
    from pipeline.trust.statements import SHA256

    made = record.components
    version, _, scripts = made.builder.partition(" ")
    builder = f"pkg:pypi/diskimage-builder@{version}"
    found = [Material("diskimage-builder", {SHA256: scripts}, uri=builder)] if scripts else []
    found += [Material(f"elements/{n}", {SHA256: d}) for n, d in sorted(made.elements.items())]
    found += [Material(f"files/{n}", {SHA256: d}) for n, d in sorted(made.files.items())]
    archive = digest.of_data(dict(made.archive)) if made.archive else made.index
    if archive:
        count = {"packages": str(len(made.archive))} if made.archive else None
        found.append(Material("package archive", {SHA256: archive}, annotations=count))
    return found


def _parent(work: Work, records: Records, record: BuildRecord, name: str) -> Material:
    from pipeline.trust.attest import Material
    from pipeline.trust.statements import ROOT_HASH

    image = name.partition("_")[0]
    above = records.find(image, record.components.parent or "")
    return Material(name, {ROOT_HASH: above.root_hash} if above and above.root_hash else {})


def _find(work: Work) -> Stored:
    """The release as it is stored, with what its tests said.

    Raises:
        BuildError: there is none, or its manifest cannot be read.
    """
    found = None
    if work.release is not None:
        store = releases.Releases(work.artifacts)
        found = store.find(work.image, work.release.version)
    if found is None:
        raise BuildError(f"{work.image} has no release to publish", hint="Run `recast run` again.")
    return found


def _tell(work: Work, published: Published) -> str:
    sent, reused = format_size(published.uploaded), format_size(published.reused)
    text = f"{sent} uploaded, {reused} there already"
    release = published.release
    work.log.write(f"{release.name}: {text}\n")
    for role, part in release.parts.items():
        for delta in part.deltas:
            work.log.write(f"{role} from {delta.version}: {format_size(delta.size)}\n")
    return text
