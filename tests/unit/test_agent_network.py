"""A machine without DHCP: its network is a line of text, and a wrong one costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.agent.network import configure, parse_network

STATIC = "address=10.0.0.5/24 gateway=10.0.0.1 dns=10.0.0.1,10.0.0.2"


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    folder = tmp_path / "run/@system"
    folder.mkdir(parents=True)
    return folder


def test_a_fixed_address_holds_for_every_wired_interface(credentials: Path, tmp_path: Path) -> None:
    (credentials / "recast.network").write_text(STATIC + "\n")
    assert configure(credentials, tmp_path / "network") == ()
    (path,) = (tmp_path / "network").iterdir()
    assert path.name == "10-recast-1.network"
    assert path.read_text() == (
        "[Match]\nName=en* eth*\n\n"
        "[Network]\nAddress=10.0.0.5/24\nGateway=10.0.0.1\nDNS=10.0.0.1\nDNS=10.0.0.2\n"
    )
    assert path.stat().st_mode & 0o777 == 0o644, "networkd is not root"


def test_each_line_is_an_interface() -> None:
    first, second = parse_network(
        "address=192.0.2.7/26,2001:db8::7/64 gateway=fe80::1 match=52:54:00:AB:cd:01\n\n"
        "dhcp match=eth1 dns=10.9.9.9\n"
    )
    assert "MACAddress=52:54:00:ab:cd:01\n" in first
    assert "Address=192.0.2.7/26\nAddress=2001:db8::7/64\nGateway=fe80::1\n" in first
    assert second.startswith("[Match]\nName=eth1\n\n[Network]\nDHCP=yes\nDNS=10.9.9.9\n")
    assert "UseDNS=no" in second


def test_an_image_without_the_credential_is_left_alone(credentials: Path, tmp_path: Path) -> None:
    assert configure(credentials, tmp_path / "network") == ()
    assert not (tmp_path / "network").exists()


def test_what_an_earlier_text_asked_for_is_gone(credentials: Path, tmp_path: Path) -> None:
    for text in ("dhcp match=eth0\ndhcp match=eth1\n", "dhcp\n"):
        (credentials / "recast.network").write_text(text)
        assert configure(credentials, tmp_path / "network") == ()
    assert [each.name for each in (tmp_path / "network").iterdir()] == ["10-recast-1.network"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("static", 'expected dhcp, address=…, gateway=…, dns=…, match=…, got "static"'),
        ("adress=10.0.0.5/24", "expected dhcp, address=…"),
        ("gateway=10.0.0.1", "expected either dhcp or address=…"),
        ("dhcp address=10.0.0.5/24", "expected either dhcp or address=…"),
        ("dhcp gateway=10.0.0.1", "gateway= comes by DHCP"),
        ("address=10.0.0.5", "expected an address with its prefix length, such as 10.0.0.5/24"),
        ("address=10.0.0.500/24", 'got "10.0.0.500/24"'),
        ("address=10.0.0.5/24 gateway=10.0.1.1", "10.0.1.1 cannot be reached: it is not in"),
        ("address=10.0.0.5/24 gateway=10.0.0.5", "is this machine's own address"),
        ("address=10.0.0.5/24 dns=ns.example", 'expected an address such as 10.0.0.1, got "ns'),
        ("address=10.0.0.5/24 address=10.0.0.6/24", "address= stands there twice"),
        ("address=10.0.0.5/24 dns=", "expected 1 to 8 values in dns=, got 0"),
        ("dhcp match=eth0]", 'expected an interface such as eth0 or en\\*, or a MAC.*got "eth0]"'),
        ("dhcp match=eth0\ndhcp", "line 2: expected match=…, as there are several lines"),
        ("dhcp match=eth0\n" * 17, "expected 1 to 16 lines, got 17"),
    ],
)
def test_a_wrong_text_is_told_and_nothing_is_written(
    credentials: Path, tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        parse_network(text)
    (credentials / "recast.network").write_text(text)
    (problem,) = configure(credentials, tmp_path / "network")
    assert problem.startswith("recast.network: ")
    assert problem.endswith("; the image's own network settings hold")
    assert not (tmp_path / "network").exists()


def test_a_folder_that_cannot_be_written_is_told(credentials: Path, tmp_path: Path) -> None:
    (credentials / "recast.network").write_text("dhcp")
    (tmp_path / "file").touch()
    (problem,) = configure(credentials, tmp_path / "file/network")
    assert "cannot be written" in problem


@given(st.one_of(st.text(), st.from_regex(r"((address|dns|match)=[0-9a-f.:/*,]* ?|dhcp ?){1,4}")))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        files = parse_network(text)
    except ValueError:
        return
    for content in files:
        for line in content.splitlines():
            assert line == "" or line.startswith("[") or "=" in line
        assert content.count("[Match]") == 1


def test_it_is_there_before_anything_large_is_loaded() -> None:
    code = "import sys, pipeline.agent.network; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert not loaded & {"pydantic", "requests", "tuf", "cryptography", "securesystemslib"}
