"""The machine that the agent runs on: what runs, how it fares, and its next boot."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.agent.efi import booted_entry
from pipeline.command import CommandError, CommandTimeout, run
from pipeline.errors import HostError, RecastError

if TYPE_CHECKING:
    from pipeline.models.device import Running

NEXT = "recast-agent-next"
"""Name of the timer and the service that start the agent again."""

AGENT = "recast-agent.service"
HEALTH = "recast-health.service"
HOOKS = ("etc/recast/pre-reboot.d", "usr/lib/recast/pre-reboot.d")
"""Where programs lie that may ask for no reboot; one in the first hides its namesake."""

_SECONDS = 30.0  # for a question to systemd
_HOOK_SECONDS = 60.0
_MAX_WAKE = 7 * 86400.0
_MAX_TOLD = 20  # complaints; the rest are counted
_MAX_WORDS = 200
# The data partition is the machine's own: where it is damaged, no other release would do better.
# recast-health leaves out the same units.
_OWN = re.compile(
    r"data\.mount|recast-persist\.(service|target)"
    r"|systemd-fsck@dev-disk-by.*recast.*data\.service"
)
_CHECK_FAILED = re.compile(r"health check (\S+) failed")
_UNIT_FAILED = re.compile(r"unit (\S+) failed")
_INHIBITORS = (
    "busctl", "--json=short", "call", "org.freedesktop.login1", "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager", "ListInhibitors",
)  # fmt: skip


class RealMachine:
    """A :class:`pipeline.agent.base.Machine` that is one.

    Args:
        esp: where the EFI system partition is mounted.
        root: the folder that is the machine's ``/``.
    """

    def __init__(self, esp: Path = Path("/efi"), *, root: Path = Path("/")) -> None:
        self._esp = esp
        self._root = root

    def running(self) -> Running:
        """What runs now.

        Raises:
            HostError: this is no machine that Recast made.
        """
        from pydantic import ValidationError

        from pipeline.models.device import Running

        words = self._text("proc/cmdline").split()
        told = dict(word.split("=", 1) for word in words if "=" in word)  # the last one holds
        image, _, rest = told.get("recast.release", "").partition("_")
        version, _, arch = rest.rpartition("_")
        entry = booted_entry(self._root / "sys/firmware/efi/efivars", self._esp)
        try:
            if not (image and version and arch):
                raise ValueError("recast.release= is not on it")
            return Running(
                image=image,
                version=version,
                arch=arch,
                root_hash=told.get("roothash", "").lower(),
                boot_id=self._text("proc/sys/kernel/random/boot_id").strip(),
                uptime=self._uptime(),
                entry=entry.id,
                tries_left=entry.tries_left,
                complete=self._complete(),
            )
        except ValueError as error:
            wrong = isinstance(error, ValidationError)
            why = "roothash= is not on it" if wrong else str(error)
            raise HostError(
                f"this machine does not run a release of Recast: its kernel's command line does "
                f"not name one ({why})",
                hint="`recast-agent install` puts one on a disk.",
            ) from error

    def complaints(self) -> tuple[str, ...]:
        """Why this boot is not healthy, in words: failed units and health checks; none if it is."""
        try:
            failed = [unit for unit in self._failed_units() if not _OWN.fullmatch(unit)]
        except RecastError as error:
            return (f"systemd does not answer: {_last_line(error)}",)
        found: list[str] = []
        if HEALTH in failed:
            found += self._failed_checks(failed)
            # It fails for the other units' sake as well: then it has nothing to add.
            others = [unit for unit in failed if unit != HEALTH]
            failed = others if others or found else failed
        for unit in failed[:_MAX_TOLD]:
            words = self._said(unit, 1)
            found.append(f"unit {unit} failed" + (f": {_short(words[-1])}" if words else ""))
        if len(failed) > _MAX_TOLD:
            found.append(f"{len(failed) - _MAX_TOLD} more units failed")
        return tuple(found)

    def obstacles(self) -> tuple[str, ...]:
        """What asks for no reboot now: inhibitors, and hooks in ``pre-reboot.d`` that refuse."""
        return (*_inhibitors(), *(reason for hook in self._hooks() if (reason := _refusal(hook))))

    def reboot(self) -> None:
        """Begin an orderly reboot; returns at once.

        Who asked for it has looked at :meth:`obstacles`, or leaves a release that is not healthy:
        inhibitors are not asked again here.

        Raises:
            HostError: it could not be begun.
        """
        argv = ["systemctl", "--no-block", "--check-inhibitors=no", "reboot"]
        try:
            run(argv, timeout=_SECONDS)
        except (CommandError, CommandTimeout) as error:
            raise HostError(
                f"this machine cannot be rebooted: {_last_line(error)}",
                hint="Reboot it by hand: the new release is tried at the next boot.",
            ) from error

    def wake(self, seconds: float) -> None:
        """Have the agent run again after *seconds*; replaces an earlier call."""
        # Where this fails the agent's own timer is left, which is slower but always there.
        with contextlib.suppress(RecastError):
            stop = ["systemctl", "stop", f"{NEXT}.timer"]
            with contextlib.suppress(CommandError):  # there is none
                run(stop, timeout=_SECONDS)
            delay = round(min(max(seconds, 1.0), _MAX_WAKE))
            timer = ["systemd-run", "--quiet", "--collect", f"--unit={NEXT}"]
            when = [f"--on-active={delay}s", "--timer-property=AccuracySec=1s"]
            what = ["systemctl", "start", "--no-block", AGENT]
            run([*timer, *when, *what], timeout=_SECONDS)

    def _text(self, path: str) -> str:
        try:
            return (self._root / path).read_text(errors="replace")
        except OSError as error:
            raise HostError(f"/{path} cannot be read: {error.strerror or error}") from error

    def _uptime(self) -> float:
        return float(self._text("proc/uptime").split()[0])

    def _complete(self) -> bool:
        try:
            run(["systemctl", "is-active", "--quiet", "boot-complete.target"], timeout=_SECONDS)
        except RecastError:
            return False
        return True

    def _failed_units(self) -> list[str]:
        argv = ["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"]
        listed = run([*argv, "--no-pager"], timeout=_SECONDS, separate=True).stdout
        return [line.split()[0] for line in listed.splitlines() if line.strip()]

    def _failed_checks(self, failed: Sequence[str]) -> list[str]:
        """What recast-health found in this boot; a unit that is still failed is told elsewhere."""
        found: list[str] = []
        before = ""
        for line in self._said(HEALTH, 500):
            check, unit = _CHECK_FAILED.fullmatch(line), _UNIT_FAILED.fullmatch(line)
            if check:
                found.append(f"{line}" + (f": {_short(before)}" if before else ""))
            elif unit and unit[1] not in failed:
                found.append(f"{line}, and is up now")
            before = "" if check or unit else line
        return found

    def _said(self, unit: str, lines: int) -> list[str]:
        """The last lines that a unit's own programs wrote in this boot."""
        argv = ["journalctl", "--boot", "--quiet", "--no-pager", "--output=cat"]
        try:
            found = run(
                [*argv, f"--lines={lines}", f"_SYSTEMD_UNIT={unit}"],
                timeout=_SECONDS,
                separate=True,
            )
        except RecastError:  # a machine without a journal has no less of a problem
            return []
        return [line.strip() for line in found.stdout.splitlines() if line.strip()]

    def _hooks(self) -> Iterable[Path]:
        hooks: dict[str, Path] = {}
        for folder in reversed(HOOKS):
            with contextlib.suppress(OSError):
                hooks.update((each.name, each) for each in (self._root / folder).iterdir())
        for name, path in sorted(hooks.items()):
            hidden = name.startswith(".") or name.endswith("~")
            if not hidden and path.is_file() and os.access(path, os.X_OK):
                yield path


