"""Zstandard's frames, of which each is read as a whole and never stands for more than is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zstandard

WINDOW_LOG = 23
"""The most memory that a frame may ask of its reader, as a power of two of bytes."""

THOROUGH, _QUICK = 19, 12  # the first takes ten times as long
_FEW = 0.3
_CONTEXTS = 1 << 10  # bytes by which a frame may be larger than what it holds, at least


class WrongError(Exception):
    """Bytes that came cannot be right; says why."""


def bound(size: int) -> int:
    """The most bytes that a frame of *size* bytes has; zstandard's own bound is less."""
    return size + size // 128 + _CONTEXTS


def level_for(size: int, of: int) -> int:
    """zstandard's level for *size* bytes of *of*: few of them are worth more of a core's time."""
    return THOROUGH if size <= _FEW * of else _QUICK


def pack(data: bytes, level: int, prefix: bytes = b"") -> bytes:
    """A frame that holds *data*.

    Args:
        data: any bytes.
        level: zstandard's.
        prefix: what *data* may repeat; :func:`unpack` must be given the same.
    """
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data),
        dict_size=len(prefix),
        window_log=max(10, min(WINDOW_LOG, (len(data) + len(prefix)).bit_length())),
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    compressor = zstandard.ZstdCompressor(
        dict_data=_dictionary(prefix), compression_params=parameters
    )
    return compressor.compress(data)


def unpack(frame: bytes, size: int | None = None, prefix: bytes = b"", *, most: int = 0) -> bytes:
    """What *frame* holds; needs no more memory than that, *prefix*, and zstandard's window.

    Args:
        frame: came from outside, and may be anything.
        size: bytes that it must hold; None if only the most is known.
        prefix: what it was made with.
        most: bytes that it may hold, where *size* is None.

    Raises:
        WrongError: it is no frame, or holds another number of bytes.
    """
    import zstandard

    try:
        told = zstandard.get_frame_parameters(frame)
        wanted = told.content_size if size is None else size
        if told.content_size != wanted or wanted > (most if size is None else wanted):
            raise WrongError(f"it does not hold {most if size is None else size} bytes")
        if told.window_size > max(1 << WINDOW_LOG, wanted):
            raise WrongError("it asks for too much memory")
        decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(prefix))
        data = decompressor.decompress(frame, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WrongError(f"it cannot be decompressed: {error}") from error
    if len(data) != wanted:
        raise WrongError(f"it holds {len(data)} bytes, not {wanted}")
    return data


def _dictionary(prefix: bytes) -> zstandard.ZstdCompressionDict | None:
    import zstandard

    if not prefix:
        return None
    return zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
