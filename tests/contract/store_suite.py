"""The contract of stores: what every one keeps, whoever keeps the bytes.

A store's own module subclasses :class:`StoreContract` (or :class:`ReaderContract`, for what can
only be read) and gives it the fixture ``store``. Each test has a store of its own, empty.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.command import Stop
from pipeline.errors import DigestError, Interrupted, RecastError, UsageError
from pipeline.store.base import ChangedError, ExistsError, Info, MissingError, Store
from tests.contract.reader_suite import (
    LIMIT,
    MEBIBYTE,
    NO_KEYS,
    ODD_KEYS,
    ReaderContract,
    noise,
    put,
    race,
)

__all__ = [
    "LIMIT",
    "MEBIBYTE",
    "NO_KEYS",
    "ODD_KEYS",
    "ReaderContract",
    "StoreContract",
    "noise",
    "put",
    "race",
]


class StoreContract(ReaderContract):
    """What whoever writes relies on.

    ``again`` opens the same store once more, as another machine would; by default it is the same
    object.
    """

    @pytest.fixture
    def again(self, store: Store) -> Callable[[], Store]:
        return lambda: store

    @pytest.mark.parametrize("size", [0, 1, MEBIBYTE, 9 * MEBIBYTE + 1])
    def test_a_file_is_stored(self, store: Store, tmp_path: Path, size: int) -> None:
        data = noise(size)
        path = tmp_path / "source"
        path.write_bytes(data)
        moved: list[int] = []
        digest = hashlib.sha256(data).hexdigest()
        store.put("objects/file", path, sha256=digest, progress=moved.append)
        assert b"".join(store.stream("objects/file")) == data
        assert sum(moved) == size
        assert path.read_bytes() == data

    def test_a_file_with_holes_is_stored(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.seek(6 * MEBIBYTE)
            file.write(b"in the middle")
            file.truncate(12 * MEBIBYTE + 5)
        data = path.read_bytes()
        store.put("objects/sparse", path, sha256=hashlib.sha256(data).hexdigest())
        assert b"".join(store.stream("objects/sparse")) == data

    def test_what_is_not_its_digest_is_not_stored(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "source"
        path.write_bytes(b"changed meanwhile")
        wrong = hashlib.sha256(b"as it was").hexdigest()
        for source in (path, path.read_bytes()):
            with pytest.raises(DigestError, match="objects/x"):
                store.put("objects/x", source, sha256=wrong)
            assert store.find("objects/x") is None
        assert list(store.list()) == []

    def test_putting_again_repairs(self, store: Store) -> None:
        """Whatever is there: the caller knows what the key stands for."""
        put(store, "objects/x", b"damaged")
        put(store, "objects/x", b"as it must be")
        assert store.get("objects/x", limit=LIMIT) == b"as it must be"
        assert [info.key for info in store.list()] == ["objects/x"]

    def test_a_stop_ends_an_upload_and_leaves_nothing(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "source"
        path.write_bytes(noise(9 * MEBIBYTE))
        stop = Stop()
        stop.set()
        with pytest.raises(Interrupted):
            store.put("objects/x", path, sha256="0" * 64, stop=stop)
        assert store.find("objects/x") is None

    def test_a_missing_source_is_told(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises((RecastError, OSError), match="gone"):
            store.put("objects/x", tmp_path / "gone", sha256="0" * 64)
        assert list(store.list()) == []

    @pytest.mark.parametrize("key", NO_KEYS)
    def test_nothing_is_written_where_there_is_no_key(self, store: Store, key: str) -> None:
        for write in (
            lambda: put(store, key, b"x"),
            lambda: store.create(key, b"x"),
            lambda: store.replace(key, b"x", etag=""),
            lambda: store.touch(key),
            lambda: store.delete(key),
        ):
            with pytest.raises(UsageError):
                write()
        assert list(store.list()) == []

    def test_only_the_first_creates(self, store: Store) -> None:
        store.create("metadata/1.root.json", b"first")
        with pytest.raises(ExistsError, match=r"metadata/1\.root\.json"):
            store.create("metadata/1.root.json", b"second")
        with pytest.raises(ExistsError):
            store.create("metadata/1.root.json", b"first")
        assert store.get("metadata/1.root.json", limit=LIMIT) == b"first"

    def test_what_was_deleted_can_be_created(self, store: Store) -> None:
        store.create("metadata/1.root.json", b"first")
        store.delete("metadata/1.root.json")
        store.create("metadata/1.root.json", b"second")
        assert store.get("metadata/1.root.json", limit=LIMIT) == b"second"

    def test_only_what_was_read_is_replaced(self, store: Store) -> None:
        with pytest.raises(ChangedError):
            store.replace("metadata/timestamp.json", b"x", etag="of something that was there")
        one = store.replace("metadata/timestamp.json", b"one", etag="")
        with pytest.raises(ChangedError, match=r"metadata/timestamp\.json"):
            store.replace("metadata/timestamp.json", b"x", etag="")
        two = store.replace("metadata/timestamp.json", b"two", etag=one)
        assert two != one
        with pytest.raises(ChangedError):
            store.replace("metadata/timestamp.json", b"x", etag=one)
        assert store.get("metadata/timestamp.json", limit=LIMIT) == b"two"

    def test_every_way_to_an_etag_gives_the_same(self, store: Store) -> None:
        key = "metadata/timestamp.json"
        etag = store.replace(key, b"one", etag="")
        read = store.get_changed(key, "", limit=LIMIT)
        found = store.find(key)
        assert read is not None
        assert found is not None
        assert read[1] == found.etag == etag
        (listed,) = store.list()
        assert listed.etag == etag
        store.replace(key, b"two", etag=listed.etag)

    def test_of_many_that_create_one_wins(self, store: Store, again: Callable[[], Store]) -> None:
        if not store.exclusive:
            pytest.skip("this server cannot keep writers apart, and says so")
        for turn in range(5):
            key = f"metadata/{turn}.stable.json"
            datas = [noise(70_000, f"{turn}.{n}") for n in range(self.racers)]
            stores = [again() for _ in range(self.racers)]

            def act(number: int) -> None:
                stores[number].create(key, datas[number])  # noqa: B023

            outcomes = race(self.racers, act)
            winners = [n for n, outcome in enumerate(outcomes) if outcome is None]
            assert len(winners) == 1, outcomes
            assert sum(isinstance(o, ExistsError) for o in outcomes) == self.racers - 1, outcomes
            assert store.get(key, limit=LIMIT) == datas[winners[0]]

    @pytest.mark.parametrize("there", [False, True])
    def test_of_many_that_replace_one_state_one_wins(
        self, store: Store, again: Callable[[], Store], there: bool
    ) -> None:
        if not store.exclusive:
            pytest.skip("this server cannot keep writers apart, and says so")
        for turn in range(5):
            key = f"metadata/{turn}/timestamp.json"
            etag = store.replace(key, b"before", etag="") if there else ""
            stores = [again() for _ in range(self.racers)]

            def act(number: int) -> object:
                return stores[number].replace(key, b"%d" % number, etag=etag)  # noqa: B023

            outcomes = race(self.racers, act)
            winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, str)]
            assert len(winners) == 1, outcomes
            assert sum(isinstance(o, ChangedError) for o in outcomes) == self.racers - 1, outcomes
            assert store.get(key, limit=LIMIT) == b"%d" % winners[0]
            found = store.find(key)
            assert found is not None
            assert found.etag == outcomes[winners[0]]

    def test_readers_see_whole_objects_alone(
        self, store: Store, again: Callable[[], Store]
    ) -> None:
        """One writes it over and over, the others read: each sees one of the states, whole."""
        key = "metadata/timestamp.json"
        states = [bytes([65 + n]) * 50_000 for n in range(10)]
        etag = store.replace(key, states[0], etag="")
        done = threading.Event()

        def act(number: int) -> object:
            if number == 0:
                held = etag
                try:
                    for state in states[1:]:
                        held = store.replace(key, state, etag=held)
                finally:
                    done.set()
                return True
            mine = again()
            seen = set()
            while not done.is_set():
                seen.add(mine.get(key, limit=LIMIT))
            seen.add(mine.get(key, limit=LIMIT))
            return seen <= set(states)

        assert race(3, act) == [True] * 3

    def test_several_threads_may_put_one_object(self, store: Store) -> None:
        data = noise(2 * MEBIBYTE)
        assert race(4, lambda _: put(store, "objects/x", data)) == [None] * 4
        assert b"".join(store.stream("objects/x")) == data
        assert [info.key for info in store.list()] == ["objects/x"]

    def test_a_list_is_sorted_and_whole(self, store: Store) -> None:
        keys = ["a", "a-b/c", "a.b", "aa/b", "b/c/d/e", "b/c/d.e", "b/c-", "z/1", "z/10", "z/2"]
        for key in keys[::-1]:
            put(store, key, key.encode())
        found = list(store.list())
        assert [info.key for info in found] == sorted(keys)
        for info in found:
            alone = store.find(info.key)
            assert alone is not None
            assert (info.size, info.etag) == (len(info.key), alone.etag)
            # A list may tell the time more precisely than a header does.
            assert abs(info.modified - alone.modified) < timedelta(seconds=2)

    @pytest.mark.parametrize(
        ("prefix", "keys"),
        [
            ("metadata/", ["metadata/1.root.json", "metadata/2.root.json"]),
            ("metadata", ["metadata/1.root.json", "metadata/2.root.json", "metadata2/x"]),
            ("metadata/2", ["metadata/2.root.json"]),
            ("metadata/1.root.json", ["metadata/1.root.json"]),
            ("metadata/1.root.json/", []),
            ("objects/ab/", ["objects/ab/abc"]),
            ("objects/a", ["objects/ab/abc", "objects/ac/acd"]),
            ("nothing", []),
            ("../", []),
            ("/", []),
        ],
    )
    def test_a_list_of_a_prefix(self, store: Store, prefix: str, keys: list[str]) -> None:
        for key in (
            "metadata/1.root.json",
            "metadata/2.root.json",
            "metadata2/x",
            "objects/ab/abc",
            "objects/ac/acd",
        ):
            put(store, key, b"x")
        assert [info.key for info in store.list(prefix)] == keys

    def test_a_long_list_is_whole(self, store: Store) -> None:
        keys = [f"objects/{n % 16:x}/{n:04d}" for n in range(120)]
        for key in keys:
            store.create(key, b"x")
        assert [info.key for info in store.list()] == sorted(keys)

    def test_an_empty_store(self, store: Store) -> None:
        assert list(store.list()) == []
        assert store.find("metadata/timestamp.json") is None
        with pytest.raises(MissingError):
            store.get("metadata/timestamp.json", limit=LIMIT)
        store.delete("metadata/timestamp.json")

    def test_a_touched_object_is_young(self, store: Store) -> None:
        with pytest.raises(MissingError):
            store.touch("objects/x")
        put(store, "objects/x", b"hello")
        before = _info(store, "objects/x").modified
        store.touch("objects/x")
        assert _info(store, "objects/x").modified >= before
        assert store.get("objects/x", limit=LIMIT) == b"hello"

    def test_a_deleted_object_is_gone(self, store: Store) -> None:
        put(store, "objects/x", b"hello")
        put(store, "objects/y", b"hello")
        store.delete("objects/x")
        store.delete("objects/x")
        assert store.find("objects/x") is None
        assert [info.key for info in store.list()] == ["objects/y"]

    def test_what_one_writes_another_sees(self, store: Store, again: Callable[[], Store]) -> None:
        other = again()
        store.create("metadata/1.root.json", b"x")
        assert other.get("metadata/1.root.json", limit=LIMIT) == b"x"
        etag = other.replace("metadata/timestamp.json", b"x", etag="")
        store.replace("metadata/timestamp.json", b"y", etag=etag)
        assert other.get("metadata/timestamp.json", limit=LIMIT) == b"y"


def _info(store: Store, key: str) -> Info:
    found = store.find(key)
    assert found is not None
    return found
