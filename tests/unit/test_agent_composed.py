"""The agent with its real parts: signed metadata, attestations, transfer, slots, memory.

Only the medium, the firmware and the machine around them are fakes.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline import clock
from pipeline.agent import entries
from pipeline.agent.base import Slots
from pipeline.agent.history import History
from pipeline.agent.journal import Journal
from pipeline.agent.reports import Outbox
from pipeline.agent.state import Memory
from pipeline.agent.telling import Teller
from pipeline.agent.turn import Outcome, Parts
from pipeline.agent.update import Agent
from pipeline.agent.upstream import Stores
from pipeline.errors import NetworkError
from pipeline.models.channel import ChannelDefinition, Channels
from pipeline.models.device import Running, State
from pipeline.models.site import Site
from pipeline.store.base import Reader, object_key
from pipeline.store.local import LocalStore
from pipeline.transfer.source import StoreSource
from tests.fakes.followed import put_built
from tests.fakes.slots import Built, build, make_running, new_machine
from tests.fakes.store import MemoryStore
from tests.fakes.world import World

CHANNELS = Channels(channels=(ChannelDefinition(name="stable"),))


@dataclass
class Site1:
    """A machine at a site, through its boots."""

    folder: Path
    world: World
    first: Built
    all: tuple[Built, ...]
    readers: tuple[Reader, ...] = ()
    boots: int = 1
    trial: int | None = None
    rebooting: bool = False
    wakes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = new_machine(self.all, clusters=4000)
        self.now = self.first
        (self.folder / "checkins").mkdir(parents=True)
        self.readers = self.readers or (self.world.store,)

    # pipeline.agent.base.Machine

    def running(self) -> Running:
        entry = self.machine.entry()
        found = make_running(self.now, entry, f"boot-{self.boots}")
        left = next(e for e in self.slots(found).entries() if e.id == entry).tries_left
        return found.model_copy(update={"tries_left": left})

    def complaints(self) -> tuple[str, ...]:
        return ()

    def obstacles(self) -> tuple[str, ...]:
        return ()

    def reboot(self) -> None:
        self.rebooting = True

    def wake(self, seconds: float) -> None:
        self.wakes.append(seconds)

    def slots(self, running: Running) -> Slots:
        return self.machine.slots(self.now, running.entry)

    # What tests do with it.

    def turn(self) -> Outcome:
        memory = Memory(self.folder / "data", self.folder / "run", mount=None)
        url = (self.folder / "checkins").as_uri()
        site = Site.model_validate({"device": "m1", "store": [url], "channel": "stable"})
        outbox = Outbox(self.folder / "queue", url, self.folder / "device.key")
        history = History(self.folder / "history.jsonl")
        teller = Teller(
            site,
            outbox,
            Journal(self.folder / "none"),
            history,
            clock.now,
            status=self.folder / "run/status.json",
        )
        stores = Stores(self.readers, self.world.root, self.folder / "trust", StoreSource)
        parts = Parts(
            site=site,
            machine=self,
            slots=self.slots,
            memory=memory,
            teller=teller,
            upstream=stores,
            clock=clock.now,
        )
        outcome = Agent(parts).update(asked=True)
        if self.rebooting:
            self.rebooting = False
            self.boots += 1
            self.now = self.machine.boots()
            booted = self.machine.entry()
            entries.set_counter(self.machine.esp, booted, 2)  # as systemd-boot does
        return outcome

    @property
    def state(self) -> State:
        return Memory(self.folder / "data", self.folder / "run", mount=None).load()

    def report(self) -> dict[str, object]:
        (path,) = (self.folder / "checkins/checkins").glob("*.json")
        envelope = json.loads(path.read_text())
        found: dict[str, object] = json.loads(base64.b64decode(envelope["payload"]))
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world", channels=CHANNELS)


@pytest.fixture
def site(tmp_path: Path, world: World) -> Site1:
    all = tuple(put_built(world, build(number)) for number in (1, 2, 3))
    world.hold("stable", all[0].release)
    return Site1(tmp_path / "site", world, all[0], all)


def test_releases_go_from_a_signed_store_onto_the_disk_and_back(site: Site1) -> None:
    first, second, third = site.all
    site.turn()
    assert site.now is first
    site.world.hold("stable", second.release)
    outcome = site.turn()
    assert outcome.error is None
    assert site.now is second
    site.turn()
    assert site.running().tries_left is None
    attempt = site.state.attempt
    assert attempt is not None
    assert attempt.step == "confirmed"
    assert attempt.downloaded >= len(second.uki)
    said = site.report()
    assert (said["version"], said["confirmed"]) == (second.release.version, True)
    # A rollback: the older one is still in the other slot.
    site.world.hold("stable", first.release)
    site.turn()
    assert site.now is first
    site.turn()
    attempt = site.state.attempt
    assert attempt is not None
    assert attempt.reuse
    assert attempt.rollback
    assert attempt.downloaded < len(first.root)
    # And on, over the slot that was bad luck.
    site.world.hold("stable", third.release)
    site.turn()
    site.turn()
    assert site.now is third
    assert site.running().tries_left is None


@pytest.mark.parametrize("lacks", ["test", "proof", "bytes"])
def test_what_is_not_proven_is_not_written(tmp_path: Path, world: World, lacks: str) -> None:
    first = put_built(world, build(1))
    second = put_built(world, build(2), passed=lacks != "test", proven=lacks != "proof")
    if lacks == "bytes":
        assert isinstance(world.store, MemoryStore)
        for evidence in second.release.evidence:
            world.store.corrupt(object_key(evidence.stored.digest), b"<html>log in first</html>")
    world.hold("stable", second.release)
    site = Site1(tmp_path / "site", world, first, (first, second))
    before = dict(site.machine.medium.durable)
    site.turn()
    assert site.now is first
    assert site.machine.medium.durable == before
    assert site.state.waiting[0].startswith("attested: ")


def test_another_store_takes_over_for_one_that_is_dead_or_lies(
    tmp_path: Path, world: World, site: Site1
) -> None:
    class Dead(MemoryStore):
        def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
            raise NetworkError("there is no route to it")

    portal = MemoryStore()
    portal.create("metadata/timestamp.json", b"<html>Welcome! Please log in.</html>")
    site.readers = (Dead(), portal, world.store)
    site.world.hold("stable", site.all[1].release)
    site.turn()
    assert site.now is site.all[1]
    site.readers = (Dead(), Dead())
    outcome = site.turn()
    assert isinstance(outcome.error, NetworkError)
    assert "none of 2 stores" in site.state.trouble
    assert site.running().tries_left is None, "a lost link does not keep a release on trial"


def test_a_store_in_a_folder_serves_a_site_too(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "usb")
    world = World(tmp_path / "world", channels=CHANNELS, store=store)
    first, second = (put_built(world, build(number)) for number in (1, 2))
    world.hold("stable", first.release, second.release)
    site = Site1(tmp_path / "site", world, first, (first, second))
    site.turn()
    assert site.now is second
