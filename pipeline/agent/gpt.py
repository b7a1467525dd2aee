"""The partition table of a machine's disk: what each partition is called, and calling it otherwise.

Format: UEFI Specification 2.10, chapter 5. Sizes never change here, so no kernel has to read the
table again while the machine runs. There are two copies, and one of them is whole at any instant:
the kernel, told by ``gpt`` on its command line, and the firmware take the second when the first
is damaged.
"""

from __future__ import annotations

import functools
import struct
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.agent.blocks import Disk, Part
from pipeline.errors import HostError

SECTOR = 512
READ_ONLY = 1 << 60
"""Attribute of the Discoverable Partitions Specification, for roots and their verity trees."""
EMPTY = "_empty"
"""Label of a slot that holds nothing; systemd-repart calls it so, too."""
LABEL = 36
"""The most UTF-16 units that a label has."""

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_SIGNATURE = b"EFI PART"
_MAX_ENTRIES = 1 << 20  # bytes; 16 KiB is usual
_NAMESPACE = uuid.UUID("0d6f5b0e-9c39-4c2b-8f0c-5c3a1f7e9b42")


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes:
        number: from 1, as in ``/dev/vda1``.
        type, uuid: its kind, and the name that boots find it by.
        first, last: sectors.
        attributes: bits.
        label: at most 36 UTF-16 units.
    """

    number: int
    type: uuid.UUID
    uuid: uuid.UUID
    first: int
    last: int
    attributes: int
    label: str

    @property
    def size(self) -> int:
        """Bytes."""
        return (self.last - self.first + 1) * SECTOR

    def on(self, disk: Disk) -> Part:
        """Its bytes."""
        return Part(disk, self.first * SECTOR, self.size)


@dataclass(frozen=True)
class Table:
    """One copy of a partition table, as it stands on the disk.

    Attributes:
        disk: UUID of the disk.
        header: its sector.
        other: sector of the other copy's header.
        entries: sector at which the entries begin.
        usable: first and last sector that partitions may have.
        raw: the bytes of the entries.
        entry_size: bytes of each.
    """

    disk: uuid.UUID
    header: int
    other: int
    entries: int
    usable: tuple[int, int]
    raw: bytes
    entry_size: int

    @functools.cached_property
    def partitions(self) -> tuple[Partition, ...]:
        """Those that there are, by number."""
        found = []
        for number, at in enumerate(range(0, len(self.raw), self.entry_size), 1):
            kind, own, first, last, attributes, label = _ENTRY.unpack_from(self.raw, at)
            if kind != bytes(16):
                name = label.decode("utf-16-le", errors="replace").partition("\0")[0]
                identities = uuid.UUID(bytes_le=kind), uuid.UUID(bytes_le=own)
                found.append(Partition(number, *identities, first, last, attributes, name))
        return tuple(found)

    def renamed(self, partition: Partition) -> Table:
        """The table in which the partition of that number has *partition*'s names."""
        at = (partition.number - 1) * self.entry_size
        raw = bytearray(self.raw)
        raw[at : at + _ENTRY.size] = packed(partition)
        return replace(self, raw=bytes(raw))

    def header_sector(self) -> bytes:
        """The header with its checksums, as it is written."""
        count, crc = len(self.raw) // self.entry_size, zlib.crc32(self.raw)
        places = (self.header, self.other, *self.usable)
        fields = (*places, self.disk.bytes_le, self.entries, count, self.entry_size, crc)
        plain = _HEADER.pack(_SIGNATURE, 1 << 16, _HEADER.size, 0, 0, *fields)
        crc = zlib.crc32(plain)
        return _HEADER.pack(_SIGNATURE, 1 << 16, _HEADER.size, crc, 0, *fields).ljust(SECTOR, b"\0")

    def elsewhere(self, header: int, entries: int) -> Table:
        """The same table as the copy whose header and entries are at these sectors."""
        return replace(self, header=header, other=self.header, entries=entries)


def partition_uuids(root_hash: str) -> tuple[uuid.UUID, uuid.UUID]:
    """UUIDs of the root and the verity partition of a root hash: its two halves.

    https://uapi-group.org/specifications/specs/discoverable_partitions_specification/
    """
    return uuid.UUID(root_hash[:32]), uuid.UUID(root_hash[32:])


def named(partition: Partition, identity: uuid.UUID, label: str, *, attributes: int) -> Partition:
    """*partition* with other names."""
    return replace(partition, uuid=identity, label=label[:LABEL], attributes=attributes)


def packed(partition: Partition) -> bytes:
    """A partition as an entry of a table."""
    identities = partition.type.bytes_le, partition.uuid.bytes_le
    label = partition.label.encode("utf-16-le")[: LABEL * 2]
    return _ENTRY.pack(*identities, partition.first, partition.last, partition.attributes, label)


