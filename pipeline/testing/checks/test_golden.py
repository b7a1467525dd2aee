"""What holds for every golden image."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from pipeline.models.image import ImageDefinition
    from pipeline.models.release import Release
    from pipeline.testing.plugin import TestMachine

ROOT_DEVICE = "/dev/mapper/root"
MARK = "recast-test-mark"


@pytest.fixture(scope="session")
def noted() -> dict[str, str]:
    """What was seen before the reboot."""
    return {}


@pytest.fixture(scope="module")
def baked(host: Host) -> Iterator[str]:
    """A folder with the root as it was built, without what this boot has put over it."""
    folder = "/run/recast-test-root"
    host.run_expect([0], f"mkdir -p {folder} && mount -o ro {ROOT_DEVICE} {folder}")
    yield folder
    host.run(f"mountpoint -q {folder} && umount {folder} && rmdir {folder}")  # or a reboot did


def boot_arguments(host: Host) -> dict[str, str]:
    words = host.check_output("cat /proc/cmdline").split()
    return {name: value for name, _, value in (word.partition("=") for word in words)}


# --- it is up, and in time ---------------------------------------------------------------------


def test_healthy_in_time(machine: TestMachine, definition: ImageDefinition, host: Host) -> None:
    why = host.run("systemctl --no-pager status boot-complete.target recast-health.service").stdout
    assert machine.boot_seconds is not None, f"boot-complete.target was not reached:\n{why}"
    assert machine.boot_seconds <= definition.tests.boot_deadline


def test_no_unit_failed(host: Host) -> None:
    failed = host.check_output("systemctl list-units --failed --plain --no-legend").splitlines()
    units = [line.split()[0] for line in failed]
    logs = "\n".join(
        host.run("systemctl --no-pager --lines=5 status %s", unit).stdout for unit in units
    )
    assert not units, logs


# --- it is the release, and cannot be changed --------------------------------------------------


def test_the_release_is_running(host: Host, release: Release) -> None:
    arguments = boot_arguments(host)
    assert arguments.get("recast.release") == release.name
    assert arguments.get("roothash") == release.root_hash


def test_root_is_backed_by_verity(host: Host, release: Release) -> None:
    device = host.check_output(f"basename $(readlink -f {ROOT_DEVICE})")
    folder = f"/sys/block/{device}"
    assert host.check_output(f"cat {folder}/dm/uuid").startswith("CRYPT-VERITY-")
    slaves = set(host.check_output(f"ls {folder}/slaves").split())
    # The partitions' own names come from the root hash that was built (Discoverable Partitions
    # Specification), so these are the release's root and its hash tree, and no other ones.
    halves = (release.root_hash[:32], release.root_hash[32:])
    links = " ".join(f"/dev/disk/by-partuuid/{uuid.UUID(half)}" for half in halves)
    expected = host.check_output(f"for link in {links}; do basename $(readlink -f $link); done")
    assert slaves == set(expected.split())


def test_root_is_read_only(host: Host) -> None:
    device = host.check_output(f"basename $(readlink -f {ROOT_DEVICE})")
    assert host.check_output(f"cat /sys/block/{device}/ro") == "1"
    root = [line.split() for line in host.check_output("cat /proc/mounts").splitlines()]
    kind, options = next((fs[2], fs[3].split(",")) for fs in reversed(root) if fs[1] == "/")
    # Either nothing can be written, or it goes to memory: an overlay whose upper layer is tmpfs.
    if kind == "overlay":
        upper = next(each.removeprefix("upperdir=") for each in options if "upperdir=" in each)
        assert upper.startswith("/run/"), upper
    else:
        assert "ro" in options


# --- nothing is baked in that must be each machine's own ---------------------------------------


def test_no_host_key_is_baked_in(host: Host, baked: str) -> None:
    assert (
        host.check_output(
            f"find {baked}/etc/ssh {baked}/root -name '*_key' -o -name 'id_*' 2>/dev/null || true"
        )
        == ""
    )


def test_no_machine_id_is_baked_in(host: Host, baked: str) -> None:
    text = host.check_output(f"cat {baked}/etc/machine-id 2>/dev/null || true")
    assert text in ("", "uninitialized")
    dbus = host.check_output(
        f"test -L {baked}/var/lib/dbus/machine-id || cat {baked}/var/lib/dbus/machine-id "
        "2>/dev/null || true"
    )
    assert dbus == ""


def test_no_way_in_is_baked_in(host: Host, baked: str) -> None:
    keys = host.check_output(
        f"find {baked}/root {baked}/home -name authorized_keys -size +0 2>/dev/null || true"
    )
    assert keys == ""
    accounts = host.check_output(f"cut -d: -f1,2 {baked}/etc/shadow").splitlines()
    assert [line for line in accounts if line.endswith(":")] == [], "accounts without a password"


def test_no_random_seed_is_baked_in(host: Host, baked: str) -> None:
    assert not host.file(f"{baked}/var/lib/systemd/random-seed").exists


# --- what must last does, and what must vanish does --------------------------------------------
# Tests that ask for `rebooted` run after all others, and share one reboot.


def test_a_persistent_path_can_be_written(host: Host, persistent_path: str) -> None:
    host.run_expect([0], f"echo kept > {persistent_path}/{MARK} && sync {persistent_path}")


def test_etc_can_be_edited_until_the_next_boot(
    host: Host, machine: TestMachine, noted: dict[str, str]
) -> None:
    host.run_expect([0], f"echo edited > /etc/{MARK} && sync")
    assert host.file(f"/etc/{MARK}").exists
    noted["host keys"] = " ".join(sorted(machine.host_keys))


def test_a_persistent_path_survives_a_reboot(
    host: Host, rebooted: TestMachine, persistent_path: str
) -> None:
    mark = f"{persistent_path}/{MARK}"
    assert host.check_output(f"cat {mark}") == "kept"
    host.run_expect([0], f"rm {mark}")


def test_an_edit_of_etc_vanishes_at_a_reboot(host: Host, rebooted: TestMachine) -> None:
    assert not host.file(f"/etc/{MARK}").exists


def test_the_host_key_stays_the_same(rebooted: TestMachine, noted: dict[str, str]) -> None:
    assert " ".join(sorted(rebooted.host_keys)) == noted["host keys"]


def test_the_release_runs_again_after_a_reboot(
    host: Host, rebooted: TestMachine, release: Release
) -> None:
    assert boot_arguments(host).get("roothash") == release.root_hash
    assert host.check_output("systemctl is-active boot-complete.target") == "active"
