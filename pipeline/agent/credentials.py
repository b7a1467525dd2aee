"""Read what a machine was handed as systemd credentials; nothing in one may stop a machine.

A credential reaches the system through SMBIOS, the firmware's configuration, the kernel's command
line, or a file on the ESP (https://systemd.io/CREDENTIALS/). systemd puts those that came in plain
into ``@system``, and those from the ESP, which are sealed, into ``@encrypted``.

Imports nothing large: it is used before the network is up.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from pipeline.command import run
from pipeline.errors import RecastError
from pipeline.files import format_size

SYSTEM = Path("/run/credentials/@system")
"""Plain ones; the sealed ones lie beside it, in ``@encrypted``."""

BOUND = Path("/run/recast-credentials/@system")
"""The same, where a unit has them: systemd hides the first from every service in a sandbox, and
would not start one whose sealed credential cannot be opened. A unit that reads them says::

    BindReadOnlyPaths=-/run/credentials/@system:/run/recast-credentials/@system
    BindReadOnlyPaths=-/run/credentials/@encrypted:/run/recast-credentials/@encrypted
"""

PREFIX = "recast."
LIMIT = 4 << 10
"""The most bytes of a credential; a root of trust may have :data:`ROOT_LIMIT`."""
ROOT_LIMIT = 64 << 10

_SEALED_LIMIT = 1 << 20  # systemd's own for all of them together
_UNSEAL_SECONDS = 30.0  # a TPM is slow

Unseal = Callable[[Path], bytes]
"""Opens a sealed credential, whose file has its name; raises RecastError."""


def unseal(path: Path) -> bytes:
    """The content of a sealed credential of this system.

    Raises:
        RecastError: it cannot be opened here.
    """
    argv = ["systemd-creds", "--newline=no", f"--name={path.name}", "decrypt", str(path), "-"]
    return run(argv, timeout=_UNSEAL_SECONDS, separate=True).stdout.encode()


def find_folder() -> Path:
    """Where this process finds this machine's credentials in plain."""
    return SYSTEM if SYSTEM.exists() or _sealed(SYSTEM).exists() else BOUND


def find_names(folder: Path) -> tuple[str, ...]:
    """The names of all credentials that are meant for Recast, without ``recast.``."""
    found: set[str] = set()
    for place in (folder, _sealed(folder)):
        try:
            found.update(os.listdir(place))
        except OSError:  # there are none, as on most machines
            continue
    return tuple(sorted(name.removeprefix(PREFIX) for name in found if name.startswith(PREFIX)))


def read_bytes(
    name: str, folder: Path, *, limit: int = LIMIT, unseal: Unseal = unseal
) -> bytes | None:
    """The content of the credential ``recast.<name>``; None if there is none.

    One in plain goes before a sealed one, as it does for systemd.

    Raises:
        ValueError: it cannot be used; says why, and never what is in it.
    """
    plain = folder / f"{PREFIX}{name}"
    sealed = _sealed(folder) / plain.name
    if os.path.lexists(plain):
        raw = _read(plain, limit)
    elif os.path.lexists(sealed):
        _read(sealed, _SEALED_LIMIT)
        try:
            raw = unseal(sealed)
        except RecastError as error:
            last = str(error).splitlines()[-1].strip(" .")
            raise ValueError(f"it is sealed and cannot be opened here: {last}") from error
    else:
        return None
    if len(raw) > limit:
        raise ValueError(f"expected at most {format_size(limit)}, got {format_size(len(raw))}")
    return raw


def read_text(name: str, folder: Path, *, unseal: Unseal = unseal) -> str | None:
    """The text of the credential ``recast.<name>``, stripped; None if there is none, or nothing.

    Raises:
        ValueError: it cannot be used; says why, and never what is in it.
    """
    raw = read_bytes(name, folder, unseal=unseal)
    if raw is None:
        return None
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text, got a byte that is none at {error.start}") from error
    for line in text.splitlines():
        if not line.replace("\t", " ").isprintable():
            raise ValueError("expected plain text, got a control character")
    return text or None


def _sealed(folder: Path) -> Path:
    return folder.parent / "@encrypted"


def _read(path: Path, limit: int) -> bytes:
    """All of a file, or as much as shows that it is too large."""
    try:
        # Never waits, whatever stands there under that name.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("expected a file")
            if facts.st_size > limit:
                size = format_size(facts.st_size)
                raise ValueError(f"expected at most {format_size(limit)}, got {size}")
            return file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error
