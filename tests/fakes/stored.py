"""A local store with releases in it, as a pipeline would have left them; all contents are tiny."""

from __future__ import annotations

import json
import os
import random
from datetime import UTC, datetime
from pathlib import Path

from pipeline import digest, releases
from pipeline.files import write_atomically
from pipeline.models.release import Failure, Package, Part, Release, TestVerdict

MOMENT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
"""The commit's time of a release, when nothing else is said."""

BASE = (
    Package(name="base-files", version="13.8", architecture="amd64"),
    Package(name="libc6", version="2.41-12", architecture="amd64", source="glibc"),
    Package(name="openssl", version="3.5.1-1", architecture="amd64"),
)

_SUFFIXES = {"root": ".root.erofs", "verity": ".verity", "uki": ".efi", "disk": ".raw"}
_SIZES = {"root": 437 << 20, "verity": 3 << 20, "uki": 42 << 20, "disk": 1536 << 20}


def version(commit: str, moment: datetime = MOMENT, dirty: str = "") -> str:
    """The version that a commit of that time gives."""
    return f"{moment:%Y%m%d.%H%M%S}.g{commit[:12]}" + (f".dirty.{dirty}" if dirty else "")


def make_release(
    image: str = "edge-web",
    *,
    commit: str = "0123456789abcdef0123456789abcdef01234567",
    moment: datetime = MOMENT,
    packages: tuple[Package, ...] = BASE,
    sizes: dict[str, int] | None = None,
    dirty: str = "",
    parent: str | None = None,
) -> Release:
    """A manifest; its digests derive from its image, commit and packages."""
    name = f"{image}_{version(commit, moment, dirty)}_amd64"
    content = [(p.name, p.version) for p in packages]
    return Release(
        image=image,
        version=version(commit, moment, dirty),
        commit=commit,
        dirty=bool(dirty),
        created=moment,
        build_key=digest.of_data([image, "key", content]),
        parent=parent,
        root_hash=digest.of_data([image, content]),
        boot_digest=digest.of_data([image, "boot"]),
        definition_digest=digest.of_data([image, "definition"]),
        parts={
            role: Part(
                file=name + suffix,
                digest=digest.of_data([name, role]),
                size=(sizes or {}).get(role, _SIZES[role]),
            )
            for role, suffix in _SUFFIXES.items()
        },
        packages=packages,
        tools={"recast": "0.1.0", "diskimage-builder": "3.43.0"},
        kernel_arguments=("console=ttyS0", "panic=30"),
    )


def make_verdict(release: Release, provider: str = "qemu", *failures: Failure) -> TestVerdict:
    """What 14 tests said; they passed unless there are failures."""
    return TestVerdict(
        provider=provider,
        passed=not failures,
        root_hash=release.root_hash,
        tests=14,
        failures=failures,
        seconds=95.0,
        boot_seconds=41.0,
        tests_digest=digest.of_data("tests"),
        when=MOMENT,
    )


def store_release(
    artifacts: Path, release: Release, *verdicts: TestVerdict, built: datetime | None = None
) -> Path:
    """Put *release* into the store under *artifacts*, and return its folder.

    Its files hold their role's name, whatever size the manifest gives.
    """
    folder = artifacts / "images" / release.image / release.version
    folder.mkdir(parents=True)
    releases.save(folder, release)
    for verdict in verdicts:
        path = releases.verdict_path(folder, release.name, verdict.provider)
        write_atomically(path, verdict.model_dump_json())
    stamp = (built or release.created).timestamp()
    for role, part in release.parts.items():
        (folder / part.file).write_text(role)
        os.utime(folder / part.file, (stamp, stamp))
    return folder


def store_whole(
    artifacts: Path,
    image: str = "edge-web",
    *,
    commit: str = "0123456789abcdef0123456789abcdef01234567",
    moment: datetime = MOMENT,
    dirty: str = "",
    built: datetime | None = None,
    providers: tuple[str, ...] = ("qemu",),
    size: int = 3 << 20,
) -> releases.Stored:
    """Store a release whose files are what its manifest says, and whose disk holds its parts.

    Args:
        artifacts: where to.
        image, commit, moment, dirty: as for :func:`make_release`.
        built: when its root was written; with the commit if not given.
        providers: where its tests passed.
        size: bytes of the root; the other parts are smaller.
    """
    release = make_release(image, commit=commit, moment=moment, dirty=dirty)
    chance = random.Random(f"{image} {commit}")
    text = b"".join(b"%d bottles of beer on the wall\n" % n for n in range(size // 32 + 1))
    contents = {
        # The second half is what compression helps with; an EROFS begins with zeros.
        "root": bytes(1024) + chance.randbytes(size // 2) + text[: size - 1024 - size // 2],
        "verity": b"verity\0\0" + release.root_hash.encode() * 400,
        "uki": b"MZ" + chance.randbytes(size // 4),
        "sbom": json.dumps({"bomFormat": "CycloneDX", "metadata": release.name}).encode(),
    }
    names = {role: part.file for role, part in release.parts.items()}
    names["sbom"] = f"{release.name}.cdx.json"
    folder = artifacts / "images" / image / release.version
    folder.mkdir(parents=True)
    for role, content in contents.items():
        (folder / names[role]).write_bytes(content)
    _write_disk(folder / names["disk"], contents)
    parts = {
        role: Part(
            file=name,
            digest=digest.of_file(folder / name),
            size=(folder / name).stat().st_size,
        )
        for role, name in names.items()
    }
    release = release.model_copy(update={"parts": parts})
    releases.save(folder, release)
    for provider in providers:
        path = releases.verdict_path(folder, release.name, provider)
        write_atomically(path, make_verdict(release, provider).model_dump_json())
    stamp = (built or moment).timestamp()
    os.utime(folder / names["root"], (stamp, stamp))
    found = releases.Releases(artifacts).find(image, release.version)
    assert found is not None
    return found


def _write_disk(path: Path, contents: dict[str, bytes]) -> None:
    """Sparse, as a real one is: tables at both ends, a small ESP with the UKI, root and verity."""
    after = (17 << 20) + (len(contents["root"]) >> 20 << 20)
    at = {"uki": 3 << 20, "root": 16 << 20, "verity": after}
    with path.open("wb") as file:
        file.truncate(after + (8 << 20))
        for start, data in ((0, b"GPT" * 4000), (1 << 20, b"FAT" * 20000), (-16384, b"GPT" * 4000)):
            file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
            file.write(data)
        for role, start in at.items():
            file.seek(start)
            file.write(contents[role])
