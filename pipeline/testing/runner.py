"""Run pytest over the tests of an image, in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import pipeline
from pipeline import command
from pipeline.command import Stop
from pipeline.errors import BootError, HostError, Interrupted, TestError
from pipeline.testing import CHECKS, context

# A run of all tests; a single one that hangs is ended with it, and is the last in the log.
LIMIT_SECONDS = 3600.0

_WATCH_SECONDS = 1.0
_TESTS_FAILED = (1, 2, 5)  # some failed; a file could not be read; there were none
_COUNT = re.compile(r"collected (\d+) item")
_RESULT = re.compile(r"\b(?:PASSED|FAILED|ERROR|SKIPPED)\b")
# The settings of the repository's own tests are none of an image's business.
_INI = """\
[pytest]
junit_family = xunit2
"""


def require() -> None:
    """Check that what runs the tests is installed.

    Raises:
        HostError: pytest or testinfra is missing.
    """
    for module, package in (("pytest", "pytest"), ("testinfra", "pytest-testinfra")):
        if importlib.util.find_spec(module) is None:
            raise HostError(
                f"{package} is not installed",
                hint="Install Recast with what a release engineer needs: "
                "`pip install 'recast[build]'`.",
            )


def arguments(project: Path, folders: Sequence[Path], ini: Path, report: Path) -> list[str]:
    """The command line that runs the tests in *folders*, in this order."""
    return [
        *(sys.executable, "-m", "pytest", "-v", "--tb=short", "--color=no"),
        # Two images may have files of one name.
        *("--import-mode=importlib", "-p", "no:cacheprovider", "--collect-in-virtualenv"),
        # testinfra's own plugin would put the connection into each test's name.
        *("-p", "no:pytest11.testinfra", "-p", "pipeline.testing.plugin"),
        *("-c", str(ini), f"--rootdir={project}", f"--confcutdir={project}"),
        f"--junit-xml={report}",
        *map(str, folders),
    ]


def run(
    *,
    project: Path,
    folders: Sequence[Path],
    told: Path,
    scratch: Path,
    report: Path,
    log: IO[str],
    stop: Stop,
    fault: Callable[[], str | None],
    progress: Callable[[str], None],
    limit: float = LIMIT_SECONDS,
) -> bool:
    """Run the checks of every image and the tests in *folders*.

    Args:
        project: the folder that holds ``images/``.
        folders: folders of tests, parents' first.
        told: the context file (:mod:`pipeline.testing.context`).
        scratch: an empty folder for what pytest needs meanwhile.
        report: where the JUnit report goes.
        log: receives pytest's output.
        stop: ends it when set.
        fault: what is wrong with the machine, if anything; asked each second.
        progress: hears ``7 of 12``.
        limit: seconds for all tests.

    Returns:
        Did pytest end well?

    Raises:
        BootError: the machine stopped meanwhile.
        TestError: pytest itself could not run, or the tests took too long.
        Interrupted: *stop* was set.
    """
    require()
    ini = scratch / "pytest.ini"
    ini.write_text(_INI)
    own = Stop()
    faults: list[str] = []
    argv = arguments(project, [CHECKS, *folders], ini, report)
    with _watch(own, stop, fault, faults):
        try:
            command.run(
                argv,
                log=cast("IO[str]", _Counting(log, progress)),
                env=_environment(told),
                cwd=project,
                timeout=limit,
                stop=own,
            )
        except command.CommandTimeout as error:
            raise TestError(
                f"the tests did not end within {limit:.0f} s",
                hint="The last test in the stage's log is the one that hangs.",
            ) from error
        except command.CommandError as error:
            if error.code not in _TESTS_FAILED:
                raise TestError(f"pytest could not run the tests: {error}") from error
            return False
        except Interrupted:
            stop.check()
            if faults:
                raise BootError(f"the machine stopped while it was tested: {faults[0]}") from None
            raise
    return True


def _environment(told: Path) -> dict[str, str]:
    """Ours, without what would change pytest, and with the way to our own modules."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    above = str(Path(pipeline.__file__).parents[1])
    paths = [above, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **env,
        context.VARIABLE: str(told),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


class _Counting(io.TextIOBase):
    """Passes pytest's output on to the log, and counts the tests that have ended."""

    def __init__(self, log: IO[str], progress: Callable[[str], None]) -> None:
        self._log = log
        self._progress = progress
        self._all = "?"
        self._ended = 0

    def write(self, text: str, /) -> int:
        if found := _COUNT.search(text):
            self._all = found[1]
        elif _RESULT.search(text) and "::" in text and "%]" in text:
            self._ended += 1
            self._progress(f"{self._ended} of {self._all} tests")
        return self._log.write(text)

    def flush(self) -> None:
        self._log.flush()


@contextlib.contextmanager
def _watch(
    own: Stop, stop: Stop, fault: Callable[[], str | None], faults: list[str]
) -> Iterator[None]:
    """While the block runs: end the tests when we are stopped, or the machine has."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_WATCH_SECONDS):
            if stop.is_set():
                own.set()
                return
            why = fault()
            if why is not None:
                faults.append(why)
                own.set()
                return

    watcher = threading.Thread(target=look, name="test-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
