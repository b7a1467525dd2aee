"""Run diskimage-builder: a definition in, a root tree as a tar out.

DIB is used as it is. What is special here is around it: it runs in namespaces of its own (see
:mod:`pipeline.sandbox`), on copies of the elements whose digests went into the build key, with
an environment made from nothing, and with a package cache that two builds may share.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipeline import digest, sandbox
from pipeline.command import CommandError, Stop, run
from pipeline.dib import agent
from pipeline.dib.package_cache import given_back, lend, lent
from pipeline.dib.transcript import Transcript, explain
from pipeline.errors import BuildError, HostError
from pipeline.files import explained
from pipeline.models.image import ImageDefinition

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# What DIB's own hooks install one by one after the bootstrap; in the bootstrap it costs less.
_BOOTSTRAP_PACKAGES = (
    "adduser",
    "busybox",
    "ca-certificates",
    "gnupg2",
    "locales",
    "lsb-release",
    "python3",
    "sudo",
    "systemd-sysv",
)


@dataclass(frozen=True)
class TreeRequest:
    """One run of diskimage-builder.

    Attributes:
        definition: the image, with what it inherits.
        elements: each element that takes part, by name, with its folder.
        named: the elements to name on DIB's command line.
        sources: the archive's lines for apt (``deb URI SUITE COMPONENTS``).
        environment: DIB variables (mirrors and the definition's own).
        parent_tree: the parent's tar, or none for a base image.
        files_from: the folder that the definition's ``source:`` files are relative to.
        sizes: bytes of the machine's partitions: ``root``, ``verity``, ``esp``.
        bootstrap_packages: installed by the bootstrap already, where that costs least.
        digests: of each element, as planned; one that has none is taken as it is.
        file_digests: the same for each file of the definition, by its ``source:``.
        agent: the agent that it gets, as planned; None for an image without one.
    """

    definition: ImageDefinition
    elements: Mapping[str, Path]
    named: Sequence[str]
    sources: Sequence[str]
    environment: Mapping[str, str]
    parent_tree: Path | None
    files_from: Path
    sizes: Mapping[str, int]
    bootstrap_packages: Sequence[str] = field(default=())
    digests: Mapping[str, str] = field(default_factory=dict)
    file_digests: Mapping[str, str] = field(default_factory=dict)
    agent: agent.Agent | None = None


def create_tree(
    request: TreeRequest,
    *,
    scratch: Path,
    package_cache: Path,
    agent_cache: Path,
    log: IO[str],
    stop: Stop,
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[Path, Path]:
    """Build the tree of one image.

    Args:
        request: what to build.
        scratch: an empty folder for this build alone; the results lie in it.
        package_cache: downloaded packages, shared with other builds.
        agent_cache: the same for libraries of the agent.
        log: gets everything that DIB and its hooks print.
        stop: ends the build when set.
        progress: hears which hook runs.

    Returns:
        The tar of the tree, and the folder of DIB's manifests.

    Raises:
        BuildError: a hook failed (the message has its element, phase and last lines), or what is
            to be built is no longer what was planned.
        NetworkError: the package archive, or the index of the agent's libraries, could not be
            reached.
        TrustError: the index offers other libraries than are locked.
        DiskFullError: the disk filled up.
        HostError: a tool is missing.
        Interrupted: *stop* was set.
    """
    if re.search(r"\s", str(scratch)):
        raise HostError(
            f"diskimage-builder cannot work below a path with spaces: {scratch}",
            hint="Point RECAST_ARTIFACTS at a folder without spaces in its path.",
        )
    with explained(scratch):
        elements = scratch / "elements"
        _copy_elements(request.elements, elements, request.digests)
        if request.agent is not None:
            progress("the agent's libraries")
            copy = elements / agent.ELEMENT
            if not agent.put(request.agent, copy, cache=agent_cache, log=log, stop=stop):
                raise _changed("the agent")
        _write_definition_element(request, elements / "recast-image")
        out = scratch / "out"
        for folder in (out, scratch / "tmp", scratch / "cache"):
            folder.mkdir(parents=True)
        environment = _environment(request, scratch, elements)
    command = [sys.executable, str(Path(sys.executable).with_name("disk-image-create"))]
    command += ["-n", "-a", request.definition.arch, "-o", str(out / "tree"), "-t", "tar"]
    command += [*request.named, "recast-image"]
    lines = Transcript(log, progress)
    distribution = request.definition.distribution or ""
    with lend(package_cache, scratch / "cache", distribution):
        try:
            run(sandbox.argv(command), env=environment, log=lines, stop=stop, cwd=scratch)
        except CommandError as error:
            name = str(getattr(log, "name", ""))
            raise explain(lines.lines, request.elements, error, log=name) from error
    return out / "tree.tar", out / "tree.d"


def _environment(request: TreeRequest, scratch: Path, elements: Path) -> dict[str, str]:
    kept = ("http_proxy", "https_proxy", "no_proxy")
    path = ":".join(
        [
            str(Path(sys.executable).parent),
            *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
        ]
    )
    environment = {
        "PATH": path,
        "HOME": str(scratch / "tmp"),
        "LC_ALL": "C.UTF-8",
        "USER": "root",
        **{name: os.environ[name] for name in kept if name in os.environ},
        "ELEMENTS_PATH": str(elements),
        "TMP_DIR": str(scratch / "tmp"),
        "DIB_IMAGE_CACHE": str(scratch / "cache"),
        "DIB_LOCKFILES": str(scratch / "cache"),
        "DIB_PYTHON_EXEC": sys.executable,
        "DIB_RELEASE": request.definition.release or "",
        "DISTRO_NAME": request.definition.distribution or "",
        "DIB_INIT_SYSTEM": "systemd",
        # Recast's images are configured by networkd or the definition, never by ifupdown.
        "DIB_APT_MINIMAL_CREATE_INTERFACES": "0",
        "RECAST_APT_SOURCES": "\n".join(request.sources),
        **request.environment,
    }
    if request.parent_tree is not None:
        environment["RECAST_PARENT_TREE"] = str(request.parent_tree)
    else:
        environment["DIB_MMDEBSTRAP_EXTRA_ARGS"] = " ".join(
            [
                _bootstrap_arguments(request, scratch),
                request.environment.get("DIB_MMDEBSTRAP_EXTRA_ARGS", ""),
            ]
        )
    return environment


def _bootstrap_arguments(request: TreeRequest, scratch: Path) -> str:
    """One bootstrap that installs what would otherwise take DIB's hooks four rounds of apt.

    All suites take part, so that nothing is installed and then replaced by its security update.
    """
    setup = scratch / "bootstrap-setup"
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    sources = "\n".join(line.replace("deb ", f"deb {signed}", 1) for line in request.sources)
    own = scratch / "cache"
    cache, back = lent(own, request.definition.distribution or ""), given_back(own)
    diverted = ("/usr/sbin/depmod", "/usr/bin/dracut")
    names = [name for tool in diverted for name in (tool, tool.removeprefix("/usr"))]
    diversions = "".join(f"{name}\n{name}.recast\n:\n" for name in names)
    setup.write_text(
        "#!/bin/sh\nset -eu\n"
        f'mkdir -p "$1/etc/apt/sources.list.d" "$1/var/cache/apt/archives"\n'
        f"printf '%s\\n' {shlex.quote(sources)} > \"$1/etc/apt/sources.list.d/recast.list\"\n"
        f'find {cache} -maxdepth 1 -name "*.deb" -exec cp -t "$1/var/cache/apt/archives" {{}} +\n'
        # dpkg's own file of diversions: see root.d/60-recast-bootstrapped of recast-base.
        'mkdir -p "$1/var/lib/dpkg" "$1/usr/sbin" "$1/usr/bin"\n'
        f'printf %s {shlex.quote(diversions)} > "$1/var/lib/dpkg/diversions"\n'
        f"for tool in {' '.join(diverted)}; do\n"
        '  printf "#!/bin/sh\\nexit 0\\n" > "$1$tool"\n'
        '  chmod 755 "$1$tool"\n'
        "done\n"
    )
    keep = scratch / "bootstrap-keep"
    keep.write_text(
        "#!/bin/sh\nset -eu\n"
        'find "$1/var/cache/apt/archives" -maxdepth 1 -name "*.deb" '
        f"-exec cp -n -t {back} {{}} +\n"
    )
    for hook in (setup, keep):
        hook.chmod(0o755)
    packages = sorted({*_BOOTSTRAP_PACKAGES, *request.bootstrap_packages})
    return (
        f"--setup-hook={setup} --customize-hook={keep} --skip=download/empty "
        f"--skip=essential/unlink --include={','.join(packages)} "
        "--dpkgopt=force-unsafe-io"
    )


def _copy_elements(
    elements: Mapping[str, Path], target: Path, digests: Mapping[str, str] | None = None
) -> None:
    """Copy what will run: an edit during the build cannot reach it any more."""
    for name, folder in elements.items():
        shutil.copytree(folder, target / name, symlinks=True)
        if digests and name in digests and digest.of_folder(target / name) != digests[name]:
            raise _changed(f"the element {name}")
        if name.startswith("recast-"):
            # A wheel may have lost the executable bit that DIB goes by.
            for hook in target.glob(f"{name}/*.d/*"):
                if hook.is_file() and hook.parent.name != "environment.d":
                    hook.chmod(0o755)


def _changed(what: str) -> BuildError:
    # Its build key says what was planned: another content under it would be found again for ever.
    return BuildError(
        f"{what} has changed since this run was planned",
        hint="Run it again: it is then planned, and built, as it is now.",
    )


def _write_definition_element(request: TreeRequest, folder: Path) -> None:
    """Turn the definition into an element: packages, files, health checks, variables."""
    definition = request.definition
    for part in ("environment.d", "post-install.d", "recast-image", "package-installs"):
        (folder / part).mkdir(parents=True)
    (folder / "package-installs").rmdir()
    (folder / "element-deps").write_text("package-installs\nrecast-base\n")
    (folder / "package-installs.yaml").write_text(json.dumps(dict.fromkeys(definition.packages)))
    variables = {
        "RECAST_ROOT_SIZE": str(request.sizes["root"]),
        "RECAST_VERITY_SIZE": str(request.sizes["verity"]),
        "RECAST_ESP_SIZE": str(request.sizes["esp"]),
        "RECAST_PERSIST": " ".join(definition.persist),
    }
    (folder / "environment.d" / "45-recast-image").write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    )
    root = folder / "recast-image"
    copies: list[str] = []
    for number, entry in enumerate(definition.files):
        source = root / f"file-{number}"
        if entry.content is not None:
            source.write_text(entry.content)
        else:
            given = entry.source or ""
            shutil.copyfile(request.files_from / given, source)
            if request.file_digests.get(given, "") not in ("", digest.of_file(source)):
                raise _changed(f"the file {given} of {definition.name}")
        target = shlex.quote(entry.path)
        copies.append(
            f'install -D --mode={shlex.quote(entry.mode)} "$here/file-{number}" {target}\n'
        )
    health = "/usr/lib/recast/health.d"
    copies.append(f"mkdir -p {health}\n")
    for check in definition.health:
        (root / f"{check.name}.check").write_text(f"#!/bin/sh\nexec {shlex.join(check.command)}\n")
        (root / f"{check.name}.timeout").write_text(f"{check.timeout}\n")
        copies.append(f'install --mode=755 "$here/{check.name}.check" {health}/\n')
        copies.append(f'install --mode=644 "$here/{check.name}.timeout" {health}/\n')
    script = folder / "post-install.d" / "60-recast-image"
    script.write_text(
        '#!/bin/bash\nset -eu\nhere="$(dirname "$0")/../recast-image"\n' + "".join(copies)
    )
    script.chmod(0o755)
