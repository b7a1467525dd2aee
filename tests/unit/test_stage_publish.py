"""The publish stage: what it signs, uploads and moves, and what it leaves alone."""

from __future__ import annotations

import io
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.channels.attesting import attest, missing_keys
from pipeline.channels.desk import Desk
from pipeline.channels.facts import look_at
from pipeline.command import Stop
from pipeline.engine.records import BuildRecord, Components, Records
from pipeline.engine.stage import Work
from pipeline.errors import BuildError, RefusedError, TrustError
from pipeline.models.channel import ChannelDefinition, Channels, Gates
from pipeline.models.pointer import PublishedRelease
from pipeline.releases import Stored, verdict_path
from pipeline.store.base import object_key
from pipeline.trust.attest import Build
from pipeline.trust.attestations import VerifiedProvenance, VerifiedTest
from pipeline.trust.keys import Keyring
from stages.publish import PublishStage
from tests.fakes.store import MemoryStore
from tests.fakes.stored import MOMENT, make_verdict, store_whole
from tests.fakes.world import World

DAY = timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def local(artifacts: Path) -> Stored:
    return store_whole(artifacts)


def work_on(stored: Stored, *, force: bool = False) -> Work:
    artifacts = stored.folder.parents[2]
    scratch = artifacts / "work" / stored.release.image
    scratch.mkdir(parents=True, exist_ok=True)
    return Work(
        project=artifacts,
        artifacts=artifacts,
        scratch=scratch,
        stop=Stop(),
        definition=cast(Any, None),
        own=cast(Any, None),
        planned=cast(Any, SimpleNamespace(image=stored.release.image)),
        source=cast(Any, None),
        settings=cast(Any, None),
        tree=artifacts,
        log=io.StringIO(),
        release=stored.release,
        release_dir=stored.folder,
        force=force,
        run="20260301.120000-1a2b",
    )


def held(world: World, image: str = "edge-web", channel: str = "dev") -> PublishedRelease | None:
    pointer = world.desk.view(channel).pointers.get(image)
    return pointer.release if pointer else None


def stage(world: World, **options: Any) -> PublishStage:
    return PublishStage(world.desk, world.keyring, **options)


def test_what_passed_is_signed_uploaded_and_in_the_first_channel(
    world: World, local: Stored
) -> None:
    work = work_on(local)
    assert stage(world).run(work) == "done"
    release = held(world)
    assert release is not None
    assert release.version == local.release.version
    assert work.note.startswith("into dev in memory://fake: 2.")
    assert work.note.endswith("uploaded, 0 B there already")
    assert world.desk.published.manifest(release) == local.release
    found = {type(each.verified).__name__: each for each in look_at(world.desk, release)}
    assert set(found) == {"VerifiedProvenance", "VerifiedTest", "VerifiedSbom"}
    event = next(iter(world.repository.history("dev"))).event
    assert (event.action, event.version) == ("promote", release.version)
    assert event.reason == "published by run 20260301.120000-1a2b"
    assert held(world, channel="candidate") is None


def test_provenance_tells_what_the_build_was_made_of(
    world: World, artifacts: Path, local: Stored
) -> None:
    components = Components(
        definition={"name": "edge-web"},
        files={"files/site.conf": "a" * 64},
        elements={"nginx-site": "b" * 64, "recast-base": "c" * 64},
        builder=f"3.43.0 {'d' * 64}",
        archive={"openssl": "3.5.1-1"},
    )
    Records(artifacts).add(
        BuildRecord(
            image="edge-web",
            build_key=local.release.build_key,
            components=components,
            tree="t",
            built=MOMENT + timedelta(minutes=2),
            run="20260301.115800-0f0f",
            started=MOMENT,
        )
    )
    stage(world).run(work_on(local))
    release = held(world)
    assert release is not None
    found = next(
        each.verified
        for each in look_at(world.desk, release)
        if isinstance(each.verified, VerifiedProvenance)
    )
    made_of = {material.name: dict(material.digest) for material in found.materials}
    assert made_of["source"] == {"gitCommit": local.release.commit}
    assert made_of["elements/nginx-site"] == {"sha256": "b" * 64}
    assert made_of["files/files/site.conf"] == {"sha256": "a" * 64}
    assert made_of["diskimage-builder"] == {"sha256": "d" * 64}
    assert "package archive" in made_of
    assert (found.run, found.started, found.finished) == (
        "20260301.115800-0f0f",
        MOMENT,
        MOMENT + timedelta(minutes=2),
    )


