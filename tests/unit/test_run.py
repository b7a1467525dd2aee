"""If these fail, a run does the wrong things, in the wrong order, or tells them wrongly."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from pipeline.command import Stop
from pipeline.engine import monitor as say
from pipeline.engine.logs import Log, tail_of
from pipeline.engine.plan import Plan
from pipeline.engine.run import Options, execute
from pipeline.engine.runs import Runs, is_alive, new_id, process
from pipeline.errors import HostError, UsageError
from pipeline.files import locked
from pipeline.models.run import Process, RunRecord, StageRecord
from tests.fakes.stage import (
    SOURCE,
    FakeStage,
    Recorder,
    plan_of,
    planned,
    release_of,
    work_factory,
)

FAMILY = {"edge-base": None, "edge-web": "edge-base", "edge-shop": "edge-base"}


class Rig:
    """Four fake stages over one artifacts folder."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.recorder = Recorder()
        self.stages = {name: FakeStage(name) for name in ("build", "assemble", "scan", "test")}

    def run(self, plan: Plan, *, stop: Stop | None = None, **options: object) -> RunRecord:
        given = {"artifacts": self.artifacts, "jobs": 2, "memory": 1000, **options}
        return execute(
            plan,
            list(self.stages.values()),
            work_factory(self.artifacts),
            self.recorder,
            Options(**given),  # type: ignore[arg-type]
            stop,
        )

    def of(self, kind: type[say.Event]) -> list[say.Event]:
        return [event for event in self.recorder.events if isinstance(event, kind)]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "artifacts")


def statuses(record: RunRecord) -> dict[str, str]:
    return {
        f"{name} {stage}": found.status
        for name, image in record.images.items()
        for stage, found in image.stages.items()
    }


def test_everything_is_done_parents_first(rig: Rig) -> None:
    record = rig.run(plan_of(FAMILY))
    assert record.outcome == "passed"
    assert record.exit_code == 0
    assert set(statuses(record).values()) == {"done"}
    assert rig.stages["build"].calls[0] == "edge-base"
    assert record.images["edge-web"].version == SOURCE.version
    assert record.images["edge-web"].root_hash == "2" * 64
    assert Runs(rig.artifacts / "runs").load(record.id) == record


def test_independent_images_run_side_by_side_and_no_more_than_jobs(rig: Rig) -> None:
    for stage in rig.stages.values():
        stage.seconds = 0.02
    rig.run(plan_of({f"i{n}": None for n in range(5)}), jobs=2)
    assert rig.stages["build"].most == 2


def test_memory_limits_what_runs_at_once(rig: Rig) -> None:
    for stage in rig.stages.values():
        stage.seconds, stage.memory = 0.01, 600
    rig.run(plan_of({"a": None, "b": None, "c": None}), jobs=4, memory=1000)
    assert max(stage.most for stage in rig.stages.values()) == 1


def test_a_failure_skips_what_hangs_on_it_and_nothing_else(rig: Rig) -> None:
    rig.stages["build"].faults["edge-base"] = "fails"
    record = rig.run(plan_of({**FAMILY, "other": None}))
    found = statuses(record)
    assert found["edge-base build"] == "failed"
    assert (
        found["edge-base test"] == found["edge-web build"] == found["edge-shop test"] == "skipped"
    )
    assert {found[f"other {stage}"] for stage in rig.stages} == {"done"}
    assert record.outcome == "failed"
    assert record.exit_code == 5
    web = record.images["edge-web"].stages["build"]
    assert web.error == "parent edge-base failed at build"
    base = record.images["edge-base"].stages["build"]
    assert base.error == "element nginx-site failed in install.d"
    assert base.hint == "Mend it."


def test_a_failure_event_has_the_end_of_the_log(rig: Rig) -> None:
    rig.stages["build"].faults["edge-base"] = "fails"
    rig.run(plan_of({"edge-base": None}))
    failed = next(e for e in rig.of(say.StageFinished) if getattr(e, "status", "") == "failed")
    assert isinstance(failed, say.StageFinished)
    assert "E: no such package" in failed.tail


def test_after_a_failure_the_next_run_goes_on_where_it_stood(rig: Rig) -> None:
    rig.stages["scan"].faults["edge-web"] = "fails"
    first = rig.run(plan_of(FAMILY))
    assert statuses(first)["edge-web scan"] == "failed"
    rig.stages["scan"].faults.clear()
    again = rig.run(plan_of(FAMILY))
    assert again.outcome == "passed"
    assert statuses(again)["edge-web build"] == "cached"
    assert statuses(again)["edge-web scan"] == statuses(again)["edge-web test"] == "done"
    assert rig.stages["build"].calls.count("edge-web") == 1


