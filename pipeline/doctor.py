"""What this machine has and lacks for building and testing images.

Each check looks, changes nothing, and gives a :class:`Finding`. Whether KVM really runs a guest
is not tried here: the provider finds that out when it boots one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from pipeline import command
from pipeline.errors import HostError, RecastError
from pipeline.files import format_size, free_space

# A machine sold with 4 GiB shows a little less to Linux.
MIN_MEMORY = 3_700 << 20  # bytes
MIN_DISK = 10 << 30  # bytes: two images, their trees, and the package cache
MIN_PYTHON = (3, 11)

# Below the root folder; one of each group has to be there.
FIRMWARE = (
    "usr/share/OVMF/OVMF_CODE_4M.fd",
    "usr/share/OVMF/OVMF_CODE.fd",
)
KEYRINGS = (
    "usr/share/keyrings/debian-archive-keyring.gpg",
    "usr/share/keyrings/debian-archive-keyring.pgp",
)

# What `recast[build]` brings, by the name that it is imported by.
MODULES = ("click", "cyclonedx", "diskimage_builder", "pytest", "testinfra", "yaml")

_PROBE_SECONDS = 20.0


class State(Enum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"  # works without, but slower or not here
    MISSING = "missing"  # a build or a test would fail


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: what was looked for.
        state: how it ended.
        detail: what was found, or what to do.
        package: the Debian package that would bring what is missing; empty if none does.
    """

    check: str
    state: State
    detail: str
    package: str = ""


def _which(program: str) -> str | None:
    try:
        return command.find(program)
    except HostError:
        return None


def _works(argv: Sequence[str]) -> bool:
    try:
        command.run(argv, timeout=_PROBE_SECONDS)
    except (RecastError, OSError):
        return False
    return True


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class Host:
    """The machine, as far as the checks see it; tests put another in its place.

    Attributes:
        root: the folder that absolute paths are looked up below.
        which: the path of a program, or None.
        works: does a command end well?
        has_module: can Python import it?
        uid: the user's number.
        python: Python's version.
    """

    root: Path = Path("/")
    which: Callable[[str], str | None] = _which
    works: Callable[[Sequence[str]], bool] = _works
    has_module: Callable[[str], bool] = _has_module
    uid: int = field(default_factory=os.geteuid)
    python: tuple[int, int] = sys.version_info[:2]


def examine(host: Host, *, project: Path | None = None, artifacts: Path) -> list[Finding]:
    """Make all checks.

    Args:
        host: the machine.
        project: the folder that holds ``images/``; None if there is none here.
        artifacts: where results would be written; need not exist yet.
    """
    return [
        *check_programs(host),
        check_modules(host),
        check_python(host),
        check_firmware(host),
        check_keyring(host),
        check_rights(host),
        check_namespaces(host),
        check_memory(host),
        check_disk(artifacts),
        check_kvm(host),
        check_project(host, project),
    ]


def packages(findings: Sequence[Finding]) -> list[str]:
    """The Debian packages that would mend what is missing, sorted, each once."""
    return sorted({f.package for f in findings if f.state is State.MISSING and f.package})


def healthy(findings: Sequence[Finding]) -> bool:
    """Is everything there that a build and a test need?"""
    return all(finding.state is not State.MISSING for finding in findings)


def check_programs(host: Host) -> Iterator[Finding]:
    """Each program that is missing, and one line for those that are there."""
    missing = [program for program in command.PACKAGES if host.which(program) is None]
    for program in missing:
        package = command.PACKAGES[program]
        yield Finding(program, State.MISSING, f"the package {package} brings it", package)
    count = len(command.PACKAGES)
    if len(missing) < count:
        yield Finding("programs", State.OK, f"{count - len(missing)} of {count} are installed")


def check_modules(host: Host) -> Finding:
    """The Python packages of the extra ``build``."""
    missing = [name for name in MODULES if not host.has_module(name)]
    if missing:
        return Finding(
            "Python packages",
            State.MISSING,
            f"no {', '.join(missing)}: pip install 'recast[build]'",
        )
    return Finding("Python packages", State.OK, "recast[build] is complete")


