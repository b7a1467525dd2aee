"""What a machine believes of a store: only what TUF's client has verified from a pinned root.

Every rule of TUF is applied by :class:`tuf.ngclient.Updater`; this module gives it its files,
keeps them well, and says in words what it refuses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.ngclient import Updater, UpdaterConfig

from pipeline import clock, digest
from pipeline.errors import TrustError, UsageError
from pipeline.models.pointer import Pointer
from pipeline.store.base import MissingError, Reader
from pipeline.trust import layout, pointers, refusals
from pipeline.trust.cache import Cache, Seen, signing_keys
from pipeline.trust.fetcher import OfflineError, StoreFetcher, endless
from pipeline.trust.refusals import ExpiredError
from pipeline.trust.trusted import (
    RoleStatus,
    TrustedChannel,
    TrustedMetadata,
    read_channel,
    read_metadata,
    role_status,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Key

# Targets, then the one channel that a path belongs to: what a channel delegates is not followed.
_MAX_DELEGATIONS = 1
_TOP = (layout.ROOT, layout.TARGETS, layout.SNAPSHOT, layout.TIMESTAMP)
_ANY = "any"  # stands for an image where only the channel matters


@dataclass(frozen=True)
class _Session:
    """One verified state, and TUF's client that verified it, which can load its channels."""

    trusted: TrustedMetadata
    updater: Updater
    fetcher: StoreFetcher
    etag: str
    channels: dict[str, TrustedChannel] = field(default_factory=dict)


