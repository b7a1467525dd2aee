"""What a machine tells of changes that are gone at its next boot: all of them, and no others."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.agent import drift as drifting
from pipeline.agent.drift import IGNORED, MOST, Drift, drift, find_drift

Change = Callable[[Path], object]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    for name in ("etc/ssh", "usr/bin", "var/log", "var/lib/app", "run", "opt"):
        (root / name).mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/motd").write_text("Welcome\n")
    (root / "etc/machine-id").write_text("")
    (root / "usr/bin/tool").write_text("#!/bin/sh\n")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "usr/bin/alias").symlink_to("tool")
    return root


@pytest.fixture
def root(image: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image, tmp_path / "root", symlinks=True))


def test_a_machine_that_nobody_touched_has_no_drift(root: Path, image: Path) -> None:
    assert drift(root, image, ()) == Drift()


def replace_link(root: Path) -> None:
    (root / "usr/bin/alias").unlink()
    (root / "usr/bin/alias").symlink_to("other")


def file_for_link(root: Path) -> None:
    (root / "usr/bin/alias").unlink()
    (root / "usr/bin/alias").write_text("#!/bin/sh\n")


def same_size_and_time(root: Path) -> None:
    path = root / "etc/hosts"
    before = path.stat()
    path.write_text("127.0.0.1 localhosT\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, tuple[Change, Drift]] = {
    "content": (
        lambda root: (root / "etc/hosts").write_text("10.0.0.1 gate\n"),
        Drift(changed=("/etc/hosts",)),
    ),
    "content of one length, its time set back": (
        same_size_and_time,
        Drift(changed=("/etc/hosts",)),
    ),
    "mode": (lambda root: (root / "etc/motd").chmod(0o600), Drift(changed=("/etc/motd",))),
    "a folder's mode": (lambda root: (root / "opt").chmod(0o700), Drift(changed=("/opt",))),
    "a link's target": (replace_link, Drift(changed=("/usr/bin/alias",))),
    "a file for a link": (file_for_link, Drift(changed=("/usr/bin/alias",))),
    "a new file": (lambda root: (root / "etc/new").write_text("x"), Drift(added=("/etc/new",))),
    "a new folder, told once": (
        lambda root: shutil.copytree(root / "usr", root / "opt/usr", symlinks=True),
        Drift(added=("/opt/usr",)),
    ),
    "a file that is gone": (
        lambda root: (root / "etc/motd").unlink(),
        Drift(removed=("/etc/motd",)),
    ),
    "a folder that is gone, told once": (
        lambda root: shutil.rmtree(root / "usr"),
        Drift(removed=("/usr",)),
    ),
    "a file that was only touched": (lambda root: os.utime(root / "etc/motd", (1, 1)), Drift()),
    "a name that is not text": (
        lambda root: (root / os.fsdecode(b"etc/\xff")).write_text("x"),
        Drift(added=("/etc/\N{REPLACEMENT CHARACTER}",)),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_local_change_is_told(name: str, root: Path, image: Path) -> None:
    change, expected = CHANGES[name]
    change(root)
    found = drift(root, image, ())
    assert found == expected
    assert Drift.model_validate_json(found.model_dump_json()) == found


def test_what_the_system_itself_makes_is_no_drift(root: Path, image: Path) -> None:
    for name in (
        "etc/machine-id",
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_ed25519_key.pub",
        "etc/resolv.conf",
        "var/log/syslog",
        "run/lock",
        "usr/bin/__pycache__",
    ):
        (root / name).write_text("made at this boot")
    assert drift(root, image, IGNORED) == Drift()
    (root / "etc/ssh/sshd_config").write_text("PermitRootLogin yes")
    assert drift(root, image, IGNORED) == Drift(added=("/etc/ssh/sshd_config",))


def test_mounts_and_persistent_paths_are_left_out(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 0:20 / / rw - overlay overlay rw\n"
        "30 22 8:3 /persist/a /var/lib/app rw - ext4 /dev/vda6 rw\n"
        r"31 22 8:3 / /mnt/my\040disk*1 rw - ext4 /dev/vdb rw" + "\n"
    )
    found = drifting._mounts(table, "/")
    assert found == ["/var/lib/app", "/mnt/my disk[*]1"]
    kept = tmp_path / "persist"
    kept.write_text("/var/lib/app\n\n/srv\n")
    assert drifting._persistent(kept) == ["/var/lib/app", "/srv"]
    assert drifting._persistent(tmp_path / "none") == []


def test_a_thousand_changes_are_counted_and_not_all_listed(root: Path, image: Path) -> None:
    for number in range(MOST + 50):
        (root / f"opt/{number:04}").write_text("x")
    found = drift(root, image, ())
    assert len(found.added) == MOST
    assert found.more == 50
    assert found.complete


def test_it_ends_when_its_time_is_over_and_says_so(root: Path, image: Path) -> None:
    assert not drift(root, image, (), seconds=-1).complete


def test_without_an_image_to_compare_with_it_says_so(tmp_path: Path) -> None:
    found = find_drift(tmp_path / "root-device", tmp_path)
    assert found.trouble
    assert not found.added


def can_mount(device: Path, folder: Path) -> bool:
    argv = ["unshare", "--mount", "mount", "-t", "erofs", "-o", "ro,loop"]
    try:
        return subprocess.run([*argv, device, folder], capture_output=True).returncode == 0
    except OSError:
        return False


def test_a_real_image_is_mounted_for_the_moment_and_leaves_nothing(
    root: Path, image: Path, tmp_path: Path
) -> None:
    device, probe = tmp_path / "root.erofs", tmp_path / "probe"
    probe.mkdir()
    made = shutil.which("mkfs.erofs") and subprocess.run(
        ["mkfs.erofs", "-T", "1577836800", device, image], capture_output=True
    )
    if not made or made.returncode or os.geteuid() or not can_mount(device, probe):
        pytest.skip("no EROFS image can be mounted here")
    (root / "etc/hosts").write_text("10.0.0.1 gate\n")
    (root / "etc/new").write_text("x")
    before = Path("/proc/self/mountinfo").read_text(), set(os.listdir("/run"))
    found = find_drift(device, root)
    assert found == Drift(changed=("/etc/hosts",), added=("/etc/new",))
    assert (Path("/proc/self/mountinfo").read_text(), set(os.listdir("/run"))) == before


def test_a_device_that_is_no_image_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    device = tmp_path / "root.erofs"
    device.write_bytes(bytes(1 << 16))
    before = Path("/proc/self/mountinfo").read_text()
    assert find_drift(device, tmp_path).trouble
    assert Path("/proc/self/mountinfo").read_text() == before
