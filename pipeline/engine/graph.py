"""What may start now: the order of stages, and the host's room for them. Pure, one thread.

Each image goes through its stages in order. Some stages of a child wait for the same stage of its
parent, and for nothing else of it, so that a leaf is being built while its parent is tested.
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
        after_parent: stages that stand on the same stage of the parent.
    """

    def __init__(
        self,
        parents: Mapping[str, str | None],
        stages: Mapping[str, Needs],
        capacity: Needs,
        finished: Collection[Task] = (),
        after_parent: Collection[str] = (),
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
        self._after_parent = frozenset(after_parent)
        self._lost: set[Task] = set()  # failed or skipped

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
            What will not be done for it: the image's later stages, every stage of each descendant
            that has not begun, and of one that has what stands on a stage that is lost.
        """
        self._running.remove(task)
        self._lost.add(task)
        skipped: list[Skipped] = []
        poor = {task.image}
        for image, parent in self._parents.items():  # parents first: one pass finds them all
            why = (
                f"{task.stage} failed"
                if image == task.image
                else f"parent {task.image} failed at {task.stage}"
            )
            for stage in self._stages:
                other = Task(image, stage)
                if other in self._waiting and self._is_lost(other, parent in poor):
                    self._waiting.remove(other)
                    self._lost.add(other)
                    skipped.append(Skipped(other, why))
                    poor.add(image)
        return skipped

    def _is_lost(self, task: Task, parent_is_poor: bool) -> bool:
        """Can this waiting task never start, or should its image not even begin?"""
        if task.stage == self._stages[0] and parent_is_poor:
            return True
        return any(other in self._lost for other in self._before(task))

    def _before(self, task: Task) -> list[Task]:
        """The tasks that must have succeeded before this one."""
        place = self._stages.index(task.stage)
        before = [Task(task.image, self._stages[place - 1])] if place else []
        parent = self._parents[task.image]
        if parent in self._parents and task.stage in self._after_parent:
            assert parent is not None
            before.append(Task(parent, task.stage))
        return before

    def _may_start(self, task: Task) -> bool:
        return all(other in self._finished for other in self._before(task))

    def _fits(self, task: Task, free: Needs) -> bool:
        need = self._needs[task.stage]
        return need.cores <= free.cores and need.memory <= free.memory

    def _urgency(self, task: Task) -> tuple[int, int]:
        """Early stages first: the most work hangs on them. Then the plan's order."""
        return self._stages.index(task.stage), list(self._parents).index(task.image)
