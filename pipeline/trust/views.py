"""What the signing side shows and is told: channels, changes, outcomes, proposals, history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.models.pointer import Event, Pointer

if TYPE_CHECKING:
    from securesystemslib.signer import Key


@dataclass(frozen=True)
class RoleKeys:
    """Who may sign a role.

    Attributes:
        keys: public keys, each with its name (:data:`pipeline.trust.layout.NAME_FIELD`).
        threshold: signatures of different keys that are needed. Of no meaning for a channel,
            whose `approvals` in ``images/channels.yaml`` say it.
    """

    keys: tuple[Key, ...]
    threshold: int = 1


@dataclass(frozen=True)
class HistoryEntry:
    """One version of a channel.

    Attributes:
        version: of the metadata; not every number is in use.
        event: what it changed.
        signers: the names of the keys that signed it, in the order of the role's keys.
        frozen: why nothing could move since; empty if the channel was not frozen.
        expires: until when it was good.
    """

    version: int
    event: Event
    signers: tuple[str, ...]
    frozen: str
    expires: datetime


@dataclass(frozen=True)
class ChannelView:
    """A channel as it stands: the newest signed state, published or about to be.

    Attributes:
        pointers: by image.
        frozen: why nothing moves; empty if it is not frozen.
        threshold: signatures that a change needs.
        keyholders: names of the keys that may sign.
        ours: those of them that we can sign with.
        last: the version that is in force; None for a view that was not taken from a store.
    """

    name: str
    version: int
    pointers: Mapping[str, Pointer]
    frozen: str
    threshold: int
    keyholders: tuple[str, ...]
    ours: tuple[str, ...]
    last: HistoryEntry | None = None


@dataclass(frozen=True)
class ChannelChange:
    """What is to become of a channel.

    Attributes:
        event: what is done, when and why.
        pointers: by image; only those that change.
        frozen: the new reason why nothing moves, empty to thaw; None leaves it.
    """

    event: Event
    pointers: Mapping[str, Pointer]
    frozen: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a change.

    Attributes:
        channel: the channel, or the role ``root`` or ``targets``.
        version: of its metadata; None while it is but proposed.
        proposal: id of the proposal that waits for signatures; None if there is none.
        signed_by: names of the keys that have signed.
        missing: signatures that are still needed.
        published: do machines see it? False while the online key has not signed.
        notices: sentences that a person should read.
    """

    channel: str
    version: int | None
    proposal: str | None
    signed_by: tuple[str, ...]
    missing: int
    published: bool
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A change that waits for signatures.

    What it would do is read from the very bytes that are to be signed.

    Attributes:
        id: names it in commands.
        role: the channel, or ``root`` or ``targets``.
        base: the version that it changes.
        version: the version that it would become.
        event: what is done, and why; None for the root.
        old: pointers before, by image, of those that it changes; None where there was none.
        new: pointers after, by image.
        frozen: the reason why the channel would be frozen, before and after.
        changes: sentences on whatever else it changes: keys, thresholds, expiry.
        signed_by: names of the keys whose signature counts.
        missing: signatures that are still needed.
        keyholders: names of the keys that may sign and have not.
        stale: why it cannot be approved any more; empty while it can.
        proposed: when.
        notices: what is wrong with signatures that do not count.
    """

    id: str
    role: str
    base: int
    version: int
    event: Event | None
    old: Mapping[str, Pointer | None]
    new: Mapping[str, Pointer]
    frozen: tuple[str, str]
    changes: tuple[str, ...]
    signed_by: tuple[str, ...]
    missing: int
    keyholders: tuple[str, ...]
    stale: str
    proposed: datetime
    notices: tuple[str, ...] = ()
