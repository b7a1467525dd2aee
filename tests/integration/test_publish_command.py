"""`recast publish` in a project of its own, with real keys and a store in a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import command, source
from pipeline.channels.published import PublishedReleases
from pipeline.cli.context import Context
from pipeline.cli.main import main
from pipeline.cli.run import _publishing
from pipeline.engine.plan import Plan
from pipeline.errors import UsageError
from pipeline.releases import Stored
from pipeline.store.local import LocalStore
from pipeline.transfer.fetch import save_part
from tests.fakes.stored import MOMENT, store_whole

DEFINITION = "name: {name}\ndistribution: debian\nrelease: trixie\n"
IMAGES = ("edge-db", "edge-web")


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two images, keys and an empty signed store; it is copied, never used."""
    project = tmp_path_factory.mktemp("project")
    for name in IMAGES:
        tests = project / "images" / name / "tests"
        tests.mkdir(parents=True)
        (tests / "test_it.py").write_text("def test_it(): pass\n")
        (tests.parent / "image.yaml").write_text(DEFINITION.format(name=name))
    (project / ".gitignore").write_text("artifacts/\n")
    git = ["git", "-C", str(project), "-c", "user.name=ci", "-c", "user.email=ci@localhost"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "images"]):
        command.run([*git, *words])
    recast = [sys.executable, "-m", "pipeline.cli.main", "init", "--no-passphrase"]
    subprocess.run(recast, check=True, env=environment(project), capture_output=True, timeout=120)
    return project


