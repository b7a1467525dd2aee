"""A small web server for the objects of a local store; it only reads, unless it is given `Uploads`.

For a first site, a laboratory, a bench with a cable. It does what sites need (ranges, ETags,
conditional requests, caching) and nothing else, with a bound on everything a stranger could use
up: connections, the time of a request, the size of its headers and of what it brings.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.serve.answering import Handler
from pipeline.serve.listening import Listener, Log, Request, Uploads
from pipeline.store.local import LocalStore

__all__ = ["Log", "Request", "Server", "Uploads", "serve"]


class Server:
    """Serves a folder while its ``with`` block runs.

    Args:
        store: what is served.
        host: the address to listen on.
        port: 0 for any that is free.
        connections: most at a time; who comes then is asked to come again.
        timeout: seconds that a request may take to arrive, an idle connection may stay, and a
            client may take nothing.
        log: hears of each request; called by several threads.
        uploads: what it takes; None: nothing.

    Raises:
        UsageError: there is no such address here.
        HostError: the port is taken, or not ours to take.
    """

    def __init__(
        self,
        store: LocalStore,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        connections: int = 128,
        timeout: float = 30.0,
        log: Log | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        self.store = store
        where = _address(host, port)
        self._listener = Listener(Handler, where, store, connections, timeout, log, uploads)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._listener.server_address[:2]
        text = host if isinstance(host, str) else host.decode()
        return f"http://[{text}]:{port}" if ":" in text else f"http://{text}:{port}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()


def serve(
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    connections: int = 128,
    timeout: float = 30.0,
    log: Log | None = None,
    uploads: Uploads | None = None,
) -> Server:
    """A server for the store in *folder*, to be used in a ``with`` statement; see `Server`."""
    store = LocalStore(folder)
    return Server(
        store, host, port, connections=connections, timeout=timeout, log=log, uploads=uploads
    )


def _address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError, OverflowError) as error:
        raise UsageError(f"there is no address `{host}` to listen on") from error
    family, _, _, _, address = found[0]
    return family, address
