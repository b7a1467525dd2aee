"""Machines that do not come up, from a real disk whose boot entry was broken."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import pytest

from pipeline import command
from pipeline.command import Stop
from pipeline.disk import gpt, uki
from pipeline.errors import BootError
from pipeline.providers.base import BootRequest
from pipeline.providers.qemu import QemuBooter
from tests.e2e.harness import Bench, left_behind


def with_other_words(disk: Path, target: Path, entry: str, old: str, new: str) -> Path:
    """A copy of *disk* whose kernel gets other words; no byte is moved, so *new* is not longer."""
    command.run(["cp", "--sparse=always", "--reflink=auto", str(disk), str(target)])
    target.chmod(0o600)
    esp = ["-i", f"{target}@@{gpt.ALIGNMENT}"]
    boot, place = target.with_suffix(".efi"), f"::EFI/Linux/{entry}"
    command.run(["mcopy", "-n", *esp, place, str(boot)])
    image = boot.read_bytes()
    words = uki.read_sections(image)[".cmdline"]
    assert image.count(words) == 1
    changed = words.decode().replace(old, new)
    assert changed != words.decode(), f"{old} is not among {words.decode()}"
    boot.write_bytes(image.replace(words, changed.encode().ljust(len(words))))
    command.run(["mcopy", "-n", "-o", *esp, str(boot), place])
    boot.unlink()
    return target


@pytest.fixture
def entry(bench: Bench, built_disk: Path) -> str:
    return f"{bench.release('edge-base').name}+{gpt.TRIES}.efi"


@pytest.fixture
def folder(scratch: Path, tmp_path: Path) -> Path:
    place = scratch / tmp_path.name
    place.mkdir()
    return place


def failed_boot(disk: Path, folder: Path, deadline: float) -> tuple[BootError, float]:
    """Boot, and wait for the error; return it and the seconds until it was raised."""
    request = BootRequest(
        disk=disk,
        name="bad",
        workdir=folder / "machine",
        console=folder / "console.log",
        log=io.StringIO(),
        stop=Stop(),
    )
    machine = QemuBooter().boot(request)
    begin = time.monotonic()
    try:
        with pytest.raises(BootError) as caught:
            machine.wait_ready(deadline)
        seconds = time.monotonic() - begin
    finally:
        machine.close()
    assert left_behind(folder) == []
    assert [path.name for path in folder.iterdir() if path != disk] == ["console.log"]
    assert str(request.console) in caught.value.hint
    shutil.rmtree(folder)
    return caught.value, seconds


def test_a_kernel_that_panics_is_named_long_before_the_deadline(
    bench: Bench, built_disk: Path, entry: str, folder: Path
) -> None:
    # The initrd's first program is not there, nor is there another root to mount.
    old, new = f"roothash={bench.release('edge-base').root_hash}", "rdinit=/nonexistent"
    disk = with_other_words(built_disk, folder / "disk.raw", entry, old, new)
    error, seconds = failed_boot(disk, folder, deadline=600)
    assert seconds < 200
    assert "the kernel panicked: VFS: Unable to mount root fs" in error.message
    assert "Call Trace" in error.message, "the console's last lines"


def test_a_machine_that_never_answers_is_given_up_at_the_deadline(
    bench: Bench, built_disk: Path, entry: str, folder: Path
) -> None:
    # A root that is on no disk: the initrd waits for it.
    old = bench.release("edge-base").root_hash
    disk = with_other_words(built_disk, folder / "disk.raw", entry, old, old[::-1])
    error, seconds = failed_boot(disk, folder, deadline=20)
    assert seconds < 40
    assert "it was not reachable by ssh within 20 s: nothing answered" in error.message
    assert "The last of its console:\n    " in error.message
