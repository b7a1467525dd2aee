"""A small world in which releases move: a signed store with keys, channels and published releases.

Nothing is built: a release's files hold a few bytes each, whatever size its manifest gives, and
its manifest, attestations, description and metadata are what Recast itself makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pipeline import clock, digest
from pipeline.channels.desk import Desk
from pipeline.channels.pointers import moved, new_rollout
from pipeline.channels.published import PublishedReleases
from pipeline.models.channel import ALL_AT_ONCE, ChannelDefinition, Channels, Gates, Wave
from pipeline.models.pointer import (
    Delta,
    Event,
    Evidence,
    PublishedPart,
    PublishedRelease,
    StoredObject,
)
from pipeline.models.release import Failure, Package, Part, Release
from pipeline.store.base import Store, object_key, release_key
from pipeline.transfer.costs import ROLES
from pipeline.trust.attest import Build, Material, Subject, provenance, sbom_reference, test_result
from pipeline.trust.client import TrustClient
from pipeline.trust.keys import Keyring
from pipeline.trust.repository import Repository, RoleKeys
from pipeline.trust.views import ChannelChange, ChannelView
from tests.fakes.store import MemoryStore
from tests.fakes.stored import BASE, MOMENT, make_release, make_verdict

HOUR = timedelta(hours=1)

CHANNELS = Channels(
    channels=(
        ChannelDefinition(name="dev"),
        ChannelDefinition(name="candidate", gates=Gates(soak=3600.0)),
        ChannelDefinition(
            name="stable",
            gates=Gates(soak=86400.0),
            waves=(
                Wave(share=0.1, soak=3600.0),
                Wave(share=0.5, soak=14400.0),
                Wave(share=1.0),
            ),
        ),
    )
)
"""Channels as a small project has them: an hour in dev, a day in candidate, three waves."""

OFFLINE = ("root", "targets")
ATTESTERS = ("builder", "tester")


class Publisher:
    """Puts releases into a store, with evidence that the builder's and tester's keys sign.

    Args:
        store: where to.
        keyring: has the keys ``builder`` and ``tester``.
    """

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self.store = store
        self.keyring = keyring
        self._releases = 0

    def publish(
        self,
        image: str = "edge-web",
        *,
        packages: tuple[Package, ...] | None = None,
        sizes: dict[str, int] | None = None,
        dirty: str = "",
        tests: Mapping[str, bool] | None = None,
        moment: datetime | None = None,
        attested: bool = True,
        deltas: Sequence[PublishedRelease] = (),
    ) -> PublishedRelease:
        """Put a release into the store, an hour younger than the one before; into no channel.

        Args:
            image: whose.
            packages: what it holds; else each release brings a newer openssl.
            sizes: in bytes, by role, where they are not the usual ones.
            dirty: digest of uncommitted changes; empty for a clean build.
            tests: outcomes by provider; passed on qemu if None.
            moment: its commit's time.
            attested: does it come with provenance and SBOM reference?
            deltas: releases from which there is a delta of root and boot file, of 15 bytes each.
        """
        self._releases += 1
        number = self._releases
        newer = Package(name="openssl", version=f"3.5.1-{number}", architecture="amd64")
        release = make_release(
            image,
            commit=digest.of_data([image, number])[:40],
            moment=moment or MOMENT + number * HOUR,
            packages=packages or (*BASE[:-1], newer),
            sizes=sizes,
            dirty=dirty,
        )
        return self.put(
            release,
            tests={"qemu": True} if tests is None else tests,
            attested=attested,
            deltas=deltas,
        )

    def put(
        self,
        release: Release,
        *,
        tests: Mapping[str, bool] | None = None,
        attested: bool = True,
        deltas: Sequence[PublishedRelease] = (),
    ) -> PublishedRelease:
        """Put just this release into the store; the files' digests become those of their bytes."""
        contents = {role: f"{release.name} {role}".encode() for role in (*release.parts, "sbom")}
        parts = {
            role: Part(
                file=release.parts[role].file if role in release.parts else f"{release.name}.json",
                digest=digest.of_bytes(content),
                size=release.parts[role].size if role in release.parts else len(content),
            )
            for role, content in contents.items()
        }
        release = release.model_copy(update={"parts": parts})
        manifest = self._store(release.model_dump_json(indent=2).encode())
        subject = Subject(release, manifest.digest)
        published = PublishedRelease(
            image=release.image,
            version=release.version,
            arch=release.arch,
            commit=release.commit,
            dirty=release.dirty,
            created=release.created,
            build_key=release.build_key,
            root_hash=release.root_hash,
            boot_digest=release.boot_digest,
            manifest=manifest,
            parts={
                role: PublishedPart(
                    file=part.file,
                    digest=part.digest,
                    size=part.size,
                    stored=self._store(contents[role]),
                    deltas=self._deltas(role, deltas),
                )
                for role, part in parts.items()
            },
            evidence=self._attest(subject, tests or {}, attested),
        )
        key = release_key(release.image, release.version)
        self.store.create(key, published.model_dump_json().encode())
        return published

    def _attest(
        self, subject: Subject, tests: Mapping[str, bool], attested: bool
    ) -> tuple[Evidence, ...]:
        builder, tester = (self.keyring.signer(self.keyring.public(name)) for name in ATTESTERS)
        assert builder is not None
        assert tester is not None
        evidence = []
        if attested:
            sources = Material("source", {"gitCommit": subject.release.commit})
            made = provenance(subject, Build(materials=(sources,)), [builder])
            evidence.append(Evidence(kind="provenance", stored=self._store(made)))
            sbom = sbom_reference(subject, [builder])
            evidence.append(Evidence(kind="sbom", stored=self._store(sbom)))
        for provider, passed in tests.items():
            failures = () if passed else (Failure(test="test_it.py::test_it", message="no"),)
            verdict = make_verdict(subject.release, provider, *failures)
            signed = test_result(subject, verdict, [tester])
            evidence.append(Evidence(kind="test", provider=provider, stored=self._store(signed)))
        return tuple(evidence)

    def _deltas(self, role: str, bases: Sequence[PublishedRelease]) -> tuple[Delta, ...]:
        return tuple(
            Delta(
                base=base.identity(role),
                version=base.version,
                index=self._store(b"an index "),
                stored=self._store(b"blocks"),
            )
            for base in bases
            if role in ROLES
        )

    def _store(self, data: bytes) -> StoredObject:
        sha256 = digest.of_bytes(data)
        self.store.put(object_key(sha256), data, sha256=sha256)
        return StoredObject(digest=sha256, size=len(data))


