"""The kinds of value that definitions, settings and releases are made of.

Each kind checks itself and words its own refusal: "expected …, got …". Where a check finds
several problems in one value, it raises one error that carries them all
(:func:`refuse_entries`), so that a person sees every problem at once.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Annotated, NoReturn

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from pipeline.files import parse_size

ENTRY_PROBLEMS = "recast_entries"
PROBLEM = "recast"

FROM_FILE = "recast_file"
"""Key of a validation's context, set while a file that a person wrote is read.

Lengths of time and shares are text there, as the schema says; a bare number is what a dump of a
model holds, and would leave open what it counts.
"""

Problems = list[tuple[int | str, str]]
"""Pairs of an entry's index or key, and what is wrong with it."""

DeepProblems = list[tuple[tuple[int | str, ...], str]]
"""The same of values inside of entries: an entry's index or key, and on from there."""

_Entry = int | str | tuple[int | str, ...]

MAX_DURATION = 36500 * 86400.0
"""The longest time that anything is asked to wait, in seconds: a slip of the keyboard is more."""

_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)
_SIZE_PATTERN = r"^\d+(\.\d+)?\s*([KMGTkmgt]?([iI]?[bB])?)$"
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._@+=/-]+")


class Model(BaseModel):
    """A value that cannot change after it was made, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Record(BaseModel):
    """A value that Recast writes and reads again; keys of a newer Recast are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def shown(value: object) -> str:
    """*value* as a message quotes it: text in double quotes, long text cut."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:76] + '…"'


def refuse(text: str) -> NoReturn:
    """Refuse the value at hand with a sentence for a person.

    Raises:
        PydanticCustomError: always; pydantic makes it part of its ``ValidationError``.
    """
    raise PydanticCustomError(PROBLEM, "{text}", {"text": text})


def refuse_entries(problems: Sequence[tuple[_Entry, str]]) -> None:
    """Refuse some entries of a list or a mapping; do nothing when there are no problems.

    Args:
        problems: pairs of the place (an entry's index or key, or the way to a value in it), and
            what is wrong with it.

    Raises:
        PydanticCustomError: carries every problem, each with its place.
    """
    if problems:
        text = "; ".join(f"[{where}]: {what}" for where, what in problems)
        raise PydanticCustomError(
            ENTRY_PROBLEMS, "{text}", {"text": text, "problems": tuple(problems)}
        )


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a value, and where: ``parts.root: Field required``."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """A check that the whole of a text matches *pattern*; *expected* words what it wants."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            refuse(f"expected {expected}, got {shown(value)}")
        return value

    return check


def _schema(pattern: str, **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", **more})


_IMAGE = r"[a-z][a-z0-9-]{0,62}"
_LABEL = r"[a-z0-9][a-z0-9-]{0,62}"
_DISTRIBUTION = r"[a-z][a-z0-9-]{0,30}"
_RELEASE = r"[a-z0-9][a-z0-9._-]{0,30}"
_ELEMENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PACKAGE = r"[A-Za-z0-9]([A-Za-z0-9+._-]*[A-Za-z0-9+])?"
_MODE = r"0?[0-7]{3,4}"
_HEX = r"[0-9a-f]{64}"
_COMMIT = r"[0-9a-f]{7,64}"
_VERSION = r"[0-9A-Za-z]+(\.[0-9A-Za-z]+)*"
_FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"

ImageName = Annotated[
    str,
    AfterValidator(
        matching(
            _IMAGE,
            "a name of small letters, digits and dashes that starts with a letter and has at "
            "most 63 characters",
        )
    ),
    _schema(_IMAGE),
]
Label = Annotated[
    str,
    AfterValidator(matching(_LABEL, "a name of small letters, digits and dashes")),
    _schema(_LABEL),
]
DistributionName = Annotated[
    str,
    AfterValidator(
        matching(_DISTRIBUTION, "a distribution's name in small letters, such as debian")
    ),
    _schema(_DISTRIBUTION),
]
ReleaseName = Annotated[
    str,
    AfterValidator(matching(_RELEASE, "a release's name, such as trixie, noble or 9-stream")),
    _schema(_RELEASE),
]
ElementName = Annotated[
    str,
    AfterValidator(matching(_ELEMENT, "the name of an element, such as openssh-server")),
    _schema(_ELEMENT),
]
PackageName = Annotated[
    str,
    AfterValidator(matching(_PACKAGE, "the name of a package, without version or architecture")),
    _schema(_PACKAGE),
]
FileMode = Annotated[
    str,
    AfterValidator(matching(_MODE, 'an octal mode in quotes, such as "0644"')),
    _schema(_MODE),
]
Sha256 = Annotated[
    str,
    AfterValidator(matching(_HEX, "a SHA-256 digest of 64 small hexadecimal digits")),
    _schema(_HEX),
]
Commit = Annotated[
    str,
    AfterValidator(matching(_COMMIT, "a git commit in small hexadecimal digits")),
    _schema(_COMMIT),
]
Version = Annotated[
    str,
    AfterValidator(matching(_VERSION, "a version of letters and digits, parted by dots")),
    _schema(_VERSION),
]
FileName = Annotated[
    str,
    AfterValidator(matching(_FILE_NAME, "the name of a file, without a folder")),
    _schema(_FILE_NAME),
]
Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
WholeNumber = Annotated[int, Field(strict=True)]


def _size(value: object) -> int:
    """Bytes from a number of bytes or from text such as ``512MiB``."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        refuse(f"expected a size such as 512MiB, got {shown(value)}")
    try:
        size = parse_size(value)
    except ValueError:
        refuse(f"expected a size such as 512MiB, got {shown(value)}")
    if size <= 0:
        refuse(f"expected a size above zero, got {shown(value)}")
    return size


Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _SIZE_PATTERN},
                {"type": "integer", "minimum": 1},
            ],
            "examples": ["512MiB", "2GiB"],
        }
    ),
]


def parse_duration(text: str) -> float:
    """Seconds from ``90s``, ``30m``, ``24h``, ``7d``.

    Raises:
        ValueError: it is not a length of time.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a length of time such as 30m or 24h")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """The shortest text that :func:`parse_duration` reads as whole *seconds*."""
    whole = round(seconds)
    for unit in ("d", "h", "m"):
        if whole and whole % _DURATION_UNITS[unit] == 0:
            return f"{whole // _DURATION_UNITS[unit]}{unit}"
    return f"{whole}s"


def bare_number(value: object, info: ValidationInfo) -> bool:
    """Is *value* a number as a dump of a model holds it, and not one that a person wrote?"""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and not (info.context or {}).get(FROM_FILE)


def _duration(value: object, info: ValidationInfo) -> float:
    seconds = float("nan")
    with contextlib.suppress(ValueError, OverflowError):
        if isinstance(value, str):
            seconds = parse_duration(value)
        elif isinstance(value, int | float) and bare_number(value, info):
            seconds = float(value)
    if not seconds >= 0:  # which nothing that is no number is
        refuse(f"expected a length of time such as 30m, 24h or 7d, got {shown(value)}")
    if seconds > MAX_DURATION:
        refuse(f"expected at most {format_duration(MAX_DURATION)}, got {shown(value)}")
    return seconds


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema(
        {"type": "string", "pattern": r"^\d+(\.\d+)?[smhd]$", "examples": ["30m", "24h", "7d"]}
    ),
]


def absolute_path(value: str) -> str:
    """Check that *value* is an absolute path, in its plainest spelling."""
    if not value.startswith("/"):
        refuse(f"expected an absolute path, got {shown(value)}")
    if _PLAIN_PATH.fullmatch(value) is None:
        refuse(f"expected a path of letters, digits and any of . _ @ + = - /, got {shown(value)}")
    plain = "/" + posixpath.normpath(value).lstrip("/")
    if value != plain:
        refuse(f"expected {shown(plain)}, the same path in its plainest form, got {shown(value)}")
    return value


def relative_path(value: str) -> str:
    """Check that *value* is a path inside the image's folder, in its plainest spelling."""
    inside = value.strip() and "\0" not in value and not value.startswith("/")
    if not inside or ".." in value.split("/"):
        refuse(f"expected a path inside the image's folder, got {shown(value)}")
    plain = posixpath.normpath(value)
    if value.rstrip("/") != plain:
        refuse(f"expected {shown(plain)}, the same path in its plainest form, got {shown(value)}")
    return plain


AbsolutePath = Annotated[
    str,
    AfterValidator(absolute_path),
    WithJsonSchema({"type": "string", "pattern": r"^/[A-Za-z0-9._@+=/-]*$"}),
]
RelativePath = Annotated[
    str,
    AfterValidator(relative_path),
    WithJsonSchema({"type": "string", "pattern": r"^[^/]", "minLength": 1}),
]


def within(path: str, folder: str) -> bool:
    """Is *path* that folder, or below it? Both absolute and plain."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def repeated(entries: Sequence[str]) -> Problems:
    """Problems for each entry that stands in the list already."""
    first: dict[str, int] = {}
    problems: Problems = []
    for index, entry in enumerate(entries):
        if entry in first:
            problems.append((index, f"{shown(entry)} is in the list already, at [{first[entry]}]"))
        first.setdefault(entry, index)
    return problems


def distinct(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Check that no entry stands twice in a list."""
    refuse_entries(repeated(entries))
    return entries
