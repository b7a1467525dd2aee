"""A user's side of Recast: a project of its own, a store, and the installed command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import command
from pipeline.engine.records import Records
from pipeline.models.release import Release
from pipeline.releases import Releases, Stored

ROOT = Path(__file__).parents[2]
OWN_IMAGES = Path(__file__).parent / "images"
DATE = "2026-03-01T12:00:00Z"
"""Of every commit: the same content is the same commit, whenever and wherever it is made."""

IMAGES = ("bookworm", "edge-base", "edge-web")
"""Of the project, sorted by name."""

LIMIT_SECONDS = 3000.0
_UNSET = ("RECAST_", "PYTEST_", "PYTHON", "GIT_", "DIB_", "GITHUB_")
_IGNORED = shutil.ignore_patterns("__pycache__", ".pytest_cache")


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    @property
    def events(self) -> list[dict[str, Any]]:
        """What ``--json`` printed, line by line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def __str__(self) -> str:
        return f"recast {' '.join(self.argv)}: {self.code}\n{self.out}\n{self.err}"


@dataclass(frozen=True)
class Bench:
    """A project, a store, and the ``recast`` that works on them, with *settings* for it."""

    recast: Path
    project: Path
    store: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def run(self, *words: str, code: int | None = 0) -> Ended:
        """Run the command to its end; *code* is the one that it must end with, if any."""
        begin = time.monotonic()
        with self.start(*words) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_SECONDS)
            except BaseException:
                process.terminate()  # and it tidies up
                raise
        ended = Ended(words, process.returncode, out, err, time.monotonic() - begin)
        assert code is None or ended.code == code, str(ended)
        return ended

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start the command, as somebody whose shell knows nothing of this repository."""
        env = {name: text for name, text in os.environ.items() if not name.startswith(_UNSET)}
        env |= {"RECAST_ARTIFACTS": str(self.store), "PYTHONDONTWRITEBYTECODE": "1"}
        env |= self.settings
        return subprocess.Popen(
            [self.recast, *words],
            cwd=self.project,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, *words: str) -> Any:
        """What the command answers with ``--json``."""
        return json.loads(self.run(*words, "--json").out)

    def commit(self, message: str, date: str = DATE) -> str:
        """Commit everything; return the commit's hash."""
        git(self.project, "add", "--all")
        git(self.project, "commit", "--quiet", "--message", message, date=date)
        return git(self.project, "rev-parse", "HEAD").strip()

    def newest(self, image: str) -> Stored:
        """The release that the image's last build came to."""
        record = Records(self.store).latest(image)
        assert record is not None, f"{image} was never built"
        found = Releases(self.store).find(image, record.version)
        assert found is not None, f"the release {record.version} of {image} is gone"
        return found

    def release(self, image: str) -> Release:
        """The manifest of :meth:`newest`."""
        return self.newest(image).release

    def part(self, image: str, role: str) -> Path:
        """A file of :meth:`newest`."""
        stored = self.newest(image)
        return stored.folder / stored.release.parts[role].file

    def log(self, run: str, image: str, stage: str) -> str:
        """The log of one stage of one run."""
        return (self.store / "runs" / run / f"{image}.{stage}.log").read_text()

    def copy(self, folder: Path) -> Bench:
        """The same project and store, to change: files are shared until one is replaced."""
        shutil.copytree(self.project, folder / "project", symlinks=True)
        shutil.copytree(
            self.store, folder / "store", symlinks=True, ignore=self._own, copy_function=os.link
        )
        return Bench(self.recast, folder / "project", folder / "store")

    def _own(self, folder: str, names: Sequence[str]) -> set[str]:
        """What a copy must not share: runs, locks, and what is being written just now."""
        if Path(folder) == self.store:
            return {"runs", "work"}
        if Path(folder) == self.store / "cache":
            return {"locks"}
        if Path(folder).is_relative_to(self.store / "cache" / "agent"):
            return {name for name in names if name.endswith(".lock")}
        return {name for name in names if name.startswith(".")}

    def append(self, path: str, text: str) -> None:
        """Add *text* at the end of a file in the project."""
        with (self.project / path).open("a") as file:
            file.write(text)

    def replace(self, path: str, old: str, new: str) -> None:
        """Change the one place in a file of the project that says *old*."""
        file = self.project / path
        text = file.read_text()
        assert text.count(old) == 1, f"{path} says {old!r} {text.count(old)} times"
        file.write_text(text.replace(old, new))


