"""What whoever updates a machine may expect of its slots: the real ones, and the fake ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.agent.base import Entry, Slots
from pipeline.errors import NetworkError
from pipeline.models.device import STEPS, Attempt, Step
from pipeline.models.pointer import PublishedRelease
from pipeline.transfer.base import Source
from tests.fakes.pointers import make_published
from tests.fakes.site_machine import IMAGE, NOW, NoSource, SiteMachine
from tests.fakes.slots import FakeSource, build, new_machine

ALL = STEPS[1 : STEPS.index("activated") + 1]


@dataclass
class Case:
    """Slots that run the first of three releases.

    Attributes:
        slots: made anew, as after a start of the agent.
        source: has the bytes.
        releases: 1, 2 and 3.
        fail: lets the next way to the step ``written`` fail.
        mend: ends that.
    """

    slots: Callable[[], Slots]
    source: Source
    releases: tuple[PublishedRelease, ...]
    fail: Callable[[], None]
    mend: Callable[[], None]

    def attempt(self, number: int = 2) -> Attempt:
        return Attempt(release=self.releases[number - 1], channel="stable", started=NOW)

    def entry_for(self, number: int) -> Entry | None:
        name = self.releases[number - 1].name
        return next((e for e in self.slots().entries() if e.release == name), None)


@pytest.fixture(params=["real", "fake"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "fake":
        machine = SiteMachine(tmp_path)
        return Case(
            slots=lambda: machine,
            source=NoSource(),
            releases=tuple(make_published(IMAGE, number) for number in (1, 2, 3)),
            fail=lambda: machine.faults.update(written="network"),
            mend=machine.faults.clear,
        )
    built = tuple(build(number) for number in (1, 2, 3))
    disk = new_machine(built, clusters=4000)
    source = FakeSource(built)
    first = disk.entry()

    def fail_after(pieces: int | None) -> Callable[[], None]:
        return lambda: setattr(source, "fails_after", pieces)

    return Case(
        slots=lambda: disk.slots(built[0], first),
        source=source,
        releases=tuple(each.release for each in built),
        fail=fail_after(2),
        mend=fail_after(None),
    )


def test_a_release_that_fits_passes_every_check(case: Case) -> None:
    assert all(gate.passed for gate in case.slots().check(case.releases[1]))


def test_each_step_is_told_once_in_order(case: Case) -> None:
    notes: list[Attempt] = []
    done = case.slots().apply(case.attempt(), case.source, notes.append, sequence=4)
    assert [each.step for each in notes] == [*ALL]
    assert notes[-1] == done
    assert done.step == "activated"
    assert {*done.seconds} >= {"written", "activated"}


def test_a_new_release_is_tried_first_and_as_often_as_was_asked(case: Case) -> None:
    done = case.slots().apply(case.attempt(), case.source, _nobody, tries=2, sequence=4)
    first = case.slots().entries()[0]
    assert first.id == done.entry == "recast-4.conf"
    assert (first.tries_left, first.tries_done) == (2, 0)
    assert (first.release, first.root_hash) == (
        case.releases[1].name,
        case.releases[1].root_hash,
    )


@pytest.mark.parametrize("until", ALL[:-1])
def test_before_it_is_activated_nothing_boots_it(case: Case, until: Step) -> None:
    before = case.slots().entries()
    done = case.slots().apply(case.attempt(), case.source, _nobody, sequence=4, until=until)
    assert done.step == until
    assert case.slots().entries() == before
    # From there on it goes on, whoever takes it up.
    notes: list[Attempt] = []
    done = case.slots().apply(done, case.source, notes.append, sequence=4)
    assert [each.step for each in notes] == [*ALL[ALL.index(until) + 1 :]]
    assert case.slots().entries()[0].id == done.entry


def test_what_is_past_the_end_that_was_asked_for_is_left_as_it_is(case: Case) -> None:
    done = case.slots().apply(case.attempt(), case.source, _nobody, sequence=4)
    assert case.slots().apply(done, case.source, _nobody, sequence=4, until="staged") == done
    assert case.slots().apply(done, case.source, _nobody, sequence=4) == done


def test_a_link_that_dies_leaves_what_can_be_gone_on_with(case: Case) -> None:
    notes = [case.attempt()]
    case.fail()
    with pytest.raises(NetworkError):
        case.slots().apply(case.attempt(), case.source, notes.append, sequence=4)
    assert notes[-1].step == "cleared"
    case.mend()
    done = case.slots().apply(notes[-1], case.source, _nobody, sequence=4)
    assert done.step == "activated"


def test_what_is_given_up_comes_last_and_what_is_blessed_is_not_counted(case: Case) -> None:
    done = case.slots().apply(case.attempt(), case.source, _nobody, sequence=4)
    case.slots().give_up(done.entry)
    last = case.slots().entries()[-1]
    assert (last.id, last.tries_left) == (done.entry, 0)
    case.slots().give_up(done.entry)
    case.slots().bless(done.entry)
    first = case.slots().entries()[0]
    assert (first.id, first.tries_left) == (done.entry, None)
    case.slots().bless(done.entry)
    assert case.slots().entries()[0] == first


def test_the_other_slot_holds_what_was_put_there(case: Case) -> None:
    assert not case.slots().holds(case.releases[1])
    case.slots().apply(case.attempt(), case.source, _nobody, sequence=4)
    assert case.slots().holds(case.releases[1])
    assert not case.slots().holds(case.releases[2])


def test_the_next_release_takes_the_place_of_one_that_was_given_up(case: Case) -> None:
    done = case.slots().apply(case.attempt(), case.source, _nobody, sequence=4)
    case.slots().give_up(done.entry)
    case.slots().apply(case.attempt(3), case.source, _nobody, sequence=5)
    assert case.entry_for(2) is None
    assert case.slots().entries()[0].release == case.releases[2].name
    assert case.entry_for(1) is not None, "what runs can still be booted"


def _nobody(_attempt: Attempt) -> None:
    """Nobody listens."""
