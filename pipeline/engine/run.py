"""Executes a plan: stages in parallel within the host's room, with a record of every step.

One thread, the caller's, decides and writes; each running stage has a thread of its own that
only runs that stage. They speak to the first through a queue, and so do signals, so nothing
here is shared and nothing needs a lock.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.clock import now
from pipeline.command import Stop
from pipeline.engine import monitor as say
from pipeline.engine import runs as records
from pipeline.engine import workdirs
from pipeline.engine.graph import Graph, Needs, Task
from pipeline.engine.host import capacity
from pipeline.engine.logs import Log, tail_of
from pipeline.engine.signals import caught
from pipeline.errors import BusyError, Interrupted, RecastError
from pipeline.files import locked
from pipeline.models.run import ImageRun, RunRecord, StageRecord, StageStatus

if TYPE_CHECKING:
    from pipeline.engine.plan import Plan, PlannedImage
    from pipeline.engine.stage import Outcome, Stage, Work

BUILD, ASSEMBLE, TEST = "build", "assemble", "test"
"""Stages whose work the plan knows about; others say themselves whether theirs is done."""

_TICK_SECONDS = 0.25


class WorkFactory(Protocol):
    """Makes what the stages of one image are given."""

    def __call__(self, planned: PlannedImage, plan: Plan, scratch: Path, stop: Stop, /) -> Work:
        """The work for *planned*, in a *scratch* folder of its own that exists."""


@dataclass(frozen=True)
class Options:
    """How a plan is executed.

    Attributes:
        artifacts: the store's folder.
        jobs: stages at once; as many as the host has cores if None.
        command: what the person typed, for the record.
        force: images whose stages run even if their results are there.
        trees: images whose trees, and their parents', are needed even if nothing is built.
        memory: MiB to share out; what is available now if None.
    """

    artifacts: Path
    jobs: int | None = None
    command: str = "run"
    force: frozenset[str] = frozenset()
    trees: frozenset[str] = frozenset()
    memory: int | None = None


def execute(
    plan: Plan,
    stages: Sequence[Stage],
    make_work: WorkFactory,
    monitor: say.Monitor,
    options: Options,
    stop: Stop | None = None,
) -> RunRecord:
    """Do what *plan* says, and return the record of what was done.

    A stage's failure is part of the record, not an exception: other images go on. On Ctrl-C,
    SIGTERM or SIGHUP, or when *stop* is set, stages unwind, and the record says ``interrupted``.

    Args:
        plan: what to do; parents come before children.
        stages: the stages in order.
        make_work: gives each image's stages what they need.
        monitor: hears of everything.
        options: see there.
        stop: may be set from elsewhere.

    Raises:
        RecastError: it could not begin, or the record could not be written. Whatever had been
            started has ended then.
    """
    run = records.new_id()
    inbox: _Inbox = queue.SimpleQueue()

    def notice(text: str) -> None:
        monitor.event(say.Notice(now(), text))

    with (
        caught(lambda number: inbox.put(_Signal(number))),
        workdirs.claim(options.artifacts / "work", run, notice) as scratch,
    ):
        return _Run(run, plan, stages, monitor, options, stop or Stop(), inbox).go(
            make_work, scratch
        )


@dataclass(frozen=True)
class _Ended:
    """A stage's thread has come to its end."""

    task: Task
    outcome: Outcome | BaseException


@dataclass(frozen=True)
class _Progress:
    task: Task
    text: str


@dataclass(frozen=True)
class _Signal:
    number: int


_Inbox = queue.SimpleQueue[_Ended | _Progress | _Signal]


