"""From one pointer to the next: pure functions for each way in which a channel can change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter, ValidationError

from pipeline import digest
from pipeline.channels.desk import near
from pipeline.clock import iso
from pipeline.errors import RefusedError, UsageError
from pipeline.models.channel import Wave, Waves, check_steps
from pipeline.models.fields import ENTRY_PROBLEMS
from pipeline.models.pointer import Held, Pointer, PublishedRelease, Revocation, Rollout
from pipeline.policy.rollout import share

_TIME_DIGITS = len("20260301.120000")  # a version begins with its commit's time
_WAVES: TypeAdapter[tuple[Wave, ...]] = TypeAdapter(Annotated[Waves, AfterValidator(check_steps)])
_EXAMPLE = "10%:1h,50%:4h,100%"


def parse_waves(text: str) -> tuple[Wave, ...]:
    """The waves in ``10%:1h,50%:4h,100%``: shares, each with its soak after a colon.

    Raises:
        UsageError: it is not that; says what was expected.
    """
    waves = []
    for piece in text.split(","):
        share, colon, soak = (word.strip() for word in piece.partition(":"))
        waves.append({"share": share, **({"soak": soak} if colon else {})})
    try:
        return _WAVES.validate_python(waves)
    except ValidationError as error:
        raise UsageError(
            f"`{text}` is no list of waves: {_first_problem(error)}", hint=f"Such as: {_EXAMPLE}."
        ) from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place, what = first["loc"][:1], str(first["msg"])
    if first["type"] == ENTRY_PROBLEMS:
        inner, what = first["ctx"]["problems"][0]
        place = inner[:1]
    return f"wave {int(place[0]) + 1}: {what}" if place else what


def new_rollout(
    channel: str, release: PublishedRelease, waves: Sequence[Wave], at: datetime
) -> Rollout:
    """The rollout of *release* in *channel* that starts at *at*.

    Its id derives from these, so that a change that is decided twice (a lost race, a proposal)
    is the same rollout: no device's place in it moves.
    """
    names = [channel, release.image, release.version, release.root_hash, iso(at)]
    return Rollout(id=digest.of_data(names)[:16], waves=tuple(waves), wave=0, opened=at)


def moved(
    pointer: Pointer | None,
    channel: str,
    release: PublishedRelease,
    rollout: Rollout,
    *,
    keep: int,
) -> Pointer:
    """The pointer after *channel* took up *release*, forwards or back.

    A machine that the new rollout has not reached runs what had spread everywhere: a release
    whose own rollout was cut short is not given to the rest by being replaced.

    Args:
        pointer: what the channel says now; None if nothing.
        channel: its name.
        release: what machines should run.
        rollout: how it spreads, from when it opens.
        keep: how many releases that it can go back to the history holds; revoked ones do not
            count, and are dropped with what is older than the last that counts.
    """
    at = rollout.opened
    if pointer is None:
        return Pointer(
            channel=channel, image=release.image, release=release, since=at, rollout=rollout
        )
    return pointer.model_copy(
        update={
            "release": release,
            "since": at,
            "previous": _settled(pointer, at),
            "history": _history(pointer, release, keep, at),
            "rollout": rollout,
        }
    )


def _settled(pointer: Pointer, at: datetime) -> PublishedRelease | None:
    """What machines ran that the rollout of the present release had not reached."""
    release, rollout = pointer.release, pointer.rollout
    everywhere = rollout is None or (rollout.state != "halted" and share(rollout, at) >= 1)
    for each in (release, pointer.previous) if everywhere else (pointer.previous,):
        if each is not None and pointer.revocation(each.version, each.root_hash) is None:
            return each
    return None


def _history(
    pointer: Pointer, release: PublishedRelease, keep: int, at: datetime
) -> tuple[Held, ...]:
    held = list(pointer.history)
    old = pointer.release
    if old is not None:
        since = pointer.since or at
        entry = Held(
            version=old.version,
            root_hash=old.root_hash,
            manifest=old.manifest.digest,
            since=since,
            until=at,
        )
        held = [entry, *(each for each in held if each.version != old.version)]
    kept: list[Held] = []
    good = 0
    for each in held:
        if each.version == release.version:
            continue
        if good == keep or len(kept) == 2 * keep:
            break
        kept.append(each)
        good += pointer.revocation(each.version, each.root_hash) is None
    return tuple(kept)


def revoked(
    pointer: Pointer | None,
    channel: str,
    image: str,
    revocation: Revocation,
    *,
    frozen: str = "",
) -> Pointer | None:
    """The pointer that refuses one version more; None if it refuses it already."""
    if pointer is None:
        return Pointer(channel=channel, image=image, revoked=(revocation,), frozen=frozen)
    if any(
        (each.version, each.root_hash) == (revocation.version, revocation.root_hash)
        for each in pointer.revoked
    ):
        return None
    return pointer.model_copy(update={"revoked": (*pointer.revoked, revocation)})


def return_targets(pointer: Pointer) -> list[Held]:
    """What the channel can be rolled back to, the most obvious first.

    Releases that are not revoked, those first that are not newer than the present one: a newer
    one was rolled back from, and going there again is seldom meant.
    """
    good = [e for e in pointer.history if pointer.revocation(e.version, e.root_hash) is None]
    present = pointer.release.version[:_TIME_DIGITS] if pointer.release else ""
    return sorted(good, key=lambda each: bool(present) and each.version[:_TIME_DIGITS] > present)


def is_newer(held: Held, pointer: Pointer) -> bool:
    """Is that release newer than what the channel holds now?"""
    present = pointer.release
    return present is not None and held.version[:_TIME_DIGITS] > present.version[:_TIME_DIGITS]


def find_target(pointer: Pointer, to: str | None) -> Held:
    """What a channel is to be rolled back to.

    Args:
        pointer: what the channel says.
        to: a version, or the beginning of just one; else the newest that is not revoked, and is
            not newer than what the channel holds.

    Raises:
        UsageError: there is nothing like that to go back to; names what there is.
        RefusedError: what *to* names is revoked.
    """
    targets = return_targets(pointer)
    if to is None:
        found = [each for each in targets if not is_newer(each, pointer)]
        if found:
            return found[0]
        raise _nowhere(pointer, targets)
    called = [each for each in pointer.history if each.version.startswith(to)]
    exact = [each for each in called if each.version == to] or called
    if len(exact) > 1:
        names = ", ".join(each.version for each in exact)
        raise UsageError(f"`{to}` is the beginning of several versions", hint=f"Such as: {names}.")
    if not exact:
        raise UsageError(
            f"{pointer.channel} has not held {pointer.image}@{to}, or too long ago",
            hint=near(to, [each.version for each in targets]),
        )
    revocation = pointer.revocation(exact[0].version, exact[0].root_hash)
    if revocation is not None:
        raise RefusedError(
            f"{pointer.image}@{exact[0].version} is revoked: {revocation.reason}",
            hint=near(to, [each.version for each in targets]),
        )
    return exact[0]


def _nowhere(pointer: Pointer, targets: Sequence[Held]) -> UsageError:
    if targets:
        names = ", ".join(each.version for each in targets)
        return UsageError(
            f"{pointer.channel} has held nothing older of {pointer.image} that is not revoked",
            hint=f"`--to` goes to a newer one that it went back from: {names}.",
        )
    return UsageError(
        f"{pointer.channel} has held nothing else of {pointer.image} that it could go back to",
        hint=f"`recast freeze {pointer.channel}` stops it where it is.",
    )
