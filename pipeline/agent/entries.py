"""What the boot loader finds on the ESP, in its order, and the changing of it.

Formats: https://uapi-group.org/specifications/specs/boot_loader_specification/ and, for counters
in file names, https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT/. The disk that a build makes has a
type #2 entry, a UKI in ``EFI/Linux``. Updates make entries of type #1: a few lines that name a UKI
in ``EFI/recast``, where no boot loader looks. Such a file is what decides, and is small: it is
written when all that it leads to is on the medium, and counted down without moving a UKI.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key

from pipeline.agent.base import Entry
from pipeline.agent.esp import Esp
from pipeline.errors import HostError

ENTRIES = "loader/entries"
UKIS = "EFI/recast"
FACTORY = "EFI/Linux"
SORT_KEY = "0-recast"
"""Before every image's own name: what an update brought comes before the factory's."""

_NAME = re.compile(r"(?P<stem>.+?)(?:\+(?P<left>\d+)(?:-(?P<done>\d+))?)?(?P<suffix>\.\w+)")
_OURS = re.compile(r"recast-(?P<sequence>\d+)\.conf")
_ROOT_HASH = "# recast-root-hash "
_PIECES = re.compile(r"\d+|[^\d]+")
_MOST = 1 << 16  # bytes of a section of a UKI that is read


@dataclass(frozen=True)
class BootFile:
    """One file that the boot loader takes for an entry.

    Attributes:
        path: on the ESP.
        entry: what it says.
        uki: path of what it boots; empty if it does not say.
        keys: what it is sorted by: sort key and version.
        ours: did Recast make it?
        whole: can it be booted, as far as the boot loader can tell?
    """

    path: str
    entry: Entry
    uki: str = ""
    keys: tuple[str, str] = ("", "")
    ours: bool = True
    whole: bool = True


def entry_id(sequence: int) -> str:
    """``recast-7.conf``."""
    return f"recast-{sequence}.conf"


def uki_path(release: str) -> str:
    """Where an update puts the UKI of a release."""
    return f"{UKIS}/{release}.efi"


def sequence_of(entry: str) -> int:
    """7 of ``recast-7.conf``; 0 of the factory's."""
    match = _OURS.fullmatch(entry)
    return int(match["sequence"]) if match else 0


def entry_text(release: str, root_hash: str, sequence: int, uki: str) -> bytes:
    """An entry of type #1. Half of it boots nothing: the last line says what is booted."""
    lines = [f"{_ROOT_HASH}{root_hash}", f"title {release}", f"sort-key {SORT_KEY}"]
    return "\n".join([*lines, f"version {sequence}", f"efi /{uki}", ""]).encode()


def read_boot_files(esp: Esp) -> tuple[BootFile, ...]:
    """Every entry of the ESP, in the order in which the boot loader prefers them.

    Raises:
        HostError: the ESP cannot be read.
    """
    found = [_type_1(esp, name) for name in esp.files(ENTRIES) if name.endswith(".conf")]
    found += [_type_2(esp, name) for name in esp.files(FACTORY) if name.endswith(".efi")]
    return tuple(sorted(found, key=cmp_to_key(_compare)))


def bootable(files: Sequence[BootFile]) -> tuple[Entry, ...]:
    """The entries among them that lead somewhere, each once.

    A cut can leave an entry under two names, with its counter and without: it is blessed then.
    """
    found: dict[str, Entry] = {}
    for each in files:
        if each.whole:
            there = found.get(each.entry.id)
            if there is None or (there.tries_left is not None and each.entry.tries_left is None):
                found[each.entry.id] = each.entry
    return tuple(found.values())


def set_counter(esp: Esp, entry: str, left: int | None) -> None:
    """Leave an entry *left* tries, or take its counter from it (None).

    An entry of type #1 is copied, synced, and then removed under its old name: a rename that is
    cut could leave it under neither.

    Raises:
        HostError: there is no such entry, or the ESP cannot be written.
    """
    files = [each for each in read_boot_files(esp) if each.entry.id == entry]
    if not files:
        raise HostError(
            f"the EFI system partition at {esp.name} has no boot entry {entry}",
            hint="`recast-agent status` lists those that there are.",
        )
    there = {each.path for each in files if each.whole}
    for each in files:
        folder, _, _name = each.path.rpartition("/")
        new = f"{folder}/{counted(entry, left, each.entry.tries_done)}"
        if new == each.path:
            continue
        if each.path.endswith(".efi"):
            esp.rename(each.path, new)
            esp.sync()
            continue
        if each.whole and new not in there:
            write_file(esp, new, esp.read(each.path))
            there.add(new)
        remove_entries(esp, [each.path])


def remove_entries(esp: Esp, paths: Sequence[str]) -> None:
    """Remove entries, and return when they are gone from the medium.

    Those of type #1 are emptied first: else a new entry that gets an old one's place on the medium
    could, after a cut, have its name and the old one's words.

    Raises:
        HostError: the ESP cannot be written.
    """
    for path in paths:
        text = find_text(esp, path) if path.endswith(".conf") else None
        if text:
            write_file(esp, path, b"\n" * len(text))
    for path in paths:
        esp.remove(path)
    if paths:
        esp.sync()


