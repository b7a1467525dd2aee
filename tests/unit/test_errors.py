"""Exit codes are a promise to scripts, and the docstring is where people read it."""

from __future__ import annotations

import re

from pipeline import errors
from pipeline.errors import RecastError


def all_errors(base: type[RecastError] = RecastError) -> list[type[RecastError]]:
    children = [c for c in base.__subclasses__() if c.__module__ == errors.__name__]
    return [base, *(found for child in children for found in all_errors(child))]


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn = re.findall(r"(\w+(?:Error|Interrupted)|Interrupted)\s+(\d+)", errors.__doc__ or "")
    assert {name: int(code) for name, code in drawn} == {
        error.__name__: error.exit_code for error in all_errors()
    }


def test_codes_stay_apart_between_classes_and_agree_below_one() -> None:
    tops = RecastError.__subclasses__()
    own = [top.exit_code for top in tops if top.__module__ == errors.__name__]
    assert len(set(own)) == len(own)
    assert 0 not in own
    for top in tops:
        assert all(child.exit_code == top.exit_code for child in top.__subclasses__())


def test_an_error_reads_as_its_message_and_keeps_its_hint() -> None:
    error = errors.HostError("no `qemu-img`", hint="Install qemu-utils.")
    assert str(error) == "no `qemu-img`"
    assert error.hint == "Install qemu-utils."
