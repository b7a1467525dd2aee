"""What a channel says of an image: the release, how it rolls out, what is revoked.

A pointer is all that a site reads to know what it should run. It is a TUF target of the
channel's role, at ``<channel>/<image>.json``; see :mod:`pipeline.trust`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pipeline.models.channel import Waves
from pipeline.models.fields import (
    Commit,
    FileName,
    ImageName,
    Label,
    Moment,
    Record,
    Sha256,
    Version,
)
from pipeline.models.release import release_name


class StoredObject(Record):
    """Bytes in the store, at :func:`pipeline.store.base.object_key` of their digest."""

    digest: Sha256 = Field(description="SHA-256 of the bytes as they are stored.")
    size: int = Field(ge=0, description="Bytes as they are stored.")
    encoding: Literal["plain", "zstd"] = "plain"


class Extent(Record):
    """A run of bytes of a file that is put together from others; what no extent covers is zero.

    Exactly one of *part* (a role: its whole content) and *stored* is given.
    """

    offset: int = Field(ge=0)
    size: int = Field(ge=1)
    part: str | None = None
    stored: StoredObject | None = None


class Delta(Record):
    """What of a part is new, for whoever has that part of a certain earlier release.

    Attributes:
        base: identity of the part that it starts from, see :meth:`PublishedRelease.identity`.
        version: of the release that *base* is of; for people.
        index: says where each block comes from, see :mod:`pipeline.transfer.deltas`.
        stored: the bytes that are new; None if nothing is.
    """

    base: Sha256
    version: Version
    index: StoredObject
    stored: StoredObject | None = None

    @property
    def size(self) -> int:
        """Bytes that a machine downloads."""
        return self.index.size + (self.stored.size if self.stored else 0)


class Chunks(Record):
    """A part as content-named pieces, for whoever has something like it.

    Attributes:
        index: names all pieces, see :mod:`pipeline.transfer.chunks`.
        pack: holds the pieces that earlier releases do not have; None if there is none. All
            others are taken from what the part is stored in.
    """

    index: StoredObject
    pack: StoredObject | None = None


class PublishedPart(Record):
    """One file of a published release.

    Exactly one of *stored* and *extents* is given.
    """

    file: FileName
    digest: Sha256 = Field(description="SHA-256 of the file's own bytes.")
    size: int = Field(ge=0, description="Bytes of the file itself.")
    stored: StoredObject | None = None
    extents: tuple[Extent, ...] | None = None
    segments: StoredObject | None = Field(
        default=None,
        description="The table of the segments that it consists of, see "
        "pipeline.transfer.segments; none where one segment is all.",
    )
    chunks: Chunks | None = None
    deltas: tuple[Delta, ...] = ()

    @property
    def whole(self) -> tuple[StoredObject, ...]:
        """What somebody reads who has nothing of it; nothing of what it takes from other parts."""
        found = (self.stored, self.segments, *(extent.stored for extent in self.extents or ()))
        return tuple(each for each in found if each is not None)

    @property
    def objects(self) -> tuple[StoredObject, ...]:
        """All that it is stored in, one way or another."""
        found = list(self.whole)
        if self.chunks is not None:
            found += (self.chunks.index, *([self.chunks.pack] if self.chunks.pack else []))
        for delta in self.deltas:
            found += (delta.index, *([delta.stored] if delta.stored else []))
        return tuple(found)


class Evidence(Record):
    """An attestation of a release: an in-toto statement in a DSSE envelope, stored plain."""

    kind: Literal["provenance", "test", "sbom"]
    provider: str = Field(default="", description="Where the tests ran; empty for other kinds.")
    stored: StoredObject


class PublishedRelease(Record):
    """A release in a store; also the object at :func:`pipeline.store.base.release_key`."""

    image: ImageName
    version: Version
    arch: str = "amd64"
    commit: Commit
    dirty: bool = False
    created: Moment = Field(description="The commit's time.")
    built: Moment | None = Field(
        default=None, description="When its root was written; orders the builds of one commit."
    )
    build_key: str
    root_hash: Sha256
    boot_digest: str
    manifest: StoredObject
    parts: Mapping[str, PublishedPart]
    evidence: tuple[Evidence, ...] = ()
    format: int = 1

    @property
    def name(self) -> str:
        """``<image>_<version>_<arch>``."""
        return release_name(self.image, self.version, self.arch)

    @property
    def objects(self) -> tuple[StoredObject, ...]:
        """Every object of the store that it consists of, each once."""
        found = [self.manifest, *(each.stored for each in self.evidence)]
        for part in self.parts.values():
            found += part.objects
        return tuple({each.digest: each for each in found}.values())

    @property
    def machine_size(self) -> int:
        """Bytes that a machine stores of it: root, verity and boot file."""
        return sum(self.parts[r].size for r in ("root", "verity", "uki") if r in self.parts)

    def identity(self, role: str) -> str:
        """What names the bytes of a part: the root hash of the root, else their digest."""
        return self.root_hash if role == "root" else self.parts[role].digest

    @property
    def download_size(self) -> int:
        """Bytes that a site downloads of it at most: root and boot file, as they are stored."""
        found = (self.parts[role].whole for role in ("root", "uki") if role in self.parts)
        return sum(stored.size for objects in found for stored in objects)


class Rollout(Record):
    """How far a release has spread, by plan.

    Devices count on by themselves: while *state* is ``rolling``, each wave opens when the soak
    of the one before has passed, starting from *wave* at *opened*.
    """

    id: str = Field(min_length=8, max_length=64, description="Of this rollout alone.")
    waves: Waves
    wave: int = Field(ge=0, description="Index of the wave that opened at `opened`.")
    opened: Moment
    state: Literal["rolling", "held", "halted"] = "rolling"


class Held(Record):
    """A release that a channel has held before, and can be rolled back to."""

    version: Version
    root_hash: Sha256
    manifest: Sha256 | None = Field(
        default=None,
        description="Digest of its manifest: what is signed here vouches for the description "
        "that the store has of it when the channel goes back to it.",
    )
    since: Moment
    until: Moment


class Revocation(Record):
    """A version that no machine may install."""

    version: Version
    root_hash: Sha256
    reason: str
    when: Moment


class Pointer(Record):
    """What one channel says of one image.

    Attributes:
        release: what machines should run; None if it holds nothing but revocations.
        since: when *release* entered the channel.
        previous: what it held before, and had spread everywhere: a device that the rollout has
            not reached should run this.
        history: what it has held, the newest first; the present release is not in it.
        rollout: how *release* spreads; None only without a release.
        revoked: versions to refuse, wherever they come from.
        frozen: why nothing moves now; empty if it is not frozen.
    """

    channel: Label
    image: ImageName
    release: PublishedRelease | None = None
    since: Moment | None = None
    previous: PublishedRelease | None = None
    history: tuple[Held, ...] = ()
    rollout: Rollout | None = None
    revoked: tuple[Revocation, ...] = ()
    frozen: str = ""
    format: int = 1

    def revocation(self, version: str, root_hash: str = "") -> Revocation | None:
        """Why a release is refused; None if it is not revoked."""
        for each in self.revoked:
            if each.version == version or each.root_hash == root_hash:
                return each
        return None


Action = Literal[
    "init", "promote", "rollback", "revoke", "freeze", "thaw", "roll", "refresh", "keys"
]


class Event(Record):
    """One change of a channel, as its signed metadata tells it.

    Who did it is told by the signatures, never by a field.
    """

    action: Action
    at: Moment
    image: str = ""
    version: str = Field(default="", description="The release that it is about.")
    before: str = Field(default="", description="The version that the channel held before.")
    reason: str = Field(default="", max_length=1000)
    gates: tuple[str, ...] = Field(default=(), description="Each gate's outcome in words.")


class ChannelState(Record):
    """What a channel's role says besides its targets; the field ``x-recast`` of its metadata.

    Attributes:
        event: what this version of the metadata changed.
        previous: SHA-256 of the file of the version before, empty for the first: the newest
            version vouches for the whole history.
        targets_version: the version of ``targets`` whose keys signed this one.
        frozen: why nothing moves now; empty if it is not frozen.
    """

    event: Event
    previous: str = ""
    previous_version: int = 0
    targets_version: int = 0
    frozen: str = ""
