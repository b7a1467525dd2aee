"""What is said of a transfer while it goes on, and the packing of single files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import digest
from pipeline.channels.meter import Meter, Progress
from pipeline.channels.packing import Piece, pack
from pipeline.channels.threads import LinkedStop, do_all
from pipeline.command import Stop, run
from pipeline.errors import DiskFullError, Interrupted

MIB = 1 << 20
SILENT = Meter("reading", 0, None)


class Clock:
    """Seconds that go on when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_transfer_is_told_with_its_rate_and_the_time_left() -> None:
    clock, heard = Clock(), list[Progress]()
    meter = Meter("uploading", 100 * MIB, heard.append, clock)
    for _ in range(5):
        clock.now += 1.0
        meter.add(10 * MIB)
    assert heard[-1] == Progress("uploading", 50 * MIB, 100 * MIB, 10.0 * MIB)
    assert str(heard[-1]) == "uploading 50.0 MiB of 100 MiB, 50%, 10.0 MiB/s, 5.0s left"


def test_the_rate_is_that_of_late_and_follows_a_link_that_changes() -> None:
    clock, heard = Clock(), list[Progress]()
    meter = Meter("uploading", 1000 * MIB, heard.append, clock)
    for rate in [50] * 10 + [1] * 20:
        clock.now += 1.0
        meter.add(rate * MIB)
    assert heard[-1].rate == pytest.approx(1.0 * MIB)
    assert heard[-1].left == pytest.approx(480.0)


def test_nothing_is_said_of_a_rate_before_it_means_anything() -> None:
    clock, heard = Clock(), list[Progress]()
    meter = Meter("reading", 10, heard.append, clock)
    clock.now = 0.5
    meter.add(5)
    assert str(heard[-1]) == "reading 5 B of 10 B, 50%"
    assert heard[-1].left is None


def test_it_speaks_a_few_times_a_second_and_at_the_end() -> None:
    clock, heard = Clock(), list[Progress]()
    meter = Meter("reading", 1000, heard.append, clock)
    for _ in range(1000):
        clock.now += 0.001
        meter.add(1)
    assert 4 <= len(heard) <= 6
    assert heard[-1].done == 1000


def test_nothing_to_do_is_all_done() -> None:
    assert str(Progress("uploading", 0, 0)) == "uploading 0 B of 0 B, 100%"


def test_what_does_not_get_smaller_is_soon_no_longer_tried(tmp_path: Path) -> None:
    """What would compress comes too late, and the file goes as it is: that is always right."""
    path = tmp_path / "uki"
    path.write_bytes(os.urandom(17 * MIB) + bytes(40 * MIB))
    piece = Piece(path, 0, path.stat().st_size, digest.of_file(path))
    packed = pack(piece, tmp_path / "draft", SILENT, Stop())
    assert packed.source == path
    assert (packed.stored.encoding, packed.stored.digest) == ("plain", piece.digest)
    assert not (tmp_path / "draft").exists()


def test_some_bytes_of_a_file_that_do_not_get_smaller_become_a_file(tmp_path: Path) -> None:
    data = os.urandom(3000)
    (tmp_path / "disk").write_bytes(bytes(500) + data + bytes(500))
    packed = pack(Piece(tmp_path / "disk", 500, 3000), tmp_path / "draft", SILENT, Stop())
    assert packed.source.read_bytes() == data
    assert packed.stored.digest == digest.of_bytes(data)


def test_a_large_file_is_a_row_of_frames_that_any_zstd_reads(tmp_path: Path) -> None:
    path = tmp_path / "root"
    path.write_bytes(b"".join(b"line %d of a log\n" % n for n in range(1_200_000)))
    packed = pack(Piece(path, 0, path.stat().st_size), tmp_path / "draft", SILENT, Stop())
    assert packed.stored.size == packed.source.stat().st_size
    assert packed.stored.digest == digest.of_file(packed.source)
    unpacked = run(["zstd", "-dc", str(packed.source)]).stdout
    assert digest.of_bytes(unpacked.encode()) == digest.of_file(path)


def test_no_room_to_compress_into_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"a" * 5 * MIB)
    (tmp_path / "draft").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="draft"):
        pack(Piece(tmp_path / "root", 0, 5 * MIB), tmp_path / "draft", SILENT, Stop())


def test_a_stop_of_our_own_is_not_heard_outside_but_one_from_there_is() -> None:
    outer = Stop()
    ours = LinkedStop(outer)
    ours.set()
    assert ours.is_set()
    assert not outer.is_set()
    other = LinkedStop(outer)
    assert not other.wait(0.01)
    outer.set()
    assert other.wait(60)
    with pytest.raises(Interrupted):
        other.check()


def test_things_are_done_in_order_and_all_end_before_a_failure_is_told() -> None:
    stop = LinkedStop(None)
    assert do_all(lambda n: n * n, [3, 1, 2], 2, stop) == [9, 1, 4]
    assert do_all(lambda n: n, list[int](), 2, stop) == []
    ended = []

    def work(number: int) -> None:
        if number == 1:
            raise OSError("broken")
        assert stop.wait(60)
        ended.append(number)

    with pytest.raises(OSError, match="broken"):
        do_all(work, [0, 1, 2, 3], 2, stop)
    assert ended[0] == 0
    assert stop.is_set()
