"""How much a release may change for the machines of a channel; three gates of a promotion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.files import format_size
from pipeline.models.pointer import PublishedRelease
from pipeline.policy.verdict import Gate

_FIRST = "the first release: there is none to compare with"


@dataclass(frozen=True)
class Download:
    """What a machine downloads that runs what its channel holds now.

    Attributes:
        size: bytes, of root and boot file together, each in the cheapest way there is.
        ways: by which of these ways; empty if nothing is downloaded.
    """

    size: int
    ways: Sequence[str] = ()


def package_changes(present: PublishedRelease | None, found: int | None, most: int | None) -> Gate:
    """At most so many packages in another version.

    Args:
        present: what the channel holds; None if nothing.
        found: packages added, removed or changed since; None if unknown.
        most: what the channel allows; None for any number.
    """
    name = "package changes"
    if present is None:
        return Gate(name, True, _FIRST)
    if found is None:
        since = f"what changed since {present.version} cannot be told"
        return Gate(name, most is None, since if most is not None else f"{since}; no limit")
    changes = f"{found} package{'' if found == 1 else 's'} since {present.version}"
    if most is None:
        return Gate(name, True, f"{changes}; no limit")
    return Gate(name, found <= most, f"{changes}; at most {most}")


def growth(present: PublishedRelease | None, release: PublishedRelease, most: int | None) -> Gate:
    """At most so many bytes more on a machine.

    Args:
        present: what the channel holds; None if nothing.
        release: what is to enter it.
        most: bytes that the channel allows; None for any number.
    """
    if present is None:
        return Gate("growth", True, _FIRST)
    more = release.machine_size - present.machine_size
    size = f"{format_size(abs(more))} {'more' if more > 0 else 'less'}" if more else "as large"
    text = f"{size} {'as' if not more else 'than'} {present.version}"
    if most is None:
        return Gate("growth", True, f"{text}; no limit")
    return Gate("growth", more <= most, f"{text}; at most {format_size(most)} more")


def wire_budget(
    present: PublishedRelease | None, download: Download | None, most: int | None
) -> Gate:
    """At most so many bytes over a machine's link.

    Args:
        present: what the channel holds; None if nothing: then no machine has anything to start
            from, and no budget could be kept.
        download: what a machine downloads that runs *present*; None if unknown.
        most: bytes that the channel allows; None for any number.
    """
    name = "wire budget"
    limit = "no limit" if most is None else f"budget {format_size(most)}"
    if present is None:
        return Gate(name, True, "the first release: machines start from nothing")
    if download is None:
        reason = f"what a machine downloads that runs {present.version} cannot be told"
        return Gate(name, most is None, f"{reason}; {limit}")
    size = format_size(download.size) if download.size else "nothing"
    by = f", by {' and '.join(download.ways)}" if download.ways else ""
    text = f"{size} from {present.version}{by}; {limit}"
    return Gate(name, most is None or download.size <= most, text)
