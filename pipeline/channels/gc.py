"""Removing from a store what nothing refers to, beside others who write to it.

What is removed, in this order, so that what a killed collector leaves is never less than whole:
descriptions of releases that no channel needs; then, from a second look at channels and
descriptions, objects that belong to none; then old snapshots, proposals that became stale, and
leases of killed collectors. Channels, targets and root are kept in all their versions: they are
the history.

Nothing is removed that is younger than the grace period, which is asked once more right before
each removal. :mod:`pipeline.channels.lease` tells how writers are kept safe meanwhile. Who cannot
read what channels say removes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar, runtime_checkable

from pipeline import digest
from pipeline.channels.lease import LEASES, LIFE, Lease, store_now
from pipeline.channels.look import View, described, unknown_parts
from pipeline.channels.threads import LinkedStop, do_all
from pipeline.command import Stop
from pipeline.errors import TrustError
from pipeline.models.channel import Retention
from pipeline.models.pointer import PublishedRelease
from pipeline.policy import retention as policy
from pipeline.store.base import ExistsError, Info, MissingError, Store, object_key, release_key
from pipeline.trust.layout import MAX_PROPOSAL, proposal_key

AT_ONCE = 8
"""Objects asked for or removed at a time: it is the waiting that counts."""

_RELEASE = re.compile(r"releases/([^/]+)/([^/]+)\.json")
_OBJECT = re.compile(r"objects/[0-9a-f]{2}/([0-9a-f]{64})")
_SNAPSHOT = re.compile(r"metadata/(\d+)\.snapshot\.json")
_PROPOSAL = re.compile(r"proposals/([^/]+)/([^/]+)/(.+)")
_DECISIVE = "proposal.json"
_Name = TypeVar("_Name")


@dataclass(frozen=True)
class Waste:
    """Something that goes.

    Attributes:
        key: its key in the store.
        kind: ``release``, ``object``, ``snapshot``, ``proposal`` or ``lease``.
        size: bytes.
        modified: when it was last written or touched, by the store's clock.
        reason: why it may go.
    """

    key: str
    kind: str
    size: int
    modified: datetime
    reason: str


@dataclass
class Collected:
    """What was removed, or would be.

    Attributes:
        now: the present moment by the store's clock.
        removed: what goes, in the order of going.
        spared: what would have gone, and was touched meanwhile.
        kept: how many releases and objects stay, by kind and reason.
        kept_bytes: the size of what stays.
        repaired: descriptions of releases that a channel holds, written anew.
        left_over: what cut writers had left where nobody sees it; how many files that was.
        notices: sentences that a person should read.
    """

    now: datetime
    removed: list[Waste] = field(default_factory=list)
    spared: list[Waste] = field(default_factory=list)
    kept: dict[tuple[str, str], int] = field(default_factory=dict)
    kept_bytes: int = 0
    repaired: list[str] = field(default_factory=list)
    left_over: int = 0
    notices: list[str] = field(default_factory=list)

    @property
    def removed_bytes(self) -> int:
        """The size of what goes."""
        return sum(each.size for each in self.removed)


@runtime_checkable
class _Tidy(Protocol):
    def tidy(self, *, older: float) -> int: ...


def collect(
    store: Store,
    look: Callable[[], View],
    retention: Retention,
    *,
    dry_run: bool = False,
    jobs: int = AT_ONCE,
    stop: Stop | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Collected:
    """Remove from *store* what nothing refers to.

    May be run at any time, by several at once, and may be killed: the next run goes on.

    Args:
        store: the store.
        look: reads the verified state anew each time; raises if there is none to be believed.
        retention: what stays, and for how long.
        dry_run: only find out.
        jobs: removals at a time.
        stop: ends it when set.
        monotonic: seconds of a clock that never jumps.

    Raises:
        TrustError: channels, proposals or the description of a release that stays cannot be read:
            nothing more was removed.
        NetworkError, HostError: the store cannot be reached, read or written.
        BusyError: it stood still for minutes.
        Interrupted: *stop* was set.
    """
    collector = _Collector(store, look, retention, store_now(store), jobs, LinkedStop(stop))
    if dry_run:
        return collector.rehearse()
    with Lease(store, monotonic) as lease:
        return collector.run(lease)


@dataclass
class _Found:
    """One look at a store: its signed metadata, and what it says of releases.

    Attributes:
        stay: the descriptions of those that stay, as they are in the store or as signed.
        waste: the descriptions that may go.
        kept: why the others stay.
    """

    view: View
    releases: Mapping[policy.ReleaseId, Info]
    stay: list[PublishedRelease]
    waste: list[Waste]
    kept: Mapping[policy.ReleaseId, str]


@dataclass
class _Collector:
    store: Store
    look: Callable[[], View]
    retention: Retention
    now: datetime
    jobs: int
    stop: LinkedStop

    def __post_init__(self) -> None:
        self.result = Collected(self.now)

    def rehearse(self) -> Collected:
        found = self._look()
        self.result.removed += found.waste
        self.result.removed += self._objects(found)
        self.result.removed += self._others(found.view)
        return self.result

    def run(self, lease: Lease) -> Collected:
        self._remove(self._look(notice=False).waste, lease)
        # From here on a channel may hold what it did not hold before; its description, if it has
        # just gone, is in what the channel has signed.
        found = self._look()
        self._repair(found)
        self._remove(self._objects(found), lease)
        self._remove(self._others(found.view), lease)
        if isinstance(self.store, _Tidy):
            self.result.left_over = self.store.tidy(older=self.retention.grace)
        return self.result

    # --- what there is ---------------------------------------------------------------------------

    def _look(self, *, notice: bool = True) -> _Found:
        view = self.look()
        self.stop.check()
        self._check_proposals(view)
        referred = policy.references(
            view.pointers,
            [pointer for each in view.proposals if not each.stale for pointer in each.pointers],
            self.retention.keep,
        )
        releases = {
            (match[1], match[2]): info
            for info in self.store.list("releases/")
            if (match := _RELEASE.fullmatch(info.key))
        }
        times = {name: info.modified for name, info in releases.items()}
        kept = policy.keep_releases(times, referred, grace=self.retention.grace, now=self.now)
        stay = [each.release for each in referred if each.release is not None]
        stay += self._descriptions(kept)
        waste = [
            Waste(info.key, "release", info.size, info.modified, "no channel needs it")
            for name, info in releases.items()
            if name not in kept
        ]
        if notice:
            self._notice(referred, releases)
        return _Found(view, releases, stay, waste, kept)

    def _descriptions(self, kept: Iterable[policy.ReleaseId]) -> list[PublishedRelease]:
        """The store's descriptions of what stays.

        Raises:
            TrustError: one cannot be read. What belongs to it is not known: nothing can go.
        """

        def read(name: policy.ReleaseId) -> PublishedRelease | None:
            self.stop.check()
            try:
                return described(self.store, *name)
            except TrustError as error:
                raise unknown_parts(error.message, error.hint) from error

        found = do_all(read, sorted(set(kept)), self.jobs, self.stop)
        # Where there is none any more, another collector was here, to whom it was old.
        return [each for each in found if each is not None]

    def _notice(
        self,
        referred: Sequence[policy.Reference],
        releases: Mapping[policy.ReleaseId, Info],
    ) -> None:
        for each in referred:
            if each.id not in releases and each.release is None:
                text = (
                    f"{each.where} could go back to {each.image}@{each.version}, whose "
                    "description is not in the store"
                )
                if text not in self.result.notices:
                    self.result.notices.append(text)

    def _objects(self, found: _Found) -> list[Waste]:
        """The objects that may go; counts what stays."""
        listed = {
            match[1]: info
            for info in self.store.list("objects/")
            if (match := _OBJECT.fullmatch(info.key))
        }
        times = {name: info.modified for name, info in listed.items()}
        why = policy.keep_objects(
            times, found.stay, others=found.view.objects, grace=self.retention.grace, now=self.now
        )
        self._check(found, listed)
        self._count("object", why, listed)
        self._count("release", found.kept, found.releases)
        return [
            Waste(info.key, "object", info.size, info.modified, "nothing refers to it")
            for name, info in listed.items()
            if name not in why
        ]

    def _check(self, found: _Found, listed: Mapping[str, Info]) -> None:
        """Tell what is not whole.

        Raises:
            TrustError: it is one of which nothing but the store's own description is known. That
                may be damaged, and name others than the objects that it needs.
        """
        signed = {
            (each.image, each.version)
            for pointer in found.view.pointers
            for each in (pointer.release, pointer.previous)
            if each is not None
        }
        for release in {(each.image, each.version): each for each in found.stay}.values():
            gone = sorted(policy.objects_of(release) - listed.keys())
            if not gone:
                continue
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            name = f"{release.image}@{release.version}"
            text = (
                f"{name} stays, and is not whole: {object_key(gone[0])}{more} "
                f"{'are' if more else 'is'} missing"
            )
            if (release.image, release.version) not in signed:
                key = release_key(release.image, release.version)
                raise unknown_parts(
                    text, f"`recast publish {name}`, where it was built; or remove {key}."
                )
            self.result.notices.append(text)

    def _count(self, kind: str, why: Mapping[_Name, str], infos: Mapping[_Name, Info]) -> None:
        for name, reason in why.items():
            self.result.kept[kind, reason] = self.result.kept.get((kind, reason), 0) + 1
            self.result.kept_bytes += infos[name].size

    def _others(self, view: View) -> list[Waste]:
        """Old snapshots, stale proposals and the leases of killed collectors."""
        waste = [
            Waste(info.key, "snapshot", info.size, info.modified, "a newer one is in force")
            for info in self.store.list("metadata/")
            if (match := _SNAPSHOT.fullmatch(info.key))
            and int(match[1]) < view.snapshot
            and self._is_old(info)
        ]
        waste += self._proposals(view)
        waste += [
            Waste(info.key, "lease", info.size, info.modified, "its collector was killed")
            for info in self.store.list(LEASES)
            if (self.now - info.modified).total_seconds() > LIFE
        ]
        return waste

    def _proposals(self, view: View) -> Iterator[Waste]:
        stale = {(each.role, each.id) for each in view.proposals if each.stale}
        for name, infos in self._proposed_files().items():
            whole = any(info.key.endswith(f"/{_DECISIVE}") for info in infos)
            if (whole and name not in stale) or not all(self._is_old(info) for info in infos):
                continue
            reason = "what it would change has changed" if whole else "signatures of no proposal"
            # The proposal last: signatures alone would tell nobody what they are.
            for info in sorted(infos, key=lambda each: each.key.endswith(f"/{_DECISIVE}")):
                yield Waste(info.key, "proposal", info.size, info.modified, reason)

    def _proposed_files(self) -> dict[tuple[str, str], list[Info]]:
        """The files of each proposal, by role and id."""
        found: dict[tuple[str, str], list[Info]] = {}
        for info in self.store.list("proposals/"):
            if match := _PROPOSAL.fullmatch(info.key):
                found.setdefault((match[1], match[2]), []).append(info)
        return found

    def _check_proposals(self, view: View) -> None:
        """Make sure that those proposals that were not read are not damaged, but carried out.

        Raises:
            TrustError: one is damaged; what it refers to is not known.
        """
        known = {(each.role, each.id) for each in view.proposals}
        for role, identity in self._proposed_files().keys() - known:
            key = proposal_key(role, identity)
            try:
                data = self.store.get(key, limit=MAX_PROPOSAL)
            except MissingError:  # signatures alone, or withdrawn meanwhile
                continue
            if not digest.of_bytes(data).startswith(identity):
                raise unknown_parts(
                    f"{key} in {self.store.url} is not the proposal that its name says",
                    f"`recast proposals {identity} --withdraw` removes it.",
                )

    def _is_old(self, info: Info) -> bool:
        return not policy.is_young(info.modified, self.now, self.retention.grace)

    # --- what is done ----------------------------------------------------------------------------

    def _repair(self, found: _Found) -> None:
        """Describe again what a channel holds and the store has, if its description went."""
        there: set[str] | None = None
        for release in {(each.image, each.version): each for each in found.stay}.values():
            key = release_key(release.image, release.version)
            if (release.image, release.version) in found.releases:
                continue
            if there is None:
                there = {info.key for info in self.store.list("objects/")}
            if all(object_key(name) in there for name in policy.objects_of(release)):
                try:
                    data = release.model_dump_json(indent=1, exclude_defaults=True)
                    self.store.create(key, data.encode())
                except ExistsError:
                    continue
                self.result.repaired.append(key)

    def _remove(self, waste: Sequence[Waste], lease: Lease) -> None:
        def remove(each: Waste) -> bool:
            self.stop.check()
            lease.check()
            info = self.store.find(each.key)
            if info is None:
                return True  # another collector was faster
            if info.modified > each.modified:
                return False
            self.store.delete(each.key)
            return True

        # Proposals are few, and their files go in order.
        jobs = self.jobs if all(each.kind == "object" for each in waste) else 1
        gone = do_all(remove, waste, jobs, self.stop)
        for each, done in zip(waste, gone, strict=True):
            (self.result.removed if done else self.result.spared).append(each)
