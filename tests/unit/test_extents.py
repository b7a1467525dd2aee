"""What a disk is made of: whatever it holds, the runs give it back byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import digest
from pipeline.command import Stop
from pipeline.disk.extents import Run, find_runs
from pipeline.errors import Interrupted

MIB = 1 << 20
ROOT = bytes(1024) + b"root " * 20_000  # an EROFS begins with zeros
UKI = b"MZ" + b"uki " * 5_000


def write(path: Path, size: int, pieces: dict[int, bytes], *, sparse: bool = True) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        if not sparse:
            file.write(bytes(size))
        for at, data in pieces.items():
            file.seek(at)
            file.write(data)
    return path


def parts(folder: Path, **contents: bytes) -> dict[str, Path]:
    for role, content in contents.items():
        (folder / role).write_bytes(content)
    return {role: folder / role for role in contents}


def put_together(disk: Path, files: dict[str, Path], runs: list[Run]) -> bytes:
    """The disk, made of zeros, the parts, and its own bytes in the runs that are no part."""
    whole = bytearray(disk.stat().st_size)
    own = disk.read_bytes()
    for run in runs:
        data = files[run.part].read_bytes() if run.part else own[run.offset :][: run.size]
        assert len(data) == run.size
        whole[run.offset : run.offset + run.size] = data
    return bytes(whole)


def test_parts_are_found_where_they_lie_and_the_rest_is_small(tmp_path: Path) -> None:
    files = parts(tmp_path, uki=UKI, root=ROOT)
    disk = write(
        tmp_path / "disk",
        40 * MIB,
        {0: b"GPT", 2 * MIB + 512: UKI, 16 * MIB: ROOT, 40 * MIB - 512: b"GPT"},
    )
    runs = find_runs(disk, files)
    assert [(run.offset, run.part) for run in runs if run.part] == [
        (2 * MIB + 512, "uki"),
        (16 * MIB, "root"),
    ]
    assert sum(run.size for run in runs if not run.part) <= 4 * (64 << 10)
    assert digest.of_bytes(put_together(disk, files, runs)) == digest.of_file(disk)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_runs_do_not_depend_on_how_the_disk_is_stored(tmp_path: Path, sparse: bool) -> None:
    files = parts(tmp_path, root=ROOT)
    pieces = {0: b"GPT", 70_000: b"FAT", 9 * MIB: ROOT, 30 * MIB: b"GPT"}
    disk = write(tmp_path / "disk", 31 * MIB, pieces, sparse=sparse)
    assert find_runs(disk, files) == [
        Run(0, 128 << 10),
        Run(9 * MIB, len(ROOT), "root"),
        Run(30 * MIB, 64 << 10),
    ]


def test_a_part_in_two_pieces_is_left_to_the_disk(tmp_path: Path) -> None:
    files = parts(tmp_path, uki=UKI)
    half = len(UKI) // 2
    disk = write(tmp_path / "disk", 8 * MIB, {MIB: UKI[:half], 2 * MIB: UKI[half:]})
    runs = find_runs(disk, files)
    assert not [run for run in runs if run.part]
    assert digest.of_bytes(put_together(disk, files, runs)) == digest.of_file(disk)


def test_the_beginning_of_a_part_is_not_taken_for_the_part(tmp_path: Path) -> None:
    files = parts(tmp_path, root=ROOT)
    disk = write(tmp_path / "disk", 8 * MIB, {MIB: ROOT[:50_000] + b"!", 4 * MIB: ROOT})
    runs = find_runs(disk, files)
    assert [run.offset for run in runs if run.part] == [4 * MIB]
    assert digest.of_bytes(put_together(disk, files, runs)) == digest.of_file(disk)


def test_a_part_that_is_cut_off_at_the_end_is_not_the_part(tmp_path: Path) -> None:
    files = parts(tmp_path, root=ROOT)
    disk = write(tmp_path / "disk", 2 * MIB, {2 * MIB - 50_000: ROOT[:50_000]})
    runs = find_runs(disk, files)
    assert not [run for run in runs if run.part]
    assert digest.of_bytes(put_together(disk, files, runs)) == digest.of_file(disk)


def test_nothing_and_only_zeros_need_no_runs(tmp_path: Path) -> None:
    assert find_runs(write(tmp_path / "empty", 0, {}), {}) == []
    assert find_runs(write(tmp_path / "zeros", MIB, {}, sparse=False), {}) == []


def test_a_stop_ends_it(tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    files = parts(tmp_path, root=ROOT)
    with pytest.raises(Interrupted):
        find_runs(write(tmp_path / "disk", 8 * MIB, {MIB: ROOT}), files, stop)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pieces=st.dictionaries(
        st.integers(0, 300).map(lambda n: n * 512),
        st.sampled_from([ROOT[:9000], UKI[:5000], UKI[:4096], b"x" * 700, bytes(600) + b"y"]),
        max_size=8,
    ),
    size=st.integers(1, 400_000),
    sparse=st.booleans(),
)
def test_whatever_a_disk_holds_it_comes_back(
    tmp_path: Path, pieces: dict[int, bytes], size: int, sparse: bool
) -> None:
    files = parts(tmp_path, uki=UKI[:5000], root=ROOT[:9000])
    disk = write(tmp_path / "disk", size, pieces, sparse=sparse)
    runs = find_runs(disk, files)
    assert digest.of_bytes(put_together(disk, files, runs)) == digest.of_file(disk)
    ends = [run.offset + run.size for run in runs]
    starts = [run.offset for run in runs]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
