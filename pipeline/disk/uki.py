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

from pipeline.disk.erofs import BLOCK
from pipeline.errors import BuildError

_COFF = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8sIIIIIIHHI")
_READABLE_DATA = 0x40000040
# Offsets in the optional header of PE32+.
_INITIALIZED, _SECTION_ALIGN, _FILE_ALIGN = 8, 32, 36
_IMAGE_SIZE, _HEADERS_SIZE, _CHECKSUM = 56, 60, 64
_DIRECTORIES, _SECURITY_ENTRY = 112, 4
_NAME = 8  # bytes
_LARGEST = 0xFFFFFFFF
_LARGEST_ALIGNMENT = 1 << 21  # a large page; systemd's stub has 4 KiB


@dataclass(frozen=True)
class _Section:
    name: bytes
    size: int  # bytes in memory
    address: int  # in memory
    raw: int  # bytes in the file
    at: int  # offset in the file


@dataclass(frozen=True)
class _Headers:
    coff: int  # offset of the COFF header
    optional: int  # offset of the optional header
    table: int  # offset of the section table
    sections: tuple[_Section, ...]

    @property
    def end(self) -> int:
        """Where the last section ends in the file."""
        return max(section.at + section.raw for section in self.sections)


def make_uki(stub: Path, sections: Mapping[str, bytes]) -> bytes:
    """Add *sections* to the EFI *stub*, in the order given.

    A section of at least a block begins at a multiple of 4096 bytes of the file: what is on blocks
    within it, see :mod:`pipeline.disk.initrd`, is on blocks of the UKI, whatever is in front. The
    section before it is filled up with zeros, as a file's hash for Secure Boot allows no gaps.

    Args:
        stub: ``linuxx64.efi.stub`` of the image's own systemd.
        sections: name (at most eight bytes, with its dot) and content, not empty; ``.linux``
            last, as the kernel may use the memory behind it.

    Raises:
        BuildError: the stub is not a PE32+ file, or it has no room for the sections.
    """
    image = bytearray(stub.read_bytes())
    headers = _parse(image, stub.name)
    align, file_align = _alignments(image, headers, stub.name)
    _check_names(headers, sections, stub.name)
    _strip(image, headers)
    end = headers.table + (len(headers.sections) + len(sections)) * _SECTION.size
    if end > min(min(s.at for s in headers.sections if s.raw), _lowest(headers)):
        raise BuildError(f"{stub.name} has no room for {len(sections)} more sections")
    address = max(section.address + (section.size or section.raw) for section in headers.sections)
    places = _places(len(image), sections, file_align)
    for number, (name, data) in enumerate(sections.items(), len(headers.sections)):
        address = _up(address, align)
        at, raw = places[name]
        image.extend(b"\0" * (at - len(image)))
        if address + len(data) > _LARGEST or at + raw > _LARGEST:
            raise BuildError(f"{name} does not fit: an EFI program has less than 4 GiB")
        fields = (name.encode(), len(data), address, raw, at, 0, 0, 0, 0, _READABLE_DATA)
        _SECTION.pack_into(image, headers.table + number * _SECTION.size, *fields)
        image.extend(data + b"\0" * (raw - len(data)))
        address += len(data)
    count = len(headers.sections) + len(sections)
    struct.pack_into("<H", image, headers.coff + 2, count)
    initialized = _u32(image, headers.optional + _INITIALIZED)
    initialized += sum(len(data) for data in sections.values())
    _set_u32(image, headers.optional + _INITIALIZED, min(initialized, _LARGEST))
    _set_u32(image, headers.optional + _IMAGE_SIZE, _up(address, align))
    if end > _u32(image, headers.optional + _HEADERS_SIZE):
        _set_u32(image, headers.optional + _HEADERS_SIZE, _up(end, file_align))
    _set_u32(image, headers.optional + _CHECKSUM, 0)
    return bytes(image)


def read_sections(uki: bytes) -> dict[str, bytes]:
    """The sections of a UKI by name, as they were put in.

    Raises:
        BuildError: it is not a PE32+ file.
    """
    places = locate_sections(uki).items()
    return {name: uki[start:end] for name, (start, end) in places}


