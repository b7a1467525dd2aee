"""What is remembered of past builds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.engine.records import BuildRecord, Components, Records
from pipeline.errors import HostError
from tests.fakes.looks import MOMENT


def record(name: str, version: str = "1") -> BuildRecord:
    components = Components(definition={"name": name, "packages": ["a"]}, archive={"a": "1"})
    return BuildRecord(
        image="edge-base",
        build_key=components.key,
        components=components,
        tree="t" + name,
        built=MOMENT,
        version=version,
    )


def test_an_image_without_builds_has_none(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.of("edge-base") == ()
    assert records.latest("edge-base") is None
    assert records.find("edge-base", "k") is None


def test_builds_come_back_as_they_were_newest_first(tmp_path: Path) -> None:
    records = Records(tmp_path)
    old, new = record("old"), record("new")
    records.add(old)
    records.add(new)
    assert records.of("edge-base") == (new, old)
    assert records.find("edge-base", old.build_key) == old
    read = records.latest("edge-base")
    assert read is not None
    assert read.components.key == new.build_key, "a key survives being written and read"


def test_a_build_that_is_completed_takes_its_own_place(tmp_path: Path) -> None:
    records = Records(tmp_path)
    started, other = record("x", version=""), record("y")
    for each in (started, other, record("x", version="2")):
        records.add(each)
    assert [each.version for each in records.of("edge-base")] == ["2", "1"]


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Records(tmp_path).add(record(str(n))), range(16)))
    assert len(Records(tmp_path).of("edge-base")) == 16


def test_old_builds_are_forgotten(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for number in range(25):
        records.add(record(str(number)))
    assert [each.tree for each in records.of("edge-base")][:2] == ["t24", "t23"]
    assert len(records.of("edge-base")) == 20


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add(record("x"))
    path = tmp_path / "images" / "edge-base" / "records.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(HostError, match=r"records\.json") as caught:
        records.latest("edge-base")
    assert "Remove that file" in caught.value.hint


def test_what_a_newer_version_adds_is_passed_over(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add(record("x"))
    path = tmp_path / "images" / "edge-base" / "records.json"
    path.write_text(path.read_text().replace('"tree"', '"mood":"fine","tree"'))
    assert records.latest("edge-base") == record("x")
