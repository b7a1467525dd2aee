"""What may start now: the order of stages, and the host's room for them. Pure, one thread.

Each image goes through its stages in order. A child's first stage waits for its parent's first
stage and for nothing else of it, so that a leaf is being built while its parent is tested.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Task(NamedTuple):
    """One stage of one image."""

    image: str
    stage: str

    def __str__(self) -> str:
        return f"{self.image} {self.stage}"


@dataclass(frozen=True)
class Needs:
    """What a stage takes from the host: processor cores, and memory in MiB."""

    cores: int
    memory: int


class Skipped(NamedTuple):
    """A task that will not be done, and why."""

    task: Task
    why: str


class Graph:
    """The tasks of one run and how far each is.

    Args:
        parents: each image's parent, or None; parents come first. A parent that is not among the
            images is there already.
        stages: the stages in order, each with what it needs.
        capacity: what the host has. A stage that needs more than all of it runs alone.
        finished: tasks that need not be done.
    """

    def __init__(
        self,
        parents: Mapping[str, str | None],
        stages: Mapping[str, Needs],
        capacity: Needs,
        finished: Collection[Task] = (),
    ) -> None:
        self._parents = dict(parents)
        self._stages = list(stages)
        self._capacity = capacity
        self._needs = {
            name: Needs(min(need.cores, capacity.cores), min(need.memory, capacity.memory))
            for name, need in stages.items()
        }
        self._waiting = [Task(i, s) for i in parents for s in stages if Task(i, s) not in finished]
        self._waiting.sort(key=self._urgency)
        self._running: set[Task] = set()
        self._finished: set[Task] = set(finished)
        self._skipped: set[Task] = set()

    @property
    def running(self) -> frozenset[Task]:
        """Tasks that were started and have not ended."""
        return frozenset(self._running)

    @property
    def waiting(self) -> Sequence[Task]:
        """Tasks that were neither started nor skipped."""
        return tuple(self._waiting)

    @property
    def free(self) -> Needs:
        """What the running tasks leave of the host."""
        used = [self._needs[task.stage] for task in self._running]
        return Needs(
            self._capacity.cores - sum(need.cores for need in used),
            self._capacity.memory - sum(need.memory for need in used),
        )

    def startable(self) -> list[Task]:
        """Tasks whose turn it is and that fit beside the running ones, most urgent first.

        Each fits by itself; start one, then ask again.
        """
        free = self.free
        return [task for task in self._waiting if self._may_start(task) and self._fits(task, free)]

    def start(self, task: Task) -> None:
        """Note that *task*, one of :meth:`startable`, is being done."""
        self._waiting.remove(task)
        self._running.add(task)

    def finish(self, task: Task) -> None:
        """Note that a running *task* has succeeded."""
        self._running.remove(task)
        self._finished.add(task)

    def fail(self, task: Task) -> list[Skipped]:
        """Note that a running *task* has failed.

        Returns:
            What will not be done for it: the image's later stages, and every stage of each
            descendant whose first stage has not started.
        """
        self._running.remove(task)
        skipped = [
            Skipped(other, f"{task.stage} failed")
            for other in self._waiting
            if other.image == task.image
        ]
        lost = {task.image}
        for image, parent in self._parents.items():  # parents first: one pass finds them all
            first = Task(image, self._stages[0])
            if parent in lost and first in self._waiting:
                lost.add(image)
                skipped += [
                    Skipped(other, f"parent {task.image} failed at {task.stage}")
                    for other in self._waiting
                    if other.image == image
                ]
        gone = {skip.task for skip in skipped}
        self._waiting = [other for other in self._waiting if other not in gone]
        self._skipped |= gone
        return skipped

    def _may_start(self, task: Task) -> bool:
        place = self._stages.index(task.stage)
        if place > 0:
            return Task(task.image, self._stages[place - 1]) in self._finished
        parent = self._parents[task.image]
        return parent not in self._parents or Task(parent, task.stage) in self._finished

    def _fits(self, task: Task, free: Needs) -> bool:
        need = self._needs[task.stage]
        return need.cores <= free.cores and need.memory <= free.memory

    def _urgency(self, task: Task) -> tuple[int, int]:
        """Early stages first: the most work hangs on them. Then the plan's order."""
        return self._stages.index(task.stage), list(self._parents).index(task.image)
