"""The scan stage: what it leaves in a release's folder, and what it says."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline import digest
from pipeline.command import Stop
from pipeline.engine.stage import Work
from pipeline.errors import BuildError, Interrupted
from pipeline.models.release import Package, Release
from pipeline.releases import ReleaseDiff, Releases
from stages.scan import ScanStage
from tests.fakes.stored import BASE, MOMENT, make_release, store_release
from tests.fakes.trees import make_tree

OLD = make_release(commit="a" * 40, moment=MOMENT - timedelta(days=1))
STATUS = "".join(
    f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n"
    for name, version in (("base-files", "13.8"), ("libc6", "2.41-12"), ("openssl", "3.5.1-2"))
)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Work whose release has no package list yet, as assembly leaves it."""
    release = make_release(packages=(), sizes={"root": 440 << 20})
    artifacts = tmp_path / "artifacts"
    folder = store_release(artifacts, release)
    tree = tmp_path / "tree"
    tree.mkdir()
    files = {"./usr/lib/os-release": "ID=debian\nVERSION_ID=13\n", "./var/lib/dpkg/status": STATUS}
    make_tree(tree / "tree.tar", files)
    return Work(
        project=tmp_path,
        artifacts=artifacts,
        scratch=tmp_path,
        log=io.StringIO(),
        stop=Stop(),
        definition=cast(Any, None),
        own=cast(Any, None),
        planned=cast(Any, SimpleNamespace(image="edge-web")),
        source=cast(Any, None),
        settings=cast(Any, None),
        tree=tree,
        release_dir=folder,
        release=release,
    )


def log(work: Work) -> str:
    return cast(io.StringIO, work.log).getvalue()


def stored(work: Work) -> Release:
    return Releases(work.artifacts).resolve("edge-web").release


def test_the_manifest_gets_the_packages_and_the_sbom(work: Work) -> None:
    assert ScanStage().run(work) == "done"
    release = stored(work)
    assert work.release == release
    assert [p.name for p in release.packages] == ["base-files", "libc6", "openssl"]
    assert work.release_dir is not None
    part = release.parts["sbom"]
    path = work.release_dir / part.file
    assert path.name == f"{release.name}.cdx.json"
    assert (digest.of_file(path), path.stat().st_size) == (part.digest, part.size)
    assert json.loads(path.read_text())["metadata"]["component"]["bom-ref"] == release.name
    assert set(release.parts) == {"root", "verity", "uki", "disk", "sbom"}


def test_a_first_release_is_compared_with_nothing(work: Work) -> None:
    ScanStage().run(work)
    assert "3 packages" in log(work)
    assert "first release of this image" in log(work)
    assert read_diff(work).old is None


def read_diff(work: Work) -> ReleaseDiff:
    assert work.release is not None
    assert work.release_dir is not None
    path = work.release_dir / f"{work.release.name}.package-diff.json"
    return ReleaseDiff.model_validate_json(path.read_text())


def test_a_later_release_is_compared_with_the_one_before_in_words(work: Work) -> None:
    nano = Package(name="nano", version="8.4-1", architecture="amd64")
    store_release(work.artifacts, OLD.model_copy(update={"packages": (*BASE, nano)}))
    said: list[str] = []
    work.report = said.append
    ScanStage().run(work)
    change = read_diff(work)
    assert change.old is not None
    assert change.old.release == OLD.name
    assert [(c.name, c.direction) for c in change.packages.changed] == [("openssl", "upgraded")]
    assert change.sizes["root"].growth == 3 << 20
    for words in (
        f"Since {OLD.name}: 1 upgraded, 1 removed",
        "upgraded   openssl 3.5.1-1 → 3.5.1-2",
        "removed    nano 8.4-1",
        "root     440 MiB, 3.0 MiB more",
        "uki      42.0 MiB, as before",
    ):
        assert words in log(work)
    assert said[-1] == "3 packages, 1 upgraded, 1 removed"


def test_it_is_done_once(work: Work) -> None:
    ScanStage().run(work)
    assert work.release_dir is not None
    before = {path: path.stat().st_mtime_ns for path in work.release_dir.iterdir()}
    (work.tree / "tree.tar").unlink()  # it is not even looked at
    assert ScanStage().run(work) == "cached"
    assert {path: path.stat().st_mtime_ns for path in work.release_dir.iterdir()} == before


@pytest.mark.parametrize("damage", ["sbom", "no-sbom", "no-diff"])
def test_a_damaged_result_is_made_again(work: Work, damage: str) -> None:
    ScanStage().run(work)
    assert work.release is not None
    assert work.release_dir is not None
    name = work.release.name
    bill = work.release_dir / f"{name}.cdx.json"
    whole = bill.read_bytes()
    if damage == "sbom":
        bill.write_bytes(whole[:100])
    elif damage == "no-sbom":
        bill.unlink()
    else:
        (work.release_dir / f"{name}.package-diff.json").unlink()
    assert ScanStage().run(work) == "done"
    assert bill.read_bytes() == whole
    read_diff(work)


def test_a_stop_leaves_the_manifest_as_it_was(work: Work) -> None:
    work.stop.set()
    with pytest.raises(Interrupted):
        ScanStage().run(work)
    assert "sbom" not in stored(work).parts


def test_a_missing_tree_is_named(work: Work) -> None:
    (work.tree / "tree.tar").unlink()
    with pytest.raises(BuildError, match=r"tree\.tar cannot be read"):
        ScanStage().run(work)


def test_without_a_release_there_is_nothing_to_scan(work: Work) -> None:
    work.release = None
    with pytest.raises(BuildError, match="no release to scan"):
        ScanStage().run(work)
