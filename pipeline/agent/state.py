"""What a machine remembers of its updates: one file, replaced whole, on the data partition.

A machine whose data partition is missing, read-only, full or damaged is still updated: it then
remembers in ``/run`` until the next boot, and says so. What must outlive a power cut besides, the
boot loader's entries tell (:mod:`pipeline.agent.settle`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import DiskFullError, HostError
from pipeline.files import locked, write_atomically
from pipeline.models.device import State
from pipeline.models.fields import first_problem

DATA = Path("/data")
LASTING = DATA / "recast/agent"
VOLATILE = Path("/run/recast/agent")
LOCK = Path("/run/recast/agent.lock")

_FILE = "state.json"
_MARKS = "boots"
_MAX_STATE = 4 << 20  # bytes
_MAX_MARKS = 64 << 10
_NEEDED = 64 << 10  # bytes that must be free for anything to be remembered


@dataclass(frozen=True)
class Mark:
    """That a release came as far as its services, in one boot."""

    boot: str
    release: str


class Memory:
    """Loads and saves the :class:`State` of a machine.

    Args:
        folder: where it lasts.
        volatile: where it is kept until the next boot if *folder* cannot be used.
        mount: what must be mounted for *folder* to last; None: nothing.

    Attributes:
        problems: what is wrong with the memory, in sentences for a person on site.
    """

    def __init__(
        self, folder: Path = LASTING, volatile: Path = VOLATILE, *, mount: Path | None = DATA
    ) -> None:
        self.problems: tuple[str, ...] = ()
        self._lasting = folder
        self._volatile = volatile
        self._unusable = _why_unusable(folder, mount)
        if self._unusable:
            self._tell(self._unusable)

    @property
    def folder(self) -> Path:
        """Where whatever else is to be remembered belongs: the lasting folder if it is usable."""
        return self._volatile if self._unusable else self._lasting

    @property
    def lasts(self) -> bool:
        """Will what is saved still be there after the next boot?"""
        return not self._unusable

    def load(self) -> State:
        """What was saved last; a fresh state if there is none, or none that can be read."""
        # What had to be saved in /run in this boot is newer than what the disk has.
        for folder in (self._volatile, self._lasting):
            found = self._read(folder / _FILE)
            if found is not None:
                return found
        return State()

    def save(self, state: State) -> None:
        """Return when *state* is on the medium, or where it is kept until the next boot.

        Raises:
            HostError: it can be kept nowhere.
        """
        data = state.model_dump_json(exclude_defaults=True)
        if not self._unusable:
            try:
                _write(self._lasting / _FILE, data)
            except (OSError, DiskFullError) as error:
                # This does not come back within one turn: half of its steps would be lost.
                self._unusable = _sentence(self._lasting, error)
                self._tell(self._unusable)
            else:
                with contextlib.suppress(OSError):
                    (self._volatile / _FILE).unlink()
                return
        try:
            _write(self._volatile / _FILE, data)
        except (OSError, DiskFullError) as error:
            raise HostError(
                f"what was done cannot be remembered: {error}",
                hint="Reboot the machine; it goes on where it stood.",
            ) from error

    def marks(self) -> tuple[Mark, ...]:
        """The boots that came as far as their services, the oldest first."""
        try:
            with (self._lasting / _MARKS).open("rb") as file:
                lines = file.read(_MAX_MARKS).decode(errors="replace").splitlines()
        except OSError:
            return ()
        parts = (line.split() for line in lines)
        return tuple(Mark(*part) for part in parts if len(part) == 2)

    def _read(self, path: Path) -> State | None:
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_STATE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            if path.parent == self._lasting and self._unusable:
                return None  # the partition is not usable, and that is told
            self._tell(f"what this machine remembered cannot be read: {_reason(error)} ({path})")
            return None
        try:
            return State.model_validate_json(data)
        except ValidationError as error:
            aside = path.with_name(f"{_FILE}.damaged")
            with contextlib.suppress(OSError):
                os.replace(path, aside)
            self._tell(
                f"what this machine remembered was damaged ({first_problem(error)}), and it "
                f"begins anew; the damaged file is kept as {aside}"
            )
            return None

    def _tell(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems = (*self.problems, problem)


@contextlib.contextmanager
def at_work(doing: str, lock: Path = LOCK, *, patience: float = 0.0) -> Iterator[None]:
    """Be the only one who changes this machine's release while the block runs.

    Args:
        doing: what is done, for whoever else wants to: ``recast-agent update``.
        lock: the lock's file.
        patience: seconds to wait for another one.

    Raises:
        BusyError: another one is at it.
    """
    import time

    from pipeline.errors import BusyError

    end = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(
                    locked(
                        lock,
                        what="the update of this machine",
                        wait=False,
                        holder=f"`{doing}` (process {os.getpid()})",
                    )
                )
                break
            except BusyError:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.2)
        yield


def _why_unusable(folder: Path, mount: Path | None) -> str:
    """Why nothing that is put into *folder* lasts; empty if it does."""
    if mount is not None and not _mounted(mount):
        return (
            f"the data partition is not there: nothing is mounted at {mount}, and what this "
            "machine remembers is gone at its next boot"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.statvfs(folder)
        if found.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if found.f_bavail * found.f_frsize < _NEEDED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        return _sentence(folder, error)
    return ""


def _mounted(place: Path) -> bool:
    # The root is an overlay in memory: a folder that nothing is mounted on takes files, and
    # loses them.
    try:
        return os.stat(place).st_dev != os.stat(place.parent).st_dev
    except OSError:
        return False


def _sentence(folder: Path, error: Exception) -> str:
    return (
        f"the data partition cannot be written: {_reason(error)} ({folder}); what this machine "
        "remembers is gone at its next boot"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def _write(path: Path, data: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, data, mode=0o600)
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
