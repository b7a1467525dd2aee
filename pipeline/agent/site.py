"""What this machine was told at its site, from systemd credentials.

==================== =========================================== =============================
credential           holds                                       without it
==================== =========================================== =============================
``recast.device``    the machine's name                          :func:`own_name`
``recast.site``      the site's name                             none
``recast.labels``    ``key=value``, by lines or commas           none
``recast.store``     URLs, by lines or commas, the best first    nothing is followed
``recast.channel``   a channel                                   nothing is followed
``recast.image``     the image to follow                         the one that runs
``recast.window``    ``Mon-Fri 02:00-05:00 UTC``, lines or commas it may reboot at any time
``recast.bandwidth`` ``Mon-Fri 07:00-19:00 256 kbit/s``, as these it fetches as fast as it can
``recast.checkins``  a URL for reports                           ``checkins/`` of the store
``recast.poll``      ``15m``                                     15m
``recast.tries``     1 to 9                                      3
``recast.deadline``  ``10m``                                     10m
``recast.root``      a root of trust (TUF's ``root.json``)       the image's own
``recast.network``   see :mod:`pipeline.agent.network`           DHCP
==================== =========================================== =============================

Each is read by itself. A wrong one is named, and what holds without it holds.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from pipeline.agent import credentials
from pipeline.agent.credentials import PREFIX, ROOT_LIMIT, Unseal, find_folder
from pipeline.agent.network import read_network
from pipeline.models.fields import FROM_FILE, format_duration, shown
from pipeline.models.site import Bandwidth, Site, parse_bandwidth, parse_window

MACHINE_ID = Path("/etc/machine-id")
IMAGE_ROOT = Path("/usr/lib/recast/root.json")
"""The root of trust that an image may bring for its machines."""

_PURPOSE = b"recast device name 1"
_NAMES = (*Site.model_fields, "root", "network")
_LENGTHS = ("poll", "deadline")
_MAX_LABELS = 32
_MAX_BANDWIDTHS = 32

Problems = list[str]


def read_site(
    folder: Path | None = None,
    *,
    machine_id: Path = MACHINE_ID,
    unseal: Unseal = credentials.unseal,
) -> tuple[Site, tuple[str, ...]]:
    """The settings of this machine, and what is wrong with those that it was given.

    Never fails: whatever stands in a credential, the machine comes up.

    Args:
        folder: of the plain credentials, where it is not this machine's; sealed ones lie beside
            it in ``@encrypted``.
        machine_id: names a machine that was given no name.
        unseal: opens a sealed credential.

    Returns:
        The settings, and one sentence for each credential or entry that was passed over; none
        quotes more than 80 characters.
    """
    folder = folder or find_folder()
    problems: Problems = []
    values: dict[str, object] = {"device": own_name(machine_id)}
    for name in credentials.find_names(folder):
        if name not in _NAMES:
            problems.append(_unknown(name))
        elif name == "root":
            _, wrong = _given_root(folder, unseal)
            problems += wrong
        elif name == "network":  # used by recast-network; named here as well
            problems += read_network(folder, unseal=unseal)[1]
        else:
            _read_setting(name, folder, unseal, values, problems)
    return Site.model_validate(values), tuple(problems)


def read_root(
    folder: Path | None = None,
    *,
    image: Path = IMAGE_ROOT,
    unseal: Unseal = credentials.unseal,
) -> bytes | None:
    """The root of trust that this machine starts from; None if it was given none.

    A credential that is none is passed over (:func:`read_site` names it) for the image's own.
    """
    given, _ = _given_root(folder or find_folder(), unseal)
    if given is not None:
        return given
    try:
        raw = image.read_bytes()
    except OSError:
        return None
    return raw if len(raw) <= ROOT_LIMIT and _is_root(raw) else None


def own_name(machine_id: Path = MACHINE_ID) -> str:
    """The name of a machine that was given none: ``machine-`` and 12 digits.

    They are derived from its machine id, which is not to be told to others (machine-id(5)), and
    stay the same as long as that does: over every release, until the data partition is lost.
    """
    try:
        identity = machine_id.read_text().strip()
    except (OSError, UnicodeDecodeError):
        identity = ""
    if re.fullmatch(r"[0-9a-f]{32}", identity) is None:
        return "unnamed"
    digits = hmac.new(bytes.fromhex(identity), _PURPOSE, hashlib.sha256).hexdigest()
    return f"machine-{digits[:12]}"


def _read_setting(
    name: str, folder: Path, unseal: Unseal, values: dict[str, object], problems: Problems
) -> None:
    """Put what a credential says into *values*, or what is wrong with it into *problems*."""
    try:
        text = credentials.read_text(name, folder, unseal=unseal)
        if text is None:
            return
        if name in _LISTS:
            value = _LISTS[name](text, problems)
        elif name == "tries":
            value = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else text
        else:
            value = text
        checked = getattr(_checked(name, value), name)
    except ValueError as error:
        problems.append(f"{PREFIX}{name}: {_sentence(name, error)}{_instead(name)}")
        return
    values[name] = checked
    if name in _LISTS and not checked:
        problems.append(f"{PREFIX}{name}: nothing in it is right{_instead(name)}")


def _checked(name: str, value: object) -> Site:
    return Site.model_validate({name: value}, context={FROM_FILE: True})


def _sentence(name: str, error: ValueError) -> str:
    """What is wrong, in the words that a person used."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    bound = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    if first["type"] in bound:
        words, key = bound[first["type"]]
        limit, got = first["ctx"][key], first["input"]
        if name in _LENGTHS:
            limit = format_duration(limit)
        return f"expected {words} {limit}, got {shown(got)}"
    if first["type"].startswith("int_"):
        return f"expected a whole number from 1 to 9, got {shown(first['input'])}"
    return str(first["msg"])


