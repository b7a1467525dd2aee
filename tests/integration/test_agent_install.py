"""Installing a published release on a whole disk, with the agent's own command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import digest
from pipeline.models.pointer import PublishedRelease
from pipeline.store.base import object_key
from pipeline.store.local import LocalStore
from tests.fakes.installable import publish_whole
from tests.fakes.stored import MOMENT
from tests.fakes.world import World

MIB = 1 << 20
ROOT = 40 * MIB
"""Bytes of the root: several segments, so that a cut can fall between two of them."""

_KILLED = """
import os, signal, sys
from pipeline.agent import main, writing

usual = writing.Headless.write
written = 0

def write(self, offset, data):
    global written
    usual(self, offset, data)
    written += len(data)
    if written > int(os.environ["KILLED_AFTER"]):
        os.kill(os.getpid(), signal.SIGKILL)

writing.Headless.write = write
sys.exit(main.main(sys.argv[1:]))
"""


@dataclass
class Place:
    """A store with a release, and the words that install it."""

    world: World
    store: LocalStore
    release: PublishedRelease
    built: Path
    words: list[str]

    def install(
        self, device: Path, *more: str, killed_after: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        run = ["-m", "pipeline.agent.main"] if killed_after is None else ["-c", _KILLED]
        environment = {**os.environ, "KILLED_AFTER": str(killed_after)}
        return subprocess.run(
            [sys.executable, *run, "install", str(device), *self.words, *more],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    store = LocalStore(folder / "store")
    world = World(folder, store=store)
    release, built = publish_whole(world, folder / "artifacts", size=ROOT)
    world.hold("stable", release)
    root = folder / "root.json"
    root.write_bytes(world.root)
    words = ["--store", f"file://{store.folder}", "--channel", "stable"]
    words += ["--image", release.image, "--root-of-trust", str(root)]
    return Place(world, store, release, built, words)


def make_disk(path: Path, size: int = 128 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_an_empty_disk_holds_the_release_that_was_built(place: Place, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk")
    done = place.install(disk, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["release"] == place.release.name
    assert told["root_hash"] == place.release.root_hash
    size = told["size"]
    assert told["downloaded"] < size, "what is zero is not downloaded"
    with disk.open("rb") as file:
        assert digest.of_bytes(file.read(size)) == digest.of_file(place.built)
    assert disk.stat().st_size == 128 * MIB


def test_a_kill_leaves_nothing_that_boots_and_the_next_run_goes_on(
    place: Place, tmp_path: Path
) -> None:
    whole = json.loads(place.install(make_disk(tmp_path / "whole"), "--json").stdout)
    disk = make_disk(tmp_path / "disk")
    killed = place.install(disk, killed_after=30 * MIB)
    assert killed.returncode == -signal.SIGKILL
    with disk.open("rb") as file:
        assert not any(file.read(MIB)), "no firmware finds a partition table"
    done = place.install(disk, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["downloaded"] < whole["downloaded"] / 2
    with disk.open("rb") as file:
        assert digest.of_bytes(file.read(told["size"])) == digest.of_file(place.built)


def test_a_disk_with_something_on_it_is_named_and_kept(place: Place, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk")
    table = "label: gpt\nsize=10MiB, name=photos\nsize=20MiB, name=letters\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table, text=True, check=True)
    before = digest.of_file(disk)
    refused = place.install(disk)
    assert refused.returncode == 10
    assert "photos (10.0 MiB), letters (20.0 MiB)" in refused.stderr
    assert "--yes" in refused.stderr
    assert digest.of_file(disk) == before
    done = place.install(disk, "--yes")
    assert done.returncode == 0, done.stderr
    assert "It was read back, and is what was signed." in done.stdout
    assert not any(disk.read_bytes()[-MIB:]), "no old table is left at the end"


def test_a_disk_that_is_too_small_is_told(place: Place, tmp_path: Path) -> None:
    refused = place.install(make_disk(tmp_path / "disk", 8 * MIB))
    assert refused.returncode == 4
    assert "has 8.0 MiB, and the image has" in refused.stderr


def test_a_damaged_store_makes_no_machine(place: Place, tmp_path: Path) -> None:
    stored = place.release.parts["root"].stored
    assert stored is not None
    path = place.store.folder / object_key(stored.digest)
    good = path.read_bytes()
    middle = len(good) // 2
    path.chmod(0o644)
    path.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    disk = make_disk(tmp_path / "disk")
    try:
        refused = place.install(disk)
    finally:
        path.write_bytes(good)
    assert refused.returncode == 9
    assert "is damaged" in refused.stderr
    with disk.open("rb") as file:
        assert not any(file.read(MIB))
    assert place.install(disk).returncode == 0


def test_what_was_not_proven_is_not_installed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    world = World(tmp_path, store=store)
    later = MOMENT + timedelta(hours=1)
    untested, _ = publish_whole(world, tmp_path / "a", tested=False)
    unmade, _ = publish_whole(world, tmp_path / "b", commit="a" * 40, moment=later, attested=False)
    root = tmp_path / "root.json"
    root.write_bytes(world.root)
    words = ["--store", f"file://{store.folder}", "--image", "edge-web"]
    words += ["--root-of-trust", str(root), "--channel", "stable"]
    place = Place(world, store, untested, tmp_path, words)
    for release, told in ((untested, "no tests have passed"), (unmade, "how .* was made")):
        world.hold("stable", release)
        disk = make_disk(tmp_path / "disk")
        refused = place.install(disk)
        assert refused.returncode == 10
        assert re.search(told, refused.stderr), refused.stderr
        assert not any(disk.read_bytes())


def test_another_projects_root_of_trust_believes_nothing(place: Place, tmp_path: Path) -> None:
    other = World(tmp_path / "other", store=LocalStore(tmp_path / "elsewhere"))
    (tmp_path / "root.json").write_bytes(other.root)
    disk = make_disk(tmp_path / "disk")
    refused = place.install(disk, "--root-of-trust", str(tmp_path / "root.json"))
    assert refused.returncode == 9
    assert not any(disk.read_bytes())


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A block device."""
    disk = make_disk(tmp_path / "backing")
    made = subprocess.run(
        ["losetup", "--find", "--show", disk], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_block_device_is_written_unless_it_is_mounted(
    place: Place, loop: Path, tmp_path: Path
) -> None:
    subprocess.run(["mkfs.ext4", "-q", loop], check=True)
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = subprocess.run(["mount", loop, folder], capture_output=True, check=False)
    if mounted.returncode == 0:
        try:
            refused = place.install(loop, "--yes")
        finally:
            subprocess.run(["umount", folder], check=True)
        assert refused.returncode == 8
        assert f"is mounted at {folder}" in refused.stderr
    done = place.install(loop, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    size = json.loads(done.stdout)["size"]
    with loop.open("rb") as file:
        assert digest.of_bytes(file.read(size)) == digest.of_file(place.built)
