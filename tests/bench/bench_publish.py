"""Publishing a release, against casync on the same root image.

``publish.root``: both do the same with the same bytes, a root image that their stores know nothing
of: read it, hash it, compress it, store it. ``publish.new``: a release of which little is new, into
stores that hold the one before. Ours is the whole of `recast publish` there, which verifies and
uploads boot file and disk, signs, and moves a channel; casync still has but the root to do, and
finds most of its chunks there. Needs the packages casync, erofs-utils, dosfstools, mtools, fdisk.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline import digest, releases
from pipeline.disk.assemble import Sizes
from pipeline.disk.gpt import DiskParts, make_disk
from pipeline.models.release import Part, Release
from tests.bench.harness import Record, Timing, compare, timed, within
from tests.fakes.stored import MOMENT, make_release, make_verdict

_REPOSITORY = Path(__file__).resolve().parents[2]
_BIN = Path(sys.executable).parent
_IMAGE = "edge-web"
_ROOT = 320 << 20  # bytes of files in the root; what a small server image has
_UKI = 48 << 20
_TIMES = 3
_EARLIEST = timedelta(days=1)
_SOURCES = ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/share")
_ROOT_ALONE = """
import sys, tempfile
from pathlib import Path
from pipeline.channels.publish import publish
from pipeline.releases import Releases
from pipeline.store.local import LocalStore
artifacts, store, image = sys.argv[1:]
with tempfile.TemporaryDirectory(dir=artifacts) as scratch:
    publish(LocalStore(Path(store)), Releases(Path(artifacts)).latest(image), scratch=Path(scratch))