def _instead(name: str) -> str:
    """What holds when a credential does not."""
    default = Site.model_fields[name].default
    if name == "window":
        return "; this machine may reboot at any time"
    if name == "bandwidth":
        return "; this machine fetches as fast as it can"
    if name in _LENGTHS:
        return f"; {format_duration(default)} it is"
    if name == "tries":
        return f"; {default} it is"
    if name in ("store", "channel"):
        return "; this machine follows nothing"
    return "; it is as if it were not there"


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name[:64], _NAMES, n=1)
    meant = f"; is {PREFIX}{close[0]} meant?" if close else ""
    return f"{shown(PREFIX + name)} is no setting of a machine{meant}"


def _entries(text: str, separators: str = r"[\n,]") -> list[str]:
    return [entry.strip() for entry in re.split(separators, text) if entry.strip()]


def _labels(text: str, problems: Problems) -> dict[str, str]:
    labels: dict[str, str] = {}
    for entry in _entries(text):
        key, equals, value = (part.strip() for part in entry.partition("="))
        try:
            if not equals:
                raise ValueError(f"expected key=value, got {shown(entry)}")
            if key in labels:
                raise ValueError(f"{shown(key)} stands there twice; the first one holds")
            if len(labels) == _MAX_LABELS:
                raise ValueError(f"expected at most {_MAX_LABELS} labels; the rest is left out")
            _checked("labels", {key: value})
        except ValueError as error:
            problems.append(f"{PREFIX}labels: {_sentence('labels', error)}")
            if len(labels) == _MAX_LABELS:
                break
        else:
            labels[key] = value
    return labels


def _stores(text: str, problems: Problems) -> tuple[str, ...]:
    stores: list[str] = []
    for entry in _entries(text):
        try:
            _checked("store", (entry,))
        except ValueError as error:
            problems.append(f"{PREFIX}store: {_sentence('store', error)}")
        else:
            stores.append(entry)
    return tuple(dict.fromkeys(stores))


def _windows(text: str, problems: Problems) -> tuple[object, ...]:
    windows: list[object] = []
    for entry in _entries(text):
        try:
            windows.append(parse_window(entry))
        except ValueError as error:
            problems.append(f"{PREFIX}window: {error}")
    return tuple(windows)


def _bandwidths(text: str, problems: Problems) -> tuple[Bandwidth, ...]:
    found: list[Bandwidth] = []
    # `1,5 Mbit/s` is one wrong entry: not `1`, and 5 Mbit/s.
    for entry in _entries(text, r"\n|(?<![0-9]),|,(?![0-9])"):
        try:
            if len(found) == _MAX_BANDWIDTHS:
                raise ValueError(f"expected at most {_MAX_BANDWIDTHS} rates; the rest is left out")
            bandwidth = parse_bandwidth(entry)
            if bandwidth.window is None and any(each.window is None for each in found):
                raise ValueError(
                    f"{shown(entry)} is a second one without a window; the first holds"
                )
        except ValueError as error:
            problems.append(f"{PREFIX}bandwidth: {error}")
            if len(found) == _MAX_BANDWIDTHS:
                break
        else:
            found.append(bandwidth)
    return tuple(found)


_LISTS: dict[str, Callable[[str, Problems], object]] = {
    "labels": _labels,
    "store": _stores,
    "window": _windows,
    "bandwidth": _bandwidths,
}
"""Credentials of several entries; a wrong entry is named, and the others hold."""


def _given_root(folder: Path, unseal: Unseal) -> tuple[bytes | None, Problems]:
    try:
        raw = credentials.read_bytes("root", folder, limit=ROOT_LIMIT, unseal=unseal)
        if raw is None or not raw.strip():
            return None, []
        if not _is_root(raw):
            raise ValueError("expected a root of trust, which is the `root.json` of a store")
    except ValueError as error:
        return None, [f"{PREFIX}root: {error}; the image's own root of trust holds, if it has one"]
    return raw, []


def _is_root(raw: bytes) -> bool:
    """Does it look like one? Whether it is to be believed, TUF's client decides."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    signed = found.get("signed") if isinstance(found, dict) else None
    return isinstance(signed, dict) and signed.get("_type") == "root"
