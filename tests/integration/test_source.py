"""What git says about a project, in clones as people have them."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import source
from pipeline.errors import HostError, UsageError


def git(folder: Path, *args: str) -> str:
    who = {f"GIT_{role}_{part}": "nobody@mirror.example" for role in ("AUTHOR", "COMMITTER")
           for part in ("NAME", "EMAIL")}  # fmt: skip
    dates = {"GIT_COMMITTER_DATE": "2026-03-01T13:00:00+01:00", "GIT_CONFIG_GLOBAL": "/dev/null"}
    return subprocess.run(
        ["git", "-C", str(folder), *args],
        env={**os.environ, **who, **dates},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "images" / "web").mkdir(parents=True)
    (folder / "images" / "web" / "image.yaml").write_text("name: web\n")
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(tmp_path, "init", "-q", "-b", "main", "project")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_version_is_the_commits_time_in_utc_and_its_name(project: Path) -> None:
    found = source.read(project)
    assert found.commit == git(project, "rev-parse", "HEAD")
    assert found.time == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert found.dirty is None
    assert found.version == f"20260301.120000.g{found.commit[:12]}"


def test_only_what_images_are_made_of_makes_them_dirty(project: Path) -> None:
    (project / "README.md").write_text("a note\n")
    (project / "images" / "web" / "__pycache__").mkdir()
    (project / "images" / "web" / "__pycache__" / "x.pyc").write_text("x")
    assert source.read(project).dirty is None
    (project / "stages").mkdir()
    (project / "stages" / "mine.py").write_text("")
    assert source.read(project).dirty is not None


@pytest.mark.parametrize("name", ["settings.yaml", "channels.yaml", "root.json"])
@pytest.mark.parametrize("within", ["", "deep"])
def test_what_shapes_no_byte_makes_no_image_dirty(project: Path, name: str, within: str) -> None:
    top = project / within
    (top / "images").mkdir(parents=True, exist_ok=True)
    file = top / "images" / name
    file.write_text("jobs: 1\n")
    assert source.read(top).dirty is None, "new"
    git(project, "add", ".")
    git(project, "commit", "-qm", "with it")
    file.write_text("jobs: 2\n")
    assert source.read(top).dirty is None, "changed"
    file.unlink()
    assert source.read(top).dirty is None, "gone"
    (top / "images" / "web").mkdir(exist_ok=True)
    (top / "images" / "web" / name).write_text("")
    assert source.read(top).dirty is not None, "an image's own file of that name is another thing"


def test_each_kind_of_change_makes_another_version(project: Path) -> None:
    definition = project / "images" / "web" / "image.yaml"
    versions = [source.read(project).version]

    def changed() -> None:
        found = source.read(project).version
        assert found not in versions
        assert ".dirty." in found
        versions.append(found)

    definition.write_text("name: web\npackages: [curl]\n")
    changed()
    git(project, "add", ".")
    assert source.read(project).version == versions[-1], "staged or not is no difference"
    definition.chmod(0o755)
    changed()
    (project / "images" / "neu ✓.txt").write_text("untracked, with a name")
    changed()
    (project / "images" / "link").symlink_to("web")
    changed()
    definition.unlink()
    changed()
    git(project, "reset", "-q", "--hard")
    git(project, "clean", "-fdq")
    assert source.read(project).version == versions[0]


def test_equal_changes_in_two_clones_are_the_same_version(project: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(project), "clone")
    for folder in (project, tmp_path / "clone"):
        (folder / "images" / "web" / "files").mkdir()
        (folder / "images" / "web" / "files" / "x").write_text("x")
    assert source.read(project) == source.read(tmp_path / "clone")


def test_a_project_may_be_a_folder_of_a_larger_clone(project: Path) -> None:
    (project / "deep" / "images").mkdir(parents=True)
    (project / "images" / "web" / "image.yaml").write_text("changed above\n")
    assert source.read(project / "deep").dirty is None
    (project / "deep" / "images" / "x").write_text("x")
    assert source.read(project / "deep").dirty is not None
    assert source.changed_since(project / "deep", "HEAD") == {"images/x"}


def test_looking_writes_nothing_into_a_users_clone(project: Path) -> None:
    def state() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in (project / ".git").rglob("*")}

    os.utime(project / "images" / "web" / "image.yaml")  # git would like to refresh its index
    before = state()
    assert source.read(project).dirty is None
    assert source.changed_since(project, "HEAD") == set(), "it was touched, and holds the same"
    assert state() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_may_look_at_a_users_clone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (project, *project.rglob("*")):
        os.chown(path, 12345, 12345)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert source.read(project).dirty is None


def test_a_hook_of_git_does_not_lead_astray(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git sets these while it runs a hook, for whatever the hook starts."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert source.read(project).dirty is None


def test_without_a_commit_there_is_no_version(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    with pytest.raises(HostError, match="no commit yet") as caught:
        source.read(tmp_path)
    assert "git commit" in caught.value.hint


def test_outside_of_a_clone_there_is_no_version(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="not in a git repository") as caught:
        source.read(tmp_path)
    assert "git init" in caught.value.hint


# --- what a push touched -----------------------------------------------------------------------


@pytest.fixture
def pushed(project: Path) -> Path:
    """A second commit, on a branch that left main; main has gone on since."""
    git(project, "checkout", "-qb", "work")
    (project / "images" / "web" / "image.yaml").write_text("name: web\npackages: [curl]\n")
    (project / "notes.md").write_text("x")
    git(project, "add", ".")
    git(project, "commit", "-qm", "second")
    git(project, "checkout", "-q", "main")
    (project / "images" / "others.txt").write_text("somebody else's work")
    git(project, "add", ".")
    git(project, "commit", "-qm", "on main")
    git(project, "checkout", "-q", "work")
    return project


def test_a_push_touched_what_it_changed_and_not_what_others_did(pushed: Path) -> None:
    assert source.changed_since(pushed, "main") == {"images/web/image.yaml"}
    assert source.changed_since(pushed, "HEAD~1") == {"images/web/image.yaml"}
    assert source.changed_since(pushed, "HEAD") == set()


def test_changes_that_are_not_committed_count(pushed: Path) -> None:
    (pushed / "images" / "new file").write_text("x")
    (pushed / "images" / "web" / "image.yaml").unlink()
    assert source.changed_since(pushed, "HEAD") == {"images/new file", "images/web/image.yaml"}


def test_a_moved_file_touches_both_places(pushed: Path) -> None:
    git(pushed, "mv", "images/web", "images/net")
    assert source.changed_since(pushed, "HEAD") == {
        "images/net/image.yaml",
        "images/web/image.yaml",
    }


def test_a_new_diskimage_builder_touches_everything(pushed: Path) -> None:
    (pushed / "artifacts").mkdir()
    (pushed / "artifacts" / "held.lock").write_text("")
    assert source.changed_since(pushed, "HEAD") == set()
    (pushed / "requirements.lock").write_text("diskimage-builder==3.44.0\n")
    assert "requirements.lock" in source.changed_since(pushed, "HEAD")


def test_a_new_branch_has_no_predecessor_and_so_touches_everything(pushed: Path) -> None:
    assert source.changed_since(pushed, "0" * 40) == {"images/web/image.yaml"}


@pytest.mark.parametrize("rev", ["no-such-branch", "--output=/tmp/x", "main^{tree}", ""])
def test_what_is_no_commit_is_refused(pushed: Path, rev: str) -> None:
    with pytest.raises(UsageError, match="is not a commit") as caught:
        source.changed_since(pushed, rev)
    assert "fetch-depth" in caught.value.hint


def test_without_common_history_the_whole_difference_counts(pushed: Path) -> None:
    git(pushed, "checkout", "-q", "--orphan", "fresh")
    git(pushed, "commit", "-qm", "from nothing")
    git(pushed, "rm", "-qf", "images/web/image.yaml")
    assert "images/web/image.yaml" in source.changed_since(pushed, "main")
