"""systemd's programs, as a machine's agent meets them: they answer what a test says they answer.

What no answer was given for fails, as it does on a machine without systemd.
"""

from __future__ import annotations

from pathlib import Path

TOOLS = ("busctl", "journalctl", "systemctl", "systemd-creds", "systemd-run")

_SCRIPT = """#!/bin/sh
# Notes how it was called, and gives the newest answer whose pattern fits.
said="${0##*/} $*"
echo "$said" >> '%(folder)s/calls'
for answer in $(ls -r '%(folder)s/answers'); do
    answer='%(folder)s/answers'/$answer
    pattern=$(sed -n 1p "$answer")
    case $said in
        $pattern) sed 1,2d "$answer"; exit "$(sed -n 2p "$answer")" ;;
    esac
done
echo "System has not been booted with systemd as init system (PID 1)." >&2
exit 1
"""


class FakeSystemd:
    """A folder of programs; it must come first in ``PATH``.

    Args:
        folder: is made; holds the programs (``bin``), their answers and a list of their calls.
    """

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self._folder = folder
        self._answers = folder / "answers"
        self.bin.mkdir(parents=True)
        self._answers.mkdir()
        for tool in TOOLS:
            program = self.bin / tool
            program.write_text(_SCRIPT % {"folder": folder})
            program.chmod(0o755)

    def answer(self, pattern: str, output: str = "", code: int = 0) -> None:
        """What a call that fits *pattern*, as a shell's ``case`` has it, prints from now on."""
        number = len(list(self._answers.iterdir()))
        quoted = pattern.replace(" ", "\\ ")
        (self._answers / f"{number:04}").write_text(f"{quoted}\n{code}\n{output}")

    @property
    def calls(self) -> list[str]:
        """Each call with its arguments, the oldest first."""
        path = self._folder / "calls"
        return path.read_text().splitlines() if path.exists() else []
