"""What a distribution's archive offers now, asked through apt itself in a root of its own.

apt verifies the signed indexes against the distribution's keyring and downloads only what has
changed. Nothing of the host's apt takes part but its proxy and its credentials: no sources, no
hooks, no pins, no installed packages.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import clock, command, digest
from pipeline.dib.mirrors import FAMILIES, Mirrors, components, mirrors
from pipeline.errors import HostError, NetworkError
from pipeline.files import explained, locked, write_atomically

if TYPE_CHECKING:
    from pipeline.models.image import ImageDefinition
    from pipeline.models.settings import Settings

__all__ = ["Archive", "Candidate", "Mirrors", "components", "mirrors", "open_archive"]

_TIMEOUT = 15  # seconds until a silent mirror counts as dead
_UPDATE_TIMEOUT = 600.0  # seconds for all indexes
_RETRY_AFTER = 600.0  # seconds after a failure in which the archive is not asked by itself

# Lines of the host's apt configuration that say how its network is reached.
_REACH = re.compile(r"Acquire::(https?::(Proxy|Verify|Ca|Ssl)|Proxy|(http::)?Proxy-Auto)", re.I)
_ERROR = re.compile(r"^[EW]: (?P<text>.*)$")
_KEY = re.compile(
    r"NO_PUBKEY|EXPKEYSIG|REVKEYSIG|BADSIG|is not signed|signatures? (couldn|were in)"
)

_CONFIGURATION = """\
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::srcpkgcache "";
Dir::Log "{root}";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "{root}/none";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{root}/none";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "{root}/none";
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "1";
Acquire::http::Timeout "{timeout}";
Acquire::https::Timeout "{timeout}";
"""


@dataclass(frozen=True)
class Candidate:
    """What apt would install now.

    Attributes:
        version: of the package.
        suite: where it comes from, such as ``trixie-security``.
    """

    version: str
    suite: str


class _Look(BaseModel):
    """What is remembered of the last look at an archive."""

    model_config = ConfigDict(frozen=True)

    sources: tuple[str, ...] = ()
    looked_at: datetime | None = None
    failed_at: datetime | None = None
    candidates: Mapping[str, Candidate | None] = {}


class Archive:
    """One release of a distribution, as its mirrors offer it.

    Two of these on one folder are safe, in one process or in two.

    Args:
        distribution: such as ``debian``.
        release: such as ``trixie``.
        arch: such as ``amd64``.
        mirrors: where it is.
        cache: a folder for this and other archives.
        components: what of it is looked at.
        keyring: the keys that may sign it; the distribution's when not given.
    """

    def __init__(
        self,
        distribution: str,
        release: str,
        arch: str,
        mirrors: Mirrors,
        cache: Path,
        *,
        components: Sequence[str] = ("main",),
        keyring: Path | None = None,
    ) -> None:
        self.name = f"{distribution} {release}"
        self._distribution = distribution
        self._arch = arch
        self._sources = tuple(mirrors.sources(release, components))
        self._root = cache.absolute() / "-".join((distribution, release, arch, *components))
        self._keyring = keyring

    @property
    def known(self) -> bool:
        """Can this archive be asked? Others than Debian's and Ubuntu's cannot."""
        return bool(self._sources)

    @property
    def looked_at(self) -> datetime | None:
        """When it was last asked, with success, at the mirrors that are set now."""
        return self._look().looked_at

    def refresh(self, force: bool, max_age: float) -> None:
        """Ask the archive, if it is time to; do nothing for one that cannot be asked.

        Args:
            force: ask whatever the age of the last look.
            max_age: seconds from which on a look is too old. When the archive could not be
                reached, it is left alone for ten minutes unless forced.

        Raises:
            NetworkError: a mirror does not answer, or answers with what is not signed rightly.
            HostError: the keyring is missing.
        """
        if not self.known:
            return
        with self._locked():
            look = self._look()
            fresh = _within(look.looked_at, max_age) or _within(look.failed_at, _RETRY_AFTER)
            if fresh and not force:
                return
            try:
                self._update()
            except NetworkError:
                self._save(look.model_copy(update={"failed_at": clock.now()}))
                raise
            self._save(_Look(sources=self._sources, looked_at=clock.now()))

    def candidates(self, names: Iterable[str]) -> dict[str, Candidate]:
        """What apt would install of *names*; those that the archive lacks are left out.

        Nothing is downloaded: the answer is as old as the last look, and empty without one.
        """
        wanted = sorted(set(names))
        look = self._look()
        if look.looked_at is None or not wanted:
            return {}
        if any(name not in look.candidates for name in wanted):
            with self._locked():
                look = self._look()
                new = [name for name in wanted if name not in look.candidates]
                # A name with a colon is of another architecture, which is not looked at here.
                found = self._policy([name for name in new if ":" not in name])
                known = {**look.candidates, **{name: found.get(name) for name in new}}
                look = look.model_copy(update={"candidates": known})
                self._save(look)
        answers = {name: look.candidates.get(name) for name in wanted}
        return {name: answer for name, answer in answers.items() if answer is not None}

    def index_digest(self) -> str:
        """Digest over the signed indexes of the last look; empty without one."""
        if self._look().looked_at is None:
            return ""
        lists = self._root / "state" / "lists"
        files = [*lists.glob("*_InRelease"), *lists.glob("*_Release")]
        return digest.of_data(sorted(digest.of_file(file) for file in files))

    def _look(self) -> _Look:
        try:
            look = _Look.model_validate_json((self._root / "look.json").read_bytes())
        except (OSError, ValidationError):
            return _Look()
        if look.sources != self._sources:  # another mirror now: what the old one said is nothing
            return _Look()
        return look

    def _save(self, look: _Look) -> None:
        data = look.model_copy(update={"sources": self._sources}).model_dump_json()
        write_atomically(self._root / "look.json", data)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with locked(self._root / "lock", what=f"asking the archive of {self.name}"):
                yield
        except PermissionError as error:
            raise HostError(
                f"the archive of {self.name} cannot be asked: {error.filename or self._root} "
                "belongs to another user",
                hint="Run it as the user who ran the builds, with `sudo` if that was root.",
            ) from error

    def _update(self) -> None:
        keyring = self._find_keyring()
        with explained(self._root):
            for folder in ("state/lists/partial", "cache/archives/partial", "sources", "none"):
                (self._root / folder).mkdir(parents=True, exist_ok=True)
            (self._root / "status").write_bytes(b"")
        configuration = (
            _CONFIGURATION.format(root=self._root, arch=self._arch, timeout=_TIMEOUT)
            + _host_reach()
        )
        write_atomically(self._root / "apt.conf", configuration)
        write_atomically(self._root / "sources" / "recast.sources", self._deb822(keyring))
        try:
            self._apt("apt-get", "update", timeout=_UPDATE_TIMEOUT)
        except command.CommandError as error:
            raise self._explain(error, keyring) from error
        except command.CommandTimeout as error:
            raise NetworkError(
                f"the archive of {self.name} did not answer within {_UPDATE_TIMEOUT:.0f} s",
                hint=self._next_step(),
            ) from error

    def _deb822(self, keyring: Path) -> str:
        stanzas = []
        for line in self._sources:
            _, url, suite, *parts = line.split()
            stanzas.append(
                f"Types: deb\nURIs: {url}\nSuites: {suite}\nComponents: {' '.join(parts)}\n"
                f"Signed-By: {keyring}\n"
            )
        return "\n".join(stanzas)

    def _find_keyring(self) -> Path:
        family = FAMILIES[self._distribution]
        keyring = self._keyring or family.keyring
        if not keyring.is_file():
            raise HostError(
                f"the keys of {self._distribution}'s archive are missing: {keyring}",
                hint=f"Install them with `apt-get install {family.keyring_package}`.",
            )
        return keyring

    def _apt(self, *argv: str, timeout: float) -> str:
        kept = ("PATH", "HOME", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {"APT_CONFIG": str(self._root / "apt.conf"), "LC_ALL": "C.UTF-8"}
        return command.run(argv, env=env, timeout=timeout).stdout

    def _policy(self, names: Sequence[str]) -> dict[str, Candidate]:
        if not names:
            return {}
        try:
            return parse_policy(self._apt("apt-cache", "policy", *names, timeout=120.0))
        except command.CommandError as error:
            raise HostError(
                f"the last look at the archive of {self.name} cannot be read: {error.message}",
                hint=f"Remove {self._root}, then run `recast plan --refresh`.",
            ) from error

    def _explain(self, error: command.CommandError, keyring: Path) -> NetworkError:
        """A short error from the many lines of apt's, its first being the most telling."""
        lines = [match["text"] for line in error.tail if (match := _ERROR.match(line))]
        told = next((line for line in lines if _KEY.search(line)), lines[0] if lines else "")
        text = "\n".join(error.tail)
        if _KEY.search(text):
            return NetworkError(
                f"the archive of {self.name} is not signed by a key that is trusted here: {told}",
                hint=f"Bring {keyring} up to date (`apt-get install "
                f"{FAMILIES[self._distribution].keyring_package}`), or use another mirror: "
                f"{self._setting()}.",
            )
        return NetworkError(
            f"the archive of {self.name} cannot be read: {told or f'code {error.code}'}",
            hint=self._next_step(),
        )

    def _next_step(self) -> str:
        return f"Check the network, or use another mirror: {self._setting()}."

    def _setting(self) -> str:
        family = FAMILIES[self._distribution]
        variables = " and ".join([*family.main[-1:], *family.security[-1:]])
        return f"`mirror:` in images/settings.yaml, or {variables} in the environment"


