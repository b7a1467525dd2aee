"""The contract of a provider that boots disks; the fake passes it, and so does each real one.

A provider's own module subclasses :class:`ProviderContract` and gives it ``booter`` and ``disk``
(a disk that boots, with a way in for root); see ``tests/e2e`` for those that need a real image.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import digest, ssh
from pipeline.command import Stop
from pipeline.errors import BootError, HostError, Interrupted
from pipeline.providers.base import Booter, BootRequest, Machine
from pipeline.testing import guest
from tests.fakes.provider import BIN, DIES_AFTER, SLOW, FakeBooter

MakeRequest = Callable[..., BootRequest]

CREDENTIAL = 'any text, with commas = "signs"\nand lines'


class ProviderContract:
    """What whoever boots a disk relies on."""

    deadline = 300.0

    @pytest.fixture(scope="class")
    @classmethod
    def booter(cls) -> Booter:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def disk(cls) -> Path:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def make_request(cls, tmp_path_factory: pytest.TempPathFactory) -> MakeRequest:
        def make(disk: Path, stop: Stop | None = None) -> BootRequest:
            folder = tmp_path_factory.mktemp("machine")
            return BootRequest(
                disk=disk,
                name="contract",
                workdir=folder / "work",
                console=folder / "kept" / "console.log",
                log=io.StringIO(),
                stop=stop or Stop(),
                disk_size=6 << 30,
                credentials={"recast.contract": CREDENTIAL},
            )

        return make

    @pytest.fixture(scope="class")
    @classmethod
    def blank(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A disk with nothing on it."""
        path = tmp_path_factory.mktemp("blank") / "disk.raw"
        with path.open("wb") as file:
            file.truncate(16 << 20)
        return path

    @pytest.fixture(scope="class")
    @classmethod
    def wanted(cls, disk: Path, make_request: MakeRequest) -> BootRequest:
        return make_request(disk)

    @pytest.fixture(scope="class")
    @classmethod
    def untouched(cls, disk: Path) -> str:
        return digest.of_file(disk)

    @pytest.fixture(scope="class")
    @classmethod
    def machine(cls, booter: Booter, wanted: BootRequest, untouched: str) -> Iterator[Machine]:
        """One machine for the tests that need a good one; they run in this order."""
        machine = booter.boot(wanted)
        try:
            assert machine.wait_ready(cls.deadline) > 0
            yield machine
        finally:
            machine.close()

    def test_a_command_runs_on_a_ready_machine(self, machine: Machine) -> None:
        assert machine.fault() is None
        assert ssh.run(machine.ssh_config(), ["echo", "a  b", "c"], timeout=60) == "a  b c\n"

    def test_its_credentials_arrive_as_they_were_given(self, machine: Machine) -> None:
        words = ["cat", "/run/credentials/@system/recast.contract"]
        assert ssh.run(machine.ssh_config(), words, timeout=60) == CREDENTIAL

    def test_its_console_is_kept(self, machine: Machine, wanted: BootRequest) -> None:
        assert machine.console().strip()
        assert wanted.console.stat().st_size > 0

    def test_a_power_cut_leads_to_a_new_boot(self, machine: Machine) -> None:
        before = guest.boot_id(machine.ssh_config())
        printed = machine.console()
        machine.reboot_hard()
        assert machine.wait_ready(self.deadline) > 0
        assert guest.boot_id(machine.ssh_config()) != before
        assert len(machine.console()) > len(printed)

    def test_a_closed_machine_leaves_its_console_alone(
        self, machine: Machine, wanted: BootRequest, disk: Path, untouched: str
    ) -> None:
        target = machine.ssh_config()
        machine.close()
        machine.close()
        assert machine.fault() is not None
        assert not ssh.answers(target, 1)
        assert not wanted.workdir.exists()
        assert wanted.console.stat().st_size > 0
        assert digest.of_file(disk) == untouched

    def test_a_disk_that_does_not_boot_is_told_with_its_console(
        self, booter: Booter, blank: Path, make_request: MakeRequest
    ) -> None:
        request = make_request(blank)
        machine = booter.boot(request)
        begin = time.monotonic()
        try:
            with pytest.raises(BootError, match="nothing to boot") as caught:
                machine.wait_ready(120)
        finally:
            machine.close()
        assert time.monotonic() - begin < 100, "it was plain long before the deadline"
        assert "UEFI Interactive Shell" in caught.value.message
        assert str(request.console) in caught.value.hint
        assert not request.workdir.exists()

    def test_the_deadline_ends_a_wait(
        self, booter: Booter, blank: Path, make_request: MakeRequest
    ) -> None:
        machine = booter.boot(make_request(blank))
        try:
            with pytest.raises(BootError):
                machine.wait_ready(0.5)
        finally:
            machine.close()

    def test_a_stop_ends_a_wait(
        self, booter: Booter, blank: Path, make_request: MakeRequest
    ) -> None:
        stop = Stop()
        machine = booter.boot(make_request(blank, stop))
        try:
            stop.set()
            with pytest.raises(Interrupted):
                machine.wait_ready(self.deadline)
        finally:
            machine.close()


class TestFake(ProviderContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def path(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def booter(cls) -> Booter:
        return FakeBooter()

    @pytest.fixture(scope="class")
    @classmethod
    def disk(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("disk") / "disk.raw"
        path.write_bytes(b"a disk that boots" * 1000)
        return path

    def test_no_capacity(self, disk: Path, make_request: MakeRequest) -> None:
        with pytest.raises(HostError):
            FakeBooter(fault="no-capacity").boot(make_request(disk))

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("panics", "the kernel panicked"),
            ("never-answers", "not reachable"),
            ("refuses", "refuses root's key"),
        ],
    )
    def test_a_machine_that_never_comes_up(
        self, fault: str, message: str, disk: Path, make_request: MakeRequest
    ) -> None:
        machine = FakeBooter(fault=fault).boot(make_request(disk))  # type: ignore[arg-type]
        with pytest.raises(BootError, match=message) as caught:
            machine.wait_ready(0.5)
        machine.close()
        assert "Linux version" in caught.value.message

    def test_dying_midway_is_seen(self, disk: Path, make_request: MakeRequest) -> None:
        machine = FakeBooter(fault="dies-midway").boot(make_request(disk))
        machine.wait_ready(5)
        time.sleep(DIES_AFTER + 0.3)
        assert machine.fault() == "it switched itself off"
        machine.close()

    def test_slow_is_no_failure(self, disk: Path, make_request: MakeRequest) -> None:
        machine = FakeBooter(fault="slow").boot(make_request(disk))
        assert machine.wait_ready(SLOW * 3) >= SLOW
        machine.close()
