"""The contract of what can be read: the half of the stores' contract that sites lean on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.errors import RecastError, TrustError, UsageError
from pipeline.store.base import MissingError, Reader, Store

LIMIT = 1 << 20
MEBIBYTE = 1 << 20

NO_KEYS = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    ".hidden",
    "a/.hidden",
    "a b",
    "a\\b",
    "a\x00b",
    "a\n",
    "ä",
    "a?b",
    "a#b",
    "a" * 513,
)
ODD_KEYS = ("a%2Fb", "a%b", "x+y=z@w", "1.root.json", "a-b_c/d.e/f", "A/b")


def put(store: Store, key: str, data: bytes) -> None:
    """Write *data* with its right digest."""
    store.put(key, data, sha256=hashlib.sha256(data).hexdigest())


def noise(size: int, seed: str = "") -> bytes:
    """*size* bytes that look random, and are always the same."""
    return hashlib.shake_128(seed.encode()).digest(size)


def race(count: int, act: Callable[[int], object]) -> list[object]:
    """Call *act* in *count* threads at one moment; what each returned or raised."""
    outcomes: list[object] = [None] * count
    ready = threading.Barrier(count)

    def one(number: int) -> None:
        ready.wait()
        try:
            outcomes[number] = act(number)
        except RecastError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


class ReaderContract:
    """What whoever reads relies on. ``store`` fills what ``reader`` reads."""

    racers = 8

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def reader(self, store: Store) -> Reader:
        return store

    def test_what_was_put_is_got(self, store: Store, reader: Reader) -> None:
        put(store, "objects/ab/x", b"hello")
        assert reader.get("objects/ab/x", limit=LIMIT) == b"hello"
        assert b"".join(reader.stream("objects/ab/x")) == b"hello"

    def test_an_empty_object_is_an_object(self, store: Store, reader: Reader) -> None:
        put(store, "empty", b"")
        assert reader.get("empty", limit=0) == b""
        assert list(reader.stream("empty")) == []
        found = reader.find("empty")
        assert found is not None
        assert found.size == 0

    def test_what_is_missing_is_told(self, store: Store, reader: Reader) -> None:
        put(store, "objects/ab/x", b"hello")
        for key in ("objects/ab/y", "objects/cd/x", "other", "objects", "objects/ab"):
            assert reader.find(key) is None
            for read in (
                lambda key=key: reader.get(key, limit=LIMIT),
                lambda key=key: reader.get_changed(key, "", limit=LIMIT),
                lambda key=key: reader.get_changed(key, "x", limit=LIMIT),
                lambda key=key: list(reader.stream(key)),
            ):
                with pytest.raises(MissingError, match=key) as caught:
                    read()
                assert caught.value.key == key

    @pytest.mark.parametrize("key", NO_KEYS)
    def test_what_is_no_key_is_refused(self, reader: Reader, key: str) -> None:
        for read in (
            lambda: reader.get(key, limit=LIMIT),
            lambda: reader.get_changed(key, "", limit=LIMIT),
            lambda: list(reader.stream(key)),
            lambda: reader.find(key),
        ):
            with pytest.raises(UsageError):
                read()

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_an_odd_key_is_one(self, store: Store, reader: Reader, key: str) -> None:
        put(store, key, key.encode())
        assert reader.get(key, limit=LIMIT) == key.encode()
        found = reader.find(key)
        assert found is not None
        assert found.key == key

    def test_no_more_than_the_limit_is_taken(self, store: Store, reader: Reader) -> None:
        put(store, "large", bytes(1000))
        assert len(reader.get("large", limit=1000)) == 1000
        with pytest.raises(TrustError, match="large"):
            reader.get("large", limit=999)
        with pytest.raises(TrustError, match="large"):
            reader.get_changed("large", "", limit=999)

    def test_an_object_that_is_as_it_was_is_not_sent(self, store: Store, reader: Reader) -> None:
        etag = store.replace("metadata/timestamp.json", b"one", etag="")
        first = reader.get_changed("metadata/timestamp.json", "", limit=LIMIT)
        assert first is not None
        data, seen = first
        assert data == b"one"
        assert seen
        assert reader.get_changed("metadata/timestamp.json", seen, limit=LIMIT) is None
        store.replace("metadata/timestamp.json", b"two", etag=etag)
        second = reader.get_changed("metadata/timestamp.json", seen, limit=LIMIT)
        assert second is not None
        assert second[0] == b"two"
        assert second[1] != seen

    def test_states_that_follow_at_once_are_told_apart(self, store: Store, reader: Reader) -> None:
        """Of one size, and within one second: what a clock and a length do not show."""
        etag = ""
        seen = ""
        for number in range(5):
            data = b"state %d" % number
            etag = store.replace("metadata/timestamp.json", data, etag=etag)
            found = reader.get_changed("metadata/timestamp.json", seen, limit=LIMIT)
            assert found is not None
            assert found[0] == data
            seen = found[1]

    def test_a_large_object_comes_in_pieces(self, store: Store, reader: Reader) -> None:
        data = noise(3 * MEBIBYTE + 17)
        put(store, "large", data)
        pieces = list(reader.stream("large"))
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= MEBIBYTE
        assert min(map(len, pieces)) > 0

    @pytest.mark.parametrize("start", [0, 1, MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 99])
    def test_a_stream_starts_where_it_is_told(
        self, store: Store, reader: Reader, start: int
    ) -> None:
        data = noise(MEBIBYTE + 100)
        put(store, "large", data)
        assert b"".join(reader.stream("large", start=start)) == data[start:]

    @pytest.mark.parametrize(
        ("start", "size"),
        [(0, 0), (0, 1), (0, MEBIBYTE), (7, 5), (MEBIBYTE - 1, 2), (MEBIBYTE, 100), (99, 1 << 40)],
    )
    def test_a_stream_ends_where_it_is_told(
        self, store: Store, reader: Reader, start: int, size: int
    ) -> None:
        data = noise(MEBIBYTE + 100)
        put(store, "large", data)
        pieces = list(reader.stream("large", start=start, size=size))
        assert b"".join(pieces) == data[start : start + size]

    @pytest.mark.parametrize("start", [5, 6, 1000])
    def test_from_the_end_on_there_is_nothing(
        self, store: Store, reader: Reader, start: int
    ) -> None:
        put(store, "small", b"hello")
        assert list(reader.stream("small", start=start)) == []

    def test_a_stream_may_be_left(self, store: Store, reader: Reader) -> None:
        data = noise(3 * MEBIBYTE)
        put(store, "large", data)
        for _ in range(3):
            stream = reader.stream("large")
            assert data.startswith(next(stream))
            stream.close()  # type: ignore[attr-defined]
        assert reader.get("large", limit=len(data)) == data

    def test_what_is_known_of_an_object(self, store: Store, reader: Reader) -> None:
        put(store, "objects/ab/x", b"hello")
        found = reader.find("objects/ab/x")
        assert found is not None
        assert (found.key, found.size) == ("objects/ab/x", 5)
        assert found.etag
        assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=10)

    def test_several_threads_may_read(self, store: Store, reader: Reader) -> None:
        contents = {f"objects/{n}": noise(200_000, str(n)) for n in range(self.racers)}
        for key, data in contents.items():
            put(store, key, data)

        def read(number: int) -> bool:
            return all(
                b"".join(reader.stream(f"objects/{(number + n) % self.racers}"))
                == contents[f"objects/{(number + n) % self.racers}"]
                for n in range(self.racers)
            )

        assert race(self.racers, read) == [True] * self.racers

    def test_its_url_is_for_people(self, reader: Reader) -> None:
        assert reader.url
        assert "@" not in reader.url
