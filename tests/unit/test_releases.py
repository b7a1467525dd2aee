"""Which release a person means, and what is said when there is none such."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.errors import BuildError, UsageError
from pipeline.models.release import Package, Release
from pipeline.releases import (
    Releases,
    SizeChange,
    compare,
    format_growth,
    manifest_path,
    verdict_path,
)
from tests.fakes.stored import BASE, MOMENT, make_release, make_verdict, store_release

OLD = make_release(commit="a" * 40, moment=MOMENT - timedelta(days=1))
NEW = make_release(
    commit="b" * 40, packages=(*BASE, Package(name="nginx", version="1", architecture="amd64"))
)


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    store_release(tmp_path, NEW, make_verdict(NEW))
    store_release(tmp_path, OLD)
    store_release(tmp_path, make_release("edge-base"))
    (tmp_path / "images" / "edge-base" / "records.json").write_text("{}")
    (tmp_path / "images" / "never-built").mkdir()
    return tmp_path


def test_only_images_with_releases_are_listed(artifacts: Path) -> None:
    assert Releases(artifacts).images() == ["edge-base", "edge-web"]
    assert Releases(artifacts / "nowhere").images() == []


def test_releases_are_in_the_order_of_their_commits_not_of_their_builds(artifacts: Path) -> None:
    store = Releases(artifacts)
    assert [s.release.version for s in store.of("edge-web")] == [OLD.version, NEW.version]
    latest = store.latest("edge-web")
    assert latest is not None
    assert latest.release == NEW
    assert store.latest("never-built") is None


def test_dirty_builds_of_one_commit_are_in_the_order_of_building(tmp_path: Path) -> None:
    first, second = make_release(dirty="ffffffff"), make_release(dirty="00000000")
    store_release(tmp_path, first, built=MOMENT + timedelta(minutes=1))
    store_release(tmp_path, second, built=MOMENT + timedelta(minutes=2))
    assert [s.release for s in Releases(tmp_path).of("edge-web")] == [first, second]


@pytest.mark.parametrize(
    "words",
    [
        "edge-web",
        "edge-web@latest",
        "edge-web@",
        f"edge-web@{NEW.version}",
        "edge-web@20260301",
        "edge-web@bbbbbb",
        "edge-web@gbbbbbbbbbbbb",
        f"edge-web@{NEW.root_hash[:12]}",
        NEW.name,
    ],
)
def test_a_release_may_be_called_many_ways(artifacts: Path, words: str) -> None:
    assert Releases(artifacts).resolve(words).release == NEW


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("edge-wbe", "there is no image `edge-wbe`", "Did you mean edge-web or edge-base"),
        ("zzz", "there is no image `zzz`", "There are edge-base, edge-db, edge-web."),
        ("edge-db", "edge-db has no release yet", "Build one with `recast run edge-db`."),
        ("edge-web@20269", "edge-web has no release `20269`", OLD.version),
        ("edge-web@2026", "2 releases of edge-web are called `2026`", NEW.version),
        ("../edge-web", "there is no image `../edge-web`", "Did you mean edge-web"),
        ("", "there is no image ``", "There are"),
    ],
)
def test_a_name_that_means_none_or_many_is_answered_with_what_is_near(
    artifacts: Path, words: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Releases(artifacts).resolve(words, known=["edge-db"])
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Releases(tmp_path).resolve("edge-web")
    assert "`recast run`" in caught.value.hint


@pytest.mark.parametrize("damage", ["", "{", '{"image": "edge-web"}'])
def test_a_broken_manifest_is_passed_over_in_lists_and_named_when_asked_for(
    artifacts: Path, damage: str
) -> None:
    folder = artifacts / "images" / "edge-web" / OLD.version
    manifest_path(folder, OLD.name).write_text(damage)
    store = Releases(artifacts)
    assert [s.release for s in store.of("edge-web")] == [NEW]
    store.of("edge-web")
    assert len(store.problems) == 1
    assert str(manifest_path(folder, OLD.name)) in store.problems[0]
    with pytest.raises(BuildError, match="cannot be read"):
        store.resolve(f"edge-web@{OLD.version}")


def test_a_manifest_in_another_releases_folder_is_refused(artifacts: Path) -> None:
    folder = artifacts / "images" / "edge-web" / OLD.version
    folder.rename(folder.with_name("20250101.000000.gffffffffffff"))
    store = Releases(artifacts)
    assert [s.release for s in store.of("edge-web")] == [NEW]
    assert "in another release's folder" in store.problems[0]


def test_a_half_made_release_is_none(artifacts: Path) -> None:
    folder = artifacts / "images" / "edge-web" / "20270101.000000.gffffffffffff"
    folder.mkdir()
    (folder / "edge-web.root.erofs").write_text("half")
    store = Releases(artifacts)
    assert len(store.of("edge-web")) == 2
    assert store.problems == []


def test_the_previous_release_is_the_one_before_stored_or_not(artifacts: Path) -> None:
    store = Releases(artifacts)

    def before(release: Release) -> Release | None:
        found = store.previous(release)
        return found.release if found else None

    assert before(NEW) == OLD
    assert before(OLD) is None
    assert before(make_release(commit="c" * 40, moment=MOMENT + timedelta(days=1))) == NEW
    assert before(make_release(commit="c" * 40, moment=MOMENT - timedelta(hours=1))) == OLD
    assert before(make_release("other")) is None


def test_a_verdict_counts_for_the_very_root_that_it_was_given_for(tmp_path: Path) -> None:
    other = make_verdict(NEW, "aws").model_copy(update={"root_hash": "0" * 64})
    store_release(tmp_path, NEW, make_verdict(NEW), other)
    stored = Releases(tmp_path).resolve("edge-web")
    assert stored.passed("qemu") is True
    assert stored.passed("aws") is False
    assert stored.passed("metal") is None


def test_a_broken_verdict_is_named(tmp_path: Path) -> None:
    folder = store_release(tmp_path, NEW)
    verdict_path(folder, NEW.name, "qemu").write_text("{}")
    store = Releases(tmp_path)
    assert store.of("edge-web") == []
    assert ".test-qemu.json cannot be read" in store.problems[0]


def test_a_comparison_has_packages_and_sizes() -> None:
    change = compare(OLD, make_release(sizes={"root": (437 << 20) + (3 << 20)}))
    assert change.old is not None
    assert change.old.release == OLD.name
    assert change.packages.summary() == "no package changed"
    assert change.sizes["root"].growth == 3 << 20
    assert change.sizes["uki"].growth == 0
    assert compare(None, NEW).sizes == {}


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (10 << 20, 10 << 20, "10.0 MiB, as before"),
        (10 << 20, 12 << 20, "12.0 MiB, 2.0 MiB more"),
        (12 << 20, 10 << 20, "10.0 MiB, 2.0 MiB less"),
    ],
)
def test_growth_is_told_in_words(old: int, new: int, text: str) -> None:
    assert format_growth(SizeChange(old=old, new=new)) == text
