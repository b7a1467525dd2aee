"""One apply, measured: started by :mod:`tests.bench.bench_apply` in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import digest
from pipeline.agent import entries, gpt, verity
from pipeline.agent.blocks import FileDisk, Part
from pipeline.agent.esp import MountedEsp
from pipeline.agent.slots import DiskSlots
from pipeline.agent.verity import Recipe
from pipeline.clock import now
from pipeline.models.device import Attempt, Running
from pipeline.models.pointer import PublishedPart, PublishedRelease, StoredObject
from pipeline.transfer.base import Filled, Seed, Target

_PIECE = 1 << 20


class LocalSource:
    """Has the parts in files; what is right already is not written."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def fill(
        self,
        release: PublishedRelease,
        role: str,
        target: Target,
        seeds: Sequence[Seed],
        **_: Any,
    ) -> Filled:
        """Copy a part."""
        written = at = 0
        with self._files[role].open("rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                if target.read(at, len(piece)) != piece:
                    target.write(at, piece)
                    written += len(piece)
                at += len(piece)
        target.sync()
        return Filled(written=written)


def main(folder: Path, disk: Path, root: Path, uki: Path, told: Path) -> None:
    """Make what a machine has around its disk, apply, and tell how long that took."""
    files = {"root": root, "uki": uki}
    known = folder / "known.json"
    if known.exists():
        release = PublishedRelease.model_validate_json(known.read_bytes())
    else:
        release = _describe(files)
        known.write_text(release.model_dump_json())
    esp = _esp(folder)
    with FileDisk(disk) as device:
        running = _running(device)
        slots = DiskSlots(device, esp, running)
        attempt = Attempt(release=release, started=now())
        start = time.monotonic()
        done = slots.apply(attempt, LocalSource(files), lambda _: None, sequence=1)
        seconds = time.monotonic() - start
    print(done.seconds, flush=True)
    told.write_text(json.dumps({"seconds": seconds, "steps": dict(done.seconds)}))


def _describe(files: dict[str, Path]) -> PublishedRelease:
    parts = {
        role: PublishedPart(file=role, digest=digest.of_file(path), size=path.stat().st_size)
        for role, path in files.items()
    }
    recipe = Recipe.of_content(parts["root"].size, parts["root"].digest)
    with FileDisk(files["root"]) as data:
        root_hash = verity.hash_data(recipe, Part(data, 0, data.size), lambda *_: None)
    return PublishedRelease(
        image="edge-web",
        version="20260301.120000.g0123456789ab",
        commit="0123456789abcdef0123456789abcdef01234567",
        created=now(),
        build_key="key",
        root_hash=root_hash,
        boot_digest="boot",
        manifest=StoredObject(digest="0" * 64, size=0),
        parts=parts,
    )


def _running(disk: FileDisk) -> Running:
    found = gpt.read(disk).partitions
    root_hash = found[1].uuid.hex + found[2].uuid.hex
    return Running(
        image="edge-web",
        version="20260228.120000.g0123456789ab",
        arch="amd64",
        root_hash=root_hash,
        boot_id="b",
        uptime=1.0,
        entry="recast-0.conf",
    )


def _esp(folder: Path) -> MountedEsp:
    root = folder / "esp"
    for each in ("EFI/BOOT", "EFI/recast", "loader/entries"):
        (root / each).mkdir(parents=True, exist_ok=True)
    esp = MountedEsp(root)
    for path in (root / entries.ENTRIES).iterdir():
        path.unlink()
    for path in (root / entries.UKIS).iterdir():
        path.unlink()
    (root / entries.UKIS / "running.efi").write_bytes(b"MZ")
    text = entries.entry_text("running", "0" * 64, 0, f"{entries.UKIS}/running.efi")
    (root / entries.ENTRIES / "recast-0.conf").write_bytes(text)
    return esp


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
