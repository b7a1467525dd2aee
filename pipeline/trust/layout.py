"""Names that everything which reads or signs a store's metadata shares.

The roles, in TUF's words (https://theupdateframework.github.io/specification/latest/):

========================  ====================================================================
``root``, ``targets``     offline keys with a threshold
``snapshot``,             one online key, the role called ``online`` where a person names it
``timestamp``
each channel              delegated by ``targets``, with paths ``<channel>/*``
``builder``, ``tester``   delegated by ``targets`` with no paths and no file: their keys sign
                          attestations
========================  ====================================================================
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pipeline import digest

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Signed, Timestamp

    from pipeline.models.pointer import ChannelState, Pointer

ROOT = "root"
TARGETS = "targets"
SNAPSHOT = "snapshot"
TIMESTAMP = "timestamp"
ONLINE = "online"
"""What a person calls `snapshot` and `timestamp` together: both have the same one key."""
BUILDER = "builder"
TESTER = "tester"
ATTESTERS = (BUILDER, TESTER)

Attester = Literal["builder", "tester"]

STATE_FIELD = "x-recast"
"""Field of a channel's metadata (of targets' too) that holds a ChannelState."""
NAME_FIELD = "x-recast-name"
"""Field of a public key in metadata that holds the name a person gave it."""

ROOT_FIELD = "x-recast-root"
"""Field of a timestamp: ``version`` of the newest root that its signer knew, and ``sha256`` of
one that is announced: that root is in force from then on, and is at
:func:`pipeline.store.base.object_key` until it has a name of its own."""

METADATA = "metadata/"
POINTERS = "targets/"
PROPOSALS = "proposals/"
TIMESTAMP_KEY = f"{METADATA}{TIMESTAMP}.json"

# The most bytes that are read of each file, so that nobody can fill a reader's memory; writers
# refuse to make a larger one. A key has some 250 bytes, a channel 250 bytes for each image, and
# a pointer 10 KiB with two releases and 20 revocations.
MAX_ROOT = 128 << 10
MAX_TIMESTAMP = 16 << 10
MAX_SNAPSHOT = 64 << 10
MAX_TARGETS = 1 << 20
MAX_POINTER = 64 << 10
MAX_PROPOSAL = 10_000_000

MAX_ROOT_ROTATIONS = 256
"""Versions of the root that are followed in one go.

Each new root is told of by a new timestamp (:data:`ROOT_FIELD`): a client that sees no new
timestamp looks for no root.
"""

_POINTER_PATH = re.compile(r"([a-z0-9][a-z0-9-]{0,62})/([a-z][a-z0-9-]{0,62})\.json")
_VERSIONED = re.compile(r"metadata/(\d+)\.([a-z0-9][a-z0-9-]*)\.json")


def metadata_key(role: str, version: int) -> str:
    """Where one version of a role's metadata is; ``timestamp`` has no version in its key."""
    return TIMESTAMP_KEY if role == TIMESTAMP else f"{METADATA}{version}.{role}.json"


def parse_metadata_key(key: str) -> tuple[str, int] | None:
    """Role and version from what :func:`metadata_key` makes; None for anything else."""
    match = _VERSIONED.fullmatch(key)
    return (match[2], int(match[1])) if match else None


def pointer_path(channel: str, image: str) -> str:
    """The TUF target path of what *channel* says of *image*."""
    return f"{channel}/{image}.json"


def parse_pointer_path(path: str) -> tuple[str, str]:
    """Channel and image from what :func:`pointer_path` makes.

    Raises:
        ValueError: it is not such a path.
    """
    match = _POINTER_PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"{path!r} is not the path of a channel's image")
    return match[1], match[2]


def pointer_key(channel: str, image: str, sha256: str) -> str:
    """Where the bytes of a pointer are: as TUF's consistent snapshots name a target."""
    return f"{POINTERS}{channel}/{sha256}.{image}.json"


def channel_paths(channel: str) -> list[str]:
    """The paths that ``targets`` delegates to a channel's role."""
    return [f"{channel}/*"]


def pointer_bytes(pointer: Pointer) -> bytes:
    """A pointer as it is stored; equal pointers have equal bytes."""
    return digest.canonical(pointer.model_dump(mode="json"))


def proposal_key(role: str, identity: str) -> str:
    """Where a proposed change is."""
    return f"{PROPOSALS}{role}/{identity}/proposal.json"


def signature_key(role: str, identity: str, keyid: str) -> str:
    """Where one key's signatures of a proposed change are."""
    return f"{PROPOSALS}{role}/{identity}/{keyid}.sig.json"


def key_name(key: Key) -> str:
    """The name that a person gave a public key; the start of its id if it has none."""
    name: Any = key.unrecognized_fields.get(NAME_FIELD)
    return name if isinstance(name, str) and name else key.keyid[:12]


def told_root(timestamp: Timestamp) -> int:
    """The newest root that a timestamp's signer knew, an announced one included; 0 if untold."""
    told = timestamp.unrecognized_fields.get(ROOT_FIELD)
    version = told.get("version", 0) if isinstance(told, dict) else 0
    return version if isinstance(version, int) else 0


def channel_state(signed: Signed) -> ChannelState | None:
    """What a role's metadata says besides its targets; None if it says nothing.

    Raises:
        ValueError: it is there, and not what it must be.
    """
    from pipeline.models.pointer import ChannelState

    raw = signed.unrecognized_fields.get(STATE_FIELD)
    return None if raw is None else ChannelState.model_validate(raw)
