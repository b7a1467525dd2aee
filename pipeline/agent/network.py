"""A fixed network for a machine where there is no DHCP, from the credential ``recast.network``.

One line for each interface::

    address=10.0.0.5/24 gateway=10.0.0.1 dns=10.0.0.1,10.0.0.2 match=eth0
    dhcp match=52:54:00:12:34:56

Several addresses or servers are parted by commas, ``match`` is an interface's name (``*`` and ``?``
stand for others) or its MAC address, and may be left out where there is one line only: it then
holds for every wired interface. Each line becomes a file for systemd-networkd, which goes before
those of the image. Where the text is wrong nothing is written: the image's own, DHCP, holds.

Imports nothing large: it is used before the network is up.
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.agent import credentials
from pipeline.agent.credentials import PREFIX, Unseal, find_folder
from pipeline.errors import RecastError
from pipeline.files import write_atomically

TARGET = Path("/run/systemd/network")

_HELD = "the image's own network settings hold"
_WIRED = "Name=en* eth*"
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_NAME = re.compile(r"[A-Za-z0-9_.*?-]{1,32}", re.ASCII)
_KEYS = ("address", "gateway", "dns", "match")
_MAX_LINES = 16
_MAX_ENTRIES = 8

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
_Parsed = TypeVar("_Parsed")


def main() -> int:
    """``recast-agent network``: never fails, whatever it was given; says what it did."""
    for problem in configure():
        print(f"recast-agent: {problem}", file=sys.stderr)
    return 0


def configure(
    folder: Path | None = None, target: Path = TARGET, *, unseal: Unseal = credentials.unseal
) -> tuple[str, ...]:
    """Write what the credential asks for into *target*.

    Returns:
        What is wrong; nothing was written then.
    """
    files, problems = read_network(folder or find_folder(), unseal=unseal)
    if not files:
        return problems
    try:
        for old in target.glob("10-recast-*.network"):
            old.unlink()
        for number, content in enumerate(files, 1):
            write_atomically(target / f"10-recast-{number}.network", content)
    except (OSError, RecastError) as error:
        return (f"{PREFIX}network: {target} cannot be written: {error}; {_HELD}",)
    return ()


def read_network(
    folder: Path, *, unseal: Unseal = credentials.unseal
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files that the credential asks for, and what is wrong with it; never fails."""
    try:
        text = credentials.read_text("network", folder, unseal=unseal)
        return (parse_network(text) if text is not None else ()), ()
    except ValueError as error:
        return (), (f"{PREFIX}network: {error}; {_HELD}",)


def parse_network(text: str) -> tuple[str, ...]:
    """The files for systemd-networkd that *text* asks for, one for each line.

    Raises:
        ValueError: it is wrong; names the line, what was expected and what stands there.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not 1 <= len(lines) <= _MAX_LINES:
        raise ValueError(f"expected 1 to {_MAX_LINES} lines, got {len(lines)}")
    files = []
    for number, line in enumerate(lines, 1):
        try:
            files.append(_file(line, alone=len(lines) == 1))
        except ValueError as error:
            where = "" if len(lines) == 1 else f"line {number}: "
            raise ValueError(f"{where}{error}") from error
    return tuple(files)


def _file(line: str, *, alone: bool) -> str:
    words = line.split()
    dhcp = "dhcp" in words
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if word == "dhcp":
            continue
        if not equals or key not in _KEYS:
            expected = "dhcp, " + ", ".join(f"{key}=…" for key in _KEYS)
            raise ValueError(f"expected {expected}, got {_shown(word)}")
        if key in given:
            raise ValueError(f"{key}= stands there twice")
        given[key] = value
    if dhcp == ("address" in given):
        raise ValueError(f"expected either dhcp or address=…, got {_shown(line)}")
    if dhcp and "gateway" in given:
        raise ValueError("gateway= comes by DHCP; it goes with address=… alone")
    if "match" not in given and not alone:
        raise ValueError("expected match=…, as there are several lines")
    settings = ["DHCP=yes"] if dhcp else _addresses(given["address"], given.get("gateway"))
    if "dns" in given:
        settings += [f"DNS={each}" for each in _list("dns", given["dns"], _address)]
        if dhcp:
            settings += ["", "[DHCPv4]", "UseDNS=no", "", "[DHCPv6]", "UseDNS=no"]
    match = _match(given["match"]) if "match" in given else _WIRED
    return "\n".join(["[Match]", match, "", "[Network]", *settings, ""])


def _addresses(text: str, gateway: str | None) -> list[str]:
    addresses = _list("address", text, _interface)
    gateways = _list("gateway", gateway, _address) if gateway is not None else []
    for each in gateways:
        near = any(each in address.network for address in addresses)
        if not near and not each.is_link_local:
            nets = ", ".join(str(address.network) for address in addresses)
            raise ValueError(f"the gateway {each} cannot be reached: it is not in {nets}")
        if any(each == address.ip for address in addresses):
            raise ValueError(f"the gateway {each} is this machine's own address")
    settings = [f"Address={address.with_prefixlen}" for address in addresses]
    return settings + [f"Gateway={each}" for each in gateways]


def _list(key: str, text: str, parse: Callable[[str], _Parsed]) -> list[_Parsed]:
    entries = [entry for entry in text.split(",") if entry]
    if not 1 <= len(entries) <= _MAX_ENTRIES:
        raise ValueError(f"expected 1 to {_MAX_ENTRIES} values in {key}=, got {len(entries)}")
    return [parse(entry) for entry in entries]


def _interface(text: str) -> _Interface:
    try:
        if "/" not in text:
            raise ValueError("its prefix length is missing")
        return ipaddress.ip_interface(text)
    except ValueError as error:
        raise ValueError(
            f"expected an address with its prefix length, such as 10.0.0.5/24, got {_shown(text)}"
        ) from error


def _address(text: str) -> _Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError(f"expected an address such as 10.0.0.1, got {_shown(text)}") from error


def _match(text: str) -> str:
    if _MAC.fullmatch(text):
        return f"MACAddress={text.lower()}"
    if _NAME.fullmatch(text):
        return f"Name={text}"
    raise ValueError(
        f"expected an interface such as eth0 or en*, or a MAC address, got {_shown(text)}"
    )


def _shown(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if len(quoted) <= 80 else quoted[:76] + '…"'
