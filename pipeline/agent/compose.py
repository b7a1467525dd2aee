"""The agent of a real machine, put together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline import clock
from pipeline.agent import state, status
from pipeline.agent.history import Event, History
from pipeline.agent.journal import Journal
from pipeline.agent.state import Memory
from pipeline.agent.telling import Teller
from pipeline.errors import RecastError
from pipeline.files import write_atomically

if TYPE_CHECKING:
    from pipeline.agent.base import Machine, Slots
    from pipeline.agent.turn import Parts
    from pipeline.agent.upstream import Stores
    from pipeline.command import Stop
    from pipeline.models.device import Running
    from pipeline.models.site import Site
    from pipeline.store.base import Reader
    from pipeline.store.throttled import Throttle

_KEY = "device.key"
_DIGITS = 16  # of the root's digest, in the name of the folder that remembers what it vouched for


@dataclass(frozen=True)
class Places:
    """Where things are on a machine; tests have their own.

    Attributes:
        data: the data partition.
        run: what is gone at the next boot.
        mount: is *data* a partition of its own, and its absence worth a word?
    """

    data: Path = state.DATA
    run: Path = status.PATH.parent
    mount: bool = True

    @property
    def lasting(self) -> Path:
        """Where the agent keeps what lasts."""
        return self.data / state.LASTING.relative_to(state.DATA)

    @property
    def volatile(self) -> Path:
        """Where it keeps that if nothing lasts."""
        return self.run / "agent"

    @property
    def lock(self) -> Path:
        """Held by whoever changes this machine's release."""
        return self.run / "agent.lock"

    @property
    def status(self) -> Path:
        """What is going on, for everybody."""
        return self.run / "status.json"

    def memory(self) -> Memory:
        """What the machine remembers."""
        mount = self.data if self.mount else None
        return Memory(self.lasting, self.volatile, mount=mount)


def open_machine() -> Machine:
    """The machine that this runs on."""
    from pipeline.agent.machine import RealMachine

    return RealMachine()


def compose(
    places: Places,
    *,
    listen: Callable[[Event], None] | None = None,
    watch: Callable[[str, int, int], None] | None = None,
    stop: Stop | None = None,
) -> Parts:
    """All parts of the agent.

    Args:
        places: where things are.
        listen: hears of each event.
        watch: hears how a step goes.
        stop: ends work when set.
    """
    from pipeline.agent.reports import Outbox
    from pipeline.agent.site import read_root, read_site
    from pipeline.agent.turn import Parts

    site, problems = read_site()
    memory = places.memory()
    url = site.checkins or (site.store[0] if site.store else None)
    outbox = Outbox(memory.folder / "queue", url, _device_key(places, memory))
    teller = Teller(
        site,
        outbox,
        Journal(),
        History(memory.folder / "history.jsonl"),
        clock.now,
        status=places.status,
        listen=listen,
        watch=watch,
    )
    root = read_root()
    missing = _unconfigured(site, root)
    upstream = None
    if not missing and root is not None:
        # What was trusted lasts where the memory does: older metadata is refused by it.
        trusted = places.data / "recast/trust" if memory.lasts else places.run / "trust"
        upstream = open_stores(site, root, trusted, stop)
    return Parts(
        site=site,
        machine=open_machine(),
        slots=_open_slots,
        memory=memory,
        teller=teller,
        upstream=upstream,
        unconfigured=missing,
        problems=problems,
        clock=clock.now,
        stop=stop,
    )


def open_stores(site: Site, root: bytes, folder: Path, stop: Stop | None = None) -> Stores:
    """The stores of a site, with what was verified of them before.

    Args:
        site: names them; at least one.
        root: the root of trust.
        folder: holds a folder for each root of trust.
        stop: ends a wait for bandwidth when set.
    """
    from pipeline import digest
    from pipeline.agent.upstream import Stores
    from pipeline.transfer.source import StoreSource

    remembered = folder / digest.of_bytes(root)[:_DIGITS]
    return Stores(open_readers(site, stop), root, remembered, StoreSource)


def open_readers(site: Site, stop: Stop | None = None) -> list[Reader]:
    """The stores of a site, which share its bandwidth; a folder of this machine takes none of it.

    Args:
        site: names them, and what they may take.
        stop: ends a wait for bandwidth when set.

    Raises:
        UsageError: one has no URL of a store.
    """
    throttle = open_throttle(site, stop) if site.bandwidth else None
    return [open_reader(url, throttle) for url in site.store]


def open_throttle(site: Site, stop: Stop | None = None) -> Throttle:
    """What holds a machine to the bandwidth of its site."""
    from pipeline.policy.bandwidth import limit_at
    from pipeline.store.throttled import Throttle

    def rate() -> float | None:
        bits = limit_at(site.bandwidth, clock.now()).rate
        return None if bits is None else bits / 8

    return Throttle(rate, stop=stop)


def open_reader(url: str, throttle: Throttle | None = None) -> Reader:
    """The store at a URL: on a web server, or in a folder of this machine.

    Args:
        url: where it is.
        throttle: what a web server is held to.

    Raises:
        UsageError: it is no URL of a store.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        from pipeline.store.local import LocalStore

        return LocalStore(Path(unquote(parts.path)))
    from pipeline.store.http import HttpStore, Limits
    from pipeline.store.http_errors import Patience

    # A thin link is away for a minute or two now and then: what is under way waits for it.
    patience = Patience(attempts=9)
    if throttle is None:
        return HttpStore(url, Limits(patience=patience))
    from pipeline.store.throttled import ThrottledStore

    return ThrottledStore(HttpStore(url, Limits(patience=patience, span=throttle.span)), throttle)


def _device_key(places: Places, memory: Memory) -> Path:
    """The machine's own key; a copy of it if the folder that it is in cannot be written."""
    lasting = places.lasting / _KEY
    if memory.lasts:
        return lasting
    copied = memory.folder / _KEY
    with contextlib.suppress(OSError, RecastError):
        if not copied.exists():
            write_atomically(copied, lasting.read_bytes(), mode=0o600)
    return copied


def _open_slots(running: Running) -> Slots:
    from pipeline.agent.opening import open_slots

    return open_slots(running)


def _unconfigured(site: Site, root: bytes | None) -> str:
    missing = []
    if not site.store:
        missing.append("no store (recast.store)")
    if not site.channel:
        missing.append("no channel (recast.channel)")
    if root is None:
        missing.append("no root of trust (recast.root)")
    if not missing:
        return ""
    return f"this machine follows nothing: it was told {', '.join(missing)}"
