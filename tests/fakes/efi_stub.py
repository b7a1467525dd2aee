"""A small EFI program in the shape of systemd's stub: PE32+, with room for more sections."""

from __future__ import annotations

import struct
from collections.abc import Mapping

SECTION_ALIGN = 4096
FILE_ALIGN = 512
_PE = 0x80
_OPTIONAL = 240  # bytes: 112, and 16 data directories of 8


def make_stub(
    sections: Mapping[str, bytes] | None = None,
    *,
    room: int = 1024,
    symbols: bytes = b"",
    signature: bytes = b"",
) -> bytes:
    """Make a stub with these sections.

    Args:
        sections: name and content.
        room: bytes that the headers have at least; a row of the section table takes 40.
        symbols: a COFF symbol table, 18 bytes each, behind the sections.
        signature: an Authenticode table behind that.
    """
    sections = sections or {".text": b"\xf4" * 700, ".sbat": b"sbat,1\n"}
    table = _PE + 24 + _OPTIONAL
    headers_size = _up(max(room, table + 40 * len(sections)), FILE_ALIGN)
    rows, body, address = b"", b"", SECTION_ALIGN
    for name, data in sections.items():
        raw = _up(len(data), FILE_ALIGN)
        row = (name.encode(), len(data), address, raw, headers_size + len(body))
        rows += struct.pack("<8sIIIIIIHHI", *row, 0, 0, 0, 0, 0x40000040)
        body += data.ljust(raw, b"\0")
        address = _up(address + len(data), SECTION_ALIGN)
    end = headers_size + len(body)
    symbols_at = end if symbols else 0
    signature_at = end + len(symbols) if signature else 0
    coff = struct.pack(
        "<HHIIIHH",
        *(0x8664, len(sections), 0, symbols_at, len(symbols) // 18, _OPTIONAL, 0x22E),
    )
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 512, 512, 0, SECTION_ALIGN, SECTION_ALIGN)
    optional += struct.pack("<QII", 0x140000000, SECTION_ALIGN, FILE_ALIGN)
    optional += struct.pack("<HHHHHHI", 0, 0, 1, 0, 1, 0, 0)
    optional += struct.pack("<IIIHH", address, headers_size, 0x1234, 10, 0)
    optional += struct.pack("<QQQQII", 1 << 20, 4096, 1 << 20, 4096, 0, 16)
    directories = bytearray(16 * 8)
    struct.pack_into("<II", directories, 4 * 8, signature_at, len(signature))
    image = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", _PE)
    image = image.ljust(_PE, b"\0") + b"PE\0\0" + coff + optional + bytes(directories) + rows
    return image.ljust(headers_size, b"\0") + body + symbols + signature


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
