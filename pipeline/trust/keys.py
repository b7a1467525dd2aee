"""The keys that a person can sign with: a folder of key files, and a list of where others are.

``keys.yaml`` in the folder has a line ``name: uri`` for each key; see
:mod:`pipeline.trust.signers` for what a URI can be. A path in it is relative to the folder. Beside
a private key ``<name>.pem`` stands its public one, ``<name>.pub``, to be given to colleagues.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from pipeline.errors import HostError, TrustError, UsageError
from pipeline.files import locked, write_atomically
from pipeline.trust.layout import NAME_FIELD, key_name
from pipeline.trust.public_keys import NAME, check_name, read_public
from pipeline.trust.signers import (
    FILE_SCHEMES,
    NamedSigner,
    PassphraseError,
    explained,
    import_public,
    is_encrypted,
    load_private,
    split,
)

KEYS_FILE = "keys.yaml"

_HEADER = "# Where the private keys of this project are: a name and a signer's URI on each line.\n"


class Keyring:
    """The private keys that are at hand here.

    Args:
        folder: where key files and ``keys.yaml`` are; made, with mode 0700, when first written.
        ask: is asked for a passphrase or PIN, in words such as ``passphrase of the key online``.
    """

    def __init__(self, folder: Path, ask: Callable[[str], str] | None = None) -> None:
        self.folder = folder
        self._ask = ask
        self._passphrases: list[str] = []
        self._pins: dict[str, str] = {}

    def names(self) -> list[str]:
        """The names of all keys, in the order of ``keys.yaml``.

        Raises:
            TrustError: ``keys.yaml`` cannot be understood.
        """
        return list(self._uris())

    def uri(self, name: str) -> str:
        """Where a key is; a path in it is absolute.

        Raises:
            UsageError: there is no such key here.
            TrustError: ``keys.yaml`` cannot be understood.
        """
        uris = self._uris()
        if name not in uris:
            raise UsageError(
                f"there is no private key `{name}` in {self.folder}",
                hint=f"There are: {', '.join(uris) or 'none'}.",
            )
        return self._absolute(uris[name])

    def file(self, name: str) -> Path | None:
        """The file of a key that is one; None for others.

        Raises:
            UsageError, TrustError: as :meth:`uri`.
        """
        scheme, path = split(self.uri(name))
        return Path(path) if scheme in FILE_SCHEMES else None

    def encrypted(self, name: str) -> bool | None:
        """Does a key's file need a passphrase? None for a key in no file, or one out of reach.

        Raises:
            UsageError, TrustError: as :meth:`uri`.
        """
        path = self.file(name)
        return is_encrypted(path) if path is not None else None

    def public(self, name: str) -> Key:
        """The public half of a key that is here.

        Raises:
            UsageError: there is no such key here.
            TrustError, HostError: it cannot be told.
        """
        uri = self.uri(name)
        try:
            return read_public(self._public_file(name).read_bytes(), name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise HostError(
                f"{self._public_file(name)} cannot be read: {error.strerror}"
            ) from error
        key = self._import(name, uri)[1]
        self._write_public(key)
        return key

    def signer(self, key: Key) -> Signer | None:
        """What signs with *key* of the metadata; None if its private half is not here.

        The key is opened, and a passphrase asked for, when it first signs; only then the signer
        raises HostError or TrustError.

        Raises:
            TrustError: ``keys.yaml`` cannot be understood.
        """
        name = key_name(key)
        uri = self._uris().get(name)
        if uri is None or not self._may_be(name, key):
            return None
        return self._signer(name, self._absolute(uri), key)

    def generate(self, name: str, passphrase: str | None) -> Key:
        """Make an ed25519 key in a file of mode 0600, and list it.

        Where a run before was cut short, the key file that it made is taken, never overwritten.

        Args:
            name: what it is called.
            passphrase: encrypts the file; None leaves it open to whoever can read it.

        Raises:
            UsageError: there is a key of that name, or the name will not do.
            TrustError: a key file is there that *passphrase* does not open.
            HostError: the folder cannot be written.
        """
        check_name(name)
        path = self.folder / f"{name}.pem"
        with self._changing():
            self._require_new(name)
            if path.exists():
                with explained(name, f"file:{path}"):
                    private = load_private(path, lambda _: passphrase or "")
                    key: Key = SSlibKey.from_crypto(private.public_key())
            else:
                signer = CryptoSigner.generate_ed25519()
                key = signer.public_key
                write_atomically(path, _private_bytes(signer, passphrase), mode=0o600)
            key.unrecognized_fields[NAME_FIELD] = name
            self._write_public(key)
            self._list(name, f"file:{path.name}")
        if passphrase:
            self._remember(passphrase)
        return key

    def add(self, name: str, uri: str, public_pem: bytes | None = None) -> Key:
        """List a key that exists: in a file, a token or a cloud.

        Args:
            name: what it is called.
            uri: where it is.
            public_pem: its public half in PEM; needed only where it cannot be asked for. A test
                signature shows that the two belong together.

        Raises:
            UsageError: the URI, the name or the public key will not do.
            HostError, NetworkError, TrustError: the key cannot be used.
        """
        check_name(name)
        with self._changing():
            self._require_new(name)
            absolute = self._absolute(uri)
            if public_pem is not None:
                key = read_public(public_pem, name)
                self._signer(name, absolute, key).sign(b"a test")
            else:
                absolute, key = self._import(name, absolute)
            self._write_public(key)
            self._list(name, uri if split(uri)[0] in FILE_SCHEMES else absolute)
        return key

    def remove(self, name: str, *, destroy: bool = False) -> None:
        """Take a key off the list; its files stay, for whoever wants to destroy them.

        Args:
            name: what it is called.
            destroy: remove the files as well, of a key that was made here and never used.

        Raises:
            UsageError: there is no such key here.
            HostError: the folder cannot be written.
        """
        with self._changing():
            file = self.file(name)
            path = self.folder / KEYS_FILE
            mine = re.compile(rf"""["']?{re.escape(name)}["']?\s*:""")
            lines = path.read_text().splitlines(keepends=True)
            write_atomically(path, "".join(line for line in lines if not mine.match(line)))
            if destroy and file == self.folder / f"{name}.pem":
                file.unlink(missing_ok=True)
                self._public_file(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def being_made(self) -> Iterator[None]:
        """Hold the folder while the keys of a new project are made, apart from who does the same.

        Raises:
            BusyError: another process is at it.
            HostError: the folder cannot be written.
        """
        with self._folder(), locked(self.folder / ".init", what="new keys", wait=False):
            yield

    def _uris(self) -> dict[str, str]:
        path = self.folder / KEYS_FILE
        if not path.exists():
            return {}
        from pipeline.definitions.document import read

        document = read(path, str(path))
        if document.empty:
            return {}
        data = document.data
        problem = str(document.problems[0]) if document.problems else ""
        if not problem and not isinstance(data, dict):
            problem = f"{path}: expected a line `name: uri` for each key"
        if problem or not isinstance(data, dict):
            raise TrustError(problem, hint="A line looks like `online: file:online.pem`.")
        for name, uri in data.items():
            if not (isinstance(name, str) and NAME.fullmatch(name) and isinstance(uri, str)):
                raise TrustError(
                    f"{path}: expected a key's name and URI, got `{name}: {uri}`",
                    hint="A line looks like `online: file:online.pem`.",
                )
        return data

    def _absolute(self, uri: str) -> str:
        scheme, rest = split(uri)
        if scheme not in FILE_SCHEMES:
            return uri
        return f"{scheme}:{self.folder / rest.removeprefix('//')}"

    def _may_be(self, name: str, key: Key) -> bool:
        """Is our key of that name the one of the metadata, as far as its public file tells?"""
        path = self._public_file(name)
        try:
            return read_public(path.read_bytes(), name).keyval == key.keyval
        except (OSError, UsageError):
            return True

    def _import(self, name: str, uri: str) -> tuple[str, Key]:
        with explained(name, uri):
            if split(uri)[0] in FILE_SCHEMES:
                key: Key = SSlibKey.from_crypto(self._load(name, uri).public_key())
                found: tuple[str, Key] | None = (uri, key)
            else:
                found = import_public(uri, lambda _: self._pin(name))
        if found is None:
            raise UsageError(
                f"the public half of the key `{name}` cannot be asked of {uri}",
                hint="Give it in a PEM file, with `--public FILE`.",
            )
        found[1].unrecognized_fields[NAME_FIELD] = name
        return found

    def _signer(self, name: str, uri: str, key: Key) -> NamedSigner:
        def forget() -> None:  # a token locks itself after a few wrong PINs
            self._pins.pop(name, None)

        return NamedSigner(name, uri, key, lambda: self._open(name, uri, key), forget)

    def _open(self, name: str, uri: str, key: Key) -> Signer:
        if split(uri)[0] not in FILE_SCHEMES:
            return Signer.from_priv_key_uri(uri, key, lambda _: self._pin(name))
        private = self._load(name, uri)
        assert isinstance(key, SSlibKey)
        return CryptoSigner(private, key)

    def _load(self, name: str, uri: str) -> PrivateKeyTypes:
        """Open a key file; who has one passphrase for all keys types it once."""
        path = Path(split(uri)[1])
        for known in self._passphrases:
            with contextlib.suppress(PassphraseError):
                return load_private(path, lambda _, known=known: known)  # type: ignore[misc]

        def ask(_: str) -> str:
            given = self._asked(f"passphrase of the key {name}")
            self._remember(given)
            return given

        return load_private(path, ask)

    def _pin(self, name: str) -> str:
        """The PIN of a token; kept, as a token wants it for each signature."""
        if name not in self._pins:
            self._pins[name] = self._asked(f"PIN of the token with the key {name}")
        return self._pins[name]

    def _asked(self, what: str) -> str:
        if self._ask is None:
            raise PassphraseError(f"the {what} is needed, and there is nobody to ask")
        return self._ask(what)

    def _remember(self, passphrase: str) -> None:
        if passphrase not in self._passphrases:
            self._passphrases.append(passphrase)

    def _require_new(self, name: str) -> None:
        if name in self._uris():
            raise UsageError(
                f"there is a key `{name}` in {self.folder} already",
                hint="Choose another name: a key keeps its name for ever, so that history stays "
                "readable.",
            )

    def _public_file(self, name: str) -> Path:
        return self.folder / f"{name}.pub"

    def _write_public(self, key: Key) -> None:
        text = json.dumps({"keyid": key.keyid, **key.to_dict()}, indent=2) + "\n"
        write_atomically(self._public_file(key_name(key)), text)

    def _list(self, name: str, uri: str) -> None:
        path = self.folder / KEYS_FILE
        text = path.read_text() if path.exists() else _HEADER
        # JSON's quotes are YAML's too, and any URI fits in them.
        write_atomically(path, f"{text.rstrip()}\n{name}: {json.dumps(uri)}\n")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._folder(), locked(self.folder / ".lock", what=f"the keys in {self.folder}"):
            yield

    @contextlib.contextmanager
    def _folder(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise HostError(
                f"the key folder {self.folder} cannot be written: {error.strerror}",
                hint="RECAST_KEYS names another folder.",
            ) from error


def _private_bytes(signer: CryptoSigner, passphrase: str | None) -> bytes:
    """A key as PEM with PKCS#8, encrypted if there is a passphrase."""
    if not passphrase:
        return signer.private_bytes
    private = serialization.load_pem_private_key(signer.private_bytes, None)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode()),
    )
