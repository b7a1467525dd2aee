"""What a way of bringing a new release to a machine is, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pipeline import digest
from tests.bench.harness import Timing, timed
from tests.bench.pairs import Pair

MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """What one way takes for one pair.

    Attributes:
        pair: the pair's name.
        flavour: ``ordinary`` or ``ours``: which images.
        way: its name.
        size: bytes that are downloaded.
        requests: with which they are.
        publish_cpu: seconds, to make what is new of this release, once.
        publish_memory: MiB, of the largest process.
        apply_cpu: seconds, on the machine.
        apply_memory: MiB, of the largest process.
        failed: why there are no numbers; empty when there are.
        note: what a reader has to know.
    """

    pair: str
    flavour: str
    way: str
    size: int = 0
    requests: int = 0
    publish_cpu: float = 0.0
    publish_memory: float = 0.0
    apply_cpu: float = 0.0
    apply_memory: float = 0.0
    failed: str = ""
    note: str = ""

    def then(self, other: Row) -> Row:
        """Both, one after the other."""
        return replace(
            self,
            size=self.size + other.size,
            requests=self.requests + other.requests,
            publish_cpu=self.publish_cpu + other.publish_cpu,
            publish_memory=max(self.publish_memory, other.publish_memory),
            apply_cpu=self.apply_cpu + other.apply_cpu,
            apply_memory=max(self.apply_memory, other.apply_memory),
        )


class Way(Protocol):
    """One way to bring a new release to a machine that has an old one."""

    @property
    def name(self) -> str:
        """As in the table: ``casync``."""
        ...

    def serves(self, pair: Pair) -> bool:
        """Is there something to measure for this pair?"""
        ...

    def measure(self, pair: Pair) -> Row:
        """Publish the new release, apply it, check the result, and tell what that took.

        Raises:
            RuntimeError: a tool failed.
            WrongResult: what came out is not the new release.
        """
        ...


class WrongResult(Exception):
    """A way gave something else than the new release."""


class Costs:
    """Adds up what the steps of a way take.

    Args:
        log: gets what the tools print.
        scratch: the folder that they run in; zsync leaves its half-made files there.
    """

    def __init__(self, log: Path, scratch: Path) -> None:
        self._log = log
        self._scratch = scratch
        self._times: dict[str, list[Timing]] = {"publish": [], "apply": []}

    def publish(self, argv: Sequence[str | Path]) -> None:
        """A step of publishing."""
        self._times["publish"].append(self._run(argv))

    def apply(self, argv: Sequence[str | Path]) -> None:
        """A step on the machine."""
        self._times["apply"].append(self._run(argv))

    def aside(self, argv: Sequence[str | Path]) -> None:
        """A step that belongs to neither: the release before, a check."""
        self._run(argv)

    def _run(self, argv: Sequence[str | Path]) -> Timing:
        return timed(argv, cwd=self._scratch, log=self._log)

    def row(self, pair: Pair, way: str, *, size: int, requests: int, note: str = "") -> Row:
        """What there is to tell."""
        return Row(
            pair.name,
            pair.new.flavour,
            way,
            size=size,
            requests=requests,
            publish_cpu=self._cpu("publish"),
            publish_memory=self._memory("publish"),
            apply_cpu=self._cpu("apply"),
            apply_memory=self._memory("apply"),
            note=note,
        )

    def _cpu(self, what: str) -> float:
        return sum(each.cpu_seconds for each in self._times[what])

    def _memory(self, what: str) -> float:
        return max((each.peak_rss for each in self._times[what]), default=0) / MIB


def require_equal(made: Path, wanted: Path) -> None:
    """Is *made* what it should be?

    Raises:
        WrongResult: it is not.
    """
    if made.stat().st_size != wanted.stat().st_size or digest.of_file(made) != digest.of_file(
        wanted
    ):
        raise WrongResult(f"{made.name} is not {wanted}")