def open_archive(definition: ImageDefinition, settings: Settings, cache: Path) -> Archive:
    """The archive that an image's packages come from.

    Args:
        definition: the image with what it inherits.
        settings: the project's settings.
        cache: where archives keep their state: ``artifacts/cache/archive``.
    """
    distribution, release = definition.distribution or "", definition.release or ""
    own = definition.environment
    return Archive(
        distribution,
        release,
        definition.arch,
        mirrors(distribution, settings, own=own),
        cache,
        components=components(distribution, own),
    )


def parse_policy(text: str) -> dict[str, Candidate]:
    """Candidates by package, from what ``apt-cache policy NAME…`` prints.

    A version that several suites have is said to come from the security one, then from the
    updates, as that is why it is new.
    """
    found: dict[str, Candidate] = {}
    for block in re.split(r"\n(?=\S)", text):
        head = re.match(r"(\S+):\n\s+Installed: .*\n\s+Candidate: (\S+)\n", block)
        if head is None or head[2] == "(none)":
            continue
        # "     1.2-3 500", then "        500 <url> <suite>/<component> <arch> Packages" for each.
        suites: list[str] = []
        current = ""
        for line in block.splitlines():
            if version := re.match(r"(?: {5}| \*\*\* )(\S+) -?\d+", line):
                current = version[1]
            elif current == head[2] and (place := re.match(r" {8,} *-?\d+ \S+ (\S+)/\S+ ", line)):
                suites.append(place[1])
        found[head[1]] = Candidate(head[2], min(suites, key=_by_news, default=""))
    return found


def _by_news(suite: str) -> tuple[int, str]:
    rank = 0 if suite.endswith("-security") else 1 if suite.endswith("-updates") else 2
    return rank, suite


def _within(moment: datetime | None, seconds: float) -> bool:
    if moment is None:
        return False
    return (datetime.now(UTC) - moment).total_seconds() < seconds


def _host_reach() -> str:
    """The host's proxy and certificates: how it reaches any archive at all."""
    try:
        dump = command.run(["apt-config", "dump"], timeout=30.0, separate=True).stdout
    except command.CommandError:
        return ""
    return "".join(f"{line}\n" for line in dump.splitlines() if _REACH.match(line))
