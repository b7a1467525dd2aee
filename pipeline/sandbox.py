"""Namespaces of its own for a program that mounts: nothing it does can stay behind.

A program started through :func:`argv` sees its own mounts, processes and host name. Its mounts
are gone when its last process is, and its processes are killed when we are, even by SIGKILL: there
is nothing to clean up and nothing to leak. The host name is fixed, so that it cannot end up in
an image.

This file is also the first process inside (``python sandbox.py PROGRAM ...``): it runs the
program and waits for every process that it left, so that its last output is not lost.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

HOST_NAME = "localhost"  # every machine can resolve it, and sudo wants to
_LINGER_SECONDS = 10.0


def argv(command: Sequence[str]) -> list[str]:
    """*command* as it has to be run to be in namespaces of its own. Needs root."""
    unshare = "unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc"
    return [
        *unshare.split(),
        *("--propagation", "private", "--", sys.executable, "-I", __file__),
        *command,
    ]


def main() -> int:
    """Be the first process of the namespaces; return the program's exit code."""
    socket.sethostname(HOST_NAME)
    program = subprocess.Popen(sys.argv[1:])

    def forward(number: int, _frame: FrameType | None) -> None:
        program.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(os.waitpid(program.pid, 0)[1])
    deadline = time.monotonic() + _LINGER_SECONDS
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            time.sleep(0.02)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
