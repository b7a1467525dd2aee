"""Does KVM truly run a guest here? Decided by trying, once per boot of the host.

``/dev/kvm`` may be there, open, and still not run anything: nested virtualisation that is half
there ends in "KVM internal error" or stalls. The probe starts the UEFI firmware with no disk and
waits for the first thing that it prints; under a working KVM that takes about a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import command, files
from pipeline.command import Stop
from pipeline.errors import HostError
from pipeline.providers.qemu.arguments import (
    PROGRAM,
    Accelerator,
    Firmware,
    Hardware,
    command_line,
    find_firmware,
)
from pipeline.providers.qemu.process import Process, QemuGone

Setting = Literal["auto", "kvm", "tcg"]

PROBE_SECONDS = 20.0
_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Finding:
    """Whether KVM works on this host, and how that is known."""

    works: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """The accelerator to use.

    Attributes:
        accelerator: the one that was chosen.
        reason: why, for the log.
        final: nobody may choose another one when the guest shows no sign of life.
    """

    accelerator: Accelerator
    reason: str
    final: bool


class Memory:
    """What was found before on this boot of this host with this QEMU.

    A memory that cannot be read or written is none at all: the probe runs again.

    Args:
        path: the file; :func:`default_path` unless told otherwise.
        key: host's boot and QEMU's version.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key

    def recall(self) -> Finding | None:
        """The finding for this key."""
        try:
            data = json.loads(self._path.read_text())
            if data["key"] == self._key:
                return Finding(bool(data["works"]), str(data["reason"]))
        except (OSError, ValueError, TypeError, KeyError):
            pass
        return None

    def keep(self, finding: Finding) -> None:
        """Remember *finding*."""
        data = {"key": self._key, "works": finding.works, "reason": finding.reason}
        try:
            files.write_atomically(self._path, json.dumps(data) + "\n")
        except (OSError, HostError):
            return

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Held while one process probes, so that another one waits for its finding."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                lock = self._path.with_suffix(".lock")
                stack.enter_context(files.locked(lock, what="the trial of KVM"))
            yield


def default_path() -> Path:
    """``$XDG_CACHE_HOME/recast/accel.json``, in ``~/.cache`` by default."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "recast" / "accel.json"


def host_memory(path: Path | None = None) -> Memory:
    """The memory of this host.

    Raises:
        HostError: QEMU is not installed.
    """
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = "unknown boot"
    version = command.run([PROGRAM, "--version"]).stdout.splitlines()[0]
    return Memory(path or default_path(), f"{boot} {version}")


def decide(
    setting: Setting,
    *,
    memory: Memory,
    obstacle: Callable[[], str | None],
    probe: Callable[[], Finding],
) -> Decision:
    """Choose the accelerator.

    Args:
        setting: ``auto``, or the one that a person insists on.
        memory: earlier findings.
        obstacle: why KVM cannot even be opened; None when it can.
        probe: tries it with a guest.

    Raises:
        HostError: KVM is insisted on, and cannot be opened.
    """
    if setting == "tcg":
        return Decision("tcg", "asked for", final=True)
    blocked = obstacle()
    if setting == "kvm":
        if blocked:
            raise HostError(
                f"KVM was asked for, and {blocked}",
                hint="Load the kernel's kvm module and give this user access to /dev/kvm, or set "
                "`accel: auto`.",
            )
        return Decision("kvm", "asked for", final=True)
    if blocked:
        return Decision("tcg", blocked, final=True)
    found = memory.recall()
    if found is None:
        with memory.locked():
            found = memory.recall()
            if found is None:
                found = probe()
                memory.keep(found)
    if found.works:
        return Decision("kvm", found.reason, final=False)
    return Decision("tcg", found.reason, final=True)


def obstacle(device: Path = _DEVICE) -> str | None:
    """Why KVM cannot be used at all, as far as that can be seen without a guest."""
    if not device.exists():
        return f"{device} does not exist"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device} cannot be opened ({error.strerror})"
    return None


def probe(
    stop: Stop, scratch: Path, *, seconds: float = PROBE_SECONDS, accelerator: Accelerator = "kvm"
) -> Finding:
    """Start the firmware alone, and see whether it says anything.

    Args:
        stop: ends the trial when set.
        scratch: an existing folder, for the time of the trial.
        seconds: how long a first word may take.
        accelerator: what is tried.

    Raises:
        HostError: QEMU or the firmware is not installed.
        Interrupted: *stop* was set.
    """
    firmware = find_firmware()
    name = accelerator.upper()
    with tempfile.TemporaryDirectory(prefix="probe-", dir=scratch) as folder:
        here = Path(folder)
        own = Firmware(firmware.code, here / "variables.fd")
        shutil.copyfile(firmware.variables, own.variables)
        console = here / "console.log"
        hardware = Hardware("probe", own, accelerator, console, memory=256)
        begin = time.monotonic()
        try:
            process = Process(command_line(hardware), here / "errors.log")
        except QemuGone as error:
            return Finding(False, f"QEMU does not start with {name}: {error}")
        try:
            while (passed := time.monotonic() - begin) < seconds:
                stop.check()
                if console.exists() and console.stat().st_size:
                    return Finding(True, f"{name} ran a trial guest in {passed:.1f} s")
                status = process.status()
                if status in ("internal-error", "ended"):
                    return Finding(False, f"{name} does not run a guest here: {status}")
                stop.wait(_POLL_SECONDS)
        finally:
            process.kill()
    return Finding(False, f"{name} showed no sign of life in {seconds:.0f} s")
