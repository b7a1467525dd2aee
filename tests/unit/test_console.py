"""What is read from a serial console."""

from __future__ import annotations

import pytest

from pipeline import console


def test_terminal_codes_do_not_reach_a_person() -> None:
    text = "\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading\r\n[\x1b[0;32m  OK  \x1b[0m] Started\x07\r\n"
    assert console.plain(text) == "BdsDxe: loading\n[  OK  ] Started\n"


def test_the_tail_is_of_lines_that_say_something() -> None:
    text = "one\r\n\r\n\x1b[0m   \r\ntwo\r\nthree  \r\n\r\n"
    assert console.tail(text, 2) == ["two", "three"]
    assert console.tail("", 2) == []


def test_a_progress_line_does_not_hide_what_came_before() -> None:
    assert console.tail("loading 1%\rloading 99%\rKernel panic\r\n", 3) == [
        "loading 1%",
        "loading 99%",
        "Kernel panic",
    ]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (
            "[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on (0,0)\r\n",
            "the kernel panicked: VFS: Unable to mount root fs on (0,0)",
        ),
        ("You are in emergency mode. After logging in, type", "it stopped in emergency mode"),
        ("Entering emergency mode. Exit the shell", "it stopped in emergency mode"),
        ("\x1b[01;01HUEFI Interactive Shell v2.2", "the firmware found nothing to boot"),
    ],
)
def test_signs_of_a_boot_that_failed(text: str, meaning: str) -> None:
    found = console.gave_up("Linux version 6.12\r\n" + text)
    assert found is not None
    assert found.startswith(meaning)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[  OK  ] Reached target multi-user.target",
        "Kernel command line: panic=30 rd.emergency=reboot",
        "systemd[1]: emergency.service - Emergency Shell was skipped",
        'BdsDxe: starting Boot0001 "EFI Internal Shell"',
    ],
)
def test_a_good_boot_has_no_such_sign(text: str) -> None:
    assert console.gave_up(text) is None
