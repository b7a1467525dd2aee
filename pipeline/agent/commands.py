"""The commands of ``recast-agent``: each takes its arguments, and returns an exit code."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipeline import clock
from pipeline.agent.compose import Places, compose, open_machine
from pipeline.agent.history import Event, History
from pipeline.agent.journal import Journal
from pipeline.agent.state import at_work
from pipeline.command import Stop
from pipeline.errors import BusyError, HostError, Interrupted, RecastError, UsageError
from pipeline.files import write_atomically

if TYPE_CHECKING:
    from pipeline.agent.status import Status
    from pipeline.agent.turn import Outcome
    from pipeline.agent.update import Agent
    from pipeline.models.device import Running, State, Step

_JUDGE_WAITS = 20.0  # seconds that a judge waits for others; it then goes ahead


def show_status(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """What runs, what is wanted, and why it has or has not moved."""
    from pipeline.agent.status import render

    now = clock.now()
    status = _live_status(places)
    if args.drift is True or (args.drift is None and not args.json and os.geteuid() == 0):
        from pipeline.agent.drift import find_drift

        status = status.model_copy(update={"drift": find_drift()})
    print(_as_json(status) if args.json else render(status, now))
    return 0


def check(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """Ask the store, and say what would be done."""
    with _agent("recast-agent check", places, stop, quiet=True) as agent:
        return _told(agent.check(), args)


def update(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """One turn, for a person who waits for it."""
    with _agent("recast-agent update", places, stop, quiet=args.json) as agent:
        until: Step = "staged" if args.download_only else "activated"
        return _told(agent.update(asked=True, override=args.now, until=until), args)


def run(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """One turn, for the service: what the outside world does wrong is no failure of it."""
    from pipeline.agent.telling import Known

    try:
        with _agent("recast-agent run", places, stop, quiet=True) as agent:
            try:
                outcome = agent.update()
            except HostError as error:
                problems = (f"{error.message}. {error.hint}".strip(),)
                agent.parts.teller.status(Known(problems=problems))
                raise
    except (BusyError, Interrupted):
        return 0  # somebody is at it, or the system stops: the next turn goes on
    except RecastError as error:
        Journal().tell(error.message, priority=3, step="trouble")
        _complain(places, (f"{error.message}. {error.hint}".strip(),))
        return 0
    _complain(places, outcome.status.problems)
    if args.json:
        print(_as_json(outcome.status))
    return 0


def judge(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """Give up what is on trial if it is not healthy."""
    with _agent("recast-agent judge", places, stop, quiet=True, patience=_JUDGE_WAITS) as agent:
        return _told(agent.judge(), args, silent=not args.json)


def confirm(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """Call good what is on trial."""
    by = os.environ.get("SUDO_USER") or "a person at the machine"
    with _agent("recast-agent confirm", places, stop, quiet=args.json) as agent:
        return _told(agent.confirm(by=by), args)


def install(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """Put a release on a whole disk."""
    from pipeline.agent import install as installing

    return installing.run(args, stop=stop)


def network(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """Turn the site's network settings into those of systemd-networkd."""
    from pipeline.agent import network as settings

    return settings.main()


