"""Files that are no YAML, or more YAML than anyone needs: told exactly, and never a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.definitions import load_settings
from pipeline.definitions.document import MAX_BYTES, parse, read
from pipeline.errors import DefinitionError

SYNTAX = {
    "a: b: c": (
        "1:5: not valid YAML: a `:` where none can stand; is the indentation right? "
        "Text that holds `: ` needs quotes"
    ),
    "a:\n\tb: 1": "2:1: not valid YAML: a tab; YAML is indented with spaces",
    "a: 'x\n": "2:1: not valid YAML: the quote that opens on line 1 is never closed",
    "a: {b: 1": (
        "1:9: not valid YAML: a mapping that starts with `{` has no `}`, or a comma is missing"
    ),
    "a: [b\nc: 1": (
        "2:2: not valid YAML: a list that starts with `[` has no `]`, or a comma is missing"
    ),
    "a: [1,\n": "2:1: not valid YAML: the file ends where more is expected",
    "- a\nb: 1": (
        "2:1: not valid YAML: wrong indentation: this does not line up with what is above it"
    ),
    "a: *b": "1:4: not valid YAML: there is no anchor `&b` for the alias `*b`",
    "a: 1\n---\nb: 2": "2:1: not valid YAML: more than one document in the file (`---`)",
    "a: \x01": "1:4: not valid YAML: a control character (U+0001)",
    "": "1: the file is empty",
    "# nothing\n": "1: the file is empty",
    "a: &x [*x]": "1: values are nested too deeply; does an alias (`*`) hold itself?",
    "[" * 100_000: "1: values are nested too deeply",
    "? [a]\n: b": "1: expected a key that is text, got something else",
}


@pytest.mark.parametrize("text", SYNTAX, ids=lambda text: repr(text[:12]))
def test_what_is_no_yaml_is_told_with_its_place(text: str) -> None:
    assert [str(problem) for problem in parse(text, "f").problems] == [f"f:{SYNTAX[text]}"]


@pytest.mark.parametrize("text", SYNTAX, ids=lambda text: repr(text[:12]))
def test_the_words_do_not_depend_on_libyaml(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    test_what_is_no_yaml_is_told_with_its_place(text)


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    problems = parse("\n".join(lines), "f").problems
    assert [str(problem) for problem in problems] == [
        "f:1: more than 20000 values; do aliases (`*`) multiply them?"
    ]


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"#" * MAX_BYTES)
    assert read(file, "f").empty
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    problems = read(file, "f").problems
    assert [p.text for p in problems] == [
        "the file is larger than 1 MiB, the most that a definition may have"
    ]


def test_other_encodings_are_told_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a: 1\nb: \xe9\n")
    assert [str(problem) for problem in read(file, "f").problems] == ["f:2: not text in UTF-8"]


@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!'\"#|> \n\t,?0.", max_size=40))
def test_no_text_whatever_ends_in_anything_but_a_document(text: str) -> None:
    document = parse(text, "f")
    assert document.problems or document.data is not None


SETTINGS = {
    "archive_max_age: 24": (
        "1: archive_max_age: expected a length of time such as 30m, 24h or 7d, got 24"
    ),
    "archive_max_age:": (
        "1: archive_max_age: expected a length of time such as 30m, 24h or 7d, got nothing"
    ),
    "accel: kwm": '1: accel: expected one of `auto`, `kvm`, `tcg`, got "kwm"; did you mean `kvm`?',
    "jobs: 0": "1: jobs: expected at least 1, got 0",
    "jobs: '2'": '1: jobs: expected a whole number, got "2" (text); leave out the quotes',
    "mirrors: {}": "1: mirrors: unknown key; did you mean `mirror`?",
    "mirror: {debian: ftp://m/debian}": (
        '1: mirror.debian: expected a URL with http, https, file or copy, got "ftp://m/debian"'
    ),
    "mirror: {debian: 'https://u:p@m/debian'}": (
        "1: mirror.debian: a URL here cannot hold a user or password: use apt's auth.conf"
    ),
    "mirror: {Debian: 'https://m/debian'}": (
        "1: mirror.Debian: expected a name such as debian or debian-security"
    ),
    "- jobs": "1: expected a mapping (`key: value`), got a list",
}


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_are_told_as_exactly(tmp_path: Path, text: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "settings.yaml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load_settings(tmp_path / "images")
    assert caught.value.message == f"images/settings.yaml:{SETTINGS[text]}"
    assert "recast schema settings" in caught.value.hint
