"""The story of a channel, as its signed metadata tells it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tuf.api.metadata import Targets

from pipeline import digest
from pipeline.errors import TrustError
from pipeline.store.base import MissingError
from pipeline.trust import layout
from pipeline.trust.checks import parse
from pipeline.trust.state import Loaded, State, keys_of, verify
from pipeline.trust.views import HistoryEntry

if TYPE_CHECKING:
    from pipeline.store.base import Reader


def history(store: Reader, state: State, channel: str) -> Iterator[HistoryEntry]:
    """All versions of a channel, the newest first.

    The newest is verified; each names the one before it by digest. Whose signatures a version
    carries is told with the keys of the version of ``targets`` that it was signed under, which
    is vouched for in the same way. Each step reads one file.

    Raises:
        TrustError: a version is missing, is not the one that was vouched for, or lacks
            signatures.
    """
    keys = _PastTargets(store, state.targets)
    tip: Loaded[Targets] | None = state.get(channel)
    while tip is not None:
        yield _entry(channel, tip, keys.signers(channel, tip))
        tip = version_before(store, channel, tip)


def newest_entry(state: State, channel: str) -> HistoryEntry:
    """The newest version of a channel.

    Raises:
        TrustError: it is refused.
    """
    return _entry(channel, state.get(channel), state.signers(channel))


def _entry(channel: str, tip: Loaded[Targets], signers: tuple[str, ...]) -> HistoryEntry:
    told = tip.state
    if told is None:
        raise TrustError(f"version {tip.version} of {channel} does not say what it changed")
    return HistoryEntry(tip.version, told.event, signers, told.frozen, tip.signed.expires)


def version_before(store: Reader, role: str, tip: Loaded[Targets]) -> Loaded[Targets] | None:
    """The version before *tip*, as *tip* vouches for it; None if that is the first."""
    told = tip.state
    if told is None or not told.previous:
        return None
    key = layout.metadata_key(role, told.previous_version)
    try:
        data = store.get(key, limit=layout.MAX_TARGETS)
    except MissingError as error:
        raise TrustError(
            f"{key} is missing in {store.url}: the history of {role} ends there",
            hint="Bring it back from a copy of the store. Machines do not need it.",
        ) from error
    if digest.of_bytes(data) != told.previous:
        raise TrustError(
            f"{key} in {store.url} is not the version that the one after it was made from: it "
            "was changed after it was signed",
            hint="Bring it back from a copy of the store. Machines do not need it.",
        )
    return parse(data, Targets, key, store.url)


class _PastTargets:
    """All versions of ``targets``, back from a trusted one; read as they are needed."""

    def __init__(self, store: Reader, newest: Loaded[Targets]) -> None:
        self._store = store
        self._known = [newest]
        self._ended = False

    def signers(self, channel: str, tip: Loaded[Targets]) -> tuple[str, ...]:
        """The names of the keys that signed *tip*, in the order of the channel's keys."""
        for targets in self._likely(tip):
            try:
                result = verify(targets.signed, channel, tip.metadata)
            except ValueError:  # the channel was not there yet
                continue
            if result:
                keys = keys_of(targets.signed, channel)
                return tuple(layout.key_name(k) for k in keys if k.keyid in result.signed)
        raise TrustError(
            f"version {tip.version} of {channel} in {self._store.url} lacks signatures of those "
            "who could sign it then"
        )

    def _likely(self, tip: Loaded[Targets]) -> Iterator[Loaded[Targets]]:
        """First the version that *tip* names; it may never have come into force."""
        named = tip.state.targets_version if tip.state else 0
        yield from (each for each in self._back_to(named) if each.version == named)
        yield from (each for each in self._back_to(0) if each.version != named)

    def _back_to(self, version: int) -> Iterator[Loaded[Targets]]:
        at = 0
        while True:
            if at == len(self._known) and not self._read_one(version):
                return
            yield self._known[at]
            at += 1

    def _read_one(self, version: int) -> bool:
        oldest = self._known[-1]
        if self._ended or oldest.version <= version:
            return False
        found = version_before(self._store, layout.TARGETS, oldest)
        if found is None:
            self._ended = True
            return False
        self._known.append(found)
        return True
