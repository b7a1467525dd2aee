"""Check-ins on their way out: signed, kept while the link is down, sent when it is up.

A report is a DSSE envelope (https://github.com/secure-systems-lab/dsse) of the type
:data:`~pipeline.models.checkin.PAYLOAD_TYPE`. Its payload is a ``Checkin`` as canonical JSON with
one field more, ``key``: the public half of the machine's own ed25519 key, as 64 hexadecimal
digits. Its one signature is made with that key. Who takes reports remembers the key of the first.

Two objects come of reports. The newest one replaces ``checkins/<device>.json``. One that tells
how an update ended (confirmed, or failed) goes to ``checkins/history/<device>/<number>.json``
first, so that no later one hides it. What waits for a link is therefore every such outcome, and
the newest report; of more than :data:`MOST` the oldest goes.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import digest
from pipeline.errors import BusyError, HostError, RecastError
from pipeline.files import locked, write_atomically
from pipeline.models.checkin import (
    KEY_FIELD,
    MAX_CHECKIN,
    PAYLOAD_TYPE,
    Checkin,
    checkin_key,
    history_key,
)
from pipeline.models.fields import Record

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from pipeline.agent.delivery import Put

MOST = 50
"""Reports that wait, at most."""

_SECONDS = 10.0  # that sending may take in all: an update waits for nobody
_NAME = re.compile(r"(\d{16})\.(outcome|newest)\.([A-Za-z0-9][A-Za-z0-9._-]{0,63})\.json")
_MEMORY = ".memory.json"
_LOCK = ".lock"
_SENDING = ".sending"
_FEW_WORDS = 300  # characters of a reason that is too long for an envelope


class _Memory(Record):
    """What an outbox remembers between two processes.

    Attributes:
        number: of the newest report.
        told: the outcome that was last queued, so that it is told once.
    """

    number: int = 0
    told: str = ""


@dataclass(frozen=True)
class _Waiting:
    """A report that was not sent yet.

    Attributes:
        device, number, outcome: what it is about.
        data: the envelope; None: it is in the file.
    """

    device: str
    number: int
    outcome: bool
    data: bytes | None = None

    @property
    def name(self) -> str:
        kind = "outcome" if self.outcome else "newest"
        return f"{self.number:016d}.{kind}.{self.device}.json"


@dataclass
class _Told:
    """What came of sending: what went wrong, and was a report refused for its number?"""

    trouble: str = ""
    old: bool = False


class Outbox:
    """Queues a machine's reports, and sends them; a :class:`pipeline.agent.base.Reports`.

    Nothing here ever stops an update: what goes wrong is in :attr:`trouble`, for whoever asks.

    Args:
        folder: where reports wait; made when it is needed.
        url: the store, or another place, below which ``checkins/`` is: ``http(s)://…`` or
            ``file:///…``; None: reports wait until there is one.
        key: the file with the machine's own private key; made when it is not there.
        seconds: that :meth:`send` and :meth:`flush` may take for sending.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        url: str | None,
        key: Path,
        *,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.url = url
        self.trouble = ""
        self._key = key
        self._seconds = seconds
        self._clock = clock
        self._own: _OwnKey | None = None
        self._sender: threading.Thread | None = None

    def send(self, checkin: Checkin) -> None:
        """See :meth:`pipeline.agent.base.Reports.send`."""
        limit = time.monotonic() + self._seconds
        for _ in range(2):  # again with a larger number, if the first was used before
            self.trouble = ""
            try:
                unsaved = self._queue(checkin)
            except (OSError, ValueError, RecastError) as error:
                self.trouble = f"the report could not be made: {_words(error)}"
                return
            if not self._send_until(limit, unsaved):
                return

    def flush(self) -> None:
        """Try to send what waits; as :meth:`send` without a new report."""
        self.trouble = ""
        self._send_until(time.monotonic() + self._seconds, ())

    def waiting(self) -> int:
        """How many reports were not sent yet."""
        return len(self._waiting())

    def _queue(self, checkin: Checkin) -> tuple[_Waiting, ...]:
        """Put a report into the folder; returns it if the folder cannot be written."""
        self._own = self._own or _own_key(self._key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.folder / _LOCK, what="queueing a report"):
                memory = self._remembered()
                outcome = _outcome(checkin)
                new = outcome not in ("", memory.told)
                report = _Waiting(checkin.device, memory.number + 1, new)
                data = _sealed(checkin, report.number, self._own.signer)
                # The number first: one that is lost is better than one that is used twice.
                self._remember(_Memory(number=report.number, told=outcome or memory.told))
                write_atomically(self.folder / report.name, data, mode=0o600)
                self._thin_out(report)
                _sync(self.folder)
        except (OSError, HostError) as error:
            # A full or read-only disk is what a report should tell of: it is sent from memory.
            self.trouble = f"reports cannot be kept in {self.folder}: {_words(error)}"
            memory = self._remembered()
            number = max(memory.number + 1, int(self._clock()))
            new = _outcome(checkin) not in ("", memory.told)
            data = _sealed(checkin, number, self._own.signer)
            return (_Waiting(checkin.device, number, new, data),)
        return ()

    def _thin_out(self, newest: _Waiting) -> None:
        """Remove what *newest* replaces, and the oldest of too many."""
        older = [each for each in self._waiting() if each.number < newest.number]
        gone = [each for each in older if not each.outcome]
        outcomes = [each for each in older if each.outcome]
        gone += outcomes[: max(0, len(outcomes) - (MOST - 1))]
        for each in gone:
            self._remove(each)

    def _remembered(self) -> _Memory:
        with contextlib.suppress(ValueError, OSError):
            return _Memory.model_validate_json((self.folder / _MEMORY).read_bytes())
        # Lost, or a new machine's: no report with this key had a number above the seconds.
        fresh = self._own is not None and self._own.fresh
        return _Memory(number=0 if fresh else int(self._clock()))

    def _remember(self, memory: _Memory) -> None:
        write_atomically(self.folder / _MEMORY, memory.model_dump_json(), mode=0o600)

    def _waiting(self) -> list[_Waiting]:
        """What waits in the folder, the oldest first."""
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(self.folder))
        found = (_NAME.fullmatch(name) for name in names)
        return [_Waiting(m[3], int(m[1]), m[2] == "outcome") for m in found if m]

    def _remove(self, report: _Waiting) -> None:
        with contextlib.suppress(OSError):
            (self.folder / report.name).unlink()

    def _send_until(self, deadline: float, unsaved: Sequence[_Waiting]) -> bool:
        """Send what waits, in a thread that is left alone when its time is over.

        No time limit of a socket covers name servers, a dying USB stick and a server that drips.

        Returns:
            Was a report refused for its number?
        """
        if self.url is None:
            self.trouble = self.trouble or "there is nowhere to send reports to"
            return False
        if self._sender is not None and self._sender.is_alive():
            self.trouble = f"{self.url} has not answered yet"
            return False
        told = _Told()
        self._sender = threading.Thread(
            target=self._deliver, args=(self.url, unsaved, deadline, told), daemon=True
        )
        self._sender.start()
        self._sender.join(max(0.0, deadline - time.monotonic()))
        late = self._sender.is_alive()
        trouble = f"{self.url} does not answer within {self._seconds:.0f} s" if late else ""
        self.trouble = told.trouble or trouble or self.trouble
        return told.old

    def _deliver(self, url: str, unsaved: Sequence[_Waiting], deadline: float, told: _Told) -> None:
        from pipeline.agent.delivery import delivery

        try:
            with self._sending(), delivery(url, deadline) as put:
                self._send_all((*self._waiting(), *unsaved), put, deadline, told)
        except BusyError:
            pass  # another process sends what waits
        except (OSError, RecastError) as error:
            told.trouble = _words(error)
        except Exception as error:
            # A report is no reason for the agent to end, whatever a library makes of an answer.
            told.trouble = f"reports could not be sent: {type(error).__name__}: {error}"

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """Be the only process that sends, where the disk allows to say so."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(locked(self.folder / _SENDING, what="sending", wait=False))
            yield

    def _send_all(
        self, reports: Sequence[_Waiting], put: Put, deadline: float, told: _Told
    ) -> None:
        newest = max((each.number for each in reports), default=0)
        for report in reports:
            if time.monotonic() >= deadline:
                return
            data = report.data
            if data is None:
                try:
                    data = (self.folder / report.name).read_bytes()
                except FileNotFoundError:
                    continue
            keys = [history_key(report.device, report.number)] if report.outcome else []
            keys += [checkin_key(report.device)] if report.number == newest else []
            for key in keys:
                refusal = put(key, data)
                if refusal is not None:
                    told.trouble = refusal.reason
                    told.old = told.old or refusal.old
            self._remove(report)
        if told.old:
            self._catch_up()

    def _catch_up(self) -> None:
        """Let the next number be one that no report had, after one was too small."""
        with locked(self.folder / _LOCK, what="numbering reports"):
            memory = self._remembered()
            number = max(memory.number, int(self._clock()))
            self._remember(_Memory(number=number))


def _outcome(checkin: Checkin) -> str:
    """Which update has ended, and how; empty if none has.

    Later reports name that update too, with other reasons: why the next one waits, say.
    """
    if checkin.step not in ("confirmed", "failed"):
        return ""
    fields = {"device", "step", "target", "seconds", "downloaded", "written"}
    return digest.of_data(checkin.model_dump(mode="json", include=fields))[:32]


@dataclass(frozen=True)
class _OwnKey:
    """A machine's own key, and whether it was made just now."""

    signer: CryptoSigner
    fresh: bool


