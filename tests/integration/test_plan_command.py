"""`recast plan` on a project of two images, with git, stock elements and apt for real."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import clock, digest, releases
from pipeline.cli.context import Context
from pipeline.cli.main import main
from pipeline.dib import mirrors
from pipeline.engine.plan import settle
from pipeline.engine.records import BuildRecord, Records
from tests.fakes.debian_archive import DebianArchive, Key, signing_key
from tests.fakes.looks import BASE_PACKAGES, WEB_PACKAGES, verdict
from tests.fakes.stored import make_release, store_release

PACKAGES = {"edge-base": BASE_PACKAGES, "edge-web": WEB_PACKAGES}
BASE = "name: edge-base\ndistribution: debian\nrelease: trixie\npackages: [openssl]\n"
WEB = """\
name: edge-web
from: edge-base
elements: [nginx-site]
packages: [nginx]
files:
  - path: /etc/motd
    source: files/motd
"""

Recast = Callable[..., str]


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    with signing_key() as made:
        yield made


@pytest.fixture
def offered(tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> DebianArchive:
    family = replace(mirrors.FAMILIES["debian"], keyring=key.keyring)
    monkeypatch.setitem(mirrors.FAMILIES, "debian", family)
    archive = DebianArchive(tmp_path / "offered", key)
    archive.upload("trixie", **WEB_PACKAGES)
    return archive


@pytest.fixture
def project(tmp_path: Path, offered: DebianArchive, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    files = {
        "edge-base/image.yaml": BASE,
        "edge-base/tests/test_base.py": "def test_it(): pass\n",
        "edge-web/image.yaml": WEB,
        "edge-web/tests/test_web.py": "def test_it(): pass\n",
        "edge-web/files/motd": "hello\n",
        "elements/nginx-site/element-deps": "package-installs\n",
        "elements/nginx-site/post-install.d/50-site": "#!/bin/sh\n",
        "settings.yaml": f"mirror:\n  debian: {offered.mirrors.main}\n"
        f"  debian-security: {offered.mirrors.security}\n",
    }
    for name, text in files.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)
    commit(folder, "first")
    monkeypatch.setenv("RECAST_PROJECT", str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    for variable in ("RECAST_ARTIFACTS", "DIB_DISTRIBUTION_MIRROR", "DIB_DEBIAN_SECURITY_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    return folder


def commit(folder: Path, message: str) -> None:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@mirror.example")
    for args in (("init", "-q"), ("add", "images"), (*who, "commit", "-qm", message)):
        subprocess.run(["git", "-C", str(folder), *args], check=True)


@pytest.fixture
def recast(project: Path, capsys: pytest.CaptureFixture[str]) -> Recast:
    def call(*args: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(args) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    return call


def build(project: Path, built: datetime | None = None) -> None:
    """Leave behind what a run of the whole plan would."""
    context = Context(project, project / "artifacts")
    plan = context.plan()
    keys: dict[str, str] = {}
    for planned in plan.images:
        parent = planned.parent or ""
        components = settle(
            planned.components,
            PACKAGES[planned.image],
            inherited=PACKAGES.get(parent),
            parent_key=keys.get(parent),
        )
        keys[planned.image] = components.key
        made = make_release(planned.image, commit=plan.source.commit, moment=plan.source.time)
        release = made.model_copy(update={"version": plan.source.version})
        passed = verdict(release.root_hash, planned.tests_digest)
        folder = context.artifacts / "images" / release.image / release.version
        if not releases.manifest_path(folder, release.name).exists():
            store_release(context.artifacts, release, passed)
        Records(context.artifacts).add(
            BuildRecord(
                image=planned.image,
                build_key=components.key,
                components=components,
                tree=planned.tree,
                built=built or clock.now(),
                version=release.version,
                root_hash=release.root_hash,
            )
        )


def reasons(text: str) -> dict[str, list[str]]:
    data: dict[str, Any] = json.loads(text)
    return {image["image"]: image["reasons"] for image in data["images"]}


def test_a_fresh_project_is_built_parents_first(recast: Recast) -> None:
    lines = recast("plan").splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["IMAGE", "ACTION", "TESTS", "WHY"],
        ["edge-base", "build", "run", "never", "built"],
        ["edge-web", "build", "run", "never", "built"],
    ]
    assert lines[4].startswith("2 to build, 2 to test, 0 unchanged (")
    assert lines[5] == "Archive of debian trixie: asked just now."
    assert max(map(len, lines)) <= 80


def test_json_holds_everything_a_workflow_needs(project: Path, recast: Recast) -> None:
    build(project)
    data = json.loads(recast("plan", "--json"))
    head = subprocess.run(
        ["git", "-C", str(project), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert data["commit"] == head
    assert data["dirty"] is False
    base, web = data["images"]
    assert base["parent"] is None
    assert (web["image"], web["parent"], web["action"], web["test"]) == (
        "edge-web", "edge-base", "unchanged", False,
    )  # fmt: skip
    assert web["release"] == data["version"]
    assert web["build_key"] != base["build_key"]
    assert list(data["archives"]) == ["debian trixie"]
    assert data["seconds"] < 60
    assert data["untouched"] == data["notes"] == []


def test_what_was_built_is_unchanged_until_something_is(project: Path, recast: Recast) -> None:
    build(project)
    images = project / "images"
    assert reasons(recast("plan", "--json")) == {
        "edge-base": ["unchanged"],
        "edge-web": ["unchanged"],
    }
    site = images / "elements" / "nginx-site" / "post-install.d" / "50-site"
    site.write_text("#!/bin/sh\ntrue\n")
    (images / "edge-web" / "files" / "motd").write_text("bye\n")
    (images / "edge-base" / "tests" / "test_base.py").write_text("def test_other(): pass\n")
    assert reasons(recast("plan", "--json")) == {
        "edge-base": ["tests changed"],
        "edge-web": ["file files/motd changed", "element nginx-site changed"],
    }
    assert ".dirty." in recast("plan")


def test_a_release_that_was_removed_is_built_again(project: Path, recast: Recast) -> None:
    build(project)
    (folder,) = (project / "artifacts" / "images" / "edge-web").glob("2*")
    next(folder.glob("*.manifest.json")).unlink()
    found = reasons(recast("plan", "--json"))
    assert found["edge-web"] == [f"release {folder.name} is gone"]
    assert found["edge-base"] == ["unchanged"]


def test_a_commit_is_given_a_release_of_its_own_in_place_of_an_uncommitted_one(
    project: Path, recast: Recast
) -> None:
    (project / "images" / "edge-web" / "files" / "motd").write_text("not committed\n")
    build(project)
    dirty = json.loads(recast("plan", "--json"))["images"][1]
    assert dirty["action"] == "unchanged", "as long as it is not committed, it serves"
    commit(project, "now it is")
    found = json.loads(recast("plan", "--json"))["images"][1]
    assert (found["action"], found["build_key"]) == ("build", dirty["build_key"])
    assert found["reasons"] == [f"{dirty['release']} was made of changes in no commit, or is gone"]
    build(project)
    assert reasons(recast("plan", "--json"))["edge-web"] == ["unchanged"]


def test_a_security_fix_is_told_when_the_archive_is_asked(
    project: Path, offered: DebianArchive, recast: Recast
) -> None:
    build(project)
    offered.upload("trixie-security", openssl="3.5.1-2")
    assert reasons(recast("plan", "--json"))["edge-base"] == ["unchanged"], "asked a moment ago"
    assert reasons(recast("plan", "--json", "--refresh")) == {
        "edge-base": ["openssl 3.5.1-1 → 3.5.1-2 in trixie-security"],
        "edge-web": ["parent edge-base rebuilt"],
    }


def test_the_archive_is_asked_by_itself_when_the_last_look_is_old(
    project: Path, offered: DebianArchive, recast: Recast
) -> None:
    with (project / "images" / "settings.yaml").open("a") as settings:
        settings.write("archive_max_age: 1s\n")
    build(project, built=clock.now() - timedelta(hours=1))
    offered.upload("trixie-security", openssl="3.5.1-2")
    (memory,) = (project / "artifacts" / "cache" / "archive").glob("*/look.json")
    look = json.loads(memory.read_text())
    look["looked_at"] = clock.iso(clock.now() - timedelta(hours=2))
    memory.write_text(json.dumps(look))
    assert "openssl" in reasons(recast("plan", "--json"))["edge-base"][0]


def test_without_a_network_the_last_look_counts_unless_news_are_asked_for(
    project: Path, tmp_path: Path, recast: Recast
) -> None:
    build(project)
    (tmp_path / "offered").rename(tmp_path / "gone")
    (memory,) = (project / "artifacts" / "cache" / "archive").glob("*/look.json")
    look = json.loads(memory.read_text())
    look["looked_at"] = clock.iso(clock.now() - timedelta(days=2))
    memory.write_text(json.dumps(look))
    for records in (project / "artifacts" / "images").glob("*/records.json"):
        text = records.read_text()
        old = json.loads(text)["records"][0]["built"]
        records.write_text(text.replace(old, clock.iso(clock.now() - timedelta(days=2))))
    data = json.loads(recast("plan", "--json"))
    assert [image["reasons"] for image in data["images"]] == [["unchanged"], ["unchanged"]]
    assert "What it offered 48h00m ago counts." in data["notes"][0]
    error = recast("plan", "--refresh", code=7)
    assert "the archive of debian trixie cannot be read" in error
    assert "mirror:" in error


def test_a_first_plan_without_a_network_is_a_plan(
    project: Path, tmp_path: Path, recast: Recast
) -> None:
    (tmp_path / "offered").rename(tmp_path / "gone")
    data = json.loads(recast("plan", "--json"))
    assert [image["reasons"] for image in data["images"]] == [["never built"], ["never built"]]
    assert "What changed there is not known." in data["notes"][0]


def test_a_push_limits_the_plan(project: Path, recast: Recast) -> None:
    build(project)
    (project / "images" / "edge-web" / "files" / "motd").write_text("bye\n")
    commit(project, "second")
    data = json.loads(recast("plan", "--json", "--since", "HEAD~1"))
    assert [image["action"] for image in data["images"]] == ["unchanged", "build"]
    nothing = recast("plan", "--since", "HEAD")
    assert nothing.startswith("0 to build, 0 to test, 0 unchanged, 2 not touched since HEAD (")
    assert "IMAGE" not in nothing


def test_an_unknown_element_names_the_definition(project: Path, recast: Recast) -> None:
    (project / "images" / "edge-web" / "image.yaml").write_text(WEB.replace("x-site", "x-sight"))
    error = recast("plan", code=3)
    assert "images/edge-web/image.yaml" in error
    assert "`nginx-sight` does not exist" in error
    assert "Did you mean `nginx-site`?" in error


def test_an_unknown_image_or_commit_is_a_wrong_word(recast: Recast) -> None:
    assert "Did you mean `edge-web`?" in recast("plan", "edge-wep", code=2)
    assert "'nope' is not a commit" in recast("plan", "--since", "nope", code=2)


def test_two_plans_of_one_project_are_the_same(recast: Recast) -> None:
    first, second = (json.loads(recast("plan", "--json")) for _ in range(2))
    first.pop("seconds")
    second.pop("seconds")
    assert digest.of_data(first) == digest.of_data(second)


def test_a_warm_plan_costs_less_than_a_second(project: Path) -> None:
    """In processor time of a whole new process: what else runs here is not the plan's fault."""
    build(project)
    command = [sys.executable, "-c", "from pipeline.cli.main import entry; entry()", "plan"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "0 to build" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
