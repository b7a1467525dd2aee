"""Gives TUF's client its files out of a store, whatever kind of store that is."""

from __future__ import annotations

from collections.abc import Iterator

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from pipeline.errors import TrustError, UsageError
from pipeline.store.base import MissingError, Reader
from pipeline.trust import layout

_NOT_FOUND = 404  # what TUF's client takes for "there is no such file"


class OfflineError(Exception):
    """What is wanted is not here, and the store must not be asked."""


class EndlessError(TrustError):
    """The store sends more than anything honest can be."""


class StoreFetcher(FetcherInterface):
    """Files of a store, by key; where TUF speaks of a URL it is given a key.

    Errors of the store go through as they are, but for a missing object, which is TUF's 404.

    Attributes:
        online: may the store be asked? If not, only what was handed in is there.
        fetched: what was given out, by key, in that order; for the words of a refusal.
    """

    def __init__(self, store: Reader, *, online: bool) -> None:
        self.online = online
        self.fetched: dict[str, bytes] = {}
        self._store = store
        self._held: dict[str, bytes] = {}

    def hand_in(self, key: str, data: bytes) -> None:
        """Give out *data* for *key* without asking the store."""
        self._held[key] = data

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, layout.MAX_TARGETS)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """The bytes of one object.

        Raises:
            DownloadHTTPError: there is none.
            EndlessError: it is longer than *max_length*.
            OfflineError: the store must not be asked.
            NetworkError, HostError: as :meth:`Reader.get`.
        """
        if url in self._held:
            data = self._held[url]
        elif self.online:
            data = read_limited(self._store, url, max_length)
        elif url.endswith(".root.json"):
            raise DownloadHTTPError("no newer root is looked for", _NOT_FOUND)
        else:
            raise OfflineError(url)
        self.fetched.pop(url, None)
        self.fetched[url] = data
        return data


def read_limited(store: Reader, key: str, limit: int) -> bytes:
    """An object's bytes, with the errors that TUF's client and a person understand.

    Raises:
        DownloadHTTPError: there is none.
        EndlessError: it is longer than *limit*.
        TrustError: there can be none of that name.
        NetworkError, HostError: as :meth:`Reader.get`.
    """
    try:
        return store.get(key, limit=limit)
    except MissingError as error:
        raise DownloadHTTPError(str(error), _NOT_FOUND) from error
    except TrustError as error:
        raise endless(store, key, limit) from error
    except UsageError as error:
        raise TrustError(
            f"the signed metadata in {store.url} names {key[:80]}…, which no store can have",
            hint="Whoever signed it did so with one of the store's keys: ask those who hold them.",
        ) from error


def endless(store: Reader, key: str, limit: int) -> EndlessError:
    """The refusal of an object that does not end where it must."""
    return EndlessError(
        f"{key} in {store.url} is longer than the {limit} bytes that it can honestly have: it "
        "was not read any further",
        hint="The store or a mirror of it is broken, or somebody wants to fill this machine's "
        "memory or disk: look at that object in the store.",
    )
