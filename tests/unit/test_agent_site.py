"""What a machine is told at its site: it always comes up, and names what it did not understand."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.agent import credentials
from pipeline.agent.site import own_name, read_root, read_site
from pipeline.errors import HostError
from pipeline.models.site import Site, parse_bandwidth, parse_window
from tests.fakes.systemd import FakeSystemd

IDENTITY = "0123456789abcdef0123456789abcdef"
ROOT = json.dumps({"signed": {"_type": "root"}, "signatures": []}).encode()

Give = Callable[..., Path]


@pytest.fixture
def machine_id(tmp_path: Path) -> Path:
    path = tmp_path / "machine-id"
    path.write_text(IDENTITY + "\n")
    return path


@pytest.fixture
def give(tmp_path: Path) -> Give:
    """Hands credentials to the machine; returns their folder."""
    folder = tmp_path / "credentials/@system"
    folder.mkdir(parents=True)

    def put(**given: str | bytes) -> Path:
        for name, content in given.items():
            raw = content.encode() if isinstance(content, str) else content
            (folder / f"recast.{name}").write_bytes(raw)
        return folder

    return put


def never(path: Path) -> bytes:
    raise HostError(f"the program `systemd-creds` is not installed ({path.name})")


def test_a_machine_that_was_told_nothing_has_a_name_and_follows_nothing(
    tmp_path: Path, machine_id: Path
) -> None:
    site, problems = read_site(tmp_path / "none", machine_id=machine_id)
    assert site == Site(device=own_name(machine_id))
    assert site.store == ()
    assert problems == ()


def test_all_settings_arrive(give: Give, machine_id: Path) -> None:
    folder = give(
        device="press-7\n",
        site="leipzig",
        labels="line=3\nrole=press,shift = late\n",
        store="https://a.example/store,\nhttp://10.0.0.2:8080",
        channel="stable",
        image="edge-web",
        window="Mon-Fri 02:00-05:00, Sat 22:00-04:00 Europe/Berlin",
        bandwidth="Mon-Fri 07:00-19:00 128 kbit/s,\n22:00-05:00 UTC unlimited, 1.5 Mbit/s",
        checkins="https://hear.example",
        poll="5m",
        tries="5",
        deadline="20m",
        root=ROOT,
        network="dhcp",
    )
    site, problems = read_site(folder, machine_id=machine_id)
    assert problems == ()
    assert site == Site(
        device="press-7",
        site="leipzig",
        labels={"line": "3", "role": "press", "shift": "late"},
        store=("https://a.example/store", "http://10.0.0.2:8080"),
        channel="stable",
        image="edge-web",
        window=(
            parse_window("Mon-Fri 02:00-05:00"),
            parse_window("Sat 22:00-04:00 Europe/Berlin"),
        ),
        bandwidth=(
            parse_bandwidth("Mon-Fri 07:00-19:00 128 kbit/s"),
            parse_bandwidth("22:00-05:00 UTC unlimited"),
            parse_bandwidth("1.5 Mbit/s"),
        ),
        checkins="https://hear.example",
        poll=300.0,
        tries=5,
        deadline=1200.0,
    )


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("device", "press 7", 'expected at most 64 letters, digits and ._-, .*got "press 7"'),
        ("channel", "Stable!", 'expected a name of small letters.*got "Stable!"; .*nothing'),
        ("image", b"\xff\xfe", "expected text, got a byte that is none at 0"),
        ("site", "a\x1b[2Jb", "expected plain text, got a control character"),
        ("poll", "5", 'expected a length of time such as 30m.*got "5"; 15m it is'),
        ("poll", "1s", 'expected at least 10s, got "?1'),
        ("tries", "three", 'expected a whole number from 1 to 9, got "three"; 3 it is'),
        ("tries", "0", "expected at least 1, got 0"),
        ("tries", "12", "expected at most 9, got 12"),
        ("deadline", "2d", "expected at most 1d, got"),
        ("window", "at night", 'expected a window such as `Mon-Fri.*got "at night"'),
        ("bandwidth", "256", 'expected a rate such as .* got "256"'),
        ("bandwidth", "1,5 Mbit/s", "nothing in it is right; .* fetches as fast as it can"),
        ("checkins", "mail://x", "expected a URL with https, http or file"),
        ("store", "https://me:secret@host/", "expected a URL"),
        ("labels", "press", 'expected key=value, got "press"'),
        ("labels", "Line=3", 'expected a lower-case name, got "Line"'),
        ("root", b"<html>", "expected a root of trust"),
        ("network", "address=10.0.0.5", "with its prefix length.*the image's own network settings"),
        ("device", "x" * 5000, r"expected at most 4.0 KiB, got 4.9 KiB"),
        ("root", b" " * 70_000, r"expected at most 64.0 KiB, got 68.4 KiB"),
    ],
)
def test_a_wrong_credential_is_named_and_its_default_holds(
    give: Give, machine_id: Path, name: str, content: str | bytes, told: str
) -> None:
    folder = give(site="leipzig")
    give(**{name: content})
    site, problems = read_site(folder, machine_id=machine_id)
    assert any(problem.startswith(f"recast.{name}: ") for problem in problems)
    assert any(re.search(told, problem) for problem in problems), problems
    expected = Site(device=own_name(machine_id), site=None if name == "site" else "leipzig")
    assert site == expected


def test_one_wrong_entry_of_a_list_costs_nothing_but_itself(give: Give, machine_id: Path) -> None:
    folder = give(
        store="https://a.example,ftp://b.example",
        labels="line=3,line=4,x=§",
        window="02:00-03:00,25:00-26:00",
        bandwidth="128 kbit/s,night 4 Mbit/s,64 kbit/s",
    )
    site, problems = read_site(folder, machine_id=machine_id)
    assert site.store == ("https://a.example",)
    assert site.labels == {"line": "3"}
    assert site.window == (parse_window("02:00-03:00"),)
    assert site.bandwidth == (parse_bandwidth("128 kbit/s"),)
    assert len(problems) == 6
    assert problems[1] == (
        'recast.bandwidth: "64 kbit/s" is a second one without a window; the first holds'
    )


def test_a_window_that_is_none_says_what_follows_from_it(give: Give, machine_id: Path) -> None:
    _, problems = read_site(give(window="nightly"), machine_id=machine_id)
    assert problems[-1] == (
        "recast.window: nothing in it is right; this machine may reboot at any time"
    )


def test_more_limits_than_can_be_meant_are_left_out(give: Give, machine_id: Path) -> None:
    folder = give(bandwidth="\n".join(f"00:{n:02}-01:00 64 kbit/s" for n in range(40)))
    site, problems = read_site(folder, machine_id=machine_id)
    assert len(site.bandwidth) == 32
    assert problems == ("recast.bandwidth: expected at most 32 rates; the rest is left out",)


def test_a_misspelt_name_is_told(give: Give, machine_id: Path) -> None:
    _, problems = read_site(give(chanel="stable", wifi="x"), machine_id=machine_id)
    assert problems == (
        '"recast.chanel" is no setting of a machine; is recast.channel meant?',
        '"recast.wifi" is no setting of a machine',
    )


def test_more_labels_than_a_report_carries_are_left_out(give: Give, machine_id: Path) -> None:
    folder = give(labels=",".join(f"k{n}=v" for n in range(40)))
    site, problems = read_site(folder, machine_id=machine_id)
    assert len(site.labels) == 32
    assert problems == ("recast.labels: expected at most 32 labels; the rest is left out",)


def test_what_is_no_file_is_told_and_waits_for_nothing(give: Give, machine_id: Path) -> None:
    folder = give()
    (folder / "recast.site").mkdir()
    os.mkfifo(folder / "recast.channel")
    (folder / "recast.image").symlink_to("nowhere")
    site, problems = read_site(folder, machine_id=machine_id)
    assert site == Site(device=own_name(machine_id))
    assert len(problems) == 3


def test_a_sealed_credential_is_opened_by_systemd(
    give: Give, machine_id: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd = FakeSystemd(tmp_path / "systemd")
    monkeypatch.setenv("PATH", f"{systemd.bin}:/usr/bin:/bin")
    systemd.answer(
        "systemd-creds *--name=recast.channel decrypt */@encrypted/recast.channel -", "stable"
    )
    folder = give(site="leipzig")
    sealed = folder.parent / "@encrypted"
    sealed.mkdir()
    for name in ("channel", "site", "image"):
        (sealed / f"recast.{name}").write_text("c2VhbGVk")
    site, problems = read_site(folder, machine_id=machine_id)
    assert site.channel == "stable"
    assert site.site == "leipzig", "what came in plain goes first, as it does for systemd"
    assert len(problems) == 1
    assert problems[0].startswith("recast.image: it is sealed and cannot be opened here: ")


def test_an_unnamed_machine_keeps_its_name_and_does_not_tell_its_id(machine_id: Path) -> None:
    name = own_name(machine_id)
    assert name == own_name(machine_id)
    assert Site(device=name).device == name
    assert name.startswith("machine-")
    assert name.removeprefix("machine-") not in IDENTITY


def test_a_machine_without_an_id_still_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("uninitialized\n")
    assert own_name(tmp_path / "machine-id") == own_name(tmp_path / "none") == "unnamed"


def test_the_root_of_trust_is_the_sites_and_else_the_images(give: Give, tmp_path: Path) -> None:
    image = tmp_path / "root.json"
    folder = give()
    assert read_root(folder, image=image) is None
    image.write_bytes(ROOT + b" ")
    assert read_root(folder, image=image) == ROOT + b" "
    assert read_root(give(root=ROOT), image=image) == ROOT
    assert read_root(give(root="[" * 60_000), image=image) == ROOT + b" "


@given(
    content=st.dictionaries(
        st.sampled_from(sorted({*Site.model_fields, "root", "network", "typo", "\n", "ü" * 60})),
        st.one_of(
            st.binary(max_size=200),
            st.text(max_size=200).map(str.encode),
            st.from_regex(r"[0-9]{1,400}[smhd]?", fullmatch=True).map(str.encode),
            st.from_regex(r"([A-Za-z]{3}-)?\d\d:\d\d-\d\d:\d\d [A-Z/]*", fullmatch=True).map(
                str.encode
            ),
            st.from_regex(r"(\d\d:\d\d-\d\d:\d\d )?\d{1,7} [kMG]?bit/s", fullmatch=True).map(
                str.encode
            ),
            st.sampled_from(
                [b"{}", b'{"signed": 1}', b"[" * 5000, b"\0", b"a=b,=,==\n,", b"\xc2\x85"]
            ),
        ),
        max_size=5,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_nothing_that_stands_in_a_credential_stops_a_machine(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("run") / "@system"
    folder.mkdir()
    for name, raw in content.items():
        (folder / f"recast.{name}").write_bytes(raw)
    site, problems = read_site(folder, machine_id=folder / "none", unseal=never)
    read_root(folder, image=folder / "none", unseal=never)
    assert Site.model_validate(site.model_dump()) == site
    assert all(len(problem) < 400 and "\n" not in problem for problem in problems), problems
    assert credentials.find_names(folder) == tuple(sorted(content))
