"""If these fail, an image gets other libraries than are locked, or a builder is told nonsense."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import socket
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import command
from pipeline.command import Stop
from pipeline.dib import libraries
from pipeline.errors import BuildError, HostError, Interrupted, NetworkError, TrustError

LOCK = Path(__file__).parents[2] / "pipeline/agent/requirements.lock"

ONE = {
    "one/__init__.py": "",
    "one/data.pem": "x",
    "one/__init__.pyi": "",
    "one/py.typed": "",
    "one/tests/__init__.py": "",
    "one/core.c": "",
    "one-1.data/scripts/one": "",
    "one-1.data/purelib/one/more.py": "",
    "one-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: one\nVersion: 1\n",
    "one-1.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
    "one-1.dist-info/RECORD": "",
    "one-1.dist-info/licenses/LICENSE": "",
}
KEPT = [
    "one-1.dist-info/METADATA",
    "one-1.dist-info/licenses/LICENSE",
    "one/__init__.py",
    "one/data.pem",
    "one/more.py",
]


class Index:
    """A folder of wheels that pip is told to take everything from."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.cache = folder / "wheels", folder / "cache"
        self.wheels.mkdir()
        self.log = io.StringIO()

    def wheel(self, files: Mapping[str, str] = ONE, tag: str = "py3-none-any") -> str:
        """Make a wheel of ``one``, and return its line of a lock."""
        path = self.wheels / f"one-1-{tag}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return f"one==1 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"

    def fetch(self, lock: str, python: str = "3.13", stop: Stop | None = None) -> Path:
        return libraries.fetched(
            lock.encode(), python, "amd64", cache=self.cache, log=self.log, stop=stop or Stop()
        )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    made = Index(tmp_path)
    # Nothing of this machine's own configuration.
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.wheels))
    return made


def names(tree: Path) -> list[str]:
    return sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file())


def no_pip(*_args: object, **_options: object) -> command.Result:
    raise AssertionError("pip was started")


def test_what_a_device_runs_is_kept_and_found_again(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = index.wheel()
    tree = index.fetch(lock)
    assert names(tree) == KEPT
    assert {path.stat().st_mode & 0o777 for path in tree.rglob("*.*") if path.is_file()} == {0o644}
    monkeypatch.setattr(libraries, "run", no_pip)
    assert index.fetch(lock) == tree
    for other, python in ((lock + "# another\n", "3.13"), (lock, "3.11")):
        with pytest.raises(AssertionError, match="pip was started"):
            index.fetch(other, python)


def test_settings_that_would_change_what_is_fetched_do_not_reach_pip(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PIP_NO_BINARY": ":all:",
        "PIP_PLATFORM": "win_amd64",
        "PIP_PYTHON_VERSION": "2.7",
        "PIP_DEST": "/nowhere",
        "PYTHONPATH": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    assert names(index.fetch(index.wheel())) == KEPT


def test_libraries_that_were_damaged_are_fetched_again(index: Index) -> None:
    """A power cut may leave names whose contents are gone."""
    lock = index.wheel()
    tree = index.fetch(lock)
    (tree / "one/more.py").write_text("damaged")
    assert names(index.fetch(lock)) == KEPT
    assert (tree / "one/more.py").read_text() == ""
    shutil.rmtree(tree / "one")
    assert names(index.fetch(lock)) == KEPT


def test_two_builds_at_once_fetch_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def counted(*args: object, **options: object) -> command.Result:
        calls.append(args)
        return command.run(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(libraries, "run", counted)
    lock = index.wheel()
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: index.fetch(lock), range(4)))
    assert len(found) == len(calls) == 1


def half_made(index: Index) -> list[str]:
    return [path.name for path in index.cache.iterdir() if not path.name.endswith(".lock")]


def test_another_wheel_under_the_same_name_is_refused(index: Index) -> None:
    lock = index.wheel()
    index.wheel({**ONE, "one/evil.py": ""})
    with pytest.raises(TrustError, match=r"^one==1, which the agent needs, is not") as told:
        index.fetch(lock)
    assert "PIP_INDEX_URL" in told.value.hint
    assert half_made(index) == []


def test_a_wheel_for_another_python_does_not_do(index: Index) -> None:
    lock = index.wheel(tag="cp311-cp311-manylinux_2_28_x86_64")
    assert names(index.fetch(lock, "3.11")) == KEPT
    with pytest.raises(NetworkError, match=r"^one==1 cannot be fetched for Python 3\.13:"):
        index.fetch(lock, "3.13")


def test_without_an_index_it_says_what_it_wanted_and_where_to_look(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
        monkeypatch.setenv("PIP_RETRIES", "1")
        with pytest.raises(NetworkError, match="one==1 cannot be fetched for") as told:
            index.fetch("one==1 --hash=sha256:" + "0" * 64)
    assert "No matching distribution found for one==1" in told.value.message
    assert "Connection refused" in told.value.message, "and why"
    assert "Check the network" in told.value.hint
    assert half_made(index) == []


def test_a_wheel_that_writes_elsewhere_is_refused(index: Index, tmp_path: Path) -> None:
    lock = index.wheel({**ONE, "../../../../escaped": ""})
    with pytest.raises(BuildError, match="lies outside"):
        index.fetch(lock)
    assert half_made(index) == []


def test_a_host_without_pip_is_told_what_to_install(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(HostError, match="pip is not installed") as told:
        index.fetch(index.wheel())
    assert "recast[build]" in told.value.hint


def test_a_stop_ends_it_and_leaves_nothing(index: Index) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        index.fetch(index.wheel(), stop=stop)
    assert half_made(index) == []


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_locked_libraries_are_for_the_images_python(python: str, tmp_path: Path) -> None:
    """From the index that this machine uses."""
    tree = libraries.fetched(
        LOCK.read_bytes(), python, "amd64", cache=tmp_path, log=io.StringIO(), stop=Stop()
    )
    wanted = re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert sorted(path.name for path in tree.glob("*.dist-info")) == sorted(
        f"{name.replace('-', '_')}-{version}.dist-info" for name, version in wanted
    )
    tag = f"cpython-{python.replace('.', '')}-x86_64-linux-gnu.so"
    modules = list(tree.rglob("*.so"))
    assert {path.name.partition(".")[0] for path in modules} >= {"_rust", "_pydantic_core"}
    for path in modules:
        assert path.name.partition(".")[2] in (tag, "abi3.so"), path
        assert path.read_bytes()[18:20] == b"\x3e\x00", f"{path} is not for x86-64"
