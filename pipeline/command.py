"""The one door for other programs: closed stdin, a log, a time limit, no orphans.

A program started here dies with us, however we die: it is given a parent-death signal, and on
a stop its whole process group is ended. Data never becomes shell text: arguments are a list.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pipeline.errors import HostError, Interrupted, RecastError
from pipeline.files import explained

_TAIL_LINES = 40
_GRACE_SECONDS = 10.0

# Searched after PATH, which for an ordinary user lacks them.
SYSTEM_PATH = ":/usr/sbin:/sbin"

# Debian's and Ubuntu's package for each program that is ever started here.
PACKAGES: dict[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "debootstrap": "debootstrap",
    "mmdebstrap": "mmdebstrap",
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "sfdisk": "fdisk",
    "tar": "tar",
    "sudo": "sudo",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "chroot": "coreutils",
    "git": "git",
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "zstd": "zstd",
    "xz": "xz-utils",
}


class CommandError(RecastError):
    """A program ended with a non-zero code.

    Attributes:
        argv: what was run.
        code: its exit code; negative for a signal.
        tail: the last lines of its output.
    """

    def __init__(self, argv: Sequence[str], code: int, tail: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self.code = code
        self.tail = tuple(tail)
        super().__init__(
            f"`{shlex.join(argv)}` ended with code {code}"
            + (":\n" + "\n".join(f"    {line}" for line in tail) if tail else "")
        )


class CommandTimeout(RecastError):
    """A program was still running at its time limit, and was ended."""


class Log(Protocol):
    """What takes a program's output, line by line: a text file, or what stands for one."""

    def write(self, text: str, /) -> int:
        """Take some text."""

    def flush(self) -> None:
        """Pass on what is held back."""


class Stop:
    """A flag that one thread raises and every running program obeys."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask everything that watches this flag to end now."""
        self._event.set()

    def is_set(self) -> bool:
        """Has a stop been asked for?"""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait at most *seconds* for a stop; say whether it came."""
        return self._event.wait(seconds)

    def check(self) -> None:
        """Raise :class:`Interrupted` if a stop has been asked for."""
        if self.is_set():
            raise Interrupted("stopped on request")


@dataclass(frozen=True)
class Result:
    """What a program printed (stdout and stderr together unless they were separated)."""

    stdout: str


def find(program: str) -> str:
    """The absolute path of *program*.

    Raises:
        HostError: it is not installed; names the package that brings it.
    """
    path = shutil.which(program, path=os.environ.get("PATH", "") + SYSTEM_PATH)
    if path is None:
        package = PACKAGES.get(program, program)
        raise HostError(
            f"the program `{program}` is not installed",
            hint=f"Install it with `apt-get install {package}`; `recast doctor` lists all that "
            "is missing.",
        )
    return path


def run(
    argv: Sequence[str],
    *,
    log: Log | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    stop: Stop | None = None,
    input: bytes | None = None,
    separate: bool = False,
) -> Result:
    """Run a program to its end.

    Args:
        argv: the program and its arguments.
        log: where its output goes line by line; without it the output is returned.
        env: its whole environment; ours when not given.
        cwd: its folder.
        timeout: seconds until it is ended.
        stop: ends it when set.
        input: its standard input; closed when not given.
        separate: return stdout alone, keeping stderr for the error message.

    Raises:
        HostError: the program is not installed.
        CommandError: it ended with a non-zero code.
        CommandTimeout: it took too long.
        DiskFullError: its output did not fit on the log's disk.
        Interrupted: *stop* was set.
    """
    process = start(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if separate else subprocess.STDOUT,
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    kept: list[str] = []
    unwritable: list[OSError] = []

    def drain(stream: IO[bytes], keep: bool) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace")
                tail.append(line.rstrip())
                if log is not None and not unwritable:
                    try:
                        log.write(line)
                        log.flush()
                    except OSError as error:  # go on reading, or the program hangs for ever
                        unwritable.append(error)
                elif log is None and keep:
                    kept.append(line)

    assert process.stdout is not None
    readers = [threading.Thread(target=drain, args=(process.stdout, True), daemon=True)]
    if process.stderr is not None:
        readers.append(threading.Thread(target=drain, args=(process.stderr, False), daemon=True))
    if process.stdin is not None:
        # In a thread too: a program that reads nothing must not keep us from its time limit.
        readers.append(
            threading.Thread(target=_feed, args=(process.stdin, input or b""), daemon=True)
        )
    for reader in readers:
        reader.start()
    try:
        _wait(process, argv, timeout, stop)
    finally:
        end(process)
        for reader in readers:
            reader.join(timeout=_GRACE_SECONDS)
    if unwritable:
        with explained(Path(getattr(log, "name", "the log"))):
            raise unwritable[0]
    if process.returncode:
        raise CommandError(argv, process.returncode, tuple(tail))
    return Result("".join(kept))


def _feed(stream: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), stream:
        stream.write(data)


def _wait(
    process: subprocess.Popen[bytes], argv: Sequence[str], timeout: float | None, stop: Stop | None
) -> None:
    waited = 0.0
    step = 0.1
    while True:
        try:
            process.wait(timeout=step if (stop or timeout) else None)
            return
        except subprocess.TimeoutExpired:
            waited += step
        if stop is not None and stop.is_set():
            raise Interrupted(f"`{argv[0]}` was stopped on request")
        if timeout is not None and waited >= timeout:
            raise CommandTimeout(f"`{shlex.join(argv)}` did not end within {timeout:.0f} s")


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a program that goes on beside us; :func:`end` it in a ``finally``.

    It gets a process group of its own, and SIGKILL if the thread that started it ends.

    Raises:
        HostError: the program is not installed.
    """
    program = find(argv[0])
    guard = [find("setpriv"), "--pdeathsig", "KILL", "--"]
    return subprocess.Popen(
        [*guard, program, *argv[1:]],
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], grace: float = _GRACE_SECONDS) -> None:
    """End a program and its process group: first asked, then killed. Ended already is fine."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
