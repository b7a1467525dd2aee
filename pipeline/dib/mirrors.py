"""Where packages come from: the archive's addresses, for builds and for look-ups alike.

In order: the definition's own variables, ``mirror:`` in images/settings.yaml, the ``DIB_…``
variables that diskimage-builder itself knows, what this machine's own apt uses for the same
distribution, and diskimage-builder's default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.dib.elements import default_of, stock_elements

if TYPE_CHECKING:
    from pipeline.models.settings import Settings

APT = Path("/etc/apt")

_UNSTABLE = {"testing", "unstable", "sid"}  # one suite that holds everything
_OPTIONS = re.compile(r"\[([^]]*)\]")


@dataclass(frozen=True)
class Family:
    """What differs between the distributions whose archives we can ask.

    Attributes:
        keyring: where Debian and Ubuntu hosts keep the archive's keys.
        keyring_package: what brings it there.
        elements: elements of diskimage-builder's that hold its defaults.
        main: variables that name the archive: the first that is set counts, the last is the one
            that every element knows.
        security: the same for security updates; empty when they are in the main archive.
    """

    keyring: Path
    keyring_package: str
    elements: tuple[str, ...]
    main: tuple[str, ...]
    security: tuple[str, ...]


FAMILIES: Mapping[str, Family] = {
    "debian": Family(
        keyring=Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
        keyring_package="debian-archive-keyring",
        elements=("debian-minimal",),
        main=("DIB_DEBIAN_DISTRIBUTION_MIRROR", "DIB_DISTRIBUTION_MIRROR"),
        security=("DIB_DEBIAN_SECURITY_MIRROR",),
    ),
    "ubuntu": Family(
        keyring=Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
        keyring_package="ubuntu-keyring",
        elements=("ubuntu-common",),
        main=("DIB_DISTRIBUTION_MIRROR",),
        security=(),
    ),
}


@dataclass(frozen=True)
class Mirrors:
    """The addresses of one distribution's archive; empty for one that we cannot ask.

    Attributes:
        distribution: such as ``debian``.
        main: the archive's URL, without a slash at its end.
        security: the same of the security archive.
        defaults: which of the two, ``main`` or ``security``, are diskimage-builder's own.
    """

    distribution: str
    main: str = ""
    security: str = ""
    defaults: frozenset[str] = frozenset()

    def environment(self) -> dict[str, str]:
        """The variables to set for a build; what is diskimage-builder's default is left to it."""
        family = FAMILIES.get(self.distribution)
        if family is None:
            return {}
        found: dict[str, str] = {}
        if "main" not in self.defaults:
            found[family.main[-1]] = self.main
        if family.security and "security" not in self.defaults:
            found[family.security[-1]] = self.security
        return found

    def sources(self, release: str, components: Sequence[str]) -> list[str]:
        """Apt's lines for *release*, its updates and its security updates, in that order."""
        if not self.main:
            return []
        what = " ".join(components)
        if release in _UNSTABLE:
            return [f"deb {self.main} {release} {what}"]
        return [
            f"deb {self.main} {release} {what}",
            f"deb {self.main} {release}-updates {what}",
            f"deb {self.security} {release}-security {what}",
        ]


def mirrors(
    distribution: str,
    settings: Settings | None = None,
    *,
    own: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    apt: Path = APT,
    elements: Sequence[Path] | None = None,
) -> Mirrors:
    """Where to take *distribution*'s packages from.

    Args:
        distribution: such as ``debian``; for one that is not known the answer is empty.
        settings: the project's settings.
        own: the variables that the image's definition sets.
        environment: this process's variables.
        apt: the folder of this machine's apt configuration.
        elements: see :func:`pipeline.dib.elements.elements_path`.
    """
    family = FAMILIES.get(distribution)
    if family is None:
        return Mirrors(distribution)
    variables = os.environ if environment is None else environment
    configured = dict(settings.mirror) if settings is not None else {}
    host = _of_host(distribution, apt)
    path = list(elements) if elements is not None else stock_elements()
    defaults: set[str] = set()

    def choose(part: str, key: str, names: Sequence[str]) -> str:
        said = [configured.get(key), *(variables.get(name) for name in names)]
        for url in (*((own or {}).get(name) for name in names), *said, host.get(part)):
            if url:
                return url.rstrip("/")
        defaults.add(part)
        found = (default_of(element, name, path) for element in family.elements for name in names)
        return next((url.rstrip("/") for url in found if url), "")

    main = choose("main", distribution, family.main)
    security = choose("security", f"{distribution}-security", family.security)
    return Mirrors(distribution, main, security or main, frozenset(defaults))


