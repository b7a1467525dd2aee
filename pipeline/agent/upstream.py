"""The stores that a machine follows: what they say, verified, and what may be believed of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import NetworkError, RecastError, TrustError
from pipeline.policy.verdict import Gate
from pipeline.store.base import MissingError, Reader, object_key

if TYPE_CHECKING:
    from pipeline.models.pointer import Evidence, Pointer, PublishedRelease
    from pipeline.transfer.base import Source
    from pipeline.trust.attestations import Verified
    from pipeline.trust.client import TrustClient


class Upstream(Protocol):
    """Where releases come from, as the rules of an update know it."""

    @property
    def source(self) -> Source:
        """Brings the parts of a release."""

    def ask(self) -> None:
        """Ask for news.

        Raises:
            NetworkError, TrustError, HostError: nothing new can be had, or believed.
        """

    def recall(self) -> bool:
        """Take up what was verified earlier; False if that is not enough, or has run out."""

    def pointer(self, channel: str, image: str) -> Pointer:
        """What a channel says of an image; after :meth:`ask` or :meth:`recall`.

        Raises:
            UsageError: there is no such channel, or no such image in it.
            NetworkError, TrustError, HostError: it cannot be had, or believed.
        """

    def attested(self, release: PublishedRelease) -> Gate:
        """Is there proof of how *release* was made, and that its tests passed on this very root?

        Returns:
            The gate ``attested``.

        Raises:
            NetworkError, HostError: that cannot be looked up now.
        """


class Stores:
    """The first of some stores that answers, and what its signed metadata says.

    Args:
        readers: the stores; at least one.
        root: the pinned root of trust.
        folder: remembers what was verified.
        source: makes what brings the parts of a release from a store.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        root: bytes,
        folder: Path,
        source: Callable[[Reader], Source],
    ) -> None:
        self._readers = tuple(readers)
        self._root = root
        self._folder = folder
        self._make_source = source
        self._reader = self._readers[0]
        self._client: TrustClient | None = None

    @property
    def source(self) -> Source:
        """See :class:`Upstream`."""
        return self._make_source(self._reader)

    def ask(self) -> None:
        """See :class:`Upstream`; each store is asked until one says what can be believed."""
        refused: list[RecastError] = []
        for reader in self._readers:
            try:
                client = self._new(reader)
                client.check()
            except (NetworkError, TrustError, MissingError) as error:
                refused.append(error)
                continue
            self._client, self._reader = client, reader
            return
        raise refused[0] if len(refused) == 1 else _none_answers(refused)

    def recall(self) -> bool:
        """See :class:`Upstream`."""
        if self._client is None:
            client = self._new(self._reader)
            if not client.recall():
                return False
            self._client = client
        return True

    def pointer(self, channel: str, image: str) -> Pointer:
        """See :class:`Upstream`."""
        return self._trusted().pointer(channel, image)

    def attested(self, release: PublishedRelease) -> Gate:
        """See :class:`Upstream`."""
        from pipeline.trust.attestations import VerifiedProvenance, VerifiedTest, label

        refused: list[str] = []
        made, passed = False, []
        for evidence in release.evidence:
            if evidence.kind == "sbom":
                continue
            try:
                found = self._verified(release, evidence)
            except (MissingError, TrustError) as error:
                refused.append(error.message)
                continue
            if isinstance(found, VerifiedProvenance):
                made = True
            elif isinstance(found, VerifiedTest):
                if found.passed:
                    passed.append(evidence.provider)
                else:
                    refused.append(f"its {label(evidence)} says that it did not pass")
        because = f": {'; '.join(refused)}" if refused else ""
        if not made:
            text = f"nobody who may do so says how {release.version} was made{because}"
            return Gate("attested", False, text)
        if not passed:
            text = f"no tests have passed on the root of {release.version}{because}"
            return Gate("attested", False, text)
        return Gate("attested", True, f"made as signed, tests passed on {', '.join(passed)}")

    def _verified(self, release: PublishedRelease, evidence: Evidence) -> Verified:
        from pipeline.trust.attestations import verify_evidence
        from pipeline.trust.statements import MAX_ENVELOPE, SIGNED_BY

        keys, threshold = self._trusted().attesters(SIGNED_BY[evidence.kind])
        key = object_key(evidence.stored.digest)
        envelope = self._reader.get(key, limit=MAX_ENVELOPE)
        return verify_evidence(release, evidence, envelope, keys, threshold)

    def _new(self, reader: Reader) -> TrustClient:
        from pipeline.trust.client import TrustClient

        return TrustClient(reader, self._folder, self._root)

    def _trusted(self) -> TrustClient:
        if self._client is None:
            self.ask()
        assert self._client is not None
        return self._client


def _none_answers(refused: Sequence[RecastError]) -> RecastError:
    """One error for several stores; one that was refused tells more than a link that is dead."""
    distrusted = [each for each in refused if isinstance(each, TrustError)]
    if distrusted:
        return distrusted[0]
    listed = "; ".join(each.message for each in refused)
    return NetworkError(
        f"none of {len(refused)} stores can be used: {listed}", hint=refused[0].hint
    )
