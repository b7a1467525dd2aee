"""Servers from Debian's packages as plain processes on loopback, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline import command

_START_SECONDS = 90.0
_ATTEMPTS = 3  # somebody else may take a port that was free


class NotUpError(Exception):
    """A server did not come up; the message holds what it said."""


class Servers:
    """Processes that end together with the block that they are used in.

    Args:
        folder: for what they write; made.
        stack: what ends them.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        folder.mkdir()
        self.folder = folder
        self.stack = stack
        path = os.environ.get("PATH", os.defpath) + command.SYSTEM_PATH
        # Nothing of ours: these programs are Python in part, and have libraries of their own.
        self._environment = {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8"}

    def run(self, *argv: object) -> str:
        """Run a program to its end; its output."""
        words = [str(word) for word in argv]
        return command.run(words, env=self._environment, cwd=self.folder, timeout=120).stdout

    def start(self, *argv: object) -> None:
        """Start a server."""
        words = [str(word) for word in argv]
        log = self.stack.enter_context((self.folder / f"{words[0]}.out").open("wb"))
        process = command.start(
            words, cwd=self.folder, env=self._environment, stdout=log, stderr=subprocess.STDOUT
        )
        self.stack.callback(command.end, process)

    def wait(self, what: str, there: Callable[[], object]) -> None:
        """Wait until *there* neither raises nor says no.

        Raises:
            NotUpError: that takes too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                if there():
                    return
                problem = "not there"
            except (OSError, command.CommandError, command.CommandTimeout) as error:
                problem = str(error)
            if time.monotonic() > deadline:
                logs = [path.read_text(errors="replace") for path in self.folder.glob("*.out")]
                raise NotUpError(f"{what}: {problem}\n" + "\n".join(logs)[-4000:])
            time.sleep(0.05)


def answers(url: str) -> bool:
    """Does a web server answer there, whatever it says?"""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody uses at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def require(programs: Sequence[str], packages: str) -> None:
    """Skip the test, unless these programs are installed."""
    path = os.environ.get("PATH", os.defpath) + command.SYSTEM_PATH
    missing = [program for program in programs if not shutil.which(program, path=path)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (packages {packages})")


def bring_up(folder: Path, start: Callable[[Servers], str], stack: contextlib.ExitStack) -> str:
    """Call *start* with servers in *folder* until it succeeds, a few times; what it returned."""
    for attempt in range(1, _ATTEMPTS + 1):
        with contextlib.ExitStack() as trial:
            try:
                result = start(Servers(folder / str(attempt), trial))
            except (NotUpError, command.CommandError) as error:
                if attempt == _ATTEMPTS:
                    pytest.fail(f"does not start: {error}")
                continue
            stack.push(trial.pop_all())
            return result
    raise AssertionError
