"""A small machine with two slots, releases that fit it, and what its firmware would boot."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache

from pipeline import digest
from pipeline.agent import entries, gpt, verity
from pipeline.agent.blocks import Disk, Part
from pipeline.agent.slots import DiskSlots
from pipeline.command import Stop
from pipeline.disk.gpt import ESP, ROOT_VERITY_X86_64, ROOT_X86_64
from pipeline.errors import NetworkError
from pipeline.models.device import Attempt, Running
from pipeline.models.pointer import PublishedPart, PublishedRelease
from pipeline.transfer.base import Filled, Progress, Seed, Target
from tests.fakes.disk import CLUSTER, FakeDisk, FakeEsp, Medium
from tests.fakes.efi_stub import make_stub
from tests.fakes.pointers import make_published

_BLOCK = verity.BLOCK
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Built:
    """A release and its bytes.

    Attributes:
        release: as signed metadata describes it.
        root, tree, uki: what is in it.
    """

    release: PublishedRelease
    root: bytes
    tree: bytes
    uki: bytes


@cache
def build(number: int, *, content: int = 0, blocks: int = 9) -> Built:
    """The *number*-th release; its root depends on *content* alone (else on its number)."""
    root = random.Random(content or number).randbytes(blocks * _BLOCK)
    recipe = verity.Recipe.of_content(len(root), digest.of_bytes(root))
    medium = Medium()
    disk = FakeDisk(medium, len(root) + recipe.tree_size)
    disk.write(0, root)
    tree = Part(disk, len(root), recipe.tree_size)
    root_hash = verity.hash_data(recipe, Part(disk, 0, len(root)), tree.write)
    published = make_published("edge-web", number)
    sections = {
        ".osrel": f"ID=debian\nIMAGE_ID=edge-web\nIMAGE_VERSION={published.version}\n",
        ".cmdline": f"roothash={root_hash} gpt recast.release={published.name}",
        ".linux": f"kernel {number}",
    }
    uki = make_stub({name: text.encode() for name, text in sections.items()}, room=512)
    parts = {
        role: PublishedPart(file=role, digest=digest.of_bytes(data), size=len(data))
        for role, data in (("root", root), ("uki", uki))
    }
    release = published.model_copy(update={"root_hash": root_hash, "parts": parts})
    return Built(release, root, tree.read(0, tree.size), uki)


@dataclass
class FakeSource:
    """Has the bytes of releases; writes nothing that is right already.

    Attributes:
        built: what it has.
        wrong: bytes that it brings for a role in place of the right ones.
        fails_after: pieces that it brings before its link is dead.
        filled: what it was asked for.
        offered: for each role, what lay around when it was last asked for it.
    """

    built: Sequence[Built]
    wrong: Mapping[str, bytes] = field(default_factory=dict)
    fails_after: int | None = None
    filled: list[str] = field(default_factory=list)
    offered: dict[str, list[bytes]] = field(default_factory=dict)

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
        self.filled.append(role)
        self.offered[role] = [seed.read(0, seed.size) for seed in seeds]
        found = next(each for each in self.built if each.release.name == release.name)
        data = self.wrong.get(role) or {"root": found.root, "uki": found.uki}[role]
        written = 0
        for number, at in enumerate(range(0, len(data), _BLOCK)):
            if stop is not None:
                stop.check()
            if self.fails_after is not None and number >= self.fails_after:
                target.sync()
                raise NetworkError("the link is dead")
            piece = data[at : at + _BLOCK]
            if target.read(at, len(piece)) != piece:
                target.write(at, piece)
                written += len(piece)
            if progress is not None:
                progress(at + len(piece), written)
        target.sync()
        return Filled(downloaded=written, written=written)


def make_table(disk_size: int, root: int = 10 * _BLOCK, tree: int = 3 * _BLOCK) -> gpt.Table:
    """Of an ESP, two slots and a data partition, as the first boot leaves them.

    It has room for eight partitions: every combination of its sectors can be tried then.
    """
    last = disk_size // gpt.SECTOR - 1
    raw = bytes(8 * 128)
    identity = uuid.UUID(int=7)
    kinds = [
        (ESP, "esp", 8 * _BLOCK),
        (ROOT_X86_64, gpt.EMPTY, root),
        (ROOT_VERITY_X86_64, gpt.EMPTY, tree),
        (ROOT_X86_64, gpt.EMPTY, root),
        (ROOT_VERITY_X86_64, gpt.EMPTY, tree),
        ("0fc63daf-8483-4772-8e79-3d69d8477de4", "recast-data", 8 * _BLOCK),
    ]
    entries_bytes, at = b"", 40
    for number, (kind, label, size) in enumerate(kinds, 1):
        end = at + size // gpt.SECTOR - 1
        own = uuid.UUID(int=100 + number)
        partition = gpt.Partition(number, uuid.UUID(kind), own, at, end, 0, label)
        entries_bytes += gpt.packed(partition)
        at = end + 1
    assert at <= last - 33
    return gpt.Table(
        identity, 1, last, 2, (34, last - 33), entries_bytes + raw[len(entries_bytes) :], 128
    )


def write_table(disk: Disk, table: gpt.Table) -> None:
    """Both copies."""
    second = table.elsewhere(table.other, table.other - len(table.raw) // gpt.SECTOR)
    for copy in (second, table):
        disk.write(copy.entries * gpt.SECTOR, copy.raw)
        disk.write(copy.header * gpt.SECTOR, copy.header_sector())


@dataclass
class Machine:
    """A machine in memory.

    Attributes:
        medium: what it keeps.
        built: every release that there is, by name.
        clusters: of its ESP.
    """

    medium: Medium
    built: Mapping[str, Built]
    clusters: int = 40
    DISK = 400 * 1024

    @property
    def disk(self) -> FakeDisk:
        return FakeDisk(self.medium, self.DISK)

    @property
    def esp(self) -> FakeEsp:
        return FakeEsp(self.medium, self.clusters)

    def slots(self, running: Built, entry: str = "", **options: bool) -> DiskSlots:
        return DiskSlots(
            self.disk,
            self.esp,
            make_running(running, entry),
            machine="x86_64",
            overlap=options.get("overlap", False),
            clock=lambda: 0.0,
        )

    def boots(self) -> Built:
        """What the firmware and systemd-boot start at the next boot; all of it is whole.

        Raises:
            AssertionError: the machine does not come up with its first choice.
        """
        files = [each for each in entries.read_boot_files(self.esp) if each.whole]
        assert files, "the boot loader has nothing to boot"
        chosen = files[0]
        uki = self.esp.read(chosen.uki)
        found = [each for each in self.built.values() if each.uki == uki]
        assert found, f"the boot file of {chosen.path} is broken"
        built = found[0]
        self.check_slot(built)
        return built

    def entry(self) -> str:
        """Id of the entry that :meth:`boots` takes."""
        return next(e for e in entries.read_boot_files(self.esp) if e.whole).entry.id

    def check_slot(self, built: Built) -> None:
        """Would the initrd find the root of a release, and dm-verity let all of it pass?"""
        disk = self.disk
        halves = gpt.partition_uuids(built.release.root_hash)
        for half, data in zip(halves, (built.root, built.tree), strict=True):
            found = [each for each in gpt.read(disk).partitions if each.uuid == half]
            assert len(found) == 1, f"{len(found)} partitions are called {half}"
            assert found[0].on(disk).read(0, len(data)) == data, "dm-verity finds a wrong block"


def make_running(built: Built, entry: str = "", boot: str = "a") -> Running:
    """What a machine says that runs this release."""
    release = built.release
    return Running(
        image=release.image,
        version=release.version,
        arch=release.arch,
        root_hash=release.root_hash,
        boot_id=boot,
        uptime=60.0,
        entry=entry,
        complete=True,
    )


def make_attempt(built: Built) -> Attempt:
    """To put this release on a machine."""
    return Attempt(release=built.release, channel="stable", started=NOW)


def new_machine(built: Sequence[Built], clusters: int = 40) -> Machine:
    """A machine as the build's disk and its first boot leave it, with the first of *built*."""
    machine = Machine(Medium(), {each.release.name: each for each in built}, clusters)
    disk, esp, first = machine.disk, machine.esp, built[0]
    write_table(disk, make_table(machine.DISK))
    partitions = gpt.read(disk).partitions
    names = gpt.partition_uuids(first.release.root_hash)
    wanted = {
        part.number: gpt.named(part, name, first.release.version, attributes=gpt.READ_ONLY)
        for part, name in zip(partitions[1:3], names, strict=True)
    }
    for part, data in zip(partitions[1:3], (first.root, first.tree), strict=True):
        part.on(disk).write(0, data)
    gpt.rename(disk, wanted)
    factory = f"{entries.FACTORY}/{first.release.name}.efi"
    entries.write_file(esp, factory, first.uki)
    entries.write_file(esp, "EFI/BOOT/BOOTX64.EFI", b"systemd-boot".ljust(CLUSTER))
    disk.sync()
    assert machine.boots() is first
    return machine


def update(machine: Machine, running: Built, wanted: Built, sequence: int) -> Attempt:
    """Put *wanted* beside *running*, to its end."""
    notes: list[Attempt] = []
    slots = machine.slots(running, machine.entry())
    source = FakeSource(tuple(machine.built.values()))
    return slots.apply(make_attempt(wanted), source, notes.append, sequence=sequence)
