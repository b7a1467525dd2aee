"""Whole numbers as few bytes: how the indexes of this package are written.

A number is LEB128: seven bits to a byte, the lowest first, and the highest bit of each byte but
the last one set (https://dwarfstd.org/doc/DWARF5.pdf, 7.6). A number that may be negative is
folded first (0, -1, 1, -2, …), so that small ones stay short.
"""

from __future__ import annotations

_LONGEST = 63  # bits


def put_number(out: bytearray, value: int) -> None:
    """Append *value*, which is not negative."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_signed(out: bytearray, value: int) -> None:
    """Append *value*, which may be negative."""
    put_number(out, value << 1 if value >= 0 else (-value << 1) - 1)


class Numbers:
    """Reads what was put together with :func:`put_number`; believes nothing.

    Args:
        data: the bytes.
        at: where to begin.

    Attributes:
        at: the next byte.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self.at = at

    @property
    def ended(self) -> bool:
        """Is nothing left?"""
        return self.at == len(self._data)

    def take(self, size: int) -> bytes:
        """The next *size* bytes.

        Raises:
            ValueError: there are fewer.
        """
        found = self._data[self.at : self.at + size]
        if len(found) != size:
            raise ValueError("it is cut")
        self.at += size
        return found

    def number(self, most: int) -> int:
        """The next number.

        Raises:
            ValueError: there is none, or it is larger than *most*.
        """
        value = shift = 0
        while True:
            if self.at >= len(self._data):
                raise ValueError("it is cut")
            if shift >= _LONGEST:
                raise ValueError("a number in it has no end")
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
            shift += 7
        if value > most:
            raise ValueError(f"{value} is too large a number there")
        return value

    def signed(self) -> int:
        """The next number, which may be negative.

        Raises:
            ValueError: there is none.
        """
        value = self.number(1 << _LONGEST)
        return -((value + 1) >> 1) if value & 1 else value >> 1
