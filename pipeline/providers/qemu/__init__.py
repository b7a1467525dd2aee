"""Provider ``qemu``: UEFI machines on this host, with KVM where it works and TCG elsewhere."""

from __future__ import annotations

from pipeline.providers.qemu.machine import QemuBooter, QemuMachine

__all__ = ["QemuBooter", "QemuMachine"]
