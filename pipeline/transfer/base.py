"""The seam between what is wanted on a disk and how its bytes come there.

Whoever installs a release says where it must go and what lies around that could help; a
:class:`Source` decides what to fetch. Issue by issue this gets cheaper; the seam stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.models.pointer import PublishedRelease

Progress = Callable[[int, int], None]
"""Hears how many bytes of a part are right now, and how many have come over the link for it."""


class Readable(Protocol):
    """Bytes that lie on this machine."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly *size* bytes from *offset* on.

        Raises:
            HostError: the medium cannot be read there.
        """


class Seed(Readable, Protocol):
    """Bytes that may be some of those that are wanted. Never believed."""

    def identity(self) -> str:
        """Of the part that they are, see :meth:`pipeline.models.pointer.PublishedRelease.identity`.

        Empty if nobody knows.
        """


class Target(Readable, Protocol):
    """Where a part is to be put together; may hold some of it from an earlier try."""

    def write(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset*; on the medium only after :meth:`sync`.

        Raises:
            DiskFullError: no space is left.
            HostError: the medium cannot be written.
        """

    def sync(self) -> None:
        """Return when all that was written is on the medium.

        Raises:
            HostError: the medium failed.
        """


@dataclass(frozen=True)
class Filled:
    """What filling a target took, in bytes.

    Attributes:
        downloaded: as they came over the link.
        reused: of the part, found on this machine.
        written: to the target; what was right already was not written again.
        how: by which ways it came, what each took, and what the others would have cost.
    """

    downloaded: int = 0
    reused: int = 0
    written: int = 0
    how: str = ""


class Source(Protocol):
    """Brings the parts of a release onto a machine."""

    def fill(
        self,
        release: PublishedRelease,
        role: str,
        target: Target,
        seeds: Sequence[Seed],
        *,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> Filled:
        """Make the first bytes of *target* those of a part, and sync it.

        Nothing that came from outside is written before it was held against a signed digest.
        What an earlier call left in *target* is used again: after a cut nothing that is right
        there is downloaded twice. Needs less than 32 MiB of memory for roots of a GiB or two.

        Args:
            release: whose part, as signed metadata describes it.
            role: ``root`` or ``uki``.
            target: at least as large as the part.
            seeds: what may hold some of it: the running root.
            progress: hears how it goes.
            stop: ends it when set.

        Raises:
            DigestError: the store's bytes are not those that were signed.
            MissingError, NetworkError: the store cannot be read; calling again goes on.
            DiskFullError, HostError: *target* cannot be written.
            Interrupted: *stop* was set.
        """