class _Run:
    """The state of one execution; all methods are called by one thread, but `_work`."""

    def __init__(
        self,
        run: str,
        plan: Plan,
        stages: Sequence[Stage],
        monitor: say.Monitor,
        options: Options,
        stop: Stop,
        inbox: _Inbox,
    ) -> None:
        self._plan = plan
        self._stages = {stage.name: stage for stage in stages}
        self._monitor = monitor
        self._options = options
        self._stop = stop
        self._inbox = inbox
        self._store = records.Runs(options.artifacts / "runs")
        self._works: dict[str, Work] = {}
        self._threads: dict[Task, threading.Thread] = {}
        self._locks: dict[Task, contextlib.ExitStack] = {}
        self._waits: set[Task] = set()
        self._clocks: dict[Task, float] = {}
        self._began = time.monotonic()
        self._failure: int | None = None
        self._stopping = False
        me = records.process()
        assert me is not None
        self._record = RunRecord(
            id=run,
            started=now(),
            commit=plan.source.commit,
            version=plan.source.version,
            command=options.command,
            process=me,
        )

    def go(self, make_work: WorkFactory, scratch: Path) -> RunRecord:
        """Run to the end."""
        for planned in self._plan.images:
            own = scratch / planned.image
            own.mkdir()
            work = make_work(planned, self._plan, own, self._stop)
            work.force = planned.image in self._options.force
            work.run = self._record.id
            self._works[planned.image] = work
        finished = self._finished_before()
        builds = BUILD in self._stages  # otherwise parents are there already: nothing waits
        self._graph = Graph(
            {planned.image: planned.parent if builds else None for planned in self._plan.images},
            {name: Needs(stage.cores, stage.memory) for name, stage in self._stages.items()},
            capacity(self._options.jobs, self._options.memory),
            finished,
            after_parent=(BUILD, ASSEMBLE),  # a manifest names the release of its parent
        )
        images = {planned.image: self._image(planned, finished) for planned in self._plan.images}
        self._record = self._record.model_copy(update={"images": images})
        self._store.save(self._record)
        self._tell(say.RunStarted(now(), self._record, tuple(self._stages)))
        for note in self._plan.notes:
            self._notice(note)
        try:
            self._loop()
        finally:
            self._unwind()
        return self._close()

    def _finished_before(self) -> set[Task]:
        """What the plan knows to be done: nothing of it is even looked at again."""
        found: set[Task] = set()
        wanted: set[str | None] = set(self._options.trees)  # whose trees something stands on
        for planned in reversed(self._plan.images):
            name, work = planned.image, self._works[planned.image]
            known = planned.action == "unchanged" and work.release is not None and not work.force
            lost = name in wanted and BUILD in self._stages and not work.tree.is_dir()
            if not known or lost or name in self._options.trees:
                wanted.add(planned.parent)
            if known and not lost:
                # A lost tree is made again, and may then come to another root: all stages look.
                found |= {Task(name, BUILD), Task(name, ASSEMBLE)}
                if not planned.test:
                    found.add(Task(name, TEST))
        return {task for task in found if task.stage in self._stages}

    def _image(self, planned: PlannedImage, finished: set[Task]) -> ImageRun:
        release = self._works[planned.image].release
        stages = {
            name: StageRecord(
                status="cached" if Task(planned.image, name) in finished else "waiting"
            )
            for name in self._stages
        }
        return ImageRun(
            action=planned.action,
            reasons=planned.reasons,
            build_key=planned.build_key,
            version=release.version if release else "",
            root_hash=release.root_hash if release else "",
            stages=stages,
        )

    def _loop(self) -> None:
        while True:
            if self._stop.is_set():
                self._begin_stop("")
            else:
                self._start_what_may()
            if not self._graph.running and (self._stopping or not self._graph.waiting):
                return
            try:
                message = self._inbox.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                self._monitor.tick()
                continue
            self._handle(message)

    def _handle(self, message: _Ended | _Progress | _Signal) -> None:
        if isinstance(message, _Signal):
            self._begin_stop(signal.Signals(message.number).name)
        elif isinstance(message, _Progress):
            self._tell(say.StageProgress(now(), *message.task, message.text))
        else:
            self._ended(message.task, message.outcome)

    def _begin_stop(self, name: str) -> None:
        if not self._stopping:
            self._stopping = True
            self._stop.set()
            what = ", ".join(str(task) for task in sorted(self._graph.running))
            self._notice(f"stopping{f' on {name}' if name else ''}" + (f": {what}" if what else ""))
        elif name:
            self._notice("stopping already; what was started is being undone")

    def _start_what_may(self) -> None:
        refused: set[Task] = set()
        while tasks := [task for task in self._graph.startable() if task not in refused]:
            task = tasks[0]
            lock = self._take_lock(task)
            if lock is None:
                refused.add(task)
                continue
            self._locks[task] = lock
            self._graph.start(task)
            self._start(task)

    def _take_lock(self, task: Task) -> contextlib.ExitStack | None:
        """The image's lock in this store; None while another run has it."""
        path = self._options.artifacts / "cache" / "locks" / f"{task.image}.lock"
        holder = f"run {self._record.id} (process {os.getpid()})"
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(locked(path, what=task.image, wait=False, holder=holder))
        except BusyError as busy:
            if task not in self._waits:
                self._waits.add(task)
                self._tell(say.StageWaiting(now(), *task, busy.message))
            return None
        self._waits.discard(task)
        return stack

    def _start(self, task: Task) -> None:
        path = self._store.log_path(self._record.id, *task)
        work = self._works[task.image]
        work.log = Log(path)
        work.report = lambda text: self._inbox.put(_Progress(task, text))
        work.note = ""
        self._clocks[task] = time.monotonic()
        self._note(task, StageRecord(status="running", started=now(), log=path.name))
        self._tell(say.StageStarted(now(), *task))
        thread = threading.Thread(target=self._work, args=(task, work), name=str(task))
        self._threads[task] = thread
        thread.start()

    def _work(self, task: Task, work: Work) -> None:
        """Run one stage; in a thread of its own."""
        outcome: Outcome | BaseException
        try:
            self._stop.check()
            outcome = self._stages[task.stage].run(work)
        except BaseException as error:
            outcome = error
        self._inbox.put(_Ended(task, outcome))

    def _ended(self, task: Task, outcome: Outcome | BaseException) -> None:
        self._threads.pop(task).join()
        self._locks.pop(task).close()
        seconds = time.monotonic() - self._clocks[task]
        work = self._works[task.image]
        tail = tail_of(self._store.log_path(self._record.id, *task))
        status, error, hint = self._judge(outcome, work, tail)
        with contextlib.suppress(OSError):
            work.log.close()
        old = self._record.images[task.image].stages[task.stage]
        new = {"status": status, "seconds": round(seconds, 3), "error": error, "hint": hint}
        self._note_release(task.image, work)
        self._note(task, old.model_copy(update={**new, "note": work.note}))
        image = self._record.images[task.image]
        self._tell(
            say.StageFinished(
                now(), *task, status, seconds, error, hint,
                tail=tail if status == "failed" else (),
                version=image.version, root_hash=image.root_hash, note=work.note,
            )
        )  # fmt: skip
        if status in ("done", "cached"):
            self._graph.finish(task)
        else:
            self._skip_after(task, status)
        if status == "interrupted":
            self._begin_stop("")

    def _judge(
        self, outcome: Outcome | BaseException, work: Work, tail: Sequence[str]
    ) -> tuple[StageStatus, str, str]:
        """What a stage's end means: its status, the error's sentence and hint."""
        if isinstance(outcome, str):
            return outcome, "", ""
        if isinstance(outcome, (Interrupted, KeyboardInterrupt)) or self._stop.is_set():
            # A program that ends badly while everything is being ended has not failed.
            work.log.write(f"\n{outcome}\n")
            return "interrupted", "", ""
        if isinstance(outcome, RecastError):
            if outcome.message.split("\n")[0] not in "\n".join(tail):  # else it was told
                work.log.write(f"\n{outcome.message}\n")
            self._failure = self._failure or outcome.exit_code
            return "failed", outcome.message, outcome.hint
        work.log.write("\n" + "".join(traceback.format_exception(outcome)))
        self._failure = self._failure or RecastError.exit_code
        return (
            "failed",
            f"something went wrong that should not have: {type(outcome).__name__}: {outcome}",
            "The log has the details; please report them.",
        )

    def _skip_after(self, task: Task, status: StageStatus) -> None:
        for skipped, why in self._graph.fail(task):
            if status == "interrupted":
                self._note(skipped, StageRecord(status="interrupted"))
                continue
            self._note(skipped, StageRecord(status="skipped", error=why))
            self._tell(say.StageFinished(now(), *skipped, "skipped", 0.0, why))

    def _note_release(self, image: str, work: Work) -> None:
        if work.release is not None:
            new = {"version": work.release.version, "root_hash": work.release.root_hash}
            run = self._record.images[image].model_copy(update=new)
            images = {**self._record.images, image: run}
            self._record = self._record.model_copy(update={"images": images})

    def _note(self, task: Task, record: StageRecord) -> None:
        self._record = self._record.with_stage(*task, record)
        self._store.save(self._record)

    def _unwind(self) -> None:
        """Whatever happens: no thread, program or lock of this run outlives it."""
        if self._threads:
            self._stop.set()
        for thread in self._threads.values():
            thread.join()
        for lock in self._locks.values():
            lock.close()

    def _close(self) -> RunRecord:
        for task in self._graph.waiting:
            self._record = self._record.with_stage(*task, StageRecord(status="interrupted"))
        found = {s.status for image in self._record.images.values() for s in image.stages.values()}
        update: Mapping[str, object]
        if "interrupted" in found:
            update = {"outcome": "interrupted", "exit_code": Interrupted.exit_code}
        elif "failed" in found:
            update = {"outcome": "failed", "exit_code": self._failure}
        else:
            update = {"outcome": "passed", "exit_code": 0}
        self._record = self._record.model_copy(update={"finished": now(), **update})
        self._store.save(self._record)
        self._tell(say.RunFinished(now(), self._record))
        return self._record

    def _tell(self, event: say.Event) -> None:
        self._monitor.event(event)

    def _notice(self, text: str) -> None:
        self._tell(say.Notice(now(), text))
