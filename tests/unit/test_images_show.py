"""What `recast images` and `recast show` print of a store. RECAST_GOLDEN=write renews the files."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.cli.images import ago
from pipeline.cli.main import main
from pipeline.engine.runs import Runs
from pipeline.files import parse_size
from pipeline.models.release import Failure, Package
from pipeline.models.run import ImageRun, Process, RunRecord, StageRecord
from tests.fakes.stored import BASE, MOMENT, make_release, make_verdict, store_release

GOLDEN = Path(__file__).parents[1] / "golden"

BASE_IMAGE = make_release("edge-base", moment=MOMENT - timedelta(days=1), commit="c" * 40)
OLD = make_release(commit="a" * 40, moment=MOMENT - timedelta(days=1), parent=BASE_IMAGE.name)
NEW = make_release(
    commit="b" * 40,
    parent=BASE_IMAGE.name,
    packages=(
        *BASE[:2],
        Package(name="nginx", version="1.26.3-3", architecture="amd64"),
        Package(name="openssl", version="3.5.1-2", architecture="amd64"),
    ),
    sizes={"root": parse_size("441MiB")},
)

EDGE_BASE = """\
name: edge-base
description: A small machine at a site.
distribution: debian
release: trixie
elements: [openssh-server]
packages: [curl]
kernel_arguments: ["console=ttyS0"]
persist: [/var/log/journal]
"""
EDGE_DB = """\
name: edge-db
from: edge-base
packages: [postgresql]
persist: [/var/lib/postgresql]
health:
  - {name: postgres, command: [pg_isready]}
