"""Read pytest's JUnit report: what ran, what failed, and in which words."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import TestError
from pipeline.models.release import Failure

_MESSAGE_LINES = 6
_MESSAGE_CHARACTERS = 600
# How pytest words a broken fixture; the error's module is of no use to a person.
_FIXTURE = re.compile(r'failed on (?:setup|teardown) with "(?:[\w.]+\.)?(\w+: .*)"', re.DOTALL)


@dataclass(frozen=True)
class Report:
    """What a run of pytest said.

    Attributes:
        ran: names of the tests that passed or failed, each once; a skipped one did not run.
        skipped: how many tests were skipped.
        failures: tests that failed, a broken fixture and a file that cannot be read included.
    """

    ran: tuple[str, ...]
    skipped: int
    failures: tuple[Failure, ...]


def read(path: Path) -> Report:
    """Parse a report.

    Raises:
        TestError: it is missing or broken: pytest came to a sudden end.
    """
    try:
        # Our own child wrote it, from what our own tests say.
        root = ElementTree.parse(path).getroot()  # noqa: S314
    except (OSError, ElementTree.ParseError) as error:
        raise TestError(
            f"pytest left no report ({error})", hint="Its output is in the stage's log."
        ) from error
    skipped = 0
    ran: dict[str, None] = {}
    failures: dict[str, Failure] = {}
    for case in root.iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error")]
        if not bad and case.find("skipped") is not None:
            skipped += 1
            continue
        name = _name(case)
        ran[name] = None  # a test whose teardown fails as well stands twice in the report
        if bad:
            failures.setdefault(name, Failure(test=name, message=_message(bad[0])))
    return Report(tuple(ran), skipped, tuple(failures.values()))


def _name(case: ElementTree.Element) -> str:
    for each in case.iter("property"):
        if each.get("name") == "test":
            return each.get("value", "")
    parts = [case.get("classname"), case.get("name")]  # a file that could not be collected
    return "::".join(part for part in parts if part) or "unknown test"


def _message(problem: ElementTree.Element) -> str:
    """The assertion in a few lines: pytest's summary, else the end of the traceback."""
    text = problem.get("message") or ""
    if text in ("", "collection failure") and problem.text:
        errors = [line[1:].strip() for line in problem.text.splitlines() if line[:2] == "E "]
        text = "\n".join(errors) or problem.text.strip()
    if fixture := _FIXTURE.fullmatch(text):
        text = fixture[1]
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    short = "\n".join(lines[:_MESSAGE_LINES])
    return short if len(short) <= _MESSAGE_CHARACTERS else short[:_MESSAGE_CHARACTERS] + "…"
