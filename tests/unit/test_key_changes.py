"""If these fail, a stolen key stays in force, or machines are locked out by a change of keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp

from pipeline import clock, digest
from pipeline.errors import RefusedError, TrustError, UsageError
from pipeline.models.channel import ChannelDefinition, Channels, Gates
from pipeline.models.pointer import Event
from pipeline.store.base import Store
from pipeline.trust import layout
from pipeline.trust.client import TrustClient
from pipeline.trust.key_changes import KeyChanges
from pipeline.trust.keys import Keyring
from pipeline.trust.repository import Repository, RoleKeys
from pipeline.trust.views import ChannelChange, ChannelView, Outcome
from tests.fakes.pointers import make_pointer
from tests.fakes.store import Cut, FaultyStore, MemoryStore

WEB = "edge-web"
OFFLINE = ("offline-1", "offline-2", "offline-3")
CHANNELS = Channels(
    channels=(
        ChannelDefinition(name="dev"),
        ChannelDefinition(name="stable", gates=Gates(approvals=2)),
    )
)
KEYS = {
    "root": OFFLINE,
    "targets": OFFLINE,
    "online": ("online",),
    "dev": ("dev",),
    "stable": ("alice", "bob", "carol"),
    "builder": ("builder",),
    "tester": ("tester",),
}
HUGE = 2**31


class Company:
    """A store, everybody's keys in one keyring, and as many people and machines as are wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.keyring = Keyring(folder / "keys")
        names = dict.fromkeys(name for of in KEYS.values() for name in of)
        keys = {name: self.keyring.generate(name, None) for name in names}
        roles = {
            role: RoleKeys(
                tuple(keys[name] for name in of), 2 if role in ("root", "targets") else 1
            )
            for role, of in KEYS.items()
        }
        self.root = Repository.create(self.store, self.keyring, CHANNELS, roles)
        self._made = 0

    def machine(self) -> TrustClient:
        """A machine that has never seen the store; it pins the very first root."""
        return TrustClient(self.store, self.new_folder("machine"), self.root)

    def person(self, *names: str) -> Person:
        """Somebody with just these keys."""
        keyring = Keyring(self.new_folder("keys"))
        for name in names:
            keyring.add(name, f"file:{self.keyring.file(name)}")
        return Person(self, keyring)

    @property
    def boss(self) -> Person:
        """Somebody with all keys."""
        return Person(self, self.keyring)

    def new_key(self, name: str) -> Key:
        return self.keyring.generate(name, None)

    def new_folder(self, what: str) -> Path:
        self._made += 1
        return self.folder / f"{what}-{self._made}"


class Person:
    """Somebody's machine, with a keyring and a memory of its own."""

    def __init__(
        self,
        company: Company,
        keyring: Keyring,
        *,
        channels: Channels = CHANNELS,
        store: Store | None = None,
    ) -> None:
        self.keyring = keyring
        self.store = store or company.store
        client = TrustClient(self.store, company.new_folder("memory"), company.root)
        self.client = client
        self.repository = Repository(self.store, client, keyring, channels)
        self.changes = KeyChanges(self.repository)

    def promote(self, number: int, channel: str = "stable") -> Outcome:
        """Have the channel hold release *number*."""
        pointer = make_pointer(channel, WEB, number)

        def decide(view: ChannelView) -> ChannelChange:
            event = Event(action="promote", at=clock.now(), image=WEB)
            return ChannelChange(event=event, pointers={WEB: pointer})

        return self.repository.change_channel(channel, decide)


@pytest.fixture
def company(tmp_path: Path) -> Company:
    made = Company(tmp_path)
    made.boss.promote(1)
    return made


def holds(machine: TrustClient, channel: str = "stable") -> str:
    machine.check()
    release = machine.pointer(channel, WEB).release
    assert release is not None
    return release.version


def release(number: int) -> str:
    made = make_pointer("stable", WEB, number).release
    assert made is not None
    return made.version


def names(person: Person, role: str) -> Sequence[str]:
    return person.changes.role(role).names


