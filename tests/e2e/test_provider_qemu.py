"""The contract of a provider, held by QEMU with a real image; and a power cut at the worst time."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import console, ssh
from pipeline.errors import BootError
from pipeline.providers.base import Booter, BootRequest, Machine
from pipeline.providers.qemu import QemuBooter
from pipeline.testing import guest
from tests.contract.test_provider import MakeRequest, ProviderContract

DEADLINE = 600.0
SETTLED = "/data/persist/var/log/journal"


def cut_during_first_boot(booter: Booter, request: BootRequest) -> Machine:
    """Switch on, cut the power while the data partition is being made, and switch on again.

    The instant is one of chance between the start of systemd-repart and a few seconds after it.
    """
    seed = random.randrange(1 << 30)
    machine = booter.boot(request)
    try:
        end = time.monotonic() + DEADLINE
        while "repart" not in machine.console():
            fault = machine.fault()
            if fault or time.monotonic() > end:
                raise BootError(f"repartitioning never began: {fault}\n{machine.console()[-3000:]}")
            time.sleep(0.05)
        delay = random.Random(seed).uniform(0, 5)
        time.sleep(delay)
        last = console.tail(machine.console(), 1)
        print(f"seed {seed}: power cut {delay:.2f} s after repartitioning began, at {last}")
        machine.reboot_hard()
    except BaseException:
        machine.close()
        raise
    return machine


def look(machine: Machine) -> dict[str, str]:
    """What a machine says of its disk and its boot."""
    questions = {
        "data": "findmnt --noheadings --output FSTYPE,SOURCE /data",
        "places": f"ls -d {SETTLED} && echo kept > {SETTLED}/.e2e && sync {SETTLED}/.e2e",
        "labels": "lsblk --noheadings --raw --output PARTLABEL /dev/vda",
        "failed": "systemctl list-units --failed --plain --no-legend",
        "entries": "mkdir -p /run/e2e && mount /dev/disk/by-partlabel/esp /run/e2e "
        "&& ls /run/e2e/EFI/Linux && umount /run/e2e",
    }
    target = machine.ssh_config()
    return {
        name: ssh.run(target, ["sh", "-c", words], timeout=120) for name, words in questions.items()
    }


class TestQemu(ProviderContract):
    """Its machine is one whose first boot was cut short: it has to be as good as any other."""

    deadline = DEADLINE

    @pytest.fixture(scope="class")
    @classmethod
    def booter(cls) -> Booter:
        return QemuBooter()

    @pytest.fixture(scope="class")
    @classmethod
    def disk(cls, built_disk: Path) -> Path:
        return built_disk

    @pytest.fixture(scope="class")
    @classmethod
    def seen(cls) -> dict[str, str]:
        """What the machine said when it had come up."""
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def machine(
        cls, booter: Booter, wanted: BootRequest, untouched: str, seen: dict[str, str]
    ) -> Iterator[Machine]:
        machine = cut_during_first_boot(booter, wanted)
        try:
            machine.wait_ready(DEADLINE)
            healthy = guest.wait_healthy(machine.ssh_config(), DEADLINE, None, machine.fault)
            seen.update(look(machine), healthy=str(healthy))
            yield machine
        finally:
            machine.close()

    def test_a_first_boot_that_was_cut_short_is_made_up_for(self, seen: dict[str, str]) -> None:
        assert seen["healthy"] == "True", seen
        assert seen["failed"] == ""
        kind, device = seen["data"].split()
        assert kind == "ext4"
        assert device.startswith("/dev/vda")
        labels = seen["labels"].split()
        assert labels.count("recast-data") == 1
        assert labels.count("_empty") == 2, "the second slot's root and verity"
        assert seen["places"].strip() == SETTLED

    def test_a_healthy_boot_is_blessed(self, seen: dict[str, str], disk: Path) -> None:
        # The boot counter has left its name: the boot loader counts no more.
        assert seen["entries"].split() == [f"{disk.stem}.efi"]

    @pytest.mark.soak
    @pytest.mark.skipif("RECAST_SOAK" not in os.environ, reason="its machine has shown it once")
    def test_a_first_boot_may_be_cut_short_at_any_instant(
        self, booter: Booter, disk: Path, make_request: MakeRequest
    ) -> None:
        machine = cut_during_first_boot(booter, make_request(disk))
        try:
            machine.wait_ready(DEADLINE)
            assert guest.wait_healthy(machine.ssh_config(), DEADLINE, None, machine.fault)
            assert look(machine)["failed"] == ""
        finally:
            machine.close()
