"""Who follows a run: a live terminal, plain lines, JSON lines, a Markdown summary."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO

from pipeline.cli.summary import markdown
from pipeline.cli.terminal import colour, duration, is_terminal, printable, table, visible_width
from pipeline.clock import iso
from pipeline.engine import monitor as say
from pipeline.engine.monitor import FanOut, Monitor
from pipeline.files import write_atomically
from pipeline.models.run import RunRecord

_PROGRESS_SECONDS = 10.0
_FRAME_SECONDS = 0.1
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_SPINNER = "-\\|/"
_SIGNS: dict[str, tuple[str, str]] = {
    "done": ("✓", "green"),
    "cached": ("✓", "cyan"),
    "failed": ("✗", "red"),
    "interrupted": ("✗", "yellow"),
    "skipped": ("–", ""),
}


def monitors(stream: IO[str], runs: Path, *, as_json: bool) -> FanOut:
    """The monitors that a command wants: one for *stream*, and the Markdown summary.

    Args:
        stream: where a person, or with *as_json* a program, reads.
        runs: ``artifacts/runs``.
        as_json: write one JSON object a line.
    """
    first: Monitor
    if as_json:
        first = JsonLines(stream)
    elif is_terminal(stream):
        first = Live(stream)
    else:
        first = Plain(stream)
    return FanOut([first, Summary(runs)])


class _Lines:
    """What live and plain monitors print alike: lines that stay."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lost: set[str] = set()  # images of which it was told that they will not be done

    def _line(self, text: str) -> None:
        self._stream.write(printable(text, self._stream) + "\n")
        self._stream.flush()

    def _paint(self, text: str, name: str, *, bold: bool = False) -> str:
        return colour(text, name, bold=bold, stream=self._stream)

    def _opening(self, event: say.RunStarted) -> None:
        record = event.record
        count = len(record.images)
        what = f"{count} image{'' if count == 1 else 's'}"
        self._line(f"{self._paint(f'run {record.id}', '', bold=True)}: {what} at {record.version}")
        for name, image in record.images.items():
            why = ", ".join(image.reasons)
            if image.action == "build":
                self._line(f"{name}: to build" + (f": {why}" if why else ""))
            else:
                version = f" ({image.version})" if image.version else ""
                self._line(f"{name}: unchanged{version}")

    def _ending(self, event: say.StageFinished, title: str) -> None:
        if event.status == "skipped":
            if event.image not in self._lost:
                self._line(f"{event.image}: skipped: {event.error}")
            self._lost.add(event.image)
            return
        if event.status == "failed":
            self._lost.add(event.image)
        time_taken = f" in {duration(event.seconds)}" if event.seconds else ""
        status = "FAILED" if event.status == "failed" else event.status
        sign, name = _SIGNS.get(event.status, ("", ""))
        head = (
            f"{self._paint(sign, name)} {title} " if sign and is_terminal(self._stream) else title
        )
        said = self._paint(status, name) if event.status == "failed" else status
        text = f"{head.rstrip()}: {said}"
        if event.status in ("done", "failed", "interrupted"):
            text += time_taken
        more = event.error or event.note
        self._line(text + (f": {more}" if more else ""))
        if "\n" not in event.error:  # a message of several lines has the program's last ones
            for line in event.tail:
                self._line(f"    {line}")
        if event.hint:
            self._line(f"    {event.hint}")

    def _closing(self, record: RunRecord) -> None:
        rows = [
            (name, image.version or "-", image.root_hash[:12] or "-", _state(name, record))
            for name, image in record.images.items()
        ]
        if rows:
            self._line("")
            self._line(table(rows, ("image", "release", "root", "result")))
        self._line(f"run {record.id}: {record.outcome} in {duration(record.seconds or 0.0)}")


