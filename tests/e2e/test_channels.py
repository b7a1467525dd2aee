"""From tested images to what a site reads: the bytes that booted are the bytes that are offered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from pipeline.store.http import HttpStore
from pipeline.transfer.fetch import save_part
from pipeline.trust.client import TrustClient
from tests.e2e.harness import Bench, digests_of, unfinished

IMAGE = "edge-base"


def test_a_release_goes_through_the_channels_to_a_site(copy: Bench, tmp_path: Path) -> None:
    before = copy.ask("plan")["commit"]
    assert copy.run("promote", IMAGE, "--to", "candidate", code=2).err.count("recast init") == 1
    assert "Move offline: " in copy.run("init").out
    private = list((copy.store / "keys").glob("*.pem"))
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert copy.ask("plan")["commit"] == before, "the keys of a store of one's own dirty nothing"

    ended = copy.run("run", IMAGE)
    assert f"{IMAGE} publish: done in " in ended.out
    assert "uploaded" in ended.out
    again = copy.run("run", IMAGE)
    assert f"{IMAGE} publish: cached" in again.out
    assert again.seconds < 10

    promoted = copy.run("promote", IMAGE, "--to", "candidate", "--reason", "It booted")
    assert "✓  tests on qemu    passed at " in promoted.out
    refused = copy.run("promote", IMAGE, "--to", "stable", code=10)
    assert "✗  soak             in candidate for " in refused.out
    assert "soak" in refused.err

    release = copy.release(IMAGE)
    with (
        unfinished(copy.start("serve", "--port", "0", "--json", "--quiet")) as server,
        HttpStore(_url(server.stdout)) as store,
    ):
        root = (copy.store / "keys" / "root.json").read_bytes()
        site = TrustClient(store, tmp_path / "trust", root)
        assert site.check()
        pointer = site.pointer("candidate", IMAGE)
        assert pointer.release is not None
        assert pointer.release.root_hash == release.root_hash
        assert pointer.release.commit == before
        assert not site.check(), "nothing is new"

        # A disk is put together from the other parts: this reads root and verity as well.
        for role in ("uki", "disk"):
            save_part(store, pointer.release, role, tmp_path / role)
        told = {str(tmp_path / role): release.parts[role].digest for role in ("uki", "disk")}
        assert digests_of(list(told)) == told
        (tmp_path / "disk").unlink()

        copy.run("revoke", f"{IMAGE}@{release.version}", "--reason", "It has a hole")
        assert site.check()
        revoked = site.pointer("candidate", IMAGE).revocation(release.version)
        assert revoked is not None
        assert revoked.reason == "It has a hole"
        server.terminate()
    refused = copy.run("promote", IMAGE, "--to", "stable", code=10)
    assert "✗  not revoked" in refused.out
    story = copy.run("log", "candidate").out
    assert story.index("It has a hole") < story.index("It booted")


def _url(stream: IO[str] | None) -> str:
    assert stream is not None
    found = json.loads(stream.readline())["url"]
    assert isinstance(found, str)
    return found
