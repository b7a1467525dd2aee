"""The attacks that TUF names, on what is signed: files misplaced or mixed, keys that were stolen.

The other ones, and what an attacker can do, are in test_attacks.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Root,
    TargetFile,
    Targets,
)

from pipeline.errors import UsageError
from pipeline.store.base import object_key
from pipeline.trust import layout
from tests.fakes.machine import WEB, Machine, evil, ignore, pointer_key, put_raw, version
from tests.fakes.pointers import make_pointer
from tests.fakes.repository import SignedStore


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


class TestExtraneousDependencies:
    """What is signed makes a machine follow things that are none of its business."""

    def test_a_pointer_of_another_image(self, signed: SignedStore, machine: Machine) -> None:
        signed.change_role(
            "stable",
            lambda role: ignore(signed.point(role, evil(image="edge-db"), "stable/edge-web.json")),
        )
        machine.refuses("speaks of image edge-db", "not of edge-web", "only where it belongs")

    def test_a_pointer_of_another_channel(self, signed: SignedStore, machine: Machine) -> None:
        signed.change_role(
            "stable", lambda role: ignore(signed.point(role, evil("dev"), "stable/edge-web.json"))
        )
        machine.refuses("in channel dev, not of edge-web in stable", "only where it belongs")

    def test_a_release_of_another_image(self, signed: SignedStore, machine: Machine) -> None:
        pointer = evil().model_copy(update={"release": evil(image="edge-db").release})
        signed.change("stable", pointer)
        machine.refuses("edge-db", "only where it belongs")

    def test_a_pointer_of_another_image_by_the_store_alone(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        other = signed.store.snapshot()[pointer_key(signed, image="edge-db")]
        signed.store.corrupt(pointer_key(signed), other)
        machine.refuses("longer than" if len(other) > 4000 else "is not what channel stable")

    def test_a_channel_that_speaks_for_another(self, signed: SignedStore, machine: Machine) -> None:
        """The keys of dev, and the online key: nothing of stable changes."""
        dev = signed.targets("dev")
        dev.version += 1
        signed.point(dev, evil())
        signed.write("dev")
        signed.vouch("dev")
        assert machine.follow() == version(2)
        channel = machine.client.channel("dev")
        assert channel is not None
        assert set(channel.pointers) == {"edge-web", "edge-db"}

    @pytest.mark.parametrize(
        "path",
        [
            "dev/../stable/x.json",
            "dev/x/y.json",
            "dev/\0.json",
            "dev/..json",
            "dev/X y.json",
            "/etc/x",
        ],
    )
    def test_a_path_that_leads_elsewhere(
        self, signed: SignedStore, machine: Machine, path: str
    ) -> None:
        def edit(dev: Targets) -> None:
            dev.targets[path] = TargetFile(5, {"sha256": "0" * 64}, path)

        signed.change_role("dev", edit)
        machine.client.check()
        channel = machine.client.channel("dev")
        assert channel is not None
        assert set(channel.pointers) == {"edge-web", "edge-db"}

    def test_a_channel_that_delegates_another(self, signed: SignedStore, machine: Machine) -> None:
        """What a channel delegates is never fetched, and cannot stand in for the real one."""

        def edit(dev: Targets) -> None:
            key = signed.signers["dev-1"].public_key
            role = DelegatedRole("stable", [key.keyid], 1, True, ["*/*"])
            dev.delegations = Delegations({key.keyid: key}, {"stable": role})
            del dev.targets["dev/edge-web.json"]

        signed.change_role("dev", edit)
        signed.point(signed.targets("stable"), evil())
        signed.write("stable", by=["dev-1"])
        if not signed.hashes:
            signed.vouch()
        machine.client.check()
        with pytest.raises(UsageError, match="holds no image edge-web"):
            machine.wanted("dev")
        assert machine.wanted() == version(2)
        machine.reboot()
        assert machine.follow() == version(2)

    @pytest.mark.parametrize("name", ["../../etc/shadow", "metadata/1.root.json", "", "A" * 64])
    def test_an_object_that_is_no_object(
        self, signed: SignedStore, machine: Machine, name: str
    ) -> None:
        """Objects are named by digest: no other file can be named as one."""
        data = json.loads(layout.pointer_bytes(make_pointer("stable", WEB, 3)))
        data["release"]["manifest"]["digest"] = name
        put_raw(signed, json.dumps(data).encode())
        machine.refuses("is signed, and cannot be read", "SHA-256")

    def test_a_file_outside_of_its_folder(self, signed: SignedStore, machine: Machine) -> None:
        data = json.loads(layout.pointer_bytes(make_pointer("stable", WEB, 3)))
        data["release"]["parts"]["root"]["file"] = "../../../boot/efi/x"
        put_raw(signed, json.dumps(data).encode())
        machine.refuses("is signed, and cannot be read", "without a folder")

    def test_objects_are_only_ever_named_by_digest(self) -> None:
        pointer = make_pointer("stable", WEB, 3)
        assert pointer.release is not None
        digest = pointer.release.manifest.digest
        assert object_key(digest) == f"objects/{digest[:2]}/{digest}"


class TestMixAndMatch:
    """Files of different states of the store, each honest, make a state that never was."""

    def test_a_snapshot_that_is_not_the_timestamps(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        old = signed.store.snapshot()[signed.key_of(layout.SNAPSHOT)]
        signed.change("stable", make_pointer("stable", WEB, 3))
        signed.store.corrupt(signed.key_of(layout.SNAPSHOT), old)
        machine.refuses("metadata/3.snapshot.json", "different states of a store are mixed")

    @pytest.mark.parametrize("role", [layout.TARGETS, "stable"])
    def test_an_old_file_under_a_new_name(
        self, signed: SignedStore, machine: Machine, role: str
    ) -> None:
        old = signed.store.snapshot()[signed.key_of(role)]
        signed.change_role(role, lambda targets: None)
        signed.store.corrupt(signed.key_of(role), old)
        machine.refuses(signed.key_of(role), "different states of a store are mixed")

    def test_another_channels_file(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        dev = signed.store.snapshot()[signed.key_of("dev")]
        signed.store.corrupt(signed.key_of("stable"), dev)
        machine.refuses(
            signed.key_of("stable"), "metadata names" if signed.hashes else "0 of the 2"
        )

    def test_another_roles_file(self, signed: SignedStore, machine: Machine) -> None:
        """The same key signs both: the kind of the file tells them apart."""
        signed.change("stable", make_pointer("stable", WEB, 3))
        snapshot = signed.store.snapshot()[signed.key_of(layout.SNAPSHOT)]
        signed.store.corrupt(layout.TIMESTAMP_KEY, snapshot)
        machine.refuses(layout.TIMESTAMP_KEY, "other metadata than its name says (snapshot)")

    def test_a_file_that_is_held_back(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        signed.store.delete(signed.key_of("stable"))
        machine.refuses(f"has no {signed.key_of('stable')}", "holds the file back")

    def test_a_pointer_that_is_held_back(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 3))
        signed.store.delete(pointer_key(signed))
        machine.refuses(f"has no {pointer_key(signed)}", "incomplete")


class TestStolenKeys:
    """One key is in the wrong hands; what it was not made for, it cannot do."""

    @pytest.fixture
    def apart(self, signed: SignedStore, machine: Machine) -> SignedStore:
        """The same store, with one key for the timestamp and another one for the snapshot."""
        signed.replace_key(layout.TIMESTAMP, "timestamp-1")
        signed.replace_key(layout.SNAPSHOT, "snapshot-1")
        signed.refresh()
        machine.follow()
        return signed

    def test_timestamp(self, apart: SignedStore, machine: Machine) -> None:
        """It can point at another snapshot, and cannot sign one."""
        snapshot = apart.snapshot
        snapshot.version += 1
        snapshot.meta["stable.json"].version += 1
        data = apart.write(layout.SNAPSHOT, by=["timestamp-1"])
        apart.timestamp.version += 1
        apart.timestamp.snapshot_meta = apart.name(snapshot.version, data)
        apart.write(layout.TIMESTAMP, by=["timestamp-1"])
        machine.refuses("snapshot.json", "carries 0 of the 1 signatures that the snapshot needs")

    def test_snapshot(self, apart: SignedStore, machine: Machine) -> None:
        """It can sign a snapshot, and nothing points at that."""
        apart.snapshot.version += 1
        data = apart.write(layout.SNAPSHOT, by=["snapshot-1"])
        machine.client.check()
        assert machine.wanted() == version(2)
        apart.timestamp.version += 1
        apart.timestamp.snapshot_meta = apart.name(apart.snapshot.version, data)
        apart.write(layout.TIMESTAMP, by=["snapshot-1"])
        machine.refuses("metadata/timestamp.json", "0 of the 1 signatures that the timestamp needs")

    def test_snapshot_in_place_of_the_one_in_force(
        self, apart: SignedStore, machine: Machine
    ) -> None:
        apart.change("stable", make_pointer("stable", WEB, 3))
        apart.snapshot.meta["stable.json"].version -= 1
        apart.write(layout.SNAPSHOT, by=["snapshot-1"])
        if apart.hashes:
            machine.refuses("snapshot.json", "is not the file that the signed metadata names")
        else:  # it can hold news back, and no more
            assert machine.follow() == version(2)

    @pytest.mark.parametrize(
        "thief", ["online", "dev-1", "builder", "tester", "root-1", "targets-1"]
    )
    def test_every_other_key_and_a_channel(
        self, signed: SignedStore, machine: Machine, thief: str
    ) -> None:
        """The online key is in the same hands."""
        stable = signed.targets("stable")
        stable.version += 1
        signed.point(stable, evil())
        signed.write("stable", by=[thief])
        signed.vouch("stable")
        machine.refuses("3.stable.json", "carries 0 of the 2 signatures that channel stable needs")

    @pytest.mark.parametrize(
        "keys", [["stable-1"], ["stable-1", "stable-1"], ["stable-1", "dev-1"]]
    )
    def test_one_of_two_keys_of_a_channel(
        self, signed: SignedStore, machine: Machine, keys: list[str]
    ) -> None:
        stable = signed.targets("stable")
        stable.version += 1
        signed.point(stable, evil())
        signed.write("stable", by=keys)
        signed.vouch("stable")
        machine.refuses("3.stable.json", "carries 1 of the 2 signatures that channel stable needs")

    def test_one_signature_told_twice(self, signed: SignedStore, machine: Machine) -> None:
        stable = signed.targets("stable")
        stable.version += 1
        signed.point(stable, evil())
        data = json.loads(signed.write("stable", by=["stable-1"]))
        data["signatures"] *= 2
        signed.store.corrupt(signed.key_of("stable"), json.dumps(data).encode())
        signed.vouch("stable")
        machine.refuses("3.stable.json", "cannot be read as signed metadata")

    def test_one_signature_under_two_names(self, signed: SignedStore, machine: Machine) -> None:
        stable = signed.targets("stable")
        stable.version += 1
        signed.point(stable, evil())
        data = json.loads(signed.write("stable", by=["stable-1"]))
        other = signed.signers["stable-2"].public_key.keyid
        data["signatures"].append({**data["signatures"][0], "keyid": other})
        signed.store.corrupt(signed.key_of("stable"), json.dumps(data).encode())
        signed.vouch("stable")
        machine.refuses("3.stable.json", "carries 1 of the 2 signatures")

    def test_a_channels_key_alone(self, signed: SignedStore, machine: Machine) -> None:
        """What nobody vouches for is not seen, whatever is put into the store."""
        dev = signed.targets("dev")
        dev.version += 1
        signed.point(dev, evil("dev"))
        signed.write("dev")
        before = make_pointer("dev", WEB).release
        assert before is not None
        assert machine.follow("dev") == before.version

    @pytest.mark.parametrize("thief", [["root-1"], ["targets-1"], ["online"], ["stable-1"]])
    def test_the_root(self, signed: SignedStore, machine: Machine, thief: list[str]) -> None:
        signed.refresh()
        root = signed.roles[layout.ROOT]
        assert isinstance(root, Root)
        root.version += 1
        root.add_key(signed.make_key("mallory").public_key, layout.TIMESTAMP)
        signed.write(layout.ROOT, by=thief)
        machine.refuses("2.root.json", "of the 2 signatures that the root of trust needs")

    @pytest.mark.parametrize(
        "thief", [["targets-1"], ["root-1", "root-2"], ["online"], ["builder"]]
    )
    def test_the_list_of_channels(
        self, signed: SignedStore, machine: Machine, thief: list[str]
    ) -> None:
        targets = signed.targets(layout.TARGETS)
        targets.version += 1
        targets.add_key(signed.make_key("mallory").public_key, "stable")
        signed.write(layout.TARGETS, by=thief)
        signed.vouch(layout.TARGETS)
        machine.refuses("2.targets.json", "of the 2 signatures that the list of channels")

    def test_a_key_that_was_withdrawn(self, signed: SignedStore, machine: Machine) -> None:
        signed.replace_key(layout.ONLINE, "online-2")
        signed.refresh()
        machine.follow()
        signed.timestamp.version += 1
        signed.write(layout.TIMESTAMP, by=["online"])
        machine.refuses("metadata/timestamp.json", "0 of the 1 signatures")

    def test_no_key_at_all(self, signed: SignedStore, machine: Machine) -> None:
        signed.timestamp.version += 1
        signed.write(layout.TIMESTAMP, by=[])
        machine.refuses("metadata/timestamp.json", "0 of the 1 signatures")
