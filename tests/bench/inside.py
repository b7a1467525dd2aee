"""A program inside a tree, with mounts, processes and stand-ins that end with it.

This file is also the process that enters (``python inside.py TREE PROGRAM ...``): it mounts what
programs expect, in namespaces of its own, and becomes the program.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_OFFLINE": "1",  # there is no systemd to ask
}
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}


def run_inside(
    tree: Path, argv: Sequence[str], *, log: IO[str], env: Mapping[str, str] | None = None
) -> None:
    """Run *argv* with *tree* as its root; needs root.

    No service is started, as the tree has a policy-rc.d meanwhile that refuses it, and names are
    resolved as on this host.

    Raises:
        CommandError: it failed.
    """
    from pipeline import sandbox
    from pipeline.command import run

    kept = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    policy = tree / "usr/sbin/policy-rc.d"
    resolver = tree / "etc/resolv.conf"
    aside = tree / "etc/resolv.conf.aside"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    if os.path.lexists(resolver):
        resolver.rename(aside)
    resolver.write_bytes(Path("/etc/resolv.conf").read_bytes())
    try:
        words = [sys.executable, "-I", __file__, str(tree), *argv]
        run(sandbox.argv(words), env={**_ENVIRONMENT, **kept, **(env or {})}, log=log)
    finally:
        policy.unlink(missing_ok=True)
        if os.path.lexists(aside):
            aside.replace(resolver)


def main() -> None:
    """Mount, enter, become the program."""
    tree, *argv = sys.argv[1:]
    _mount("proc", "proc", f"{tree}/proc")
    _mount("sysfs", "sysfs", f"{tree}/sys", "-o", "ro")
    for folder in ("dev", "run", "tmp"):
        _mount("tmpfs", "tmpfs", f"{tree}/{folder}", "-o", "mode=755")
    os.umask(0)
    for name, numbers in _DEVICES.items():
        os.mknod(f"{tree}/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(*numbers))
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{tree}/dev/{name}")
    os.chmod(f"{tree}/tmp", 0o1777)
    os.umask(0o022)
    os.chroot(tree)
    os.chdir("/")
    os.execvp(argv[0], argv)


def _mount(kind: str, what: str, where: str, *options: str) -> None:
    subprocess.run(["mount", "-t", kind, *options, what, where], check=True)


if __name__ == "__main__":
    main()
