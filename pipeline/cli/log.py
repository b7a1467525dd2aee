"""``recast log``: what the stages of a run have written, or what happened to a channel."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.cli.context import Context, find_artifacts
from pipeline.cli.terminal import colour, duration
from pipeline.engine.runs import Runs
from pipeline.errors import RecastError, UsageError
from pipeline.models.run import RunRecord, StageRecord

_POLL_SECONDS = 0.3
_CHUNK = 1 << 16


@click.command()
@click.argument("what", metavar="RUN|CHANNEL")
@click.argument("image", required=False)
@click.argument("stage", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--last", "most", type=click.IntRange(1), help="Only so many changes of a channel.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; of a run, where logs are.")
def log(
    what: str,
    image: str | None,
    stage: str | None,
    follow: bool,
    most: int | None,
    as_json: bool,
) -> None:
    """Print the logs of a run, or the history of a channel.

    RUN is an id from `recast runs`, the beginning of one, or `last`; IMAGE and STAGE narrow it
    down. A CHANNEL's history says when, what, who by their signatures, why, and what each gate
    said, the newest first; each version of the signed metadata vouches for the one before, so
    that nobody can edit it.

    \b
    Example:
      recast log last
      recast log last edge-web test --follow
      recast log stable edge-web
    """
    if _is_channel(what):
        _print_history(what, image, stage, most, follow, as_json)
        return
    if most is not None:
        raise UsageError("--last is for the history of a channel, not for a run")
    store = Runs(find_artifacts() / "runs")
    record = _find(store, what)
    chosen = _chosen(record, image, stage)
    if as_json:
        click.echo(json.dumps([_as_data(store, record, *pair) for pair in chosen], indent=2))
    elif follow:
        _follow(store, record, image, stage)
    else:
        for name, step in chosen:
            _print(store, record, name, step)


def _channels() -> tuple[str, ...]:
    try:
        return Context.find().channels.names
    except RecastError:
        return ()  # a run's logs can be printed without; `recast plan` tells what is wrong


def _is_channel(word: str) -> bool:
    """Is *word* a channel? A run's id has a dot, which no channel's name can have."""
    return "." not in word and word != "last" and word in _channels()


def _print_history(
    channel: str,
    image: str | None,
    stage: str | None,
    most: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    from pipeline.cli.channel_log import print_history

    if stage is not None or follow:
        raise UsageError(
            f"{channel} is a channel: it has neither stages nor --follow",
            hint="`recast runs` lists the runs, which have.",
        )
    print_history(Context.find().desk, channel, image, most, as_json)


def _find(store: Runs, word: str) -> RunRecord:
    """The run that *word* means.

    Raises:
        UsageError: it means none, or several; names channels that are near.
    """
    try:
        return store.find(word)
    except UsageError as error:
        near = difflib.get_close_matches(word, _channels(), n=1)
        if not near:
            raise
        raise UsageError(
            f"there is no run and no channel `{word}`", hint=f"Did you mean {near[0]}?"
        ) from error


def _chosen(record: RunRecord, image: str | None, stage: str | None) -> list[tuple[str, str]]:
    """The image and stage of each log that is asked for.

    Raises:
        UsageError: the run has no such image or stage.
    """
    if image is not None and image not in record.images:
        raise UsageError(
            f"run {record.id} has no image `{image}`", hint=f"It has {', '.join(record.images)}."
        )
    names = [image] if image is not None else list(record.images)
    pairs = [(name, step) for name in names for step in record.images[name].stages]
    if stage is None:
        return pairs
    known = dict.fromkeys(step for _, step in pairs)
    if stage not in known:
        raise UsageError(
            f"run {record.id} has no stage `{stage}`", hint=f"It has {', '.join(known)}."
        )
    return [pair for pair in pairs if pair[1] == stage]


def _path(store: Runs, record: RunRecord, found: StageRecord) -> Path | None:
    return store.path(record.id) / found.log if found.log else None


def _as_data(store: Runs, record: RunRecord, image: str, stage: str) -> dict[str, object]:
    found = record.images[image].stages[stage]
    path = _path(store, record, found)
    return {
        "image": image,
        "stage": stage,
        "status": found.status,
        "seconds": found.seconds,
        "error": found.error,
        "path": str(path) if path else None,
    }


def _heading(image: str, stage: str, found: StageRecord) -> str:
    took = f" in {duration(found.seconds)}" if found.seconds is not None else ""
    why = f": {found.error.splitlines()[0]}" if found.error else ""
    return colour(f"==> {image} {stage}: {found.status}{took}{why}", "", bold=True)


def _print(store: Runs, record: RunRecord, image: str, stage: str) -> None:
    found = record.images[image].stages[stage]
    click.echo(_heading(image, stage, found))
    path = _path(store, record, found)
    if path is not None:
        for text in _chunks(path, 0):
            click.echo(text, nl=False)


def _chunks(path: Path, offset: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while block := file.read(_CHUNK):
                yield block
    except FileNotFoundError:
        return


def _follow(store: Runs, record: RunRecord, image: str | None, stage: str | None) -> None:
    """Print what is there and what comes, until the run has ended."""
    read: dict[tuple[str, str], int] = {}
    shown: tuple[str, str] | None = None
    while True:
        record = store.load(record.id)  # before reading: what was written by its end is read
        for pair in _chosen(record, image, stage):
            path = _path(store, record, record.images[pair[0]].stages[pair[1]])
            if path is None:
                continue
            for block in _chunks(path, read.get(pair, 0)):
                if shown != pair:
                    click.echo(colour(f"==> {' '.join(pair)}", "", bold=True))
                    shown = pair
                click.echo(block, nl=False)
                read[pair] = read.get(pair, 0) + len(block)
        if record.outcome != "running":
            click.echo(f"run {record.id}: {record.outcome}")
            return
        time.sleep(_POLL_SECONDS)
