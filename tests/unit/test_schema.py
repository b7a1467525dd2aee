"""The JSON Schemas that editors complete and check from."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.cli.schema import schema

SAMPLE = Path(__file__).parent.parent / "golden" / "definitions" / "sample" / "images"
BASE = {"name": "base", "distribution": "debian", "release": "trixie"}


def validator(what: str) -> Any:
    result = CliRunner().invoke(schema, [what], standalone_mode=False)
    data = json.loads(result.stdout)
    kind = importlib.import_module("jsonschema").Draft202012Validator
    kind.check_schema(data)
    return kind(data)


@pytest.mark.parametrize("file", sorted(SAMPLE.glob("*/image.yaml")), ids=lambda f: f.parent.name)
def test_the_sample_definitions_fit_the_schema(file: Path) -> None:
    assert list(validator("image").iter_errors(yaml.safe_load(file.read_text()))) == []


def test_the_sample_settings_fit_the_schema() -> None:
    data = yaml.safe_load((SAMPLE / "settings.yaml").read_text())
    assert list(validator("settings").iter_errors(data)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"pakages": []},
        {"packages": "nginx"},
        {"packages": [3]},
        {"from": "other"},
        {"release": None, "distribution": 3},
        {"name": "Base"},
        {"budget": {"root": "large"}},
        {"outputs": ["vmdk"]},
        {"tests": {"memory": 1}},
        {"files": [{"content": "x"}]},
    ],
)
def test_an_editor_sees_what_a_load_would_refuse(change: dict[str, object]) -> None:
    check = validator("image")
    assert check.is_valid(BASE)
    assert not check.is_valid({**BASE, **change})


def test_an_image_without_a_foundation_does_not_fit() -> None:
    check = validator("image")
    assert not check.is_valid({"name": "base"})
    assert not check.is_valid({"name": "base", "distribution": "debian"})
    assert check.is_valid({"name": "base", "from": "other"})


def test_every_key_is_described_and_examples_fit() -> None:
    for what in ("image", "settings", "channels"):
        check = validator(what)
        data = check.schema
        for model in (data, *data.get("$defs", {}).values()):
            for key, field in model["properties"].items():
                assert field.get("description"), f"{what}: {key}"
                for example in field.get("examples", ()):
                    whole = {**field, "$defs": data.get("$defs", {})}
                    assert check.evolve(schema=whole).is_valid(example), f"{what}: {key}"


def test_it_is_written_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "image.json"
    assert main(["schema", "--output", str(file)]) == 0
    assert main(["schema", "image", "--json"]) == 0
    assert file.read_text() == capsys.readouterr().out
    assert json.loads(file.read_text())["$schema"].endswith("draft/2020-12/schema")


def test_a_file_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["schema", "--output", str(tmp_path / "file" / "x.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
