"""``recast show``: everything about one release, or about an image that has none yet."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.cli.context import Context
from pipeline.cli.found import find_published
from pipeline.cli.images import ago
from pipeline.cli.standing import Standing, find_standing, stand, standing_data, standing_sections
from pipeline.cli.terminal import colour, duration, printable, table, width
from pipeline.clock import iso, now
from pipeline.errors import RecastError, UsageError
from pipeline.files import format_size
from pipeline.models.image import Catalog
from pipeline.models.release import Release, TestVerdict
from pipeline.models.run import RunRecord
from pipeline.releases import (
    ReleaseDiff,
    Releases,
    Stored,
    compare,
    format_growth,
    machine_size,
    split,
)

_LABEL = 14  # columns
_SHORT = 12  # hexadecimal digits of a part's digest; --files has them all
_CHANGES = 15  # packages that are named; the diff's file has them all
_RAN = ("running", "done", "failed", "interrupted")


@click.command()
@click.argument("release", metavar="IMAGE[@VERSION]")
@click.option("--packages", is_flag=True, help="List the installed packages as well.")
@click.option("--files", is_flag=True, help="List the release's files, with whole digests.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(release: str, packages: bool, files: bool, as_json: bool) -> None:
    """Show everything about one release.

    VERSION may be the beginning of a version, of a commit or of a root hash; without it the
    newest release is meant. Where there is a signed store, its evidence is verified, and where
    it stands and its whole story are shown; a release that is in the store alone is found there.
    For an image without a release its definition is shown, with what it inherits.

    \b
    Example:
      recast show edge-web
      recast show edge-web@20260301 --packages
    """
    context = Context.find()
    store = Releases(context.artifacts)
    catalog = _catalog(context)
    known = catalog.order() if catalog else []
    image, version = split(release)
    published: Standing | None = None
    try:
        stored = store.resolve(release, known=known)
        shown = _Shown(stored.release, stored)
        published = find_standing(context, image, stored.release.version)
    except UsageError:
        found = find_published(context, release, known)
        if found is None and not version and catalog is not None and image in catalog:
            _show_definition(catalog, image, as_json)
            return
        if found is None:
            raise
        published = stand(context, found)
        shown = _Shown(context.published.manifest(published.release), None)
    before = store.previous(shown.release)
    change = compare(before.release if before else None, shown.release)
    logs = _logs(context, shown.release)
    if as_json:
        click.echo(json.dumps(_as_data(shown, change, logs, published), indent=2))
        return
    sections = [
        _thread(shown, context.project),
        _parts(shown.release),
        _tests(shown.stored) if shown.stored is not None else "",
        *(standing_sections(published, now()) if published is not None else []),
        _change(change),
        _log_lines(logs, context.project),
    ]
    if files and shown.stored is not None:
        sections.append(_files(shown.stored))
    if packages:
        rows = [(p.name, p.version, p.architecture, p.source) for p in shown.release.packages]
        sections.append(table(rows, ("package", "version", "arch", "source")))
    click.echo(printable("\n\n".join(section for section in sections if section)))


@dataclass(frozen=True)
class _Shown:
    """The release at hand; *stored* is None if it is in the signed store alone."""

    release: Release
    stored: Stored | None


def _catalog(context: Context) -> Catalog | None:
    try:
        return context.catalog
    except RecastError:
        return None  # what is stored can be shown without; `recast plan` tells what is wrong


def _as_data(
    shown: _Shown, change: ReleaseDiff, logs: dict[str, Path], published: Standing | None
) -> dict[str, object]:
    release, stored = shown.release, shown.stored
    return {
        "release": {"name": release.name, **release.model_dump(mode="json")},
        "folder": str(stored.folder) if stored else None,
        "built": iso(stored.built) if stored else None,
        "size": machine_size(release),
        "tests": [verdict.model_dump(mode="json") for verdict in stored.verdicts] if stored else [],
        "published": standing_data(published, now()) if published else None,
        "changes": change.model_dump(mode="json") if change.old else None,
        "logs": {stage: str(path) for stage, path in logs.items()},
    }


def _thread(shown: _Shown, project: Path) -> str:
    release, stored = shown.release, shown.stored
    dirty = ", with changes that are in no commit" if release.dirty else ""
    tools = ", ".join(f"{name} {version}" for name, version in sorted(release.tools.items()))
    return _fields(
        release.name,
        [
            ("commit", release.commit + dirty),
            ("build key", release.build_key),
            ("root hash", release.root_hash),
            ("release", release.version),
            ("parent", release.parent or "none"),
            ("built", f"{iso(stored.built)} ({ago(stored.built, now())})" if stored else ""),
            ("made with", tools),
            ("kernel", " ".join(release.kernel_arguments)),
            ("packages", str(len(release.packages))),
            ("on a machine", format_size(machine_size(release))),
            (
                "folder",
                _short_path(stored.folder, project) if stored else "none: it is in the store alone",
            ),
        ],
    )


def _parts(release: Release) -> str:
    rows = [
        (role, format_size(part.size), part.digest[:_SHORT]) for role, part in release.parts.items()
    ]
    return table(rows, ("part", "size", "sha-256"))


def _files(stored: Stored) -> str:
    digests = {part.file: part.digest for part in stored.release.parts.values()}
    lines = [colour("files", "", bold=True)]
    for path in sorted(path for path in stored.folder.rglob("*") if path.is_file()):
        info = path.stat()
        sparse = info.st_blocks * 512
        held = f", {format_size(sparse)} on disk" if sparse < info.st_size * 0.9 else ""
        lines.append(f"{path} ({format_size(info.st_size)}{held})")
        if path.name in digests:
            lines.append(f"  sha-256 {digests[path.name]}")
    return "\n".join(lines)


def _tests(stored: Stored) -> str:
    title = colour("tests", "", bold=True)
    if not stored.verdicts:
        hint = f"not run yet; `recast test {stored.release.image}` runs them"
        return f"{title}\n{'':2}{hint}"
    lines = [title]
    for verdict in stored.verdicts:
        lines += _verdict(verdict, bool(stored.passed(verdict.provider)))
    return "\n".join(lines)


def _verdict(verdict: TestVerdict, passed: bool) -> list[str]:
    word = colour("passed", "green") if passed else colour("failed", "red")
    count = f"{verdict.tests} tests" if verdict.tests != 1 else "1 test"
    lines = [
        f"  {verdict.provider}  {word}: {count} in {duration(verdict.seconds)}, healthy "
        f"{duration(verdict.boot_seconds)} after power-on ({iso(verdict.when)})"
    ]
    if verdict.passed and not passed:
        lines.append(f"    but of another root: {verdict.root_hash}")
    for failure in verdict.failures:
        lines.append(f"    {failure.test}")
        lines.append(textwrap.indent(failure.message.strip(), " " * 6))
    return lines


def _change(change: ReleaseDiff) -> str:
    if change.old is None:
        return ""
    same = "; the root is the same" if change.old.root_hash == change.new.root_hash else ""
    title = colour(f"since {change.old.release}", "", bold=True)
    lines = [title, f"  {change.packages.summary()}{same}"]
    named = change.packages.lines()
    lines += [f"  {line}" for line in named[:_CHANGES]]
    if len(named) > _CHANGES:
        lines.append(f"  … and {len(named) - _CHANGES} more: `--json` lists all")
    lines += [
        f"  {role:<10} {format_growth(size)}" for role, size in change.sizes.items() if size.growth
    ]
    return "\n".join(lines)


def _logs(context: Context, release: Release) -> dict[str, Path]:
    """The newest log of each stage that did something for this release."""
    logs: dict[str, Path] = {}
    for run in context.runs.list():
        logs.update(_logs_of(run, release, context.runs.path(run.id)))
    return logs


def _logs_of(run: RunRecord, release: Release, folder: Path) -> dict[str, Path]:
    image = run.images.get(release.image)
    if image is None or image.version != release.version:
        return {}
    return {
        name: folder / stage.log
        for name, stage in image.stages.items()
        if stage.log and stage.status in _RAN and (folder / stage.log).is_file()
    }


def _log_lines(logs: dict[str, Path], project: Path) -> str:
    if not logs:
        return ""
    lines = [colour("logs", "", bold=True)]
    lines += [f"  {stage:<10} {_short_path(path, project)}" for stage, path in logs.items()]
    return "\n".join(lines)


def _show_definition(catalog: Catalog, image: str, as_json: bool) -> None:
    resolved = catalog.resolved(image)
    parents = catalog.ancestors(image)
    if as_json:
        definition = resolved.model_dump(mode="json", by_alias=True)
        data = {"release": None, "definition": definition, "parents": parents}
        click.echo(json.dumps(data, indent=2))
        return
    budget = resolved.budget
    sizes = {"root": budget.root, "uki": budget.uki, "esp": budget.esp}
    text = _fields(
        f"{image} has no release yet; `recast run` builds it",
        [
            ("description", resolved.description),
            ("stands on", " → ".join([*parents, image]) if parents else ""),
            ("distribution", f"{resolved.distribution} {resolved.release} {resolved.arch}"),
            ("elements", " ".join(resolved.elements)),
            ("packages", " ".join(resolved.packages)),
            ("kernel", " ".join(resolved.kernel_arguments)),
            ("persists", " ".join(resolved.persist)),
            ("health", " ".join(check.name for check in resolved.health)),
            ("tested on", " ".join(resolved.tests.providers)),
            ("budget", ", ".join(f"{k} {format_size(v)}" for k, v in sizes.items())),
            ("definition", _short_path(catalog.folders[image], catalog.folders[image].parents[1])),
        ],
    )
    click.echo(printable(text))


def _fields(title: str, fields: Iterable[tuple[str, str]]) -> str:
    room = max(width() - _LABEL, 20)
    lines = [colour(title, "", bold=True)]
    for label, value in fields:
        if value:
            lines += _hanging(
                label, textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False)
            )
    return "\n".join(lines)


def _hanging(label: str, parts: Sequence[str]) -> list[str]:
    first, *rest = parts
    return [f"{label:<{_LABEL}}{first}", *(" " * _LABEL + part for part in rest)]


def _short_path(path: Path, project: Path) -> str:
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)
