"""New versions of roles: making them, signing them, and telling whose signatures are missing.

A draft holds every role that must change together, because the signatures of one depend on the
keys in another: a channel whose only signer loses the right to sign is signed anew in the draft
that takes the key away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Role, Root, TargetFile, Targets, VerificationResult

from pipeline import digest
from pipeline.errors import RecastError, TrustError, UsageError
from pipeline.models.pointer import ChannelState, Event
from pipeline.trust import layout
from pipeline.trust.state import Loaded, State, channels_of, delegated, keys_of, names, verify

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

    from pipeline.models.channel import Expiry
    from pipeline.trust.views import ChannelChange

ONLINE_ROLES = (layout.SNAPSHOT, layout.TIMESTAMP)


class Signers(Protocol):
    """What signs: :class:`pipeline.trust.keys.Keyring`, as far as this side needs it."""

    def signer(self, key: Key) -> Signer | None:
        """What signs with a public key of the metadata; None if its private half is elsewhere."""


@dataclass(frozen=True)
class Draft:
    """New versions that come into force together.

    Attributes:
        role: the one that it is about.
        parts: the new versions by role, with the signatures so far.
        pointers: by key in the store, the pointers that they name.
        lost: do without the signatures that the old root demands of anything but the new root:
            their keys are gone.
    """

    role: str
    parts: Mapping[str, Metadata[Any]]
    pointers: Mapping[str, bytes] = field(default_factory=dict)
    lost: bool = False

    @property
    def main(self) -> Metadata[Any]:
        """The part that it is about."""
        return self.parts[self.role]

    def judges(self, state: State, role: str) -> Iterator[Root | Targets]:
        """Those whose keys must have signed a part: the old and the new root, for one."""
        root, targets = self.parts.get(layout.ROOT), self.parts.get(layout.TARGETS)
        if role in (layout.ROOT, layout.TARGETS, *ONLINE_ROLES):
            if role == layout.ROOT or root is None or not self.lost:
                yield state.root.signed
            if root is not None:
                yield root.signed
        else:
            yield targets.signed if targets is not None else state.targets.signed

    def results(self, state: State) -> Iterator[tuple[str, VerificationResult]]:
        """For each part, and each whose keys must sign it, how its signatures stand."""
        for role, part in self.parts.items():
            for judge in self.judges(state, role):
                yield role, verify(judge, role, part)

    def missing(self, state: State) -> int:
        """How many more people must sign, should each have one key of every role."""
        return max((result.missing for _, result in self.results(state)), default=0)

    def signed_by(self, state: State) -> tuple[str, ...]:
        """Names of the keys whose signatures count."""
        found = [name for _, result in self.results(state) for name in names(signed(result))]
        return tuple(dict.fromkeys(found))

    def wanted(self, state: State) -> tuple[str, ...]:
        """Names of the keys that could give the signatures that are missing."""
        open_ones = [result for _, result in self.results(state) if not result]
        found = [name for result in open_ones for name in names(unsigned(result))]
        return tuple(dict.fromkeys(found))

    def sign(self, state: State, keyring: Signers) -> tuple[str, ...]:
        """Add our signatures where they are missing; return the ids of the keys used.

        No more of our keys sign than the thresholds ask for.

        Raises:
            TrustError, HostError: a key cannot be opened.
        """
        used: list[str] = []
        for role, part in self.parts.items():
            for judge in self.judges(state, role):
                while not (result := verify(judge, role, part)):
                    signer = _first(keyring, unsigned(result), part)
                    if signer is None:
                        break
                    sign(part, signer)
                    used.append(signer.public_key.keyid)
        return tuple(dict.fromkeys(used))


def signed(result: VerificationResult) -> tuple[Key, ...]:
    """The keys whose signatures count."""
    return tuple(result.signed.values())


def unsigned(result: VerificationResult) -> tuple[Key, ...]:
    """The keys that could still sign."""
    return tuple(result.unsigned.values())


def _first(keyring: Signers, keys: tuple[Key, ...], part: Metadata[Any]) -> Signer | None:
    for key in keys:
        if key.keyid in part.signatures:  # a signature that does not verify: not ours to mend
            continue
        signer = keyring.signer(key)
        if signer is not None:
            return signer
    return None


def sign(metadata: Metadata[Any], signer: Signer) -> None:
    """Add a signature.

    Raises:
        TrustError, HostError: the key cannot be opened.
    """
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        if isinstance(error.__cause__, RecastError):
            raise error.__cause__ from error
        name = layout.key_name(signer.public_key)
        raise TrustError(f"the key `{name}` cannot sign: {error.__cause__}") from error


def ours(keyring: Signers, keys: tuple[Key, ...]) -> tuple[str, ...]:
    """The names of those of *keys* that we can sign with."""
    return names(tuple(key for key in keys if keyring.signer(key) is not None))


def expires(now: datetime, seconds: float) -> datetime:
    """When metadata that is signed *now* runs out."""
    return now.replace(microsecond=0) + timedelta(seconds=int(seconds))


@dataclass(frozen=True)
class Drafter:
    """Makes new versions of roles on top of a state.

    Args:
        state: what they change.
        expiry: how long they are good for.
        now: the present moment.
    """

    state: State
    expiry: Expiry
    now: datetime

    def channel(self, name: str, change: ChannelChange) -> Draft:
        """A new version of a channel."""
        head = self.state.get(name)
        signed = copy.deepcopy(head.signed)
        uploads: dict[str, bytes] = {}
        for image, pointer in sorted(change.pointers.items()):
            path, data = layout.pointer_path(name, image), layout.pointer_bytes(pointer)
            _require_size(path, data, layout.MAX_POINTER)
            signed.targets[path] = TargetFile.from_data(path, data, ["sha256"])
            uploads[layout.pointer_key(name, image, digest.of_bytes(data))] = data
        before = head.state.frozen if head.state else ""
        frozen = before if change.frozen is None else change.frozen
        part = self._next(name, signed, change.event, frozen, self.state.targets.version)
        return Draft(name, {name: part}, uploads)

    def targets(self, edit: Callable[[Targets], None], event: Event) -> Draft:
        """A new version of ``targets``, and of the channels that it would leave unsigned.

        Raises:
            UsageError: a role would have too few keys to ever be signed.
        """
        signed = copy.deepcopy(self.state.targets.signed)
        edit(signed)
        for name, role in delegated(signed).items():
            _require_signable(name, role, len(keys_of(signed, name)))
        part = self._next(layout.TARGETS, signed, event, "", 0)
        resigned = {
            name: self.resigned(name, event, signed.version) for name in self._orphaned(signed)
        }
        return Draft(layout.TARGETS, {**resigned, layout.TARGETS: part})

    def root(self, edit: Callable[[Root], None], event: Event, *, lost: bool = False) -> Draft:
        """A new version of the root, and of ``targets`` if it would be left unsigned.

        Args:
            edit: changes a copy in place.
            event: what is done, and why.
            lost: see :class:`Draft`.

        Raises:
            UsageError: a role would have too few keys to ever be signed.
        """
        signed = copy.deepcopy(self.state.root.signed)
        edit(signed)
        for name, role in signed.roles.items():
            _require_signable(name, role, len(keys_of(signed, name)))
        signed.version = self.state.root.version + 1
        signed.expires = expires(self.now, self.expiry.root)
        signed.unrecognized_fields[layout.STATE_FIELD] = dump_state(event)
        parts: dict[str, Metadata[Any]] = {}
        if not verify(signed, layout.TARGETS, self.state.targets.metadata):
            parts[layout.TARGETS] = self.resigned(layout.TARGETS, event, 0)
        parts[layout.ROOT] = Metadata(signed)
        _require_size(layout.ROOT, parts[layout.ROOT].to_bytes(), layout.MAX_ROOT)
        return Draft(layout.ROOT, parts, lost=lost)

    def resigned(self, role: str, event: Event, targets_version: int) -> Metadata[Targets]:
        """A new version of ``targets`` or a channel that changes nothing but who signs, and when.

        A channel that has no version yet gets an empty first one.
        """
        head = self.state.find(role)
        if head is None:
            start = Event(action="init", at=event.at, reason=event.reason)
            return self._next(role, Targets(), start, "", targets_version)
        frozen = head.state.frozen if head.state else ""
        return self._next(role, copy.deepcopy(head.signed), event, frozen, targets_version)

    def _orphaned(self, targets: Targets) -> Iterator[str]:
        """Channels without a version that the keys in *targets* vouch for."""
        for name in channels_of(targets):
            head = self.state.find(name)
            if head is None or not verify(targets, name, head.metadata):
                yield name

    def _next(
        self, role: str, signed: Targets, event: Event, frozen: str, targets_version: int
    ) -> Metadata[Targets]:
        head = self.state.find(role)
        is_top = role == layout.TARGETS
        signed.version = self.state.free.get(role, head.version + 1 if head else 1)
        signed.expires = expires(self.now, self.expiry.targets if is_top else self.expiry.channel)
        signed.unrecognized_fields[layout.STATE_FIELD] = dump_state(
            event,
            previous=head.sha256 if head else "",
            previous_version=head.version if head else 0,
            targets_version=targets_version,
            frozen=frozen,
        )
        metadata = Metadata(signed)
        _require_size(role, metadata.to_bytes(), layout.MAX_TARGETS)
        return metadata


def load_part(part: Metadata[Any]) -> Loaded[Any]:
    """A signed part as the file that it becomes."""
    return Loaded(part.to_bytes(), part)


def dump_state(event: Event, **more: Any) -> dict[str, Any]:
    """What goes into :data:`pipeline.trust.layout.STATE_FIELD`; see ChannelState."""
    state = ChannelState(event=event, **more)
    return state.model_dump(mode="json", exclude_defaults=True)


def _require_signable(name: str, role: Role, keys: int) -> None:
    if not 1 <= role.threshold <= keys:
        raise UsageError(
            f"{name} would need {role.threshold} signatures and have {keys} keys: nobody could "
            "ever sign it again",
            hint=f"Give it more keys first: `recast keys add {name} …`.",
        )


def _require_size(what: str, data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise UsageError(
            f"{what} would have {len(data)} bytes, and readers take no more than {limit}",
            hint="Let there be fewer images in one channel, or fewer keys.",
        )
