"""How a release spreads over devices: each decides for itself, and all come to one plan.

A device's place in a rollout is a number in [0, 1) from a hash of the rollout's id and its own
name. It may start once the share of the waves that are open is larger than its place. So nobody
keeps a list, a device that is in a small share is in every larger one, and the next rollout deals
the places anew: no device is always the first.

A device's clock may be wrong. The wave that the signed rollout names is open whatever the clock
says; a clock that is ahead opens the following waves early by as much, one behind, late.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pipeline.clock import duration, iso
from pipeline.errors import UsageError
from pipeline.models.channel import Wave
from pipeline.models.pointer import Rollout
from pipeline.policy.verdict import Gate, Verdict

_BITS = 53  # of a hash: as many as a float holds, so that no place is rounded up to 1
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


def position(rollout_id: str, device: str) -> float:
    """The place of *device* in a rollout, in [0, 1).

    The first 53 bits of SHA-256 over ``<rollout id>:<device>`` in UTF-8, as a fraction. Never to
    be changed: devices with another formula would take a rollout's waves in another order.
    """
    hashed = hashlib.sha256(f"{rollout_id}:{device}".encode()).digest()
    return (int.from_bytes(hashed[:8], "big") >> (64 - _BITS)) / (1 << _BITS)


def start(waves: Sequence[Wave], now: datetime, id: str) -> Rollout:
    """A rollout whose first wave opens *now*.

    Args:
        waves: its waves, with growing shares up to all devices.
        now: the present moment.
        id: of this rollout alone; deals the devices' places.
    """
    return Rollout(id=id, waves=tuple(waves), wave=0, opened=now)


def wave_at(rollout: Rollout, now: datetime) -> int:
    """The index of the newest wave that is open at *now*.

    Of a rollout that is held or halted it is the wave where that was done.
    """
    wave = _signed_wave(rollout)
    while wave < len(rollout.waves) - 1:
        opens = opening(rollout, wave + 1)
        if opens is None or now < opens:
            break
        wave += 1
    return wave


def share(rollout: Rollout, now: datetime) -> float:
    """The share of all devices that may start at *now*; 0 when it is halted."""
    return 0.0 if rollout.state == "halted" else reached(rollout, now)


def reached(rollout: Rollout, now: datetime) -> float:
    """The share of all devices that were allowed to start up to *now*, halted or not."""
    return rollout.waves[wave_at(rollout, now)].share


def opening(rollout: Rollout, wave: int) -> datetime | None:
    """When a wave opens, or opened, by plan.

    Args:
        rollout: the rollout.
        wave: the wave's index.

    Returns:
        None if no plan says so: it is held or halted before that wave; and for waves before the
        one that the rollout names, whose times are not kept.
    """
    first = _signed_wave(rollout)
    if wave < first or (wave > first and rollout.state != "rolling"):
        return None
    return _after(rollout.opened, sum(each.soak for each in rollout.waves[first:wave]))


def next_opening(rollout: Rollout, now: datetime) -> datetime | None:
    """When the next wave opens by itself; None if none does: the last is open, or it stands."""
    following = wave_at(rollout, now) + 1
    return opening(rollout, following) if following < len(rollout.waves) else None


def may_start(rollout: Rollout, device: str, now: datetime, *, frozen: str = "") -> Verdict:
    """May *device* begin to install this rollout's release?

    A device that has begun, or has it already, need not ask.

    Args:
        rollout: the rollout.
        device: the device's name, of which there is one only.
        now: the present moment.
        frozen: why nothing moves in the channel; empty if it is not frozen.

    Returns:
        The gates ``not frozen``, ``not halted`` and ``wave``.
    """
    return Verdict((_not_frozen(frozen), _not_halted(rollout), _in_open_wave(rollout, device, now)))


def _not_frozen(why: str) -> Gate:
    text = f"the channel is frozen: {why}" if why else "the channel is not frozen"
    return Gate("not frozen", not why, text)


def _not_halted(rollout: Rollout) -> Gate:
    if rollout.state == "halted":
        return Gate("not halted", False, "halted: no device starts that has not begun")
    if rollout.state == "held":
        return Gate("not halted", True, "held: the waves that are open go on, no further one opens")
    return Gate("not halted", True, "rolling")


def _in_open_wave(rollout: Rollout, device: str, now: datetime) -> Gate:
    place = position(rollout.id, device)
    current = wave_at(rollout, now)
    own = next(index for index, wave in enumerate(rollout.waves) if place < wave.share)
    count = len(rollout.waves)
    text = f"in wave {own + 1} of {count}, at {place:.2%} of all devices"
    if own <= current:
        return Gate("wave", True, f"{text}: open")
    opens = opening(rollout, own)
    if opens is None:
        return Gate("wave", False, f"{text}: not open, and the rollout is {rollout.state}")
    wait = duration(max((opens - now).total_seconds(), 0.0))
    return Gate("wave", False, f"{text}: opens at {iso(opens)}, in {wait}", opens)


def advance(rollout: Rollout, now: datetime) -> Rollout:
    """Open the next wave now, without waiting for the soak of the present one.

    A rollout that is held stays held: so it can be led by hand, wave by wave.

    Raises:
        UsageError: it is halted, or all waves are open.
    """
    current = wave_at(rollout, now)
    if rollout.state == "halted":
        raise UsageError(
            "the rollout is halted: no wave can open",
            hint="`recast roll resume` lets it go on from where it stood.",
        )
    if current == len(rollout.waves) - 1:
        raise UsageError("all waves are open: there is no further one", hint=_ALL_OPEN)
    return rollout.model_copy(update={"wave": current + 1, "opened": now})


def hold(rollout: Rollout, now: datetime) -> Rollout:
    """Let the waves that are open go on, and open no further one.

    Raises:
        UsageError: it is held or halted already, or all waves are open.
    """
    if rollout.state != "rolling":
        raise UsageError(
            f"the rollout is {rollout.state} already", hint="`recast roll resume` lets it go on."
        )
    if wave_at(rollout, now) == len(rollout.waves) - 1:
        raise UsageError(
            "all waves are open: holding would stop nobody",
            hint="`recast roll halt` stops the devices that have not begun.",
        )
    return _standing(rollout, now, "held")


def halt(rollout: Rollout, now: datetime) -> Rollout:
    """Let no device start that has not begun, in whichever wave it is.

    Raises:
        UsageError: it is halted already.
    """
    if rollout.state == "halted":
        raise UsageError(
            "the rollout is halted already", hint="`recast roll resume` lets it go on."
        )
    return _standing(rollout, now, "halted")


def resume(rollout: Rollout, now: datetime) -> Rollout:
    """Go on at the wave where it was held or halted, which soaks anew from now.

    Raises:
        UsageError: it is neither held nor halted.
    """
    if rollout.state == "rolling":
        raise UsageError("the rollout is neither held nor halted", hint=_ALL_OPEN)
    return rollout.model_copy(
        update={"state": "rolling", "wave": _signed_wave(rollout), "opened": now}
    )


_ALL_OPEN = "`recast roll status` shows its waves."


def _standing(rollout: Rollout, now: datetime, state: str) -> Rollout:
    """*rollout* as it stands at *now*, with the time at which its present wave opened."""
    current = wave_at(rollout, now)
    opened = opening(rollout, current) or rollout.opened
    return rollout.model_copy(update={"state": state, "wave": current, "opened": opened})


def _signed_wave(rollout: Rollout) -> int:
    """The wave that the rollout names; the last one where it names one that is not there."""
    return min(rollout.wave, len(rollout.waves) - 1)


def _after(moment: datetime, seconds: float) -> datetime:
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:  # a plan that ends after the year 9999 ends there
        return _LAST_MOMENT
