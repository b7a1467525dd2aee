"""One failure is enough to tell: what would follow is not run."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.option.maxfail = 1
