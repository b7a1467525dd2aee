"""Signed changes in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuf.api.metadata import Role, Root, Targets

from pipeline import clock
from pipeline.models.pointer import Event
from pipeline.trust import layout
from pipeline.trust.state import channels_of, delegated, keys_of, names

_DONE = {
    "init": "began it",
    "promote": "promoted",
    "rollback": "rolled back",
    "revoke": "revoked",
    "freeze": "froze it",
    "thaw": "thawed it",
    "roll": "changed the rollout of",
    "refresh": "signed it anew",
    "keys": "changed its keys",
}


def event_words(event: Event) -> str:
    """``promoted web 20260301.g1234567 on 2026-03-01T12:00:00Z``."""
    what = " ".join(word for word in (_DONE[event.action], event.image, event.version) if word)
    return f"{what} on {clock.iso(event.at)}"


def listed(words: tuple[str, ...] | list[str], last: str = "and") -> str:
    """``alice, bob and carol``; ``nobody`` for none."""
    if len(words) < 2:
        return words[0] if words else "nobody"
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def count(number: int, what: str) -> str:
    """``1 signature``, ``2 signatures``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def root_changes(old: Root, new: Root) -> Iterator[str]:
    """What another root changes: keys, thresholds."""
    yield from _role_changes(old, new, old.roles, new.roles)
    if old.consistent_snapshot != new.consistent_snapshot:
        yield "How files are named changes: no Recast can read the store any more."


def targets_changes(old: Targets, new: Targets) -> Iterator[str]:
    """What other targets change: channels, their keys, thresholds."""
    before, after = delegated(old), delegated(new)
    for name in after:
        if name not in before:
            kind = "channel" if name in channels_of(new) else "role"
            keys = listed(names(keys_of(new, name)), "or")
            yield f"New {kind} {name}: {count(after[name].threshold, 'signature')} of {keys}."
        elif (before[name].paths, before[name].terminating) != (
            after[name].paths,
            after[name].terminating,
        ):
            yield f"{name} speaks for other paths: {after[name].paths}."
    yield from _role_changes(old, new, before, after)
    for path in sorted({*new.targets} - {*old.targets}):
        yield f"A file of its own: {path}."


def _role_changes(
    old: Root | Targets,
    new: Root | Targets,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> Iterator[str]:
    for name, role in before.items():
        if name not in after:
            yield f"{name} goes."
            continue
        known = {key.keyid: layout.key_name(key) for key in keys_of(old, name)}
        now = {key.keyid: layout.key_name(key) for key in keys_of(new, name)}
        gone = [known[keyid] for keyid in known if keyid not in now]
        come = [f"{now[keyid]} ({keyid[:12]})" for keyid in now if keyid not in known]
        if come:
            yield f"{listed(come)} may sign {name}."
        if gone:
            yield f"{listed(gone)} may sign {name} no more."
        yield from _threshold_change(name, role, after[name])


def _threshold_change(name: str, before: Role, after: Role) -> Iterator[str]:
    if before.threshold != after.threshold:
        yield (
            f"{name} needs {count(after.threshold, 'signature')} in place of {before.threshold}."
        )
