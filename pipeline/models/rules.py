"""Rules of definitions: what Recast owns, what may persist, where files stand, who is a parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.models.fields import Problems, refuse, refuse_entries, repeated, shown, within

COMMAND_LINE_LIMIT = 1536
"""Characters that a definition may add; the kernel takes 2048 in all, Recast needs the rest."""

OWN_ARGUMENTS = ("root", "roothash", "usrhash", "systemd.volatile", "recast.release", "ro", "rw")
"""Kernel arguments that Recast itself sets: they bind a boot to one root."""

OWN_VARIABLES = (
    "DIB_RELEASE",
    "DIB_BLOCK_DEVICE",
    "DIB_BLOCK_DEVICE_CONFIG",
    "DIB_DEBOOTSTRAP_CACHE",
    "DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE",
    "DIB_IMAGE_CACHE",
    "DIB_INIT_SYSTEM",
    "DIB_LOCKFILES",
    "DIB_PYTHON_EXEC",
)
"""diskimage-builder's variables that Recast sets; another value breaks a build or its key."""

OTHER_VARIABLES = (
    "BASE_IMAGE_FILE",
    "GENTOO_OVERLAYS",
    "GENTOO_PROFILE",
    "GENTOO_PYTHON_TARGETS",
)
"""Variables of diskimage-builder's elements whose names do not start with ``DIB_``."""

# Where each stands alone on a machine, or comes with the release: never on the data partition.
_NEVER_BELOW = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/boot", "/efi", "/data"),  # noqa: S108
    *("/var/run", "/var/lock", "/var/lib/dpkg", "/var/lib/rpm"),
)
_NEVER_WHOLE = ("/", "/etc", "/var", "/var/lib", "/var/cache")
_NOT_IN_ROOT = ("/proc", "/sys", "/dev", "/run", "/tmp", "/efi", "/data")  # noqa: S108


def kernel_argument(argument: str) -> str:
    """Check that *argument* is one argument, and not one of Recast's own."""
    name = argument.partition("=")[0]
    if not argument or argument == "--":
        refuse(f"expected a kernel argument, got {shown(argument)}")
    if not argument.isascii() or any(c <= " " or c in "\"'\\\x7f" for c in argument):
        refuse(
            "expected one kernel argument without spaces, quotes or backslashes, "
            f"got {shown(argument)}"
        )
    if name in OWN_ARGUMENTS or name.startswith("systemd.verity"):
        refuse(f"{shown(argument)} cannot be given: Recast itself sets `{name}`")
    return argument


def kernel_arguments(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Check that none is repeated and that they fit on the command line."""
    refuse_entries(repeated(arguments))
    length = len(" ".join(arguments))
    if length > COMMAND_LINE_LIMIT:
        refuse(f"expected at most {COMMAND_LINE_LIMIT} characters in all, got {length}")
    return arguments


def variable_name(name: str) -> str:
    """Check that *name* is a variable of diskimage-builder, and not one of Recast's own."""
    if name in OWN_VARIABLES:
        refuse("Recast itself sets this variable")
    plain = name.isascii() and name.replace("_", "A").isalnum()
    if name not in OTHER_VARIABLES and not (plain and name.startswith("DIB_")):
        refuse(f"expected a variable that starts with DIB_ (or {', '.join(OTHER_VARIABLES)})")
    return name


def variable_value(value: str) -> str:
    """Check that *value* can be a variable's."""
    if "\0" in value:
        refuse("expected text without NUL characters")
    return value


def persist_path(path: str) -> str:
    """Check that *path* can live on the data partition without hiding the release or system."""
    fixed = next((folder for folder in _NEVER_BELOW if within(path, folder)), None)
    if path in _NEVER_WHOLE:
        refuse(f"{shown(path)} as a whole cannot persist; name what is needed below it")
    if fixed is not None:
        refuse(f"{shown(path)} cannot persist: {fixed} belongs to the release or the system")
    return path


def persist_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Check that no path is repeated or lies in another."""
    problems = repeated(paths)
    for index, path in enumerate(paths):
        for other in paths:
            if other != path and within(path, other):
                problems.append((index, f"{shown(path)} lies in {shown(other)}, also in the list"))
    refuse_entries(problems)
    return paths


def persist_overlaps(paths: Sequence[str], inherited: Mapping[str, str]) -> Problems:
    """Which *paths* overlap others that persist already.

    Args:
        paths: absolute, plain paths.
        inherited: the others, each with the name of the image that says so.

    Returns:
        Pairs of the path's index and a sentence; an equal path is no overlap.
    """
    return [
        (index, f"{shown(path)} overlaps {shown(other)}, which {owner} persists")
        for index, path in enumerate(paths)
        for other, owner in inherited.items()
        if other != path and (within(path, other) or within(other, path))
    ]


def file_paths(paths: Sequence[str]) -> None:
    """Check where files are put: in the root, each once, none below another."""
    problems = repeated(paths)
    for index, path in enumerate(paths):
        fixed = next((folder for folder in _NOT_IN_ROOT if within(path, folder)), None)
        if path == "/" or fixed is not None:
            problems.append((index, f"{shown(path)}: a file there is not part of the root"))
        for other in paths:
            if other not in (path, "/") and within(path, other):
                problems.append((index, f"{shown(path)} lies below the file {shown(other)}"))
    refuse_entries(problems)


def find_cycles(parents: Mapping[str, str | None]) -> list[tuple[str, ...]]:
    """The cycles among images that name each other as parents.

    Args:
        parents: each image's parent; parents that are not keys themselves are passed over.

    Returns:
        Each cycle once, from its alphabetically first member on, without coming back to it.
    """
    cycles: list[tuple[str, ...]] = []
    settled: set[str] = set()
    for start in sorted(parents):
        path: list[str] = []
        name: str | None = start
        while name is not None and name in parents and name not in settled:
            if name in path:
                cycle = path[path.index(name) :]
                first = cycle.index(min(cycle))
                cycles.append((*cycle[first:], *cycle[:first]))
                break
            path.append(name)
            name = parents[name]
        settled.update(path)
    return sorted(cycles)