"""

Recast = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("edge-base", EDGE_BASE), ("edge-db", EDGE_DB)):
        tests = tmp_path / "images" / name / "tests"
        tests.mkdir(parents=True)
        (tests / "test_it.py").write_text("def test_it(): pass\n")
        (tests.parent / "image.yaml").write_text(text)
    artifacts = tmp_path / "artifacts"
    store_release(artifacts, OLD, built=MOMENT - timedelta(hours=30))
    failure = Failure(
        test="test_web.py::test_page", message="AssertionError: 404\nassert 404 == 200"
    )
    store_release(
        artifacts, NEW, make_verdict(NEW), make_verdict(NEW, "aws", failure), built=MOMENT
    )
    store_release(artifacts, BASE_IMAGE, built=MOMENT - timedelta(days=40))
    monkeypatch.setenv("RECAST_PROJECT", str(tmp_path))
    monkeypatch.delenv("RECAST_ARTIFACTS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    for module in ("images", "show"):
        monkeypatch.setattr(f"pipeline.cli.{module}.now", lambda: MOMENT + timedelta(minutes=5))
    return tmp_path


@pytest.fixture
def recast(project: Path, capsys: pytest.CaptureFixture[str]) -> Recast:
    def call(*args: str, code: int = 0) -> str:
        assert main(args) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    return call


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("RECAST_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def make_run(project: Path) -> None:
    runs = Runs(project / "artifacts" / "runs")
    stages = {
        name: StageRecord(status=status, seconds=3, log=f"edge-web.{name}.log")
        for name, status in (("build", "done"), ("scan", "done"), ("test", "failed"))
    }
    stages["assemble"] = StageRecord(status="cached", log="edge-web.assemble.log")
    image = ImageRun(action="build", version=NEW.version, stages=dict(stages.items()))
    record = RunRecord(
        id="20260301.120100-1f3a",
        started=MOMENT,
        finished=MOMENT,
        commit=NEW.commit,
        version=NEW.version,
        process=Process(pid=1, ticks=1, boot="x"),
        images={"edge-web": image},
        outcome="failed",
    )
    runs.save(record)
    for name in stages:
        runs.log_path(record.id, "edge-web", name).write_text("said\n")


def test_the_newest_release_of_each_image_is_listed(recast: Recast) -> None:
    check_golden("images.txt", recast("images"))


def test_all_releases_are_listed_when_asked_for(recast: Recast) -> None:
    check_golden("images-all.txt", recast("images", "--all"))


def test_the_table_fits_80_columns_and_keeps_digests(project: Path, recast: Recast) -> None:
    folder = project / "artifacts" / "images" / "edge-web" / NEW.version
    (folder / f"{NEW.name}.test-aws.json").unlink()
    text = recast("images")
    assert max(map(len, text.splitlines())) <= 80
    assert NEW.root_hash[:12] in text


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=-5), "now"),  # a clock that was set back
        (timedelta(seconds=59), "now"),
        (timedelta(seconds=60), "1m ago"),
        (timedelta(hours=5, minutes=59), "5h ago"),
        (timedelta(days=89), "89d ago"),
        (timedelta(days=130), "4mo ago"),
    ],
)
def test_an_age_is_told_in_few_letters(age: timedelta, text: str) -> None:
    assert ago(MOMENT - age, MOMENT) == text


def test_a_narrow_terminal_loses_the_least_important_columns(
    recast: Recast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.terminal.is_terminal", lambda _stream: True)
    monkeypatch.setenv("COLUMNS", "70")
    header, *rows = recast("images").splitlines()
    assert header.split() == ["image", "version", "root", "hash", "tests"]
    assert max(map(len, rows)) <= 70


def test_signs_are_plain_where_the_terminal_cannot_show_others(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["images"]) == 0
    assert main(["show", "edge-web"]) == 0
    text = raw.getvalue().decode("ascii")
    assert "aws FAILED qemu ok" in text
    assert "openssl 3.5.1-1 -> 3.5.1-2" in text


def test_images_as_json(recast: Recast) -> None:
    base, web = json.loads(recast("images", "--json"))
    assert base["image"] == "edge-base"
    assert base["tests"] == {}
    assert web["name"] == NEW.name
    assert web["root_hash"] == NEW.root_hash
    assert web["tests"] == {"aws": False, "qemu": True}
    assert web["built"] == "2026-03-01T12:00:00Z"
    assert web["parts"]["uki"]["digest"] == NEW.parts["uki"].digest


def test_a_broken_release_does_not_hide_the_others(
    project: Path, recast: Recast, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project / "artifacts" / "images" / "edge-base" / BASE_IMAGE.version
    (folder / f"{BASE_IMAGE.name}.manifest.json").write_text("{")
    assert main(["images"]) == 0
    captured = capsys.readouterr()
    assert NEW.version in captured.out
    assert "passed over:" in captured.err
    assert f"{BASE_IMAGE.name}.manifest.json" in captured.err


def test_invalid_definitions_do_not_hide_the_store(project: Path, recast: Recast) -> None:
    (project / "images" / "edge-db" / "image.yaml").write_text("nonsense: [")
    assert NEW.version in recast("images")
    assert NEW.root_hash in recast("show", "edge-web")


def test_an_empty_store_says_what_to_do(tmp_path: Path, recast: Recast) -> None:
    os.rename(tmp_path / "artifacts", tmp_path / "gone")
    assert "edge-base  not built yet" in recast("images")
    for image in ("edge-base", "edge-db"):
        (tmp_path / "images" / image / "image.yaml").write_text("")
    assert "`recast run` builds every image" in recast("images")
    assert json.loads(recast("images", "--json")) == []


def test_everything_about_a_release(project: Path, recast: Recast) -> None:
    make_run(project)
    check_golden("show.txt", recast("show", "edge-web"))


def test_everything_about_a_first_release(recast: Recast) -> None:
    check_golden("show-first.txt", recast("show", f"edge-web@{OLD.commit[:8]}"))


def test_an_image_without_a_release_shows_its_definition(recast: Recast) -> None:
    check_golden("show-definition.txt", recast("show", "edge-db"))
    data = json.loads(recast("show", "edge-db", "--json"))
    assert data["release"] is None
    assert data["parents"] == ["edge-base"]
    assert data["definition"]["packages"] == ["curl", "postgresql"]


def test_show_as_json_has_the_whole_thread(project: Path, recast: Recast) -> None:
    make_run(project)
    data = json.loads(recast("show", "edge-web", "--json"))
    release = data["release"]
    assert (release["commit"], release["build_key"]) == (NEW.commit, NEW.build_key)
    assert (release["root_hash"], release["name"]) == (NEW.root_hash, NEW.name)
    assert data["changes"]["packages"]["changed"][0]["new"] == "3.5.1-2"
    assert data["tests"][0]["failures"][0]["test"] == "test_web.py::test_page"
    assert set(data["logs"]) == {"build", "scan", "test"}
    assert json.loads(recast("show", OLD.name, "--json"))["changes"] is None


def test_packages_and_files_are_listed_when_asked_for(project: Path, recast: Recast) -> None:
    text = recast("show", "edge-web", "--packages", "--files")
    assert "libc6       2.41-12   amd64  glibc" in text
    part = NEW.parts["disk"]
    path = project / "artifacts" / "images" / "edge-web" / NEW.version / part.file
    assert f"{path} (4 B)\n  sha-256 {part.digest}" in text


def test_an_unknown_name_names_what_is_near(recast: Recast) -> None:
    text = recast("show", "edge-dbb", code=2)
    assert "there is no image `edge-dbb`" in text
    assert "Did you mean edge-db" in text
    assert "edge-db has no release yet" in recast("show", "edge-db@2026", code=2)
    assert OLD.version in recast("show", "edge-web@2026", code=2)
