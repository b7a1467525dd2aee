"""Credentials as systemd's own tool seals them for a machine's ESP."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.agent.site import read_site


def test_what_systemd_sealed_is_read_and_what_was_swapped_is_not(tmp_path: Path) -> None:
    plain, sealed = tmp_path / "@system", tmp_path / "@encrypted"
    for folder in (plain, sealed):
        folder.mkdir()
    argv = ["systemd-creds", "encrypt", "--name=recast.channel"]
    target = sealed / "recast.channel"
    for key in ("null", "tpm2-absent"):  # the latter until systemd 254
        done = subprocess.run(
            [*argv, f"--with-key={key}", "-", target], input=b"stable\n", capture_output=True
        )
        if done.returncode == 0:
            break
    else:
        pytest.skip(f"nothing can be sealed here: {done.stderr.decode()}")
    # Of another name than it was sealed under: somebody has moved it.
    (sealed / "recast.site").write_bytes(target.read_bytes())
    site, (problem,) = read_site(plain, machine_id=tmp_path / "none")
    assert site.channel == "stable"
    assert site.site is None
    assert problem.startswith("recast.site: it is sealed and cannot be opened here: ")
