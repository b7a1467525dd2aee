"""``recast publish``: put tested releases into the store, and into the first channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from pipeline.releases import Stored


@click.command()
@click.argument("releases", nargs=-1, metavar="[IMAGE[@VERSION]]...")
@click.option("--upload-only", is_flag=True, help="Leave the first channel where it is.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Uploads at once, for each image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event.")
def publish(releases: tuple[str, ...], upload_only: bool, jobs: int | None, as_json: bool) -> None:
    """Upload tested releases to the store, and into the first channel.

    Without IMAGE, the newest release of each image that has passed the tests that the first
    channel demands; without a version, the newest release of that image. What is known of a
    release is signed: how it was built, what its tests said, its bill of materials.

    Only what the store lacks is uploaded, and what was cut goes on where it stood. A release that
    is not newer than what the first channel holds is uploaded, and the channel left alone.

    \b
    Example:
      recast publish
      recast publish edge-web@20260301.120000.g1a2b3c4d5e6f --upload-only
    """
    from pipeline.cli.carry_out import carry_out, plan_releases
    from pipeline.engine.plan import Plan

    context = Context.find()
    require_publishing(context, upload_only=upload_only)
    notes: list[str] = []
    if releases:
        known = context.known_images()
        found = [context.releases.resolve(words, known) for words in dict.fromkeys(releases)]
    else:
        found = _newest(context, notes)
    planned = plan_releases(context, [stored.release for stored in found])
    carry_out(
        context,
        Plan(planned, context.source, notes=tuple(notes)),
        (context.publish_stage(enter=not upload_only, jobs=jobs),),
        command="publish",
        as_json=as_json,
        force=tuple(each.image for each in planned),
    )


def _newest(context: Context, notes: list[str]) -> list[Stored]:
    """The newest release of each image that may enter the first channel; says what is left out.

    Raises:
        RefusedError: there is none.
    """
    channels, first = context.channels, context.channels.first
    found: list[Stored] = []
    for image in context.releases.images():
        if image not in context.catalog or image not in (channels.images or (image,)):
            continue
        all_of_it = context.releases.of(image)
        tested = [s for s in all_of_it if all(s.passed(name) for name in first.gates.tests)]
        found += tested[-1:]
        if all_of_it and all_of_it[-1:] != tested[-1:]:
            newest = all_of_it[-1].release
            notes.append(
                f"{newest.name} is left out: it has not passed its tests on "
                f"{', '.join(first.gates.tests)} (`recast test {image}`)"
            )
    if not found:
        raise RefusedError(
            "there is no tested release to publish"
            + (f": {'; '.join(notes)}" if notes else f" in {context.artifacts}"),
            hint="`recast run` builds, tests and publishes.",
        )
    return found


def require_publishing(context: Context, *, upload_only: bool = False) -> None:
    """Refuse to begin what could not be published in the end.

    Raises:
        UsageError: there is no signed store yet, or our keys are not enough.
        TrustError, NetworkError, HostError: the store cannot be believed or reached, or a
            passphrase is wrong.
    """
    from pipeline.channels.attesting import missing_keys, open_keys

    _ = context.trust  # first: it says so if there is no signed store yet, and opens none
    lack = missing_keys(context.desk, context.keyring, enter=not upload_only)
    if lack:
        raise UsageError(
            f"{lack}, in {context.keys_folder}",
            hint="`recast keys list` shows whose key is where. RECAST_KEYS names another folder; "
            "`recast keys add` lets another key sign.",
        )
    open_keys(context.desk, context.keyring, enter=not upload_only)
