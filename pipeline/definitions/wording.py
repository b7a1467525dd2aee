"""What pydantic found, in sentences for the person who wrote the file."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.definitions.document import Document, Problem, Route
from pipeline.models.fields import ENTRY_PROBLEMS, shown

# Words that people bring from elsewhere, and what is meant here.
_MEANT = {
    "parent": "from",
    "base": "from",
    "inherit": "from",
    "env": "environment",
    "cmdline": "kernel_arguments",
    "kernel_cmdline": "kernel_arguments",
    "suite": "release",
    "os": "distribution",
    "architecture": "arch",
    "sizes": "budget",
    "formats": "outputs",
    "octal": "mode",
    "mirrors": "mirror",
    "rollout": "waves",
    "percent": "share",
    "percentage": "share",
    "reviewers": "approvals",
    "threshold": "approvals",
}
_EXPLAINED = {
    "version": "unknown key; the version comes from the commit and is never written down",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean `x`?`` for the nearest of *known*, or else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def listed(words: Iterable[str]) -> str:
    """`` `a`, `b` ``: names as a message lists them."""
    return ", ".join(f"`{word}`" for word in words)


def problems_of(
    error: ValidationError, model: type[BaseModel], document: Document
) -> list[Problem]:
    """Every problem that a validation found, each with its line.

    Args:
        error: what pydantic raised.
        model: what the document was to be.
        document: the document.
    """
    found: list[Problem] = []
    for details in error.errors(include_url=False):
        route = _route(details, document)
        if any(route[: len(spoilt)] == spoilt for spoilt in document.spoilt):
            continue
        if _miscounted(details):
            continue
        if details["type"] == ENTRY_PROBLEMS:
            entries = details["ctx"]["problems"]
            for where, text in entries:
                deeper = where if isinstance(where, tuple) else (where,)
                found.append(document.problem((*route, *deeper), text))
        else:
            found.append(document.problem(route, _sentence(details, route, model, document)))
    return found


def _miscounted(details: ErrorDetails) -> bool:
    """Does pydantic miss entries only because they are wrong, each of which it tells besides?"""
    given = details["input"]
    return (
        details["type"] == "too_short"
        and isinstance(given, list)
        and len(given) >= details.get("ctx", {})["min_length"]
    )


def _route(details: ErrorDetails, document: Document) -> Route:
    """The error's place in the document, without the steps that only pydantic knows."""
    route: Route = ()
    for step in details["loc"]:
        last = step == details["loc"][-1] and details["type"] in ("missing", "extra_forbidden")
        if (*route, step) in document.places or last:
            route = (*route, step)
    return route


def _sentence(
    details: ErrorDetails, route: Route, model: type[BaseModel], document: Document
) -> str:
    kind = details["type"]
    if kind == "extra_forbidden":
        return unknown_key(str(route[-1]), model, route[:-1])
    if kind == "missing":
        return "missing; it must be given"
    got = _got(details["input"], document.place(route).text)
    context = details.get("ctx", {})
    words = _EXPECTED.get(kind)
    if words is None:
        return str(details["msg"])
    return words(got, details["input"], context)


def _got(value: object, written: str) -> str:
    """*value* as the person wrote it, and what YAML takes it for."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"{shown(value)} (text)"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    kind = "a yes/no value" if isinstance(value, bool) else "a number"
    if isinstance(value, date):
        kind = "a date"
    return f"{written or value} ({kind})"


def _text(got: str, value: object, _context: dict[str, Any]) -> str:
    if value is None or isinstance(value, list | dict):
        return f"expected text, got {got}"
    return f'expected text, got {got}; put it in quotes: "{got.rsplit(" (", 1)[0]}"'


def _number(got: str, value: object, _context: dict[str, Any]) -> str:
    bare = isinstance(value, str) and value.strip().isdigit()
    return f"expected a whole number, got {got}" + ("; leave out the quotes" if bare else "")


def _list(got: str, value: object, _context: dict[str, Any]) -> str:
    if value is None:
        return "expected a list, got nothing; leave the key out, or write []"
    return f"expected a list, got {got}" + (f"; write [{value}]" if _short(value) else "")


def _short(value: object) -> bool:
    return isinstance(value, str) and value.replace("-", "").isalnum()


def _mapping(got: str, value: object, _context: dict[str, Any]) -> str:
    more = "; leave the key out, or write {}" if value is None else ""
    return f"expected a mapping (`key: value`), got {got}{more}"


def _choice(got: str, value: object, context: dict[str, Any]) -> str:
    choices = [each.strip("'") for each in context["expected"].replace(" or ", ", ").split(", ")]
    if len(choices) == 1:
        return f"expected {listed(choices)}, got {shown(value) if isinstance(value, str) else got}"
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    got = shown(value) if isinstance(value, str) else got
    return f"expected one of {listed(choices)}, got {got}{near}"


def _at_least(_got: str, value: object, context: dict[str, Any]) -> str:
    return f"expected at least {context['ge']}, got {value}"


def _at_most(_got: str, value: object, context: dict[str, Any]) -> str:
    return f"expected at most {context['le']}, got {value}"


def _some(_got: str, _value: object, _context: dict[str, Any]) -> str:
    return "expected at least one entry, got none"


def _few(_got: str, value: object, context: dict[str, Any]) -> str:
    return f"expected at most {context['max_length']} entries, got {len(cast(list[Any], value))}"


def _short_text(_got: str, value: object, context: dict[str, Any]) -> str:
    return f"expected at most {context['max_length']} characters, got {len(str(value))}"


def _yes_no(got: str, _value: object, _context: dict[str, Any]) -> str:
    return f"expected true or false, got {got}"


_EXPECTED: dict[str, Callable[[str, object, dict[str, Any]], str]] = {
    "string_type": _text,
    "int_type": _number,
    "tuple_type": _list,
    "mapping_type": _mapping,
    "dict_type": _mapping,
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "literal_error": _choice,
    "greater_than_equal": _at_least,
    "less_than_equal": _at_most,
    "too_short": _some,
    "too_long": _few,
    "string_too_long": _short_text,
    "bool_type": _yes_no,
    "bool_parsing": _yes_no,
}


def unknown_key(key: str, model: type[BaseModel], around: Route = ()) -> str:
    """What to say of a key that is not known at *around* in a document of *model*."""
    here = _model_at(model, around)
    known = _keys(here)
    if key in _EXPLAINED:
        return _EXPLAINED[key]
    if _MEANT.get(key) in known:
        return f"unknown key; did you mean `{_MEANT[key]}`?"
    near = did_you_mean(key, known)
    if near:
        return f"unknown key{near}"
    for name, field in model.model_fields.items():
        inner = next(_models(field.annotation), None)
        if inner is not None and inner is not here and key in _keys(inner):
            return f"unknown key here; it belongs under `{name}`"
    return f"unknown key; known here: {listed(known)}"


def _keys(model: type[BaseModel]) -> list[str]:
    """The keys of *model* as a file spells them."""
    return [str(field.validation_alias or name) for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], route: Route) -> type[BaseModel]:
    for step in route:
        if isinstance(step, str):
            fields = {str(f.validation_alias or n): f for n, f in model.model_fields.items()}
            inner = next(_models(fields[step].annotation), None) if step in fields else None
            model = inner or model
    return model


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that values of a type hold: ``tuple[FileEntry, ...]`` holds ``FileEntry``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType, tuple):
        for inner in get_args(annotation):
            yield from _models(inner)