def empty_uuid(table: Table, partition: Partition) -> uuid.UUID:
    """What a partition of an empty slot is called: a name that no root hash has."""
    return uuid.uuid5(_NAMESPACE, f"{table.disk} {partition.number}")


def read(disk: Disk) -> Table:
    """The partition table that counts: the first copy, or the second if that is damaged.

    Raises:
        HostError: neither is whole, or the disk cannot be read.
    """
    first, second = _both(disk)
    found = first or second
    if found is None:
        raise HostError(
            f"the disk {disk.name} has no partition table that is whole (GPT)",
            hint="Write the image to this disk again.",
        )
    return found


def rename(disk: Disk, wanted: Mapping[int, Partition]) -> None:
    """Give partitions other UUIDs, labels and attributes; done when it is on the medium.

    At every instant one copy of the table is whole, and says what was, or what is wanted. A copy
    that was damaged is whole afterwards.

    Args:
        disk: the disk.
        wanted: by number.

    Raises:
        HostError: there is no whole table, the disk failed, or it does not keep what is written.
    """
    with disk.locked():
        first, second = _both(disk)
        table = first or second
        if table is None:
            raise HostError(f"the disk {disk.name} has no partition table that is whole (GPT)")
        if first is None and second is not None:
            # Before its only whole copy is touched, it gets a second one.
            first = second.elsewhere(1, 2)
            _write(disk, first)
        assert first is not None
        there = {partition.number for partition in first.partitions}
        if not set(wanted) <= there:
            raise HostError(f"{disk.name} has no partition {min(set(wanted) - there)}")
        new = first
        for partition in wanted.values():
            new = new.renamed(partition)
        last = second or first.elsewhere(*_place_of_second(disk, first))
        _write_changed(disk, replace(last, raw=new.raw), second)
        _write_changed(disk, new, first)


def _both(disk: Disk) -> tuple[Table | None, Table | None]:
    first = _parse(disk, 1)
    end = disk.size // SECTOR - 1
    # An image on a larger disk has it further down, until systemd-repart has moved it.
    second = _parse(disk, first.other) if first is not None else None
    second = second or _parse(disk, end)
    if second is not None and first is not None and second.disk != first.disk:
        second = None
    return first, second


def _place_of_second(disk: Disk, first: Table) -> tuple[int, int]:
    """Sectors of the second copy's header and entries, where nothing whole tells them."""
    header = first.other if 1 < first.other < disk.size // SECTOR else disk.size // SECTOR - 1
    entries = header - -(-len(first.raw) // SECTOR)
    if entries <= first.usable[1]:
        raise HostError(f"{disk.name} has no room for the second copy of its partition table")
    return header, entries


def _parse(disk: Disk, at: int) -> Table | None:
    """The copy whose header is at that sector; None if it is not whole."""
    if not 0 < at < disk.size // SECTOR:
        return None
    sector = disk.read(at * SECTOR, SECTOR)
    fields = _HEADER.unpack_from(sector)
    signature, _revision, size, crc, _reserved, own, other, low, high = fields[:9]
    identity, entries, count, entry_size, entries_crc = fields[9:]
    if signature != _SIGNATURE or not _HEADER.size <= size <= SECTOR or own != at:
        return None
    if zlib.crc32(sector[:16] + bytes(4) + sector[20:size]) != crc:
        return None
    length = count * entry_size
    if entry_size < _ENTRY.size or not length <= _MAX_ENTRIES:
        return None
    if not entries > 0 or entries * SECTOR + length > disk.size:
        return None
    raw = disk.read(entries * SECTOR, length)
    if zlib.crc32(raw) != entries_crc:
        return None
    return Table(uuid.UUID(bytes_le=identity), at, other, entries, (low, high), raw, entry_size)


def _write_changed(disk: Disk, new: Table, old: Table | None) -> None:
    if new != old:
        _write(disk, new)


def _write(disk: Disk, table: Table) -> None:
    """Write one copy, sync it, and see that it is there."""
    raw = table.raw.ljust(-(-len(table.raw) // SECTOR) * SECTOR, b"\0")
    disk.write(table.entries * SECTOR, raw)
    disk.write(table.header * SECTOR, table.header_sector())
    disk.sync()
    for at, size in ((table.header, SECTOR), (table.entries, len(raw))):
        disk.forget(at * SECTOR, size)
    if _parse(disk, table.header) != table:
        raise HostError(
            f"the disk {disk.name} does not keep what is written to it: its partition table "
            "reads back differently",
            hint="Replace the disk.",
        )
