"""Making a machine out of an empty disk: what is refused, and what a cut leaves behind."""

from __future__ import annotations

import argparse
import contextlib
import random
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pipeline import digest
from pipeline.agent import install, target
from pipeline.agent.target import open_target, require_free_disk
from pipeline.agent.writing import HEAD, Headless, write_disk
from pipeline.errors import (
    BusyError,
    DigestError,
    HostError,
    Interrupted,
    RecastError,
    RefusedError,
    UsageError,
)
from pipeline.models.pointer import (
    Extent,
    Pointer,
    PublishedPart,
    PublishedRelease,
    Revocation,
    StoredObject,
)
from pipeline.store.base import object_key
from pipeline.transfer.source import StoreSource
from tests.fakes.published import T0, pointer, published
from tests.fakes.store import MemoryStore

MIB = 1 << 20


class PowerCut(Exception):
    """No program sees this one."""


class FrailDisk:
    """A disk in memory that loses power at its *cut*th write, or never.

    What was not synced by then is there, or not, or half, by chance.
    """

    def __init__(self, content: bytes, cut: int | None = None, seed: int = 0) -> None:
        self.safe = bytearray(content)
        self.seen = bytearray(content)
        self.writes = 0
        self._cut = cut
        self._chance = random.Random(seed)
        self._pending: list[tuple[int, bytes]] = []

    name = "/dev/frail"

    @property
    def size(self) -> int:
        return len(self.seen)

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= self.size
        return bytes(self.seen[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset <= offset + len(data) <= self.size
        self.writes += 1
        self._pending.append((offset, data))
        if self.writes == self._cut:
            for at, each in self._chance.sample(self._pending, len(self._pending)):
                kept = self._chance.choice((0, len(each), len(each) // 1024 * 512))
                self.safe[at : at + kept] = each[:kept]
            raise PowerCut
        self.seen[offset : offset + len(data)] = data

    def sync(self) -> None:
        for at, each in self._pending:
            self.safe[at : at + len(each)] = each
        self._pending.clear()

    def forget(self, offset: int, size: int) -> None:
        pass

    def locked(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class Made:
    """A release whose disk is 3 MiB: tables at both ends, a root, something of its own, gaps."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        chance = random.Random("disk")
        root, own = chance.randbytes(300_000), chance.randbytes(70_000)
        head, tail = b"GPT" * 5000, b"TPG" * 5000
        places = {HEAD + 4096: root, 2 * MIB: own, 0: head, 3 * MIB - len(tail): tail}
        image = bytearray(3 * MIB)
        for at, data in places.items():
            image[at : at + len(data)] = data
        self.image = bytes(image)
        held = self._stored(root)
        part = PublishedPart(file="root", digest=digest.of_bytes(root), size=len(root), stored=held)
        extents = [
            Extent(offset=at, size=len(data), part="root")
            if data is root
            else Extent(offset=at, size=len(data), stored=self._stored(data))
            for at, data in sorted(places.items())
        ]
        disk = PublishedPart(
            file="disk",
            digest=digest.of_bytes(self.image),
            size=len(image),
            extents=tuple(extents),
        )
        self.release = published(1).model_copy(update={"parts": {"root": part, "disk": disk}})

    def _stored(self, data: bytes) -> StoredObject:
        found = StoredObject(digest=digest.of_bytes(data), size=len(data))
        self.store.put(object_key(found.digest), data, sha256=found.digest)
        return found

    def with_disk(self, **changes: object) -> PublishedRelease:
        disk = self.release.parts["disk"].model_copy(update=changes)
        return self.release.model_copy(update={"parts": {**self.release.parts, "disk": disk}})

    @property
    def source(self) -> StoreSource:
        return StoreSource(self.store)


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


def used(size: int) -> bytes:
    """What another system left on a disk."""
    return random.Random("used").randbytes(size)


class TestWriting:
    @pytest.mark.parametrize("more", [0, 100_000, 5 * MIB])
    def test_a_used_disk_becomes_the_image_and_keeps_no_old_table(
        self, made: Made, more: int
    ) -> None:
        disk = FrailDisk(used(3 * MIB + more))
        filled = write_disk(made.release, disk, made.source)
        assert disk.seen[: 3 * MIB] == made.image
        end = max(3 * MIB, disk.size - MIB)
        assert not any(disk.seen[end:]), "an old backup table would be found there"
        assert disk.seen == disk.safe
        assert filled.downloaded == 300_000 + 70_000 + 30_000

    def test_whatever_is_cut_nothing_boots_that_is_not_whole_and_a_second_run_ends_it(
        self, made: Made
    ) -> None:
        whole = FrailDisk(used(4 * MIB))
        write_disk(made.release, whole, made.source)
        assert whole.writes > 10
        for cut in range(1, whole.writes + 1):
            for seed in range(3):
                disk = FrailDisk(used(4 * MIB), cut, seed)
                with pytest.raises(PowerCut):
                    write_disk(made.release, disk, made.source)
                if cut > 2:  # from the moment that both ends are clear
                    boots = any(disk.safe[:HEAD])
                    assert not boots or disk.safe[HEAD : 3 * MIB] == made.image[HEAD:]
                again = FrailDisk(bytes(disk.safe))
                write_disk(made.release, again, made.source)
                assert again.safe[: 3 * MIB] == made.image

    def test_what_is_there_already_is_neither_fetched_nor_written_again(self, made: Made) -> None:
        disk = FrailDisk(made.image)
        filled = write_disk(made.release, disk, made.source)
        assert filled.downloaded == 70_000 + 30_000, "the root was there"
        assert disk.safe == made.image

    def test_a_wrong_digest_leaves_a_disk_that_nothing_boots(self, made: Made) -> None:
        disk = FrailDisk(used(3 * MIB))
        with pytest.raises(DigestError, match=r"is not the disk of .* that was signed"):
            write_disk(made.with_disk(digest="0" * 64), disk, made.source)
        assert not any(disk.safe[:HEAD])

    def test_a_medium_that_forgets_is_found_out(self, made: Made) -> None:
        class Forgetful(FrailDisk):
            def forget(self, offset: int, size: int) -> None:
                if offset <= 2 * MIB < offset + size:
                    self.seen[2 * MIB + 9] ^= 1

        disk = Forgetful(used(3 * MIB))
        with pytest.raises(DigestError, match=r"the medium does not keep|that was signed"):
            write_disk(made.release, disk, made.source)
        assert not any(disk.safe[:HEAD])

    def test_a_damaged_object_is_refused(self) -> None:
        made = Made()
        own = made.release.parts["disk"].objects[1]
        wrong = b"x" * own.size
        made.store.put(object_key(own.digest), wrong, sha256=digest.of_bytes(wrong))
        disk = FrailDisk(used(3 * MIB))
        with pytest.raises(DigestError, match="damaged"):
            write_disk(made.release, disk, made.source)
        assert not any(disk.safe[:HEAD])

    @pytest.mark.parametrize(
        "extents",
        [
            (Extent(offset=0, size=9, part="kernel"),),
            (Extent(offset=0, size=9, part="root"),),
            (Extent(offset=3 * MIB - 1, size=2, stored=StoredObject(digest="0" * 64, size=2)),),
            (Extent(offset=5, size=4),),
            (
                Extent(offset=5, size=4, stored=StoredObject(digest="0" * 64, size=4)),
                Extent(offset=8, size=4, stored=StoredObject(digest="0" * 64, size=4)),
            ),
        ],
    )
    def test_a_description_that_cannot_be_is_refused_before_a_byte_is_written(
        self, made: Made, extents: tuple[Extent, ...]
    ) -> None:
        disk = FrailDisk(used(3 * MIB))
        with pytest.raises(DigestError, match="does not say rightly what is at byte"):
            write_disk(made.with_disk(extents=extents), disk, made.source)
        assert disk.writes == 0

    def test_a_release_without_a_disk_cannot_make_a_machine(self, made: Made) -> None:
        parts = {"root": made.release.parts["root"]}
        release = made.release.model_copy(update={"parts": parts})
        with pytest.raises(HostError, match="without a disk"):
            write_disk(release, FrailDisk(used(3 * MIB)), made.source)

    def test_a_stop_leaves_what_a_second_run_goes_on_with(self, made: Made) -> None:
        from pipeline.command import Stop

        stop = Stop()
        disk = FrailDisk(used(3 * MIB))

        def heard(step: str, done: int, total: int) -> None:
            assert 0 < done <= total == 3 * MIB
            if done > 2 * MIB:
                stop.set()

        with pytest.raises(Interrupted):
            write_disk(made.release, disk, made.source, progress=heard, stop=stop)
        assert not any(disk.seen[:HEAD])
        assert write_disk(made.release, disk, made.source).downloaded == 100_000

    def test_what_lies_across_the_edge_of_the_head_is_one(self) -> None:
        disk = FrailDisk(bytes(2 * MIB))
        headless = Headless(disk, 2 * MIB)
        headless.write(HEAD - 3, b"abcdef")
        assert headless.read(HEAD - 4, 8) == b"\0abcdef\0"
        assert disk.read(HEAD - 3, 6) == b"\0\0\0def"


class TestTarget:
    def opened(self, path: Path, needed: int = MIB, *, overwrite: bool = False) -> None:
        with open_target(path, needed, overwrite=overwrite):
            pass

    def test_an_empty_file_is_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(bytes(2 * MIB))
        self.opened(path)

    @pytest.mark.parametrize("place", [0, 1080, 3 * MIB - 512])
    def test_what_is_on_it_is_lost_only_on_request(self, tmp_path: Path, place: int) -> None:
        path = tmp_path / "disk"
        content = bytearray(3 * MIB)
        content[place] = 1
        path.write_bytes(content)
        with pytest.raises(RefusedError, match="is not empty: it holds something") as caught:
            self.opened(path)
        assert "--yes" in caught.value.hint
        self.opened(path, overwrite=True)
        assert path.read_bytes() == content

    def test_what_is_no_disk_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="there is no disk"):
            self.opened(tmp_path / "sdz")
        with pytest.raises(UsageError, match="neither a disk nor a file"):
            self.opened(tmp_path)
        with pytest.raises(UsageError, match="neither a disk nor a file"):
            self.opened(Path("/dev/null"))

    def test_a_disk_that_is_too_small_is_told_with_sizes(self, tmp_path: Path) -> None:
        (tmp_path / "disk").write_bytes(bytes(MIB))
        with pytest.raises(HostError, match=r"has 1.0 MiB, and the image has 2.0 MiB"):
            self.opened(tmp_path / "disk", 2 * MIB)

    def test_two_installations_keep_out_of_each_others_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(target, "_PATIENCE", 0.2)
        path = tmp_path / "disk"
        path.write_bytes(bytes(MIB))
        with open_target(path, MIB, overwrite=True), pytest.raises(BusyError, match="in use"):
            self.opened(path)


class TestBlockDevice:
    """What the kernel tells of a disk, as ``/sys`` and ``/proc`` have it."""

    @pytest.fixture
    def kernel(self, tmp_path: Path) -> Path:
        disk = tmp_path / "sys/block/sda"
        for name, number in (("", "8:0"), ("sda1", "8:1"), ("sda2", "8:2")):
            folder = disk / name
            (folder / "holders").mkdir(parents=True)
            (folder / "dev").write_text(number + "\n")
            (folder / "ro").write_text("0\n")
            if name:
                (folder / "partition").write_text(number[-1] + "\n")
        proc = tmp_path / "proc"
        (proc / "self").mkdir(parents=True)
        (proc / "self/mountinfo").write_text("22 1 0:5 / /dev rw - devtmpfs none rw\n")
        (proc / "swaps").write_text("Filename Type Size Used Priority\n")
        return disk

    def check(self, kernel: Path, tmp_path: Path) -> None:
        require_free_disk(Path("/dev/sda"), "8:0", kernel, tmp_path / "proc")

    def test_a_free_disk_passes(self, kernel: Path, tmp_path: Path) -> None:
        self.check(kernel, tmp_path)

    def test_a_partition_is_no_disk(self, kernel: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is a partition") as caught:
            require_free_disk(Path("/dev/sda1"), "8:1", kernel / "sda1", tmp_path / "proc")
        assert "/dev/sda." in caught.value.hint

    def test_a_mounted_partition_is_named_with_its_place(
        self, kernel: Path, tmp_path: Path
    ) -> None:
        line = "30 1 8:2 / /mnt/keep rw - ext4 /dev/sda2 rw\n"
        (tmp_path / "proc/self/mountinfo").write_text(line)
        with pytest.raises(BusyError, match="sda2 is mounted at /mnt/keep"):
            self.check(kernel, tmp_path)

    def test_swap_and_what_is_built_upon_it_are_named(self, kernel: Path, tmp_path: Path) -> None:
        holder = kernel / "sda2/holders/dm-0/dm"
        holder.mkdir(parents=True)
        (holder / "name").write_text("vg0-home\n")
        with pytest.raises(BusyError, match="sda2 is used by vg0-home"):
            self.check(kernel, tmp_path)
        with (tmp_path / "proc/swaps").open("a") as file:
            file.write("/dev/sda1 partition 1 0 -2\n")
        with pytest.raises(BusyError, match="sda1 is used for swap"):
            self.check(kernel, tmp_path)

    def test_a_disk_behind_a_switch_is_told(self, kernel: Path, tmp_path: Path) -> None:
        (kernel / "ro").write_text("1\n")
        with pytest.raises(HostError, match="read-only"):
            self.check(kernel, tmp_path)


class TestChoice:
    old, new = published(1), published(2)

    def held(self, state: str = "rolling", **changes: object) -> Pointer:
        found = pointer("stable", self.new, previous=self.old)
        assert found.rollout is not None
        rollout = found.rollout.model_copy(update={"state": state})
        return found.model_copy(update={"rollout": rollout, **changes})

    def revoked(self, *releases: PublishedRelease) -> tuple[Revocation, ...]:
        return tuple(
            Revocation(version=r.version, root_hash=r.root_hash, reason="it burns", when=T0)
            for r in releases
        )

    def test_a_new_machine_gets_what_the_channel_says(self) -> None:
        assert install.choose(self.held()) == self.new

    @pytest.mark.parametrize("state", ["held", "halted"])
    def test_what_does_not_spread_does_not_reach_new_machines_either(self, state: str) -> None:
        assert install.choose(self.held(state)) == self.old
        assert install.choose(self.held(state, previous=None)) == self.new
        assert install.choose(self.held(state), self.new.version) == self.new

    def test_what_is_revoked_is_never_installed(self) -> None:
        assert install.choose(self.held(revoked=self.revoked(self.new))) == self.old
        both = self.held(revoked=self.revoked(self.new, self.old))
        with pytest.raises(RefusedError, match="is revoked: it burns"):
            install.choose(both)
        with pytest.raises(RefusedError, match="is revoked: it burns"):
            install.choose(self.held(revoked=self.revoked(self.new)), self.new.version)

    def test_a_version_that_the_channel_does_not_hold_is_named_with_those_that_it_does(
        self,
    ) -> None:
        assert install.choose(self.held(), self.old.version) == self.old
        with pytest.raises(UsageError, match="does not hold edge-web 7 now") as caught:
            install.choose(self.held(), "7")
        assert self.new.version in caught.value.hint

    def test_an_empty_channel_is_told(self) -> None:
        with pytest.raises(RefusedError, match="holds no release"):
            install.choose(pointer("stable", None))


class TestCommand:
    def arguments(self, **changes: object) -> argparse.Namespace:
        usual = {
            "device": "/dev/null", "store": "https://store.example", "channel": "stable",
            "image": "edge-web", "root_of_trust": None, "version": None, "yes": False,
            "json": False,
        }  # fmt: skip
        return argparse.Namespace(**{**usual, **changes})

    def test_what_is_missing_is_named_with_both_ways_to_give_it(self) -> None:
        with pytest.raises(UsageError) as caught:
            install.run(self.arguments(store=None, image=None))
        assert "--store (or the credential recast.store)" in caught.value.message
        assert "--image (or the credential recast.image)" in caught.value.message

    def test_a_word_that_is_none_is_named(self) -> None:
        with pytest.raises(UsageError, match=r"--store.*expected a URL"):
            install.run(self.arguments(store="ftp://store.example"))

    def test_nothing_is_trusted_without_a_root_of_trust(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no root of trust"):
            install.run(self.arguments())
        with pytest.raises(UsageError, match="cannot be read"):
            install.run(self.arguments(root_of_trust=tmp_path / "none"))
        (tmp_path / "large").write_bytes(bytes(70_000))
        with pytest.raises(RecastError, match="no root of trust"):
            install.run(self.arguments(root_of_trust=tmp_path / "large"))
