"""The command `recast-agent`, as people and units call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.agent import commands, compose
from pipeline.agent.main import main, parser
from pipeline.agent.state import at_work
from pipeline.errors import HostError, NetworkError
from pipeline.models.device import KnownBad
from pipeline.models.site import Site, parse_bandwidth
from tests.fakes.pointers import make_published
from tests.fakes.site_machine import IMAGE, NOW, SiteMachine, channel

V1, V2 = (make_published(IMAGE, number).version for number in (1, 2))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteMachine:
    """A machine that every command works on."""
    made = SiteMachine(tmp_path)

    def put_together(_places: compose.Places, **more: object) -> object:
        listen = more.pop("listen", None)
        more.pop("watch", None)
        parts = made.agent(**more).parts
        parts.teller._listen = listen  # type: ignore[assignment]
        return parts

    monkeypatch.setattr(commands, "compose", put_together)
    monkeypatch.setattr(commands, "open_machine", lambda: made)
    monkeypatch.setattr("pipeline.agent.site.read_site", lambda: (Site(device="m1"), ("bad tz",)))
    return made


def call(machine: SiteMachine, *words: str) -> int:
    return main(["--root", str(machine.folder), *words])


def test_status_needs_no_network_and_is_read_by_people_and_programs(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.stores.error = AssertionError  # type: ignore[assignment]
    assert call(machine, "status", "--no-drift") == 0
    assert V1 in capsys.readouterr().out
    assert call(machine, "status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["running"]["version"] == V1
    assert found["problems"] == ["bad tz"]


def test_status_tells_what_the_agent_found_last_and_what_runs_now(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.site = machine.site.model_copy(update={"device": "till-4"})
    machine.stores.pointer_now = channel(2, state="halted")
    call(machine, "run")
    capsys.readouterr()
    assert call(machine, "status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "till-4"
    assert found["wanted"] == V2
    assert found["waiting"][0]["gate"] == "not halted"


def test_status_tells_how_fast_this_machine_may_fetch_now(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call(machine, "run")  # whose limit is another one by now
    capsys.readouterr()
    site = Site(device="m1", bandwidth=(parse_bandwidth("256 kbit/s"),))
    monkeypatch.setattr("pipeline.agent.site.read_site", lambda: (site, ()))
    assert call(machine, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["bandwidth"] == {"rate": 256_000, "until": None}
    assert call(machine, "status", "--no-drift") == 0
    assert "256 kbit/s" in capsys.readouterr().out


def test_status_answers_on_a_machine_that_is_none_of_ours(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> object:
        raise HostError("this is no machine that Recast made")

    monkeypatch.setattr(machine, "running", none)
    assert call(machine, "status", "--json") == 0
    assert "no machine that Recast made" in capsys.readouterr().out


def test_an_update_goes_through_and_says_that_it_reboots(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.stores.pointer_now = channel(2)
    assert call(machine, "update") == 0
    told = capsys.readouterr()
    assert "The machine reboots now." in told.out
    assert "activated: " in told.err
    assert machine.wants_reboot


def test_a_dead_link_is_an_error_for_a_person_and_none_for_the_service(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.stores.error = NetworkError("https://store.example does not answer", hint="Look.")
    machine.stores.remembers = False
    assert call(machine, "check") == NetworkError.exit_code
    told = capsys.readouterr()
    assert "recast-agent: error: https://store.example does not answer\nhint: Look." in told.err
    assert call(machine, "check", "--json") == NetworkError.exit_code
    told = capsys.readouterr()
    assert json.loads(told.err)["code"] == NetworkError.exit_code
    assert "does not answer" in json.loads(told.out)["trouble"]["message"]
    assert call(machine, "run") == 0


@pytest.mark.parametrize("words", [("update", "--download-only"), ("check",)])
def test_two_ways_to_look_that_do_not_reboot(machine: SiteMachine, words: tuple[str, ...]) -> None:
    machine.stores.pointer_now = channel(2)
    assert call(machine, *words) == 0
    assert not machine.wants_reboot


def test_the_service_steps_aside_for_a_person_who_is_told_who_works(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_work("recast-agent run", machine.folder / "run/recast/agent.lock"):
        assert call(machine, "update") == 8
        assert "`recast-agent run`" in capsys.readouterr().err
        assert call(machine, "run") == 0


def test_what_is_wrong_with_the_settings_is_told_once_on_the_console(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "unreadable", True)
    call(machine, "run")
    assert "the ESP cannot be read" in capsys.readouterr().err
    call(machine, "run")
    assert capsys.readouterr().err == ""


def test_a_pin_is_set_told_and_lifted(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(machine, "pin") == 0
    assert f"held at {V1}" in capsys.readouterr().out
    assert machine.wakes[-1] == 1
    call(machine, "status", "--json")
    assert json.loads(capsys.readouterr().out)["pin"]["version"] == V1
    machine.stores.pointer_now = channel(2)
    assert call(machine, "run") == 0
    assert not machine.wants_reboot
    assert call(machine, "unpin", "2.0") == 2
    assert call(machine, "unpin") == 0
    assert call(machine, "unpin") == 2
    assert call(machine, "update") == 0
    assert machine.wants_reboot


def test_a_version_that_failed_is_allowed_by_name(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(machine, "allow", V2) == 2
    assert "has not failed here" in capsys.readouterr().err
    release = make_published(IMAGE, 2)
    bad = KnownBad(
        image=IMAGE,
        version=V2,
        root_hash=release.root_hash,
        boot_digest=release.boot_digest,
        reason="no page",
        when=NOW,
    )
    memory = machine.memory()
    memory.save(memory.load().model_copy(update={"bad": (bad,)}))
    assert call(machine, "allow", V2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["step"] == "allowed"
    assert machine.state.allowed == (V2,)


def test_confirm_is_refused_where_nothing_is_on_trial(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(machine, "confirm") == 2
    assert "nothing to confirm" in capsys.readouterr().err
    assert not machine.state.trouble


def test_the_log_tells_what_happened(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(machine, "log") == 0
    assert "nothing has happened" in capsys.readouterr().out
    machine.stores.pointer_now = channel(2)
    call(machine, "update")
    capsys.readouterr()
    assert call(machine, "log") == 0
    assert f"written: {IMAGE}_{V2}_amd64: its root is in the other slot" in capsys.readouterr().out
    assert call(machine, "log", "--json", "-n", "2") == 0
    assert [each["step"] for each in json.loads(capsys.readouterr().out)] == [
        "activated",
        "rebooting",
    ]


def test_a_sick_release_is_judged_by_the_unit(machine: SiteMachine) -> None:
    machine.stores.pointer_now = channel(2)
    machine.ill[V2] = "fails"
    call(machine, "run")
    machine.boot()
    assert call(machine, "judge") == 0
    assert machine.wants_reboot
    machine.boot()
    assert machine.version == V1


def test_a_judge_does_not_wait_for_ever(
    machine: SiteMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_JUDGE_WAITS", 0.1)
    machine.stores.pointer_now = channel(2)
    machine.ill[V2] = "fails"
    call(machine, "run")
    machine.boot()
    with at_work("recast-agent run", machine.folder / "run/recast/agent.lock"):
        assert call(machine, "judge") == 0
    assert machine.wants_reboot


@pytest.mark.parametrize(
    "words", [["frobnicate"], ["log", "-n", "0"], ["allow"], ["status", "--what"], []]
)
def test_wrong_words_are_told_without_a_traceback(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("recast-agent: error: ")
    assert "hint: `recast-agent" in told
    assert main([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["code"] == 2


def test_a_defect_is_told_as_one(
    machine: SiteMachine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "apply", None)
    machine.stores.pointer_now = channel(2)
    assert call(machine, "update") == 1
    assert "something went wrong that should not have: TypeError" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    "status check update confirm install run pin unpin allow log judge network".split(),
)
def test_each_command_explains_itself_and_speaks_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    heavy = ("pydantic", "requests", "tuf", "cryptography", "securesystemslib", "zstandard")
    script = (
        "import sys\nfrom pipeline.agent.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_status_imports_neither_tuf_nor_requests(tmp_path: Path) -> None:
    heavy = ("requests", "tuf", "cryptography", "securesystemslib", "zstandard")
    script = (
        "import sys\nfrom pipeline.agent.main import main\n"
        f"main(['--root', {str(tmp_path)!r}, 'status', '--json', '--no-drift'])\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