def test_a_key_that_is_added_signs(company: Company) -> None:
    machine = company.machine()
    assert holds(machine) == release(1)
    outcome = company.boss.changes.add("stable", [company.new_key("dave")])
    assert outcome.published
    assert company.person("alice", "dave", "online").promote(2).published
    assert holds(machine) == release(2)
    channel = machine.channel("stable")
    assert channel is not None
    assert set(channel.signers) == {"alice", "dave"}


def test_what_a_removed_key_has_signed_is_signed_anew(company: Company) -> None:
    machine = company.machine()
    before = machine.channel("stable")
    assert before is not None
    gone = before.signers[0]
    assert company.boss.changes.remove("stable", gone).published
    machine.check()
    after = machine.channel("stable")
    assert after is not None
    assert after.version > before.version
    assert gone not in after.signers
    assert len(after.signers) == 2
    assert holds(machine) == release(1)
    left = [name for name in KEYS["stable"] if name != gone]
    with pytest.raises(RefusedError):
        company.person(gone, left[0], "online").promote(2)


def test_a_channel_that_keeps_enough_signatures_is_left_alone(company: Company) -> None:
    machine = company.machine()
    before = machine.channel("stable")
    assert before is not None
    idle = next(name for name in KEYS["stable"] if name not in before.signers)
    company.boss.changes.remove("stable", idle)
    machine.check()
    after = machine.channel("stable")
    assert after is not None
    assert after.version == before.version


def test_a_root_that_went_on_step_by_step_is_followed(company: Company) -> None:
    behind = company.machine()
    assert holds(behind) == release(1)
    for old, new in (("offline-1", "offline-4"), ("offline-2", "offline-5"),
                     ("offline-3", "offline-6")):  # fmt: skip
        outcomes = company.boss.changes.rotate(old, company.new_key(new))
        assert [outcome.published for outcome in outcomes] == [True]
    company.boss.promote(2)
    assert holds(behind) == release(2)
    assert holds(company.machine()) == release(2)
    person = company.person("offline-4", "offline-5", "online")
    assert names(person, "root") == ("offline-4", "offline-5", "offline-6")
    assert names(person, "targets") == ("offline-4", "offline-5", "offline-6")
    assert person.changes.set_threshold("targets", 1) is not None
    with pytest.raises(RefusedError):
        company.person(*OFFLINE, "online").changes.set_threshold("root", 1)


def test_a_threshold_that_grows_is_asked_for(company: Company) -> None:
    assert company.boss.changes.set_threshold("root", 3) is not None
    person = company.person("offline-1", "offline-2", "online")
    with pytest.raises(RefusedError) as caught:
        person.changes.set_threshold("root", 2)
    assert "--propose" in caught.value.hint
    assert company.boss.changes.set_threshold("root", 2) is not None
    assert company.boss.changes.set_threshold("root", 2) is None


def test_two_people_change_the_root_together(company: Company) -> None:
    machine = company.machine()
    assert holds(machine) == release(1)
    first = company.person("offline-1", "online")
    key = company.new_key("offline-4")
    with pytest.raises(RefusedError):
        first.changes.rotate("offline-3", key)
    (outcome,) = first.changes.rotate("offline-3", key, propose=True)
    assert (outcome.version, outcome.missing, outcome.published) == (None, 1, False)
    assert outcome.proposal is not None
    assert names(company.boss, "root") == OFFLINE
    done = company.person("offline-2", "online").repository.approve(outcome.proposal)
    assert done.published
    assert names(company.boss, "root") == ("offline-1", "offline-2", "offline-4")
    assert holds(machine) == release(1)


@pytest.mark.parametrize(
    ("role", "name", "words"),
    [
        ("dev", "dev", "nobody could sign it"),
        ("online", "online", "nobody could sign it"),
        ("builder", "builder", "nobody could sign it"),
        ("stable", "dave", "stable has no key `dave`"),
        ("beta", "dev", "there is no role `beta`"),
        ("snapshot", "online", "there is no role `snapshot`"),
    ],
)
def test_what_is_refused_leaves_the_store_as_it_was(
    company: Company, role: str, name: str, words: str
) -> None:
    before = company.store.snapshot()
    with pytest.raises(UsageError, match=words):
        company.boss.changes.remove(role, name)
    assert company.store.snapshot() == before


