"""How a machine is reached: OpenSSH with a throw-away key and a throw-away list of known hosts.

Nothing of the person's own ``~/.ssh`` is read or written: no agent, no configuration, no keys.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import command
from pipeline.command import Stop

ALIAS = "machine"
"""The name of the machine in :meth:`SshTarget.config`."""

_BANNER = b"SSH-"
_SLICE_SECONDS = 0.5


@dataclass(frozen=True)
class SshTarget:
    """Where a machine's sshd is, and what opens it.

    Attributes:
        host: address or name.
        port: TCP port.
        user: whom to log in as.
        key: private key; readable by us alone.
        known_hosts: learnt at the first connection, and checked afterwards.
        control: socket by which many commands share one connection; None for one each. A login
            costs a second or two on an emulated processor. At most about 80 characters.
    """

    host: str
    port: int
    user: str
    key: Path
    known_hosts: Path
    control: Path | None = None

    def options(self, *, shared: bool = True) -> list[tuple[str, str]]:
        """The settings of a connection, as in ssh_config(5)."""
        options = [
            ("HostName", self.host),
            ("Port", str(self.port)),
            ("User", self.user),
            ("IdentityFile", _path(self.key)),
            ("IdentitiesOnly", "yes"),
            ("IdentityAgent", "none"),
            ("UserKnownHostsFile", _path(self.known_hosts)),
            ("GlobalKnownHostsFile", "/dev/null"),
            ("StrictHostKeyChecking", "accept-new"),
            ("BatchMode", "yes"),
            ("LogLevel", "ERROR"),
            # An emulated machine may think for a while; one that is gone must be noticed.
            ("ConnectTimeout", "60"),
            ("ServerAliveInterval", "15"),
            ("ServerAliveCountMax", "8"),
        ]
        if shared and self.control is not None:
            options += [
                ("ControlMaster", "auto"),
                ("ControlPath", _path(self.control)),
                ("ControlPersist", "60"),
            ]
        return options

    def config(self) -> str:
        """An ssh_config in which the machine is called :data:`ALIAS`."""
        lines = [f"Host {ALIAS}", *(f"    {name} {value}" for name, value in self.options())]
        return "\n".join(lines) + "\n"

    def argv(self, words: Sequence[str], *, shared: bool = True) -> list[str]:
        """The command line that runs *words* over there, each reaching it as one word."""
        settings = [f"-o{name}={value}" for name, value in self.options(shared=shared)]
        return ["ssh", "-F", "none", *settings, ALIAS, "--", shlex.join(words)]


def run(
    target: SshTarget,
    words: Sequence[str],
    *,
    timeout: float,
    stop: Stop | None = None,
    shared: bool = True,
) -> str:
    """Run a command on the machine; return what it printed, errors too.

    Args:
        target: the machine.
        words: the command and its arguments; no shell reads them.
        timeout: seconds.
        stop: ends it when set.
        shared: use the shared connection, if the target has one.

    Raises:
        CommandError: it ended with a non-zero code; 255 when the machine cannot be reached.
        CommandTimeout: it took too long.
        Interrupted: *stop* was set.
        HostError: ssh is not installed.
    """
    return command.run(target.argv(words, shared=shared), timeout=timeout, stop=stop).stdout


def hang_up(target: SshTarget) -> None:
    """End the shared connection, if there is one; the next command opens a new one."""
    if target.control is None or not target.control.exists():
        return
    argv = ["ssh", "-F", "none", f"-oControlPath={_path(target.control)}", "-Oexit", ALIAS]
    with contextlib.suppress(command.CommandError, command.CommandTimeout):
        command.run(argv, timeout=10)


def make_key(path: Path, comment: str) -> str:
    """Make an ed25519 key pair without a passphrase at *path*; return its public line.

    Raises:
        HostError: ssh-keygen is not installed.
        CommandError: it failed.
    """
    command.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path.with_name(path.name + ".pub").read_text().strip()


def answers(target: SshTarget, seconds: float, stop: Stop | None = None) -> bool:
    """Does an sshd greet within *seconds*? A port that is merely open does not count."""
    end = time.monotonic() + seconds
    try:
        with socket.create_connection((target.host, target.port), timeout=seconds) as link:
            while (left := end - time.monotonic()) > 0:
                if stop is not None and stop.is_set():
                    return False
                if select.select([link], [], [], min(left, _SLICE_SECONDS))[0]:
                    return link.recv(len(_BANNER)) == _BANNER
    except OSError:
        return False
    return False


def short_name(folder: int, name: str) -> Path:
    """A short path to *name* in the folder that is open as descriptor *folder*.

    The path of a socket ends at 107 characters, and a folder of ours may be deeper than that.
    The name holds, in any process of this user, while this process keeps the folder open.
    """
    return Path(f"/proc/{os.getpid()}/fd/{folder}/{name}")


def _path(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'