def _own_key(path: Path) -> _OwnKey:
    """The key in a file that nobody else can read; made on first use.

    Raises:
        OSError: it can be neither read nor written.
        HostError: the disk is full, or the file holds no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    fresh = False
    if not path.exists():
        with locked(path.with_name(f".{path.name}.lock"), what="making the machine's key"):
            if not path.exists():
                fresh = True
                write_atomically(path, CryptoSigner.generate_ed25519().private_bytes, mode=0o600)
                _sync(path.parent)
    data = path.read_bytes()
    try:
        private = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise HostError(
            f"{path} holds no key of a machine",
            hint="Remove it: a new one is made. Then run `recast sites --forget` for this machine.",
        )
    return _OwnKey(CryptoSigner(private), fresh)


def _sealed(checkin: Checkin, number: int, signer: CryptoSigner) -> bytes:
    """The envelope of a report; of one that is too large without what can be spared."""
    from securesystemslib.dsse import Envelope

    public = signer.public_key.keyval["public"]
    spared: tuple[dict[str, object], ...] = (
        {},
        {"labels": {}, "seconds": {}},
        {"labels": {}, "seconds": {}, "reason": checkin.reason[:_FEW_WORDS]},
    )
    for less in spared:
        said = checkin.model_copy(update={"number": number, **less})
        payload = digest.canonical({**said.model_dump(mode="json"), KEY_FIELD: public})
        envelope = Envelope(payload, PAYLOAD_TYPE, {})
        envelope.sign(signer)
        data = digest.canonical(envelope.to_dict())
        if len(data) <= MAX_CHECKIN:
            return data
    raise ValueError(f"it has more than {MAX_CHECKIN} bytes")


def _words(error: Exception) -> str:
    if isinstance(error, RecastError):
        return f"{error.message}. {error.hint}" if error.hint else error.message
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _sync(folder: Path) -> None:
    """Have the names in *folder* on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
