"""A small Debian archive in a folder, signed with a key of its own; apt reads it as any other."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import format_datetime
from pathlib import Path

from pipeline import clock
from pipeline.dib.mirrors import Mirrors

_CONTROL = """\
Package: {name}
Version: {version}
Architecture: amd64
Maintainer: Nobody <nobody@mirror.example>
Description: a package of nothing
"""


@dataclass(frozen=True)
class Key:
    """A key that signs archives.

    Attributes:
        home: gpg's folder, with the secret half.
        keyring: the public half, as apt wants it.
    """

    home: Path
    keyring: Path


@contextmanager
def signing_key() -> Iterator[Key]:
    """A new key; it and its agent are gone afterwards."""
    # Not below pytest's folders: an agent's socket has a path of at most 108 bytes.
    with tempfile.TemporaryDirectory(prefix="gpg-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        home.chmod(0o700)
        who = "Archive <archive@mirror.example>"
        try:
            _gpg(home, "--passphrase", "", "--quick-generate-key", who, "ed25519", "sign", "never")
            (home / "keyring.gpg").write_bytes(_gpg(home, "--export"))
            yield Key(home, home / "keyring.gpg")
        finally:
            subprocess.run(["gpgconf", "--homedir", name, "--kill", "all"], check=False)


class DebianArchive:
    """An archive with a main and a security half.

    Args:
        folder: where it is put; nobody else's.
        key: signs it.
        release: such as ``trixie``.
    """

    def __init__(self, folder: Path, key: Key, release: str = "trixie") -> None:
        self._folder = folder
        self._key = key
        self._packages: dict[str, dict[str, str]] = {
            release: {},
            f"{release}-updates": {},
            f"{release}-security": {},
        }
        self._publish()

    @property
    def mirrors(self) -> Mirrors:
        """Where it is, for whoever asks it."""
        here = f"copy:{self._folder}"
        return Mirrors("debian", f"{here}/debian", f"{here}/security")

    def upload(self, suite: str, **versions: str) -> None:
        """Offer these versions in a suite from now on, each in place of another there."""
        self._packages[suite].update({n.replace("_", "-"): v for n, v in versions.items()})
        self._publish()

    def sign_with(self, key: Key) -> None:
        """Sign it with another key from now on."""
        self._key = key
        self._publish()

    def spoil(self, suite: str) -> None:
        """Change a list of packages without signing it."""
        packages = self._dists(suite) / "main" / "binary-amd64" / "Packages"
        packages.write_text(packages.read_text() + "\n" + _CONTROL.format(name="x", version="1"))

    def _dists(self, suite: str) -> Path:
        half = "security" if suite.endswith("-security") else "debian"
        return self._folder / half / "dists" / suite

    def _publish(self) -> None:
        for suite, packages in self._packages.items():
            stanzas = [self._stanza(name, version) for name, version in sorted(packages.items())]
            listing = self._dists(suite) / "main" / "binary-amd64" / "Packages"
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text("\n".join(stanzas))
            self._sign(suite, listing)

    def _stanza(self, name: str, version: str) -> str:
        pool = self._folder / "pool"
        package = pool / f"{name}_{version.replace(':', '%3a')}_amd64.deb"
        if not package.exists():
            pool.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory() as tree:
                control = Path(tree) / "DEBIAN" / "control"
                control.parent.mkdir(mode=0o755)
                control.write_text(_CONTROL.format(name=name, version=version))
                command = ["dpkg-deb", "--root-owner-group", "--build", tree, str(package)]
                subprocess.run(command, check=True, capture_output=True)
        data = package.read_bytes()
        return _CONTROL.format(name=name, version=version) + (
            f"Filename: ../pool/{package.name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )

    def _sign(self, suite: str, listing: Path) -> None:
        data = listing.read_bytes()
        text = (
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\n"
            f"Date: {format_datetime(clock.now(), usegmt=True)}\n"
            "Architectures: amd64\nComponents: main\nSHA256:\n"
            f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/Packages\n"
        )
        signed = _gpg(self._key.home, "--clearsign", input=text.encode())
        (self._dists(suite) / "InRelease").write_bytes(signed)


def _gpg(home: Path, *args: str, input: bytes = b"") -> bytes:
    argv = ["gpg", "--batch", "--quiet", "--yes", "--homedir", str(home), *args]
    env = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(argv, input=input, env=env, check=True, capture_output=True).stdout
