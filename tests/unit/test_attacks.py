"""The attacks that TUF names, each played against a machine that follows a store.

https://theupdateframework.io/docs/security/ lists them. The attacker can write anything to the
store, has kept every old version of it, and holds the keys that a test says. Slow retrieval and
endless data over a socket are in tests/integration/test_attacks_http.py.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import (
    Targets,
)

from pipeline.trust import layout
from pipeline.trust.refusals import ExpiredError
from tests.fakes.machine import HUGE, WEB, Machine, evil, pointer_key, version
from tests.fakes.pointers import make_pointer
from tests.fakes.repository import SignedStore, travel


@pytest.fixture(params=[True, False], ids=["by digest", "by version"])
def signed(request: pytest.FixtureRequest) -> SignedStore:
    """A store in its second version, with a third to come."""
    made = SignedStore(hashes=request.param, approvals={"stable": 2})
    made.change("stable", make_pointer("stable", WEB, 2))
    return made


@pytest.fixture
def machine(signed: SignedStore, tmp_path: Path) -> Machine:
    """A machine that has followed the store so far."""
    machine = Machine(signed, tmp_path / "trust")
    assert machine.follow() == version(2)
    return machine


class TestArbitrarySoftware:
    """A machine is made to run what nobody has signed."""

    def test_a_pointer_that_was_changed(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        signed.store.corrupt(pointer_key(signed), layout.pointer_bytes(evil())[:-1] + b" ")
        machine.refuses(pointer_key(signed), "is not what channel stable has signed for edge-web")

    def test_a_pointer_of_the_same_length(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        honest = layout.pointer_bytes(make_pointer("stable", WEB, 3))
        root_hash = json.loads(honest)["release"]["root_hash"].encode()
        signed.store.corrupt(pointer_key(signed), honest.replace(root_hash, b"0" * 64))
        machine.refuses("is not what channel stable has signed for edge-web")

    def test_a_channel_signed_with_a_key_of_ones_own(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        signed.make_key("mallory")
        signed.point(signed.targets("stable"), evil())
        signed.write("stable", by=["mallory"])
        if signed.hashes:
            machine.refuses("3.stable.json", "is not the file that the signed metadata names")
        else:
            machine.refuses("3.stable.json", "carries 0 of the 2 signatures", "wrong key")

    def test_a_whole_store_of_ones_own(self, signed: SignedStore, machine: Machine) -> None:
        other = SignedStore()
        other.change("stable", evil())
        for _ in range(5):
            other.refresh()
        signed.store.restore(other.store.snapshot())
        machine.refuses("metadata/timestamp.json", "0 of the 1 signatures that the timestamp needs")
        assert machine.client.recall()
        assert machine.wanted() == version(2)

    def test_a_new_machine_and_a_whole_store_of_ones_own(
        self, signed: SignedStore, tmp_path: Path
    ) -> None:
        signed.store.restore(SignedStore().store.snapshot())
        Machine(signed, tmp_path).refuses("metadata/timestamp.json", "wrong key")

    def test_a_root_of_ones_own(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        other = SignedStore()
        other.change_root(lambda root: None)
        signed.store.corrupt(
            other.key_of(layout.ROOT), other.store.snapshot()["metadata/2.root.json"]
        )
        machine.refuses(
            "metadata/2.root.json", "0 of the 2 signatures that the root of trust needs"
        )

    def test_changed_after_it_was_signed(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        key = layout.TIMESTAMP_KEY
        data = json.loads(signed.store.snapshot()[key])
        data["signed"]["expires"] = "2099-01-01T00:00:00Z"
        signed.store.corrupt(key, json.dumps(data).encode())
        machine.refuses(key, "changed after it was signed")


class TestRollback:
    """A machine is made to go back to what has holes that were closed since."""

    def test_the_store_of_last_week(self, signed: SignedStore, machine: Machine) -> None:
        old = signed.store.snapshot()
        signed.change("stable", make_pointer("stable", WEB, 3))
        assert machine.follow() == version(3)
        signed.store.restore(old)
        machine.refuses(
            "step back", "offers version 2 of the timestamp", "has seen version 3", "withdrawn"
        )

    def test_an_old_channel_with_the_online_key(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        before = signed.snapshot.meta["stable.json"]
        signed.change("stable", make_pointer("stable", WEB, 3))
        assert machine.follow() == version(3)
        signed.snapshot.meta["stable.json"] = before
        signed.refresh()
        machine.refuses("step back", "version 2 of channel stable", "has seen version 3")

    def test_an_old_snapshot_with_the_online_key(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        old = signed.timestamp.snapshot_meta
        signed.change("stable", make_pointer("stable", WEB, 3))
        assert machine.follow() == version(3)
        signed.timestamp.version += 1
        signed.timestamp.snapshot_meta = old
        signed.write(layout.TIMESTAMP)
        machine.refuses("step back", "version 2 of the snapshot", "has seen version 3")

    def test_a_channel_that_vanishes(self, signed: SignedStore, machine: Machine) -> None:
        del signed.snapshot.meta["dev.json"]
        signed.refresh()
        machine.refuses("no longer lists channel dev", "cannot just be dropped")

    @pytest.mark.parametrize("lost", ["timestamp.json", "snapshot.json", "seen.json"])
    def test_a_machine_whose_memory_is_damaged(
        self, signed: SignedStore, machine: Machine, lost: str
    ) -> None:
        old = signed.store.snapshot()
        signed.change("stable", make_pointer("stable", WEB, 3))
        assert machine.follow() == version(3)
        place = machine.folder if lost == "seen.json" else machine.folder / "metadata"
        (place / lost).write_bytes(b"\0" * 100)
        signed.store.restore(old)
        machine.reboot()
        machine.refuses("step back", "has seen version 3")

    def test_a_machine_that_has_lost_all_metadata(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        old = signed.store.snapshot()
        signed.change("stable", make_pointer("stable", WEB, 3))
        assert machine.follow() == version(3)
        for path in (machine.folder / "metadata").glob("*.json"):
            path.unlink()
        signed.store.restore(old)
        machine.reboot()
        machine.refuses("step back", "has seen version 3")

    def test_a_root_that_was_withdrawn(self, signed: SignedStore, machine: Machine) -> None:
        """Whoever stole the old online key holds back the root that took its rights away."""
        old = signed.store.snapshot()
        signed.replace_key(layout.ONLINE, "online-2")
        signed.refresh()
        machine.follow()
        (machine.folder / "metadata/root_history/2.root.json").write_bytes(b"")
        signed.store.restore(old)
        machine.reboot()
        machine.refuses("step back", "offers version 1 of the root of trust", "has seen version 2")


class TestFastForward:
    """Versions are driven up so high that nothing honest can follow: keys are changed then."""

    def test_the_online_key_was_stolen(self, signed: SignedStore, machine: Machine) -> None:
        honest = signed.timestamp.version, signed.snapshot.version
        signed.timestamp.version = signed.snapshot.version = HUGE
        signed.refresh()
        machine.follow()
        signed.timestamp.version, signed.snapshot.version = honest
        signed.change("stable", make_pointer("stable", WEB, 3))
        machine.refuses("step back", f"has seen version {HUGE + 1}")
        signed.replace_key(layout.ONLINE, "online-2")
        signed.refresh()
        assert machine.follow() == version(3)
        machine.reboot()
        assert machine.follow() == version(3)

    def test_a_channels_keys_were_stolen_too(self, signed: SignedStore, machine: Machine) -> None:
        signed.targets("stable").version = HUGE
        signed.write("stable")
        signed.change("stable", make_pointer("stable", WEB, 3))
        assert machine.follow() == version(3)
        signed.targets("stable").version = 5
        signed.write("stable")
        signed.vouch("stable")
        machine.refuses("step back", "version 5 of channel stable", f"{HUGE + 1}")

        signed.replace_key(layout.ONLINE, "online-2")

        def new_keys(targets: Targets) -> None:
            for name in ("stable-1", "stable-2"):
                targets.revoke_key(signed.signers[name].public_key.keyid, "stable")
            for name in ("stable-3", "stable-4"):
                targets.add_key(signed.make_key(name).public_key, "stable")

        signed.change_role(layout.TARGETS, new_keys)
        signed.change("stable", make_pointer("stable", WEB, 4))
        assert machine.follow() == version(4)

    def test_a_version_that_no_store_can_hold(self, signed: SignedStore, machine: Machine) -> None:
        signed.timestamp.version += 1
        signed.timestamp.snapshot_meta.version = 10**600
        signed.write(layout.TIMESTAMP)
        machine.refuses("which no store can have")


class TestIndefiniteFreeze:
    """News are held back, for ever."""

    def test_a_store_that_stands_still(
        self, signed: SignedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        travel(monkeypatch, signed.moment + timedelta(days=6, hours=23))
        assert not machine.client.check()
        travel(monkeypatch, signed.moment + timedelta(days=7, hours=1))
        error = machine.refuses("the timestamp", "was good until", "it is", "old news")
        assert isinstance(error, ExpiredError)
        assert "recast refresh" in error.hint
        assert "clock" in error.hint

    def test_a_store_that_says_nothing_new_for_ever(
        self, signed: SignedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Answering every conditional request with "not modified" helps no longer."""
        get_changed = machine.store.get_changed
        monkeypatch.setattr(
            machine.store,
            "get_changed",
            lambda key, etag, *, limit: None if etag else get_changed(key, etag, limit=limit),
        )
        signed.moment += timedelta(days=2)
        signed.change("stable", make_pointer("stable", WEB, 3))
        assert machine.follow() == version(2)
        travel(monkeypatch, signed.moment + timedelta(days=5, hours=1))
        assert machine.follow() == version(3)

    def test_a_snapshot_that_is_handed_out_for_ever(
        self, signed: SignedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a stolen timestamp key alone, until the snapshot runs out."""
        old = signed.moment
        signed.moment += timedelta(days=15)
        signed.timestamp.version += 1
        signed.write(layout.TIMESTAMP)
        travel(monkeypatch, old + timedelta(days=15))
        assert "the snapshot" in str(machine.refuses("was good until"))

    def test_a_channel_that_nobody_confirms(
        self, signed: SignedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        later = signed.moment + timedelta(days=181)
        signed.moment = later
        signed.write("dev")
        signed.change_role(layout.TARGETS, lambda targets: None)
        signed.change("dev", make_pointer("dev", WEB, 3))
        travel(monkeypatch, later)
        error = machine.refuses("channel stable", "was good until")
        assert isinstance(error, ExpiredError)
        assert "sign it anew" in error.hint
        # A machine that follows another channel goes on.
        assert machine.follow("dev") == version(3)


class TestEndlessData:
    """A machine's memory or disk is filled with what never ends."""

    @pytest.mark.parametrize(
        ("role", "limit"),
        [
            (layout.TIMESTAMP, layout.MAX_TIMESTAMP),
            (layout.SNAPSHOT, layout.MAX_SNAPSHOT),
            (layout.TARGETS, layout.MAX_TARGETS),
            ("stable", layout.MAX_TARGETS),
        ],
    )
    def test_metadata(self, signed: SignedStore, machine: Machine, role: str, limit: int) -> None:
        signed.change_role(layout.TARGETS, lambda targets: None)
        signed.change("stable", make_pointer("stable", WEB, 3))
        signed.store.corrupt(signed.key_of(role), b" " * (limit + 1))
        received = machine.store.received
        machine.refuses(signed.key_of(role), "is longer than", "not read any further")
        assert machine.store.received - received < 64 << 10

    def test_a_root(self, signed: SignedStore, machine: Machine) -> None:
        signed.refresh()
        signed.store.corrupt("metadata/2.root.json", b" " * (layout.MAX_ROOT + 1))
        machine.refuses("metadata/2.root.json", f"is longer than the {layout.MAX_ROOT} bytes")

    def test_a_pointer(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        length = len(layout.pointer_bytes(make_pointer("stable", WEB, 3)))
        signed.store.corrupt(pointer_key(signed), b" " * (length + 1))
        machine.refuses(pointer_key(signed), f"is longer than the {length} bytes")

    def test_a_pointer_that_is_signed_as_endless(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        def edit(stable: Targets) -> None:
            stable.targets["stable/edge-web.json"].length = HUGE

        signed.change_role("stable", edit)
        machine.refuses("names a pointer of edge-web that cannot be one", str(HUGE))

    def test_roots_without_end(self, signed: SignedStore, tmp_path: Path) -> None:
        """Only those who hold the root can make them, and even theirs are counted."""
        for _ in range(layout.MAX_ROOT_ROTATIONS + 3):
            signed.change_root(lambda root: None)
        machine = Machine(signed, tmp_path)
        machine.follow()
        asked = [key for _, key in machine.store.operations if key.endswith(".root.json")]
        assert len(asked) == layout.MAX_ROOT_ROTATIONS
