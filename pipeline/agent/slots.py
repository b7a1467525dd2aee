"""The two slots of a machine's disk: where they are, what they hold, and what fits.

Putting a release into one of them is :mod:`pipeline.agent.apply`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.agent import entries, gpt
from pipeline.agent.base import Entry, Note, Progress
from pipeline.agent.verity import BLOCK, Recipe
from pipeline.errors import HostError
from pipeline.files import format_size
from pipeline.models.release import release_name
from pipeline.policy.verdict import Gate

if TYPE_CHECKING:
    from pipeline.agent.blocks import Disk
    from pipeline.agent.entries import BootFile
    from pipeline.agent.esp import Esp
    from pipeline.command import Stop
    from pipeline.models.device import Attempt, Running, Step
    from pipeline.models.pointer import PublishedRelease
    from pipeline.transfer.base import Source

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SMALL_FILES = 64 << 10
"""Room that is left on an ESP for entries, and for the folders to grow."""


@dataclass(frozen=True)
class Layout:
    """The partitions of both slots.

    Attributes:
        table: of the disk.
        root, verity: of the running slot.
        other_root, other_verity: of the other one.
    """

    table: gpt.Table
    root: gpt.Partition
    verity: gpt.Partition
    other_root: gpt.Partition
    other_verity: gpt.Partition

    @property
    def other_hash(self) -> str:
        """The root hash that the other slot's names spell; one of no release if it is empty."""
        return self.other_root.uuid.hex + self.other_verity.uuid.hex

    @property
    def emptied(self) -> dict[int, gpt.Partition]:
        """The other slot's partitions with the names of an empty one."""
        found = {}
        for each in (self.other_root, self.other_verity):
            names = gpt.empty_uuid(self.table, each), gpt.EMPTY
            found[each.number] = gpt.named(each, *names, attributes=0)
        return found

    def filled(self, release: PublishedRelease) -> dict[int, gpt.Partition]:
        """The other slot's partitions with the names that the boot of *release* looks for."""
        identities = gpt.partition_uuids(release.root_hash)
        return {
            each.number: gpt.named(each, identity, release.version, attributes=gpt.READ_ONLY)
            for each, identity in zip((self.other_root, self.other_verity), identities, strict=True)
        }

    def is_named(self, wanted: dict[int, gpt.Partition]) -> bool:
        """Are the other slot's names those?"""
        return wanted == {each.number: each for each in (self.other_root, self.other_verity)}


def read_layout(disk: Disk, root_hash: str) -> Layout:
    """Where the two slots are on the disk that a release runs from.

    Raises:
        HostError: the disk cannot be read, does not hold what runs, or has no second slot.
    """
    table = gpt.read(disk)
    identities = gpt.partition_uuids(root_hash)
    pairs = []
    for what, identity in zip(("root", "verity tree"), identities, strict=True):
        running = [each for each in table.partitions if each.uuid == identity]
        if len(running) != 1:
            raise HostError(
                f"the disk {disk.name} has {len(running) or 'no'} partitions with the {what} of "
                f"the release that runs ({identity})",
                hint="Did this machine boot from another disk?",
            )
        others = [
            each
            for each in table.partitions
            if each.type == running[0].type and each.uuid != identity
        ]
        if not others:
            raise HostError(
                f"the disk {disk.name} has no second partition for a {what}",
                hint="It is made at the first boot, on a disk with enough room: see "
                "`journalctl -b -u systemd-repart`.",
            )
        pairs.append((running[0], others[0]))
    (root, other_root), (verity, other_verity) = pairs
    return Layout(table, root, verity, other_root, other_verity)


@dataclass(frozen=True)
class Clearing:
    """What is to be removed from the ESP before a release is put on a machine.

    Attributes:
        entries: paths of entries.
        files: paths of UKIs that nothing names any more.
        room: bytes that this gives.
    """

    entries: tuple[str, ...]
    files: tuple[str, ...]
    room: int