"""
_DEFINITION = f"name: {_IMAGE}\ndistribution: debian\nrelease: trixie\n"


def bench_publish() -> Iterator[Record]:
    """A root alone, a whole release of which little is new, and one that is there already."""
    place = Path(os.environ.get("RECAST_ARTIFACTS") or _REPOSITORY / "artifacts") / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-", dir=place) as folder:
        bench = _Bench(Path(folder), place / "publish.log")
        made = [bench.make(number) for number in range(_TIMES + 1)]
        ours, peer = [], []
        for number in range(_TIMES):  # by turns: machines are not steady
            peer.append(bench.casync(made[0], f"alone-{number}"))
            ours.append(bench.root_alone(made[0], number))
        yield bench.record("publish.root", made[0], ours, peer)

        bench.publish(made[0])
        bench.casync(made[0])
        ours, peer = [], []
        for each in made[1:]:
            peer.append(bench.casync(each))
            ours.append(bench.publish(each))
        yield bench.record("publish.new", made[-1], ours, peer)
        again = bench.publish(made[-1])
        yield within("publish.unchanged", again.seconds, 3.0, unit="s")


@dataclass(frozen=True)
class _Made:
    release: Release
    root: Path


class _Bench:
    """A project with keys and a store, and releases of real files that change a little."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.log = log
        self.artifacts = folder / "artifacts"
        tests = folder / "images" / _IMAGE / "tests"
        tests.mkdir(parents=True)
        (tests / "test_it.py").write_text("def test_it(): pass\n")
        (tests.parent / "image.yaml").write_text(_DEFINITION)
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        for words in (("init",), ("add", "images"), (*identity, "commit", "--message", "images")):
            timed(["git", "-C", folder, *words], log=log)
        self.recast("init", "--no-passphrase")
        self.tree = folder / "tree"
        self._collect()

    def record(
        self, name: str, made: _Made, ours: Sequence[Timing], peer: Sequence[Timing]
    ) -> Record:
        """The fastest of each, of which *made* is one."""
        best, other = (min(times, key=lambda t: t.seconds) for times in (ours, peer))
        size = made.root.stat().st_size
        for who, timing in (("recast", best), ("casync", other)):
            rate = size / timing.seconds / 1e6
            print(f"  {who}: {rate:.0f} MB/s of root, {timing.cpu_seconds:.1f} s of CPU time")
        return compare(name, best.seconds, other.seconds, unit="s", goal=0.5)

    def make(self, number: int) -> _Made:
        """The next release: of its files some differ from those of the one before."""
        chance = random.Random(number)  # the same each time, for the same numbers
        if number:
            self._change(chance)
        scratch = self.folder / f"new-{number}"
        scratch.mkdir()
        root = scratch / "root"
        timed(["mkfs.erofs", "--quiet", "-T1", "-Enoinline_data", root, self.tree], log=self.log)
        files = {"root": root, "verity": scratch / "verity", "uki": scratch / "uki"}
        files["verity"].write_bytes(chance.randbytes(root.stat().st_size // 128))
        files["uki"].write_bytes(b"MZ" + chance.randbytes(_UKI))  # kernel and initrd are packed
        loader = scratch / "loader"
        loader.write_bytes(random.Random("loader").randbytes(100_000))
        release = make_release(
            _IMAGE,
            commit=hashlib.sha1(b"%d" % number, usedforsecurity=False).hexdigest(),
            moment=MOMENT - _EARLIEST + timedelta(hours=number),
        )
        release = release.model_copy(update={"root_hash": digest.of_file(root)})
        files["disk"] = scratch / "disk"
        wanted = DiskParts(
            root=root,
            verity=files["verity"],
            uki=files["uki"],
            boot_loader=loader,
            root_hash=release.root_hash,
            name=release.name,
            version=release.version,
            sizes=Sizes.of_budget(1536 << 20, 512 << 20).as_dict(),
        )
        with self.log.open("a") as log:
            make_disk(wanted, files["disk"], scratch=scratch, log=log)
        return self._store(release, files)

    def recast(self, *words: str) -> Timing:
        """Time one command of ours."""
        places = {"RECAST_PROJECT": self.folder, "RECAST_ARTIFACTS": self.artifacts}
        kept = {name: v for name, v in os.environ.items() if not name.startswith("RECAST_")}
        return _timed(
            [_BIN / "recast", *words],
            env={**kept, **{name: str(path) for name, path in places.items()}},
            log=self.log,
        )

    def publish(self, made: _Made) -> Timing:
        """Time our command on a whole release."""
        return self.recast("publish", f"{_IMAGE}@{made.release.version}")

    def root_alone(self, made: _Made, number: int) -> Timing:
        """Time our publishing of a release that is a root and nothing else, into a new store."""
        artifacts = self.folder / "alone"
        folder = artifacts / "images" / _IMAGE / made.release.version
        if not folder.is_dir():
            folder.mkdir(parents=True)
            (folder / made.root.name).hardlink_to(made.root)
            parts = {"root": made.release.parts["root"]}
            releases.save(folder, made.release.model_copy(update={"parts": parts}))
        store = self.folder / f"alone-{number}.store"
        argv = [sys.executable, "-c", _ROOT_ALONE, str(artifacts), str(store), _IMAGE]
        return _timed(argv, cwd=_REPOSITORY, log=self.log)

    def casync(self, made: _Made, store: str = "casync") -> Timing:
        """Time casync's chunking of the same root into a store of its own."""
        index = self.folder / f"{store}-{made.release.version}.caibx"
        chunks = self.folder / f"{store}.castr"
        return _timed(["casync", "make", f"--store={chunks}", index, made.root], log=self.log)

    def _collect(self) -> None:
        """Take files of this host, as many as an image has."""
        room = _ROOT
        for source in map(Path, _SOURCES):
            share = room // 2
            for path in sorted(source.rglob("*")):
                if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                    continue
                size = path.stat().st_size
                if size > share:
                    continue
                share -= size
                room -= size
                target = self.tree / path.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)

    def _change(self, chance: random.Random) -> None:
        """Change some 2% of the files, as an update of a few packages does."""
        files = sorted(path for path in self.tree.rglob("*") if path.is_file())
        for path in chance.sample(files, len(files) // 50):
            data = bytearray(path.read_bytes())
            middle = len(data) // 2
            data[middle : middle + 200] = chance.randbytes(300)
            path.write_bytes(data)

    def _store(self, release: Release, files: dict[str, Path]) -> _Made:
        folder = self.artifacts / "images" / _IMAGE / release.version
        folder.mkdir(parents=True)
        names = {role: release.parts[role].file for role in files}
        parts = {
            role: Part(file=names[role], digest=digest.of_file(path), size=path.stat().st_size)
            for role, path in files.items()
        }
        release = release.model_copy(update={"parts": parts})
        for role, path in files.items():
            shutil.move(path, folder / names[role])
        releases.save(folder, release)
        verdict = releases.verdict_path(folder, release.name, "qemu")
        verdict.write_text(make_verdict(release).model_dump_json())
        shutil.rmtree(files["root"].parent)
        return _Made(release, folder / names["root"])


def _timed(argv: Sequence[str | Path], **options: Any) -> Timing:
    """Time a command while nothing is being written that others have left: we wait for the disk."""
    os.sync()
    return timed(argv, **options)
