"""If these fail, a full disk is found out late or told as another fault, or a limit is not kept."""

from __future__ import annotations

import io
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import command
from pipeline.dib import create
from pipeline.dib.create import TreeRequest, create_tree
from pipeline.dib.elements import elements_path, expand
from pipeline.disk import assemble
from pipeline.errors import BudgetError, BuildError, DiskFullError, HostError
from pipeline.models.image import ImageDefinition
from tests.fakes.toy import ToyProject
from tests.fakes.toys import needs_root, needs_tools, toy_tar, toys

__all__ = ["toy_tar", "toys"]
pytestmark = needs_root

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 30 MiB."""
    disk = (tmp_path / "disk").resolve()
    disk.mkdir()
    command.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(disk)])
    try:
        yield disk
    finally:
        command.run(["umount", str(disk)])


def test_a_disk_that_is_too_small_is_refused_before_anything_is_built(
    toys: ToyProject, small_disk: Path
) -> None:
    toys.image("toy-base")
    ended = toys.run("build", "toy-base", env={"RECAST_ARTIFACTS": str(small_disk)})
    assert ended.code == 4, ended
    assert re.search(
        rf"6\.0 GiB are needed in {small_disk}, and (30\.0|29\.\d) MiB are free\n"
        r"    Free some space there, or point RECAST_ARTIFACTS at a larger disk\.\n",
        ended.out,
    ), ended.out
    assert "hooks" not in ended.out
    assert list((small_disk / "work").glob("[0-9]*")) == []


@pytest.fixture
def request_of(toys: ToyProject) -> Callable[..., TreeRequest]:
    """Makes the request for a toy image whose one element has *script* as its hook."""

    def make(script: str, **environment: str) -> TreeRequest:
        toys.hook("site", "install.d/50-site", script)
        definition = ImageDefinition(
            name="toy-base", distribution="toy", release="one", elements=["site"]
        )
        return TreeRequest(
            definition=definition,
            elements=expand(["toy-minimal", "recast-base", "site"], elements_path(toys.folder)),
            named=["toy-minimal", "recast-base", "site"],
            sources=[],
            environment=environment,
            parent_tree=None,
            files_from=toys.folder,
            sizes={"root": 64 * MIB, "verity": MIB, "esp": 64 * MIB},
        )

    return make


def build(request: TreeRequest, scratch: Path, log: io.StringIO | None = None) -> Path:
    scratch.mkdir(exist_ok=True)
    tar, _ = create_tree(
        request,
        scratch=scratch,
        package_cache=scratch / "packages",
        agent_cache=scratch / "agent",
        log=log or io.StringIO(),
        stop=command.Stop(),
    )
    return tar


def test_a_hook_that_fills_the_disk_is_told_as_a_full_disk(
    request_of: Callable[..., TreeRequest], small_disk: Path
) -> None:
    request = request_of("dd if=/dev/zero of=/big bs=1M count=40\n", DIB_NO_TMPFS="1")
    with pytest.raises(DiskFullError) as caught:
        build(request, small_disk / "scratch")
    assert "no space was left during the build: hook install.d/50-site of element site failed" in (
        caught.value.message
    )
    assert "No space left on device" in caught.value.message
    assert "Free space on the disk of `artifacts/`" in caught.value.hint
    assert str(small_disk) not in "".join(
        line for line in Path("/proc/self/mounts").read_text().splitlines(True)
        if f"{small_disk}/" in line
    )  # fmt: skip


def test_a_result_that_does_not_fit_is_told_as_a_full_disk(
    request_of: Callable[..., TreeRequest], small_disk: Path
) -> None:
    # The tree itself lies in memory; what fills the disk is the tar that is made of it.
    request = request_of("dd if=/dev/zero of=/big bs=1M count=40\n")
    log = io.StringIO()
    with pytest.raises(DiskFullError) as caught:
        build(request, small_disk / "scratch", log)
    assert caught.value.message.startswith("no space was left during the build: ")
    assert "tree.tar: " in log.getvalue()


def test_elements_that_do_not_fit_are_told_as_a_full_disk(
    request_of: Callable[..., TreeRequest], small_disk: Path
) -> None:
    request = request_of("true\n")
    (small_disk / "rest").write_bytes(b"x" * (30 * MIB - 8192))
    with pytest.raises(DiskFullError, match="no space is left on the disk that holds"):
        build(request, small_disk / "scratch")


def test_a_path_with_spaces_is_refused_before_anything_starts(
    request_of: Callable[..., TreeRequest], tmp_path: Path
) -> None:
    with pytest.raises(HostError, match="below a path with spaces") as caught:
        build(request_of("true\n"), tmp_path / "my scratch")
    assert "RECAST_ARTIFACTS" in caught.value.hint
    assert list((tmp_path / "my scratch").iterdir()) == []


def test_hooks_of_ours_run_even_from_a_wheel_that_lost_their_executable_bits(
    toys: ToyProject, tmp_path: Path
) -> None:
    for name in ("root.d/60-recast-bootstrapped", "environment.d/50-recast-base"):
        toys.file("recast-base", name, "#!/bin/bash\n")
    found = {name: toys.elements / name for name in ("recast-base", "toy-minimal")}
    create._copy_elements(found, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert os.access(copy / "recast-base/root.d/60-recast-bootstrapped", os.X_OK)
    assert not (copy / "recast-base/environment.d/50-recast-base").stat().st_mode & 0o111
    assert os.access(copy / "toy-minimal/root.d/10-toy", os.X_OK)


def rebuilt(tar: Path, folder: Path, change: str) -> Path:
    """The tree in *tar* after a shell command has changed it."""
    tree = folder / "changed"
    tree.mkdir()
    subprocess.run(["tar", "-C", str(tree), "-xf", str(tar)], check=True)
    subprocess.run(["sh", "-euc", change], cwd=tree, check=True)
    made = folder / "changed.tar"
    subprocess.run(["tar", "-C", str(tree), "-cf", str(made), "."], check=True)
    return made


def root_of(tar: Path, folder: Path, budget: int = 64 * MIB) -> assemble.RootParts:
    (folder / "work").mkdir()
    return assemble.make_root(
        tar, folder / "work", image="toy-base", budget=budget, log=io.StringIO()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rm boot/vmlinuz-*", "an image has one kernel in /boot, this tree has: none"),
        (
            "cp boot/vmlinuz-6.0 boot/vmlinuz-6.1",
            "an image has one kernel in /boot, this tree has: vmlinuz-6.0, vmlinuz-6.1",
        ),
        ("rm boot/recast/initrd", "the tree has no /boot/recast/initrd"),
        (
            "rm usr/lib/systemd/boot/efi/systemd-bootx64.efi",
            "the tree has no /usr/lib/systemd/boot/efi/systemd-bootx64.efi",
        ),
        (
            "rm usr/lib/systemd/boot/efi/linuxx64.efi.stub",
            "the tree has no /usr/lib/systemd/boot/efi/linuxx64.efi.stub",
        ),
        ("rm -f usr/bin/mkfs.erofs usr/sbin/mkfs.erofs", "the tree has no `mkfs.erofs`"),
    ],
)
def test_a_tree_that_cannot_boot_is_refused_with_what_it_lacks(
    toy_tar: Path, tmp_path: Path, change: str, message: str
) -> None:
    with pytest.raises(BuildError) as caught:
        root_of(rebuilt(toy_tar, tmp_path, change), tmp_path)
    assert caught.value.message == message
    assert caught.value.hint, "and what to do next"


@needs_tools
def test_a_root_over_its_budget_is_told_with_its_largest_folders(
    toy_tar: Path, tmp_path: Path
) -> None:
    change = "mkdir -p opt/huge; dd if=/dev/zero of=opt/huge/file bs=1M count=50 status=none"
    with pytest.raises(BudgetError) as caught:
        root_of(rebuilt(toy_tar, tmp_path, change), tmp_path, budget=24 * MIB)
    lines = caught.value.message.splitlines()
    assert re.fullmatch(
        r"the root of toy-base is 6\d\.\d MiB, and its budget is 24\.0 MiB; the largest folders:",
        lines[0],
    ), lines[0]
    assert re.fullmatch(r" +50\.0 MiB  opt/huge", lines[1])
    assert "raise `budget: root:` in images/toy-base/image.yaml" in caught.value.hint


@needs_tools
def test_a_budget_that_is_exceeded_ends_a_build_and_keeps_its_tree(toys: ToyProject) -> None:
    toys.image("toy-base", root="4MiB")
    ended = toys.run("build", "toy-base")
    assert ended.code == 5, ended
    assert "toy-base build: done" in ended.out
    assert re.search(r"the root of toy-base is \d+\.\d MiB, and its budget is 4\.0 MiB", ended.out)
    assert toys.left() == []
    assert list((toys.artifacts / "images").glob("toy-base/[0-9]*")) == []
