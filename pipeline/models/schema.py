"""JSON Schemas of what users write, made from the models, so that editors complete and check.

The schemas say what one value may be. Rules between values (paths that lie in each other, names
that exist) are told when the files are read.
"""

from __future__ import annotations

from typing import Any

from pipeline.models.channel import Channels
from pipeline.models.fields import Model
from pipeline.models.image import ImageDefinition
from pipeline.models.settings import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def image_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``images/<image>/image.yaml``."""
    return _schema(ImageDefinition, "Recast image definition")


def settings_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``images/settings.yaml``."""
    return _schema(Settings, "Recast settings")


def channels_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``images/channels.yaml``."""
    return _schema(Channels, "Recast channels")


def _schema(model: type[Model], title: str) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    return {"$schema": DIALECT, **schema, "title": title}
