"""What a person is told of ``images/channels.yaml``, and what a right one means."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.definitions import load_catalog, load_channels, load_settings
from pipeline.errors import DefinitionError, UsageError
from pipeline.models.channel import (
    RESERVED,
    ChannelDefinition,
    Channels,
    Expiry,
    Gates,
    Retention,
    Wave,
)
from pipeline.models.fields import format_duration
from pipeline.models.schema import channels_schema

OURS = Path(__file__).parent.parent.parent / "images"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("edge-base", "edge-web"):
        (tmp_path / "images" / name / "tests").mkdir(parents=True)
        (tmp_path / "images" / name / "tests" / "test_it.py").write_text("")
        (tmp_path / "images" / name / "image.yaml").write_text(
            f"name: {name}\ndistribution: debian\nrelease: trixie\n"
        )
    return tmp_path / "images"


def told(images: Path, text: str | None = None) -> list[str]:
    if text is not None:
        (images / "channels.yaml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load_channels(images)
    assert "recast schema channels" in caught.value.hint
    return [line.removeprefix("images/channels.yaml:") for line in caught.value.message.split("\n")]


# --- what is right


def test_our_own_channels_mean_what_they_say() -> None:
    found = load_channels(OURS)
    assert found.names == ("dev", "candidate", "stable")
    stable = found["stable"]
    assert (stable.gates.tests, stable.gates.soak, stable.gates.approvals) == (("qemu",), 60, 1)
    assert [(wave.share, wave.soak) for wave in stable.waves] == [
        (0.1, 3600),
        (0.5, 14400),
        (1.0, 0),
    ]
    assert (found.retention.keep, found.retention.grace) == (5, 7 * 86400)


@pytest.mark.parametrize(
    "text", [None, "", "# all defaults\n", "---\n", "{}\n", "\ufeff# marked\n"]
)
def test_channels_are_optional(images: Path, text: str | None) -> None:
    if text is not None:
        (images / "channels.yaml").write_text(text)
    assert load_channels(images) == Channels()
    assert Channels().names == ("dev", "candidate", "stable")


def test_a_channel_knows_its_neighbours() -> None:
    channels = Channels()
    assert channels.first.name == "dev"
    assert channels.before("dev") is None
    assert channels.before("stable") == channels["candidate"]
    assert channels.after("dev") == channels["candidate"]
    assert channels.after("stable") is None
    assert "stabel" not in channels


def test_an_unknown_channel_names_near_ones() -> None:
    for ask in (Channels().__getitem__, Channels().before, Channels().after):
        with pytest.raises(UsageError, match="no channel `stabel`") as caught:
            ask("stabel")
        assert "`stable`" in caught.value.hint
        assert "dev, candidate, stable" in caught.value.hint


def test_a_channels_file_is_no_image_and_needs_none(images: Path) -> None:
    (images / "channels.yaml").write_text("channels: [{name: only}]\n")
    (images / "root.json").write_text("{}")
    assert load_catalog(images).order() == ["edge-base", "edge-web"]
    assert load_channels(images).names == ("only",)


def test_a_wire_budget_is_a_size(images: Path) -> None:
    text = "channels: [{name: a, gates: {wire_budget: 20MiB}}]"
    (images / "channels.yaml").write_text(text)
    assert load_channels(images)["a"].gates.wire_budget == 20 << 20


# --- one wrong thing at a time

WRONG = {
    "channels: []": "1: channels: expected at least one entry, got none",
    "channels:": "1: channels: expected a list, got nothing; leave the key out, or write []",
    "channels: [dev]": '1: channels[0]: expected a mapping (`key: value`), got "dev" (text)',
    "channels: [{}]": "1: channels[0].name: missing; it must be given",
    "channels:\n - name: a\n - name: a": '3: channels[1].name: "a" is in the list already, at [0]',
    "channels: [{name: Dev}]": (
        '1: channels[0].name: expected a name of small letters, digits and dashes, got "Dev"'
    ),
    "channel: []": "1: channel: unknown key; did you mean `channels`?",
    "channels: [{name: a, gate: {}}]": "1: channels[0].gate: unknown key; did you mean `gates`?",
    "channels: [{name: a, soak: 1h}]": (
        "1: channels[0].soak: unknown key; "
        "known here: `name`, `description`, `gates`, `deltas`, `waves`"
    ),
    "channels: [{name: a, rollout: []}]": (
        "1: channels[0].rollout: unknown key; did you mean `waves`?"
    ),
    "channels: [{name: a, gates: {soak: 1h}}]": (
        "1: channels[0].gates.soak: a is the first channel: there is none before it to wait in"
    ),
    "channels: [{name: a, gates: {soak: 24}}]": (
        "1: channels[0].gates.soak: expected a length of time such as 30m, 24h or 7d, got 24"
    ),
    "channels: [{name: a, gates: {soak: 0.5}}]": (
        "1: channels[0].gates.soak: expected a length of time such as 30m, 24h or 7d, got 0.5"
    ),
    "channels: [{name: a, gates: {tests: [quemu]}}]": (
        '1: channels[0].gates.tests[0]: there is no provider "quemu"; did you mean `qemu`?'
    ),
    "channels: [{name: a, gates: {tests: [qemu, qemu]}}]": (
        '1: channels[0].gates.tests[1]: "qemu" is in the list already, at [0]'
    ),
    "channels: [{name: a, gates: {approvals: two}}]": (
        '1: channels[0].gates.approvals: expected a whole number, got "two" (text)'
    ),
    "channels: [{name: a, gates: {approvals: 0}}]": (
        "1: channels[0].gates.approvals: expected at least 1, got 0"
    ),
    "channels: [{name: a, gates: {max_growth: 1 pound}}]": (
        '1: channels[0].gates.max_growth: expected a size such as 512MiB, got "1 pound"'
    ),
    "channels: [{name: a, gates: {wire_budget: much}}]": (
        '1: channels[0].gates.wire_budget: expected a size such as 512MiB, got "much"'
    ),
    "channels: [{name: a, waves: []}]": (
        "1: channels[0].waves: expected the last wave to have the share 100%: it is what brings "
        "it to all"
    ),
    "channels: [{name: a, waves: [{share: 10%, soak: 1h}]}]": (
        "1: channels[0].waves: expected the last wave to have the share 100%: it is what brings "
        "it to all"
    ),
    "channels:\n - name: a\n   waves:\n    - {share: 9%, soak: 1h}\n    - {share: 9%, soak: 1h}\n"
    "    - share: 100%": (
        "5: channels[0].waves[1].share: expected a larger share than that of the wave before it, "
        "which it includes"
    ),
    "channels: [{name: a, waves: [{share: 10%}, {share: 100%}]}]": (
        "1: channels[0].waves[0].soak: expected some time: without it the next wave opens in the "
        "same moment"
    ),
    "channels: [{name: a, waves: [{share: 100%, soak: 1h}]}]": (
        "1: channels[0].waves[0].soak: no wave comes after the last one: a soak is the time until "
        "the next wave opens"
    ),
    "channels: [{name: a, waves: [{share: 101%}]}]": (
        '1: channels[0].waves[0].share: expected a share such as 1% or 100%, got "101%"'
    ),
    "channels: [{name: a, waves: [{share: 0%}]}]": (
        '1: channels[0].waves[0].share: expected a share such as 1% or 100%, got "0%"'
    ),
    "channels: [{name: a, waves: [{share: 1.0}]}]": (
        "1: channels[0].waves[0].share: expected a share such as 1% or 100%, got 1.0"
    ),
    "channels: [{name: a, waves: [{share: 100%, percent: 100%}]}]": (
        "1: channels[0].waves[0].percent: unknown key; did you mean `share`?"
    ),
    "retention: {keep: 0}": "1: retention.keep: expected at least 1, got 0",
    "retention: {grace: 59m}": (
        "1: retention.grace: expected at least 1h: what is being published right now must not go"
    ),
    "expiry: {timestamp: 0s}": (
        "1: expiry.timestamp: expected at least 1s: it would have expired when it is signed"
    ),
    "expiry: {root: 36501d}": '1: expiry.root: expected at most 36500d, got "36501d"',
    "images: [edge-wed]": '1: images[0]: there is no image "edge-wed"; did you mean `edge-web`?',
    "images: [zzz]": '1: images[0]: there is no image "zzz"; known: `edge-base`, `edge-web`',
    "images: [edge-web, edge-web]": '1: images[1]: "edge-web" is in the list already, at [0]',
    "soak: 1h": "1: soak: unknown key; known here: `channels`, `retention`, `expiry`, `images`",
    "- name: dev": "1: expected a mapping (`key: value`), got a list",
}


@pytest.mark.parametrize("text", WRONG)
def test_one_wrong_thing_is_one_exact_sentence(images: Path, text: str) -> None:
    assert told(images, text + "\n") == [WRONG[text]]


@pytest.mark.parametrize("name", RESERVED)
def test_a_channel_cannot_have_the_name_of_a_role(images: Path, name: str) -> None:
    (line,) = told(images, f"channels: [{{name: {name}}}]\n")
    assert (
        line == f'1: channels[0].name: no channel can be called "{name}": it is the name of a role'
    )


@pytest.mark.parametrize("name", ["last", '"2026"'])
def test_a_channel_cannot_be_taken_for_a_run(images: Path, name: str) -> None:
    (line,) = told(images, f"channels: [{{name: {name}}}]\n")
    assert line.endswith("`recast log` takes it for a run")


def test_too_much_is_counted(images: Path) -> None:
    many = ", ".join(f"{{name: c{number}}}" for number in range(17))
    assert told(images, f"channels: [{many}]\n") == [
        "1: channels: expected at most 16 entries, got 17"
    ]
    assert told(images, f"channels: [{{name: a, description: {'x' * 201}}}]\n") == [
        "1: channels[0].description: expected at most 200 characters, got 201"
    ]


def test_all_problems_are_told_at_once(images: Path) -> None:
    text = """\
