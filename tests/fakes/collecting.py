"""Stores with old releases in them, and one look at what clearing up leaves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pipeline.channels.gc import Collected, collect
from pipeline.models.channel import Retention
from pipeline.models.pointer import Pointer
from tests.fakes.published import (
    keys_of,
    published,
    put_release,
    view,
)
from tests.fakes.store import MemoryStore

WEEK = timedelta(days=7)
RETENTION = Retention(keep=2)


def age(store: MemoryStore, keys: Any = None, by: timedelta = 2 * WEEK) -> None:
    for key in keys if keys is not None else list(store.snapshot()):
        store.age(key, by)


def filled(*numbers: int, **options: Any) -> MemoryStore:
    store = MemoryStore(**options)
    for number in numbers:
        put_release(store, number)
    age(store)
    return store


def run(store: Any, *pointers: Pointer, **options: Any) -> Collected:
    return collect(store, lambda: view(*pointers), RETENTION, jobs=2, **options)


def left(store: MemoryStore) -> set[str]:
    return {key for key in store.snapshot() if not key.startswith("gc/")}


def keys(*numbers: int) -> set[str]:
    return {key for number in numbers for key in keys_of(published(number))}