def test_below_the_threshold_is_refused(company: Company) -> None:
    company.boss.changes.remove("root", "offline-3")
    before = company.store.snapshot()
    with pytest.raises(UsageError, match="fewer than its threshold of 2"):
        company.boss.changes.remove("root", "offline-2")
    with pytest.raises(UsageError, match="its threshold cannot be 3"):
        company.boss.changes.set_threshold("root", 3)
    assert company.store.snapshot() == before


def test_one_signature_is_enough_online(company: Company) -> None:
    company.boss.changes.add("online", [company.new_key("online-2")])
    with pytest.raises(UsageError, match="threshold 1"):
        company.boss.changes.set_threshold("online", 2)
    assert company.person("online-2", "alice", "bob").promote(2).published
    assert company.person("online", "alice", "bob").promote(3).published
    assert holds(company.machine()) == release(3)


def test_a_channel_says_its_threshold_itself(company: Company) -> None:
    with pytest.raises(UsageError, match="2 approvals") as caught:
        company.boss.changes.set_threshold("stable", 1)
    assert "approvals: 1" in caught.value.hint
    lax = Channels(channels=(ChannelDefinition(name="dev"), ChannelDefinition(name="stable")))
    boss = Person(company, company.keyring, channels=lax)
    assert boss.changes.set_threshold("stable", 1) is not None
    person = Person(company, company.person("bob", "online").keyring, channels=lax)
    assert person.promote(2).published
    assert holds(company.machine()) == release(2)


def test_a_new_channel_gets_its_role(company: Company) -> None:
    machine = company.machine()
    wider = Channels(
        channels=(*CHANNELS.channels, ChannelDefinition(name="lts", gates=Gates(approvals=2)))
    )
    boss = Person(company, company.keyring, channels=wider)
    assert boss.changes.role("lts").threshold == 0
    with pytest.raises(UsageError):
        boss.changes.add("lts", [company.new_key("lts-1")])
    keys = [company.keyring.public("lts-1"), company.new_key("lts-2")]
    assert boss.changes.add("lts", keys).published
    boss.promote(1, "lts")
    assert holds(machine, "lts") == release(1)


def test_a_key_in_many_roles_is_replaced_in_all(company: Company) -> None:
    boss = company.boss
    boss.changes.add("builder", [company.keyring.public("offline-1")])
    boss.changes.add("stable", [company.keyring.public("offline-1")])
    boss.client.check()
    outcomes = boss.changes.rotate("offline-1", company.new_key("offline-4"))
    assert [outcome.channel for outcome in outcomes] == ["root", "targets"]
    boss.client.check()
    held = {role.name: role.names for role in boss.changes.roles()}
    assert not [role for role, of in held.items() if "offline-1" in of]
    assert {role for role, of in held.items() if "offline-4" in of} == {
        "root", "targets", "stable", "builder",
    }  # fmt: skip
    with pytest.raises(UsageError, match="no role has a key `offline-1`"):
        boss.changes.rotate("offline-1", company.new_key("offline-5"))


# --- the online key -------------------------------------------------------------------------


def rotate_online(company: Company, person: Person | None = None) -> None:
    keyring = company.keyring
    key = (
        keyring.public("online-2") if "online-2" in keyring.names() else company.new_key("online-2")
    )
    (outcome,) = (person or company.boss).changes.rotate("online", key)
    assert outcome.published


def test_a_new_online_key_is_followed_and_the_old_one_refused(company: Company) -> None:
    machine = company.machine()
    assert holds(machine) == release(1)
    rotate_online(company)
    assert holds(machine) == release(1)
    waits = company.person("alice", "bob", "online").promote(2)
    assert not waits.published
    assert company.person("online-2").repository.refresh()
    assert holds(machine) == release(2)
    assert holds(company.machine()) == release(2)


