"""What a machine remembers of a store, what it asks for, and what a person is told."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from tuf.api.metadata import DelegatedRole, Targets

from pipeline.errors import NetworkError, TrustError, UsageError
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from pipeline.trust.refusals import ExpiredError
from tests.fakes.faulty_store import Fault
from tests.fakes.machine import WEB, Machine, pointer_key, version
from tests.fakes.pointers import make_pointer
from tests.fakes.repository import SignedStore, travel


@pytest.fixture
def signed() -> SignedStore:
    return SignedStore()


@pytest.fixture
def machine(signed: SignedStore, tmp_path: Path) -> Machine:
    machine = Machine(signed, tmp_path / "trust")
    assert machine.follow() == version(1)
    machine.store.operations.clear()
    return machine


IDLE = [("get_changed", layout.TIMESTAMP_KEY)]


class TestCheck:
    def test_the_first_look_is_news(self, signed: SignedStore, tmp_path: Path) -> None:
        assert Machine(signed, tmp_path).client.check()

    def test_no_news_cost_one_conditional_request(self, machine: Machine) -> None:
        received = machine.store.received
        assert not machine.client.check()
        assert machine.store.operations == IDLE
        assert machine.store.received == received
        machine.reboot()
        assert not machine.client.check()
        assert machine.store.operations == IDLE * 2
        assert machine.store.received == received

    def test_what_is_known_is_not_asked_for_again(self, machine: Machine) -> None:
        machine.reboot()
        machine.client.check()
        assert machine.wanted() == version(1)
        assert machine.client.status()
        machine.client.attesters("builder")
        assert [key for _, key in machine.store.operations] == [
            layout.TIMESTAMP_KEY,
            "metadata/1.dev.json",
            "metadata/1.candidate.json",
        ]

    def test_the_same_bytes_under_another_etag_are_no_news(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        """As from a server that gives no etag, or one whose etag differs by mirror."""
        data = signed.store.snapshot()[layout.TIMESTAMP_KEY]
        signed.store.corrupt(layout.TIMESTAMP_KEY, data)
        assert not machine.client.check()
        assert machine.store.operations == IDLE
        received = machine.store.received
        assert not machine.client.check()
        machine.reboot()
        assert not machine.client.check()
        assert machine.store.received == received

    def test_news_of_a_channel(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 2))
        assert machine.client.check()
        assert machine.wanted() == version(2)
        assert not machine.client.check()
        machine.reboot()
        machine.store.operations.clear()
        assert machine.follow() == version(2)
        assert machine.store.operations == IDLE

    def test_a_new_root_and_new_keys(self, signed: SignedStore, machine: Machine) -> None:
        signed.replace_key(layout.ROOT, "root-3")
        signed.replace_key(layout.ONLINE, "online-2")
        signed.replace_key(layout.TARGETS, "targets-3")
        signed.change_role(layout.TARGETS, lambda targets: None)
        signed.change("stable", make_pointer("stable", WEB, 2))
        assert machine.follow() == version(2)
        assert machine.client.metadata().root.signed.version == 4
        machine.reboot()
        assert not machine.client.check()

    def test_a_root_that_follows_its_announcement(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        """A machine that looks between the two must not miss the root."""
        signed.timestamp.unrecognized_fields[layout.ROOT_FIELD] = {"version": 2}
        signed.refresh()
        assert machine.client.check()
        assert not machine.client.check()
        signed.change_root(lambda root: None)
        assert machine.client.check()
        assert machine.client.metadata().root.signed.version == 2
        machine.store.operations.clear()
        assert not machine.client.check()
        assert machine.store.operations == IDLE

    def test_a_new_channel(self, signed: SignedStore, machine: Machine) -> None:
        def edit(targets: Targets) -> None:
            assert targets.delegations is not None
            assert targets.delegations.roles is not None
            role = DelegatedRole("edge", [], 1, True, layout.channel_paths("edge"))
            targets.delegations.roles["edge"] = role
            targets.add_key(signed.make_key("edge-1").public_key, "edge")

        signed.change_role(layout.TARGETS, edit)
        machine.client.check()
        assert machine.client.channels() == ("dev", "candidate", "stable", "edge")
        assert machine.client.channel("edge") is None
        with pytest.raises(UsageError, match="channel edge has published nothing yet"):
            machine.wanted("edge")
        signed.roles["edge"] = Targets()
        signed.point(signed.targets("edge"), make_pointer("edge", WEB, 1))
        signed.write("edge")
        signed.vouch("edge")
        assert machine.follow("edge") == version(1)


class TestBadStores:
    @pytest.mark.parametrize("fault", ["5xx", "timeout"])
    def test_a_store_that_is_away(
        self, signed: SignedStore, machine: Machine, fault: Fault
    ) -> None:
        """What was trusted is trusted still; that is no refusal, and no reason to roll back."""
        signed.change("stable", make_pointer("stable", WEB, 2))
        for prefix in ("metadata/t", "metadata/2.snap", "metadata/2.stable", "targets/"):
            machine.store.keys = prefix
            machine.store.faults = {fault}
            with pytest.raises(NetworkError):
                machine.follow()
            machine.store.faults = set()
            machine.reboot()
        assert machine.follow() == version(2)

    def test_the_last_state_stays(self, signed: SignedStore, machine: Machine) -> None:
        signed.change("stable", make_pointer("stable", WEB, 2))
        signed.store.delete("metadata/2.snapshot.json")
        with pytest.raises(TrustError):
            machine.client.check()
        assert machine.wanted() == version(1)

    @pytest.mark.parametrize("fault", ["wrong bytes", "short body"])
    @pytest.mark.parametrize("file", [layout.TIMESTAMP, layout.SNAPSHOT, "stable", "pointer"])
    def test_a_file_that_arrives_damaged(
        self, signed: SignedStore, machine: Machine, fault: Fault, file: str
    ) -> None:
        signed.change("stable", make_pointer("stable", WEB, 2))
        key = pointer_key(signed) if file == "pointer" else signed.key_of(file)
        machine.store.keys, machine.store.faults = key, {fault}
        with pytest.raises(TrustError) as caught:
            machine.follow()
        assert key in str(caught.value)
        assert caught.value.hint
        machine.store.faults = set()
        assert machine.follow() == version(2)

    def test_no_signed_store(self, signed: SignedStore, tmp_path: Path) -> None:
        signed.store.restore({})
        with pytest.raises(TrustError, match=r"has no metadata/timestamp\.json") as caught:
            Machine(signed, tmp_path).client.check()
        assert "recast init" in caught.value.hint

    @pytest.mark.parametrize("what", ["noise", "cut", "targets", "unsigned"])
    def test_a_bad_root_of_trust(self, signed: SignedStore, tmp_path: Path, what: str) -> None:
        unsigned = json.loads(signed.root)
        unsigned["signatures"] = []
        root = {
            "noise": b"\0\xff",
            "cut": signed.root[:-1],
            "targets": signed.store.snapshot()["metadata/1.targets.json"],
            "unsigned": json.dumps(unsigned).encode(),
        }[what]
        with pytest.raises(TrustError, match="root of trust on this machine is not valid"):
            TrustClient(signed.store, tmp_path, root)

    def test_both_times_are_named(
        self, signed: SignedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        travel(monkeypatch, datetime(2031, 5, 1, tzinfo=UTC))
        with pytest.raises(ExpiredError) as caught:
            machine.client.check()
        assert "2031-05-01T00:00:00Z" in str(caught.value)
        expires = caught.value.expired
        assert expires.strftime("%Y-%m-%dT%H:%M:%SZ") in str(caught.value)
        assert "If it is wrong, set the clock" in caught.value.hint


class TestChannels:
    def test_a_channel_tells_its_state(self, tmp_path: Path) -> None:
        signed = SignedStore(approvals={"stable": 2})
        signed.change("stable", make_pointer("stable", WEB, 2))
        channel = Machine(signed, tmp_path).client.channel("stable")
        assert channel is not None
        assert (channel.version, channel.threshold) == (2, 2)
        assert channel.signers == ("stable-1", "stable-2")
        assert channel.state is not None
        assert channel.state.event.action == "promote"
        assert channel.state.previous_version == 1
        assert channel.data == signed.store.snapshot()["metadata/2.stable.json"]
        assert channel.expires == signed.moment + timedelta(days=180)
        assert sorted(channel.pointers) == ["edge-db", "edge-web"]

    def test_a_signature_that_is_none_makes_no_signer(
        self, signed: SignedStore, tmp_path: Path
    ) -> None:
        signed.change("stable", make_pointer("stable", WEB, 2), by=["stable-1", "dev-1"])
        channel = Machine(signed, tmp_path).client.channel("stable")
        assert channel is not None
        assert channel.signers == ("stable-1",)

    def test_no_such_channel(self, machine: Machine) -> None:
        assert machine.client.channel("beta") is None
        with pytest.raises(UsageError, match="channel beta does not exist") as caught:
            machine.wanted("beta")
        assert "dev, candidate, stable" in caught.value.hint

    @pytest.mark.parametrize("name", ["builder", "root", "timestamp", "..", ""])
    def test_a_role_is_no_channel(self, machine: Machine, name: str) -> None:
        assert machine.client.channel(name) is None

    def test_no_such_image(self, machine: Machine) -> None:
        with pytest.raises(UsageError, match="holds no image edge-tv") as caught:
            machine.wanted(image="edge-tv")
        assert "edge-db, edge-web" in caught.value.hint

    def test_a_change_that_only_a_newer_recast_knows(
        self, signed: SignedStore, machine: Machine
    ) -> None:
        """Machines are brought up to date through the very channel that tells of it."""
        signed.change("stable", make_pointer("stable", WEB, 2))

        def edit(stable: Targets) -> None:
            stable.unrecognized_fields[layout.STATE_FIELD] = {"event": {"action": "dance"}}

        signed.change_role("stable", edit)
        assert machine.follow() == version(2)
        channel = machine.client.channel("stable")
        assert channel is not None
        assert channel.state is None

    def test_attesters(self, signed: SignedStore, machine: Machine) -> None:
        keys, threshold = machine.client.attesters("builder")
        assert [key.keyid for key in keys] == [signed.signers["builder"].public_key.keyid]
        assert threshold == 1
        with pytest.raises(TrustError, match="names no dev"):
            machine.client.attesters("dev")

    def test_status(
        self, signed: SignedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signed.moment += timedelta(days=179)
        signed.change_role(layout.TARGETS, lambda targets: None)
        signed.change("dev", make_pointer("dev", WEB, 2))
        travel(monkeypatch, signed.moment + timedelta(days=2))
        machine.client.check()
        found = {status.name: status for status in machine.client.status()}
        assert list(found) == [
            *("root", "targets", "snapshot", "timestamp"),
            *("dev", "candidate", "stable", "builder", "tester"),
        ]
        assert found["root"].keys == ("root-1", "root-2")
        assert (found["root"].version, found["root"].threshold) == (1, 2)
        assert found["dev"].expires == signed.moment + timedelta(days=180)
        assert (found["dev"].version, found["dev"].problem) == (2, "")
        assert "was good until" in found["stable"].problem
        assert found["stable"].expires is not None
        assert (found["builder"].version, found["builder"].expires) == (0, None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


class TestAnyFile:
    """Whatever a store holds, there is an answer in words or the honest state; never a crash."""

    @hypothesis.given(data=st.data())
    @hypothesis.settings(max_examples=60)
    def test_one_value_is_another(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        signed = _SHARED
        honest = signed.store.snapshot()
        key = data.draw(st.sampled_from(sorted(honest)))
        document = json.loads(honest[key])
        where, last = document, None
        while isinstance(where, dict | list) and where:
            last, name = where, data.draw(_place(where))
            where = where[name]
            if data.draw(st.booleans()):
                break
        assert last is not None
        last[name] = data.draw(_JSON)
        machine = Machine(signed, tmp_path_factory.mktemp("trust"))
        signed.store.corrupt(key, json.dumps(document).encode())
        with contextlib.suppress(TrustError):
            assert machine.follow() == version(1)
        signed.store.restore(honest)
        assert machine.follow() == version(1)


_SHARED = SignedStore(channels=["stable"], images=[WEB])


def _place(where: dict[str, Any] | list[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where)))


def test_a_device_loads_no_more_than_it_needs() -> None:
    """Each module costs memory, and time at every check, on a machine that may have little."""
    heavy = "yaml click boto3 requests in_toto_attestation zstandard pipeline.trust.repository"
    # Securesystemslib looks for these by itself; a device has none of them.
    absent = "boto3 azure google hvac pkcs11 PyKCS11"
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent.split()!r}))\n"
        "import pipeline.trust.client\n"
        f"print([name for name in {heavy.split()!r} if sys.modules.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
