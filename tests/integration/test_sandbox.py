"""If these fail, a build leaves mounts or programs behind, or loses what it was told last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import command, sandbox

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of their own need root")

# What a build's process does, as far as the sandbox is concerned.
HOLDER = """
import sys
from pipeline import command, sandbox
command.run(sandbox.argv(sys.argv[1:]))
"""


@pytest.fixture
def number() -> Iterator[str]:
    """Seconds that no other program sleeps: they mark ours."""
    made = f"9{os.getpid()}{time.monotonic_ns() % 10**6}"
    yield made
    for pid in programs(made):
        os.kill(pid, signal.SIGKILL)


def programs(mark: str) -> list[int]:
    """Processes that have *mark* as a word of their command."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z" and mark.encode() in words:
                found.append(int(entry.name))
    return found


def wait_for(what: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def inside(*argv: str) -> str:
    return command.run(sandbox.argv(argv), timeout=30).stdout


def test_mounts_are_seen_inside_alone(tmp_path: Path) -> None:
    shell = 'mount -t tmpfs recast-test "$1" && touch "$1/file" && cat /proc/self/mounts'
    printed = inside("sh", "-c", shell, "sh", str(tmp_path))
    assert f"recast-test {tmp_path} tmpfs" in printed
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert list(tmp_path.iterdir()) == []


def test_the_host_name_is_the_same_on_every_host_and_the_hosts_own_stays() -> None:
    before = os.uname().nodename
    assert inside("uname", "-n") == "localhost\n"
    assert os.uname().nodename == before


def test_only_its_own_processes_are_seen() -> None:
    pids = [name for name in inside("ls", "/proc").split() if name.isdigit()]
    assert "1" in pids
    assert len(pids) <= 3


@pytest.mark.parametrize(
    ("shell", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill $$", 143)]
)
def test_the_programs_exit_code_comes_out(shell: str, code: int) -> None:
    argv = sandbox.argv(["sh", "-c", shell])
    assert subprocess.run(argv, check=False, timeout=30).returncode == code


def test_the_output_of_what_the_program_leaves_behind_is_not_lost() -> None:
    printed = inside("sh", "-c", "(sleep 0.5; echo late) & echo early")
    assert printed == "early\nlate\n"


def test_a_process_that_the_program_leaves_behind_does_not_hold_it_up_for_ever(
    number: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    impatient = tmp_path / "sandbox.py"
    text = Path(sandbox.__file__).read_text()
    impatient.write_text(text.replace("_LINGER_SECONDS = 10.0", "_LINGER_SECONDS = 0.2"))
    monkeypatch.setattr(sandbox, "__file__", str(impatient))
    began = time.monotonic()
    inside("sh", "-c", f"setsid sleep {number} & exit 0")
    assert time.monotonic() - began < 8
    wait_for(lambda: not programs(number))


@pytest.mark.soak
def test_all_processes_die_with_us_even_when_we_are_killed(number: str) -> None:
    # One that waits, one in a session of its own, one that ignores to be asked.
    shell = f"setsid sleep {number} & (trap '' TERM INT HUP; sleep {number}; sleep {number}) & wait"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "sh", "-c", shell], env=environment, start_new_session=True
    )
    wait_for(lambda: len(programs(number)) == 2)
    holder.kill()
    holder.wait()
    wait_for(lambda: not programs(number))


@pytest.mark.soak
def test_a_stop_lets_the_program_clean_up_and_leaves_none(number: str, tmp_path: Path) -> None:
    from threading import Timer

    from pipeline.errors import Interrupted

    stop = command.Stop()
    script = f"trap 'touch \"{tmp_path}/cleaned\"; exit 1' TERM; sleep {number} & wait"
    Timer(1.0, stop.set).start()
    with pytest.raises(Interrupted):
        command.run(sandbox.argv(["bash", "-c", script]), stop=stop)
    assert (tmp_path / "cleaned").exists()
    wait_for(lambda: not programs(number))