def pin(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """Hold this machine at a version."""
    from pipeline.models.device import Pin

    version = args.version or open_machine().running().version
    return _change(
        args,
        places,
        "pinned",
        f"held at {version} from now on; `recast-agent unpin` lets it follow its channel again",
        lambda state: state.model_copy(update={"pin": Pin(version=version, when=clock.now())}),
    )


def unpin(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """Let this machine follow its channel again."""

    def without(state: State) -> State:
        if state.pin is None:
            raise UsageError("this machine is not pinned")
        if args.version and args.version != state.pin.version:
            raise UsageError(f"this machine is pinned to {state.pin.version}, not {args.version}")
        return state.model_copy(update={"pin": None})

    return _change(args, places, "unpinned", "it follows its channel again", without)


def allow(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """Have a version tried again that failed here."""
    version = args.version

    def allowed(state: State) -> State:
        if version in state.allowed:
            return state
        if not any(each.version == version for each in state.bad):
            known = ", ".join(each.version for each in state.bad) or "none"
            raise UsageError(
                f"{version} has not failed here: there is nothing to allow",
                hint=f"Versions that failed here: {known}.",
            )
        return state.model_copy(update={"allowed": (*state.allowed, version)[-32:]})

    return _change(args, places, "allowed", f"{version} may be tried again", allowed)


def log(args: argparse.Namespace, places: Places, stop: Stop) -> int:
    """What has happened on this machine."""
    memory = places.memory()
    events = History(memory.folder / "history.jsonl").read(args.lines)
    if args.json:
        print(json.dumps([each.model_dump(mode="json") for each in events], indent=2))
        return 0
    for event in events:
        mark = {"ok": " ", "waiting": "·", "failed": "!"}[event.outcome]
        about = f"{event.release}: " if event.release else ""
        print(f"{clock.iso(event.when)} {mark} {event.step}: {about}{event.text}")
    if not events:
        print("nothing has happened here yet")
    return 0


@contextlib.contextmanager
def _agent(
    doing: str, places: Places, stop: Stop, *, quiet: bool, patience: float = 0.0
) -> Iterator[Agent]:
    """The agent of this machine, while nobody else is at work on it."""
    from pipeline.agent.progress import Progress
    from pipeline.agent.update import Agent

    shown = None if quiet else Progress()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(at_work(doing, places.lock, patience=patience))
        except BusyError:
            if not patience:
                raise  # who may not wait for ever goes ahead: a machine must not hang
        if shown:
            stack.callback(shown.close)
        yield Agent(
            compose(
                places,
                listen=shown.event if shown else None,
                watch=shown.step if shown else None,
                stop=stop,
            )
        )


def _told(outcome: Outcome, args: argparse.Namespace, *, silent: bool = False) -> int:
    """Print what a turn came to; an error of it is raised, with its exit code."""
    from pipeline.agent.status import render

    if args.json:
        said = json.loads(outcome.status.model_dump_json())
        print(json.dumps({**said, "rebooting": outcome.rebooting}, indent=2))
    elif not silent:
        print(render(outcome.status, clock.now()))
        if outcome.rebooting:
            print("The machine reboots now.")
    if outcome.error is not None:
        raise outcome.error
    return 0


def _change(
    args: argparse.Namespace,
    places: Places,
    step: str,
    text: str,
    change: Callable[[State], State],
) -> int:
    """Change what is remembered, on a person's word; the next turn goes by it."""
    with at_work(f"recast-agent {args.command}", places.lock, patience=5.0):
        memory = places.memory()
        # It counts at once: the store is asked again at the next turn, whenever that is.
        memory.save(change(memory.load()).model_copy(update={"next": None}))
        event = Event.model_validate({"when": clock.now(), "step": step, "text": text})
        History(memory.folder / "history.jsonl").add(event)
        Journal().tell(text, step=step)
    with contextlib.suppress(RecastError):  # the timer comes by anyway
        open_machine().wake(1.0)
    if args.json:
        print(json.dumps({"step": step, "text": text, "problems": list(memory.problems)}))
    else:
        print(text)
        for problem in memory.problems:
            print(f"but: {problem}", file=sys.stderr)
    return 0


def _live_status(places: Places) -> Status:
    """What the agent said last, mended by what can be seen now without the network."""
    from pipeline.agent.site import read_site
    from pipeline.agent.status import find, find_limit, make_status

    site, problems = read_site()
    now = clock.now()
    running: Running | None = None
    try:
        running = open_machine().running()
    except RecastError as error:
        problems = (*problems, error.message)
    said = find(places.status)
    memory = places.memory()
    state = memory.load()
    root = os.geteuid() == 0  # others cannot read what is remembered, nor tell whether it lasts
    if said is not None and _same_boot(said, running):
        update: dict[str, object] = {
            "working": said.working if _at_work(places) else None,
            "bandwidth": find_limit(site, now),
        }
        if root:
            update["pin"] = state.pin  # a person may have changed it since
        if running is not None:
            update |= {"running": running, "confirmed": not running.trial}
        return said.model_copy(update=update)
    if root:
        problems = (*problems, *memory.problems)
    return make_status(now, site, running, state, problems=problems)


def _same_boot(said: Status, running: Running | None) -> bool:
    if said.running is None or running is None:
        return said.running is None and running is None
    return said.running.boot_id == running.boot_id and said.running.trial == running.trial


def _at_work(places: Places) -> bool:
    try:
        with at_work("recast-agent status", places.lock):
            return False
    except BusyError:
        return True
    except OSError:  # not ours to ask
        return True


def _complain(places: Places, problems: tuple[str, ...]) -> None:
    """Say once in a boot, on the console, what is wrong with this machine's settings."""
    told = places.run / "told"
    text = "\n".join(problems)
    with contextlib.suppress(OSError, RecastError):
        if (told.read_text() if told.exists() else "") == text:
            return
        write_atomically(told, text)
    for problem in problems:
        print(f"recast-agent: {problem}", file=sys.stderr)


def _as_json(status: Status) -> str:
    return status.model_dump_json(indent=2)