def check_python(host: Host) -> Finding:
    """A Python that is new enough."""
    version = ".".join(map(str, host.python))
    if host.python < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return Finding("Python", State.MISSING, f"{version} is too old: {wanted} or newer")
    return Finding("Python", State.OK, version)


def _first(host: Host, paths: Sequence[str]) -> Path | None:
    return next((host.root / path for path in paths if (host.root / path).is_file()), None)


def check_firmware(host: Host) -> Finding:
    """UEFI firmware for virtual machines."""
    found = _first(host, FIRMWARE)
    if found is None:
        return Finding("UEFI firmware", State.MISSING, "the package ovmf brings it", "ovmf")
    return Finding("UEFI firmware", State.OK, str(found))


def check_keyring(host: Host) -> Finding:
    """The keys that Debian's archive is signed with."""
    found = _first(host, KEYRINGS)
    if found is None:
        package = "debian-archive-keyring"
        return Finding("archive keys", State.MISSING, f"the package {package} brings them", package)
    return Finding("archive keys", State.OK, str(found))


def check_rights(host: Host) -> Finding:
    """Root, or a sudo that asks for no password: a build makes chroots and mounts."""
    if host.uid == 0:
        return Finding("rights", State.OK, "root")
    if host.works(["sudo", "-n", "true"]):
        return Finding("rights", State.OK, "sudo without a password: run builds with sudo")
    return Finding(
        "rights", State.MISSING, "a build needs root: run it as root, or allow sudo to this user"
    )


def check_namespaces(host: Host) -> Finding:
    """Mount and process namespaces, which keep a build's mounts from the host's."""
    sudo = [] if host.uid == 0 else ["sudo", "-n"]
    if host.works([*sudo, "unshare", "--mount", "--pid", "--fork", "true"]):
        return Finding("namespaces", State.OK, "mount and process namespaces can be made")
    return Finding(
        "namespaces",
        State.MISSING,
        "`unshare --mount --pid --fork true` fails as root: a container needs CAP_SYS_ADMIN",
    )


def check_memory(host: Host) -> Finding:
    """Memory for a build beside a virtual machine."""
    try:
        text = (host.root / "proc/meminfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^MemTotal:\s+(\d+) kB", text, re.MULTILINE)
    if match is None:
        return Finding("memory", State.NOTE, "/proc/meminfo does not tell; 4 GiB are needed")
    size = int(match[1]) * 1024
    if size < MIN_MEMORY:
        return Finding("memory", State.MISSING, f"{format_size(size)}; 4 GiB are needed")
    return Finding("memory", State.OK, format_size(size))


def check_disk(artifacts: Path) -> Finding:
    """Room for results and caches."""
    free = free_space(artifacts)
    if free < MIN_DISK:
        return Finding(
            "disk space",
            State.MISSING,
            f"{format_size(free)} free, {format_size(MIN_DISK)} are needed for artifacts in "
            f"{artifacts} (RECAST_ARTIFACTS may name a larger disk)",
        )
    return Finding("disk space", State.OK, f"{format_size(free)} free for artifacts")


def check_kvm(host: Host) -> Finding:
    """Hardware virtualisation, as far as its device file tells."""
    device = host.root / "dev/kvm"
    if not device.exists():
        return Finding("KVM", State.NOTE, "no /dev/kvm: machines boot in software (TCG), slower")
    if not os.access(device, os.R_OK | os.W_OK):
        return Finding("KVM", State.NOTE, "/dev/kvm may not be opened by this user: TCG, slower")
    return Finding("KVM", State.OK, "/dev/kvm is there; the first boot shows whether it works")


def check_project(host: Host, project: Path | None) -> Finding:
    """A project in a git repository with a commit: versions derive from it."""
    if project is None:
        return Finding("project", State.NOTE, "no folder images/ here or above: nothing to build")
    if not host.works(["git", "-C", str(project), "rev-parse", "--verify", "HEAD"]):
        return Finding(
            "project", State.NOTE, f"{project} has no git commit: a version derives from one"
        )
    return Finding("project", State.OK, f"{project.name}, with a commit")
