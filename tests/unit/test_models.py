"""Laws of the models: order and inheritance of images, sizes, times, what paths may persist."""

from __future__ import annotations

import posixpath
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import DefinitionError, UsageError
from pipeline.files import parse_size
from pipeline.models.fields import format_duration, parse_duration
from pipeline.models.image import Budget, Catalog, HealthCheck, ImageDefinition
from pipeline.models.release import Part, Release, TestVerdict
from pipeline.models.rules import find_cycles, persist_path
from pipeline.models.settings import Settings

NAMES = [f"image-{letter}" for letter in "abcdefgh"]
DIGEST = "0123456789abcdef" * 4

words = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4).map(tuple)


@st.composite
def families(draw: st.DrawFn) -> dict[str, ImageDefinition]:
    """Images whose parents are all drawn before them, in whatever order of names and keys."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]
    images: dict[str, ImageDefinition] = {}
    for index, name in enumerate(names):
        parent = draw(st.sampled_from([None, *names[:index]]))
        foundation: dict[str, object] = (
            {"from": parent} if parent else {"distribution": "debian", "release": "trixie"}
        )
        lists = {
            "packages": draw(words),
            "elements": draw(words),
            "kernel_arguments": draw(words),
            "persist": tuple(f"/srv/{word}" for word in draw(words)),
            "health": tuple(HealthCheck(name=word, command=(name,)) for word in draw(words)),
            "environment": {f"DIB_{word}": name for word in draw(words)},
        }
        images[name] = ImageDefinition.model_validate({"name": name, **foundation, **lists})
    order = draw(st.permutations(list(images)))
    return {name: images[name] for name in order}


# --- the catalog


@given(families())
def test_parents_stand_before_children_and_the_order_is_one(
    images: dict[str, ImageDefinition],
) -> None:
    order = Catalog(images, {}).order()
    assert sorted(order) == sorted(images)
    for name, image in images.items():
        if image.from_ is not None:
            assert order.index(image.from_) < order.index(name)
    shuffled = dict(sorted(images.items(), reverse=True))
    assert Catalog(shuffled, {}).order() == order


@given(families())
def test_another_leaf_moves_no_other_image(images: dict[str, ImageDefinition]) -> None:
    parent = next(iter(images))
    leaf = ImageDefinition(name="image-new", from_=parent)
    before = Catalog(images, {}).order()
    after = Catalog({**images, leaf.name: leaf}, {}).order()
    assert [name for name in after if name != leaf.name] == before


@given(families())
def test_ancestors_and_descendants_are_each_others_mirror(
    images: dict[str, ImageDefinition],
) -> None:
    catalog = Catalog(images, {})
    for name in catalog:
        ancestors = catalog.ancestors(name)
        assert ancestors == [each for each in catalog.order() if name in catalog.descendants(each)]
        assert name not in ancestors


@given(families())
def test_what_is_inherited_comes_first_and_once(images: dict[str, ImageDefinition]) -> None:
    catalog = Catalog(images, {})
    for name in catalog:
        resolved = catalog.resolved(name)
        line = [images[each] for each in (*catalog.ancestors(name), name)]
        for field in ("packages", "elements", "persist"):
            said = [entry for image in line for entry in getattr(image, field)]
            assert list(getattr(resolved, field)) == list(dict.fromkeys(said)), field
        said = [entry for image in line for entry in image.kernel_arguments]
        assert list(resolved.kernel_arguments) == list(dict.fromkeys(said[::-1]))[::-1]
        checks = {check.name: check for image in line for check in image.health}
        assert list(resolved.health) == list(checks.values())
        expected: dict[str, str] = {}
        for image in line:
            expected.update(image.environment)
        assert resolved.environment == expected
        assert resolved.from_ == images[name].from_
        assert (resolved.distribution, resolved.release) == ("debian", "trixie")


def test_an_unknown_image_is_answered_with_a_near_one() -> None:
    catalog = Catalog({"base": ImageDefinition(name="base", distribution="x", release="y")}, {})
    with pytest.raises(UsageError, match="there is no image `bas`") as caught:
        catalog["bas"]
    assert caught.value.hint == "Did you mean `base`? Images here: base."
    with pytest.raises(UsageError):
        catalog.resolved("other")


def test_a_catalog_without_a_parent_or_with_a_cycle_cannot_be() -> None:
    lost = ImageDefinition(name="lost", from_="gone")
    with pytest.raises(DefinitionError, match="its parent `gone` does not exist"):
        Catalog({"lost": lost}, {})
    images = {name: ImageDefinition(name=name, from_=of) for name, of in (("a", "b"), ("b", "a"))}
    with pytest.raises(DefinitionError, match="a cycle of parents: a → b → a"):
        Catalog(images, {})


@given(st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from("abcdefgz") | st.none()))
def test_each_cycle_is_found_once_and_nothing_else_is(parents: dict[str, str | None]) -> None:
    cycles = find_cycles(parents)
    members = {name for cycle in cycles for name in cycle}
    assert sum(map(len, cycles)) == len(members)
    for cycle in cycles:
        assert cycle[0] == min(cycle)
        assert [parents[name] for name in cycle] == [*cycle[1:], cycle[0]]
    for name in set(parents) - members:
        steps = [name]
        while (parent := parents.get(steps[-1])) is not None and len(steps) <= len(parents):
            steps.append(parent)
        assert name not in steps[1:]


# --- immutability and the way through JSON


def test_definitions_do_not_change() -> None:
    image = ImageDefinition(name="base", distribution="debian", release="trixie")
    with pytest.raises(ValidationError):
        image.name = "other"  # type: ignore[misc]
    catalog = Catalog({"base": image}, {"base": Path("x")})
    with pytest.raises(TypeError):
        catalog.images["other"] = image  # type: ignore[index]


@given(families())
def test_a_definition_survives_json(images: dict[str, ImageDefinition]) -> None:
    for image in images.values():
        text = image.model_dump_json(by_alias=True)
        assert ImageDefinition.model_validate_json(text) == image


def release(**changes: object) -> Release:
    return Release.model_validate(
        {
            "image": "edge-web",
            "version": "20260301.120000.g0123456789ab",
            "commit": "0123456789ab",
            "created": "2026-03-01T13:00:00+01:00",
            "build_key": "k",
            "root_hash": DIGEST,
            "boot_digest": "b",
            "definition_digest": "d",
            "parts": {"root": {"file": "x.root.erofs", "digest": DIGEST, "size": 4096}},
            **changes,
        }
    )


def test_a_release_is_named_by_image_version_and_architecture() -> None:
    assert release().name == "edge-web_20260301.120000.g0123456789ab_amd64"


def test_a_manifest_survives_json_and_keeps_utc() -> None:
    text = release().model_dump_json()
    assert '"created":"2026-03-01T12:00:00Z"' in text
    assert Release.model_validate_json(text) == release()


def test_a_manifest_of_a_newer_recast() -> None:
    assert release(colour="blue") == release(), "keys that are not known are passed over"
    with pytest.raises(ValidationError, match="a newer Recast wrote this manifest"):
        release(format=2)


@pytest.mark.parametrize("file", ["../x", "a/b", "/etc/passwd", "", ".hidden", "a b"])
def test_a_part_is_a_plain_file_name(file: str) -> None:
    with pytest.raises(ValidationError, match="expected the name of a file"):
        Part(file=file, digest=DIGEST, size=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1_2"},
        {"version": "../1"},
        {"version": ""},
        {"root_hash": DIGEST[1:]},
        {"root_hash": DIGEST.upper()},
        {"created": "2026-03-01T12:00:00"},
        {"image": "Edge"},
        {"commit": "main"},
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        release(**changes)


def test_a_verdict_survives_json() -> None:
    verdict = TestVerdict.model_validate(
        {
            "provider": "qemu",
            "passed": False,
            "root_hash": DIGEST,
            "tests": 3,
            "failures": [{"test": "t", "message": "m"}],
            "seconds": 61.5,
            "boot_seconds": 40,
            "tests_digest": "d",
            "when": "2026-03-01T12:00:00Z",
        }
    )
    assert TestVerdict.model_validate_json(verdict.model_dump_json()) == verdict


# --- values


@given(st.integers(1, 10**6), st.sampled_from(["", "KiB", "MiB", "GiB", "M", "g"]))
def test_sizes_are_read_as_units_of_1024(number: int, unit: str) -> None:
    factor = 1024 ** "KMG".find(unit[:1].upper()) * 1024 if unit else 1
    budget = Budget.model_validate({"root": f"{number}{unit}"})
    assert budget.root == number * factor == parse_size(f"{number} {unit}")
    assert Budget.model_validate(budget.model_dump()) == budget


@given(st.integers(0, 10**7))
def test_lengths_of_time_survive_being_written(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("1.5h", 5400)],
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    settings = Settings.model_validate({"archive_max_age": text})
    assert settings.archive_max_age == seconds
    assert Settings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1 hour", "1w", "1h30m", "١h"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="not a length of time"):
        parse_duration(text)


@given(st.lists(st.sampled_from(["etc", "var", "usr", "srv", "data", "lib", "x"]), max_size=5))
def test_no_persisting_path_hides_the_release(steps: list[str]) -> None:
    path = "/" + posixpath.join("", *steps)
    hides = path in ("/", "/etc", "/var", "/var/lib") or steps[0] in ("usr", "data", "lib")
    if hides:
        with pytest.raises(ValueError, match="cannot persist"):
            persist_path(path)
    else:
        assert persist_path(path) == path


@given(st.integers(1, 600), st.integers(1, 1300))
def test_the_esp_holds_two_ukis_and_some_room(uki: int, esp: int) -> None:
    data = {"uki": f"{uki}MiB", "esp": f"{esp}MiB"}
    if esp >= 2 * uki + 16:
        assert Budget.model_validate(data).esp == esp << 20
    else:
        with pytest.raises(ValidationError, match="two UKIs"):
            Budget.model_validate(data)
