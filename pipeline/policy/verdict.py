"""What a decision comes to: allowed or not, and why, gate by gate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Gate:
    """One required check.

    Attributes:
        name: one or two lower-case words: ``soak``, ``tests on qemu``.
        passed: its outcome.
        reason: why, in words that need no other context: ``in dev for 3h of 24h``.
        opens: when time alone will have passed it; None if something else is missing.
    """

    name: str
    passed: bool
    reason: str
    opens: datetime | None = None


@dataclass(frozen=True)
class Verdict:
    """All gates of one decision."""

    gates: tuple[Gate, ...]

    @property
    def allowed(self) -> bool:
        """Did every gate pass?"""
        return all(gate.passed for gate in self.gates)

    @property
    def refusals(self) -> tuple[Gate, ...]:
        """The gates that did not pass."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def opens(self) -> datetime | None:
        """When time alone will have opened it; None if it is open, or needs something else."""
        times = [gate.opens for gate in self.refusals]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None
