"""Whatever happens to a machine, and in whichever order: it comes up, and catches up."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import NetworkError
from pipeline.models.device import STEPS
from tests.fakes.pointers import make_published
from tests.fakes.site_machine import IMAGE, SiteMachine, channel

_GOOD = 9  # a release that nothing is wrong with
_STEPS = STEPS[1 : STEPS.index("activated") + 1]
_FAULTS = ("cut", "cut before its note", "cut after its note", "network", "disk full")
_ILL = ("panics", "hangs", "fails", "stalls")

Happening = Callable[[SiteMachine], object]


def _turn(machine: SiteMachine) -> None:
    machine.now += timedelta(hours=12)
    machine.turn()


def _judge(machine: SiteMachine) -> None:
    machine.uptime = machine.site.deadline + 1
    machine.judged()


def _offer(number: int, ill: str) -> Happening:
    def happen(machine: SiteMachine) -> None:
        version = make_published(IMAGE, number).version
        if ill and version != machine.version:
            machine.ill[version] = ill
        machine.stores.pointer_now = channel(number)

    return happen


def _fault(step: str, fault: str) -> Happening:
    return lambda machine: machine.faults.update({step: fault})


def _offline(machine: SiteMachine) -> None:
    machine.stores.error = NetworkError("https://store.example does not answer")


def _online(machine: SiteMachine) -> None:
    machine.stores.error = None


def _forget(machine: SiteMachine) -> None:
    (machine.folder / "data/recast/agent/state.json").unlink(missing_ok=True)


def _boot_by_hand(machine: SiteMachine) -> None:
    machine.by_hand = machine.ways[0].id
    machine.boot()
    machine.by_hand = ""


_happenings = st.one_of(
    st.just(_turn),
    st.just(_turn),
    st.just(_judge),
    st.builds(_offer, st.integers(1, 4), st.sampled_from(("", "", *_ILL))),
    st.builds(_fault, st.sampled_from(_STEPS), st.sampled_from(_FAULTS)),
    st.just(SiteMachine.boot),
    st.just(_offline),
    st.just(_online),
    st.just(_forget),
    st.just(_boot_by_hand),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_happenings, max_size=14))
def test_a_machine_always_comes_up_and_a_good_release_always_arrives(
    happenings: list[Happening],
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(os, "fsync", return_value=None),
    ):
        machine = SiteMachine(Path(folder))
        machine.turn()
        for happen in happenings:
            happen(machine)  # boot() fails the test if nothing comes up
        machine.stores.error = None
        machine.faults.clear()
        machine.stores.pointer_now = channel(_GOOD)
        for _ in range(12):
            # What does not become healthy is judged, as by systemd's units.
            if machine.running().trial and not machine.running().complete:
                _judge(machine)
            _turn(machine)
        good = make_published(IMAGE, _GOOD)
        assert machine.version == good.version
        assert machine.confirmed
        assert machine.attempt.step == "confirmed"
        assert good.version not in [bad.version for bad in machine.state.bad]
