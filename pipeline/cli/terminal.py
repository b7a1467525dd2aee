"""How things look on a terminal: tables, colours, widths; shared by every command."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import IO

import click

from pipeline.clock import duration
from pipeline.errors import UsageError

__all__ = [
    "ask_secret",
    "colour",
    "coloured",
    "duration",
    "fitting_table",
    "forget_stdout",
    "is_terminal",
    "printable",
    "table",
    "visible_width",
    "width",
]

_FALLBACK = (80, 24)
_MIN_LAST = 20
_GAP = "  "


def is_terminal(stream: IO[str]) -> bool:
    """Is somebody watching *stream*, on a terminal that can move its cursor?"""
    try:
        return stream.isatty() and os.environ.get("TERM", "") != "dumb"
    except ValueError:  # closed already
        return False


def width() -> int:
    """Columns of the terminal as it is now; 80 elsewhere. ``COLUMNS`` overrides."""
    return max(shutil.get_terminal_size(_FALLBACK).columns, 10)


def coloured(stream: IO[str] | None = None) -> bool:
    """Are colours wanted there? Only on a terminal, and not with ``NO_COLOR`` set."""
    if os.environ.get("NO_COLOR"):
        return False
    return is_terminal(stream or sys.stdout)


def colour(text: str, name: str, *, bold: bool = False, stream: IO[str] | None = None) -> str:
    """*text* in a colour (``red``, ``green``, ``yellow``, ``cyan``), or as it is.

    Args:
        name: the colour; empty for none.
        bold: make it bold.
        stream: where it will be written; standard output if not given.
    """
    if not coloured(stream):
        return text
    return click.style(text, fg=name or None, bold=bold or None)


def visible_width(text: str) -> int:
    """Columns that *text* takes once colours are left out."""
    return len(click.unstyle(text))


def table(
    rows: Sequence[Sequence[object]], headers: Sequence[str], width: int | None = None
) -> str:
    """Columns side by side, under headers, without a line break at the end.

    Columns are as wide as their content, and the last one is wrapped so that the table fits. A
    single word that is too long, a digest say, is kept whole: it is there to be copied.

    Args:
        rows: cells, turned into text by ``str``; None is empty.
        headers: one for each column.
        width: columns to fit into; the terminal's if not given.
    """
    limit = width if width is not None else globals()["width"]()
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    lines = [[colour(h, "", bold=True) for h in headers], *cells]
    wide = [
        max(visible_width(line[column]) for line in lines) for column in range(len(headers) - 1)
    ]
    used = sum(wide) + len(_GAP) * len(wide)
    room = max(limit - used, _MIN_LAST)
    out: list[str] = []
    for line in lines:
        head = "".join(
            text + " " * (size - visible_width(text)) + _GAP
            for text, size in zip(line, wide, strict=False)
        )
        parts = _wrap(line[-1], room)
        out.append((head + parts[0]).rstrip())
        out.extend((" " * used + part).rstrip() for part in parts[1:])
    return "\n".join(out)


def fitting_table(
    rows: Sequence[Mapping[str, str]], headers: Sequence[str], spare: Sequence[str] = ()
) -> str:
    """A table without those columns that a narrow terminal has no room for.

    Args:
        rows: cells by header; what is missing is empty.
        headers: in order.
        spare: headers that can be done without, the first to go first. Only a terminal is ever
            too narrow: elsewhere nothing is left out.
    """
    shown = list(headers)
    limit = width() if is_terminal(sys.stdout) else sys.maxsize
    for header in spare:
        if header in shown and _needed(rows, shown) > limit:
            shown.remove(header)
    return table([[row.get(header, "") for header in shown] for row in rows], shown, limit)


def _needed(rows: Sequence[Mapping[str, str]], headers: Sequence[str]) -> int:
    columns = ([header, *(row.get(header, "") for row in rows)] for header in headers)
    return sum(2 + max(visible_width(cell) for cell in cells) for cells in columns) - 2


def _wrap(text: str, room: int) -> list[str]:
    parts: list[str] = []
    for line in text.split("\n"):
        if visible_width(line) <= room:
            parts.append(line)
        else:
            parts += textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False)
    return parts or [""]


_PLAIN = str.maketrans({"→": "->", "✓": "ok", "✗": "FAILED", "–": "-", "…": "...", "×": "x"})


def printable(text: str, stream: IO[str] | None = None) -> str:
    """*text*, in plain ASCII signs where *stream* (standard output) cannot show the others."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate(_PLAIN)
        return plain.encode(encoding, errors="replace").decode(encoding)
    return text


def ask_secret(what: str) -> str:
    """A passphrase or PIN, typed without being shown, or from the environment.

    ``RECAST_PASSPHRASE`` is for key files. A token's PIN has a variable of its own, RECAST_PIN: a
    few wrong PINs lock a token.

    Raises:
        UsageError: it is needed, not in the environment, and nobody is there to be asked.
    """
    variable = "RECAST_PIN" if what.startswith("PIN") else "RECAST_PASSPHRASE"
    given = os.environ.get(variable)
    if given is not None:
        return given
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise UsageError(
            f"the {what} is needed, and there is no terminal to ask on",
            hint=f"Set {variable}.",
        )
    return getpass.getpass(f"{what}: ", sys.stderr)


def forget_stdout() -> None:
    """Point stdout at nothing once its reader has gone, or Python complains of it at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
