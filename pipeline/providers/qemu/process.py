"""One running QEMU, and the conversation with it (QMP, over its standard input and output).

QMP over pipes needs no socket file: nothing to name, to find too long, or to leave behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pipeline import command

_ANSWER_SECONDS = 60.0
_ENDING_SECONDS = 5.0
_ERROR_LINES = 5

Json = Mapping[str, object]


class QemuGone(Exception):
    """QEMU has ended, or does not answer; internal to this provider."""


class Process:
    """A QEMU that has started, with its monitor open.

    It is started by a thread of its own that lives exactly as long as QEMU does: the kernel sends
    QEMU its parent-death signal when the *thread* that started it ends, and a caller's thread may
    come from a pool that is gone long before the machine. That thread also reads the monitor.

    Args:
        argv: QEMU and its arguments; ``-chardev stdio,id=qmp`` must be its monitor.
        errors: receives what QEMU prints on its standard error.

    Raises:
        HostError: QEMU is not installed.
        QemuGone: it ended at once; the message has its last words.
    """

    def __init__(self, argv: Sequence[str], errors: Path) -> None:
        self._argv = list(argv)
        self._errors = errors
        self._answers: queue.Queue[Json | None] = queue.Queue()
        self._started = threading.Event()
        self._talk = threading.Lock()
        self._failures: list[BaseException] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._keeper = threading.Thread(target=self._keep, name="qemu-keeper", daemon=True)
        self._keeper.start()
        self._started.wait()
        for failure in self._failures:
            self._keeper.join()
            raise failure
        try:
            self.ask("qmp_capabilities")
        except BaseException:
            self.kill()
            raise

    def _keep(self) -> None:
        try:
            with self._errors.open("ab") as errors:
                self._process = command.start(
                    self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                )
        except BaseException as error:
            self._failures.append(error)
            return
        finally:
            self._started.set()
        process = self._process
        assert process.stdout is not None
        assert process.stdin is not None
        with process.stdout as lines:
            self._read(lines)
        process.wait()
        with self._talk, contextlib.suppress(OSError):
            process.stdin.close()

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            with contextlib.suppress(ValueError):
                message: Json = json.loads(line)
                if "return" in message or "error" in message:
                    self._answers.put(message)
        self._answers.put(None)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._running.pid

    def ask(self, question: str, **arguments: object) -> object:
        """Run one QMP command and return its answer.

        Raises:
            QemuGone: QEMU ended, does not answer, or refuses.
        """
        with self._talk:
            self._number += 1
            message = {"execute": question, "arguments": arguments, "id": self._number}
            stdin = self._running.stdin
            assert stdin is not None
            try:
                stdin.write(json.dumps(message).encode() + b"\n")
                stdin.flush()
            except (OSError, ValueError):
                raise QemuGone(self.last_words()) from None
            while True:
                try:
                    answer = self._answers.get(timeout=_ANSWER_SECONDS)
                except queue.Empty:
                    raise QemuGone(f"QEMU did not answer `{question}`") from None
                if answer is None:
                    self._answers.put(None)  # for whoever asks next
                    raise QemuGone(self.last_words())
                if answer.get("id") == self._number:
                    break
        if "error" in answer:
            raise QemuGone(f"QEMU refused `{question}`: {answer['error']}")
        return answer["return"]

    def status(self) -> str:
        """``running``, ``paused``, ``internal-error``, … (QMP's RunState), or ``ended``."""
        if not self.alive():
            return "ended"
        try:
            answer = self.ask("query-status")
        except QemuGone:
            return "ended"
        return str(answer.get("status")) if isinstance(answer, dict) else "unknown"

    def alive(self) -> bool:
        """Is the process there?"""
        return self._running.poll() is None

    def exit_code(self) -> int | None:
        """How it ended; None while it runs. One that closed its monitor is about to end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(timeout=_ENDING_SECONDS)
        return self._running.returncode

    def last_words(self) -> str:
        """The end of what it printed on its standard error."""
        try:
            text = self._errors.read_text(errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip()]
        return "\n".join(lines[-_ERROR_LINES:]) or "it said nothing"

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._keeper.join()
