"""Two builds of one commit are equal to the byte; where they are not, the file is named."""

from __future__ import annotations

import re

from tests.e2e import harness
from tests.e2e.harness import Bench


def test_the_sample_images_are_reproducible(copy: Bench) -> None:
    ended = copy.run("build", "edge-base", "edge-web", "--check-reproducible", "--json")
    said = {
        e["image"]: e["text"]
        for e in ended.events
        if e["event"] == "stage.progress" and e["stage"] == "reproduce"
    }
    assert sorted(said) == ["edge-base", "edge-web"]
    for text in said.values():
        assert re.match(r"equal: .*root.*uki.*disk", text), text


def test_what_differs_and_what_fails_is_named(copy: Bench) -> None:
    """One image for both: its element writes the time, and one of its tests fails."""
    harness.add_own_images(copy.project)
    copy.commit("An image that is not good")

    ended = copy.run("build", "sampler", "--check-reproducible", code=5)
    assert "two builds of sampler differ (root, verity, uki, disk):" in ended.out
    assert re.search(r"^ *usr/share/clockwork/built: content$", ended.out, re.M)
    named = re.findall(r"^ +(\S+): content$", ended.out, re.M)
    assert named == ["usr/share/clockwork/built"], "and no file besides"
    assert "recast: error: sampler failed at reproduce" in ended.err

    # What was built first is kept: it can be tested, and fails its test.
    ended = copy.run("run", "sampler", code=6)
    assert re.search(
        r"^sampler test: FAILED in .*: sampler_\S+ failed 1 of \d+ tests", ended.out, re.M
    ), str(ended)
    assert "build: started" not in ended.out
    test = "images/sampler/tests/test_sampler.py::test_the_tap_is_open"
    assert f"{test}: AssertionError: somebody has closed the tap" in ended.out
    assert "assert 'closed' == 'open'" in ended.out
    after = ended.out.partition("The last of its console:")[2]
    assert "multi-user" in after or "login:" in after, "the console's lines"
    assert "recast: error: sampler failed at test" in ended.err
    (verdict,) = copy.newest("sampler").verdicts
    assert not verdict.passed
    assert [failure.test for failure in verdict.failures] == [test]
    assert verdict.tests > 20, "all that came before has passed"
    assert "qemu ✗" in copy.run("images").out
    assert copy.ask("plan", "sampler")["images"][-1]["test"], "a failed test is run again"