class Thief:
    """Somebody who has the online key, and can write to the store."""

    def __init__(self, company: Company) -> None:
        signer = company.keyring.signer(company.keyring.public("online"))
        assert signer is not None
        self._signer = signer
        self._store = company.store

    def publish(self, version: int, meta: dict[str, int]) -> None:
        """Publish timestamp and snapshot with this version, and these versions of roles."""
        timestamp = Metadata[Timestamp].from_bytes(
            self._store.get(layout.TIMESTAMP_KEY, limit=1 << 20)
        )
        old = timestamp.signed.snapshot_meta.version
        key = layout.metadata_key("snapshot", old)
        snapshot = Metadata[Snapshot].from_bytes(self._store.get(key, limit=1 << 20))
        snapshot.signed.version = version
        for role, number in meta.items():
            snapshot.signed.meta[f"{role}.json"] = MetaFile(number)
        snapshot.sign(self._signer)
        data = snapshot.to_bytes()
        self._store.create(layout.metadata_key("snapshot", version), data)
        timestamp.signed.version = version
        timestamp.signed.expires = clock.now() + timedelta(days=3650)
        timestamp.signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
        timestamp.sign(self._signer)
        info = self._store.find(layout.TIMESTAMP_KEY)
        assert info is not None
        self._store.replace(layout.TIMESTAMP_KEY, timestamp.to_bytes(), etag=info.etag)


def versions(machine: TrustClient) -> tuple[int, int]:
    trusted = machine.metadata()
    return trusted.timestamp.signed.version, trusted.snapshot.signed.version


@pytest.mark.parametrize("meta", [{}, {"stable": HUGE}, {"targets": HUGE}], ids=str)
def test_a_fast_forward_is_undone_by_a_new_online_key(
    company: Company, meta: dict[str, int]
) -> None:
    """A thief of the online key wears out the version numbers, so that no news comes through."""
    machine, boss = company.machine(), company.boss
    assert holds(machine) == release(1)
    Thief(company).publish(HUGE, meta)
    if meta:  # names what nobody has signed: all machines are stuck
        with pytest.raises(TrustError):
            holds(machine)
    else:
        assert holds(machine) == release(1)
        assert versions(machine) == (HUGE, HUGE)
        boss.client.check()
    rotate_online(company, boss)
    company.person("alice", "bob", "online-2").promote(2)
    assert holds(machine) == release(2)
    assert max(versions(machine)) < 100
    assert holds(company.machine()) == release(2)
    Thief(company).publish(HUGE + 1, {})
    with pytest.raises(TrustError):  # what the thief signs now counts for nothing
        machine.check()
    company.boss.repository.refresh()
    assert holds(machine) == release(2)
    assert max(versions(machine)) < 100


def test_a_lost_online_key_is_replaced(company: Company) -> None:
    """The old key cannot sign any more; the root's keys alone put a new one in its place."""
    machine = company.machine()
    assert holds(machine) == release(1)
    key = company.new_key("online-2")
    person = company.person(*OFFLINE, "online-2", "alice", "bob")
    (outcome,) = person.changes.rotate("online", key, lost=True)
    assert outcome.published
    assert person.promote(2).published
    assert holds(machine) == release(2)
    assert holds(company.machine()) == release(2)


def test_a_rotation_may_be_killed_at_any_write(company: Company, tmp_path: Path) -> None:
    key = company.new_key("online-2")
    start = company.store.snapshot()
    for when in ("before", "after"):
        cut_at = 1
        while True:
            company.store = MemoryStore()
            for name, data in start.items():
                company.store.put(name, data, sha256=digest.of_bytes(data))
            machine = company.machine()
            assert holds(machine) == release(1)
            faulty = FaultyStore(company.store, cut_at=cut_at, cut=when)
            person = Person(company, company.keyring, store=faulty)
            try:
                person.changes.rotate("online", key)
            except Cut:
                pass
            else:
                break
            assert holds(machine) == release(1), (when, cut_at)
            assert holds(company.machine()) == release(1), (when, cut_at)
            if "online" in names(company.boss, "online"):
                company.boss.changes.rotate("online", key)
            else:  # it had come through
                company.boss.repository.refresh()
            company.boss.promote(2)
            assert holds(machine) == release(2), (when, cut_at)
            assert holds(company.machine()) == release(2), (when, cut_at)
            root = Metadata[Root].from_bytes(
                company.store.get(layout.metadata_key("root", 2), limit=1 << 20)
            )
            assert root.signed.roles["timestamp"].keyids == [key.keyid]
            cut_at += 1
        assert cut_at > 3