def test_force_does_again_only_what_is_named(rig: Rig) -> None:
    rig.run(plan_of(FAMILY))
    rig.run(plan_of(FAMILY), force=frozenset({"edge-web"}))
    calls = rig.stages["build"].calls
    assert calls.count("edge-web") == 2
    assert calls.count("edge-base") == 1


def test_a_defect_in_a_stage_is_a_failure_with_its_traceback_in_the_log(rig: Rig) -> None:
    rig.stages["assemble"].faults["edge-base"] = "breaks"
    record = rig.run(plan_of({"edge-base": None}))
    found = record.images["edge-base"].stages["assemble"]
    assert found.status == "failed"
    assert "ZeroDivisionError: a defect" in found.error
    log = Runs(rig.artifacts / "runs").log_path(record.id, "edge-base", "assemble").read_text()
    assert "Traceback" in log
    assert record.exit_code == 1


def test_unchanged_images_cost_no_stage_that_the_plan_knows_of(rig: Rig) -> None:
    plan = Plan((planned("edge-base", action="unchanged", test=False),), SOURCE)
    record = rig.run(plan)
    assert record.outcome == "passed"
    assert rig.stages["build"].calls == rig.stages["test"].calls == []
    assert record.images["edge-base"].root_hash == "2" * 64


def test_an_unchanged_image_whose_tests_never_passed_is_tested(rig: Rig) -> None:
    rig.run(Plan((planned("edge-base", action="unchanged"),), SOURCE))
    assert rig.stages["test"].calls == ["edge-base"]
    assert rig.stages["build"].calls == []


def test_a_lost_tree_is_made_again_only_where_a_child_is_built_on_it(rig: Rig) -> None:
    images = (
        planned("edge-base", action="unchanged", test=False),
        planned("edge-web", "edge-base", action="unchanged", test=False),
        planned("edge-shop", "edge-web"),
        planned("other", action="unchanged", test=False),
    )
    rig.run(Plan(images, SOURCE))
    assert rig.stages["build"].calls == ["edge-base", "edge-web", "edge-shop"]


def test_trees_that_are_asked_for_are_there_with_their_parents(rig: Rig) -> None:
    images = (
        planned("edge-base", action="unchanged", test=False),
        planned("edge-web", "edge-base", action="unchanged", test=False),
    )
    rig.run(Plan(images, SOURCE), trees=frozenset({"edge-web"}))
    assert rig.stages["build"].calls == ["edge-base", "edge-web"]


def test_tests_alone_do_not_wait_for_a_parents_tests(rig: Rig) -> None:
    rig.stages = {"test": FakeStage("test", seconds=0.05)}
    images = (
        planned("edge-base", action="unchanged"),
        planned("edge-web", "edge-base", action="unchanged"),
    )
    rig.run(Plan(images, SOURCE))
    assert rig.stages["test"].most == 2


