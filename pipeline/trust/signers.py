"""Signers by URI: key files of our own kind, and every scheme that securesystemslib has.

==========================================  ===============================================
``file:PATH``                               a key file (PEM, PKCS#8), encrypted or not
``file2:PATH``                              the same, as securesystemslib calls it
``hsm:[ID][?label=TOKEN]``                  a hardware token, through PKCS#11
``awskms:ID``                               a key in AWS KMS
``gcpkms:projects/…/cryptoKeyVersions/N``   a key in Google Cloud KMS
``azurekms://VAULT.vault.azure.net/…``      a key in Azure's Key Vault
``hv:NAME/VERSION``                         a key in HashiCorp Vault's transit engine
``gnupg:[HOMEDIR][?keyid=ID]``              a key of GnuPG
==========================================  ===============================================
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib import parse

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.exceptions import (
    KeyMismatchError,
    UnsupportedLibraryError,
    UnverifiedSignatureError,
)
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    GPGSigner,
    HSMSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
    SSlibKey,
    VaultSigner,
)

from pipeline.errors import HostError, NetworkError, RecastError, TrustError, UsageError

FILE_SCHEMES = ("file", "file2")

_EXTRAS = {
    "hsm": "recast[hsm]",
    "awskms": "securesystemslib[awskms]",
    "gcpkms": "securesystemslib[gcpkms]",
    "azurekms": "securesystemslib[azurekms]",
    "hv": "securesystemslib[vault]",
    "tkey": "securesystemslib[tkey]",
}
_CLOUDS = ("awskms", "gcpkms", "azurekms", "hv")
_MODULE = "PYKCS11LIB"  # the environment variable that securesystemslib reads
_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAX_FILE = 64 << 10  # bytes; an RSA key of 16384 bits has 13 KiB
_PRIVATE = b"PRIVATE KEY-----"
_ENCRYPTED = (b"ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")


class PassphraseError(TrustError):
    """A passphrase or PIN is missing or does not fit."""


class FileSigner(CryptoSigner):
    """A key in a PEM file (PKCS#8), encrypted when a passphrase was given.

    Securesystemslib's own ``file2:`` knows no encryption and reads a file whoever else can.
    """

    SCHEME = "file"

    @classmethod
    def from_priv_key_uri(
        cls,
        priv_key_uri: str,
        public_key: Key,
        secrets_handler: SecretsHandler | None = None,
    ) -> FileSigner:
        """The signer of ``file:PATH``; see :func:`load_private`.

        Raises:
            KeyMismatchError: the file holds another key than *public_key*.
            HostError, TrustError: as :func:`load_private`.
        """
        scheme, path = split(priv_key_uri)
        if scheme not in FILE_SCHEMES or not isinstance(public_key, SSlibKey):
            raise ValueError(f"not a key file: {priv_key_uri}")
        return cls(load_private(Path(path), secrets_handler), public_key)


SIGNER_FOR_URI_SCHEME[FileSigner.SCHEME] = FileSigner


class NamedSigner(Signer):
    """A key by its name, opened when it first signs; every failure says which key and what to do.

    A signature is verified before it is given away: a token or a cloud may hold another key
    than it did.

    Args:
        name: what the key is called.
        uri: where it is, for messages.
        key: its public half.
        opened: opens it.
        refused: hears that a passphrase or PIN did not fit.
    """

    def __init__(
        self,
        name: str,
        uri: str,
        key: Key,
        opened: Callable[[], Signer],
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._uri = uri
        self._key = key
        self._opened = opened
        self._refused = refused
        self._signer: Signer | None = None

    @property
    def public_key(self) -> Key:
        """The public key, as the metadata has it."""
        return self._key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> NamedSigner:
        """Not made from a URI alone: a keyring knows the name."""
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        """Sign *payload*.

        Raises:
            TrustError: it is the wrong key or passphrase, or the signature does not fit.
            HostError: a file, a library or a token is missing.
        """
        try:
            with explained(self.name, self._uri):
                if self._signer is None:
                    self._signer = self._opened()
                signature = self._signer.sign(payload)
        except PassphraseError:
            self._refused()
            raise
        try:
            self._key.verify_signature(signature, payload)
        except UnverifiedSignatureError as error:
            raise _mismatch(self.name, self._uri) from error
        return signature


def split(uri: str) -> tuple[str, str]:
    """The scheme of a signer's URI, and what follows it.

    Raises:
        UsageError: there is no signer of that scheme.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or (scheme not in SIGNER_FOR_URI_SCHEME and scheme not in FILE_SCHEMES):
        raise UsageError(
            f"`{uri}` is no place for a key that is known here",
            hint="Give one such as file:/media/usb/offline-1.pem, hsm:2?label=TOKEN, awskms:ID, "
            "gcpkms:NAME, azurekms://VAULT.vault.azure.net/keys/NAME, hv:NAME or gnupg:?keyid=ID.",
        )
    return scheme, rest


def load_private(path: Path, ask: SecretsHandler | None) -> PrivateKeyTypes:
    """Read a private key.

    Args:
        path: the PEM file.
        ask: is asked for the passphrase if the file is encrypted; may raise.

    Raises:
        HostError: there is no such file, it cannot be read, or others can read it too.
        PassphraseError: the passphrase is wrong, or there is nobody to ask for it.
        TrustError: it holds no private key.
    """
    data = _read_private(path)
    if _PRIVATE not in data:
        raise TrustError(
            f"{path} holds no private key",
            hint="A key file is PEM with PKCS#8, as `openssl genpkey -algorithm ed25519` makes it.",
        )
    encrypted = any(mark in data for mark in _ENCRYPTED)
    if encrypted and ask is None:
        raise PassphraseError(f"{path} is encrypted, and there is nobody to ask")
    secret = ask("passphrase").encode() if encrypted and ask is not None else None
    try:
        return serialization.load_pem_private_key(data, secret or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise PassphraseError(
                f"the passphrase does not open {path}",
                hint="Type it again, or set RECAST_PASSPHRASE to the right one.",
            ) from error
        raise TrustError(f"{path} cannot be understood as a private key") from error


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _OPEN_TO_OTHERS:
                raise HostError(
                    f"the private key {path} is open to others on this machine (mode {mode:04o})",
                    hint=f"Run `chmod 600 {path}`; if somebody may have read it, replace it with "
                    "`recast keys rotate`.",
                )
            return file.read(_MAX_FILE)
    except FileNotFoundError as error:
        raise HostError(
            f"the private key {path} is not there",
            hint="Mount the medium that it was moved to, or name its place in keys.yaml.",
        ) from error
    except OSError as error:
        raise HostError(f"the private key {path} cannot be read: {error.strerror}") from error


def is_encrypted(path: Path) -> bool | None:
    """Is this key file encrypted? None if it cannot be told."""
    try:
        data = path.read_bytes()[:_MAX_FILE]
    except OSError:
        return None
    return any(mark in data for mark in _ENCRYPTED) if _PRIVATE in data else None


def import_public(uri: str, ask: SecretsHandler) -> tuple[str, Key] | None:
    """The public key behind *uri*, asked of whoever holds it, and the URI in its full form.

    Not for key files. None where a scheme cannot tell it. Raises what the scheme's library raises.
    """
    scheme, rest = split(uri)
    path, _, query = rest.partition("?")
    words = dict(parse.parse_qsl(query))
    importers: dict[str, Callable[[], tuple[str, Key]]] = {
        "hsm": lambda: HSMSigner.import_(int(path) if path else None, words.get("label"), ask),
        "awskms": lambda: AWSSigner.import_(rest),
        "gcpkms": lambda: GCPSigner.import_(rest),
        "azurekms": lambda: AzureSigner.import_(*_azure(uri)),
        "hv": lambda: VaultSigner.import_(path.partition("/")[0]),
    }
    if scheme == "gnupg" and "keyid" in words:
        return GPGSigner.import_(words["keyid"], path or None)
    return importers[scheme]() if scheme in importers else None


def _azure(uri: str) -> tuple[str, str]:
    place = parse.urlparse(uri)
    parts = place.path.strip("/").split("/")
    if not place.hostname or len(parts) < 2 or parts[0] != "keys":
        raise UsageError(
            f"`{uri}` names no key of a vault",
            hint="Give azurekms://VAULT.vault.azure.net/keys/NAME.",
        )
    return place.hostname.partition(".")[0], parts[1]


def _mismatch(name: str, uri: str) -> TrustError:
    return TrustError(
        f"what is at {uri} is not the key `{name}` of the signed metadata",
        hint="Point its line in keys.yaml at the right key; `recast keys list` shows each key's "
        "beginning. If it is lost, replace it with `recast keys rotate`.",
    )


@contextlib.contextmanager
def explained(name: str, uri: str) -> Iterator[None]:
    """Word what a signer's library says when something goes wrong below this block.

    Raises:
        HostError: a file, a library, a token or a right is missing.
        NetworkError: a cloud's key cannot be used.
        TrustError: it is the wrong key, passphrase or PIN.
    """
    try:
        yield
    except RecastError:
        raise
    except Exception as error:  # each library has its own
        raise _worded(name, uri, error) from error


def _worded(name: str, uri: str, error: Exception) -> RecastError:
    scheme = uri.partition(":")[0]
    if isinstance(error, KeyMismatchError):
        return _mismatch(name, uri)
    if isinstance(error, UnsupportedLibraryError):
        extra = _EXTRAS.get(scheme)
        return HostError(
            f"the key `{name}` ({uri}) needs a library that is not installed: {error}",
            hint=f"Install it with `pip install '{extra}'`." if extra else "",
        )
    if scheme == "hsm":
        return _token_error(name, uri, error)
    if scheme in _CLOUDS:
        return NetworkError(
            f"the key `{name}` ({uri}) cannot be used: {_line(error)}",
            hint="Look at the credentials and the rights that this machine has there.",
        )
    if isinstance(error, OSError):
        return HostError(f"the key `{name}` ({uri}) cannot be used: {_line(error)}")
    return TrustError(f"the key `{name}` ({uri}) cannot be used: {_line(error)}")


def _token_error(name: str, uri: str, error: Exception) -> RecastError:
    """An error of PKCS#11; its own words are often none, so that its class must do."""
    kind, text = type(error).__name__, str(error)
    if kind in ("PinIncorrect", "PinInvalid", "PinLenRange"):
        return PassphraseError(
            f"the PIN does not open the token of the key `{name}` ({uri})",
            hint="Type it again; most tokens lock themselves after a few wrong ones.",
        )
    if kind in ("PinLocked", "PinExpired"):
        return TrustError(
            f"the token of the key `{name}` ({uri}) is locked: its PIN was wrong too often",
            hint="Unlock it with the token's own tool and its PUK.",
        )
    if _MODULE in text or "while loading" in text:
        return HostError(
            f"the PKCS#11 module of the key `{name}` ({uri}) cannot be loaded: {_line(error)}",
            hint=f"Set {_MODULE} to the token's module, such as "
            "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so.",
        )
    if ("token" in text and "found" in text and "key" not in text) or "Token" in kind:
        return HostError(
            f"the token of the key `{name}` ({uri}) is not there: {_line(error)}",
            hint="Plug it in; where there are several, name its label: hsm:2?label=TOKEN.",
        )
    return TrustError(
        f"the token cannot sign with the key `{name}` ({uri}): {_line(error)}",
        hint="It must hold an EC key (P-256 or P-384) with that id, and its certificate or "
        "public key.",
    )


def _line(error: Exception) -> str:
    """An error's words in one line; its class if it has none."""
    words = " ".join(str(error).split())
    return words[:200] if words else type(error).__name__
