"""Every error that a person can meet, and its exit code by class.

::

    RecastError            1   something went wrong that is not one of these
    ├── UsageError         2   the command's words are off (click uses 2 as well)
    ├── DefinitionError    3   images/ holds something that is not valid
    ├── HostError          4   this machine lacks a tool, a right or room
    │   └── DiskFullError  4
    ├── BuildError         5   a build or an assembly failed
    │   └── BudgetError    5   a result is larger than its definition allows
    ├── TestError          6   a machine came up wrong, or its tests failed
    │   └── BootError      6   a machine never came up
    ├── NetworkError       7   a mirror, store or cloud cannot be reached
    ├── BusyError          8   somebody else is at work on the same thing
    │   └── ConflictError  8   somebody else has changed it meanwhile
    ├── TrustError         9   signatures, keys or digests are not what they must be
    │   └── DigestError    9   stored bytes are not the bytes that were stored
    ├── RefusedError      10   a gate of a channel says no
    └── Interrupted      130   Ctrl-C or SIGTERM
"""

from __future__ import annotations


class RecastError(Exception):
    """An error with a sentence for a person and, where there is one, the next step.

    Args:
        message: what happened, and where.
        hint: what to do next; one sentence, or empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(RecastError):
    """The command line asks for something that does not exist or does not fit."""

    exit_code = 2


class DefinitionError(RecastError):
    """A file under ``images/`` is not valid; the message names file, line and field."""

    exit_code = 3


class HostError(RecastError):
    """This machine lacks a tool, a right, memory or room."""

    exit_code = 4


class DiskFullError(HostError):
    """No space is left where something had to be written."""


class BuildError(RecastError):
    """A build or an assembly failed."""

    exit_code = 5


class BudgetError(BuildError):
    """A result is larger than the size budget of its definition."""


class TestError(RecastError):
    """A machine came up, and was not what its tests demand."""

    __test__ = False  # not a test class, whatever pytest makes of the name
    exit_code = 6


class BootError(TestError):
    """A machine never came up, or stopped while it was in use."""


class NetworkError(RecastError):
    """A mirror, a store or a cloud cannot be reached or answers wrongly."""

    exit_code = 7


class BusyError(RecastError):
    """Another process holds what this one needs."""

    exit_code = 8


class ConflictError(BusyError):
    """Somebody else has changed it since it was looked at."""


class TrustError(RecastError):
    """Something is not signed as it must be: metadata, an attestation, or with which key."""

    exit_code = 9


class DigestError(TrustError):
    """Bytes are not those that their digest names; the message names the object's key."""


class RefusedError(RecastError):
    """A channel's gates do not allow it."""

    exit_code = 10


class Interrupted(RecastError):
    """The person or the system asked for a stop (Ctrl-C, SIGTERM)."""

    exit_code = 130
