"""Assemble a release from a tree: root, verity, UKI, disk, manifest.

A tree that comes to the same root and boot files as a release that is there already makes no new
release: there is nothing to test, to ship or to reboot for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__, digest, releases
from pipeline.disk import assemble
from pipeline.engine.plan import definition_parts
from pipeline.engine.records import BuildRecord, Records
from pipeline.errors import BuildError
from pipeline.files import give_name
from pipeline.models.release import Part, Release, release_name
from pipeline.packages import from_tree

if TYPE_CHECKING:
    from pipeline.engine.stage import Outcome, Work

_SUFFIXES = {
    "root": ".root.erofs",
    "verity": ".verity",
    "uki": ".efi",
    "disk": ".raw",
    "qcow2": ".qcow2",
}
_TOOLS = ("erofs-utils", "cryptsetup-bin", "systemd-boot-efi", "dracut")


class AssembleStage:
    """The stage ``assemble``."""

    name = "assemble"
    cores = 1
    memory = 1024  # MiB

    def run(self, work: Work) -> Outcome:
        """Make the release of the tree, or find that it is there.

        Raises:
            BudgetError: a part is larger than the definition allows.
            BuildError: the tree is not one that can boot.
            DiskFullError: no space is left.
            Interrupted: a stop was asked for.
        """
        records = Records(work.artifacts)
        record = next((r for r in records.of(work.image) if r.tree == work.tree.name), None)
        if record is None:
            raise BuildError(
                f"nothing is known of the tree {work.tree.name} of {work.image}",
                hint=f"Build it again with `recast build {work.image} --force`.",
            )
        stored = releases.Releases(work.artifacts)
        if record.version and not work.force:
            known = stored.find(work.image, record.version)
            if known is not None and _serves(known.release, work):
                work.log.write(f"The release is there already: {known.release.name}\n")
                work.release, work.release_dir = known.release, known.folder
                return "cached"
        scratch = work.scratch / "assemble"
        scratch.mkdir()
        work.progress("root and verity")
        budget = work.own.budget
        parts = assemble.make_root(
            work.tree / "tree.tar",
            scratch,
            image=work.image,
            budget=budget.root,
            log=work.log,
            stop=work.stop,
        )
        boot_digest = parts.boot_digest(work.definition.kernel_arguments)
        if same := _same(stored.of(work.image), parts.root_hash, boot_digest, work):
            work.log.write(f"It has the root and boot files of {same.release.name}.\n")
            work.progress(f"same root as {same.release.version}")
            work.release, work.release_dir = same.release, same.folder
        else:
            release, files = _name(work, stored, record, parts, boot_digest)
            work.release_dir = _keep(work, release, files)
            work.release = release
        records.add(_known(record, work.release))
        shutil.rmtree(scratch)
        return "done"


def _serves(release: Release, work: Work) -> bool:
    """A release of changes that were in no commit is not one of the commit that they went into."""
    return not release.dirty or work.source.dirty is not None


def _same(
    stored: Iterable[releases.Stored], root_hash: str, boot_digest: str, work: Work
) -> releases.Stored | None:
    """A release that runs the very same bytes, and lacks nothing that is asked for."""
    outputs = {"root", "verity", "uki", "disk", *work.own.outputs}
    for each in stored:
        release = each.release
        alike = (release.root_hash, release.boot_digest) == (root_hash, boot_digest)
        if alike and outputs <= release.parts.keys() and _serves(release, work):
            return each
    return None


def _name(
    work: Work,
    stored: releases.Releases,
    record: BuildRecord,
    parts: assemble.RootParts,
    boot_digest: str,
) -> tuple[Release, Mapping[str, Path]]:
    """Give the root a name, and make all that carries it."""
    budget = work.own.budget
    version = _free_version(work, stored, (parts.root_hash, boot_digest, record.build_key))
    naming = assemble.Naming(
        work.image, version, release_name(work.image, version, work.definition.arch)
    )
    work.progress("UKI and disk")
    files = dict(
        assemble.make_boot_files(
            parts,
            naming,
            arguments=work.definition.kernel_arguments,
            sizes=assemble.Sizes.of_budget(budget.root, budget.esp),
            budget=budget.uki,
            log=work.log,
            stop=work.stop,
        )
    )
    if "qcow2" in work.own.outputs:
        work.progress("qcow2")
        files["qcow2"] = parts.folder / "disk.qcow2"
        assemble.make_qcow2(files["disk"], files["qcow2"], log=work.log, stop=work.stop)
    work.stop.check()
    work.progress("digests")
    release = _manifest(work, record, parts, naming, boot_digest, files)
    return release, files


def _known(record: BuildRecord, release: Release) -> BuildRecord:
    return record.model_copy(update={"version": release.version, "root_hash": release.root_hash})


def _free_version(work: Work, stored: releases.Releases, identity: tuple[str, str, str]) -> str:
    """The commit's version; with a number behind it for a rebuild with other packages.

    A version that is published stands for the same bytes for ever, wherever they were built.
    """
    taken = {each.release.version for each in stored.of(work.image)}
    version, number = work.source.version, 1
    while version in taken or work.taken(version) not in (None, identity):
        number += 1
        version = f"{work.source.version}.{number}"
    return version


def _manifest(
    work: Work,
    record: BuildRecord,
    parts: assemble.RootParts,
    naming: assemble.Naming,
    boot_digest: str,
    files: Mapping[str, Path],
) -> Release:
    packages = from_tree(work.tree / "tree.tar")
    versions = {p.name: p.version for p in packages}
    tools = {name: versions[name] for name in _TOOLS if name in versions}
    parent = None
    if work.planned.parent is not None:
        above = Records(work.artifacts).find(work.planned.parent, record.components.parent or "")
        if above is not None and above.version:
            parent = release_name(above.image, above.version, work.definition.arch)
    found = assemble.digests(parts, files)
    return Release(
        image=work.image,
        version=naming.version,
        arch=work.definition.arch,
        commit=work.source.commit,
        dirty=work.source.dirty is not None,
        created=work.source.time,
        build_key=record.build_key,
        parent=parent,
        root_hash=parts.root_hash,
        boot_digest=boot_digest,
        definition_digest=digest.of_data(definition_parts(work.own)),
        parts={
            role: Part(
                file=naming.name + _SUFFIXES[role],
                digest=found[role],
                size=file.stat().st_size,
            )
            for role, file in files.items()
        },
        packages=packages,
        tools={
            "recast": __version__,
            "diskimage-builder": record.components.builder.split(" ")[0],
            **tools,
        },
        kernel_arguments=(*assemble.KERNEL_ARGUMENTS, *work.definition.kernel_arguments),
    )


def _keep(work: Work, release: Release, files: Mapping[str, Path]) -> Path:
    """Give the files their names, all at once."""
    folder = work.artifacts / "images" / work.image / release.version
    new = work.scratch / "release"  # the scratch folder: a kill leaves nothing elsewhere
    new.mkdir()
    for role, file in files.items():
        target = new / release.parts[role].file
        shutil.move(file, target)
        target.chmod(0o444)
    shutil.copytree(work.tree / "dib-manifests", new / "dib-manifests")
    releases.save(new, release)
    give_name(new, folder)
    return folder
