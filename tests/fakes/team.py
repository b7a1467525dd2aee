"""Engineers with keys, the store that they share, and machines that follow it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, Signer

from pipeline import clock
from pipeline.errors import RefusedError
from pipeline.models.channel import ChannelDefinition, Channels, Gates
from pipeline.models.pointer import Event
from pipeline.store.base import Store
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from pipeline.trust.repository import Repository, RoleKeys
from pipeline.trust.views import ChannelChange, ChannelView, Outcome
from tests.fakes.pointers import make_pointer

WEB = "edge-web"
HOLDERS: Mapping[str, tuple[str, ...]] = {
    layout.ROOT: ("root-1", "root-2", "root-3"),
    layout.TARGETS: ("targets-1", "targets-2"),
    layout.ONLINE: ("online",),
    layout.BUILDER: ("builder",),
    layout.TESTER: ("tester",),
    "dev": ("alice", "bob", "carol", "dave"),
    "stable": ("alice", "bob", "carol"),
}
"""By role, the names of its keys."""

BOSS = tuple(dict.fromkeys(name for names in HOLDERS.values() for name in names))
"""Every key: `stable` needs two signatures, and root two."""


class MemoryKeys:
    """A keyring without a folder.

    Attributes:
        used: names of the keys that have signed, in order.
    """

    def __init__(self, signers: Mapping[str, CryptoSigner]) -> None:
        self.signers = dict(signers)
        self.used: list[str] = []

    def names(self) -> list[str]:
        return list(self.signers)

    def signer(self, key: Key) -> Signer | None:
        for signer in self.signers.values():
            if signer.public_key.keyid == key.keyid:
                return signer
        return None


class Team:
    """Everybody who works with one store.

    Args:
        folder: for what machines remember.
        store: the store.
        channels: its channels; a dev with one approval and a stable with two if not given.
        now: the present moment.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        *,
        channels: Channels | None = None,
        now: Callable[[], datetime] = lambda: clock.now(),
    ) -> None:
        self.folder = folder
        self.store = store
        self.now = now
        self.channels = channels or Channels(
            channels=(
                ChannelDefinition(name="dev"),
                ChannelDefinition(name="stable", gates=Gates(approvals=2)),
            )
        )
        self._counter = itertools.count(1)
        self.signers: dict[str, CryptoSigner] = {}
        for name in BOSS:
            self.new_key(name)
        self.roles = {
            role: RoleKeys(
                tuple(self.signers[name].public_key for name in names),
                2 if role == layout.ROOT else 1,
            )
            for role, names in HOLDERS.items()
        }
        self.root = b""

    def new_key(self, name: str) -> Key:
        """Make a key; everybody who is given its name can sign with it."""
        signer = CryptoSigner.generate_ed25519()
        signer.public_key.unrecognized_fields[layout.NAME_FIELD] = name
        self.signers[name] = signer
        return signer.public_key

    def keyring(self, *names: str) -> MemoryKeys:
        return MemoryKeys({name: self.signers[name] for name in names or BOSS})

    def create(self, store: Store | None = None) -> Team:
        """Begin the store's metadata."""
        self.root = Repository.create(
            store or self.store, self.keyring(), self.channels, self.roles, now=self.now
        )
        return self

    def client(self, store: Store | None = None) -> TrustClient:
        """A machine that has seen nothing yet."""
        folder = self.folder / f"memory-{next(self._counter)}"
        return TrustClient(store or self.store, folder, self.root)

    def engineer(
        self,
        *names: str,
        store: Store | None = None,
        client: TrustClient | None = None,
        channels: Channels | None = None,
        single_writer: bool = False,
    ) -> Repository:
        """Somebody with just these keys, all if none are named."""
        at = store or self.store
        return Repository(
            at,
            client or self.client(at),
            self.keyring(*names),
            channels or self.channels,
            single_writer=single_writer,
            now=self.now,
        )


def promote(
    repository: Repository,
    channel: str,
    number: int,
    *,
    image: str = WEB,
    propose: bool = False,
    reason: str = "",
) -> Outcome:
    """Have a channel hold release *number* of an image, if it holds an older one."""

    def decide(view: ChannelView) -> ChannelChange:
        held = view.pointers.get(image)
        pointer = make_pointer(channel, image, number)
        assert pointer.release is not None
        known = held.release.version if held is not None and held.release is not None else ""
        if known >= pointer.release.version:
            raise RefusedError(f"{channel} has {known} already")
        event = Event(
            action="promote",
            at=repository.now(),
            image=image,
            version=pointer.release.version,
            reason=reason,
        )
        return ChannelChange(event, {image: pointer})

    return repository.change_channel(channel, decide, propose=propose)


def version(number: int, image: str = WEB) -> str:
    """What release *number* is called."""
    release = make_pointer("dev", image, number).release
    assert release is not None
    return release.version


def held(client: TrustClient, channel: str, image: str = WEB) -> str:
    """The version that a machine is told to run, after it has looked."""
    client.check()
    release = client.pointer(channel, image).release
    assert release is not None
    return release.version


def look(client: TrustClient) -> None:
    """Have a machine read everything; what it refuses is raised."""
    client.check()
    for name in client.channels():
        channel = client.channel(name)
        assert channel is not None
        for image, target in channel.pointers.items():
            client.read_pointer(name, image, target)