def test_a_second_time_there_is_nothing_to_do(world: World, local: Stored) -> None:
    stage(world).run(work_on(local))
    store = cast(MemoryStore, world.store)
    before = store.snapshot()
    work = work_on(local)
    assert stage(world).run(work) == "cached"
    assert work.note == "dev in memory://fake holds it"
    assert store.snapshot() == before


def test_when_it_is_asked_for_what_was_lost_is_uploaded_again(world: World, local: Stored) -> None:
    stage(world).run(work_on(local))
    release = held(world)
    assert release is not None
    stored = release.parts["root"].stored
    assert stored is not None
    world.store.delete(object_key(stored.digest))
    assert stage(world).run(work_on(local, force=True)) == "done"
    assert world.store.find(object_key(stored.digest)) is not None


def test_a_later_test_elsewhere_is_added_to_what_is_published(world: World, local: Stored) -> None:
    stage(world).run(work_on(local))
    verdict = make_verdict(local.release, "aws")
    verdict_path(local.folder, local.release.name, "aws").write_text(verdict.model_dump_json())
    work = work_on(local)
    assert stage(world).run(work) == "done"
    release = world.desk.published.find("edge-web", local.release.version)
    assert release is not None
    assert {each.provider for each in release.evidence if each.kind == "test"} == {"qemu", "aws"}


def test_what_is_not_newer_is_published_and_the_channel_left_alone(
    world: World, artifacts: Path, local: Stored
) -> None:
    stage(world).run(work_on(local))
    old = store_whole(artifacts, commit="a" * 40, moment=MOMENT - DAY)
    work = work_on(old)
    assert stage(world).run(work) == "done"
    assert work.note.startswith(
        f"not newer than {local.release.version}, dev in memory://fake left alone"
    )
    assert held(world) == world.desk.published.find("edge-web", local.release.version)
    assert world.desk.published.find("edge-web", old.release.version) is not None
    assert stage(world).run(work_on(old)) == "cached"


def test_dirty_builds_of_one_commit_may_follow_each_other(
    world: World, artifacts: Path, local: Stored
) -> None:
    stage(world).run(work_on(local))
    for minutes, dirty in enumerate(("ffffffff", "00000000"), start=1):
        built = MOMENT + timedelta(minutes=minutes)
        changed = store_whole(artifacts, dirty=dirty, built=built)
        assert stage(world).run(work_on(changed)) == "done"
        release = held(world)
        assert release is not None
        assert (release.version, release.dirty) == (changed.release.version, True)


def test_without_its_tests_nothing_is_uploaded(world: World, artifacts: Path) -> None:
    untested = store_whole(artifacts, providers=())
    store = cast(MemoryStore, world.store)
    before = store.snapshot()
    with pytest.raises(RefusedError, match="has not passed its tests on qemu") as caught:
        stage(world).run(work_on(untested))
    assert "recast test edge-web@" in caught.value.hint
    assert store.snapshot() == before
    work = work_on(untested)
    assert stage(world, enter=False).run(work) == "done"
    assert held(world) is None
    assert work.note.startswith("in memory://fake: ")


def test_tests_that_passed_elsewhere_and_were_published_count(
    world: World, local: Stored, tmp_path: Path
) -> None:
    """Built and tested here, uploaded alone; then published from where no verdict is."""
    stage(world, enter=False).run(work_on(local))
    elsewhere = store_whole(tmp_path / "elsewhere", providers=())
    assert elsewhere.release == local.release
    assert stage(world).run(work_on(elsewhere)) == "done"
    assert held(world) is not None


def test_a_failed_test_is_attested_as_that(world: World, local: Stored) -> None:
    verdict = make_verdict(local.release).model_copy(update={"passed": False, "when": MOMENT + DAY})
    verdict_path(local.folder, local.release.name, "qemu").write_text(verdict.model_dump_json())
    stage(world, enter=False).run(work_on(local))
    release = world.desk.published.find("edge-web", local.release.version)
    assert release is not None
    results = [e.verified for e in look_at(world.desk, release)]
    assert [r.passed for r in results if isinstance(r, VerifiedTest)] == [False]
    with pytest.raises(RefusedError):
        stage(world).run(work_on(local))


def test_an_image_that_is_not_to_be_published_is_left_alone(world: World, local: Stored) -> None:
    channels = world.channels.model_copy(update={"images": ("edge-db",)})
    desk = Desk(world.store, world.repository, world.desk.published, world.desk.client, channels)
    work = work_on(local)
    assert PublishStage(desk, world.keyring).run(work) == "cached"
    assert "images/channels.yaml" in work.note
    assert world.desk.published.images() == []


def test_without_a_release_it_says_what_to_do(world: World, local: Stored) -> None:
    work = work_on(local)
    work.release = None
    with pytest.raises(BuildError, match="has no release to publish"):
        stage(world).run(work)


