"""From a commit to tested images, by the installed wheel: what a user sees, and finds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.definitions import load_catalog
from pipeline.disk import uki
from tests.e2e.harness import IMAGES, ROOT, Bench, Ended, digests_of

GOLDEN_EVENTS = ROOT / "tests" / "golden" / "run-events.json"
RUN = r"\d{8}\.\d{6}-[0-9a-f]{4}"
VERSION = r"20260301\.120000\.g[0-9a-f]{12}(?:\.\d+)?"


@pytest.fixture(scope="module")
def second_run(bench: Bench, first_run: Ended) -> Ended:
    """Nothing has changed since the first one."""
    return bench.run("run", "--json")


@pytest.fixture(scope="module")
def tested(bench: Bench, first_run: Ended) -> dict[str, dict[str, Any]]:
    """For each image the run that tested it: this session's, or one before."""
    found: dict[str, dict[str, Any]] = {}
    for record in reversed(bench.ask("runs", "--all")):
        for image, run in record["images"].items():
            if run["stages"].get("test", {}).get("status") == "done":
                found[image] = record
    assert sorted(found) == sorted(IMAGES)
    return found


def test_the_command_is_the_wheels(bench: Bench) -> None:
    head = bench.recast.read_text().splitlines()[0]
    assert head == f"#!{bench.recast.parent / 'python'}"
    assert not (bench.project / "pipeline").exists()


def test_the_run_tells_in_plain_lines_what_it_does(first_run: Ended) -> None:
    lines = first_run.out.splitlines()
    assert re.fullmatch(rf"run {RUN}: 3 images at {VERSION}", lines[0])
    assert re.fullmatch(rf"run {RUN}: passed in .+", lines[-1])
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["image", "release", "root", "result"]
    for image in IMAGES:
        planned = next(line for line in lines if line.startswith(f"{image}: "))
        row = next(line for line in table if line.startswith(f"{image} "))
        assert re.fullmatch(rf"{image} +{VERSION} +[0-9a-f]{{12}} +(?:done|unchanged)", row)
        if ": to build" in planned:
            for stage in ("build", "assemble", "test"):
                assert re.search(rf"^{image} {stage}: (?:done in|cached)", first_run.out, re.M)
    assert "\x1b" not in first_run.out
    assert first_run.err == ""


def test_a_second_run_finds_everything_done(second_run: Ended) -> None:
    assert second_run.seconds < 10
    events = second_run.events
    assert [events[0]["event"], events[-1]["event"]] == ["run.started", "run.finished"]
    assert events[-1]["outcome"] == "passed"
    assert {name: i["status"] for name, i in events[-1]["images"].items()} == dict.fromkeys(
        IMAGES, "cached"
    )
    assert not [e for e in events if e["event"] == "stage.finished" and e["status"] != "cached"]


def test_its_events_are_what_programs_rely_on(second_run: Ended) -> None:
    golden = json.loads(GOLDEN_EVENTS.read_text())
    for event in second_run.events:
        fields = {name: type(value).__name__ for name, value in event.items()}
        assert fields == golden[event["event"]], event["event"]


def test_another_run_says_unchanged(bench: Bench, first_run: Ended) -> None:
    plan = bench.ask("plan")
    assert [(i["image"], i["action"], i["test"]) for i in plan["images"]] == [
        (name, "unchanged", False) for name in ("bookworm", "edge-base", "edge-web")
    ]
    assert plan["seconds"] < 2
    ended = bench.run("run")
    for image in IMAGES:
        assert re.search(rf"^{image}: unchanged \({VERSION}\)$", ended.out, re.M)
        assert re.search(rf"^{image} .* unchanged$", ended.out, re.M)


def test_what_is_listed(bench: Bench, first_run: Ended) -> None:
    listed = {each["image"]: each for each in bench.ask("images")}
    assert sorted(listed) == sorted(IMAGES)
    text = bench.run("images").out
    for image, each in listed.items():
        release = bench.release(image)
        assert each["root_hash"] == release.root_hash
        assert each["tests"] == {"qemu": True}
        assert re.search(
            rf"^{image} +{release.version} +{release.root_hash[:12]} +qemu ✓", text, re.M
        )


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_shown_of_a_release(image: str, bench: Bench, first_run: Ended) -> None:
    release = bench.release(image)
    text = bench.run("show", image).out
    assert text.splitlines()[0] == release.name
    assert f"root hash     {release.root_hash}" in text
    assert re.search(r"qemu +passed: \d+ tests in ", text)
    told = bench.ask("show", f"{image}@{release.root_hash[:12]}")
    assert told["release"]["parts"]["disk"]["digest"] == release.parts["disk"].digest


