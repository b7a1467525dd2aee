"""What a machine remembers of its own updates, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pipeline.models.fields import Moment, Record, Sha256
from pipeline.models.pointer import PublishedRelease

Step = Literal[
    "chosen",  # decided on; nothing was written yet
    "cleared",  # what pointed to the other slot's old content is gone from ESP and GPT
    "written",  # the root is in the slot, fsynced
    "verified",  # read back, hashed, and its root hash is the release's
    "named",  # the GPT names the slot by its root hash
    "staged",  # the UKI is on the ESP, fsynced and read back
    "activated",  # the boot loader will try it at the next boot
    "booted",  # it runs, on trial
    "confirmed",  # it is healthy: it stays
    "failed",  # it was tried, or prepared, and given up
]
STEPS: tuple[Step, ...] = (
    "chosen", "cleared", "written", "verified", "named", "staged", "activated", "booted",
    "confirmed",
)  # fmt: skip
"""In order; ``failed`` may follow any."""


class Attempt(Record):
    """One update, from the decision to its end; the journal of what is done of it.

    Attributes:
        release: what is being installed, as signed metadata described it.
        channel: where it came from; empty for a version that was pinned from elsewhere.
        step: the newest step that is done, and on the medium.
        entry: id of its boot entry, once there is one: the entry's file name without counter.
        reuse: the slot held it already: nothing was fetched.
        same_root: the running slot has this very root: only the UKI is new.
        seconds: how long each step took.
        downloaded, written: bytes.
        how: by role, the way by which it came, what that took, and what others would have.
        boots: boot ids of the boots that it has been seen in.
        missed: boots since it was activated in which the boot loader took another one, and had
            not tried it.
        reason: why it failed; before that, what was found wrong with it in the boot that is over.
    """

    release: PublishedRelease
    channel: str = ""
    rollback: bool = False
    started: Moment
    step: Step = "chosen"
    entry: str = ""
    reuse: bool = False
    same_root: bool = False
    seconds: Mapping[str, float] = {}
    downloaded: int = 0
    written: int = 0
    how: Mapping[str, str] = {}
    boots: tuple[str, ...] = ()
    missed: int = 0
    reason: str = ""
    ended: Moment | None = None


class KnownBad(Record):
    """A release that failed on this machine; not tried again under this version."""

    image: str
    version: str
    root_hash: Sha256
    boot_digest: str
    reason: str
    when: Moment


class Pin(Record):
    """A version that this machine is held at, whatever its channel says."""

    version: str
    when: Moment


class State(Record):
    """All that a machine remembers between two runs of its agent; one file on the data partition.

    Attributes:
        attempt: the update in progress, or the last one.
        sequence: number of the newest boot entry that was made here; newer ones sort first.
        bad: releases that failed here, the newest first; at most 32.
        allowed: versions that a person allowed in spite of that.
        pin: a version to stay at.
        checked: when the store was last heard.
        failures: looks at the store that failed in a row; decides the back-off.
        next: not before this moment is the store asked again.
        trouble: why the last look failed; empty if it did not.
        settled: the boot id for which the outcome of the last attempt was worked out.
        wanted: the version that the channel wanted here when it was last heard.
        waiting: why it has not moved, gate by gate, when that was last worked out.
    """

    attempt: Attempt | None = None
    sequence: int = 0
    bad: tuple[KnownBad, ...] = ()
    allowed: tuple[str, ...] = ()
    pin: Pin | None = None
    checked: Moment | None = None
    failures: int = 0
    next: Moment | None = None
    trouble: str = ""
    settled: str = ""
    wanted: str = ""
    waiting: tuple[str, ...] = ()
    format: int = 1

    def known_bad(self, version: str, root_hash: str, boot_digest: str) -> KnownBad | None:
        """Why a release is not tried: it failed here, and nobody has allowed it since.

        The same bytes under another version count as republished: they are tried again.
        """
        if version in self.allowed:
            return None
        for each in self.bad:
            if each.version == version and each.root_hash == root_hash:
                return each
        return None


class Running(Record):
    """What runs on a machine now.

    Attributes:
        image, version, arch: of the release, from ``recast.release=``.
        root_hash: from ``roothash=``.
        boot_id: of this boot.
        uptime: seconds.
        entry: id of the boot entry, without counter; empty if the boot loader does not say.
        tries_left: None if the boot loader does not count this boot: it is blessed.
        complete: was boot-complete.target reached?
    """

    image: str
    version: str
    arch: str
    root_hash: Sha256
    boot_id: str
    uptime: float = Field(ge=0)
    entry: str = ""
    tries_left: int | None = None
    complete: bool = False

    @property
    def trial(self) -> bool:
        """Does the boot loader count this boot?"""
        return self.tries_left is not None
