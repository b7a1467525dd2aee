"""A machine as QEMU's command line: pure, so that a test can read it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import HostError, UsageError

PROGRAM = "qemu-system-x86_64"

Accelerator = Literal["kvm", "tcg"]
DiskBus = Literal["virtio-blk", "virtio-scsi", "nvme"]

# Debian's and Ubuntu's package `ovmf` has these names; the 4M build is the one that is kept up.
_FIRMWARE_FOLDERS = (Path("/usr/share/OVMF"),)
_FIRMWARE_NAMES = (
    ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
    ("OVMF_CODE.fd", "OVMF_VARS.fd"),
)

# systemd.system-credentials(7): a name of a file; SMBIOS type 11 strings are imported by it from
# version 252. All of them share one table of the firmware, which is made in memory once.
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_CREDENTIALS_BYTES = 60_000


@dataclass(frozen=True)
class Firmware:
    """UEFI for a machine.

    Attributes:
        code: read-only, shared.
        variables: the template; each machine writes to a copy of its own.
    """

    code: Path
    variables: Path


@dataclass(frozen=True)
class Hardware:
    """One machine, ready to be switched on.

    Attributes:
        name: shown in process lists.
        firmware: its code, and this machine's own copy of the variables.
        accelerator: KVM or emulation.
        console: file that the serial console is appended to.
        memory: MiB.
        cores: virtual processors where KVM runs them; an emulated machine has one.
        disk: a qcow2; None for a machine that only runs its firmware.
        bus: how the disk is attached.
        port: TCP port of the loopback that leads to the guest's port 22; 0 for a free one.
        credentials: files, each with one SMBIOS string (:func:`credential`).
    """

    name: str
    firmware: Firmware
    accelerator: Accelerator
    console: Path
    memory: int = 1024
    cores: int = 2
    disk: Path | None = None
    bus: DiskBus = "virtio-blk"
    port: int = 0
    credentials: tuple[Path, ...] = field(default=())


def find_firmware(folders: tuple[Path, ...] = _FIRMWARE_FOLDERS) -> Firmware:
    """The UEFI firmware of this host.

    Raises:
        HostError: there is none.
    """
    for folder in folders:
        for code, variables in _FIRMWARE_NAMES:
            if (folder / code).is_file() and (folder / variables).is_file():
                return Firmware(folder / code, folder / variables)
    raise HostError(
        f"there is no UEFI firmware for virtual machines in {', '.join(map(str, folders))}",
        hint="Install it with `apt-get install ovmf`.",
    )


def credential(name: str, value: str) -> str:
    """The SMBIOS string that hands one credential to systemd.

    Raises:
        UsageError: systemd would not take a credential of that name.
    """
    if _CREDENTIAL_NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} cannot be the name of a credential",
            hint="Use letters, digits, dots, dashes and underscores.",
        )
    coded = base64.b64encode(value.encode()).decode()
    return f"io.systemd.credential.binary:{name}={coded}"


def credentials(values: Mapping[str, str]) -> list[str]:
    """One SMBIOS string for each credential.

    Raises:
        UsageError: a name is not valid, or together they are larger than the firmware takes.
    """
    strings = [credential(name, value) for name, value in sorted(values.items())]
    size = sum(len(text) + 1 for text in strings)
    if size > _CREDENTIALS_BYTES:
        raise UsageError(
            f"the credentials of a machine are {size} bytes when coded, and "
            f"{_CREDENTIALS_BYTES} is the most that its firmware can hand over",
            hint="Credentials are for identity and keys; put larger things into the image.",
        )
    return strings


def command_line(machine: Hardware) -> list[str]:
    """QEMU's arguments for *machine*, with its monitor on standard input and output."""
    argv = [
        PROGRAM,
        *("-name", f"recast-{_value(machine.name)}"),
        *("-no-user-config", "-nodefaults", "-display", "none"),
        # A 64-bit SMBIOS entry point has no limit that a few credentials could meet.
        *("-machine", "q35,smbios-entry-point-type=64"),
        *_processor(machine.accelerator, machine.cores),
        *("-m", str(machine.memory)),
        *("-drive", f"if=pflash,format=raw,readonly=on,file={_value(machine.firmware.code)}"),
        *("-drive", f"if=pflash,format=raw,file={_value(machine.firmware.variables)}"),
        *("-chardev", f"file,id=console,append=on,path={_value(machine.console)}"),
        *("-device", "isa-serial,chardev=console"),
        *("-chardev", "stdio,id=qmp,signal=off", "-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-rng-pci"),
        *("-device", "i6300esb", "-action", "watchdog=reset"),
        *_network(machine.port),
    ]
    if machine.disk is not None:
        argv += _disk(machine.disk, machine.bus)
    for path in machine.credentials:
        argv += ["-smbios", f"type=11,path={_value(path)}"]
    return argv


def _processor(accelerator: Accelerator, cores: int) -> list[str]:
    if accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host", "-smp", str(cores)]
    # The default model boots fastest: each feature of a larger one is emulated too. One processor:
    # QEMU forgets the translation of code before that code is overwritten, so a second processor
    # can translate the old once more and keep it. Linux patches itself while it boots, and then
    # dies of a breakpoint that is no longer there. It is rare, and no image's fault.
    # A small cache of translations (MiB): by default it is 1 GiB, outlives a reboot, and where the
    # firmware's data fall on a page of the old system's code, each store looks through all that was
    # ever translated there. It made a reboot take minutes, and a smaller one costs no time.
    return ["-accel", "tcg,tb-size=64", "-smp", "1"]


def _network(port: int) -> list[str]:
    argv = ["-netdev", f"user,id=network,hostfwd=tcp:127.0.0.1:{port}-:22"]
    # No boot ROM, no network boot: the disk is what is tested, and a firmware that tries the
    # network first takes half a minute to give up.
    argv += ["-device", "virtio-net-pci,netdev=network,romfile="]
    for protocol in ("IPv4PXESupport", "IPv6PXESupport"):
        argv += ["-fw_cfg", f"name=opt/org.tianocore/{protocol},string=n"]
    return argv


def _disk(path: Path, bus: DiskBus) -> list[str]:
    # cache=unsafe leaves out fsync on the host alone: what the guest has flushed is in the host's
    # memory, so it outlives QEMU's sudden end, and nobody wants this file after a host's.
    drive = (
        f"if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,detect-zeroes=unmap,"
        f"file={_value(path)}"
    )
    device = {
        "virtio-blk": ["-device", "virtio-blk-pci,drive=disk,bootindex=0"],
        "virtio-scsi": ["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk,bootindex=0"],
        "nvme": ["-device", "nvme,drive=disk,serial=recast,bootindex=0"],
    }[bus]
    return ["-drive", drive, *device]


def _value(text: str | Path) -> str:
    """*text* as a value in QEMU's option lists, where a comma parts and two commas are one."""
    return str(text).replace(",", ",,")
