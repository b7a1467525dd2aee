"""A machine at a site that follows a signed store, and what an attacker would put into that."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuf.api.metadata import (
    TargetFile,
    Targets,
)

from pipeline.errors import TrustError
from pipeline.models.pointer import Pointer
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from tests.fakes.pointers import make_pointer
from tests.fakes.repository import SignedStore
from tests.fakes.store import FaultyStore

WEB = "edge-web"
HUGE = 2_000_000_000


class Machine:
    """A machine at a site: follows one store, and knows what it should run."""

    def __init__(self, signed: SignedStore, folder: Path) -> None:
        self.store = FaultyStore(signed.store)
        self.folder = folder
        self.client = TrustClient(self.store, folder, signed.root)
        self._root = signed.root

    def wanted(self, channel: str = "stable", image: str = WEB) -> str:
        """The version that it should run."""
        release = self.client.pointer(channel, image).release
        assert release is not None
        return release.version

    def follow(self, channel: str = "stable") -> str:
        """Look for news, and take them over."""
        self.client.check()
        return self.wanted(channel)

    def reboot(self) -> None:
        """Forget all but what is on the disk."""
        self.client = TrustClient(self.store, self.folder, self._root)

    def refuses(self, *words: str, channel: str = "stable") -> TrustError:
        """Look for news; they are refused with these words, twice, and after a reboot too."""
        for again in (False, False, True):
            if again:
                self.reboot()
            with pytest.raises(TrustError) as caught:
                self.follow(channel)
            for word in words:
                assert word in str(caught.value)
            assert caught.value.hint
        return caught.value


def version(number: int, image: str = WEB) -> str:
    release = make_pointer("stable", image, number).release
    assert release is not None
    return release.version


def pointer_key(signed: SignedStore, channel: str = "stable", image: str = WEB) -> str:
    target = signed.targets(channel).targets[layout.pointer_path(channel, image)]
    return layout.pointer_key(channel, image, target.hashes["sha256"])


def evil(channel: str = "stable", image: str = WEB) -> Pointer:
    """What an attacker wants machines to run."""
    return make_pointer(channel, image, 666)


def ignore(_: object) -> None:
    """For a lambda that must return nothing."""


def put_raw(signed: SignedStore, data: bytes) -> None:
    """Have the channel's own keys sign bytes that no honest program would write."""
    target = TargetFile.from_data("stable/edge-web.json", data, ["sha256"])

    def edit(stable: Targets) -> None:
        stable.targets[target.path] = target

    signed.store.corrupt(layout.POINTERS + target.get_prefixed_paths()[0], data)
    signed.change_role("stable", edit)
