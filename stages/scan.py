"""Look into a release: its bill of materials, and what changed since the release before.

Reads the tree's package database, and writes ``<name>.cdx.json`` (part ``sbom``) and
``<name>.package-diff.json`` beside the release's other files.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline import digest, packages, releases, sbom
from pipeline.errors import BuildError
from pipeline.files import format_size, write_atomically
from pipeline.models.release import Part, Release

if TYPE_CHECKING:
    from pipeline.engine.stage import Outcome, Work

_LOGGED = 200  # a change of distribution differs in every package; the file has them all


class ScanStage:
    """The stage ``scan``."""

    name = "scan"
    cores = 1
    memory = 256  # MiB

    def run(self, work: Work) -> Outcome:
        """Write the SBOM and the package diff of the release, and note them in its manifest.

        Raises:
            BuildError: the tree or the release cannot be read.
            DiskFullError: no space is left.
        """
        release, folder = work.release, work.release_dir
        if release is None or folder is None:
            raise BuildError(f"{work.image} has no release to scan", hint="Run `recast run` again.")
        if _is_scanned(release, folder):
            work.log.write("The bill of materials is there already.\n")
            return "cached"
        work.progress("reading packages")
        inventory = packages.inspect(work.tree / "tree.tar")
        work.stop.check()

        release = release.model_copy(update={"packages": inventory.packages})
        text = sbom.render(release, inventory, release.created)
        part = Part(file=release.name + sbom.SUFFIX, digest=digest.of_bytes(text), size=len(text))
        release = release.model_copy(update={"parts": {**release.parts, "sbom": part}})
        before = releases.Releases(work.artifacts).previous(release)
        change = releases.compare(before.release if before else None, release)
        write_atomically(folder / part.file, text)
        write_atomically(
            folder / (release.name + releases.DIFF_SUFFIX), change.model_dump_json(indent=2) + "\n"
        )
        releases.save(folder, release)
        work.release = release
        _tell(work.log, release, change)
        work.progress(_short(change, release))
        return "done"


def _is_scanned(release: Release, folder: Path) -> bool:
    part = release.parts.get("sbom")
    if part is None or not (folder / (release.name + releases.DIFF_SUFFIX)).is_file():
        return False
    path = folder / part.file
    return path.is_file() and digest.of_file(path) == part.digest


def _short(change: releases.ReleaseDiff, release: Release) -> str:
    count = f"{len(release.packages)} packages"
    return f"{count}, {change.packages.summary()}" if change.old else count


def _tell(log: IO[str], release: Release, change: releases.ReleaseDiff) -> None:
    log.write(f"{release.name}: {len(release.packages)} packages\n")
    if change.old is None:
        log.write("It is the first release of this image here: there is none to compare with.\n")
        return
    log.write(f"Since {change.old.release}: {change.packages.summary()}\n")
    lines = change.packages.lines()
    log.writelines(f"  {line}\n" for line in lines[:_LOGGED])
    if len(lines) > _LOGGED:
        log.write(f"  and {len(lines) - _LOGGED} more, in {release.name}{releases.DIFF_SUFFIX}\n")
    if change.old.root_hash == change.new.root_hash:
        log.write("The root is the same, byte for byte.\n")
    for role, size in change.sizes.items():
        log.write(f"  {role:<8} {releases.format_growth(size)}\n")
    log.write(f"A machine stores {format_size(releases.machine_size(release))}.\n")
