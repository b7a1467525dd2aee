"""The second half of ``make demo``: a machine at a site moves from release to release by itself.

Run by ``.ci/demo``, which has built, tested and promoted the first release.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pipeline import clock
from pipeline.models.checkin import Checkin
from tests.e2e import harness, site
from tests.e2e.harness import Bench
from tests.e2e.site import CHANNEL, DEVICE, IMAGE, Site

_RENDER = "images/elements/nginx-site/nginx-site/usr/lib/site/render"
_DEFINITION = "images/edge-web/image.yaml"
_OLD_STOCK = "/var/lib/site/old-stock"
_CHECK = f"""\
    timeout: 60
  - name: stock
    command: [test, "!", -e, {_OLD_STOCK}]
    timeout: 5
"""


STAGES = (("build", IMAGE), ("test", IMAGE), ("publish", IMAGE))
"""The pipeline for one image; `recast run` would test its parent as well."""


class Story:
    """Says what happens, and after how long."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._last = time.time()

    def chapter(self, text: str) -> None:
        print(f"\n\033[1m== {text}\033[0m", flush=True)
        self._last = time.time()

    def tell(self, text: str) -> None:
        now = time.time()
        total, own = clock.duration(now - self._began), clock.duration(now - self._last)
        print(f"[{total:>7}] {text} ({own})", flush=True)
        self._last = now


def command(bench: Bench, *words: str) -> None:
    """Run ``recast`` for all to see."""
    print(f"\n$ recast {' '.join(words)}", flush=True)
    subprocess.run([bench.recast, *words], cwd=bench.project, env=_environment(bench), check=True)


@contextmanager
def meanwhile(bench: Bench, *commands: Sequence[str]) -> Iterator[None]:
    """Run ``recast`` while the block runs; show at its end what was printed."""

    def run() -> list[str]:
        return [_captured(bench, words) for words in commands]

    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(run)
        yield
        print("\n".join(said.result()), flush=True)


def _captured(bench: Bench, words: Sequence[str]) -> str:
    ended = subprocess.run(
        [bench.recast, *words],
        cwd=bench.project,
        env=_environment(bench),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    text = f"\n$ recast {' '.join(words)}\n{ended.stdout}"
    if ended.returncode:
        raise SystemExit(text)
    return text


def _environment(bench: Bench) -> dict[str, str]:
    return {**os.environ, "RECAST_ARTIFACTS": str(bench.store), **bench.settings}


def pipeline(bench: Bench) -> None:
    """Build what has changed, test it where it is new, and publish it."""
    for words in STAGES:
        command(bench, *words)


def promote(bench: Bench, reason: str) -> None:
    """To every machine at once: the demo has only one."""
    command(bench, "promote", IMAGE, "--to", "candidate", "--reason", reason)
    command(bench, "promote", IMAGE, "--to", CHANNEL, "--reason", reason, "--now", "--wait")


def show(here: Site, *words: str) -> None:
    """Run a command on the machine for all to see."""
    print(f"\n{DEVICE}$ {' '.join(words)}\n{here.run(*words)}", flush=True)


def tell_steps(story: Story, report: Checkin) -> None:
    steps = ", ".join(f"{step} {clock.duration(s)}" for step, s in report.seconds.items())
    story.tell(f"{DEVICE} runs {report.version}; {report.downloaded >> 20} MiB downloaded; {steps}")


def tell(bench: Bench, folder: Path, story: Story) -> None:
    """The story, from the first boot of a machine to its second thoughts."""
    first = bench.newest(IMAGE).release
    story.chapter("A machine at a site is switched on: its disk is the one that was tested")
    with site.site(bench, folder, first, tries="2") as here:
        story.chapter("Meanwhile a change is committed, built, tested and promoted")
        bench.replace(_RENDER, "This machine runs one image", "One image runs this machine")
        bench.commit("Another headline", clock.iso(clock.now()))
        pipeline(bench)
        here.runs(first.version)
        story.tell(f"{DEVICE} runs {first.version}, is healthy, and has reported it")
        here.ready()
        here.shell(f"touch {_OLD_STOCK}; echo edited by hand > /etc/motd; sync")
        promote(bench, "A better headline")
        second = bench.newest(IMAGE).release
        story.tell(f"{CHANNEL} has {second.version}")

        story.chapter("The machine reimages itself; meanwhile a third release passes its tests")
        bench.replace(_DEFINITION, "    timeout: 60\n", _CHECK)
        bench.commit("Check the stock", clock.iso(clock.now()))
        with meanwhile(bench, *STAGES):
            tell_steps(story, here.runs(second.version))
        here.ready()
        show(here, "curl", "-fsS", "http://localhost/")
        show(here, "recast-agent", "status")

        story.chapter("The third release cannot be healthy at this site")
        promote(bench, "It passed its tests")
        third = bench.newest(IMAGE).release
        story.tell(f"{CHANNEL} has {third.version}")
        report = here.failed(third.version)
        story.tell(f"{DEVICE} is back on {report.version}: {report.reason}")
        here.ready()
        show(here, "recast-agent", "status")
        command(bench, "sites")
        if report.version != second.version:
            raise SystemExit(f"demo: expected {second.version} to run")
    story.tell("the end")


def main() -> None:
    """Tell it, in ``artifacts/demo``; the argument is when the demo began, in Unix time."""
    demo = Path(os.environ.get("RECAST_ARTIFACTS", harness.ROOT / "artifacts")) / "demo"
    settings = {name: os.environ[name] for name in ("RECAST_STORE", "RECAST_KEYS")}
    recast = Path(sys.executable).with_name("recast")
    bench = Bench(recast, demo / "project", demo.parent, settings)
    folder = demo / "site"
    folder.mkdir()
    try:
        tell(bench, folder, Story(float(sys.argv[1])))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
