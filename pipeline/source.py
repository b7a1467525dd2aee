"""What git knows about a project: the commit, whether something was changed beside it, and what.

Only ``images/``, ``pipeline/`` and ``stages/`` count as changes: a note in the README makes no
other image. Of these a user's own repository may have the first alone. Settings, channels and the
root of trust, though they are in ``images/``, say where a build happens and what becomes of it,
and shape no byte of it: one may be edited while a release is on its way.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import command, digest
from pipeline.clock import compact
from pipeline.errors import HostError, UsageError

_TIMEOUT = 60.0  # seconds
_COMMIT_CHARS = 12
_DIRTY_CHARS = 8
_DIRTY = ".dirty."

_BUILT_FROM = ("images", "pipeline", "stages")
_NOT_BUILT_FROM = ("images/settings.yaml", "images/channels.yaml", "images/root.json")
# A push that changes these may bring another diskimage-builder, and so another image.
_TOOLS = ("pyproject.toml", ":(glob)*.lock", ":(glob)requirements*.txt")

_HINT_CLONE = "Images are versioned by their commit: work in a git clone, or `git init` one."


@dataclass(frozen=True)
class Source:
    """The state of a project that images are built from.

    Attributes:
        commit: the full name of the commit.
        time: when it was made.
        dirty: digest of the changes that are not committed; None when there are none.
    """

    commit: str
    time: datetime
    dirty: str | None = None

    @property
    def version(self) -> str:
        """``20260301.120000.g0123456789ab``, with ``.dirty.01234567`` when it is not clean."""
        clean = f"{compact(self.time)}.g{self.commit[:_COMMIT_CHARS]}"
        return f"{clean}{_DIRTY}{self.dirty[:_DIRTY_CHARS]}" if self.dirty else clean


def is_dirty(version: str) -> bool:
    """Does *version* name a state with changes that were in no commit?"""
    return _DIRTY in version


def read(project: Path) -> Source:
    """The commit that *project* is at, and the digest of its changes if it has any.

    Raises:
        HostError: it is no git clone, has no commit yet, or git is not installed.
    """
    try:
        head = _git(project, "log", "-1", "--format=%H%x00%ct")
    except command.CommandError as error:
        if any(
            "not have any commits" in line or "bad default revision" in line for line in error.tail
        ):
            raise HostError(
                f"the git repository of {project} has no commit yet",
                hint="Images are versioned by their commit: `git add images && git commit`.",
            ) from error
        raise _unreadable(project, error) from error
    commit, seconds = head.strip().split("\0")
    changed = _status(project)
    return Source(
        commit=commit,
        time=datetime.fromtimestamp(int(seconds), UTC),
        dirty=_digest_of(_top(project), changed) if changed else None,
    )


def changed_since(project: Path, rev: str) -> set[str]:
    """Paths, relative to *project*, that differ from where its line of work left *rev*.

    Changes that are not committed count. A *rev* of zeros, which is what a push of a new branch
    calls its predecessor, stands for an empty project: every path is in the answer.

    Raises:
        UsageError: there is no such commit here.
        HostError: it is no git clone.
    """
    _top(project)
    within = ("--", *_BUILT_FROM, *_TOOLS)
    # Not `git diff` of the work tree: without writing to the index, it calls a file that was
    # merely touched a changed one.
    edited = ("--others", "--modified", "--deleted", "--exclude-standard")
    in_work_tree = _paths(_git(project, "ls-files", "-z", *edited, *within))
    if rev and not rev.strip("0"):
        return in_work_tree | _paths(_git(project, "ls-files", "-z", *within))
    try:
        commit = _git(
            project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"
        ).strip()
    except command.CommandError as error:
        raise UsageError(
            f"--since: {rev!r} is not a commit of the git repository of {project}",
            hint="Give a branch, a tag or a commit that is here; a shallow clone lacks older "
            "commits: `git fetch --unshallow`, or `fetch-depth: 0` in a workflow.",
        ) from error
    try:
        base = _git(project, "merge-base", commit, "HEAD").strip()
    except command.CommandError:  # no common history, or a shallow clone that lacks it
        base = commit
    names = ("--name-only", "--relative", "--no-renames", "--no-ext-diff")
    return in_work_tree | _paths(_git(project, "diff", "-z", "--cached", *names, base, *within))


def _status(project: Path) -> list[str]:
    """Changed, deleted and new paths, relative to the top of the clone."""
    listing = _git(
        project, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames",
        "--ignore-submodules=none", "--", *_BUILT_FROM,
        *(f":(exclude){path}" for path in _NOT_BUILT_FROM),
    )  # fmt: skip
    return sorted(entry[3:] for entry in listing.split("\0") if entry)


def _digest_of(top: Path, paths: list[str]) -> str:
    """Digest of what *paths* hold now: what git would store of them, and no time or owner."""
    return digest.of_data({path: _content(top / path) for path in paths})


def _content(path: Path) -> str:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "deleted"
    if stat.S_ISLNK(mode):
        return f"link {os.readlink(path)}"
    if stat.S_ISDIR(mode):
        return f"folder {digest.of_folder(path, ignore=frozenset({'__pycache__', '.git'}))}"
    return f"{'program' if mode & 0o100 else 'file'} {digest.of_file(path)}"


def _paths(listing: str) -> set[str]:
    return {path for path in listing.split("\0") if path}


def _top(project: Path) -> Path:
    """The top of the clone that *project* is in, found without asking git.

    Raises:
        HostError: it is in none.
    """
    whole = project.resolve()
    for folder in (whole, *whole.parents):
        if (folder / ".git").exists():
            return folder
    raise HostError(f"{project} is not in a git repository", hint=_HINT_CLONE)


def _git(project: Path, *args: str) -> str:
    # A build may run as root in a user's clone: git then refuses unless the clone is named safe.
    # Nothing is written there, or the user would find files of root's.
    settings = [
        f"safe.directory={_top(project)}",
        "log.showSignature=false",
        "core.quotePath=off",
    ]
    given = [word for setting in settings for word in ("-c", setting)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    argv = ["git", "--no-optional-locks", "-C", str(project), *given, *args]
    return command.run(argv, env={**env, "LC_ALL": "C"}, timeout=_TIMEOUT, separate=True).stdout


def _unreadable(project: Path, error: command.CommandError) -> HostError:
    last = error.tail[-1] if error.tail else f"code {error.code}"
    return HostError(f"git cannot read the repository of {project}: {last}", hint=_HINT_CLONE)
