"""A real disk, as assembly makes it: published as what it adds to its parts, and put together."""

from __future__ import annotations

import io
import random
from pathlib import Path

from pipeline import digest
from pipeline.channels.publish import publish
from pipeline.disk.assemble import Sizes
from pipeline.disk.gpt import DiskParts, make_disk
from pipeline.models.release import Part
from pipeline.releases import Releases, save
from pipeline.store.local import LocalStore
from pipeline.transfer.fetch import save_part
from tests.fakes.stored import make_release

MIB = 1 << 20


def test_a_disk_costs_the_store_next_to_nothing_and_comes_back(tmp_path: Path) -> None:
    chance = random.Random("disk")
    release = make_release()
    artifacts = tmp_path / "artifacts"
    folder = artifacts / "images" / release.image / release.version
    folder.mkdir(parents=True)
    files = {role: folder / part.file for role, part in release.parts.items()}
    files["root"].write_bytes(bytes(1024) + chance.randbytes(20 * MIB - 1024))
    files["verity"].write_bytes(b"verity\0\0" + chance.randbytes(200_000))
    files["uki"].write_bytes(b"MZ" + chance.randbytes(9 * MIB))
    loader = tmp_path / "loader"
    loader.write_bytes(chance.randbytes(100_000))
    wanted = DiskParts(
        root=files["root"],
        verity=files["verity"],
        uki=files["uki"],
        boot_loader=loader,
        root_hash=release.root_hash,
        name=release.name,
        version=release.version,
        sizes=Sizes.of_budget(64 * MIB, 128 * MIB).as_dict(),
    )
    make_disk(wanted, files["disk"], scratch=tmp_path, log=io.StringIO())
    parts = {
        role: Part(file=path.name, digest=digest.of_file(path), size=path.stat().st_size)
        for role, path in files.items()
    }
    release = release.model_copy(update={"parts": parts})
    save(folder, release)
    stored = Releases(artifacts).find(release.image, release.version)
    assert stored is not None

    store = LocalStore(tmp_path / "store")
    done = publish(store, stored, scratch=tmp_path)
    disk = done.release.parts["disk"]
    assert disk.extents is not None
    assert [extent.part for extent in disk.extents if extent.part] == ["uki", "root", "verity"]
    # Of its own it has the partition tables, an empty FAT and the boot loader.
    assert sum(each.size for each in disk.objects) < 200_000
    save_part(store, done.release, "disk", tmp_path / "disk")
    assert digest.of_file(tmp_path / "disk") == digest.of_file(files["disk"])