class DiskSlots:
    """:class:`pipeline.agent.base.Slots` on a disk with a GPT, and an ESP with systemd-boot.

    Args:
        disk: the disk that the machine runs from.
        esp: its EFI system partition.
        running: what runs.
        machine: the kernel's name of the architecture; this machine's when not given.
        overlap: read back and hash what is written while the rest still comes.
        clock: seconds, for how long things take.
    """

    def __init__(
        self,
        disk: Disk,
        esp: Esp,
        running: Running,
        *,
        machine: str = "",
        overlap: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.disk = disk
        self.esp = esp
        self.running = running
        self.overlap = overlap
        self.clock = clock
        kernel = machine or platform.machine()
        self._arch = _ARCHITECTURES.get(kernel, kernel)

    @property
    def running_name(self) -> str:
        """Name of the release that runs."""
        return release_name(self.running.image, self.running.version, self.running.arch)

    def layout(self) -> Layout:
        """See :func:`read_layout`."""
        return read_layout(self.disk, self.running.root_hash)

    def check(self, release: PublishedRelease) -> Sequence[Gate]:
        """See :meth:`pipeline.agent.base.Slots.check`."""
        return (self._architecture(release), self._slot_size(release), self._esp_space(release))

    def holds(self, release: PublishedRelease) -> bool:
        """See :meth:`pipeline.agent.base.Slots.holds`."""
        return self.layout().other_hash == release.root_hash

    def entries(self) -> tuple[Entry, ...]:
        """See :meth:`pipeline.agent.base.Slots.entries`."""
        return entries.bootable(entries.read_boot_files(self.esp))

    def give_up(self, entry: str) -> None:
        """See :meth:`pipeline.agent.base.Slots.give_up`."""
        entries.set_counter(self.esp, entry, 0)

    def bless(self, entry: str) -> None:
        """See :meth:`pipeline.agent.base.Slots.bless`."""
        entries.set_counter(self.esp, entry, None)

    def apply(
        self,
        attempt: Attempt,
        source: Source,
        note: Note,
        *,
        tries: int = 3,
        sequence: int,
        progress: Progress | None = None,
        stop: Stop | None = None,
        until: Step = "activated",
    ) -> Attempt:
        """See :meth:`pipeline.agent.base.Slots.apply`."""
        from pipeline.agent.apply import Application

        work = Application(self, source, note, tries=tries, progress=progress, stop=stop)
        return work.run(attempt, sequence, until)

    def staged_uki(self, release: PublishedRelease, *, stays: bool) -> str:
        """Path of the UKI of *release*: where it is already, or where it is to be put.

        Args:
            release: it.
            stays: its root is in a slot already, and is not written.
        """
        for each in entries.read_boot_files(self.esp) if stays else ():
            # A counter would be renamed, and the name is what an entry holds.
            plain = each.path.startswith(entries.FACTORY) and each.entry.tries_left is None
            if plain and each.whole and each.entry.release == release.name:
                return each.path
        return entries.uki_path(release.name)

    def clearing(self, release: PublishedRelease, *, reuse: bool) -> Clearing:
        """What must go before *release* comes: all but what boots the running release.

        With the root that runs already, the other slot stays what it is, and so does what boots
        it, if there is room.

        Args:
            release: what is to be installed.
            reuse: the other slot holds it already, and is not written.

        Raises:
            HostError: the ESP cannot be read, or has nothing that could be gone back to.
        """
        same = release.root_hash == self.running.root_hash
        wanted = self.staged_uki(release, stays=reuse or same)
        everything = self._clearing(wanted, other="")
        if same:
            spared = self._clearing(wanted, other=self._other_hash())
            if self._lacking(release, wanted, spared) <= 0:
                return spared
        return everything

    def _clearing(self, wanted: str, *, other: str) -> Clearing:
        files = entries.read_boot_files(self.esp)
        mine = [each for each in files if each.whole and self._runs(each)]
        if not mine:
            raise HostError(
                f"the EFI system partition at {self.esp.name} has no boot entry of the release "
                f"that runs, {self.running_name}: nothing could be gone back to",
                hint="Boot this machine from its own disk.",
            )
        if all(each.entry.tries_left is not None for each in mine):
            raise HostError(
                f"{self.running_name} is still on trial: the other slot holds what this machine "
                "goes back to, and is not written before it is confirmed",
                hint="`recast-agent status` says what it waits for.",
            )
        kept = [
            each
            for each in files
            if not each.ours or self._runs(each) or (other and each.entry.root_hash == other)
        ]
        needed = {each.uki for each in kept} | {wanted}
        gone = [each.path for each in files if each not in kept and each.path != wanted]
        ukis = [f"{entries.UKIS}/{name}" for name in self.esp.files(entries.UKIS)]
        loose = [path for path in ukis if path not in needed]
        room = sum(self.esp.room(self.esp.size(path) or 0) for path in (*gone, *loose))
        return Clearing(tuple(gone), tuple(loose), room)

    def _other_hash(self) -> str:
        """Of what the other slot holds; empty if there is none, which another gate tells."""
        try:
            return self.layout().other_hash
        except HostError:
            return ""

    def _runs(self, each: BootFile) -> bool:
        return each.ours and (
            each.entry.id == self.running.entry or each.entry.release == self.running_name
        )

    def _lacking(self, release: PublishedRelease, wanted: str, clearing: Clearing) -> int:
        """Bytes that the ESP lacks for *release* after *clearing*; 0 or less if it has room."""
        there = self.esp.size(wanted) or 0
        more = self.esp.room(release.parts["uki"].size) - self.esp.room(there)
        return max(more, 0) + _SMALL_FILES - self.esp.free() - clearing.room

    def _architecture(self, release: PublishedRelease) -> Gate:
        fits = release.arch == self._arch
        reason = f"{release.name} is for {release.arch}, this machine is {self._arch}"
        return Gate("architecture", fits, f"both are {self._arch}" if fits else reason)

    def _slot_size(self, release: PublishedRelease) -> Gate:
        name, root = "slot size", release.parts.get("root")
        if root is None or root.size <= 0 or root.size % BLOCK:
            return Gate(name, False, f"{release.name} was published without a root that is whole")
        if release.root_hash == self.running.root_hash:
            return Gate(name, True, "the root that runs is the release's: no slot is written")
        try:
            layout = self.layout()
        except HostError as error:
            return Gate(name, False, error.message)
        needs = {
            "root": (root.size, layout.other_root.size),
            "verity tree": (
                Recipe.of_content(root.size, root.digest).tree_size,
                layout.other_verity.size,
            ),
        }
        for what, (size, room) in needs.items():
            if size > room:
                return Gate(
                    name,
                    False,
                    f"its {what} has {format_size(size)}, and the partition for it on this "
                    f"machine {format_size(room)}",
                )
        size, room = needs["root"]
        return Gate(name, True, f"its root has {format_size(size)} of {format_size(room)}")

    def _esp_space(self, release: PublishedRelease) -> Gate:
        if "uki" not in release.parts:
            return Gate("ESP space", False, f"{release.name} was published without a boot file")
        same = release.root_hash == self.running.root_hash
        reuse = not same and self._other_hash() == release.root_hash
        wanted = self.staged_uki(release, stays=reuse or same)
        clearing = self.clearing(release, reuse=reuse)
        lacking = self._lacking(release, wanted, clearing)
        size = format_size(release.parts["uki"].size)
        room = format_size(self.esp.free() + clearing.room)
        if lacking > 0:
            reason = (
                f"its boot file has {size}, and the EFI system partition at {self.esp.name} has "
                f"room for {room} after the old one is removed: {format_size(lacking)} are lacking"
            )
            return Gate("ESP space", False, reason)
        return Gate("ESP space", True, f"its boot file has {size}, and there is room for {room}")


def find_disk(root_hash: str, *, sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> Path:
    """The disk that the running release is on.

    Args:
        root_hash: of the running release.
        sys, dev: where the kernel shows its devices.

    Raises:
        HostError: no disk has it.
    """
    from pipeline.agent.blocks import FileDisk

    wanted = gpt.partition_uuids(root_hash)[0]
    for name in _candidates(sys, dev, str(wanted)):
        try:
            with FileDisk(dev / name) as disk:
                if any(each.uuid == wanted for each in gpt.read(disk).partitions):
                    return dev / name
        except HostError:
            continue
    raise HostError(
        f"no disk of this machine has the root that it runs from (partition {wanted})",
        hint="Was it booted from the network, or from a disk that Recast did not make?",
    )


def _candidates(sys: Path, dev: Path, identity: str) -> Iterator[str]:
    """Names of disks: first the one below the root that is mounted, then where udev saw it."""
    blocks = sys / "class/block"
    seen = set()
    found = [
        slave.name
        for mapped in sorted(blocks.glob("dm-*"))
        if _text(mapped / "dm/name") == "root"
        for slave in sorted((mapped / "slaves").glob("*"))
    ]
    link = dev / "disk/by-partuuid" / identity
    if link.exists():
        found.append(link.resolve().name)
    found += sorted(path.name for path in blocks.glob("*") if not (path / "partition").exists())
    for name in found:
        device = (blocks / name).resolve()
        # A partition lies in its disk's folder.
        disk = device.parent.name if (device / "partition").exists() else name
        if disk not in seen and not disk.startswith(("dm-", "loop", "ram", "sr", "zram")):
            seen.add(disk)
            yield disk


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
