"""YAML files whose every value knows its line, read strictly and without surprises.

Only plain YAML is taken: no tags beyond text, numbers, yes/no and dates, no merge keys, no key
twice. A file that is too large, nested too deeply or that multiplies itself through aliases is
refused before it costs memory or time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20
"""The largest file that is read, in bytes."""

_MAX_DEPTH = 32
_MAX_VALUES = 20_000
_PREFIX = "tag:yaml.org,2002:"
_SCALARS = frozenset(
    _PREFIX + kind for kind in ("str", "int", "float", "bool", "null", "timestamp")
)

Route = tuple[str | int, ...]
"""Keys and indexes from a document's root to a value."""


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, and where; ``exact`` when the column is worth telling."""

    label: str
    line: int
    column: int
    text: str
    field: str = ""
    exact: bool = False

    def __str__(self) -> str:
        place = f"{self.label}:{self.line}" if self.line else self.label
        if self.exact:
            place += f":{self.column}"
        return f"{place}: {self.field}: {self.text}" if self.field else f"{place}: {self.text}"


@dataclass(frozen=True)
class Place:
    """Where a value stands, both counted from 1, and how it is written there if it is short."""

    line: int
    column: int
    text: str = ""


@dataclass
class Document:
    """What a YAML file holds.

    Attributes:
        label: the file's name in messages.
        data: dicts, lists, text, numbers, …; None when it cannot be read.
        places: where each value stands.
        problems: what is wrong with it as YAML.
        spoilt: values that are a problem already and need no second one.
        empty: is there nothing in it but white space and comments?
    """

    label: str
    data: object = None
    places: dict[Route, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spoilt: set[Route] = field(default_factory=set)
    empty: bool = False

    def place(self, route: Route) -> Place:
        """Where the value at *route* stands, or else the nearest thing around it."""
        for length in range(len(route), -1, -1):
            found = self.places.get(route[:length])
            if found is not None:
                return found
        return Place(1, 1)

    def problem(self, route: Route, text: str) -> Problem:
        """A problem with the value at *route*."""
        place = self.place(route)
        return Problem(self.label, place.line, place.column, text, dotted(route))

    def at(self, *route: str | int) -> object:
        """The value at *route*, or None when there is none."""
        value = self.data
        for step in route:
            if isinstance(step, str) and isinstance(value, dict):
                value = value.get(step)
            elif isinstance(step, int) and isinstance(value, list) and step < len(value):
                value = value[step]
            else:
                return None
        return value


def dotted(route: Route) -> str:
    """``files[0].path``."""
    text = ""
    for step in route:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read(path: Path, label: str) -> Document:
    """Read a YAML file; what is wrong with it is in the document's ``problems``.

    Args:
        path: the file.
        label: its name in messages.
    """

    def unreadable(text: str, line: int = 0) -> Document:
        return Document(label, problems=[Problem(label, line, 1, text)])

    if not path.is_file():
        return unreadable("expected a file")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        return unreadable(f"cannot be read: {error.strerror}")
    if len(raw) > MAX_BYTES:
        return unreadable("the file is larger than 1 MiB, the most that a definition may have")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return unreadable("not text in UTF-8", raw.count(b"\n", 0, error.start) + 1)
    return parse(text, label)


def parse(text: str, label: str) -> Document:
    """Take YAML apart; what is wrong with it is in the document's ``problems``.

    Args:
        text: the YAML.
        label: its name in messages.
    """
    document = Document(label)
    try:
        root = _compose(text)
        if root is None:
            document.empty = True
            document.problems.append(Problem(label, 1, 1, "the file is empty"))
        else:
            document.data = _Reader(document).value(root, ())
    except yaml.YAMLError as error:
        document.problems.append(_syntax_problem(error, text, label))
        document.data = None
    return document


def _compose(text: str) -> yaml.Node | None:
    """The tree of nodes; None for an empty document. libyaml is fast, PyYAML words errors well."""
    fast = getattr(yaml, "CSafeLoader", None)
    if fast is not None:
        try:
            return _tree(text, fast)
        except _Refused:
            raise
        except yaml.YAMLError:
            pass
    return _tree(text, yaml.SafeLoader)


def _tree(text: str, loader: Any) -> yaml.Node | None:
    depth = 0
    for event in yaml.parse(text, Loader=loader):  # the composer below recurses, in C as well
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _Refused("values are nested too deeply")
    return _root(yaml.compose(text, Loader=loader))


def _root(node: yaml.Node | None) -> yaml.Node | None:
    return None if node is not None and node.tag == _PREFIX + "null" else node


class _Refused(yaml.YAMLError):
    """The document as a whole is too much."""


class _Reader:
    """Turns nodes into values, noting where each stands."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._scalars = yaml.constructor.SafeConstructor()
        self._count = 0

    def value(self, node: yaml.Node, route: Route) -> object:
        """The value of *node*; a problem is noted, and None taken for what cannot be had."""
        self._count_one()
        if len(route) > _MAX_DEPTH:
            raise _Refused("values are nested too deeply; does an alias (`*`) hold itself?")
        self._document.places.setdefault(route, _place(node))
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node, route)
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            return [self.value(each, (*route, i)) for i, each in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return self._mapping(node, route)
        tag = node.tag.replace(_PREFIX, "!!")
        self._spoil(route, f"the tag `{tag}` is not allowed: only plain values are")
        return None

    def _count_one(self) -> None:
        self._count += 1
        if self._count > _MAX_VALUES:
            raise _Refused(f"more than {_MAX_VALUES} values; do aliases (`*`) multiply them?")

    def _scalar(self, node: yaml.ScalarNode, route: Route) -> object:
        try:
            value: object = self._scalars.construct_object(node)
        except (ValueError, LookupError, AttributeError, OverflowError, yaml.YAMLError):
            # PyYAML trusts an explicit tag (`!!int x`) to fit what follows it.
            kind = "a date" if node.tag == _PREFIX + "timestamp" else "a number"
            self._spoil(route, f"`{node.value[:40]}` cannot be read as {kind}; put it in quotes")
            return None
        return value

    def _mapping(self, node: yaml.MappingNode, route: Route) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            self._count_one()
            where = _place(key_node)
            if key_node.tag == _PREFIX + "merge":
                self._note(where, route, "merge keys (`<<`) are not taken here; write the keys out")
                continue
            if key_node.tag != _PREFIX + "str" or not isinstance(key_node, yaml.ScalarNode):
                got = f"`{where.text}`; put it in quotes" if where.text else "something else"
                self._note(where, route, f"expected a key that is text, got {got}")
                continue
            key: str = key_node.value
            step = (*route, key)
            if key in result:
                first = self._document.places[step].line
                self._note(where, step, f"this key is given already, on line {first}")
                continue
            written = _place(value_node).text
            self._document.places[step] = Place(where.line, where.column, written)
            result[key] = self.value(value_node, step)
        return result

    def _note(self, place: Place, route: Route, text: str) -> None:
        self._document.problems.append(
            Problem(self._document.label, place.line, place.column, text, dotted(route))
        )

    def _spoil(self, route: Route, text: str) -> None:
        self._document.spoilt.add(route)
        self._document.problems.append(self._document.problem(route, text))


def _place(node: yaml.Node) -> Place:
    text = node.value if isinstance(node, yaml.ScalarNode) and len(node.value) <= 60 else ""
    return Place(node.start_mark.line + 1, node.start_mark.column + 1, text)


_WORDING = (
    (r"mapping values are not allowed", "a `:` where none can stand; is the indentation right? "
     "Text that holds `: ` needs quotes"),
    (r"could not find expected ':'", "expected `key: value`"),
    (r"expected <block end>, but found '-'", "wrong indentation: this list entry does not line up"),
    (r"expected <block end>", "wrong indentation: this does not line up with what is above it"),
    (r"expected ',' or '\]'", "a list that starts with `[` has no `]`, or a comma is missing"),
    (r"expected ',' or '\}'", "a mapping that starts with `{` has no `}`, or a comma is missing"),
    (r"but found another document", "more than one document in the file (`---`)"),
    (r"but found '<stream end>'", "the file ends where more is expected"),
    (r"found undefined alias '(.*)'", r"there is no anchor `&\1` for the alias `*\1`"),
)  # fmt: skip


def _syntax_problem(error: yaml.YAMLError, text: str, label: str) -> Problem:
    """What is wrong, in the words of a person who writes YAML rather than parses it."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        character: object = error.character
        code = character if isinstance(character, int) else ord(str(character)[:1])
        what = f"a control character (U+{code:04X})"
        return Problem(label, line, column, f"not valid YAML: {what}", exact=True)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return Problem(label, 1, 1, str(error))
    what = str(getattr(error, "problem", None) or error)
    context = getattr(error, "context", None) or ""
    opened = getattr(error, "context_mark", None)
    lines = text.splitlines()
    line_text = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line_text[: len(line_text) - len(line_text.lstrip())]:
        what = "a tab; YAML is indented with spaces"
    elif "quoted scalar" in context and "end of stream" in what and opened is not None:
        what = f"the quote that opens on line {opened.line + 1} is never closed"
    else:
        for pattern, words in _WORDING:
            found = re.search(pattern, what)
            if found:
                what = found.expand(words)
                break
    return Problem(label, mark.line + 1, mark.column + 1, f"not valid YAML: {what}", exact=True)
