"""One file that boots: kernel, initrd and command line as sections of systemd's EFI stub.

Format: PE/COFF (Microsoft's specification) and
https://uapi-group.org/specifications/specs/unified_kernel_image/. systemd's ukify makes the same,
and Debian 12 has none; written here, the bytes depend on the inputs alone, on every host.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BuildError

_COFF = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_READABLE_DATA = 0x40000040
# Offsets in the optional header of PE32+.
_INITIALIZED, _SECTION_ALIGN, _FILE_ALIGN = 8, 32, 36
_IMAGE_SIZE, _HEADERS_SIZE, _CHECKSUM = 56, 60, 64
_DIRECTORIES, _SECURITY_ENTRY = 112, 4


@dataclass(frozen=True)
class _Headers:
    coff: int  # offset of the COFF header
    optional: int  # offset of the optional header
    table: int  # offset of the section table
    count: int  # sections


def make_uki(stub: Path, sections: Mapping[str, bytes]) -> bytes:
    """Add *sections* to the EFI *stub*, in the order given.

    Args:
        stub: ``linuxx64.efi.stub`` of the image's own systemd.
        sections: name (at most eight bytes, with its dot) and content; ``.linux`` last, as the
            kernel may use the memory behind it.

    Raises:
        BuildError: the stub is not a PE32+ file, or its header has no room for the sections.
    """
    image = bytearray(stub.read_bytes())
    headers = _parse(image, stub)
    _strip(image, headers)
    align = _u32(image, headers.optional + _SECTION_ALIGN)
    file_align = _u32(image, headers.optional + _FILE_ALIGN)
    end = headers.table + (headers.count + len(sections)) * _SECTION.size
    if end > _first_data(image, headers):
        raise BuildError(f"{stub.name} has no room for {len(sections)} more sections")
    last = _SECTION.unpack_from(image, headers.table + (headers.count - 1) * _SECTION.size)
    address = last[2] + last[1]
    for number, (name, data) in enumerate(sections.items()):
        address = _up(address, align)
        image.extend(b"\0" * (_up(len(image), file_align) - len(image)))
        at, raw = len(image), _up(len(data), file_align)
        fields = (name.encode(), len(data), address, raw, at, 0, 0, 0, 0, _READABLE_DATA)
        where = headers.table + (headers.count + number) * _SECTION.size
        _SECTION.pack_into(image, where, *fields)
        image.extend(data + b"\0" * (raw - len(data)))
        address += len(data)
    struct.pack_into("<H", image, headers.coff + 2, headers.count + len(sections))
    added = sum(len(data) for data in sections.values())
    _add(image, headers.optional + _INITIALIZED, added)
    struct.pack_into("<I", image, headers.optional + _IMAGE_SIZE, _up(address, align))
    if end > _u32(image, headers.optional + _HEADERS_SIZE):
        struct.pack_into("<I", image, headers.optional + _HEADERS_SIZE, _up(end, file_align))
    struct.pack_into("<I", image, headers.optional + _CHECKSUM, 0)
    return bytes(image)


def read_sections(uki: bytes) -> dict[str, bytes]:
    """The sections of a UKI by name, as they were put in.

    Raises:
        BuildError: it is not a PE32+ file.
    """
    headers = _parse(uki, Path("uki"))
    found = {}
    for number in range(headers.count):
        fields = _SECTION.unpack_from(uki, headers.table + number * _SECTION.size)
        name, size, _address, raw, at = fields[:5]
        found[name.rstrip(b"\0").decode()] = uki[at : at + min(size, raw)]
    return found


def _parse(image: bytes | bytearray, path: Path) -> _Headers:
    try:
        pe = _u32(image, 0x3C)
        magic = image[pe : pe + 4]
        _machine, count, _time, _symbols, _number, optional_size, _flags = _COFF.unpack_from(
            image, pe + 4
        )
        optional = pe + 4 + _COFF.size
        kind = struct.unpack_from("<H", image, optional)[0]
    except struct.error as error:
        raise BuildError(f"{path.name} is not an EFI program: it is too short") from error
    if image[:2] != b"MZ" or magic != b"PE\0\0" or kind != 0x20B:
        raise BuildError(f"{path.name} is not an EFI program for a 64-bit machine")
    return _Headers(pe + 4, optional, optional + optional_size, count)


def _strip(image: bytearray, headers: _Headers) -> None:
    """Drop a symbol table and a signature: neither is true of what is made of it."""
    symbols = _u32(image, headers.coff + 8)
    if symbols:
        del image[symbols:]
        struct.pack_into("<II", image, headers.coff + 8, 0, 0)
    entry = headers.optional + _DIRECTORIES + _SECURITY_ENTRY * 8
    signature, _size = struct.unpack_from("<II", image, entry)
    if signature:
        del image[signature:]
        struct.pack_into("<II", image, entry, 0, 0)


def _first_data(image: bytearray, headers: _Headers) -> int:
    offsets = []
    for number in range(headers.count):
        fields = _SECTION.unpack_from(image, headers.table + number * _SECTION.size)
        if fields[4]:
            offsets.append(fields[4])
    return int(min(offsets, default=len(image)))


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _u32(image: bytes | bytearray, at: int) -> int:
    return int(struct.unpack_from("<I", image, at)[0])


def _add(image: bytearray, at: int, value: int) -> None:
    struct.pack_into("<I", image, at, _u32(image, at) + value)