def git(folder: Path, *words: str, date: str = DATE) -> str:
    """Run git as nobody in particular, at *date*."""
    values = {"NAME": "E2E", "EMAIL": "e2e@invalid", "DATE": date}
    who = {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in values.items()}
    env = {**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return command.run(["git", *words], cwd=folder, env=env, separate=True).stdout


def make_project(folder: Path) -> Path:
    """A repository with nothing but ``images/``: this one's, and edge-base on Debian 12."""
    images = folder / "images"
    shutil.copytree(ROOT / "images", images, ignore=_IGNORED)
    shutil.copytree(images / "edge-base", images / "bookworm")
    definition = images / "bookworm" / "image.yaml"
    text = definition.read_text()
    for old, new in (
        ("name: edge-base", "name: bookworm"),
        ("release: trixie", "release: bookworm"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    definition.write_text(text)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    return folder


def add_own_images(project: Path) -> None:
    """Put the images and elements of this tier beside the project's."""
    shutil.copytree(OWN_IMAGES, project / "images", ignore=_IGNORED, dirs_exist_ok=True)


def install_wheel(folder: Path) -> Path:
    """Build the wheel, and install it as a release engineer does; return its ``recast``."""
    build = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    command.run([sys.executable, *build], cwd=ROOT, timeout=120)
    (wheel,) = folder.glob("*.whl")
    uv = [sys.executable, "-m", "uv"]
    command.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")])
    # What it depends on comes in the versions, and with the digests, of the lock file.
    options = ["--quiet", "--compile-bytecode", "--constraint", str(ROOT / "requirements.lock")]
    python = folder / "venv" / "bin" / "python"
    what = f"recast[build] @ {wheel.as_uri()}"
    command.run([*uv, "pip", "install", *options, "--python", str(python), what], timeout=600)
    return folder / "venv" / "bin" / "recast"


def prune(store: Path) -> None:
    """Keep each image's newest release and tree: those before are of older sources."""
    records = Records(store)
    trees = set()
    for folder in (store / "images").glob("*"):
        latest = records.latest(folder.name)
        kept = "" if latest is None else latest.version
        trees |= {record.tree for record in records.of(folder.name)[:1]}
        for release in folder.iterdir():
            if release.is_dir() and release.name != kept:
                shutil.rmtree(release)
    for tree in (store / "cache" / "trees").glob("*"):
        if tree.name not in trees:
            shutil.rmtree(tree)


def left_behind(folder: Path) -> list[str]:
    """Processes, mounts and loop devices that have to do with *folder*."""
    name = str(folder)
    found = [
        f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if name in line
    ]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if name in backing.read_text():
                found.append(f"{backing.parts[3]} of {backing.read_text().strip()}")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                words = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if (
                    name in words
                    or f"RECAST_WORK={name}".encode() in (entry / "environ").read_bytes()
                ):
                    found.append(f"process {entry.name} {words}")
    return found


def settled(folder: Path, seconds: float = 10.0) -> list[str]:
    """What is left behind there once the kernel has had time to bury the dead."""
    end = time.monotonic() + seconds
    while (found := left_behind(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@contextmanager
def unfinished(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A command that is going to be ended; whatever happens it is gone after the block."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def digests_of(paths: Sequence[str]) -> dict[str, str]:
    """SHA-256 of files, as ``sha256sum`` sees them, not by our own code; two at a time."""

    def of(path: str) -> str:
        return command.run(["sha256sum", path]).stdout[:64]

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(paths, pool.map(of, paths), strict=True))
