"""Builds: against plain diskimage-builder, and against ourselves when little or nothing changed.

Everything is measured from empty caches in one run: both sides download their packages.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from pipeline.definitions import load_catalog, load_settings
from pipeline.dib.elements import BASE, elements_path
from pipeline.dib.mirrors import mirrors
from pipeline.dib.request import tree_request
from tests.bench.harness import Record, Timing, compare, fastest, timed, within

_REPOSITORY = Path(__file__).resolve().parents[2]
_BIN = Path(sys.executable).parent
_BASE, _LEAF = "edge-base", "edge-web"

# diskimage-builder's default disk needs device-mapper; this is the simplest that does not.
_PLAIN_DISK = """
- local_loop:
    name: image0
- mkfs:
    name: mkfs_root
    base: image0
    type: ext4
    label: cloudimg-rootfs
    mount:
      mount_point: /
"""


def bench_build() -> Iterator[Record]:
    """Cold, leaf and unchanged builds of the sample images."""
    place = Path(os.environ.get("RECAST_ARTIFACTS") or _REPOSITORY / "artifacts") / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=place) as folder:
        bench = _Bench(Path(folder), place / "build.log")
        peer = bench.plain()
        cold = bench.recast("build", _BASE, store="base")
        yield compare("build.cold", cold.seconds, peer.seconds, unit="s", goal=0.7)
        shutil.rmtree(bench.folder / "base")

        both = bench.recast("build", _LEAF)
        bench.change_leaf()
        leaf = bench.recast("build", _LEAF)
        yield compare("build.leaf", leaf.seconds, both.seconds, unit="s", goal=0.25)

        bench.recast("run")
        run = fastest(3, lambda: bench.recast("run"))
        yield within("build.unchanged.run", run.seconds, 2.0, unit="s")
        plan = fastest(3, lambda: bench.recast("plan"))
        yield within("build.unchanged.plan", plan.seconds, 1.0, unit="s")


class _Bench:
    """A project of its own with the sample images, and stores that start empty."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.log = log
        self.project = folder / "project"
        shutil.copytree(_REPOSITORY / "images", self.project / "images")
        self._git("init", "--quiet")
        self._commit("the sample images")

    def recast(self, *words: str, store: str = "store") -> Timing:
        """Time one command of ours."""
        places = {"RECAST_PROJECT": self.project, "RECAST_ARTIFACTS": self.folder / store}
        return timed(
            [_BIN / "recast", *words],
            env={**os.environ, **{name: str(path) for name, path in places.items()}},
            log=self.log,
        )

    def plain(self) -> Timing:
        """Time diskimage-builder alone: the same elements and packages, to a raw disk."""
        definition = load_catalog(self.project / "images").resolved(_BASE)
        settings = load_settings(self.project / "images")
        distribution = definition.distribution or ""
        request = tree_request(
            definition,
            project=self.project,
            elements=dict.fromkeys([f"{distribution}-minimal", BASE, *definition.elements], ""),
            files={},
            agent="",
            settings=settings,
            parent_tree=None,
            sizes={"root": 0, "verity": 0, "esp": 0},
        )
        scratch = self.folder / "plain"
        scratch.mkdir()
        (scratch / "disk.yaml").write_text(_PLAIN_DISK)
        environment = {
            "PATH": f"{_BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(scratch),
            "ELEMENTS_PATH": ":".join(str(path) for path in elements_path(self.project)),
            "DIB_RELEASE": definition.release or "",
            "DIB_BLOCK_DEVICE_CONFIG": f"file://{scratch / 'disk.yaml'}",
            **_with_defaults(mirrors(distribution, settings).environment()),
        }
        timing = timed(
            [
                *(_BIN / "disk-image-create", "-n", "-t", "raw", "-o", scratch / "image"),
                *("-p", ",".join(request.bootstrap_packages)),
                *(f"{distribution}-minimal", *definition.elements),
            ],
            env=environment,
            cwd=scratch,
            log=self.log,
        )
        shutil.rmtree(scratch)
        return timing

    def change_leaf(self) -> None:
        """Change what only the leaf image is made of."""
        path = self.project / "images" / _LEAF / "image.yaml"
        definition = yaml.safe_load(path.read_text())
        definition["files"] = [{"path": "/etc/site.conf", "content": "answer = 42\n"}]
        path.write_text(yaml.safe_dump(definition, sort_keys=False))
        self._commit("one file more")

    def _commit(self, message: str) -> None:
        self._git("add", "--all")
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        self._git(*identity, "commit", "--quiet", "--message", message)

    def _git(self, *words: str) -> None:
        timed(["git", "-C", self.project, *words], log=self.log)


def _with_defaults(environment: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in environment.items() if value}
