"""If these fail, a stranger speaks for a machine, or a person is told wrongly who lags."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DiskFullError, HostError, TrustError
from pipeline.fleet.accept import Acceptor
from pipeline.fleet.arrivals import Arrival, StoreCheckIns
from pipeline.fleet.envelope import Place, Signed, opened, place_of
from pipeline.fleet.standing import Standing, chosen, lags, running, shares, stand
from pipeline.models.checkin import MAX_CHECKIN, checkin_key, history_key
from tests.fakes.machines import NOW, Reporter, said
from tests.fakes.store import MemoryStore

NEWEST = checkin_key("berlin-2")
PLACE = Place("berlin-2", None)
DAMAGED = Reporter()


@pytest.fixture
def machine() -> Reporter:
    return Reporter()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def accept(store: MemoryStore) -> Acceptor:
    return Acceptor(store, kept=3)


def test_places() -> None:
    assert place_of("checkins/a.json") == Place("a", None)
    assert place_of("checkins/a.json.json") == Place("a.json", None)
    assert place_of(history_key("history", 7)) == Place("history", 7)
    for key in (
        "checkins/.json",
        "checkins/a/b.json",
        "checkins/history/a/7.json",
        "checkins/-a.json",
        "metadata/root.json",
        "checkins/a.json/x",
        f"checkins/{'a' * 65}.json",
    ):
        assert place_of(key) is None


def test_no_report_shares_its_place_with_another() -> None:
    names = ["a", "a.json", "history", "history.json"]
    keys = [checkin_key(name) for name in names] + [history_key(name, 1) for name in names]
    assert not any(f"{one}/" in other for one in keys for other in keys)
    assert len(set(keys)) == len(keys)


def test_a_report_says_what_was_signed(machine: Reporter) -> None:
    signed = opened(machine.report(4, reason="why"), PLACE)
    assert (signed.checkin.number, signed.checkin.reason, signed.key) == (4, "why", machine.key)


def test_what_is_forged_or_damaged_is_not_believed(machine: Reporter) -> None:
    good = machine.report()
    shape = json.loads(good)
    other = Reporter()
    payload = base64.b64encode(base64.b64decode(shape["payload"]).replace(b"stable", b"stab1e"))
    changed: list[object] = [
        {**shape, "payload": payload.decode()},
        {**shape, "signatures": []},
        {**shape, "signatures": shape["signatures"] * 2},
        {**shape, "signatures": json.loads(other.report())["signatures"]},
        {**shape, "payloadType": "application/json"},
        {**shape, "payload": "%%%"},
        {**shape, "payload": 7},
        [],
    ]
    forged = [json.dumps(each).encode() for each in changed]
    forged += [b"", b"\xff\xfe", good[:-9], b"[" * 5000, b" " * MAX_CHECKIN + good]
    forged += [machine.report(key=other.key), machine.report(key="x"), machine.report(key=None)]
    forged += [machine.sealed({}), machine.sealed([1]), machine.report(0), machine.report(sent="x")]
    for data in forged:
        with pytest.raises(TrustError):
            opened(data, PLACE)


def test_a_report_is_believed_where_it_belongs_only(machine: Reporter) -> None:
    with pytest.raises(TrustError, match="a report of berlin-2, not of berlin-3"):
        opened(machine.report(), Place("berlin-3", None))
    with pytest.raises(TrustError, match="it is report 1, not 2"):
        opened(machine.report(), Place("berlin-2", 2))


def test_a_report_moves_no_cursor(machine: Reporter) -> None:
    data = machine.report(reason="\x1b[2J\nOK", labels={"a\x07": "\u202e"}, version="1\x9b")
    checkin = opened(data, PLACE).checkin
    words = [checkin.reason, checkin.version, *checkin.labels, *checkin.labels.values()]
    assert all(word.isprintable() for word in words)
    assert checkin.reason.split() == ["[2J", "OK"]


@given(st.binary(max_size=400), st.integers(0, 1000))
def test_no_damage_changes_what_is_said(noise: bytes, at: int) -> None:
    good = DAMAGED.report()
    try:
        found = opened(good[:at] + noise + good[at + len(noise) + 1 :], PLACE)
    except TrustError:
        return
    assert found == opened(good, PLACE)  # the damage was to the name of the key, which says nothing


def test_the_first_key_is_the_machines(
    accept: Acceptor, store: MemoryStore, machine: Reporter
) -> None:
    assert accept(NEWEST, machine.report(1))[0] == 201
    assert accept(NEWEST, machine.report(2))[0] == 204
    status, reason = accept(NEWEST, Reporter().report(3))
    assert status == 403
    assert "recast sites --forget berlin-2" in reason
    assert accept(history_key("berlin-2", 9), Reporter().report(9))[0] == 403
    assert StoreCheckIns(store).forget("berlin-2") == 1
    assert accept(NEWEST, Reporter().report(1))[0] == 201


def test_the_key_holds_before_the_newest_report_is_there(
    accept: Acceptor, machine: Reporter
) -> None:
    assert accept(history_key("berlin-2", 1), machine.report(1))[0] == 201
    assert accept(NEWEST, Reporter().report(2))[0] == 403
    assert accept(NEWEST, machine.report(1))[0] == 201


def test_an_older_report_changes_nothing(
    accept: Acceptor, store: MemoryStore, machine: Reporter
) -> None:
    new = machine.report(5)
    assert accept(NEWEST, new)[0] == 201
    before = store.snapshot()
    assert accept(NEWEST, machine.report(4))[0] == 409
    assert accept(NEWEST, machine.report(5, reason="other"))[0] == 409
    assert accept(history_key("berlin-2", 4), machine.report(4))[0] == 409
    assert accept(NEWEST, new)[0] == 204  # sent again, as its answer was lost
    assert store.snapshot() == before


def test_an_outcome_that_is_sent_again_is_taken_once(
    accept: Acceptor, store: MemoryStore, machine: Reporter
) -> None:
    key, data = history_key("berlin-2", 2), machine.report(2)
    assert [accept(key, data)[0] for _ in range(2)] == [201, 204]
    assert accept(key, machine.report(2, reason="other"))[0] == 409
    assert store.get(key, limit=MAX_CHECKIN) == data


def test_a_machine_cannot_fill_the_disk(
    accept: Acceptor, store: MemoryStore, machine: Reporter
) -> None:
    for number in range(1, 9):
        assert accept(history_key("berlin-2", number), machine.report(number))[0] == 201
    kept = [history_key("berlin-2", number) for number in (6, 7, 8)]
    assert [info.key for info in store.list()] == kept


def test_many_machines_cannot_either(store: MemoryStore) -> None:
    accept = Acceptor(store, most=2)
    for name in ("a", "b"):
        assert accept(checkin_key(name), Reporter(name).report())[0] == 201
    assert accept(checkin_key("c"), Reporter("c").report())[0] == 507
    StoreCheckIns(store).forget("a")
    assert accept(checkin_key("c"), Reporter("c").report())[0] == 201


@pytest.mark.parametrize(
    "key", ["metadata/timestamp.json", "checkins/x", "checkins/history/berlin-2/x.json"]
)
def test_nothing_else_is_written(
    accept: Acceptor, store: MemoryStore, machine: Reporter, key: str
) -> None:
    assert accept(key, machine.report())[0] == 404
    assert accept(checkin_key("berlin-3"), machine.report())[0] == 400
    assert store.snapshot() == {}


@pytest.mark.parametrize(
    ("error", "status"), [(DiskFullError("full"), 507), (HostError("read-only"), 500)]
)
def test_a_store_in_trouble_is_told(
    store: MemoryStore, machine: Reporter, error: Exception, status: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    store.replace = fail  # type: ignore[method-assign, assignment]
    assert Acceptor(store)(NEWEST, machine.report())[0] == status


def test_a_report_that_went_bad_on_the_disk_locks_nobody_out(
    accept: Acceptor, store: MemoryStore, machine: Reporter
) -> None:
    store.create(NEWEST, b"\0")
    assert accept(NEWEST, machine.report())[0] == 204


def test_reading_passes_over_what_is_damaged(store: MemoryStore) -> None:
    for name in ("a", "b", "c"):
        store.create(checkin_key(name), Reporter(name).report())
    store.create(checkin_key("bad"), b"{}")
    store.create(checkin_key("large"), b" " * (MAX_CHECKIN + 1))
    store.create("checkins/README", b"hello")
    store.create(history_key("a", 1), Reporter("a").report())
    found = {each.device: each for each in StoreCheckIns(store).newest()}
    assert sorted(found) == ["a", "b", "bad", "c", "large"]
    assert [name for name, each in found.items() if each.signed is None] == ["bad", "large"]
    assert "more than a report has" in found["large"].problem
    newest, history = StoreCheckIns(store).of("a")
    assert newest is not None
    assert len(history) == 1
    assert StoreCheckIns(store).of("nobody") == (None, [])


def arrived(heard: float = 0.0, device: str = "berlin-2", **fields: Any) -> Arrival:
    return Arrival(device, NOW + timedelta(seconds=heard), Signed(said(device, **fields), "k"))


def standing(now: float = 60.0, **fields: Any) -> Standing:
    found = stand(arrived(**fields), NOW + timedelta(seconds=now))
    assert found is not None
    return found


ON_TRIAL: dict[str, Any] = {"version": "3", "wanted": "3", "target": "3", "confirmed": False}
BEHIND: dict[str, Any] = {"wanted": "3", "target": "3"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "up to date"),
        ({"channel": "", "wanted": "", "step": "", "target": ""}, "follows no channel"),
        ({"wanted": ""}, "up to date"),
        (BEHIND | {"step": "written"}, "moving: written"),
        (BEHIND | {"step": "confirmed", "target": "2"}, "moving: has not begun"),
        (BEHIND | {"outcome": "waiting", "reason": "the window"}, "waiting: the window"),
        (BEHIND | {"step": "failed", "outcome": "failed", "reason": "web"}, "failed: 3: web"),
        (BEHIND | {"step": "failed", "reason": "web"}, "failed: 3: web"),
        (ON_TRIAL | {"step": "booted"}, "moving: on trial"),
        # The channel went back: what failed is wanted no more.
        ({"step": "failed", "target": "3", "outcome": "failed"}, "up to date"),
        # It prepares something although the store has not been heard since.
        ({"wanted": "", "step": "staged", "target": "3"}, "moving: staged"),
    ],
)
def test_how_a_machine_stands(fields: dict[str, Any], text: str) -> None:
    found = standing(**fields)
    assert found.text == text
    assert found.lagging == (text not in ("up to date", "follows no channel"))


def test_silence_counts_and_says_what_was_heard_last() -> None:
    assert standing(now=3599).state == "current"
    assert standing(now=3601).text == "silent since 2026-03-01T12:00:00Z"
    late = standing(now=3601, **BEHIND, step="failed", outcome="failed", reason="web")
    assert late.text == "silent since 2026-03-01T12:00:00Z; then failed: 3: web"
    assert late.lagging


def test_who_asks_rarely_may_be_silent_longer() -> None:
    rarely = NOW + timedelta(hours=6)
    assert standing(now=17 * 3600, next=rarely).state == "current"
    assert standing(now=19 * 3600, next=rarely).state == "silent"
    # Nobody can be silent for ever by saying so.
    assert standing(now=19 * 3600, next=NOW + timedelta(days=4000)).state == "silent"


@pytest.mark.parametrize(
    ("heard", "note"),
    [
        (0, ()),
        (-2 * 86400, ("its clock is 2d ahead",)),
        (7200, ("its report is 2h older than its arrival, or its clock is wrong",)),
    ],
)
def test_a_wrong_clock_is_told(heard: float, note: tuple[str, ...]) -> None:
    assert standing(now=heard + 60, heard=heard).notes == note


def test_trouble_of_a_machine_that_is_up_to_date_is_told() -> None:
    found = standing(outcome="waiting", reason="the store does not answer")
    assert (found.text, found.notes) == ("up to date", ("the store does not answer",))


def test_a_machine_from_the_future_is_not_silent() -> None:
    assert standing(now=0, heard=7200).heard == NOW


def test_shares_and_reasons() -> None:
    found = [
        standing(device="a"),
        standing(device="b", **BEHIND, outcome="waiting", reason="the window"),
        standing(device="c", **BEHIND, outcome="waiting", reason="the window"),
        standing(device="d", **ON_TRIAL, step="booted"),
        standing(device="e", now=9999),
        standing(device="f", now=9998),
        standing(device="g", image="edge-db"),
    ]
    assert [(s.image, s.version, s.machines, s.of, s.unconfirmed) for s in shares(found)] == [
        ("edge-db", "2", 1, 1, 0),
        ("edge-web", "2", 5, 6, 0),
        ("edge-web", "3", 1, 6, 1),
    ]
    assert [(lag.reason, lag.devices) for lag in lags(found)] == [
        ("silent", ("e", "f")),
        ("waiting: the window", ("b", "c")),
        ("moving: on trial", ("d",)),
    ]
    assert [s.checkin.device for s in chosen(found, image="edge-db")] == ["g"]
    assert [s.checkin.device for s in chosen(found, release="3")] == ["d"]
    assert [s.checkin.device for s in chosen(found, lagging=True)] == ["b", "c", "d", "e", "f"]
    assert chosen(found, site="rome") == chosen(found, channel="beta") == []


FIELDS = st.fixed_dictionaries(
    {
        "version": st.sampled_from(["", "2", "3"]),
        "wanted": st.sampled_from(["", "2", "3"]),
        "target": st.sampled_from(["", "2", "3"]),
        "step": st.sampled_from(["", "chosen", "activated", "booted", "confirmed", "failed"]),
        "outcome": st.sampled_from(["ok", "waiting", "failed"]),
        "confirmed": st.booleans(),
        "reason": st.sampled_from(["", "why"]),
    }
)


@given(FIELDS, st.integers(0, 10**6))
def test_nobody_is_up_to_date_who_runs_something_else(fields: dict[str, Any], now: int) -> None:
    found = standing(now=now, **fields)
    assert found.text
    if not found.lagging:
        assert fields["confirmed"]
        assert fields["wanted"] in ("", fields["version"])
        assert now <= 3600


@given(st.lists(FIELDS, max_size=20))
def test_everybody_is_counted_once(fleet: list[dict[str, Any]]) -> None:
    found = [standing(device=f"d{at}", **fields) for at, fields in enumerate(fleet)]
    assert sum(share.machines for share in shares(found)) == len(found)
    told = [device for lag in lags(found) for device in lag.devices]
    assert sorted(told) == sorted(s.checkin.device for s in found if s.lagging)


def test_who_runs_what_is_counted_by_channel_and_image(store: MemoryStore) -> None:
    for name, fields in {
        "a": {},
        "b": {},
        "c": {"version": "1"},
        "d": {"channel": "dev"},
        "e": {"image": "edge-db"},
        "f": {"version": ""},
    }.items():
        store.create(checkin_key(name), Reporter(name).report(**fields))
    store.create(checkin_key("g"), b"damaged")
    store.create(history_key("a", 7), Reporter("a").report(7))
    arrivals = StoreCheckIns(store).newest()
    assert running(arrivals, "edge-web", "stable") == {"2": 2, "1": 1}


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 100])
def test_a_sample_reads_no_more_than_it_may_and_spreads_over_all(
    store: MemoryStore, most: int
) -> None:
    names = [f"site-{number}" for number in range(5)]
    for name in names:
        store.create(checkin_key(name), Reporter(name).report())
    store.create(history_key("site-0", 7), Reporter("site-0").report(7))
    arrivals, reports = StoreCheckIns(store).sample(most)
    assert reports == 5
    assert len({each.device for each in arrivals}) == min(most, 5)
    if most == 2:
        assert [each.device for each in arrivals] == ["site-0", "site-2"]
    assert StoreCheckIns(MemoryStore()).sample(most) == ([], 0)