class Plain(_Lines):
    """For pipes and logs: one line when a stage starts and ends, and few between."""

    def __init__(self, stream: IO[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._began: dict[tuple[str, str], float] = {}
        self._spoke: dict[tuple[str, str], float] = {}

    def tick(self) -> None:
        """Nothing moves here."""

    def event(self, event: say.Event) -> None:
        """Print what is worth a line."""
        match event:
            case say.RunStarted():
                self._opening(event)
            case say.Notice():
                self._line(event.text)
            case say.StageStarted():
                key = (event.image, event.stage)
                self._began[key] = self._spoke[key] = self._clock()
                self._line(f"{event.image} {event.stage}: started")
            case say.StageWaiting():
                self._line(f"{event.image} {event.stage}: waiting: {event.why}")
            case say.StageProgress():
                self._progress(event)
            case say.StageFinished():
                self._ending(event, f"{event.image} {event.stage}")
            case say.RunFinished():
                self._closing(event.record)

    def _progress(self, event: say.StageProgress) -> None:
        key = (event.image, event.stage)
        at = self._clock()
        if at - self._spoke.get(key, at) < _PROGRESS_SECONDS:
            return
        self._spoke[key] = at
        elapsed = duration(at - self._began[key])
        self._line(f"{event.image} {event.stage}: {elapsed}: {_one_line(event.text)}")


class Live(_Lines):
    """For a terminal: running stages in place at the bottom, what has ended scrolls above.

    Each redraw goes up as many rows as the last one took, counted at the terminal's present
    width: a terminal that was made narrower has broken our lines into more rows meanwhile.
    """

    def __init__(
        self,
        stream: IO[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[], os.terminal_size] = shutil.get_terminal_size,
    ) -> None:
        super().__init__(stream)
        self._clock = clock
        self._size = size
        self._running: dict[tuple[str, str], float] = {}
        self._texts: dict[tuple[str, str], str] = {}
        self._drawn: list[str] = []
        self._frame = 0
        self._last = -math.inf

    def tick(self) -> None:
        """Let the seconds go on."""
        self._draw()

    def event(self, event: say.Event) -> None:
        """Print what stays, and redraw what moves."""
        match event:
            case say.RunStarted():
                self._opening(event)
            case say.Notice():
                self._above(lambda: self._line(event.text))
            case say.StageStarted():
                key = (event.image, event.stage)
                self._running[key] = self._clock()
                self._texts.pop(key, None)
                self._draw(now=True)
            case say.StageWaiting():
                title = f"{event.image} {event.stage}: waiting: {event.why}"
                self._above(lambda: self._line(title))
            case say.StageProgress():
                self._texts[event.image, event.stage] = _one_line(event.text)
                self._draw()
            case say.StageFinished():
                self._running.pop((event.image, event.stage), None)
                self._above(lambda: self._ending(event, f"{event.image} {event.stage}"))
            case say.RunFinished():
                self._erase()
                self._closing(event.record)

    def _above(self, write: Callable[[], None]) -> None:
        self._erase()
        write()
        self._draw(now=True)

    def _draw(self, *, now: bool = False) -> None:
        at = self._clock()
        if not now and at - self._last < _FRAME_SECONDS:
            return
        self._last = at
        self._frame += 1
        size = self._size()
        utf8 = printable(_SPINNER, self._stream) == _SPINNER
        spinner = _SPINNER if utf8 else _ASCII_SPINNER
        sign = spinner[self._frame % len(spinner)]
        lines = [
            f"{sign} {image} {stage} {_elapsed(at - began)}"
            f"  {self._texts.get((image, stage), '')}".rstrip()
            for (image, stage), began in self._running.items()
        ]
        room = max(size.lines - 2, 1)  # never taller than the screen: nothing above can be reached
        if len(lines) > room:
            lines = [*lines[: room - 1], f"  and {len(lines) - room + 1} more"]
        # The last column stays empty: some terminals break a line that is just as wide.
        lines = [printable(line, self._stream)[: max(size.columns - 1, 1)] for line in lines]
        self._stream.write(self._erasing(size.columns) + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = lines

    def _erase(self) -> None:
        self._stream.write(self._erasing(self._size().columns))
        self._stream.flush()
        self._drawn = []

    def _erasing(self, columns: int) -> str:
        """The codes that take away what was drawn: up, then clear to the end of the screen."""
        rows = sum(max(1, math.ceil(visible_width(line) / max(columns, 1))) for line in self._drawn)
        return f"\r\x1b[{rows}A\x1b[J" if rows else ""


class JsonLines:
    """For programs: one JSON object a line, each with ``event``, ``run`` and ``time``.

    The names of events are those of :data:`pipeline.engine.monitor.NAMES`. Fields are only ever
    added. The last line of a run is its ``run.finished``.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._run = ""

    def tick(self) -> None:
        """Nothing moves here."""

    def event(self, event: say.Event) -> None:
        """Write one line."""
        if isinstance(event, say.RunStarted):
            self._run = event.record.id
        head = {"event": say.NAMES[type(event)], "run": self._run, "time": iso(event.when)}
        self._stream.write(json.dumps({**head, **_fields(event)}) + "\n")
        self._stream.flush()


class Summary:
    """Writes ``summary.md`` into the run's folder, and to ``$GITHUB_STEP_SUMMARY`` if set."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs

    def tick(self) -> None:
        """Nothing moves here."""

    def event(self, event: say.Event) -> None:
        """Write it once the run has ended."""
        if not isinstance(event, say.RunFinished):
            return
        folder = self._runs / event.record.id
        text = markdown(event.record, folder)
        write_atomically(folder / "summary.md", text)
        target = os.environ.get("GITHUB_STEP_SUMMARY")
        if target:
            with Path(target).open("a", encoding="utf-8") as file:
                file.write(text)


def _fields(event: say.Event) -> dict[str, object]:
    """What an event says, as JSON-able data."""
    if isinstance(event, say.RunStarted):
        record = event.record
        return {
            "commit": record.commit,
            "version": record.version,
            "stages": list(event.stages),
            "images": {
                name: {
                    "action": image.action,
                    "reasons": list(image.reasons),
                    "build_key": image.build_key,
                    "stages": {stage: r.status for stage, r in image.stages.items()},
                }
                for name, image in record.images.items()
            },
        }
    if isinstance(event, say.RunFinished):
        record = event.record
        return {
            "outcome": record.outcome,
            "exit_code": record.exit_code,
            "seconds": record.seconds,
            "images": {
                name: {
                    "status": image.status,
                    "version": image.version,
                    "root_hash": image.root_hash,
                }
                for name, image in record.images.items()
            },
        }
    plain = {k: v for k, v in vars(event).items() if not isinstance(v, datetime)}
    if "seconds" in plain:
        plain["seconds"] = round(plain["seconds"], 3)
    return plain


def _state(name: str, record: RunRecord) -> str:
    """One image's result in a few words."""
    image = record.images[name]
    for stage, found in image.stages.items():
        if found.status in ("failed", "interrupted"):
            return f"{found.status} at {stage}"
    skipped = [s.error for s in image.stages.values() if s.status == "skipped"]
    if skipped:
        return f"skipped: {skipped[0]}"
    return "unchanged" if image.status == "cached" else image.status


def _elapsed(seconds: float) -> str:
    """A time that is still going on: no tenths, which would only flicker."""
    return f"{int(seconds)}s" if seconds < 60 else duration(seconds)


def _one_line(text: str) -> str:
    """*text* without line breaks, tabs and escape codes, which would move the cursor."""
    return "".join(c if c.isprintable() else " " for c in text).strip()
