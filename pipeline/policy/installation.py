"""What should this machine run, and may it begin to install that now? Every gate with its reason.

Whoever asks has verified the pointer; nothing is looked up here.

The channel's release is what a machine should run. Exceptions, in this order:

1. **A pin** holds it at one version, unless that version is revoked.
2. **What runs is revoked**: it moves off at once, to the channel's release, or to what the channel
   held before if the rollout has not come here yet. This beats wave, hold and halt, since waiting
   is the greater risk; it does not beat a freeze, with which a person stops *everything*.
3. **The rollout has not come here yet** and the machine runs neither the channel's release nor the
   one before: it moves to the one before, which had spread everywhere.

A machine that has its new release activated is finished whatever a channel says meanwhile, short
of a revocation: all that is missing is a reboot, and two machines of one state are better than
three. One that is still downloading waits where it stands while its channel is frozen or halted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipeline.models.device import Running, State
from pipeline.models.pointer import Pointer, PublishedRelease
from pipeline.models.site import Site
from pipeline.policy.verdict import Gate, Verdict

Kind = Literal["channel", "previous", "pin", "stay"]


@dataclass(frozen=True)
class Wanted:
    """What a machine should run.

    Attributes:
        release: to be installed, or what runs already; None if it stays as it is, for want of
            anything that could be installed.
        kind: where that comes from; ``stay``: the pin is on what runs, or nothing can be had.
        why: a sentence for a person on site.
        settled: it runs already: there is nothing to do.
        leaving: what runs is revoked, for this reason; empty if it is not.
        notes: what else a person should know: a pin that does not count.
    """

    release: PublishedRelease | None
    kind: Kind
    why: str
    settled: bool = False
    leaving: str = ""
    notes: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Of the release; empty if there is none."""
        return self.release.version if self.release else ""


def wanted(
    pointer: Pointer,
    site: Site,
    running: Running,
    state: State,
    now: datetime,
    *,
    override: bool = False,
) -> Wanted:
    """What this machine should run, as its channel, its pin and its past say.

    Args:
        pointer: what its channel says, verified.
        site: its settings.
        running: what runs.
        state: what it remembers.
        now: the present moment.
        override: a person asked for it now (``update --now``): the wave does not count.
    """
    raise NotImplementedError


def judge(
    wanted: Wanted,
    pointer: Pointer,
    site: Site,
    running: Running,
    state: State,
    now: datetime,
    *,
    override: bool = False,
    attested: Gate | None = None,
) -> Verdict:
    """May this machine begin, or go on, to install what it wants?

    The caller appends the gates of :meth:`pipeline.agent.base.Slots.check`. When it may reboot is
    another question: :func:`pipeline.policy.window.judge`.

    Args:
        wanted: of :func:`wanted`, with the same arguments. If it is settled there is nothing to
            install, and no need to ask.
        pointer, site, running, state, now: as there.
        override: a person asked for it now: the wave does not count. All else does.
        attested: what its attestations came to; None: not looked at yet, so there is no such
            gate. They cost a download: look once everything else allows it.

    Returns:
        The gates ``available``, ``confirmed``, ``machine class``, ``not revoked``, ``not failed
        here``, ``not frozen``, ``not halted``, ``wave``, ``attested``, as far as they apply.
    """
    raise NotImplementedError


def runs(release: PublishedRelease, running: Running) -> bool:
    """Is *release*, under its own name, what runs?"""
    return (release.image, release.version, release.arch, release.root_hash) == (
        running.image,
        running.version,
        running.arch,
        running.root_hash,
    )
