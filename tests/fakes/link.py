"""A thin, bad link between a site and its store: every connection goes through here."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_PIECE = 4 << 10
PORTAL = b"<html><body>Welcome to the hotel. Please accept our terms.</body></html>"


@dataclass
class Link:
    """Forwards connections to *port* of this host; its attributes may be changed at any time.

    Attributes:
        port: the server's.
        up: connections are cut, and new ones refused, while it is not.
        rate: bytes per second towards the site, all connections together; 0 for no limit.
        cut_after: a connection is cut after so many bytes, once; None never.
        cut_every: one is cut after so many bytes, again and again; 0 never.
        cuts: how often one was.
        damage: chance that a piece of 4 KiB has one bit flipped.
        loss: chance that a piece waits, as one that is sent again.
        wait: seconds that it waits.
        portal: answers every request with HTML and 200, and asks nobody.
        passed: bytes that went to the site.
        random: where chance comes from.
    """

    port: int
    up: bool = True
    rate: float = 0.0
    cut_after: int | None = None
    cut_every: int = 0
    cuts: int = 0
    damage: float = 0.0
    loss: float = 0.0
    wait: float = 1.0
    portal: bool = False
    passed: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(0))
    own_port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set[socket.socket] = field(default_factory=set)
    _due: float = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[Link]:
        """Listen on loopback, at ``own_port``, while the block runs."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.own_port = listener.getsockname()[1]
            thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self.up = False
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                self.cut()
                thread.join()

    def cut(self) -> None:
        """End every connection now."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if not self.up:
                return
            if self.portal:
                with contextlib.suppress(OSError):
                    client.recv(_PIECE)
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(PORTAL)}\r\n"
                    client.sendall(f"{head}Connection: close\r\n\r\n".encode() + PORTAL)
                return
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port)) as server,
            ):
                ends = {client, server}
                with self._lock:
                    self._open |= ends
                try:
                    up = threading.Thread(target=self._pump, args=(client, server), daemon=True)
                    up.start()
                    self._pump(server, client, down=True)
                    up.join()
                finally:
                    with self._lock:
                        self._open -= ends

    def _pump(self, source: socket.socket, target: socket.socket, *, down: bool = False) -> None:
        with contextlib.suppress(OSError):
            while self.up and (piece := source.recv(_PIECE)):
                target.sendall(self._through(piece) if down else piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _through(self, piece: bytes) -> bytes:
        """What becomes of a piece on its way to the site."""
        with self._lock:
            self.passed += len(piece)
            if self.cut_after is None and self.cut_every:
                self.cut_after = self.cut_every
            if self.cut_after is not None:
                self.cut_after -= len(piece)
                if self.cut_after <= 0:
                    self.cut_after = None
                    self.cuts += 1
                    raise OSError("the link is cut")
            lost, damaged = self.random.random() < self.loss, self.random.random() < self.damage
            wait = self.wait if lost else 0.0
            if self.rate:
                now = time.monotonic()
                self._due = max(self._due, now) + len(piece) / self.rate
                wait += self._due - now
            place = self.random.randrange(len(piece))
        if wait:
            time.sleep(wait)  # what a slow link does
        if damaged:
            return piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]
        return piece