class TrustClient:
    """Reads a store's signed metadata, and trusts nothing else.

    *Local state.* Each file of the folder is replaced whole, so a kill at any instant leaves one
    that works, and each is verified again whenever it is read: one that is damaged is fetched
    anew, and costs only what it alone remembered. A lost timestamp leaves the snapshot, which
    still keeps every role from going back; beside both, ``seen.json`` remembers all versions.
    Only a machine that has lost all three, as after a reimage without its data partition, can be
    given an older state, and only one that has not run out. Metadata that has run out while a
    machine was off is no obstacle: it is used for what it is good for, to refuse older.

    Args:
        store: where the metadata is.
        folder: remembers what was trusted; made if it is not there. One for each store.
        root: the pinned root of trust: any version of root.json from which the newest can be
            reached.

    Raises:
        TrustError: *root* is not signed by its own keys.
    """

    def __init__(self, store: Reader, folder: Path, root: bytes) -> None:
        self._store = store
        self._cache = Cache(folder)
        self._root = root
        self._session: _Session | None = None
        _check_pinned(root)

    def check(self) -> bool:
        """Ask the store for news, and verify them; True if there were any.

        With none it costs one conditional request, for the timestamp. TUF's look for a newer
        root is left out then: in a store that Recast signs the timestamp tells which root is the
        newest, so the same timestamp means the same root. Who holds back the one could hold back
        the other, and either way no longer than until the timestamp runs out.

        Raises:
            TrustError: what the store offers is refused; this client goes on with what it
                trusted before.
            NetworkError: the store cannot be reached, or is too slow.
            HostError: the folder cannot be used.
        """
        with self._cache.in_use():
            before = self._session or self._recall()
            fetched = self._get_timestamp(before.etag if before else "")
            same = before and (
                fetched is None or fetched[0] == before.trusted.files[layout.TIMESTAMP]
            )
            if before and same and before.trusted.good(clock.now()):
                self._session = before if fetched is None else self._renamed(before, fetched[1])
                return False
            if fetched is None:
                fetched = self._get_timestamp("")
            assert fetched is not None  # an empty etag matches nothing
            self._session = self._refresh(*fetched)
        return before is None or before.trusted.files != self._session.trusted.files

    def recall(self) -> bool:
        """Take up what is remembered, without asking the store; False if that is not enough.

        It is enough if it is whole and has not run out.

        Raises:
            HostError: the folder cannot be used.
        """
        with self._cache.in_use():
            self._session = self._session or self._recall()
        return self._session is not None

    def metadata(self) -> TrustedMetadata:
        """The verified state; asks the store if this client has not yet got one.

        Raises:
            TrustError, NetworkError, HostError: as :meth:`check`.
        """
        return self._current().trusted

    def channels(self) -> tuple[str, ...]:
        """The names of all channels; costs nothing beyond :meth:`metadata`."""
        return self.metadata().channels

    def channel(self, name: str) -> TrustedChannel | None:
        """A channel of the verified state; None if there is none of that name.

        Raises:
            ExpiredError: it has run out. Other channels are not touched by that.
            TrustError, NetworkError, HostError: as :meth:`check`.
        """
        session = self._current()
        if name not in session.trusted.channels or name not in session.trusted.versions:
            return None
        known = session.channels.get(name)
        if known is None or known.metadata.signed.is_expired(clock.now()):
            known = session.channels[name] = self._load_channel(session, name)
        return known

    def pointer(self, channel: str, image: str) -> Pointer:
        """What a channel says of an image, verified.

        Raises:
            UsageError: there is no such channel, or it holds no such image.
            TrustError, NetworkError, HostError: as :meth:`check`.
        """
        trusted = self.channel(channel)
        if trusted is None:
            there = "has published nothing yet" if channel in self.channels() else "does not exist"
            raise UsageError(
                f"channel {channel} {there} in {self._store.url}",
                hint=f"The store has the channels {_listed(self.channels())}.",
            )
        target = trusted.pointers.get(image)
        if target is None:
            raise UsageError(
                f"channel {channel} in {self._store.url} holds no image {image}",
                hint=f"It holds {_listed(sorted(trusted.pointers))}.",
            )
        return self.read_pointer(channel, image, target)

    def read_pointer(self, channel: str, image: str, target: TargetFile) -> Pointer:
        """The pointer that a channel's verified metadata names with *target*.

        Raises:
            TrustError: the store's bytes are others, or speak of another channel or image.
            NetworkError, HostError: as :meth:`check`.
        """
        key = pointers.find_key(self._store, channel, image, target)
        with self._cache.in_use(), self._explained(None):
            data = self._cache.pointer(channel, image)
            if data is None or not pointers.fits(target, data):
                data = pointers.fetch(self._store, key, target)
                self._cache.keep_pointer(channel, image, data)
        return pointers.parse(self._store, key, target, data)

    def anchor(self) -> tuple[bytes, Seen]:
        """What those start from who look beyond the published state: root, versions seen.

        Raises:
            HostError: the folder cannot be used.
        """
        with self._cache.in_use():
            return self._root, self._cache.seen()

    def note(self, root: Root, versions: Mapping[str, int]) -> None:
        """Remember versions that were verified elsewhere, so that none is ever taken back.

        Args:
            root: the newest root.
            versions: by role, what was published.

        Raises:
            HostError: the folder cannot be used.
        """
        with self._cache.in_use():
            seen, keys = self._cache.seen(), signing_keys(root)
            known = seen.versions if seen.keys == keys else {}
            newest = {role: max(version, known.get(role, 0)) for role, version in versions.items()}
            update = {
                "root": max(root.version, seen.root),
                "keys": keys,
                "versions": {**known, **newest},
            }
            self._cache.remember(seen.model_copy(update=update))

    def attesters(self, kind: str) -> tuple[Sequence[Key], int]:
        """The keys whose attestations count, and how many of them must sign one.

        Args:
            kind: ``builder`` or ``tester``.

        Raises:
            TrustError: the store names none; else as :meth:`check`.
        """
        trusted = self.metadata()
        role = trusted.delegated.get(kind)
        if role is None or kind not in layout.ATTESTERS:
            raise TrustError(
                f"{self._store.url} names no {kind}: nobody's attestations of that kind count",
                hint=f"`recast keys add {kind} …` names one.",
            )
        keys = [trusted.keys[keyid] for keyid in role.keyids if keyid in trusted.keys]
        return keys, role.threshold

    def status(self) -> tuple[RoleStatus, ...]:
        """How every role stands; a channel that is refused is told as such, and stops nothing.

        Raises:
            TrustError, NetworkError, HostError: as :meth:`check`.
        """
        trusted = self.metadata()
        return tuple(
            self._channel_status(trusted, role)
            if role in trusted.channels
            else role_status(trusted, role)
            for role in (*_TOP, *trusted.delegated)
        )

    def _load_channel(self, session: _Session, name: str) -> TrustedChannel:
        with self._cache.in_use(), self._explained(session.fetcher, name):
            try:
                self._cache.repair()
                session.updater.get_targetinfo(layout.pointer_path(name, _ANY))
            except OSError:  # it was not kept, and TUF's client would not try again
                self._session = None
                raise
            # The client keeps in this file what it has verified, and does not give it out.
            data = self._cache.read(name) or b""
            return read_channel(name, data, session.trusted, clock.now())

    def _channel_status(self, trusted: TrustedMetadata, name: str) -> RoleStatus:
        status = role_status(trusted, name)
        try:
            channel = self.channel(name)
        except TrustError as error:
            expires = error.expired if isinstance(error, ExpiredError) else None
            return replace(status, expires=expires, problem=error.message)
        return replace(status, expires=channel.expires if channel else None)

    def _current(self) -> _Session:
        if self._session is None:
            self.check()
        assert self._session is not None
        return self._session

    def _get_timestamp(self, etag: str) -> tuple[bytes, str] | None:
        key, limit = layout.TIMESTAMP_KEY, layout.MAX_TIMESTAMP
        try:
            return self._store.get_changed(key, etag, limit=limit)
        except MissingError as error:
            raise refusals.missing(key, self._store.url) from error
        except TrustError as error:
            raise endless(self._store, key, limit) from error

    def _recall(self) -> _Session | None:
        """The state in the folder, if it is whole and good without the store."""
        timestamp = self._cache.read(layout.TIMESTAMP)
        if timestamp is None:
            return None
        fetcher = StoreFetcher(self._store, online=False)
        fetcher.hand_in(layout.TIMESTAMP_KEY, timestamp)
        try:
            session = self._verify(fetcher, "")
        except (OSError, RepositoryError, DownloadError, OfflineError, TrustError):
            return None
        seen = self._cache.seen()
        if seen.timestamp == digest.of_bytes(timestamp):
            session = replace(session, etag=seen.etag)
        return session

    def _renamed(self, session: _Session, etag: str) -> _Session:
        """The same state under another etag: mirrors behind one URL may give each their own."""
        seen = self._cache.seen()
        if seen.timestamp == digest.of_bytes(session.trusted.files[layout.TIMESTAMP]):
            self._cache.remember(seen.model_copy(update={"etag": etag}))
        return replace(session, etag=etag)

    def _refresh(self, timestamp: bytes, etag: str) -> _Session:
        """Verify the state of the store that begins with *timestamp*, and remember it."""
        fetcher = StoreFetcher(self._store, online=True)
        fetcher.hand_in(layout.TIMESTAMP_KEY, timestamp)
        with self._explained(fetcher):
            session = self._verify(fetcher, etag)
        trusted = session.trusted
        self._cache.remember(
            Seen(
                etag=etag,
                timestamp=digest.of_bytes(timestamp),
                root=trusted.root.signed.version,
                keys=signing_keys(trusted.root.signed),
                versions=trusted.versions,
            )
        )
        return session

    def _verify(self, fetcher: StoreFetcher, etag: str) -> _Session:
        """Have TUF's client go through all of its steps; its folder holds the outcome."""
        self._cache.repair()
        updater = Updater(
            str(self._cache.metadata),
            layout.METADATA,
            fetcher=fetcher,
            config=UpdaterConfig(
                max_root_rotations=layout.MAX_ROOT_ROTATIONS,
                max_delegations=_MAX_DELEGATIONS,
                root_max_length=layout.MAX_ROOT,
                timestamp_max_length=layout.MAX_TIMESTAMP,
                snapshot_max_length=layout.MAX_SNAPSHOT,
                targets_max_length=layout.MAX_TARGETS,
            ),
            bootstrap=self._root,
        )
        updater.refresh()
        fetcher.online = True  # for the channels, which are loaded when they are asked for
        trusted = read_metadata({role: self._cache.read(role) or b"" for role in _TOP})
        self._require_no_older(trusted)
        return _Session(trusted, updater, fetcher, etag)

    def _require_no_older(self, trusted: TrustedMetadata) -> None:
        """Refuse a state that is older than one seen before, should the files have been lost."""
        seen = self._cache.seen()
        found, known = {layout.ROOT: trusted.root.signed.version}, {layout.ROOT: seen.root}
        if seen.keys == signing_keys(trusted.root.signed):
            # Under other keys versions begin anew: whoever had the old ones may have used them
            # up (TUF's recovery from a fast-forward attack).
            found |= trusted.versions
            known |= seen.versions
        for role, version in known.items():
            if found.get(role, 0) < version:
                raise refusals.step_back(role, found.get(role, 0), version, self._store.url)

    @contextlib.contextmanager
    def _explained(self, fetcher: StoreFetcher | None, channel: str = "") -> Iterator[None]:
        """Turn what TUF's client raises into a refusal in words."""
        try:
            yield
        except (RepositoryError, DownloadError) as error:
            raise refusals.explain(
                error,
                where=self._store.url,
                fetched=fetcher.fetched if fetcher else {},
                known=self._cache.known(),
                now=clock.now(),
                channel=channel,
            ) from error


def _check_pinned(root: bytes) -> None:
    try:
        metadata: Metadata[Root] = Metadata.from_bytes(root)
        if metadata.signed.type != Root.type:
            raise RepositoryError(f"it holds {metadata.signed.type}")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as error:
        raise TrustError(
            f"the root of trust on this machine is not valid: {error}",
            hint="Get root.json anew from those who run the store, over a way that you trust.",
        ) from error


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
