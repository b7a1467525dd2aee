"""If these fail, a stage starts too early, too many start at once, or one never starts."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.graph import Graph, Needs, Skipped, Task

STAGES = {name: Needs(1, 100) for name in ("build", "assemble", "scan", "test")}
HOST = Needs(2, 1000)
CHAIN = ("build", "assemble")


def families() -> st.SearchStrategy[dict[str, str | None]]:
    """Images with parents that come before them."""

    def named(picks: list[int]) -> dict[str, str | None]:
        return {f"i{n}": None if pick >= n else f"i{pick}" for n, pick in enumerate(picks)}

    return st.lists(st.integers(0, 8), min_size=1, max_size=7).map(named)


def needs() -> st.SearchStrategy[dict[str, Needs]]:
    """What stages need, now and then more than the host has."""
    one = st.builds(Needs, st.integers(1, 6), st.integers(1, 3000))
    return st.fixed_dictionaries(dict.fromkeys(STAGES, one))


def test_a_child_builds_while_its_parent_is_still_tested() -> None:
    graph = Graph({"base": None, "web": "base"}, STAGES, HOST, after_parent=CHAIN)
    assert graph.startable() == [Task("base", "build")]
    graph.start(Task("base", "build"))
    assert graph.startable() == []
    graph.finish(Task("base", "build"))
    assert graph.startable() == [Task("web", "build"), Task("base", "assemble")]


def test_a_failed_build_takes_its_descendants_with_it_and_nobody_else() -> None:
    graph = Graph(
        {"base": None, "web": "base", "shop": "web", "other": None},
        STAGES,
        HOST,
        after_parent=CHAIN,
    )
    graph.start(Task("base", "build"))
    skipped = graph.fail(Task("base", "build"))
    assert {skip.task.image for skip in skipped} == {"base", "web", "shop"}
    assert Skipped(Task("base", "test"), "build failed") in skipped
    assert Skipped(Task("shop", "build"), "parent base failed at build") in skipped
    assert graph.startable() == [Task("other", "build")]


def test_a_child_that_has_begun_goes_on_when_its_parents_test_fails() -> None:
    graph = Graph(
        {"base": None, "web": "base"},
        {"build": HOST, "test": Needs(1, 1)},
        HOST,
        after_parent=CHAIN,
    )
    for task in (Task("base", "build"), Task("web", "build")):
        graph.start(task)
        graph.finish(task)
    graph.start(Task("base", "test"))
    assert graph.fail(Task("base", "test")) == []
    assert graph.startable() == [Task("web", "test")]


def test_a_manifest_waits_for_the_release_of_its_parent() -> None:
    graph = Graph({"base": None, "web": "base"}, STAGES, HOST, after_parent=CHAIN)
    for task in (Task("base", "build"), Task("web", "build")):
        graph.start(task)
        graph.finish(task)
    assert graph.startable() == [Task("base", "assemble")]
    graph.start(Task("base", "assemble"))
    assert graph.startable() == []
    graph.finish(Task("base", "assemble"))
    assert graph.startable() == [Task("web", "assemble"), Task("base", "scan")]


def test_a_lost_assembly_takes_that_of_a_child_that_has_begun() -> None:
    graph = Graph({"base": None, "web": "base"}, STAGES, HOST, after_parent=CHAIN)
    graph.start(Task("base", "build"))
    graph.finish(Task("base", "build"))
    graph.start(Task("base", "assemble"))
    graph.start(Task("web", "build"))
    skipped = graph.fail(Task("base", "assemble"))
    assert Skipped(Task("web", "assemble"), "parent base failed at assemble") in skipped
    assert Skipped(Task("base", "scan"), "assemble failed") in skipped
    graph.finish(Task("web", "build"))
    assert not graph.waiting


def test_what_is_larger_than_the_host_runs_alone() -> None:
    huge = {"build": Needs(64, 1 << 20)}
    graph = Graph({"a": None, "b": None}, huge, HOST, after_parent=CHAIN)
    assert graph.startable() == [Task("a", "build"), Task("b", "build")]
    graph.start(Task("a", "build"))
    assert graph.startable() == []


def test_a_parent_that_is_not_in_the_plan_is_there_already() -> None:
    assert Graph({"web": "base"}, STAGES, HOST, after_parent=CHAIN).startable() == [
        Task("web", "build")
    ]


@given(families(), needs(), st.data())
def test_every_order_of_events_keeps_the_rules(
    parents: Mapping[str, str | None], stages: Mapping[str, Needs], data: st.DataObject
) -> None:
    graph = Graph(parents, stages, HOST, after_parent=CHAIN)
    ended: dict[Task, bool] = {}
    skipped: set[Task] = set()
    running: list[Task] = []
    while graph.waiting or running:
        may = graph.startable()
        assert may or running, "nothing runs, nothing may start, and something waits"
        if may and (not running or data.draw(st.booleans())):
            task = may[0]
            graph.start(task)
            running.append(task)
            order = list(stages)
            place = order.index(task.stage)
            parent = parents[task.image]
            if task.stage in CHAIN and parent is not None:
                assert ended.get(Task(parent, task.stage)), "a child is ahead of its parent"
            if place > 0:
                assert ended[Task(task.image, order[place - 1])], "a stage comes too early"
            assert graph.free.cores >= 0
            assert graph.free.memory >= 0
        else:
            task = running.pop(data.draw(st.integers(0, len(running) - 1)))
            ended[task] = data.draw(st.booleans())
            if ended[task]:
                graph.finish(task)
            else:
                skipped |= {skip.task for skip in graph.fail(task)}
    every = {Task(image, stage) for image in parents for stage in stages}
    assert set(ended) | skipped == every, "each task ends, or is skipped with a reason"
    assert not set(ended) & skipped
    assert graph.free == HOST
