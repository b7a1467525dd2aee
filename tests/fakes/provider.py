"""A provider without machines: threads, files, and faults that can be named.

A fake machine "boots" when a thread says so. Its ssh is ``tests/fakes/bin/ssh``, which must come
first in ``PATH``: it runs commands on this host, and knows what the machine would say of itself.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Literal

from pipeline import console
from pipeline.errors import BootError, HostError
from pipeline.providers.base import BootRequest, SshTarget

BIN = Path(__file__).parent / "bin"
"""Must come first in ``PATH`` where a fake machine is spoken to."""

Fault = Literal[
    "no-capacity",  # it cannot be switched on
    "never-answers",  # it boots, and nobody opens the ssh port
    "refuses",  # its sshd takes no key
    "panics",  # its kernel gives up
    "dies-midway",  # it is gone a moment after it was ready
    "slow",  # it needs seconds where others need none
    "wrong-root",  # it runs another root than it should
    "unhealthy",  # it comes up, and a health check fails
    "mute-at-reboot",  # a login while it goes down never ends
]

DIES_AFTER = 1.5
"""Seconds from ready to gone, with ``dies-midway``."""
SLOW = 3.0
"""Seconds to ready, with ``slow``."""

_BLANK = 1 << 16
_POLL = 0.02
_BOOT = ["Booting the disk", "Linux version 6.12", "Reached target multi-user.target"]
_PANIC = "Kernel panic - not syncing: VFS: Unable to mount root fs"
_SHELL = "UEFI Interactive Shell v2.2"


class FakeBooter:
    """Boots any disk whose first bytes are not all zero.

    Args:
        root_hash: what a machine says it runs.
        fault: what goes wrong with every machine.
        name: the provider's name.
    """

    def __init__(
        self, root_hash: str = "0" * 64, fault: Fault | None = None, name: str = "fake"
    ) -> None:
        self._root_hash = root_hash
        self._fault = fault
        self._name = name
        self.machines: list[FakeMachine] = []

    @property
    def name(self) -> str:
        """As it was called."""
        return self._name

    def boot(self, request: BootRequest) -> FakeMachine:
        """Start a machine's thread."""
        request.stop.check()
        if self._fault == "no-capacity":
            raise HostError("the fake cloud has no machine left", hint="Try again later.")
        with request.disk.open("rb") as file:
            blank = not any(file.read(_BLANK))
        root = "f" * 64 if self._fault == "wrong-root" else self._root_hash
        machine = FakeMachine(request, self._fault, root, blank)
        self.machines.append(machine)
        return machine


class FakeMachine:
    """A machine made by :class:`FakeBooter`."""

    def __init__(self, request: BootRequest, fault: Fault | None, root: str, blank: bool) -> None:
        self._request = request
        self._wanted_fault = fault
        self._blank = blank
        self._state = request.workdir
        self._state.mkdir(parents=True, exist_ok=True)
        request.console.parent.mkdir(parents=True, exist_ok=True)
        request.console.write_text("")
        healthy = "inactive\ndegraded\n" if fault == "unhealthy" else "active\n"
        (self._state / "health").write_text(healthy)
        (self._state / "cmdline").write_text(f"roothash={root} quiet\n")
        (self._state / "host_key").write_text(f"ssh-ed25519 {uuid.uuid4().hex}\n")
        (self._state / "credentials").mkdir()
        for name, value in request.credentials.items():
            (self._state / "credentials" / name).write_text(value)
        (self._state / "key").write_text("no key at all\n")
        if fault == "mute-at-reboot":
            (self._state / "mute_at_reboot").touch()
        self._closed = False
        self._sshd: _Greeter | None = None
        self._switch_on()

    def _switch_on(self) -> None:
        self._power_on = time.monotonic()
        self._ready = threading.Event()
        self._gone = ""
        self._cut = threading.Event()
        (self._state / "off").touch()
        (self._state / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self._thread = threading.Thread(target=self._live, name="fake-machine", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        """What the machine does, from power-on to the end of its fault."""
        if self._blank:
            self._print(_SHELL)
            self._gone = "the firmware found nothing to boot on the disk"
            return
        for line in _BOOT[:2]:
            self._print(line)
        if self._wanted_fault == "panics":
            self._print(_PANIC)
            self._gone = "the kernel panicked: VFS: Unable to mount root fs"
            return
        if self._wanted_fault == "slow" and self._cut.wait(SLOW):
            return
        self._print(_BOOT[2])
        if self._wanted_fault == "never-answers":
            return
        if self._wanted_fault == "refuses":
            (self._state / "refuses").touch()
        self._sshd = _Greeter(self._state / "rebooted")
        (self._state / "off").unlink(missing_ok=True)
        self._ready.set()
        if self._wanted_fault == "dies-midway" and not self._cut.wait(DIES_AFTER):
            self._print("Power down")
            self._gone = "it switched itself off"
            (self._state / "off").touch()

    def _print(self, line: str) -> None:
        with self._request.console.open("a") as file:
            file.write(line + "\r\n")

    def wait_ready(self, deadline: float) -> float:
        """Wait for the thread."""
        while True:
            self._request.stop.check()
            seconds = time.monotonic() - self._power_on
            fault = self.fault()
            if self._ready.is_set() and self._wanted_fault == "refuses":
                fault = "its sshd refuses root's key"
            if fault is None and seconds >= deadline:
                fault = f"it was not reachable by ssh within {deadline:.0f} s"
            if fault is not None:
                tail = "\n".join(f"    {line}" for line in console.tail(self.console()))
                raise BootError(
                    f"{self._request.name} did not come up: {fault}\n"
                    f"The last of its console:\n{tail}",
                    hint=f"Its whole console is in {self._request.console}.",
                )
            if self._ready.is_set():
                return seconds
            self._request.stop.wait(_POLL)

    def ssh_config(self) -> SshTarget:
        """The way to the fake ssh."""
        port = self._sshd.port if self._sshd else 1
        return SshTarget(
            "127.0.0.1", port, "root", self._state / "key", self._state / "known_hosts"
        )

    def console(self) -> str:
        """What the thread has printed."""
        return self._request.console.read_text()

    def fault(self) -> str | None:
        """Why it has ended."""
        return "it was closed" if self._closed else self._gone or None

    def reboot_hard(self) -> None:
        """End the thread and start another one."""
        self._switch_off()
        (self._state / "known_hosts").unlink(missing_ok=True)
        self._switch_on()

    def _switch_off(self) -> None:
        self._cut.set()
        self._thread.join()
        if self._sshd is not None:
            self._sshd.close()
            self._sshd = None

    def close(self) -> None:
        """End the thread, and remove its state."""
        if not self._closed:
            self._closed = True
            self._switch_off()
            shutil.rmtree(self._state, ignore_errors=True)


class _Greeter:
    """A port that greets as an sshd does, and then hangs up; once it says nothing at a reboot.

    Args:
        rebooted: the file by which the fake ssh tells of one.
    """

    def __init__(self, rebooted: Path) -> None:
        self._rebooted = rebooted
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, name="fake-sshd", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._socket.accept()
                with link, contextlib.suppress(OSError):
                    if self._rebooted.exists():
                        self._rebooted.unlink()
                        continue
                    link.sendall(b"SSH-2.0-fake\r\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
