"""What this host has for stages to share."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pipeline.engine.graph import Needs


def capacity(jobs: int | None = None, memory: int | None = None) -> Needs:
    """What this host has for stages: cores (or *jobs*), and MiB of available memory."""
    return Needs(jobs or len(os.sched_getaffinity(0)), memory or _available_memory())


def _available_memory() -> int:
    """MiB that could be had now without pushing others out; a container's limit counts."""
    found = 1 << 12
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            found = int(line.split()[1]) >> 10
    with contextlib.suppress(OSError, ValueError):  # no such limit, or the word "max"
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        found = min(found, (limit - used) >> 20)
    return max(found, 1)
