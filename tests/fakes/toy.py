"""A project whose images diskimage-builder really builds, in seconds and without a network.

Its distribution ``toy`` is a handful of this machine's own programs; a stand-in for the element
``recast-base`` brings a kernel, an initrd and a boot loader of a few bytes. All else is the real
thing: the command line, the engine, diskimage-builder, its hooks and their mounts.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.fakes import newc

ROOT = Path(__file__).resolve().parent.parent.parent

# What dib-run-parts and the tests' hooks need inside the tree, and what an assembly takes from it.
_PROGRAMS = (
    "bash sh awk basename cat chmod cp cut date dd dirname echo env find grep head install ln ls "
    "mkdir mktemp mv rm sed seq sleep sort tail touch true xargs"
).split()
_TOOLS = ("mkfs.erofs", "veritysetup")

_STATUS = """\
Package: toy
Status: install ok installed
Architecture: all
Version: 1.0
Maintainer: nobody
Description: a package
"""

_IMAGE = """\
name: {name}
{base}
elements: [{elements}]
budget: {{root: {root}, uki: 8MiB, esp: 64MiB}}
{more}"""


def can_assemble() -> bool:
    """Does this machine have what an assembly takes from a tree?"""
    return all(_which(tool) for tool in _TOOLS)


def make_toy_tree(folder: Path) -> Path:
    """Write the tree of the toy distribution to ``toy.tar`` in *folder*, and return its path."""
    tree = folder / "toy-tree"
    places = "usr/bin usr/sbin usr/lib usr/lib64 etc dev proc sys run tmp root var/log var/tmp boot"
    for place in places.split():
        (tree / place).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    for name in _PROGRAMS:
        _copy_program(name, tree)
    for name in _TOOLS:
        if _which(name):
            _copy_program(name, tree)
    (tree / "usr/lib/os-release").write_text("ID=toy\nVERSION_ID=1\nPRETTY_NAME=Toy\n")
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/status").write_text(_STATUS)
    add_boot_files(tree)
    tar = folder / "toy.tar"
    subprocess.run(["tar", "-C", str(tree), "--owner=0", "--group=0", "-cf", str(tar), "."],
                   check=True)  # fmt: skip
    shutil.rmtree(tree)
    return tar


def add_boot_files(tree: Path) -> None:
    """Put a kernel, an initrd, a stub and a boot loader into *tree*; none of them boots."""
    loader = tree / "usr/lib/systemd/boot/efi"
    loader.mkdir(parents=True)
    (loader / "linuxx64.efi.stub").write_bytes(efi_program())
    (loader / "systemd-bootx64.efi").write_bytes(efi_program())
    (tree / "boot/recast").mkdir(parents=True, exist_ok=True)
    (tree / "boot/recast/initrd").write_bytes(newc.archive(newc.member("init")))
    (tree / "boot/vmlinuz-6.0").write_bytes(b"kernel " * 100)


def efi_program() -> bytes:
    """The smallest PE32+ file that sections can be added to."""
    image = bytearray(4096 + 512)
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, 0x80)
    image[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", image, 0x84, 0x8664, 1, 0, 0, 0, 240, 0x22E)
    optional = 0x84 + 20
    struct.pack_into("<H", image, optional, 0x20B)
    struct.pack_into("<II", image, optional + 32, 4096, 512)
    struct.pack_into("<II", image, optional + 56, 8192, 4096)
    struct.pack_into("<I", image, optional + 108, 16)
    struct.pack_into("<8sIIIIIIHHI", image, optional + 240,
                     b".text", 512, 4096, 512, 4096, 0, 0, 0, 0, 0x60000020)  # fmt: skip
    return bytes(image)


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _copy_program(name: str, tree: Path) -> None:
    source = _which(name)
    assert source is not None, f"this machine has no {name}"
    place = "usr/sbin" if name in _TOOLS else "usr/bin"
    shutil.copy(source, tree / place / name)
    printed = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", printed):
        target = tree / ("usr" + re.sub(r"^/usr", "", library))
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)


class ToyProject:
    """A git repository with toy images and elements, and the command line over it.

    Args:
        folder: where it is made.
        tar: see :func:`make_toy_tree`.
    """

    def __init__(self, folder: Path, tar: Path) -> None:
        self.folder = folder / "project"
        self.artifacts = folder / "store"
        self.elements = self.folder / "images" / "elements"
        self.started: list[subprocess.Popen[str]] = []
        ours = ROOT / "pipeline/elements/recast-base"
        self.hook("toy-minimal", "root.d/10-toy", f'tar -C "$TARGET_ROOT" -xf {tar}\n')
        self.file("toy-minimal", "element-provides", "operating-system\n")
        self.file("toy-minimal", "element-deps", "manifests\n")
        self.file("package-installs", "README.md", "Nothing is installed: toys have no packages.\n")
        no_disk = (ours / "block-device.d/10-recast-no-disk").read_text()
        self.hook("recast-base", "block-device.d/10-recast-no-disk", no_disk)
        self.file("recast-base", "package-installs.yaml", "{}\n")
        self.file("recast-base", "pkg-map", "{}\n")
        self.file("recast-base", "element-deps", "package-installs\n")
        self.file("recast-parent", "element-provides", "operating-system\n")
        self.file("recast-parent", "element-deps", "manifests\n")
        unpack = (ROOT / "pipeline/elements/recast-parent/root.d/10-recast-parent").read_text()
        self.hook("recast-parent", "root.d/10-recast-parent", unpack)

    def file(self, element: str, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file of an element."""
        path = self.elements / element / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def hook(self, element: str, name: str, script: str) -> Path:
        """Write a hook of an element, such as ``install.d/50-site``."""
        if not script.startswith("#!"):
            script = "#!/bin/bash\nset -eu\n" + script
        return self.file(element, name, script, 0o755)

    def image(
        self,
        name: str,
        *,
        elements: Sequence[str] = (),
        parent: str = "",
        distribution: str = "toy",
        release: str = "one",
        root: str = "64MiB",
        more: str = "",
    ) -> None:
        """Write an image definition."""
        folder = self.folder / "images" / name
        (folder / "tests").mkdir(parents=True, exist_ok=True)
        (folder / "tests" / "test_toy.py").write_text("def test_toy(): pass\n")
        base = f"from: {parent}" if parent else f"distribution: {distribution}\nrelease: {release}"
        text = _IMAGE.format(
            name=name, base=base, elements=", ".join(elements), root=root, more=more
        )
        (folder / "image.yaml").write_text(text)

    def commit(self) -> None:
        """Commit everything, as a version needs."""
        who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
        if not (self.folder / ".git").exists():
            subprocess.run(["git", "init", "-q", str(self.folder)], check=True)
        git = ["git", "-C", str(self.folder), *who]
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "toys"], check=True)

    def start(
        self, *args: str, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start ``recast ARGS``, as a person would in this project."""
        if not (self.folder / ".git").exists():
            self.commit()
        dropped = ("COLUMNS", "GITHUB_STEP_SUMMARY", "RECAST_PROJECT")
        clean = {name: value for name, value in os.environ.items() if name not in dropped}
        clean |= {
            "PYTHONPATH": str(ROOT),
            "RECAST_ARTIFACTS": str(self.artifacts),
            "PYTHONUTF8": "1",
            **(env or {}),
        }
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "pipeline.cli.main", *args],
            cwd=self.folder,
            env=clean,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(
        self, *args: str, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> Ended:
        """Run ``recast ARGS`` to its end."""
        return self.finish(self.start(*args, env=env, prefix=prefix))

    def finish(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for what :meth:`start` started."""
        out, err = process.communicate(timeout=300)
        return Ended(process.returncode, out, err)

    def close(self) -> None:
        """End what still runs."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def half_named(self) -> list[str]:
        """Files and folders of the store that have no final name."""
        found: list[str] = []
        for part in ("cache/trees", "images"):
            hidden = (self.artifacts / part).rglob(".*")
            found += [str(p) for p in hidden if p.name != ".records.lock"]
            found += [str(p) for p in (self.artifacts / part).rglob("*.new")]
        return found

    def left(self) -> list[str]:
        """Every program, mount, loop device and half-named file that outlived its run."""
        return [*self.programs(), *self.mounts(), *self.loops(), *self.half_named()]

    def programs(self) -> list[str]:
        """Programs whose words, root or environment name the store."""
        found = []
        mine = {str(os.getpid()), *(str(p.pid) for p in self.started)}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or entry.name in mine:
                continue
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                about = words + (entry / "environ").read_bytes().decode(errors="replace")
                about += os.readlink(entry / "root")
            except OSError:
                continue
            if state != "Z" and str(self.artifacts) in about:
                found.append(f"process {entry.name}: {words}")
        return found

    def mounts(self) -> list[str]:
        """Mounts on this machine below the store."""
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line for line in lines if f"{self.artifacts}/" in line]

    def loops(self) -> list[str]:
        """Loop devices over files of the store."""
        found = []
        for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                text = entry.read_text()
            except OSError:
                continue
            if str(self.artifacts) in text:
                found.append(text)
        return found

    def scratch(self) -> list[Path]:
        """Scratch folders of runs."""
        return [path for path in (self.artifacts / "work").glob("*") if path.is_dir()]


class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        out, err: what it printed.
    """

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
