"""Run records on disk: ``artifacts/runs/<id>/run.json`` and the logs beside it."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from pydantic import ValidationError

from pipeline.clock import compact, now
from pipeline.errors import UsageError
from pipeline.files import write_atomically
from pipeline.models.run import Process, RunRecord

_RECORD = "run.json"


def new_id() -> str:
    """``20260301.120000-1f3a``: sorts by time, and two of one second differ."""
    return f"{compact(now())}-{secrets.token_hex(2)}"


def process(pid: int | None = None) -> Process | None:
    """Who process *pid* is (ourselves if not given); None when there is no such process."""
    number = os.getpid() if pid is None else pid
    try:
        text = Path(f"/proc/{number}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # Fields after the command's name, which is in brackets and may hold anything: proc(5).
    state, *fields = text.rpartition(")")[2].split()
    if state in ("Z", "X"):
        return None
    return Process(pid=number, ticks=int(fields[18]), boot=boot)


def is_alive(known: Process) -> bool:
    """Does that very process still run?"""
    return process(known.pid) == known


class Runs:
    """The runs of one artifacts folder.

    Args:
        folder: ``artifacts/runs``; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, run: str) -> Path:
        """The folder of one run."""
        return self.folder / run

    def log_path(self, run: str, image: str, stage: str) -> Path:
        """The log file of one stage of one image in one run."""
        return self.folder / run / f"{image}.{stage}.log"

    def save(self, record: RunRecord) -> None:
        """Write *record*, in place of what was known of that run.

        Raises:
            DiskFullError: no space is left.
        """
        text = record.model_dump_json(indent=1)
        write_atomically(self.folder / record.id / _RECORD, text + "\n")

    def load(self, run: str) -> RunRecord:
        """The record of the run with just this id; a killed run's says ``interrupted``.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        path = self.folder / run / _RECORD
        try:
            record = RunRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UsageError(
                f"the record of run {run} cannot be read: {_first_line(error)}",
                hint="`recast runs` lists the runs that are known.",
            ) from error
        if record.outcome == "running" and not is_alive(record.process):
            return record.abandoned()
        return record

    def ids(self) -> list[str]:
        """The ids of all runs, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path.parent.name for path in self.folder.glob(f"*/{_RECORD}"))

    def list(self, most: int | None = None) -> list[RunRecord]:
        """The records that can be read, newest first; *most* of them, or all."""
        records: list[RunRecord] = []
        for run in reversed(self.ids()):
            if most is not None and len(records) == most:
                break
            with contextlib.suppress(UsageError):
                records.append(self.load(run))
        return records

    def find(self, word: str) -> RunRecord:
        """The run that *word* means: ``last``, an id, or the beginning of just one.

        Raises:
            UsageError: it means none, or several.
        """
        ids = self.ids()
        if word == "last" and ids:
            return self.load(ids[-1])
        found = [word] if word in ids else [run for run in ids if run.startswith(word)]
        if len(found) == 1 and word:
            return self.load(found[0])
        if not ids:
            raise UsageError("there has been no run yet", hint="`recast run` makes the first.")
        if len(found) > 1:
            shown = ", ".join(found[-5:])
            raise UsageError(
                f"`{word}` is the beginning of {len(found)} runs", hint=f"Such as: {shown}."
            )
        raise UsageError(
            f"there is no run `{word}`", hint="`recast runs` lists them; `last` is the newest."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