def _inhibitors() -> Iterable[str]:
    """What systemd-inhibit would list; its own list is a table that cannot be read safely."""
    try:
        answer = json.loads(run(_INHIBITORS, timeout=_SECONDS, separate=True).stdout)
        rows = [tuple(map(str, row[:4])) for row in answer["data"][0]]
    except (RecastError, ValueError, LookupError, TypeError):
        return  # without logind nobody can ask for anything
    for what, who, why, mode in (row for row in rows if len(row) == 4):
        # `block`, and since systemd 257 `block-weak`.
        if "shutdown" in what.split(":") and mode.startswith("block"):
            yield f"{_short(who)} asks for no reboot: {_short(why)}"


def _refusal(hook: Path) -> str:
    """Why a hook wants no reboot now; empty if it does not mind."""
    try:
        run([str(hook)], timeout=_HOOK_SECONDS)
    except CommandError as error:
        last = _short(error.tail[-1]) if error.tail and error.tail[-1] else ""
        return f"{hook.name} says not now: {last or f'it ended with code {error.code}'}"
    except CommandTimeout:
        return f"{hook.name} says not now: it did not end within {_HOOK_SECONDS:.0f} s"
    except (RecastError, OSError) as error:
        return f"{hook.name} cannot be started: {_short(str(error))}"
    return ""


def _last_line(error: RecastError) -> str:
    return _short(str(error).splitlines()[-1].strip())


def _short(text: str) -> str:
    """One line of bounded length, without what would change a terminal."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return plain if len(plain) <= _MAX_WORDS else plain[: _MAX_WORDS - 1] + "…"
