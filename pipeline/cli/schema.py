"""``recast schema``: the JSON Schema of what users write, for editors and other tools."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.errors import UsageError
from pipeline.files import write_atomically
from pipeline.models.schema import channels_schema, image_schema, settings_schema

_SCHEMAS = {"image": image_schema, "settings": settings_schema, "channels": channels_schema}


@click.command()
@click.argument("what", type=click.Choice(list(_SCHEMAS)), default="image", required=False)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it to this file instead of printing it.",
)
@click.option("--json", "_as_json", is_flag=True, help="Changes nothing: a schema is JSON.")
def schema(what: str, output: Path | None, _as_json: bool) -> int:
    """Print the JSON Schema of image definitions, of the settings, or of the channels.

    An editor with a YAML language server completes and checks a definition that names the
    schema in its first line, as a path relative to the file or absolute:

    \b
      # yaml-language-server: $schema=../../.schemas/image.json

    \b
    Example:
      recast schema --output .schemas/image.json
      recast schema settings --output .schemas/settings.json
      recast schema channels --output .schemas/channels.json
    """
    text = json.dumps(_SCHEMAS[what](), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return 0
    try:
        write_atomically(output, text)
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error.strerror}", hint="Name another file."
        ) from error
    return 0
