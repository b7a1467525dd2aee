"""Machines of this host: UEFI, a throw-away overlay over the image, ssh by user networking."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import command, ssh
from pipeline.command import Stop
from pipeline.console import gave_up, tail
from pipeline.errors import BootError, HostError
from pipeline.providers.base import BootRequest, SshTarget
from pipeline.providers.qemu import accel
from pipeline.providers.qemu.arguments import (
    DiskBus,
    Firmware,
    Hardware,
    command_line,
    credentials,
    find_firmware,
)
from pipeline.providers.qemu.process import Process, QemuGone

# A guest under a working KVM prints its first line within two seconds, and its last within twenty.
_SILENT_SECONDS = 60.0
_POLL_SECONDS = 0.5
_GREETING_SECONDS = 5.0
_LOGIN_SECONDS = 120.0
# The key is in place before sshd starts: a refusal that lasts is final.
_REFUSED_SECONDS = 30.0
_PORT = re.compile(r"HOST_FORWARD\S*\s+\d+\s+\S+\s+(\d+)\s")
_KEY_CREDENTIAL = "ssh.authorized_keys.root"


class QemuBooter:
    """Boots disk images in QEMU on this host.

    Args:
        accelerator: ``auto`` tries KVM and uses it where it works; ``kvm`` and ``tcg`` insist.
        bus: how the disk is attached.
        memory: what is known of KVM on this host; the host's own memory by default.
        probe: how KVM is tried; replaced by tests.
    """

    def __init__(
        self,
        accelerator: accel.Setting = "auto",
        *,
        bus: DiskBus = "virtio-blk",
        memory: accel.Memory | None = None,
        probe: Callable[[Stop, Path], accel.Finding] = accel.probe,
    ) -> None:
        self._setting = accelerator
        self._bus = bus
        self._memory = memory
        self._probe = probe

    @property
    def name(self) -> str:
        """``qemu``."""
        return "qemu"

    def boot(self, request: BootRequest) -> QemuMachine:
        """Switch on a machine with *request*'s disk below a throw-away overlay.

        Raises:
            HostError: QEMU or the firmware is not installed, or KVM is insisted on and missing.
            UsageError: a credential that systemd would not take.
            BootError: QEMU refused to start.
            Interrupted: the request's stop was set.
        """
        for program in ("qemu-img", "ssh", "ssh-keygen"):
            command.find(program)
        firmware = find_firmware()
        memory = self._memory or accel.host_memory()
        scratch = request.workdir.parent
        scratch.mkdir(parents=True, exist_ok=True)
        decision = accel.decide(
            self._setting,
            memory=memory,
            obstacle=accel.obstacle,
            probe=lambda: self._probe(request.stop, scratch),
        )
        request.log.write(f"qemu: accelerator {decision.accelerator} ({decision.reason})\n")
        machine = QemuMachine(request, firmware, decision, self._bus, memory)
        try:
            machine.switch_on()
        except BaseException:
            machine.close()
            raise
        return machine


class QemuMachine:
    """A machine made by :class:`QemuBooter`; see :class:`pipeline.providers.base.Machine`."""

    def __init__(
        self,
        request: BootRequest,
        firmware: Firmware,
        decision: accel.Decision,
        bus: DiskBus,
        memory: accel.Memory,
    ) -> None:
        self._request = request
        self._template = firmware
        self._decision = decision
        self._bus = bus
        self._memory = memory
        self._process: Process | None = None
        self._port = 0
        self._power_on = time.monotonic()
        self._console_start = 0
        self._printed = (0, 0.0)  # bytes of console, and when that number was last seen to grow
        self._doubt = ""
        self._closed = False
        here = request.workdir
        here.mkdir(parents=True, exist_ok=True)
        self._folder: int | None = os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._overlay = here / "disk.qcow2"
        self._firmware = Firmware(firmware.code, here / "variables.fd")
        self._errors = here / "qemu.log"
        self._strings: tuple[Path, ...] = ()

    # --- power ---------------------------------------------------------------------------------

    def switch_on(self) -> None:
        """Make the overlay, the key and the firmware's variables, and start QEMU."""
        here = self._request.workdir
        public = ssh.make_key(here / "key", f"recast-{self._request.name}")
        values = {_KEY_CREDENTIAL: public, **self._request.credentials}
        paths = []
        for number, text in enumerate(credentials(values)):
            path = here / f"credential.{number}"
            path.touch(mode=0o600)
            path.write_text(text)
            paths.append(path)
        self._strings = tuple(paths)
        self._request.console.parent.mkdir(parents=True, exist_ok=True)
        self._request.console.write_bytes(b"")
        self._fresh_disk()
        self._start()

    def _fresh_disk(self) -> None:
        image = self._request.disk.absolute()
        size = max(self._request.disk_size, image.stat().st_size)
        self._overlay.unlink(missing_ok=True)
        what = ["-f", "qcow2", "-F", "raw", "-b", str(image), str(self._overlay), str(size)]
        command.run(["qemu-img", "create", "-q", *what])
        shutil.copyfile(self._template.variables, self._firmware.variables)

    def _start(self) -> None:
        self._console_start = self._request.console.stat().st_size
        self._printed = (0, 0.0)
        self._power_on = time.monotonic()
        try:
            self._launch(self._port)
        except QemuGone as error:
            # After a power cut the old port may have gone to somebody else; QEMU finds another.
            if not self._port or "forwarding" not in str(error):
                raise self._not_started(error) from None
            try:
                self._launch(0)
            except QemuGone as again:
                raise self._not_started(again) from None

    def _launch(self, port: int) -> None:
        hardware = Hardware(
            self._request.name,
            self._firmware,
            self._decision.accelerator,
            self._request.console,
            memory=self._request.memory,
            disk=self._overlay,
            bus=self._bus,
            port=port,
            credentials=self._strings,
        )
        self._errors.write_bytes(b"")
        process = Process(command_line(hardware), self._errors)
        self._process = process
        # The kernel gave QEMU a free port, which nobody else can take meanwhile; ask which.
        table = process.ask("human-monitor-command", **{"command-line": "info usernet"})
        found = _PORT.search(str(table))
        if found is None:
            process.kill()
            raise QemuGone(f"it forwards no port: {table}")
        self._port = int(found[1])

    def _not_started(self, error: QemuGone) -> BootError:
        return BootError(
            f"{self._request.name}: QEMU does not start: {error}",
            hint="If it is short of memory, lower `tests.memory` or run fewer images at once.",
        )

    def _running(self) -> Process:
        if self._process is None:
            raise BootError(f"{self._request.name}: the machine was never switched on")
        return self._process

    # --- what a provider's machine does ----------------------------------------------------------

    def wait_ready(self, deadline: float) -> float:
        """See :meth:`pipeline.providers.base.Machine.wait_ready`."""
        stop = self._request.stop
        refused_since: float | None = None
        trouble = "nothing answered on its ssh port"
        while True:
            stop.check()
            fault = self.fault()
            if self._fell_back():  # after the look at its faults, or one may come in between
                continue
            if fault is not None:
                raise self._boot_error(fault)
            if self._seconds() >= deadline:
                raise self._boot_error(
                    f"it was not reachable by ssh within {deadline:.0f} s: {trouble}"
                )
            target = self.ssh_config()
            left = max(0.1, deadline - self._seconds())
            if ssh.answers(target, min(_GREETING_SECONDS, left), stop):
                trouble = self._login(target, min(_LOGIN_SECONDS, left))
                if not trouble:
                    if self._doubt:
                        self._memory.keep(accel.Finding(False, self._doubt))
                    return self._seconds()
                if "Permission denied" in trouble:
                    refused_since = refused_since or time.monotonic()
                    if time.monotonic() - refused_since > _REFUSED_SECONDS:
                        raise self._boot_error(f"its sshd refuses root's key: {trouble}")
            stop.wait(_POLL_SECONDS)

    def ssh_config(self) -> SshTarget:
        """The way in; the port is of the loopback."""
        here = self._request.workdir
        control = None if self._folder is None else ssh.short_name(self._folder, "ssh")
        return SshTarget(
            "127.0.0.1", self._port, "root", here / "key", here / "known_hosts", control
        )

    def console(self) -> str:
        """All that it printed since it was first switched on."""
        try:
            return self._request.console.read_text(errors="replace")
        except OSError:
            return ""

    def fault(self) -> str | None:
        """See :meth:`pipeline.providers.base.Machine.fault`."""
        process = self._process
        if process is None:
            return "it was never switched on"
        status = process.status()
        if status == "internal-error":
            return f"KVM gave up on the guest:\n{process.last_words()}"
        if status == "io-error":
            return f"no space is left on the disk that holds {self._request.workdir}"
        if status == "ended":
            code = process.exit_code()
            if code == 0:
                return "it switched itself off"
            return f"QEMU ended with code {code}: {process.last_words()}"
        return gave_up(self._since_power_on())

    def settings(self) -> tuple[Path, ...]:
        """The files of its credentials, which it is given whenever it is switched on."""
        return self._strings

    def reboot_hard(self) -> None:
        """Kill QEMU, and start it again with the same disk and firmware variables."""
        ssh.hang_up(self.ssh_config())
        self._running().kill()
        # A new boot is met anew: whether its host key stayed the same is for a test to say.
        (self._request.workdir / "known_hosts").unlink(missing_ok=True)
        self._start()

    def close(self) -> None:
        """Kill QEMU, and remove the overlay, the key and all else but the console."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(HostError):
                ssh.hang_up(self.ssh_config())
        finally:
            if self._process is not None:
                self._process.kill()
            if self._folder is not None:
                os.close(self._folder)
                self._folder = None
            shutil.rmtree(self._request.workdir, ignore_errors=True)

    # --- what goes wrong -------------------------------------------------------------------------

    def _seconds(self) -> float:
        return time.monotonic() - self._power_on

    def _login(self, target: SshTarget, seconds: float) -> str:
        """Try to run a command; return what went wrong, or an empty text."""
        try:
            ssh.run(target, ["true"], timeout=seconds, stop=self._request.stop, shared=False)
        except command.CommandError as error:
            return error.tail[-1] if error.tail else f"ssh ended with code {error.code}"
        except command.CommandTimeout:
            return f"a login did not end within {seconds:.0f} s"
        return ""

    def _since_power_on(self) -> str:
        try:
            with self._request.console.open("rb") as file:
                file.seek(self._console_start)
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _fell_back(self) -> bool:
        """Start anew without KVM, if KVM was our own choice and the guest speaks against it."""
        if self._decision.final:
            return False
        size = self._request.console.stat().st_size - self._console_start
        if size != self._printed[0]:
            self._printed = (size, self._seconds())
        silent = self._seconds() - self._printed[1]
        if self._running().status() == "internal-error":
            reason = "KVM gave up on a guest"
            self._memory.keep(accel.Finding(False, reason))
        elif silent > _SILENT_SECONDS and "login:" not in self._since_power_on():
            # Perhaps it is the image that hangs: remembered only if it comes up without KVM.
            reason = self._doubt = f"under KVM a guest fell silent for {silent:.0f} s"
        else:
            return False
        self._request.log.write(f"qemu: {reason}; starting again with tcg\n")
        self._running().kill()
        self._decision = accel.Decision("tcg", reason, final=True)
        self._fresh_disk()
        self._start()
        return True

    def _boot_error(self, fault: str) -> BootError:
        lines = tail(self._since_power_on())
        shown = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
        return BootError(
            f"{self._request.name} did not come up after {self._seconds():.0f} s "
            f"({self._decision.accelerator}): {fault}\nThe last of its console:\n{shown}",
            hint=f"Its whole console is in {self._request.console}.",
        )