def counted(entry: str, left: int | None, done: int = 0) -> str:
    """The file name of an entry with a counter: ``recast-7+2-1.conf``."""
    if left is None:
        return entry
    stem, dot, suffix = entry.rpartition(".")
    return f"{stem}+{left}{f'-{done}' if done else ''}{dot}{suffix}"


def write_file(esp: Esp, path: str, data: bytes) -> None:
    """Write a small file, and return when it is on the medium.

    Raises:
        DiskFullError: there is no room.
        HostError: the ESP cannot be written.
    """
    target = esp.target(path, len(data))
    with contextlib.closing(target):
        target.write(0, data)
        target.sync()
    esp.sync()


def find_text(esp: Esp, path: str) -> bytes | None:
    """What an entry says; None if nothing: a cut can leave a name that leads nowhere."""
    try:
        return esp.read(path)
    except HostError:
        return None


def _type_1(esp: Esp, name: str) -> BootFile:
    path = f"{ENTRIES}/{name}"
    entry = _named(name)
    ours = _OURS.fullmatch(entry.id) is not None
    text = find_text(esp, path)
    if text is None:
        return BootFile(path, entry, ours=ours, whole=False)
    words: dict[str, str] = {}
    for line in text.decode(errors="replace").splitlines():
        if line.startswith(_ROOT_HASH):
            words["root"] = line.removeprefix(_ROOT_HASH).strip()
        elif not line.startswith("#"):
            key, _, value = line.strip().partition(" ")
            words.setdefault(key, value.strip())
    uki = words.get("efi", words.get("linux", "")).lstrip("/")
    release = words.get("title", "") if ours else ""
    entry = replace(entry, release=release, root_hash=words.get("root", ""))
    keys = words.get("sort-key", ""), words.get("version", "")
    return BootFile(path, entry, uki, keys, ours, bool(uki) and esp.size(uki) is not None)


def _type_2(esp: Esp, name: str) -> BootFile:
    path = f"{FACTORY}/{name}"
    entry = _named(name)
    try:
        sections = read_sections(esp, path)
    except (HostError, struct.error):
        return BootFile(path, entry, path, whole=False)
    arguments = _pairs(sections.get(".cmdline", "").split())
    system = _pairs(sections.get(".osrel", "").splitlines())
    keys = (
        system.get("IMAGE_ID") or system.get("ID", ""),
        system.get("IMAGE_VERSION") or system.get("VERSION_ID", ""),
    )
    release = arguments.get("recast.release", "")
    entry = replace(entry, release=release, root_hash=arguments.get("roothash", ""))
    return BootFile(path, entry, path, keys, ours=bool(release))


def _pairs(words: Sequence[str]) -> Mapping[str, str]:
    return {key: value.strip("\"'") for key, _, value in (word.partition("=") for word in words)}


def _named(name: str) -> Entry:
    match = _NAME.fullmatch(name)
    assert match is not None, name  # it has a suffix
    left = match["left"]
    return Entry(
        id=match["stem"] + match["suffix"],
        tries_left=None if left is None else int(left),
        tries_done=int(match["done"] or 0),
    )


def read_sections(esp: Esp, path: str) -> Mapping[str, str]:
    """The sections ``.cmdline`` and ``.osrel`` of a UKI, as text.

    Raises:
        HostError: it cannot be read.
        struct.error: it is no EFI program.
    """
    head = esp.read(path, 0, 1 << 12)
    (pe,) = struct.unpack_from("<I", head, 0x3C)
    if head[:2] != b"MZ" or head[pe : pe + 4] != b"PE\0\0":
        raise struct.error("no EFI program")
    count, optional = struct.unpack_from("<2xH12xH", head, pe + 4)
    found = {}
    for number in range(count):
        row = struct.unpack_from("<8sIIII", head, pe + 24 + optional + number * 40)
        name = row[0].rstrip(b"\0").decode(errors="replace")
        if name in (".cmdline", ".osrel"):
            size = min(row[1], row[3], _MOST)
            raw = esp.read(path, row[4], size)
            found[name] = raw.rstrip(b"\0").decode(errors="replace")
    return found


def _compare(a: BootFile, b: BootFile) -> int:
    """As systemd-boot sorts: those without tries last, then sort key, then the newest version."""
    by = [
        _sign(a.entry.tries_left == 0, b.entry.tries_left == 0),
        _sign(not a.keys[0], not b.keys[0]),
        _sign(a.keys[0].lower(), b.keys[0].lower()),
        _sign(_version(b.keys[1]), _version(a.keys[1])) if a.keys[0] else 0,
        _sign(_version(b.entry.id), _version(a.entry.id)),
        _sign(b.entry.tries_left or 0, a.entry.tries_left or 0),
    ]
    return next((each for each in by if each), 0)


def _sign(a: object, b: object) -> int:
    return int(a > b) - int(a < b)  # type: ignore[operator]


def _version(text: str) -> list[tuple[int, str]]:
    """Numbers count as numbers."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in _PIECES.findall(text)]