class World(Publisher):
    """A store, and everybody's keys.

    Args:
        folder: a temporary folder, for keys and the clients' memories.
        store: where to; one in memory if not given.
        channels: what ``images/channels.yaml`` says.
        holders: names of the keys that may sign a channel; ``alice`` where not given.
        ago: how long before the real present this world begins.

    Attributes:
        store: the store.
        channels: the channels.
        keyring: all keys: root, targets, online, builder, tester and everybody's.
        root: the root of trust that clients start from.
        present: the time of this world; see :meth:`wait`.
        desk: of somebody who has all keys.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: Store | None = None,
        channels: Channels = CHANNELS,
        holders: Mapping[str, Sequence[str]] | None = None,
        ago: timedelta = timedelta(0),
    ) -> None:
        self.folder = folder
        # TUF's client knows no time but the real one, so a world begins near to it.
        self.present = clock.now() - ago
        super().__init__(store or MemoryStore(), Keyring(folder / "keys"))
        self.channels = channels
        self._people = 0
        names = {name: tuple((holders or {}).get(name, ("alice",))) for name in channels.names}
        everybody = dict.fromkeys(name for each in names.values() for name in each)
        keys = {
            name: self.keyring.generate(name, None)
            for name in (*OFFLINE, "online", *ATTESTERS, *everybody)
        }
        roles = {name: RoleKeys((keys[name],)) for name in (*OFFLINE, "online", *ATTESTERS)}
        roles |= {role: RoleKeys(tuple(keys[n] for n in of)) for role, of in names.items()}
        self.root = Repository.create(
            self.store, self.keyring, channels, roles, now=lambda: self.present
        )
        self.desk = self._desk(self.keyring)

    @property
    def repository(self) -> Repository:
        """The signed metadata, with all keys at hand."""
        return self.desk.repository

    def wait(self, time: timedelta) -> datetime:
        """Let time pass; return the new present."""
        self.present += time
        return self.present

    def engineer(self, *names: str) -> Desk:
        """The desk of somebody on another machine, who has just these keys.

        ``online`` must be among them for what they sign to be published at once.
        """
        keyring = Keyring(self.folder / f"keys-{self._people}")
        for name in names:
            keyring.add(name, f"file:{self.keyring.file(name)}")
        return self._desk(keyring)

    def client(self) -> TrustClient:
        """A machine that has never seen the store."""
        self._people += 1
        return TrustClient(self.store, self.folder / f"trust-{self._people}", self.root)

    def hold(self, channel: str, *releases: PublishedRelease) -> None:
        """Let a channel hold the last of *releases*, having held the others; no gate is asked."""
        for release in releases:

            def decide(view: ChannelView, release: PublishedRelease = release) -> ChannelChange:
                rollout = new_rollout(view.name, release, ALL_AT_ONCE, self.present)
                keep = self.channels.retention.keep
                pointer = view.pointers.get(release.image)
                after = moved(pointer, view.name, release, rollout, keep=keep)
                event = Event(
                    action="promote",
                    at=self.present,
                    image=release.image,
                    version=release.version,
                    before=pointer.release.version if pointer and pointer.release else "",
                )
                return ChannelChange(event=event, pointers={release.image: after})

            self.repository.change_channel(channel, decide)

    def _desk(self, keyring: Keyring) -> Desk:
        client = self.client()
        repository = Repository(
            self.store, client, keyring, self.channels, now=lambda: self.present
        )
        return Desk(
            store=self.store,
            repository=repository,
            published=PublishedReleases(self.store),
            client=client,
            channels=self.channels,
            clock=lambda: self.present,
        )
