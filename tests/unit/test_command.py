"""The one door for other programs: nothing is left running, and failures can be understood."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import command
from pipeline.errors import DiskFullError, HostError, Interrupted


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def eventually(happened: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return True
        time.sleep(0.02)
    return happened()


def pid_in(path: Path) -> int:
    assert eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def spawning(tmp_path: Path) -> tuple[list[str], Path, Path]:
    """A program with a child that ignores SIGTERM; both write down who they are."""
    parent, child = tmp_path / "parent", tmp_path / "child"
    script = tmp_path / "spawning"
    script.write_text(
        f"(trap '' TERM; echo $BASHPID >{child}; while :; do sleep 0.1; done) &\n"
        f"echo $$ >{parent}\nwait\n"
    )
    return ["bash", str(script)], parent, child


def test_output_is_returned_in_order_with_stderr_among_it() -> None:
    result = command.run(["bash", "-c", "echo one; echo two >&2; echo three"])
    assert result.stdout == "one\ntwo\nthree\n"


def test_separate_returns_stdout_alone_but_keeps_stderr_for_the_error() -> None:
    assert command.run(["bash", "-c", "echo data; echo noise >&2"], separate=True).stdout == (
        "data\n"
    )
    with pytest.raises(command.CommandError, match="the reason"):
        command.run(["bash", "-c", "echo 'the reason' >&2; exit 3"], separate=True)


def test_arguments_are_never_shell_text() -> None:
    nasty = "$(id); `id`; 'quotes' \"and\" spaces\n* ?"
    assert command.run(["printf", "%s", nasty]).stdout == nasty


def test_a_failure_shows_a_line_to_paste_its_code_and_its_last_output() -> None:
    with pytest.raises(command.CommandError) as caught:
        command.run(["bash", "-c", "for i in $(seq 100); do echo line $i; done; exit 7"])
    error = caught.value
    assert error.code == 7
    assert error.tail[-1] == "line 100"
    assert "line 1" not in error.tail, "only the tail belongs in a message"
    assert "line 100" in str(error)
    assert "`bash -c 'for i in" in str(error)


def test_output_goes_to_the_log_and_the_tail_still_to_the_error() -> None:
    log = io.StringIO()
    with pytest.raises(command.CommandError) as caught:
        command.run(["bash", "-c", "echo told; exit 1"], log=log)
    assert log.getvalue() == "told\n"
    assert caught.value.tail == ("told",)


class FullDisk(io.StringIO):
    name = "run/edge-base.build.log"

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_on_a_full_disk_ends_in_that_error_and_not_in_a_hang() -> None:
    with pytest.raises(DiskFullError, match=r"run/edge-base\.build\.log"):
        command.run(["seq", "200000"], log=FullDisk(), timeout=30)


def test_bytes_that_are_no_text_do_not_stop_the_reading() -> None:
    assert "after" in command.run(["printf", r"\xff\xfe\nafter\n"]).stdout


def test_stdin_is_closed_unless_given() -> None:
    assert command.run(["cat"], timeout=5).stdout == ""
    data = b"x" * (1 << 20)  # more than a pipe holds
    assert command.run(["cat"], input=data, timeout=20).stdout == data.decode()


def test_a_program_that_does_not_read_its_input_is_no_error() -> None:
    command.run(["true"], input=b"x" * (1 << 20), timeout=20)


def test_a_program_that_never_reads_its_input_still_meets_its_time_limit() -> None:
    with pytest.raises(command.CommandTimeout):
        command.run(["sleep", "60"], input=b"x" * (1 << 20), timeout=0.5)


def test_environment_and_folder_are_what_was_given(tmp_path: Path) -> None:
    result = command.run(["bash", "-c", "echo $ONLY; pwd"], env={"ONLY": "this"}, cwd=tmp_path)
    assert result.stdout == f"this\n{tmp_path}\n"


def test_a_missing_program_names_the_package_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(command.PACKAGES, "no-such-program", "some-package")
    with pytest.raises(HostError, match="no-such-program") as caught:
        command.run(["no-such-program"])
    assert "apt-get install some-package" in caught.value.hint


def test_a_timeout_leaves_neither_the_program_nor_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.end, "__defaults__", (0.5,))
    argv, parent, child = spawning(tmp_path)
    started = time.monotonic()
    with pytest.raises(command.CommandTimeout, match="within 1 s"):
        command.run(argv, timeout=1)
    assert time.monotonic() - started < 8
    assert not alive(pid_in(parent))
    assert eventually(lambda: not alive(pid_in(child)))


@pytest.mark.soak
def test_a_stop_ends_a_running_program_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.end, "__defaults__", (0.5,))
    argv, parent, child = spawning(tmp_path)
    stop = command.Stop()

    def when_running() -> None:
        pid_in(child)
        stop.set()

    watcher = threading.Thread(target=when_running)
    watcher.start()
    with pytest.raises(Interrupted):
        command.run(argv, stop=stop, timeout=60)
    watcher.join()
    assert not alive(pid_in(parent))
    assert eventually(lambda: not alive(pid_in(child)))


@pytest.mark.soak
def test_a_program_dies_with_us_even_if_we_are_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "from pipeline import command\n"
        f"command.run(['bash', '-c', 'echo $$ >{pid}; exec sleep 300'])\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", code])
    try:
        program = pid_in(pid)
        assert alive(program)
    finally:
        ours.kill()
        ours.wait()
    assert eventually(lambda: not alive(program))


def test_a_stop_says_that_it_was_asked_for() -> None:
    stop = command.Stop()
    stop.check()
    assert not stop.wait(0)
    stop.set()
    assert stop.is_set()
    assert stop.wait(60)
    with pytest.raises(Interrupted):
        stop.check()


def test_ending_twice_is_fine() -> None:
    process = command.start(["sleep", "60"])
    command.end(process)
    command.end(process)
    assert process.returncode == -signal.SIGTERM


def test_a_started_program_is_not_in_our_process_group() -> None:
    process = command.start(["sleep", "60"])
    try:
        assert os.getpgid(process.pid) != os.getpgid(0), "a Ctrl-C is ours to hand on"
    finally:
        command.end(process)


def test_the_makefile_installs_the_package_of_every_program() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    match = re.search(r"^SYSTEM_PACKAGES := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert match is not None
    listed = set(match[1].replace("\\\n", " ").split())
    beyond_programs = {"debian-archive-keyring", "gpg", "gpg-agent", "ovmf", "python3-venv"}
    beyond_programs |= {"cryptsetup-bin", "erofs-utils"}  # the tests' trees are made of these
    assert listed == set(command.PACKAGES.values()) | beyond_programs