def locate_sections(uki: bytes) -> dict[str, tuple[int, int]]:
    """Where the sections of a UKI begin and end in its file, in bytes, by name.

    Raises:
        BuildError: it is not a PE32+ file.
    """
    headers = _parse(uki, "uki")
    return {
        section.name.decode(errors="replace"): (
            section.at,
            section.at + min(section.size, section.raw),
        )
        for section in headers.sections
    }


def _parse(image: bytes | bytearray, name: str) -> _Headers:
    """Find the headers, and check that all they speak of is there."""
    try:
        pe = _u32(image, 0x3C)
        magic = image[pe : pe + 4]
        coff = pe + 4
        _machine, count, _time, _symbols, _number, optional_size, _flags = _COFF.unpack_from(
            image, coff
        )
        optional = coff + _COFF.size
        kind = struct.unpack_from("<H", image, optional)[0]
        table = optional + optional_size
        rows = [_SECTION.unpack_from(image, table + n * _SECTION.size) for n in range(count)]
    except struct.error as error:
        raise BuildError(f"{name} is not an EFI program: it is too short") from error
    if image[:2] != b"MZ" or magic != b"PE\0\0" or kind != 0x20B:
        raise BuildError(f"{name} is not an EFI program for a 64-bit machine")
    if optional_size < _DIRECTORIES or not any(row[3] for row in rows):
        raise BuildError(f"{name} is not an EFI program: it holds nothing")
    sections = tuple(_Section(row[0].rstrip(b"\0"), *row[1:5]) for row in rows)
    headers = _Headers(coff, optional, table, sections)
    if headers.end > len(image):
        raise BuildError(
            f"{name} is cut off: {headers.end} bytes are expected, it has {len(image)}"
        )
    return headers


def _alignments(image: bytearray, headers: _Headers, name: str) -> tuple[int, int]:
    """Of sections in memory, and in the file."""
    align = _u32(image, headers.optional + _SECTION_ALIGN)
    file_align = _u32(image, headers.optional + _FILE_ALIGN)
    for value in (align, file_align):
        if not 0 < value <= _LARGEST_ALIGNMENT or value & (value - 1):
            raise BuildError(f"{name} aligns its sections at {value} bytes, which makes no sense")
    return align, file_align


def _places(
    start: int, sections: Mapping[str, bytes], file_align: int
) -> dict[str, tuple[int, int]]:
    """Where each section begins in the file, and how many bytes it takes there."""
    begins = []
    end = start
    for data in sections.values():
        begin = _up(end, max(file_align, BLOCK) if len(data) >= BLOCK else file_align)
        begins.append(begin)
        end = begin + _up(len(data), file_align)
    ends = [*begins[1:], end]
    sizes = zip(begins, ends, strict=True)
    return {name: (at, end - at) for name, (at, end) in zip(sections, sizes, strict=True)}


def _check_names(headers: _Headers, sections: Mapping[str, bytes], name: str) -> None:
    there = {section.name for section in headers.sections}
    for section, data in sections.items():
        if not data:
            raise BuildError(f"the section {section} of a UKI would be empty")
        if len(section.encode()) > _NAME or section.encode() in there:
            raise BuildError(f"{name} cannot have a section {section}: too long, or there already")


def _strip(image: bytearray, headers: _Headers) -> None:
    """Drop a symbol table and a signature: neither is true of what is made of it."""
    del image[headers.end :]
    struct.pack_into("<II", image, headers.coff + 8, 0, 0)
    if _u32(image, headers.optional + _DIRECTORIES - 4) > _SECURITY_ENTRY:
        entry = headers.optional + _DIRECTORIES + _SECURITY_ENTRY * 8
        if entry + 8 <= headers.table:
            struct.pack_into("<II", image, entry, 0, 0)


def _lowest(headers: _Headers) -> int:
    return min(section.address for section in headers.sections)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _u32(image: bytes | bytearray, at: int) -> int:
    return int(struct.unpack_from("<I", image, at)[0])


def _set_u32(image: bytearray, at: int, value: int) -> None:
    struct.pack_into("<I", image, at, value)
