"""The bill of materials: valid, complete, and the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.release import Package, Part
from pipeline.packages import Inventory, Library
from pipeline.sbom import purl, render
from tests.fakes.stored import BASE, MOMENT, make_release

DEBIAN = Inventory(BASE, "debian", "13")

PACKAGES = st.lists(
    st.builds(
        Package,
        name=st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,8}", fullmatch=True),
        version=st.from_regex(
            r"([0-2]:)?[0-9][0-9a-c.+~]{0,4}(-[0-9a-c+~.]{1,3})?", fullmatch=True
        ),
        architecture=st.sampled_from(["amd64", "all"]),
        source=st.sampled_from(["", "glibc", "gcc-14 (14.2.0-19)"]),
    ),
    unique_by=lambda p: (p.name, p.architecture),
    max_size=12,
)


def errors(text: bytes) -> list[str]:
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode(), all_errors=True)
    return [str(error) for error in found or ()]


def test_it_is_valid_cyclonedx() -> None:
    assert errors(render(make_release(), DEBIAN, MOMENT)) == []


def test_the_validator_would_say_so_if_it_were_not() -> None:
    data = json.loads(render(make_release(), DEBIAN, MOMENT))
    data["components"][0]["type"] = "nonsense"
    assert errors(json.dumps(data).encode())


def test_the_root_component_is_the_release_with_its_digests() -> None:
    release = make_release(parent="edge-base_1_amd64")
    data = json.loads(render(release, DEBIAN, MOMENT))
    image = data["metadata"]["component"]
    assert (image["name"], image["version"], image["bom-ref"]) == (
        "edge-web",
        release.version,
        release.name,
    )
    assert image["hashes"] == [{"alg": "SHA-256", "content": release.parts["root"].digest}]
    properties = {p["name"]: p["value"] for p in image["properties"]}
    assert properties == {
        "recast:root-hash": release.root_hash,
        "recast:build-key": release.build_key,
        "recast:commit": release.commit,
        "recast:parent": "edge-base_1_amd64",
    }
    assert data["metadata"]["timestamp"].startswith("2026-03-01T12:00:00")


def test_every_package_is_there_with_its_package_url_and_the_distribution_too() -> None:
    data = json.loads(render(make_release(), DEBIAN, MOMENT))
    assert sorted(c.get("purl", f"{c['name']} {c['version']}") for c in data["components"]) == [
        "debian 13",
        "pkg:deb/debian/base-files@13.8?arch=amd64&distro=debian-13",
        "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13&upstream=glibc",
        "pkg:deb/debian/openssl@3.5.1-1?arch=amd64&distro=debian-13",
    ]
    graph = {entry["ref"]: entry.get("dependsOn", []) for entry in data["dependencies"]}
    assert len(graph[make_release().name]) == 4


def test_a_library_that_no_package_brought_is_there_too() -> None:
    inventory = replace(DEBIAN, libraries=(Library(name="tuf", version="7.0.0"),))
    data = json.loads(render(make_release(), inventory, MOMENT))
    assert "pkg:pypi/tuf@7.0.0" in {each.get("purl") for each in data["components"]}
    assert errors(render(make_release(), inventory, MOMENT)) == []


def test_odd_characters_survive_in_a_package_url() -> None:
    package = Package(
        name="libstdc++6", version="1:14~rc+b1", architecture="amd64", source="gcc-14 (14-1)"
    )
    url = purl(package, DEBIAN)
    assert type(url).from_string(url.to_string()) == url
    assert url.qualifiers == {"arch": "amd64", "distro": "debian-13", "upstream": "gcc-14@14-1"}


@settings(max_examples=20)
@given(PACKAGES)
def test_any_package_list_gives_a_valid_sbom_and_always_the_same(packages: list[Package]) -> None:
    release = make_release(packages=tuple(packages))
    first = render(release, Inventory(tuple(packages), "debian", "13"), MOMENT)
    again = render(release, Inventory(tuple(reversed(packages)), "debian", "13"), MOMENT)
    assert first == again
    assert errors(first) == []


def test_releases_do_not_share_a_serial_number() -> None:
    one = render(make_release(), DEBIAN, MOMENT)
    other = render(make_release(moment=MOMENT + timedelta(days=1)), DEBIAN, MOMENT)
    assert json.loads(one)["serialNumber"] != json.loads(other)["serialNumber"]


def test_a_release_without_a_root_part_or_a_known_distribution_still_has_one() -> None:
    release = make_release()
    bare = release.model_copy(
        update={"parts": {"disk": Part(file="x.raw", digest="0" * 64, size=1)}, "tools": {}}
    )
    assert errors(render(bare, Inventory(BASE), MOMENT)) == []


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_with_other_hash_seeds_writes_the_same(seed: str) -> None:
    program = (
        "import sys; from tests.unit.test_sbom import *; "
        "sys.stdout.buffer.write(render(make_release(), DEBIAN, MOMENT))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    assert done.stdout == render(make_release(), DEBIAN, MOMENT)
