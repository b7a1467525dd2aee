"""If these fail, a build that cannot succeed says so badly, late, or at the cost of other work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.command import PACKAGES
from tests.fakes.toy import ToyProject
from tests.fakes.toys import needs_root, needs_tools, toy_tar, toys, wait_for

__all__ = ["toy_tar", "toys"]

MIRROR = "http://127.0.0.1:9/debian"  # the port "discard": nothing listens there


def told(text: str, toys: ToyProject) -> str:
    """What was printed, without what differs from run to run."""
    text = text.replace(str(toys.artifacts), "STORE")
    text = re.sub(r"\d{8}\.\d{6}-[0-9a-f]{4}", "RUN", text)
    text = re.sub(r"\d{8}\.\d{6}\.g[0-9a-f]{12}", "VERSION", text)
    return re.sub(r"\b\d+(\.\d+)?s\b", "TIME", text)


@needs_root
@needs_tools
def test_a_failing_hook_is_told_and_other_images_are_finished(toys: ToyProject) -> None:
    toys.image("toy-bad", elements=["bad"])
    toys.image("toy-good")
    toys.image("toy-leaf", parent="toy-bad")
    script = "echo fetching the site\necho 'site: no such branch: mian' >&2\nexit 3\n"
    toys.hook("bad", "install.d/50-site", script)
    ended = toys.run("build", "toy-leaf", "toy-good")
    assert ended.code == 5, ended
    out, err = told(ended.out, toys), told(ended.err, toys)
    assert (
        "toy-bad build: FAILED in TIME: hook install.d/50-site of element bad failed\n"
        "    fetching the site\n"
        "    site: no such branch: mian\n"
        "    The whole output is in STORE/runs/RUN/toy-bad.build.log.\n"
    ) in out
    assert "toy-leaf: skipped: parent toy-bad failed at build\n" in out
    assert err == (
        "recast: error: toy-bad failed at build; skipped for it: toy-leaf\n"
        "hint: `recast log RUN toy-bad build` shows all of it. Once that is mended, "
        "`recast build` again continues: finished work is kept.\n"
    )
    assert re.search(r"^toy-good +VERSION +[0-9a-f]{12} +done$", out, re.MULTILINE)
    assert toys.left() == []
    assert toys.scratch() == []
    log = toys.run("log", "last", "toy-bad", "build")
    assert "site: no such branch: mian" in log.out
    toys.hook("bad", "install.d/50-site", "true\n")
    again = toys.run("build", "toy-leaf", "toy-good")
    assert again.code == 0, again
    assert "toy-good: unchanged" in again.out


@needs_root
def test_two_elements_with_the_same_hook_are_both_named(toys: ToyProject) -> None:
    toys.image("toy-bad", elements=["one", "two"])
    toys.hook("one", "install.d/50-site", "true\n")
    toys.hook("two", "install.d/50-site", "true\n")
    ended = toys.run("build", "toy-bad")
    assert ended.code == 5, ended
    assert "the elements one and two both have a hook install.d/50-site\n" in ended.out
    assert "rename one of them" in ended.out


def test_a_hook_that_would_be_passed_over_is_refused_by_the_plan(toys: ToyProject) -> None:
    toys.image("toy-base", elements=["site"])
    toys.file("site", "install.d/50-site", "#!/bin/sh\n")
    toys.file("site", "install.d/README.md", "No hook.\n")
    toys.file("site", "environment.d/10-site", "export DIB_SITE=1\n")
    ended = toys.run("plan")
    assert ended.code == 3, ended
    assert ended.err == (
        "recast: error: images/elements/site/install.d/50-site is not executable: "
        "diskimage-builder would pass over it\n"
        "hint: Run `chmod +x images/elements/site/install.d/50-site`, and commit that.\n"
    )
    toys.hook("site", "install.d/50-site", "true\n")
    assert toys.run("plan").code == 0


@pytest.fixture
def unreachable(toys: ToyProject) -> ToyProject:
    """A project of a real Debian image, whose mirror does not answer."""
    for stand_in in ("package-installs", "recast-base", "recast-parent", "toy-minimal"):
        shutil.rmtree(toys.elements / stand_in)
    toys.elements.rmdir()
    toys.image("edge", distribution="debian", release="trixie")
    settings = f"mirror:\n  debian: {MIRROR}\n  debian-security: {MIRROR}-security\n"
    (toys.folder / "images" / "settings.yaml").write_text(settings)
    toys.commit()
    return toys


@needs_root
def test_a_build_from_an_unreachable_mirror_names_it_and_the_setting(
    unreachable: ToyProject,
) -> None:
    began = time.monotonic()
    ended = unreachable.run("build", "edge")
    assert time.monotonic() - began < 60
    assert ended.code == 7, ended
    out = told(ended.out, unreachable)
    assert (
        f"edge build: FAILED in TIME: {MIRROR} could not be reached: "
        "hook root.d/08-debootstrap of element debootstrap failed\n"
        f"    E: Failed to fetch {MIRROR}/dists/trixie/InRelease  Could not connect to "
        "127.0.0.1:9"
    ) in out
    assert (
        "    Check the network, or name another mirror under `mirror:` in images/settings.yaml; "
        "then run it again.\n"
    ) in out
    assert "mmdebstrap failed to run" not in out, "nobody has to read its way out"
    assert unreachable.left() == []


@pytest.mark.skipif(
    not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists(), reason="no Debian keys"
)
def test_asking_an_unreachable_mirror_for_news_names_it_and_the_setting(
    unreachable: ToyProject,
) -> None:
    ended = unreachable.run("plan", "--refresh")
    assert ended.code == 7, ended
    assert ended.err.startswith(
        "recast: error: the archive of debian trixie cannot be read: "
        f"Failed to fetch {MIRROR}/dists/trixie/InRelease"
    )
    assert "hint: Check the network, or use another mirror: `mirror:` in images/" in ended.err


@needs_root
def test_a_missing_program_is_named_with_its_package_before_anything_starts(
    toys: ToyProject, tmp_path: Path
) -> None:
    toys.image("toy-base")
    toys.commit()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PACKAGES:
        found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if found and name not in ("mmdebstrap", "unshare", "qemu-img"):
            (programs / name).symlink_to(found)
    ended = toys.run("build", "toy-base", env={"PATH": str(programs)})
    if "/usr/sbin/unshare" in ended.out:
        pytest.skip("this system has its programs where they cannot be hidden")
    assert ended.code == 4, ended
    assert ended.err == (
        "recast: error: this machine lacks mmdebstrap, unshare\n"
        "hint: Install with `apt-get install mmdebstrap util-linux`; `recast doctor` tells more.\n"
    )
    assert not (toys.artifacts / "runs").exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's are not."""
    made = Path(tempfile.mkdtemp(prefix="recast-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@needs_root
def test_a_build_without_root_says_so_and_what_works_without(
    open_folder: Path, toy_tar: Path
) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    reads = [*nobody, sys.executable, "-c", "import click, yaml, pipeline.cli.main"]
    if subprocess.run(reads, check=False, capture_output=True, cwd="/").returncode:
        pytest.skip("another user cannot use this Python environment")
    toys = ToyProject(open_folder, toy_tar)
    toys.image("toy-base")
    toys.commit()
    for path in (open_folder, *open_folder.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    ended = toys.run("build", "toy-base", prefix=nobody, env={"HOME": str(open_folder)})
    toys.close()
    assert ended.code == 4, ended
    assert ended.err == (
        "recast: error: building an image needs root (it makes mounts and enters the image's "
        "tree)\n"
        "hint: Run it with `sudo`. `recast plan` needs no root, nor does `recast test`.\n"
    )


@needs_root
def test_a_store_below_a_path_with_spaces_is_refused_with_the_way_out(toys: ToyProject) -> None:
    toys.image("toy-base")
    store = toys.artifacts.with_name("my store")
    ended = toys.run("build", "toy-base", env={"RECAST_ARTIFACTS": str(store)})
    assert ended.code == 4, ended
    assert "diskimage-builder cannot work below a path with spaces" in ended.out
    assert str(store) in ended.out
    assert "Point RECAST_ARTIFACTS at a folder without spaces in its path." in ended.out


@needs_root
@needs_tools
def test_an_edit_during_a_build_does_not_reach_it_and_is_planned_next(
    toys: ToyProject, tmp_path: Path
) -> None:
    toys.image("toy-base", elements=["slow"])
    go = tmp_path / "go"
    toys.hook("slow", "root.d/50-slow", f"echo waits\nuntil [ -e {go} ]; do sleep 0.1; done\n")
    toys.hook("slow", "install.d/50-mark", "echo before > /etc/mark\n")
    first = toys.start("build", "toy-base")
    logs = toys.artifacts / "runs"
    wait_for(lambda: any("| waits" in log.read_text() for log in logs.glob("*/*.build.log")))
    toys.hook("slow", "install.d/50-mark", "echo after > /etc/mark\n")
    go.touch()
    ended = toys.finish(first)
    assert ended.code == 0, ended
    assert mark(toys) == "before"
    planned = toys.run("plan")
    assert "element slow changed" in planned.out


@needs_root
@needs_tools
def test_an_edit_between_plan_and_build_is_refused_not_built_under_the_wrong_key(
    toys: ToyProject, tmp_path: Path
) -> None:
    toys.image("toy-base", elements=["slow"])
    toys.image("toy-leaf", parent="toy-base", elements=["site"])
    go = tmp_path / "go"
    toys.hook("slow", "root.d/50-slow", f"echo waits\nuntil [ -e {go} ]; do sleep 0.1; done\n")
    toys.hook("site", "install.d/50-mark", "echo before > /etc/mark\n")
    first = toys.start("build", "toy-leaf")
    logs = toys.artifacts / "runs"
    wait_for(lambda: any("| waits" in log.read_text() for log in logs.glob("*/*.build.log")))
    toys.hook("site", "install.d/50-mark", "echo after > /etc/mark\n")
    go.touch()
    ended = toys.finish(first)
    assert ended.code == 5, ended
    assert "the element site has changed since this run was planned" in ended.out
    assert "Run it again: it is then planned, and built, as it is now." in ended.out
    assert toys.run("build", "toy-leaf").code == 0


def mark(toys: ToyProject) -> str:
    """What ``/etc/mark`` says in the one tree of the store."""
    (tar,) = (toys.artifacts / "cache" / "trees").glob("*/tree.tar")
    argv = ["tar", "-xOf", str(tar), "./etc/mark"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