def test_a_stop_ends_what_runs_and_keeps_what_has_ended(rig: Rig) -> None:
    rig.stages["assemble"].faults["edge-base"] = "hangs"
    stop = Stop()
    threading.Timer(0.3, stop.set).start()
    record = rig.run(plan_of({"edge-base": None}), stop=stop)
    assert record.outcome == "interrupted"
    assert record.exit_code == 130
    found = statuses(record)
    assert found["edge-base build"] == "done"
    assert found["edge-base assemble"] == found["edge-base test"] == "interrupted"
    assert list((rig.artifacts / "work").glob("*.*.*")) == []
    rig.stages["assemble"].faults.clear()
    assert rig.run(plan_of({"edge-base": None})).outcome == "passed"
    assert rig.stages["build"].calls == ["edge-base"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_that_asks_for_an_end_is_obeyed(rig: Rig, number: signal.Signals) -> None:
    rig.stages["build"].faults["edge-base"] = "lingers"
    before = signal.getsignal(number)
    hands = [threading.Timer(at, os.kill, (os.getpid(), number)) for at in (0.2, 0.4)]
    for hand in hands:  # an impatient person's
        hand.start()
    record = rig.run(plan_of({"edge-base": None}))
    for hand in hands:
        hand.join()
    assert record.outcome == "interrupted"
    assert signal.getsignal(number) == before
    notices = [getattr(event, "text", "") for event in rig.of(say.Notice)]
    assert f"stopping on {number.name}: edge-base build" in notices


def test_an_interruption_inside_a_stage_stops_the_run(rig: Rig) -> None:
    rig.stages["build"].faults["edge-base"] = "is-interrupted"
    record = rig.run(plan_of({"edge-base": None, "other": None}), jobs=1)
    assert record.outcome == "interrupted"
    assert rig.stages["build"].calls == ["edge-base"]


def test_another_run_at_work_on_an_image_is_waited_for_by_name(rig: Rig) -> None:
    path = rig.artifacts / "cache" / "locks" / "edge-base.lock"
    free = threading.Event()
    taken = threading.Event()

    def other() -> None:
        with locked(path, what="edge-base", holder="run 20260301.120000-beef (process 7)"):
            taken.set()
            free.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    taken.wait(10)
    threading.Timer(0.4, free.set).start()
    record = rig.run(plan_of({"edge-base": None, "other": None}))
    thread.join()
    assert record.outcome == "passed"
    waits = [e for e in rig.of(say.StageWaiting) if isinstance(e, say.StageWaiting)]
    assert [(e.image, e.stage) for e in waits] == [("edge-base", "build")]
    assert "run 20260301.120000-beef (process 7)" in waits[0].why
    done = [e.image for e in rig.recorder.events if isinstance(e, say.StageFinished)]
    assert done[0] == "other", "nobody waits for the lock of somebody else's image"


def test_events_come_in_order_and_each_stage_has_a_beginning_and_an_end(rig: Rig) -> None:
    rig.run(plan_of(FAMILY))
    events = rig.recorder.events
    assert isinstance(events[0], say.RunStarted)
    assert isinstance(events[-1], say.RunFinished)
    open_stages: set[tuple[str, str]] = set()
    for event in events:
        if isinstance(event, say.StageStarted):
            open_stages.add((event.image, event.stage))
        elif isinstance(event, say.StageProgress):
            assert (event.image, event.stage) in open_stages
        elif isinstance(event, say.StageFinished):
            open_stages.remove((event.image, event.stage))
    assert not open_stages
    assert sum(isinstance(event, say.StageFinished) for event in events) == 12


def test_the_record_says_running_while_it_runs_and_interrupted_once_we_are_gone(
    rig: Rig,
) -> None:
    me = process()
    assert me is not None
    assert is_alive(me)
    store = Runs(rig.artifacts / "runs")
    stages = {"build": StageRecord(status="running"), "test": StageRecord()}
    record = rig.run(plan_of({"edge-base": None}))
    image = record.images["edge-base"].model_copy(update={"stages": stages})
    going = {"outcome": "running", "finished": None, "images": {"edge-base": image}}
    store.save(record.model_copy(update=going))
    assert store.load(record.id).outcome == "running"
    reborn = Process(pid=me.pid, ticks=me.ticks + 1, boot=me.boot)
    store.save(record.model_copy(update={**going, "process": reborn}))
    dead = store.load(record.id)
    assert dead.outcome == "interrupted"
    assert {stage.status for stage in dead.images["edge-base"].stages.values()} == {"interrupted"}


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path, rig: Rig) -> None:
    with pytest.raises(UsageError, match="no run yet"):
        Runs(tmp_path).find("last")
    first = rig.run(plan_of({"edge-base": None}))
    second = rig.run(plan_of({"edge-base": None}))
    store = Runs(rig.artifacts / "runs")
    assert store.find(second.id).id == second.id
    assert store.find("last").id == max(first.id, second.id)
    with pytest.raises(UsageError, match="beginning of 2 runs"):
        store.find("20")
    with pytest.raises(UsageError, match="no run `x`"):
        store.find("x")
    assert new_id() != new_id()


def test_a_broken_terminal_does_not_end_a_run(rig: Rig) -> None:
    class Broken:
        def event(self, event: say.Event) -> None:
            raise BrokenPipeError

        def tick(self) -> None:
            raise HostError("never called")

    fan = say.FanOut([Broken(), rig.recorder])
    record = execute(
        plan_of({"edge-base": None}),
        list(rig.stages.values()),
        work_factory(rig.artifacts),
        fan,
        Options(rig.artifacts),
    )
    assert record.outcome == "passed"
    assert rig.recorder.events


def test_a_work_that_cannot_be_made_ends_before_anything_starts(rig: Rig) -> None:
    def refuse(*_: object) -> None:
        raise HostError("no")

    with pytest.raises(HostError):
        execute(
            plan_of({"edge-base": None}),
            list(rig.stages.values()),
            refuse,  # type: ignore[arg-type]
            rig.recorder,
            Options(rig.artifacts),
        )
    assert [p for p in (rig.artifacts / "work").iterdir() if p.is_dir()] == []


def test_a_log_never_fails_its_writer(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.log")
    log.write("one\ntwo\n\n")
    assert tail_of(tmp_path / "x.log", 1) == ("two",)
    log.close()
    log.write("late")
    with Log(Path("/dev/full")) as full:
        full.write("no space\n")
    assert tail_of(tmp_path / "missing.log") == ()


def test_the_fake_release_is_a_valid_one() -> None:
    assert release_of("edge-base").name == f"edge-base_{SOURCE.version}_amd64"