def environment(project: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECAST_")}
    return {**kept, "RECAST_PROJECT": str(project), "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def project(initialised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(initialised, folder)
    for name in list(os.environ):
        if name.startswith("RECAST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RECAST_PROJECT", str(folder))
    monkeypatch.setenv("COLUMNS", "120")
    return folder


@pytest.fixture
def artifacts(project: Path) -> Path:
    return project / "artifacts"


@pytest.fixture
def store(artifacts: Path) -> LocalStore:
    return LocalStore(artifacts / "store")


@pytest.fixture
def local(artifacts: Path) -> Stored:
    return store_whole(artifacts)


def held(image: str = "edge-web") -> str:
    """The version that the first channel holds, as somebody sees it who has just come."""
    pointer = Context.find().desk.view("dev").pointers.get(image)
    return pointer.release.version if pointer and pointer.release else ""


def events(text: str) -> dict[str, dict[str, Any]]:
    """The end of each stage, by image."""
    lines = [json.loads(line) for line in text.splitlines()]
    return {each["image"]: each for each in lines if each["event"] == "stage.finished"}


def test_a_tested_release_goes_into_the_store_and_the_first_channel(
    local: Stored, store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "--json"]) == 0
    ended = events(capsys.readouterr().out)["edge-web"]
    assert ended["status"] == "done"
    assert ended["note"].startswith(f"into dev in {store.url}: 2.3 MiB uploaded")
    assert held() == local.release.version
    (release,) = PublishedReleases(store).of("edge-web")
    save_part(store, release, "disk", tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == (
        local.folder / local.release.parts["disk"].file
    ).read_bytes()
    (summary,) = Context.find().runs.folder.glob("*/summary.md")
    assert store.url in summary.read_text()
    assert main(["publish", "--json"]) == 0
    ended = events(capsys.readouterr().out)["edge-web"]
    assert (ended["status"], ended["note"].partition(": ")[2]) == (
        "cached",
        "0 B uploaded, 2.3 MiB there already",
    )


def test_of_each_image_the_newest_that_passed_is_published_and_the_rest_named(
    local: Stored, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = store_whole(artifacts, commit="a" * 40, moment=MOMENT + timedelta(days=1), providers=())
    store_whole(artifacts, "edge-db")
    store_whole(artifacts, "gone", providers=("qemu",))  # not defined any more
    assert main(["publish"]) == 0
    out = capsys.readouterr().out
    assert f"{newer.release.name} is left out: it has not passed its tests on qemu" in out
    assert held() == local.release.version
    assert held("edge-db")
    assert "gone" not in out


def test_with_nothing_tested_it_says_what_to_do(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish"]) == 10
    assert "`recast run` builds, tests and publishes" in capsys.readouterr().err
    store_whole(artifacts, providers=())
    assert main(["publish"]) == 10
    assert "recast test edge-web" in capsys.readouterr().err


def test_an_untested_release_is_uploaded_only_if_that_is_asked_for(
    artifacts: Path, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    untested = store_whole(artifacts, providers=())
    words = f"edge-web@{untested.release.version}"
    assert main(["publish", words]) == 10
    assert "has not passed its tests on qemu" in capsys.readouterr().out
    assert PublishedReleases(store).images() == []
    assert main(["publish", words, "--upload-only"]) == 0
    assert PublishedReleases(store).images() == ["edge-web"]
    assert held() == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["edge-wbe"], 2, "there is no image `edge-wbe`"),
        (["edge-web@1999"], 2, "edge-web has no release `1999`"),
        (["edge-web", "edge-web@2026"], 2, "two releases of edge-web"),
        (["gone"], 2, "gone is not defined in images/ any more"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(
    local: Stored, artifacts: Path, capsys: pytest.CaptureFixture[str],
    words: list[str], code: int, message: str,
) -> None:  # fmt: skip
    store_whole(artifacts, "gone")
    assert main(["publish", *words]) == code
    assert message in capsys.readouterr().err
    assert held() == ""


def test_without_a_signed_store_it_says_how_to_make_one(
    local: Stored, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (project / "images" / "root.json", project / "artifacts/keys/root.json"):
        path.unlink(missing_ok=True)
    assert main(["publish"]) == 2
    err = capsys.readouterr().err
    assert "this project has no signed store yet" in err
    assert "`recast init`" in err


def test_without_a_key_it_says_which(
    local: Stored, artifacts: Path, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = artifacts / "keys" / "keys.yaml"
    lines = [line for line in keys.read_text().splitlines() if not line.startswith("tester")]
    keys.write_text("\n".join(lines) + "\n")
    assert main(["publish"]) == 2
    assert "the tester's key tester is not here" in capsys.readouterr().err
    assert PublishedReleases(store).images() == []


def test_a_damaged_file_is_named_and_nothing_is_published(
    local: Stored, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = local.folder / local.release.parts["root"].file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert main(["publish"]) == 5
    assert str(path) in capsys.readouterr().out
    assert PublishedReleases(store).images() == []
    assert list(store.list("objects/")) == []


def test_the_same_version_built_elsewhere_is_refused(
    local: Stored, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish"]) == 0
    shutil.rmtree(local.folder)
    other = store_whole(artifacts, size=2 << 20)
    assert other.release.version == local.release.version
    capsys.readouterr()
    assert main(["publish"]) == 8
    assert f"has another edge-web@{other.release.version} already" in capsys.readouterr().out


def test_assembly_gives_no_version_that_is_published_for_other_bytes(local: Stored) -> None:
    assert main(["publish"]) == 0
    context = Context.find()
    planned = replace(_planned(context, "edge-web"), action="build", release=None)
    plan = Plan((planned,), context.source)
    work = context.make_work(planned, plan, context.artifacts, Any)  # type: ignore[arg-type]
    release = local.release
    assert work.taken(release.version) == (
        release.root_hash,
        release.boot_digest,
        release.build_key,
    )
    assert work.taken(f"{release.version}.2") is None


def _planned(context: Context, image: str) -> Any:
    from pipeline.cli.carry_out import plan_releases

    return plan_releases(context, [context.releases.resolve(image).release])[0]


@pytest.mark.parametrize("wanted", [None, True, False])
def test_a_run_publishes_where_it_can(project: Path, wanted: bool | None) -> None:
    context = Context.find()
    plan = Plan((), source.Source("a" * 40, MOMENT))
    after, stages = _publishing(context, plan, wanted=wanted, tested=True)
    assert after == plan
    assert [stage.name for stage in stages] == ([] if wanted is False else ["publish"])


def test_a_run_that_cannot_publish_says_why_or_does_not_begin(project: Path) -> None:
    keys = project / "artifacts" / "keys" / "keys.yaml"
    keys.write_text("")
    context = Context.find()
    plan = Plan((), source.Source("a" * 40, MOMENT))
    after, stages = _publishing(context, plan, wanted=None, tested=True)
    assert stages == ()
    assert after.notes[0].startswith("not published: the builder's key builder is not here")
    assert _publishing(context, plan, wanted=None, tested=False) == (plan, ())
    with pytest.raises(UsageError, match="the builder's key"):
        _publishing(context, plan, wanted=True, tested=True)


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_upload_that_was_cut_goes_on_where_it_stood(
    project: Path, artifacts: Path, store: LocalStore, number: signal.Signals, tmp_path: Path
) -> None:
    local = store_whole(artifacts, size=40 << 20)
    recast = [sys.executable, "-m", "pipeline.cli.main", "publish", "--jobs", "1"]
    process = subprocess.Popen(
        recast, env=environment(project), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not list((artifacts / "store").glob("objects/*/*")) and process.poll() is None:
        assert time.monotonic() < until
    process.send_signal(number)
    process.wait(60)
    there = {info.key for info in store.list("objects/")}
    assert main(["publish"]) == 0
    assert held() == local.release.version
    assert there <= {info.key for info in store.list("objects/")}
    (release,) = PublishedReleases(store).of("edge-web")
    save_part(store, release, "root", tmp_path / "root")
    assert [each.name for each in (artifacts / "work").iterdir()] == [".lock"]
