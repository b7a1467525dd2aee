"""Putting a release into the other slot, against plain tools on the same kind of disk.

``apply.new``: ours against ``dd`` and fsync of the same root and boot file. Both write the same
bytes to a disk in a file, and end when these are on the medium; ours reads them back besides,
hashes them, writes the hash tree, and edits the partition table. That takes some 0.5 s of a
processor for 512 MiB: on a disk that takes much more than 1 GiB/s it shows. ``apply.checked``:
against dd and ``veritysetup format`` of what it wrote, which is the same work. ``apply.mostly``: a
slot that has 19 of 20 MiB right. Downloading is no part of it: the source has the bytes in files.
Each round starts with a disk that was written before, as a machine's is. Needs the packages
coreutils, cryptsetup-bin, fdisk.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.agent.blocks import FileDisk
from pipeline.command import run
from pipeline.disk.gpt import ESP, ROOT_VERITY_X86_64, ROOT_X86_64
from pipeline.disk.tree import ENVIRONMENT
from tests.bench.harness import Record, Timing, compare, timed, within

_REPOSITORY = Path(__file__).resolve().parents[2]
_MIB = 1 << 20
_ROOT = 512 * _MIB
_TREE = 8 * _MIB
_UKI = 48 * _MIB
_START = 18 * _MIB
_ROUNDS = 3
_MEMORY = 64.0  # MiB above an interpreter that does nothing


def bench_apply() -> Iterator[Record]:
    """A root that is new, one that the slot mostly holds, and the memory that it takes."""
    place = Path(os.environ.get("RECAST_ARTIFACTS") or _REPOSITORY / "artifacts") / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apply-", dir=place) as folder:
        bench = _Bench(Path(folder), place / "apply.log")
        ours, again, plain, checked = [], [], [], []
        for _ in range(_ROUNDS):  # by turns: machines are not steady
            plain.append(bench.dd())
            checked.append(plain[-1] + bench.veritysetup())
            ours.append(bench.apply())
            again.append(bench.apply(mostly=True))
        new, mostly = (min(each.seconds for each in found) for found in (ours, again))
        yield compare("apply.new", new, min(plain), unit="s", goal=1.3)
        yield compare("apply.checked", new, min(checked), unit="s", goal=1.0)
        yield compare("apply.mostly", mostly, min(plain), unit="s", goal=1.3)
        idle = bench.idle().peak_rss
        memory = max(each.memory for each in (*ours, *again)) - idle
        yield within("apply.memory", memory / _MIB, _MEMORY, unit="MiB")


@dataclass(frozen=True)
class _Applied:
    """What an apply took.

    Attributes:
        seconds: of the apply, without the interpreter's start.
        memory: bytes, at its peak, interpreter included.
    """

    seconds: float
    memory: int


class _Bench:
    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log
        self._root = folder / "root.img"
        self._uki = folder / "uki.efi"
        self._disk = folder / "disk.raw"
        self._written = {path: folder / f"dd-{path.name}" for path in (self._root, self._uki)}
        chance = random.Random(1)
        sizes = {self._root: _ROOT, self._uki: _UKI}
        for source, target in self._written.items():
            for path in (source, target):
                with path.open("wb") as file:
                    for _ in range(sizes[source] // _MIB):
                        file.write(chance.randbytes(_MIB))

    def dd(self) -> float:
        """The plainest way to bring a root and a boot file to a disk; seconds."""
        options = ["bs=1M", "conv=fsync,notrunc", "status=none"]
        _settle(*self._written)
        return sum(
            timed(["dd", f"if={source}", f"of={target}", *options], log=self._log).seconds
            for source, target in self._written.items()
        )

    def veritysetup(self) -> float:
        """Read what dd wrote back from the medium, and make its hash tree; seconds."""
        written = self._written[self._root]
        with FileDisk(written) as disk:
            disk.forget(0, disk.size)
        tree = self._folder / "dd-tree.img"
        return timed(["veritysetup", "format", written, tree], log=self._log).seconds

    def apply(self, *, mostly: bool = False) -> _Applied:
        """Ours, in a process of its own, which tells what the apply alone took."""
        self._make_disk(mostly=mostly)
        _settle(self._root, self._uki)
        told = self._folder / "told.json"
        words = [self._folder, self._disk, self._root, self._uki, told]
        argv: list[str | Path] = [sys.executable, "-m", "tests.bench.applying", *words]
        timing = timed(argv, cwd=_REPOSITORY, log=self._log)
        return _Applied(json.loads(told.read_text())["seconds"], timing.peak_rss)

    def idle(self) -> Timing:
        """An interpreter that does nothing."""
        return timed([sys.executable, "-c", "pass"], log=self._log)

    def _make_disk(self, *, mostly: bool) -> None:
        rows = [
            (ESP, 8 * _MIB, "esp"),
            (ROOT_X86_64, 1 * _MIB, "running"),
            (ROOT_VERITY_X86_64, 1 * _MIB, "running"),
            (ROOT_X86_64, _ROOT, "_empty"),
            (ROOT_VERITY_X86_64, _TREE, "_empty"),
        ]
        script = "label: gpt\n"
        for kind, size, name in rows:
            script += f'size={size // 512}, type={kind}, name="{name}"\n'
        chance = random.Random(2)
        with self._disk.open("wb") as file, self._root.open("rb") as root:
            file.truncate(_START + _ROOT + _TREE + 4 * _MIB)
            file.seek(11 * _MIB)
            # What a slot holds that was used before: other bytes, or nearly the same.
            for number in range(_ROOT // _MIB):
                piece = root.read(_MIB)
                right = mostly and number % 20
                file.write(piece if right else chance.randbytes(_MIB))
        argv = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(self._disk)]
        run(argv, env=ENVIRONMENT, input=script.encode())


def _settle(*paths: Path) -> None:
    """Wait until nothing is being written, and have what is read in memory for both sides."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            while file.read(_MIB):
                pass