def components(distribution: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The parts of the archive that a build takes packages from: ``main``, ``contrib``, …

    Args:
        distribution: such as ``debian``.
        environment: the definition's variables.
    """
    variable = "DIB_DEBIAN_COMPONENTS"
    given = environment.get(variable) or os.environ.get(variable)
    if not given and (family := FAMILIES.get(distribution)):
        path = stock_elements()
        given = next(filter(None, (default_of(e, variable, path) for e in family.elements)), None)
    return tuple((given or "main").replace(",", " ").split())


@dataclass(frozen=True)
class _Stated:
    """One source of the host's apt: a URL and what is taken from there."""

    url: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


def _of_host(distribution: str, apt: Path) -> dict[str, str]:
    """``main`` and ``security`` as this machine's apt has them, as far as it has.

    Vendors keep archives of their own under names that look alike, so it counts what is taken
    from an archive and whose key signs it, not its name alone.
    """
    own = [
        source
        for source in _stated(apt)
        if "main" in source.components
        and re.search(rf"/{distribution}(-security)?$", source.url)
        and (not source.signed_by or f"{distribution}-archive" in source.signed_by)
    ]
    security = [s for s in own if any(suite.endswith("-security") for suite in s.suites)]
    main = [s for s in own if s.url.endswith(f"/{distribution}")]
    updated = {s.url for s in main if any(suite.endswith("-updates") for suite in s.suites)}
    found: dict[str, str] = {}
    if main:
        found["main"] = next((s.url for s in main if s.url in updated), main[0].url)
    if security:
        found["security"] = security[0].url
    return found


def _stated(apt: Path) -> Iterator[_Stated]:
    folder = apt / "sources.list.d"
    for file in (apt / "sources.list", *sorted(folder.glob("*.list"))):
        for line in _read(file).splitlines():
            yield from _one_line(line)
    for file in sorted(folder.glob("*.sources")):
        for paragraph in re.split(r"\n\s*\n", _read(file)):
            yield from _paragraph(paragraph)


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _one_line(line: str) -> Iterator[_Stated]:
    options = _OPTIONS.search(line)
    words = _OPTIONS.sub(" ", line.split("#", 1)[0]).split()
    if len(words) >= 3 and words[0] == "deb" and (url := _url(words[1])):
        signed = re.search(r"signed-by=(\S+)", options[1]) if options else None
        yield _Stated(url, (words[2],), tuple(words[3:]), signed[1] if signed else "")


def _paragraph(text: str) -> Iterator[_Stated]:
    """A stanza of a deb822 ``.sources`` file, see sources.list(5)."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
        return
    suites, parts = (tuple(fields.get(key, "").split()) for key in ("suites", "components"))
    for word in fields.get("uris", "").split():
        if url := _url(word):
            yield _Stated(url, suites, parts, fields.get("signed-by", ""))


def _url(word: str) -> str:
    """*word* if a build can use it as well: a list of mirrors gives its first, a disc nothing."""
    if word.startswith("mirror+file:"):
        listed = _read(Path("/" + word.removeprefix("mirror+file:").lstrip("/"))).split()
        word = next((entry for entry in listed if entry.startswith("http")), "")
    return word.rstrip("/") if re.match(r"https?://", word) else ""
