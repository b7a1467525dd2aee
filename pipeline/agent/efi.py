"""What the boot loader tells the running system, by its interface of EFI variables.

https://systemd.io/BOOT_LOADER_INTERFACE/ says what the variables hold, and
https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT/ how an entry's file name counts its tries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

VARIABLES = Path("/sys/firmware/efi/efivars")

_LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_ATTRIBUTES = 4  # bytes in front of each value
_LIMIT = 8 << 10
_COUNTED = re.compile(r"(?P<stem>.+)\+(?P<left>\d{1,9})(?:-(?P<done>\d{1,9}))?(?P<end>\.\w+)", re.A)
_FOLDERS = {".conf": "loader/entries", ".efi": "EFI/Linux"}


@dataclass(frozen=True)
class EntryName:
    """A boot entry's file name, taken apart.

    Attributes:
        id: without its counter.
        tries_left: None without a counter.
    """

    id: str
    tries_left: int | None = None


def parse_entry_name(name: str) -> EntryName:
    """``recast-7+2-1.conf`` is the entry ``recast-7.conf`` with two tries left."""
    match = _COUNTED.fullmatch(name)
    if match is None:
        return EntryName(name)
    return EntryName(match["stem"] + match["end"], int(match["left"]))


def read_variable(name: str, folder: Path = VARIABLES) -> str:
    """The text of a variable of the boot loader; empty if there is none."""
    try:
        with (folder / f"{name}-{_LOADER}").open("rb") as file:
            raw = file.read(_LIMIT)
    except OSError:
        return ""
    text = raw[_ATTRIBUTES:].decode("utf-16-le", errors="replace")
    return text.partition("\0")[0]


def booted_entry(variables: Path, esp: Path) -> EntryName:
    """The entry that this system was booted from, and whether it is still on trial.

    The variables say how the entry was called when it was booted; since then it may have been
    blessed or given up, which its file's name on the ESP says.

    Returns:
        The entry, with an empty id if the boot loader does not say.
    """
    path = read_variable("LoaderBootCountPath", variables).replace("\\", "/")
    counted = path.rpartition("/")[2]
    named = counted or read_variable("LoaderEntrySelected", variables)
    booted = parse_entry_name(named)
    if not booted.id:
        return booted
    folder = esp / _FOLDERS.get(Path(booted.id).suffix.lower(), "loader/entries")
    try:
        present = sorted(each.name for each in folder.iterdir())
    except OSError:
        present = []
    # The boot loader tells names in small letters, and FAT makes no difference.
    same = [n for n in present if parse_entry_name(n).id.lower() == booted.id.lower()]
    exact = [n for n in same if n.lower() == named.lower()]
    blessed = [n for n in same if parse_entry_name(n).tries_left is None]
    for name in (*exact, *blessed, *same):
        return parse_entry_name(name)
    return booted
