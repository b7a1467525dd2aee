"""A build of diskimage-builder's that is ended at a bad moment: nothing stays, and it goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.harness import Bench, left_behind, settled, unfinished

RENDER = "images/elements/nginx-site/nginx-site/usr/lib/site/render"


def wait_for_chroot(process: subprocess.Popen[str], store: Path, seconds: float = 120) -> None:
    """Until a hook runs inside the tree: mounts, namespaces and programs are all there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "it ended by itself"
        for log in store.glob("runs/*/edge-web.build.log"):
            if "install.d" in log.read_text(errors="replace"):
                return
        time.sleep(0.1)
    pytest.fail("no hook ran")


@pytest.mark.soak
def test_a_build_that_is_stopped_or_killed_leaves_nothing_and_goes_on(copy: Bench) -> None:
    copy.replace(RENDER, "This machine runs one image", "Again and again")
    copy.commit("Another headline")
    releases = copy.ask("images", "--all")
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)

    with unfinished(copy.start("build", "edge-web")) as process:
        wait_for_chroot(process, copy.store)
        time.sleep(chance.uniform(0, 2))
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - begin < 30
    assert process.returncode == 130, out + err
    assert "was stopped" in err
    assert "again continues" in err
    assert settled(copy.store) == []
    assert [path.name for path in (copy.store / "work").iterdir() if path.is_dir()] == []

    for log in copy.store.glob("runs/*/*.log"):
        log.unlink()
    with unfinished(copy.start("build", "edge-web")) as process:
        wait_for_chroot(process, copy.store)
        time.sleep(chance.uniform(0, 2))
        process.kill()
        process.communicate(timeout=60)
    end = time.monotonic() + 20
    while [e for e in left_behind(copy.store) if e.startswith("process")]:
        assert time.monotonic() < end, "a program outlives the run that started it"
        time.sleep(0.1)
    assert settled(copy.store) == [], "its mounts were in a namespace that has ended"
    assert copy.ask("images", "--all") == releases, "nothing half-made has a final name"
    assert copy.ask("runs")[0]["outcome"] == "interrupted"

    ended = copy.run("build", "edge-web")
    assert "left behind when it was killed" in ended.out
    assert len(copy.ask("images", "--all")) == len(releases) + 1
    assert [path.name for path in (copy.store / "work").iterdir() if path.is_dir()] == []
