"""What is asked of a running machine over ssh, whatever provider runs it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable

from pipeline import ssh
from pipeline.command import CommandError, CommandTimeout, Stop
from pipeline.errors import BootError
from pipeline.ssh import SshTarget

HEALTHY_UNIT = "boot-complete.target"
"""systemd's word for a boot that passed all its checks; the boot loader's counting uses it too."""

_POLL_SECONDS = 1.0
_ROOT_HASH = re.compile(r"(?<!\S)roothash=([0-9a-f]{64})(?!\S)")
_COMMAND_SECONDS = 120.0
# A connection to a system that is going down may never hear of its end: nothing is sent any more.
# So nobody logs in before that system's sshd is silent, as far as that is seen; a first attempt is
# short, and each that was too short is followed by one twice as long.
_ASK_SECONDS = 30.0
_GOING_DOWN_SECONDS = 30.0
_LOOK_SECONDS = 0.3
_FIRST_LOGIN_SECONDS = 15.0
_GREETING_SECONDS = 5.0
# One command, as a login costs more than all of it.
_STATE = f"systemctl is-active {HEALTHY_UNIT}; systemctl is-system-running; true"


def wait_healthy(
    target: SshTarget,
    seconds: float,
    stop: Stop | None = None,
    fault: Callable[[], str | None] = lambda: None,
) -> bool:
    """Wait until the boot is complete and passed its health checks.

    Args:
        target: the machine; its sshd answers.
        seconds: how long to wait.
        stop: ends it when set.
        fault: why waiting is of no use; asked now and then.

    Returns:
        False when the time is over, or the boot has ended in another state.

    Raises:
        BootError: *fault* named one.
        Interrupted: *stop* was set.
    """
    end = time.monotonic() + seconds
    settled = 0
    while True:
        if stop is not None:
            stop.check()
        if (why := fault()) is not None:
            raise BootError(f"the machine stopped while it was coming up: {why}")
        left = end - time.monotonic()
        if left <= 0:
            return False
        state = _state(target, min(_COMMAND_SECONDS, left), stop)
        if state[:1] == ["active"]:
            return True
        # Twice, as the unit may be just about to start.
        settled = settled + 1 if state[1:] in (["running"], ["degraded"]) else 0
        if settled > 1:
            return False
        if stop is None:
            time.sleep(_POLL_SECONDS)
        else:
            stop.wait(_POLL_SECONDS)


def _state(target: SshTarget, seconds: float, stop: Stop | None) -> list[str]:
    """The states of the healthy unit and of the whole system; empty when it cannot be asked."""
    with contextlib.suppress(CommandError, CommandTimeout):
        return ssh.run(target, ["sh", "-c", _STATE], timeout=seconds, stop=stop).split()
    return []


def boot_id(target: SshTarget) -> str:
    """The kernel's name for the running boot; another one after each reboot.

    Raises:
        CommandError: the machine cannot be asked.
        CommandTimeout: it did not answer.
    """
    words = ["cat", "/proc/sys/kernel/random/boot_id"]
    return ssh.run(target, words, timeout=_COMMAND_SECONDS).strip()


def root_hash(target: SshTarget) -> str:
    """The verity root hash that the machine was booted with; empty when there is none.

    Raises:
        BootError: the machine does not answer.
    """
    try:
        text = ssh.run(target, ["cat", "/proc/cmdline"], timeout=_COMMAND_SECONDS)
    except (CommandError, CommandTimeout) as error:
        raise BootError(f"the machine does not answer any more: {error}") from error
    hashes = _ROOT_HASH.findall(text)
    return hashes[-1] if hashes else ""


def reboot(target: SshTarget, deadline: float) -> float:
    """Ask the machine to reboot, and wait until it has, and is healthy again.

    The host key is learnt anew; what it was before is for the caller to compare.

    Args:
        target: the machine.
        deadline: seconds from the request until it must be healthy.

    Returns:
        Seconds that it took.

    Raises:
        BootError: it was not back, or not healthy, in time.
        CommandError: it could not be asked.
    """
    before = boot_id(target)
    begin = time.monotonic()
    end = begin + deadline
    with contextlib.suppress(CommandError, CommandTimeout):  # it may hang up on us
        ssh.run(target, ["systemctl", "reboot"], timeout=_ASK_SECONDS)
    ssh.hang_up(target)
    silent = time.monotonic() + _GOING_DOWN_SECONDS
    while time.monotonic() < silent and ssh.answers(target, _GREETING_SECONDS):
        time.sleep(_LOOK_SECONDS)
    target.known_hosts.unlink(missing_ok=True)
    patience = _FIRST_LOGIN_SECONDS
    while True:
        if time.monotonic() >= end:
            raise BootError(f"the machine did not come back within {deadline:.0f} s of a reboot")
        try:
            if _came_back(target, before, patience):
                break
        except CommandTimeout:
            patience = min(2 * patience, _COMMAND_SECONDS)
        time.sleep(_POLL_SECONDS)
    if not wait_healthy(target, end - time.monotonic()):
        raise BootError(
            f"the machine came back after a reboot, and {time.monotonic() - begin:.0f} s after it "
            f"was asked {HEALTHY_UNIT} was not reached"
        )
    return time.monotonic() - begin


def _came_back(target: SshTarget, before: str, seconds: float) -> bool:
    """Is another boot than *before* running?

    Raises:
        CommandTimeout: a login did not end within *seconds*.
    """
    if not ssh.answers(target, _GREETING_SECONDS):
        return False
    words = ["cat", "/proc/sys/kernel/random/boot_id"]
    try:
        # A connection of its own: a shared one to the old boot would be a trap for what follows.
        now = ssh.run(target, words, timeout=seconds, shared=False).strip()
    except CommandError:
        now = before
    except CommandTimeout:
        target.known_hosts.unlink(missing_ok=True)
        raise
    if now == before:
        target.known_hosts.unlink(missing_ok=True)  # perhaps learnt from the boot that was ending
    return now != before
