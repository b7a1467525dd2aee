"""QEMU with its firmware alone: no image is needed to see that nothing is left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.command import Stop
from pipeline.errors import BootError, HostError, Interrupted
from pipeline.providers.base import BootRequest
from pipeline.providers.qemu import QemuBooter, QemuMachine, accel
from pipeline.providers.qemu.accel import Finding, Memory

TCG_SECONDS = 60.0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk, blank.raw"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    return path


def request(disk: Path, folder: Path, **changes: object) -> BootRequest:
    values: dict[str, object] = {
        "disk": disk,
        "name": folder.name,
        "workdir": folder / "work, here",
        "console": folder / "console.log",
        "log": io.StringIO(),
        "stop": Stop(),
        "memory": 256,
        "disk_size": 1 << 30,
        "credentials": {"site": "a, b"},
        **changes,
    }
    return BootRequest(**values)  # type: ignore[arg-type]


@pytest.fixture
def booted(disk: Path, tmp_path: Path) -> Iterator[QemuMachine]:
    machine = QemuBooter("tcg").boot(request(disk, tmp_path / "one"))
    yield machine
    machine.close()


def pid_of(machine: QemuMachine) -> int:
    assert machine._process is not None
    return machine._process.pid


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_guest_that_never_answers_is_told_in_time_with_its_console(
    disk: Path, tmp_path: Path
) -> None:
    wanted = request(disk, tmp_path / "one")
    machine = QemuBooter("tcg").boot(wanted)
    begin = time.monotonic()
    try:
        with pytest.raises(BootError, match="nothing to boot") as caught:
            machine.wait_ready(120)
    finally:
        machine.close()
    assert time.monotonic() - begin < TCG_SECONDS
    assert "BdsDxe" in caught.value.message
    assert str(wanted.console) in caught.value.hint


def test_a_deadline_that_is_over_before_the_firmware_speaks(booted: QemuMachine) -> None:
    with pytest.raises(BootError, match="not reachable by ssh within 1 s") as caught:
        booted.wait_ready(1)
    assert "(nothing)" in caught.value.message


def test_close_leaves_no_process_and_no_file(disk: Path, tmp_path: Path) -> None:
    wanted = request(disk, tmp_path / "one")
    machine = QemuBooter("tcg").boot(wanted)
    pid = pid_of(machine)
    before = disk.read_bytes()
    machine.close()
    machine.close()
    assert gone(pid)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["console.log"]
    assert disk.read_bytes() == before
    assert machine.fault() is not None


def test_a_machine_outlives_the_thread_that_asked_for_it(disk: Path, tmp_path: Path) -> None:
    made: list[QemuMachine] = []
    wanted = request(disk, tmp_path / "one")
    thread = threading.Thread(target=lambda: made.append(QemuBooter("tcg").boot(wanted)))
    thread.start()
    thread.join()
    machine = made[0]
    try:
        time.sleep(0.5)
        assert machine.fault() is None
    finally:
        machine.close()


def test_two_machines_at_once_have_ports_of_their_own(
    booted: QemuMachine, disk: Path, tmp_path: Path
) -> None:
    other = QemuBooter("tcg").boot(request(disk, tmp_path / "two"))
    try:
        ports = {booted.ssh_config().port, other.ssh_config().port}
        assert len(ports) == 2
        assert all(port > 0 for port in ports)
    finally:
        other.close()


def test_a_power_cut_is_a_new_process_and_the_console_goes_on(booted: QemuMachine) -> None:
    with pytest.raises(BootError, match="nothing to boot"):
        booted.wait_ready(TCG_SECONDS)
    first, printed = pid_of(booted), booted.console()
    booted.reboot_hard()
    assert gone(first)
    with pytest.raises(BootError, match="nothing to boot"):
        booted.wait_ready(TCG_SECONDS)
    assert booted.console().startswith(printed)
    assert len(booted.console()) > len(printed)


def test_qemu_that_is_killed_is_noticed_at_once(booted: QemuMachine) -> None:
    os.kill(pid_of(booted), signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(BootError, match="QEMU ended with code -9"):
        booted.wait_ready(300)
    assert time.monotonic() - begin < 5
    assert booted.fault() is not None


def test_a_stop_ends_a_wait_at_once(disk: Path, tmp_path: Path) -> None:
    stop = Stop()
    machine = QemuBooter("tcg").boot(request(disk, tmp_path / "one", stop=stop))
    threading.Timer(0.5, stop.set).start()
    begin = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            machine.wait_ready(300)
    finally:
        machine.close()
    assert time.monotonic() - begin < 10


def test_what_qemu_refuses_is_told_in_its_words(disk: Path, tmp_path: Path) -> None:
    wanted = request(disk, tmp_path / "one", memory=1 << 40)
    with pytest.raises(BootError, match=r"QEMU does not start: .*(memory|RAM|size)"):
        QemuBooter("tcg").boot(wanted)
    assert not wanted.workdir.exists()


OWNER = """
import sys, time
from pathlib import Path
from pipeline.command import Stop
from pipeline.providers.base import BootRequest
from pipeline.providers.qemu import QemuBooter
folder = Path(sys.argv[2])
machine = QemuBooter("tcg").boot(
    BootRequest(Path(sys.argv[1]), "owned", folder / "work", folder / "console", sys.stderr, Stop())
)
print(machine._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.soak
def test_kill_9_of_the_owner_leaves_no_machine(disk: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(disk), str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as owner:
        assert owner.stdout is not None
        try:
            pid = int(owner.stdout.readline())
            assert not gone(pid, 0.2)
        finally:
            owner.kill()
    assert gone(pid)


def test_the_trial_of_this_hosts_kvm_ends_soon_and_says_why(tmp_path: Path) -> None:
    if accel.obstacle():
        pytest.skip("no KVM to be tried here")
    begin = time.monotonic()
    finding = accel.probe(Stop(), tmp_path)
    assert time.monotonic() - begin < accel.PROBE_SECONDS + 5
    assert "KVM" in finding.reason
    assert list(tmp_path.iterdir()) == []


def test_a_trial_finds_what_works(tmp_path: Path) -> None:
    assert accel.probe(Stop(), tmp_path, seconds=TCG_SECONDS, accelerator="tcg").works


def test_a_guest_that_kvm_cannot_run_is_started_again_without(disk: Path, tmp_path: Path) -> None:
    """KVM passed its trial, or so it was said; where it does not work, the machine still boots."""
    if accel.obstacle():
        pytest.skip("no KVM to be tried here")
    if accel.probe(Stop(), tmp_path).works:
        pytest.skip("KVM works here, there is nothing to fall back from")
    memory = Memory(tmp_path / "accel.json", "this boot")
    log = io.StringIO()
    booter = QemuBooter("auto", memory=memory, probe=lambda *_: Finding(True, "so it was said"))
    machine = booter.boot(request(disk, tmp_path / "one", log=log))
    try:
        with pytest.raises(BootError, match=r"\(tcg\): the firmware found nothing to boot"):
            machine.wait_ready(120)
    finally:
        machine.close()
    assert "accelerator kvm (so it was said)" in log.getvalue()
    assert "starting again with tcg" in log.getvalue()
    assert memory.recall() == Finding(False, "KVM gave up on a guest")


def test_kvm_by_force_does_not_fall_back(disk: Path, tmp_path: Path) -> None:
    if accel.obstacle():
        with pytest.raises(HostError, match="KVM was asked for"):
            QemuBooter("kvm").boot(request(disk, tmp_path / "one"))
        return
    if accel.probe(Stop(), tmp_path).works:
        pytest.skip("KVM works here")
    machine = QemuBooter("kvm").boot(request(disk, tmp_path / "one"))
    try:
        with pytest.raises(BootError, match=r"\(kvm\): "):
            machine.wait_ready(120)
    finally:
        machine.close()
