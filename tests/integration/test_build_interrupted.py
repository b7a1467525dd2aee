"""If these fail, a build that is stopped or killed leaves something behind, or loses work."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.fakes.toy import ToyProject
from tests.fakes.toys import needs_root, needs_tools, toy_tar, toys, wait_for

__all__ = ["toy_tar", "toys"]
pytestmark = [needs_root, needs_tools]

SLEEP = "trap '' INT\necho now it sleeps\nsleep 987654\n"


def logged(toys: ToyProject, text: str) -> bool:
    """Does a log of a run hold *text*?"""
    logs = (toys.artifacts / "runs").glob("*/*.log")
    return any(text in log.read_text(errors="replace") for log in logs)


def trees(toys: ToyProject) -> list[Path]:
    return sorted((toys.artifacts / "cache" / "trees").glob("*"))


@pytest.fixture
def slow(toys: ToyProject) -> ToyProject:
    """Two images; the second one's hook never ends."""
    toys.image("toy-base")
    toys.image("toy-slow", parent="toy-base", elements=["slow"])
    toys.hook("slow", "install.d/50-slow", SLEEP)
    toys.commit()
    return toys


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_hook_leaves_nothing_and_keeps_what_had_ended(
    slow: ToyProject, number: signal.Signals
) -> None:
    first = slow.start("build", "toy-slow")
    wait_for(lambda: logged(slow, "now it sleeps"))
    first.send_signal(number)
    ended = slow.finish(first)
    assert ended.code == 130, ended
    assert f"stopping on {number.name}: toy-slow build" in ended.out
    assert "was stopped; kept is what had ended: toy-base build, toy-base assemble" in ended.err
    assert "`recast build` again continues: finished work is kept." in ended.err
    assert slow.left() == []
    assert slow.scratch() == []
    assert len(trees(slow)) == 1
    slow.hook("slow", "install.d/50-slow", "true\n")
    again = slow.run("build", "toy-slow")
    assert again.code == 0, again
    assert "toy-base: unchanged" in again.out
    assert slow.left() == []


@pytest.mark.soak
def test_a_signal_outside_of_the_tree_is_as_clean(slow: ToyProject) -> None:
    slow.hook("slow", "install.d/50-slow", "true\n")
    slow.hook("slow", "root.d/50-slow", SLEEP)
    first = slow.start("build", "toy-slow")
    wait_for(lambda: logged(slow, "now it sleeps"))
    first.send_signal(signal.SIGTERM)
    assert slow.finish(first).code == 130
    assert slow.left() == []
    assert slow.scratch() == []


@pytest.mark.soak
def test_after_a_kill_nothing_runs_or_is_mounted_and_the_next_build_cleans_up(
    slow: ToyProject,
) -> None:
    first = slow.start("build", "toy-slow")
    wait_for(lambda: logged(slow, "now it sleeps"))
    assert slow.programs()
    first.kill()
    slow.finish(first)
    wait_for(lambda: not slow.programs(), 10)
    assert slow.left() == []
    (leftover,) = slow.scratch()
    slow.hook("slow", "install.d/50-slow", "true\n")
    again = slow.run("build", "toy-slow")
    assert again.code == 0, again
    assert f"removing what {leftover.name} left behind when it was killed" in again.out
    assert "toy-base: unchanged" in again.out
    assert slow.left() == []
    assert slow.scratch() == []


@pytest.mark.soak
def test_two_builds_at_once_build_once(toys: ToyProject) -> None:
    toys.image("toy-base", elements=["slow"])
    toys.hook("slow", "root.d/50-slow", "sleep 2\n")
    toys.commit()
    both = [toys.start("build", "toy-base") for _ in range(2)]
    ends = [toys.finish(process) for process in both]
    assert [end.code for end in ends] == [0, 0], ends
    done = sorted(end.out.count("toy-base build: done") for end in ends)
    cached = sorted(end.out.count("toy-base build: cached") for end in ends)
    assert (done, cached) == ([0, 1], [0, 1])
    waited = [end for end in ends if "toy-base build: waiting: toy-base: run " in end.out]
    assert len(waited) == 1
    assert "is at work on it" in waited[0].out
    assert len(trees(toys)) == 1
    assert toys.left() == []
    assert toys.scratch() == []


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["Build completed successfully", "root hash "])
def test_a_kill_while_results_are_put_away_leaves_no_half_of_them(
    toys: ToyProject, moment: str
) -> None:
    toys.image("toy-base")
    toys.commit()
    first = toys.start("build", "toy-base")
    wait_for(lambda: logged(toys, moment))
    first.kill()
    toys.finish(first)
    wait_for(lambda: not toys.programs(), 10)
    assert toys.left() == []
    again = toys.run("build", "toy-base")
    assert again.code == 0, again
    assert toys.left() == []
    assert toys.scratch() == []
    shown = toys.run("show", "toy-base")
    assert shown.code == 0, shown