def test_who_lacks_a_key_is_told_which(world: World, local: Stored) -> None:
    def person(*names: str) -> Keyring:
        keyring = Keyring(world.folder / "-".join(names))
        for name in set(names) - set(keyring.names()):
            keyring.add(name, f"file:{world.keyring.file(name)}")
        return keyring

    def lacking(*names: str, enter: bool = True) -> str:
        return missing_keys(world.engineer(*names), person(*names), enter=enter)

    assert missing_keys(world.desk, world.keyring) == ""
    assert lacking("tester", "alice") == "the builder's key builder is not here"
    assert lacking("builder", "alice") == "the tester's key tester is not here"
    assert "dev needs the key alice" in lacking("builder", "tester")
    assert lacking("builder", "tester", enter=False) == ""
    with pytest.raises(TrustError, match="of the builder's keys must sign"):
        attest(world.desk, person("alice", "tester"), local, lambda: Build(()))


def test_statements_of_a_key_that_is_no_longer_trusted_are_made_anew(
    world: World, local: Stored
) -> None:
    stage(world, enter=False).run(work_on(local))
    release = world.desk.published.find("edge-web", local.release.version)
    assert release is not None
    old = {each.kind: each.stored.digest for each in release.evidence}
    newer = world.keyring.generate("builder-2", None)

    class Rotated:
        """The metadata after the builder's key was replaced."""

        def check(self) -> bool:
            return False

        def attesters(self, role: str) -> Any:
            return ([newer], 1) if role == "builder" else world.desk.client.attesters(role)

    desk = Desk(
        world.store,
        world.repository,
        world.desk.published,
        cast(Any, Rotated()),
        world.channels,
    )
    assert PublishStage(desk, world.keyring, enter=False).run(work_on(local)) == "done"
    again = world.desk.published.find("edge-web", local.release.version)
    assert again is not None
    new = {each.kind: each.stored.digest for each in again.evidence}
    assert new["test"] == old["test"]
    assert new["provenance"] != old["provenance"]
    assert new["sbom"] != old["sbom"]


def test_a_first_channel_that_needs_two_gets_one_proposal(tmp_path: Path, local: Stored) -> None:
    channels = Channels(
        channels=(ChannelDefinition(name="dev", gates=Gates(approvals=2)),),
    )
    world = World(tmp_path / "two", channels=channels, holders={"dev": ("alice", "bob")})
    alone = world.engineer("builder", "tester", "online", "alice")
    keyring = Keyring(tmp_path / "keys")
    for name in ("builder", "tester", "online", "alice"):
        keyring.add(name, f"file:{world.keyring.file(name)}")
    first, second = work_on(local), work_on(local)
    assert PublishStage(alone, keyring).run(first) == "done"
    (proposal,) = world.repository.proposals()
    assert f"`recast approve {proposal.id}`" in first.note
    assert PublishStage(alone, keyring).run(second) == "cached"
    assert len(world.repository.proposals()) == 1
    assert proposal.id in second.note
    assert held(world) is None


def test_several_images_at_once_all_get_into_the_channel(world: World, artifacts: Path) -> None:
    images = ["edge-base", "edge-db", "edge-web"]
    works = [work_on(store_whole(artifacts, image)) for image in images]
    shared = stage(world)
    outcomes: dict[str, object] = {}

    def run(work: Work) -> None:
        try:
            outcomes[work.image] = shared.run(work)
        except BaseException as error:
            outcomes[work.image] = error

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert outcomes == dict.fromkeys(images, "done")
    assert sorted(world.desk.view("dev").pointers) == images


def test_two_machines_at_once_all_get_into_the_channel(world: World, artifacts: Path) -> None:
    """Each with metadata and keys of its own: who loses a race tries again on the new state."""
    names = ("builder", "tester", "online", "alice")
    outcomes: dict[str, object] = {}

    def run(image: str, number: int, desk: Desk) -> None:
        keyring = Keyring(artifacts / f"keys-{number}")
        for name in names:
            keyring.add(name, f"file:{world.keyring.file(name)}")
        try:
            outcomes[image] = PublishStage(desk, keyring).run(work_on(stored[image]))
        except BaseException as error:
            outcomes[image] = error

    images = ["edge-db", "edge-web"]
    stored = {image: store_whole(artifacts, image) for image in images}
    threads = [
        threading.Thread(target=run, args=(image, number, world.engineer(*names)))
        for number, image in enumerate(images)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert outcomes == dict.fromkeys(images, "done")
    assert sorted(world.desk.view("dev").pointers) == images
