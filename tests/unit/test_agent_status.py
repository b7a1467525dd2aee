"""What a person on site reads in each state that a machine can be in.

The texts are in tests/golden/agent-status, to be judged as texts; RECAST_GOLDEN=write renews them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.agent import status as statuses
from pipeline.agent.drift import Drift
from pipeline.agent.status import Status, Working, make_status, render
from pipeline.errors import DigestError, DiskFullError, HostError, NetworkError, TrustError
from pipeline.models.device import Attempt, Pin, Running, State
from pipeline.models.pointer import Pointer, PublishedRelease, Revocation
from pipeline.models.site import Site, parse_bandwidth, parse_window
from pipeline.policy import installation, rollout, window
from pipeline.policy.verdict import Gate
from pipeline.store.base import MissingError
from pipeline.trust.refusals import ExpiredError
from tests.fakes.devices import attempt, known_bad, running
from tests.fakes.pointers import make_pointer, make_published

GOLDEN = Path(__file__).parent.parent / "golden" / "agent-status"
IMAGE = "edge-web"
OLD, NEW = make_published(IMAGE, 1), make_published(IMAGE, 2)
POINTER = make_pointer("stable", IMAGE, 2, history=1)
assert POINTER.rollout is not None
NOW = POINTER.rollout.opened + timedelta(hours=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
STORE = "https://images.example.org/recast"


def in_wave(number: int) -> str:
    assert POINTER.rollout is not None
    shares = [0.0, *(wave.share for wave in POINTER.rollout.waves)]
    return next(
        name
        for name in (f"berlin-{n}" for n in range(10_000))
        if shares[number - 1] <= rollout.position(POINTER.rollout.id, name) < shares[number]
    )


SITE = Site(
    device=in_wave(1),
    site="berlin-wedding",
    labels={"role": "signage"},
    store=(STORE,),
    channel="stable",
)
LATE = SITE.model_copy(update={"device": in_wave(3)})
ASKED = State(checked=NOW - 5 * MINUTE, next=NOW + 11 * MINUTE)


def told(
    site: Site = SITE,
    here: PublishedRelease | Running | None = OLD,
    state: State = ASKED,
    *,
    pointer: Pointer | None = POINTER,
    more: tuple[Gate, ...] = (),
    working: Working | None = None,
    problems: tuple[str, ...] = (),
    drift: Drift | None = None,
    now: datetime = NOW,
) -> Status:
    """The status as the agent makes it: from the rules, for a machine in that state."""
    runs = running(here) if isinstance(here, PublishedRelease) else here
    wanted, gates = None, list(more)
    if pointer is not None and runs is not None:
        wanted = installation.wanted(pointer, site, runs, state, now)
        if not wanted.settled:
            verdict = installation.judge(wanted, pointer, site, runs, state, now)
            gates = [*verdict.refusals, *more]
    return make_status(
        now,
        site,
        runs,
        state,
        wanted=wanted,
        waiting=gates,
        working=working,
        problems=problems,
        drift=drift,
    )


def remembering(update: Attempt | None = None, /, **changes: object) -> State:
    return ASKED.model_copy(update={"attempt": update, **changes})


def troubled(error: Exception, **changes: object) -> State:
    return remembering(trouble=str(statuses.trouble(error)), failures=3, **changes)


def steered(state: str) -> Pointer:
    assert POINTER.rollout is not None
    return POINTER.model_copy(
        update={"rollout": POINTER.rollout.model_copy(update={"state": state})}
    )


def revoking(release: PublishedRelease, /, **changes: object) -> Pointer:
    revocation = Revocation(
        version=release.version,
        root_hash=release.root_hash,
        reason="it leaks memory until the player stops",
        when=NOW,
    )
    return POINTER.model_copy(update={"revoked": (revocation,), **changes})


def gone_back(reason: str) -> Status:
    """A machine on which the new release was tried, and which is back on the old one."""
    failed = attempt(NEW, "failed", NOW - 20 * MINUTE, reason)
    return told(state=remembering(failed, bad=(known_bad(NEW, NOW - 20 * MINUTE, reason),)))


def windowed(step: str, text: str) -> Status:
    site = SITE.model_copy(update={"window": (parse_window(text),)})
    update = attempt(NEW, step, NOW - HOUR)  # type: ignore[arg-type]
    update = update.model_copy(
        update={"seconds": {"written": 341.0, "verified": 12.0}, "downloaded": 229 << 20}
    )
    return told(site, state=remembering(update), more=(window.judge(site.window, NOW),))


def out_of_drawer() -> Status:
    """Switched off for a year: what it knows has run out, and the store cannot be reached."""
    error = ExpiredError("timestamp", STORE, NOW - 360 * 24 * HOUR, NOW)
    state = troubled(error, checked=NOW - 367 * 24 * HOUR, next=NOW + MINUTE)
    return told(state=state, pointer=None)


def with_wrong_clock() -> Status:
    """Its battery is empty: it believes that it is 2020."""
    return told(LATE, now=datetime(2020, 1, 1, 0, 3, tzinfo=UTC))


NO_ROUTE = NetworkError(
    f"{STORE} cannot be reached: no route to host",
    hint="See whether this machine has an address: `ip address`.",
)
PORTAL = TrustError(
    f"metadata/timestamp.json of {STORE} is not metadata: it is a page of HTML",
    hint="Somebody answers in the place of the store: open a page with a browser behind the same "
    "link, and see whether it asks for a login.",
)
CORRUPT = DigestError(
    "objects/9c/9c3d212bb584 is not what was signed: its SHA-256 is another one",
    hint="It was not used. If that goes on, something on the way changes what is sent.",
)
BACK_IN_TIME = TrustError(
    f"{STORE} gives out version 41 of the timestamp, and this machine has seen 44: it goes back "
    "in time",
    hint="Nothing was taken over from it, and this machine goes on with what it has.",
)

STATES: dict[str, Callable[[], Status]] = {
    # Nothing to do
    "well": lambda: told(here=NEW, state=remembering(attempt(NEW, "confirmed", NOW - 9 * HOUR))),
    "never-asked": lambda: told(state=State(), pointer=None),
    "well-with-drift": lambda: told(
        here=NEW,
        drift=Drift(
            changed=("/etc/nginx/nginx.conf", "/etc/hosts"),
            added=tuple(f"/opt/tool/{n}" for n in range(9)),
            removed=("/usr/bin/vim",),
            more=311,
        ),
    ),
    "well-without-drift": lambda: told(here=NEW, drift=Drift()),
    # On the way
    "downloading": lambda: told(
        state=remembering(attempt(NEW, "cleared", NOW - 2 * MINUTE)),
        working=Working(step="written", done=120 << 20, total=437 << 20),
    ),
    "verifying": lambda: told(
        state=remembering(attempt(NEW, "written", NOW - 6 * MINUTE)),
        working=Working(step="verified", done=300 << 20, total=437 << 20),
    ),
    "window": lambda: windowed("staged", "Sat-Sun 02:00-05:00 Europe/Berlin"),
    "inhibited": lambda: told(
        state=remembering(attempt(NEW, "staged", NOW - HOUR)),
        more=(Gate("reboot", False, "backup (process 712) asks for no shutdown: copying"),),
    ),
    "on-trial": lambda: told(
        here=running(NEW, tries_left=2, uptime=70.0, complete=False),
        state=remembering(attempt(NEW, "booted", NOW - MINUTE)),
    ),
    "given-up": lambda: told(
        here=running(NEW, tries_left=2, uptime=70.0, complete=False),
        state=remembering(attempt(NEW, "booted", NOW - MINUTE, "unit site-page.service failed")),
    ),
    # Not yet
    "wave": lambda: told(LATE),
    "held": lambda: told(LATE, pointer=steered("held")),
    "halted": lambda: told(pointer=steered("halted")),
    "halted-half-way": lambda: told(
        pointer=steered("halted"), state=remembering(attempt(NEW, "written", NOW - HOUR))
    ),
    "frozen": lambda: told(
        pointer=POINTER.model_copy(update={"frozen": "the plant is inspected until Friday"})
    ),
    "pinned": lambda: told(state=remembering(pin=Pin(version=OLD.version, when=NOW - 30 * HOUR))),
    "pinned-to-what-is-gone": lambda: told(
        state=remembering(pin=Pin(version="20240101.000000.gaaaaaaaaaaaa", when=NOW - 30 * HOUR))
    ),
    # Revoked
    "revoked-leaving": lambda: told(
        pointer=revoking(OLD),
        state=remembering(attempt(NEW, "cleared", NOW - MINUTE)),
        working=Working(step="written", done=12 << 20, total=437 << 20),
    ),
    "revoked-frozen": lambda: told(pointer=revoking(OLD, frozen="the plant is inspected")),
    "revoked-nothing-else": lambda: told(pointer=revoking(OLD, release=None, previous=None)),
    "revoked-pinned": lambda: told(
        LATE,
        NEW,
        remembering(
            attempt(OLD, "chosen", NOW), pin=Pin(version=NEW.version, when=NOW - 30 * HOUR)
        ),
        pointer=revoking(NEW),
    ),
    "revoked-next": lambda: told(pointer=revoking(NEW)),
    # Failed here
    "failed-panic": lambda: gone_back(
        "it was tried 3 times and never got as far as its services: a kernel panic, a hang or a "
        "power cut before that"
    ),
    "failed-unit": lambda: gone_back("unit site-page.service failed: address already in use"),
    "failed-health": lambda: gone_back("health check 50-page failed: expected 200, got 503"),
    "failed-deadline": lambda: gone_back(
        "it was not healthy 600 s after power-on, with nothing failed"
    ),
    # Refused before anything is written
    "other-architecture": lambda: told(
        more=(Gate("architecture", False, f"{NEW.name} is for amd64, this machine is arm64"),)
    ),
    "other-machine-class": lambda: told(
        here=running(make_published("edge-gate", 1)),
    ),
    "slot-too-small": lambda: told(
        more=(
            Gate(
                "slot size",
                False,
                "its root has 437 MiB, and the partition for it on this machine 400 MiB",
            ),
        )
    ),
    "esp-full": lambda: told(
        more=(
            Gate(
                "ESP space",
                False,
                "its boot file has 42.0 MiB, and the EFI system partition at /efi has room for "
                "12.0 MiB after the old one is removed: 30.1 MiB are lacking",
            ),
        )
    ),
    "not-attested": lambda: told(
        more=(Gate("attested", False, f"no tests have passed on the root of {NEW.version}"),)
    ),
    # The outside world
    "no-link": lambda: told(state=troubled(NO_ROUTE, checked=NOW - 3 * HOUR)),
    "no-link-ever": lambda: told(state=troubled(NO_ROUTE, checked=None), pointer=None),
    "no-link-half-way": lambda: told(
        state=troubled(NO_ROUTE, checked=NOW - HOUR, attempt=attempt(NEW, "cleared", NOW - HOUR)),
    ),
    "object-missing": lambda: told(state=troubled(MissingError("objects/9c/9c3d212bb584", STORE))),
    "captive-portal": lambda: told(state=troubled(PORTAL), pointer=None),
    "corrupted-bytes": lambda: told(
        state=troubled(CORRUPT, attempt=attempt(NEW, "cleared", NOW - HOUR))
    ),
    "store-back-in-time": lambda: told(state=troubled(BACK_IN_TIME)),
    "expired": out_of_drawer,
    "wrong-clock": with_wrong_clock,
    # This machine
    "not-configured": lambda: told(
        Site(device="unnamed"),
        pointer=None,
        state=State(),
        more=(
            Gate(
                "configured",
                False,
                "this machine follows nothing: it was told no store (recast.store), no channel "
                "(recast.channel)",
            ),
        ),
    ),
    "unknown-zone": lambda: told(
        SITE.model_copy(update={"window": (parse_window("02:00-04:00 Europe/Berlim"),)}), NEW
    ),
    "bandwidth": lambda: told(
        SITE.model_copy(
            update={
                "bandwidth": (
                    parse_bandwidth("07:00-19:00 Europe/Berlin 256 kbit/s"),
                    parse_bandwidth("20:00-06:00 Europe/Berlim unlimited"),
                )
            }
        ),
        NEW,
    ),
    "wrong-setting": lambda: told(
        here=NEW,
        problems=('recast.poll: expected a length of time such as 30m, 24h or 7d, got "often"',),
    ),
    "data-partition-gone": lambda: told(
        here=NEW,
        problems=(
            "the data partition is not there: nothing is mounted at /data, and what this machine "
            "remembers is gone at its next boot",
        ),
    ),
    "disk-full": lambda: told(
        state=troubled(
            DiskFullError("no space is left on /efi", hint="Remove what is not Recast's from it."),
            attempt=attempt(NEW, "named", NOW - HOUR),
        )
    ),
    "disk-failing": lambda: told(
        state=troubled(
            HostError("/dev/vda4 cannot be written: input/output error"),
            attempt=attempt(NEW, "cleared", NOW - HOUR),
        )
    ),
    "nothing-known": lambda: told(
        here=None,
        pointer=None,
        state=State(),
        problems=("this machine does not run a release of Recast",),
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_person_on_site_is_told(name: str) -> None:
    status = STATES[name]()
    text = render(status, status.made)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("RECAST_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_every_text_in_the_folder_is_of_a_state() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(STATES)


@pytest.mark.parametrize("name", STATES)
def test_it_fits_on_a_terminal_and_begins_with_what_runs(name: str) -> None:
    status = STATES[name]()
    lines = render(status, status.made).splitlines()
    assert max(map(len, lines)) <= 80
    first = " ".join(lines[: lines.index("")])
    if status.running is not None:
        assert status.running.version in first
    assert first.count(": ") == 1
    assert first.endswith(".")


@pytest.mark.parametrize("name", STATES)
def test_programs_read_the_same(name: str, tmp_path: Path) -> None:
    status = STATES[name]()
    statuses.save(status, tmp_path / "run" / "status.json")
    found = statuses.find(tmp_path / "run" / "status.json")
    assert found == status
    assert render(found, NOW) == render(status, NOW)


def test_only_what_is_well_is_said_to_be_well() -> None:
    well = {name for name in STATES if render(STATES[name](), NOW).startswith("All is well")}
    assert well == {"well", "well-with-drift", "well-without-drift", "revoked-next"}


def test_what_goes_on_by_itself_asks_nothing_of_a_person() -> None:
    for name in ("well", "downloading", "verifying", "on-trial"):
        advice = render(STATES[name](), NOW).partition("What to do:")[2]
        assert not advice or "Nothing" in advice


def test_without_a_link_it_is_told_from_memory() -> None:
    """After the agent's memory is all there is: no pointer, no verdict."""
    live = told(LATE)
    gates = [Gate(w.gate, False, w.reason, w.opens) for w in live.waiting]
    state = ASKED.model_copy(update={"wanted": NEW.version, "waiting": statuses.remembered(gates)})
    status = make_status(NOW, LATE, running(OLD), state)
    assert [(w.gate, w.reason) for w in status.waiting] == [
        (w.gate, w.reason) for w in live.waiting
    ]
    text = " ".join(render(status, NOW).split())
    assert text.startswith("Waiting: ")
    assert "in wave 3 of 4, at" in text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NO_ROUTE, "network"),
        (PORTAL, "trust"),
        (CORRUPT, "trust"),
        (ExpiredError("timestamp", STORE, NOW, NOW), "expired"),
        (DiskFullError("full"), "disk"),
        (HostError("broken"), "host"),
        (OSError(5, "Input/output error"), "host"),
        (MissingError("objects/9c", STORE), "store"),
        (ValueError("a\nb: c"), "other"),
        (ValueError(), "other"),
    ],
)
def test_an_error_is_remembered_with_what_to_do(error: Exception, kind: str) -> None:
    trouble = statuses.trouble(error)
    assert trouble.kind == kind
    again = statuses.parse_trouble(str(trouble))
    assert again is not None
    assert (again.kind, again.hint) == (trouble.kind, trouble.hint)
    assert again.message.split() == trouble.message.split()


def test_a_trouble_that_was_kept_in_other_words_is_still_told() -> None:
    found = statuses.parse_trouble("it went wrong: badly")
    assert found is not None
    assert (found.kind, found.message) == ("other", "it went wrong: badly")
    assert statuses.parse_trouble("") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_status_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "status.json"
    assert statuses.find(path) is None
    path.write_bytes(content)
    assert statuses.find(path) is None
