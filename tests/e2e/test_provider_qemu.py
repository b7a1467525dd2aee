"""The contract of a provider, held by QEMU with a real image."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.providers.base import Booter
from pipeline.providers.qemu import QemuBooter
from tests.contract.test_provider import ProviderContract


class TestQemu(ProviderContract):
    deadline = 600.0

    @pytest.fixture(scope="class")
    @classmethod
    def booter(cls) -> Booter:
        return QemuBooter()

    @pytest.fixture(scope="class")
    @classmethod
    def disk(cls, built_disk: Path) -> Path:
        return built_disk