@pytest.mark.parametrize("image", IMAGES)
def test_a_run_and_its_logs_can_be_read_again(
    image: str, bench: Bench, tested: dict[str, dict[str, Any]]
) -> None:
    run = tested[image]["id"]
    assert re.search(rf"^{run} .* passed ", bench.run("runs", "--all").out, re.M)
    log = bench.run("log", run, image, "test").out
    assert log.startswith(f"==> {image} test: done in ")
    assert "test_golden.py::test_root_is_backed_by_verity PASSED" in log
    console = bench.store / "runs" / run / f"{image}.test.qemu.console.log"
    text = console.read_text(errors="replace")
    assert text.count("Linux version") == 2, "its first boot, and the reboot of its tests"
    assert bench.release(image).name in text


@pytest.mark.parametrize("image", IMAGES)
def test_a_release_is_whole(image: str, bench: Bench, first_run: Ended) -> None:
    stored = bench.newest(image)
    wanted = load_catalog(bench.project / "images")[image].outputs
    assert stored.release.parts.keys() == {"root", "verity", "uki", "disk", "sbom", *wanted}
    for part in stored.release.parts.values():
        assert (stored.folder / part.file).stat().st_size == part.size
    assert not [path.name for path in stored.folder.iterdir() if path.name.startswith(".")]
    assert list((stored.folder / "dib-manifests").iterdir())


def test_digests_are_true_after_all_tests(bench: Bench, first_run: Ended) -> None:
    # The manifest's were taken before machines ran on the disks.
    releases = [bench.newest(image) for image in IMAGES]
    told = {
        str(stored.folder / part.file): part.digest
        for stored in releases
        for part in stored.release.parts.values()
    }
    assert digests_of(list(told)) == told


@pytest.mark.parametrize("image", IMAGES)
def test_its_bill_of_materials_lists_what_is_in_it(
    image: str, bench: Bench, first_run: Ended
) -> None:
    sbom = json.loads(bench.part(image, "sbom").read_text())
    listed = {each["name"]: each["version"] for each in sbom["components"]}
    packages = {p.name: p.version for p in bench.release(image).packages}
    assert {"systemd", "openssh-server", "linux-image-amd64"} <= packages.keys()
    assert ("nginx-light" in packages) == (image == "edge-web")
    assert packages.items() <= listed.items()
    assert {"tuf", "pydantic", "zstandard"} <= listed.keys(), "the agent's libraries"


@pytest.mark.parametrize("image", IMAGES)
def test_its_verdict_is_about_the_root_that_ran(image: str, bench: Bench, first_run: Ended) -> None:
    stored = bench.newest(image)
    path = stored.folder / f"{stored.release.name}.test-qemu.json"
    verdict = json.loads(path.read_text())
    assert verdict["passed"]
    assert verdict["failures"] == []
    assert verdict["tests"] >= 20
    assert verdict["root_hash"] == stored.release.root_hash
    assert 0 < verdict["boot_seconds"] < verdict["seconds"]


@pytest.mark.parametrize("image", IMAGES)
def test_its_boot_entry_pins_its_root(image: str, bench: Bench, first_run: Ended) -> None:
    release = bench.release(image)
    sections = uki.read_sections(bench.part(image, "uki").read_bytes())
    words = sections[".cmdline"].decode().split()
    assert f"roothash={release.root_hash}" in words
    assert f"recast.release={release.name}" in words
    assert f"IMAGE_VERSION={release.version}" in sections[".osrel"].decode().splitlines()


def test_distributions_and_layers_are_what_was_asked_for(bench: Bench, first_run: Ended) -> None:
    systems = {
        image: uki.read_sections(bench.part(image, "uki").read_bytes())[".osrel"].decode()
        for image in IMAGES
    }
    assert 'VERSION_ID="12"' in systems["bookworm"]
    assert 'VERSION_ID="13"' in systems["edge-base"]
    assert 'VERSION_ID="13"' in systems["edge-web"]
    assert bench.release("edge-web").parent == bench.release("edge-base").name
    base = {(p.name, p.version) for p in bench.release("edge-base").packages}
    assert base < {(p.name, p.version) for p in bench.release("edge-web").packages}


def test_the_summary_of_a_run_is_markdown(bench: Bench, tested: dict[str, dict[str, Any]]) -> None:
    for image, record in tested.items():
        text = Path(bench.store / "runs" / record["id"] / "summary.md").read_text()
        assert text.startswith(f"## Recast run {record['id']}: ✅ passed\n")
        assert re.search(rf"^\| \*\*{image}\*\* \| `{VERSION}` \| `[0-9a-f]+` \| ", text, re.M)