channels:
  - name: dev
    gates: {tests: [aws]}
  - name: root
    gates: {aprovals: 3}
images: [gone]
retention: {grace: 5m}
"""
    assert [line.partition(": ")[0] for line in told(images, text)] == ["3", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("name", "load"), [("channels", load_channels), ("settings", load_settings)]
)
def test_another_ending_is_not_passed_over(images: Path, name: str, load: Any) -> None:
    (images / f"{name}.yml").write_text("")
    with pytest.raises(DefinitionError, match=rf"^images/{name}\.yml: rename it to {name}\.yaml$"):
        load(images)
    (images / f"{name}.yaml").write_text("")
    with pytest.raises(DefinitionError, match=rf"{name}\.yml: remove it: {name}\.yaml is there"):
        load(images)


def test_what_is_no_file_is_told(images: Path) -> None:
    (images / "channels.yaml").mkdir()
    assert told(images) == [" expected a file"]
    (images / "channels.yaml").rmdir()
    (images / "channels.yaml").symlink_to("nowhere")
    assert told(images) == [" expected a file"]


# --- laws

_SECONDS = st.integers(min_value=1, max_value=1000 * 86400).map(float)
_NAMES = st.lists(
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True).filter(
        lambda n: n not in (*RESERVED, "last") and not n.isdigit()
    ),
    min_size=1,
    max_size=16,
    unique=True,
)


@st.composite
def _waves(draw: st.DrawFn) -> tuple[Wave, ...]:
    shares = sorted(draw(st.sets(st.integers(1, 9999), max_size=5)))
    steps = tuple(Wave(share=share / 10_000, soak=draw(_SECONDS)) for share in shares)
    return (*steps, Wave(share=1.0))


@st.composite
def _channels(draw: st.DrawFn) -> Channels:
    names = draw(_NAMES)
    return Channels(
        channels=tuple(
            ChannelDefinition(
                name=name,
                gates=Gates(
                    tests=draw(st.sampled_from([(), ("qemu",)])),
                    soak=draw(_SECONDS) if place else 0.0,
                    approvals=draw(st.integers(1, 16)),
                    max_package_changes=draw(st.none() | st.integers(0, 999)),
                    max_growth=draw(st.none() | st.integers(1, 1 << 40)),
                    wire_budget=draw(st.none() | st.integers(1, 1 << 40)),
                ),
                waves=draw(_waves()),
            )
            for place, name in enumerate(names)
        ),
        retention=Retention(keep=draw(st.integers(1, 100)), grace=draw(_SECONDS) + 3600),
        expiry=Expiry(root=draw(_SECONDS)),
    )


def _written(value: object, key: str = "") -> object:
    """A dump as a person would write it: times and shares as text."""
    if isinstance(value, dict):
        inner = {k: _written(v, k) for k, v in value.items()}
        return {k: v for k, v in inner.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_written(each) for each in value]
    if isinstance(value, float):
        return f"{value * 100:.6f}%" if key == "share" else format_duration(value)
    return value


def _load(written: object) -> Channels:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "channels.yaml").write_text(yaml.safe_dump(written))
        return load_channels(Path(folder))


@given(_channels())
def test_what_is_written_is_what_is_read(channels: Channels) -> None:
    written = _written(channels.model_dump())
    found = _load(written)
    assert found.names == channels.names
    for ours, theirs in zip(channels.channels, found.channels, strict=True):
        assert theirs.gates == ours.gates
        assert [w.soak for w in theirs.waves] == [w.soak for w in ours.waves]
        assert [w.share for w in theirs.waves] == pytest.approx([w.share for w in ours.waves])
    assert found.retention == channels.retention
    assert _validator().is_valid(written), "an editor takes what a load takes"


@given(_channels())
def test_a_dump_comes_back_the_same(channels: Channels) -> None:
    assert Channels.model_validate_json(channels.model_dump_json()) == channels


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Channels.model_fields, "name", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(_JUNK)
def test_whatever_is_written_ends_in_channels_or_in_sentences(junk: object) -> None:
    try:
        found = _load(junk)
    except DefinitionError as error:
        lines = error.message.split("\n")
    else:
        lines = []
        assert found.channels
    assert all("/channels.yaml:" in line for line in lines)


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-1", "1e300", '"1h', "true", "null"])
def test_signed_waves_have_times_that_can_be_reckoned_with(seconds: str) -> None:
    with pytest.raises(ValidationError):
        Wave.model_validate_json(f'{{"share": 1.0, "soak": {seconds}}}')


# --- the schema


def _validator() -> Any:
    kind = importlib.import_module("jsonschema").Draft202012Validator
    kind.check_schema(channels_schema())
    return kind(channels_schema())


def test_our_own_channels_fit_the_schema_and_its_defaults_are_as_one_writes_them() -> None:
    check = _validator()
    assert check.is_valid(yaml.safe_load((OURS / "channels.yaml").read_text()))
    schema = channels_schema()
    for model in (schema, *schema["$defs"].values()):
        for key, field in model["properties"].items():
            if field.get("default") is not None:
                whole = {**field, "$defs": schema["$defs"]}
                assert check.evolve(schema=whole).is_valid(field["default"]), key
    assert json.dumps(schema)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": []},
        {"channels": [{"name": "dev", "gates": {"aprovals": 2}}]},
        {"channels": [{"name": "dev", "gates": {"soak": 24}}]},
        {"channels": [{"name": "dev", "waves": [{"share": 0.5}]}]},
        {"retention": {"keep": "many"}},
        {"expiry": {"timestamp": "soon"}},
        {"chanels": []},
    ],
)
def test_an_editor_sees_what_a_load_would_refuse(change: dict[str, object]) -> None:
    assert not _validator().is_valid(change)
