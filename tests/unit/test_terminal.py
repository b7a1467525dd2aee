"""If these fail, a table does not fit, or a digest in it cannot be copied."""

from __future__ import annotations

import io

import pytest

from pipeline.cli.terminal import (
    ask_secret,
    colour,
    coloured,
    is_terminal,
    printable,
    table,
    width,
)
from pipeline.errors import UsageError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)


def test_the_last_column_is_wrapped_and_the_table_fits() -> None:
    text = table([("edge-base", "a reason that goes on " * 6)], ("image", "why"), 50)
    lines = text.splitlines()
    assert all(len(line) <= 50 for line in lines)
    assert lines[0] == "image      why"
    assert all(line.startswith(" " * 11) for line in lines[2:])


def test_a_digest_is_never_broken() -> None:
    digest = "2" * 64
    assert digest in table([("edge-base", digest)], ("image", "root"), 40)


def test_empty_cells_and_tables_are_fine() -> None:
    assert table([], ("a", "b")) == "a  b"
    assert table([(None, "")], ("a", "b")).split("\n")[1] == ""


def test_colours_do_not_shift_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    red = colour("ab", "red", stream=terminal)
    assert red != "ab"
    lines = table([(red, "x"), ("abcd", "y")], ("c", "d"), 80).splitlines()
    assert lines[1].replace(red, "ab") == "ab    x"
    assert lines[2] == "abcd  y"


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    assert coloured(terminal)
    assert not coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(terminal)
    terminal.close()
    assert not is_terminal(terminal)


def test_the_width_is_80_where_nobody_tells_and_never_absurd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "1")
    assert width() == 10
    monkeypatch.setenv("COLUMNS", "132")
    assert width() == 132


def test_what_cannot_be_shown_is_replaced() -> None:
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    assert printable("a → b – ü", latin) == "a -> b - ü"
    assert printable("日", latin) == "?"


def test_a_pin_and_a_passphrase_come_from_variables_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RECAST_PASSPHRASE", "of files")
    monkeypatch.delenv("RECAST_PIN", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert ask_secret("passphrase of the key online") == "of files"
    with pytest.raises(UsageError, match="PIN of the token") as caught:
        ask_secret("PIN of the token with the key stable-1")
    assert caught.value.hint == "Set RECAST_PIN."
    monkeypatch.setenv("RECAST_PIN", "4321")
    assert ask_secret("PIN of the token with the key stable-1") == "4321"
