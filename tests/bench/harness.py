"""Finding benches, timing commands, and telling what came out.

A bench is a public function of a module ``tests/bench/bench_*.py`` whose name begins with
``bench_``. It takes nothing and yields (or returns one, or a list of) :class:`Record`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.files import write_atomically

Bench = Callable[[], object]


@dataclass(frozen=True)
class Record:
    """One comparison; smaller is better.

    Attributes:
        bench: its name, ``<area>.<what>``.
        ours: what Recast takes.
        peer: what the other takes; for a plain limit, the limit.
        unit: of both: ``s``, ``bytes``, ``MiB``.
        ratio: ours / peer.
        goal: the largest ratio that is wanted.
        met: is it?
    """

    bench: str
    ours: float
    peer: float
    unit: str
    ratio: float
    goal: float
    met: bool


def compare(bench: str, ours: float, peer: float, *, unit: str, goal: float) -> Record:
    """Our number against a peer's; the goal is the largest ratio that is wanted.

    Raises:
        ValueError: the peer's number is not positive: nothing was measured.
    """
    if peer <= 0:
        raise ValueError(f"{bench}: the peer's number is {peer}: nothing was measured")
    ratio = ours / peer
    return Record(bench, round(ours, 3), round(peer, 3), unit, round(ratio, 4), goal, ratio <= goal)


def within(bench: str, ours: float, limit: float, *, unit: str) -> Record:
    """Our number against a fixed limit."""
    return compare(bench, ours, limit, unit=unit, goal=1.0)


@dataclass(frozen=True)
class Timing:
    """What a command took.

    Attributes:
        seconds: wall clock.
        cpu_seconds: user and system time of it and of the children that it waited for.
        peak_rss: the largest resident set of any one of those processes, in bytes.
    """

    seconds: float
    cpu_seconds: float
    peak_rss: int


def timed(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout: float = 3600,
) -> Timing:
    """Run a command once and measure it.

    It is started by a small process of its own: the kernel keeps the peak of all children of a
    process together, and an earlier, larger one would hide this one.

    Args:
        argv: the command.
        cwd: its folder.
        env: its whole environment; ours when not given.
        log: where its output is appended; thrown away when not given.
        timeout: seconds until it is killed.

    Raises:
        RuntimeError: it failed or took too long; the message holds the end of its output.
    """
    words = [str(word) for word in argv]
    reading, writing = os.pipe()
    watcher = [sys.executable, "-I", str(Path(__file__).resolve()), str(writing), *words]
    log = log or Path(os.devnull)
    with os.fdopen(reading) as report, log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            watcher,
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        try:
            code = process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{words[0]} did not end within {timeout:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        told = report.read()
    if code or not told:
        with log.open("rb") as output:
            output.seek(start)
            tail = output.read()[-4000:].decode(errors="replace")
        raise RuntimeError(f"{' '.join(words)} ended with code {code}\n{tail}")
    return Timing(**json.loads(told))


def fastest(times: int, measure: Callable[[], Timing]) -> Timing:
    """The fastest of several measurements: what the machine can do when nothing disturbs it."""
    return min((measure() for _ in range(times)), key=lambda timing: timing.seconds)


def find_benches(folder: Path, package: str = "tests.bench") -> Iterator[tuple[str, Bench]]:
    """Every bench below *folder*, by module and in the order of definition."""
    for path in sorted(folder.glob("bench_*.py")):
        module = importlib.import_module(f"{package}.{path.stem}")
        yield from _benches_of(module)


def _benches_of(module: ModuleType) -> Iterator[tuple[str, Bench]]:
    for name, function in vars(module).items():
        if (
            name.startswith("bench_")
            and inspect.isfunction(function)
            and function.__module__ == module.__name__
        ):
            yield f"{module.__name__.rpartition('.')[2]}.{name}", function


def records_of(outcome: object) -> Iterator[Record]:
    """What a bench gave, one record at a time, measured as it is asked for.

    Raises:
        TypeError: it is neither a record nor several.
    """
    if isinstance(outcome, Record):
        yield outcome
        return
    if not isinstance(outcome, Iterable):
        raise TypeError(f"a bench gives Records, not {type(outcome).__name__}")
    for record in outcome:
        if not isinstance(record, Record):
            raise TypeError(f"a bench gives Records, not {type(record).__name__}")
        yield record


def save(records: Sequence[Record], path: Path) -> None:
    """Write *records* as a JSON list, all or nothing."""
    rows: list[dict[str, Any]] = [asdict(record) for record in records]
    write_atomically(path, json.dumps(rows, indent=2) + "\n")


def as_table(records: Sequence[Record]) -> str:
    """*records* for a person; what misses its goal says so in capitals."""
    rows = [("bench", "ours", "peer", "unit", "ratio", "goal", "met")]
    rows += [
        (
            r.bench,
            f"{r.ours:g}",
            f"{r.peer:g}",
            r.unit,
            f"{r.ratio:.3f}",
            f"≤ {r.goal:g}",
            "yes" if r.met else "NO",
        )
        for r in records
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = {0, 3, 6}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _watch(report: int, argv: list[str]) -> int:
    """Be the small process: run *argv*, write what it took to *report*."""
    os.set_inheritable(report, False)
    start = time.monotonic()
    code = subprocess.run(argv, check=False).returncode
    seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code == 0:
        told = {
            "seconds": seconds,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_rss": used.ru_maxrss * 1024,
        }
        os.write(report, json.dumps(told).encode())
    return code if 0 <= code < 256 else 1


if __name__ == "__main__":
    sys.exit(_watch(int(sys.argv[1]), sys.argv[2:]))
