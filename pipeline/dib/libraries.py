"""The agent's libraries: fetched once for each lock, Python and architecture, with hashes checked.

pip fetches them, from the index that this machine's own configuration names; nothing of them runs
here. They are unpacked without what a device never runs.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from pipeline import digest
from pipeline.command import CommandError, run
from pipeline.errors import BuildError, HostError, NetworkError, TrustError
from pipeline.files import disk_full, explained, give_name, locked

if TYPE_CHECKING:
    from pipeline.command import Stop

_FORMAT = 1  # raised when wheels are unpacked in another way: all are then fetched again
_MACHINES = {"amd64": "x86_64"}
# glibc 2.36 is that of the oldest release that images are based on.
_GLIBC = range(36, 4, -1)

# What pip may see of our environment: how to reach an index. Nothing that changes what is fetched.
_PASSED = re.compile(
    r"PATH|HOME|LANG|LC_ALL|TMPDIR|XDG_\w+|NETRC|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|(?i:(http|https|no|all)_proxy)"
    r"|PIP_(INDEX_URL|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|CERT|CLIENT_CERT|PROXY|TRUSTED_HOST"
    r"|DEFAULT_TIMEOUT|TIMEOUT|RETRIES|CONFIG_FILE|CACHE_DIR|NO_CACHE_DIR|KEYRING_PROVIDER)"
)

# Folders and files that a device never runs. An extension module of zstandard for PyPy is half of
# all that there would be.
_LEFT_OUT = re.compile(
    r"(.*/)?(tests?|test_data|__pycache__)/.*"
    r"|.*\.(pyi|pyc|c|h|pxd)"
    r"|(.*/)?py\.typed"
    r"|zstandard/(_cffi\..*|backend_cffi\.py)"
    r"|[^/]+\.dist-info/(RECORD|WHEEL|INSTALLER|REQUESTED|entry_points\.txt|top_level\.txt)"
)


def fetched(lock: bytes, python: str, arch: str, *, cache: Path, log: IO[str], stop: Stop) -> Path:
    """The folder that holds the libraries; they are fetched if they are not there.

    Args:
        lock: what to fetch, as pip's requirements with hashes.
        python: of which version, such as ``3.13``.
        arch: for which architecture, in Debian's words.
        cache: where they are kept; made if missing. Safe for several processes at once.
        log: gets what pip prints.
        stop: ends pip when set.

    Raises:
        NetworkError: they cannot be fetched.
        TrustError: something else than the lock names was offered.
        HostError: pip is missing.
        DiskFullError: no space is left.
        Interrupted: *stop* was set.
    """
    key = digest.of_data([_FORMAT, digest.of_bytes(lock), python, arch])
    kept = cache / key
    with explained(cache), locked(cache / f".{key}.lock", what="the agent's libraries"):
        if _is_whole(kept):
            return kept / "tree"
        shutil.rmtree(kept, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".new.") as folder:
            scratch = Path(folder)
            _download(lock, python, arch, scratch, log, stop)
            made = scratch / "made"
            for wheel in sorted((scratch / "wheels").glob("*.whl")):
                _unpack(wheel, made / "tree")
            (made / "digest").write_text(digest.of_folder(made / "tree"))
            give_name(made, kept)
    return kept / "tree"


def _is_whole(kept: Path) -> bool:
    """A machine that lost its power may have kept the names and lost what they stood for."""
    try:
        return (kept / "digest").read_text() == digest.of_folder(kept / "tree")
    except OSError:
        return False


def _download(lock: bytes, python: str, arch: str, scratch: Path, log: IO[str], stop: Stop) -> None:
    requirements, wheels = scratch / "requirements.lock", scratch / "wheels"
    requirements.write_bytes(lock)
    wheels.mkdir()
    machine = _MACHINES[arch]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    platforms += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"linux_{machine}"]
    command = [sys.executable, "-P", "-m", "pip", "download", "--dest", str(wheels)]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--implementation", "cp", "--python-version", python]
    command += ["--abi", f"cp{python.replace('.', '')}"]
    command += [word for each in platforms for word in ("--platform", each)]
    environment = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    try:
        run([*command, "-r", str(requirements)], env=environment, cwd=scratch, log=log, stop=stop)
    except CommandError as error:
        raise _explain(error, python, scratch) from error


def _explain(error: CommandError, python: str, scratch: Path) -> Exception:
    text = "\n".join(error.tail)
    if "No module named pip" in text:
        return HostError(
            "pip is not installed beside this Recast: it fetches the agent's libraries",
            hint="Install the extra that builds images, pip being a part of it: `recast[build]`.",
        )
    if "No space left on device" in text:
        return disk_full(scratch.parent)
    found = re.search(r"^ *(\S+)(?: \(from .*\))? from \S+", text, re.MULTILINE)
    if "DO NOT MATCH THE HASHES" in text:
        what = found[1] if found else "a library"
        return TrustError(
            f"{what}, which the agent needs, is not what its lock names:\n{_said(error)}",
            hint="The index (pip's configuration: PIP_INDEX_URL, pip.conf) offers something else "
            "under that name and version. Use another; nothing of it was kept.",
        )
    missing = re.search(r"No matching distribution found for (\S+)", text)
    what = missing[1] if missing else "the agent's libraries"
    return NetworkError(
        f"{what} cannot be fetched for Python {python}:\n{_said(error)}",
        hint="Check the network, and which index pip is told to use (PIP_INDEX_URL, pip.conf of "
        "the user who builds); then run it again.",
    )


def _said(error: CommandError) -> str:
    """The last things that pip said; of its repeated warnings the last one, which says why."""
    lines = [line for line in error.tail if line.strip()]
    warnings = [line for line in lines if line.startswith("WARNING")]
    others = [line for line in lines if not line.startswith("WARNING")]
    return "\n".join(f"    {line}" for line in [*warnings[-1:], *others[-6:]])


def _unpack(wheel: Path, target: Path) -> None:
    """Unpack what a device runs, with one mode for all files, whatever our umask."""
    import zipfile  # not needed by the many who only plan

    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            parts = PurePosixPath(entry.filename).parts
            if ".." in parts or entry.filename.startswith("/"):
                raise BuildError(f"{wheel.name} holds a file that lies outside: {entry.filename}")
            if parts[0].endswith(".data"):  # see the wheel format: parts that lie elsewhere
                if parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            name = "/".join(parts)
            if entry.is_dir() or _LEFT_OUT.fullmatch(name):
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(entry))
            path.chmod(0o644)
