"""Public keys as people hand them to each other, and what a key can be called."""

from __future__ import annotations

import json
import re

from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import Key, SSlibKey

from pipeline.errors import UsageError
from pipeline.trust.layout import NAME_FIELD

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def check_name(name: str) -> str:
    """Refuse what cannot be a key's name.

    Raises:
        UsageError: it is none.
    """
    if NAME.fullmatch(name) is None:
        raise UsageError(
            f"`{name}` cannot be the name of a key",
            hint="Small letters, digits and dashes, such as stable-2.",
        )
    return name


def read_public(data: bytes, name: str = "") -> Key:
    """The public key that a colleague gave: a ``.pub`` file of a keyring, or PEM.

    Args:
        data: the file's content.
        name: what it will be called; the name in a ``.pub`` file if not given.

    Raises:
        UsageError: it is no public key, or it has no name.
    """
    said = f"the file for the key `{name}`" if name else "the file"
    try:
        if data.lstrip().startswith(b"{"):
            fields = json.loads(data)
            key = Key.from_dict(str(fields.pop("keyid")), fields)
        else:
            key = SSlibKey.from_crypto(serialization.load_pem_public_key(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        private = b"PRIVATE KEY" in data
        raise UsageError(
            f"{said} holds no public key",
            hint="It holds a private one, which nobody else may have: give away only the file "
            "`<name>.pub` beside it."
            if private
            else "Give the file `<name>.pub` of a key folder, or a public key in PEM.",
        ) from error
    name = name or str(key.unrecognized_fields.get(NAME_FIELD, ""))
    if not name:
        raise UsageError("the public key has no name", hint="Give it one with `--name`.")
    key.unrecognized_fields[NAME_FIELD] = check_name(name)
    return key
