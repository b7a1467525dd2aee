"""``recast sites``: what machines report of themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.images import ago
from pipeline.cli.outcomes import print_json
from pipeline.cli.terminal import colour, fitting_table, printable, table
from pipeline.clock import duration, iso, now
from pipeline.errors import UsageError
from pipeline.files import format_size
from pipeline.models.fields import parse_duration

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.fleet.arrivals import Arrival, CheckIns
    from pipeline.fleet.standing import Standing

_HEADERS = ("device", "site", "image", "runs", "wanted", "heard", "state")
_LESS = ("image", "wanted", "site", "heard")  # what a narrow terminal does without, in this order
_COLOURS = {"current": "green", "moving": "cyan", "waiting": "yellow"}
_MOST_REASONS = 10
_FEW_DEVICES = 4
_LABEL = 14  # columns


@click.command()
@click.argument("device", required=False)
@click.option("--image", default="", help="Only machines of this image.")
@click.option("--channel", default="", help="Only machines that follow this channel.")
@click.option("--site", default="", help="Only machines at this site.")
@click.option("--release", default="", metavar="VERSION", help="Only machines that run this.")
@click.option("--lagging", is_flag=True, help="Only machines that are not up to date.")
@click.option(
    "--silence",
    default="1h",
    show_default=True,
    metavar="TIME",
    help="Silent is who was not heard for so long (and for three of its own polls).",
)
@click.option("--forget", is_flag=True, help="Remove DEVICE's reports, and with them its key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sites(
    device: str | None,
    image: str,
    channel: str,
    site: str,
    release: str,
    lagging: bool,
    silence: str,
    forget: bool,
    as_json: bool,
) -> None:
    """Show which machine runs what, who lags, and why.

    With DEVICE everything that is known of that machine. A machine that was installed anew signs
    with a new key, and is not believed until the old one is forgotten: --forget. Reports are read
    from the project's store, or from another one that RECAST_STORE names.

    \b
    Example:
      recast sites --image edge-web --lagging
      recast sites berlin-2
      recast sites --forget berlin-2
    """
    from pipeline.fleet import standing
    from pipeline.fleet.arrivals import StoreCheckIns

    reports = StoreCheckIns(Context.find().store)
    seconds = _seconds(silence)
    present = now()
    if forget:
        _forget(reports, device, as_json)
        return
    if device is not None:
        _one(reports, device, present, seconds, as_json)
        return
    arrivals = reports.newest()
    known = [s for a in arrivals if (s := standing.stand(a, present, seconds))]
    found = standing.chosen(
        known, image=image, channel=channel, site=site, release=release, lagging=lagging
    )
    unread = [each for each in arrivals if each.signed is None]
    if as_json:
        print_json(_data(found, unread))
        return
    if not arrivals:
        click.echo("No machine has reported yet.")
        click.echo("`recast serve --checkins` takes reports; so does any web server with PUT.")
    elif not found:
        click.echo(f"None of {len(known)} machines is one of those.")
    else:
        click.echo(printable(_text(found, present), sys.stdout))
    mark = colour("warning:", "yellow", stream=sys.stderr)
    for each in unread:
        text = f"{mark} the report of {each.device} is passed over: {each.problem}"
        click.echo(printable(text, sys.stderr), err=True)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--silence: {error}") from error


def _forget(reports: CheckIns, device: str | None, as_json: bool) -> None:
    if device is None:
        raise UsageError("whom to forget?", hint="Name the machine: `recast sites --forget NAME`.")
    removed = reports.forget(device)
    if not removed:
        raise UsageError(f"there is no report of {device}")
    if as_json:
        print_json({"device": device, "removed": removed})
    else:
        many = "report" if removed == 1 else "reports"
        click.echo(f"{removed} {many} of {device} removed; its next one brings its key.")


def _data(found: Sequence[Standing], unread: Sequence[Arrival]) -> dict[str, object]:
    from pipeline.fleet import standing

    return {
        "machines": [_machine(each) for each in found],
        "releases": [asdict(each) for each in standing.shares(found)],
        "lagging": [asdict(each) for each in standing.lags(found)],
        "problems": [{"device": each.device, "problem": each.problem} for each in unread],
    }


def _machine(each: Standing) -> dict[str, object]:
    return {
        **each.checkin.model_dump(mode="json"),
        "state": each.state,
        "why": each.reason,
        "lagging": each.lagging,
        "heard": iso(each.heard),
        "notes": list(each.notes),
    }


def _text(found: Sequence[Standing], present: datetime) -> str:
    from pipeline.fleet import standing

    parts = [fitting_table([_row(each, present) for each in found], _HEADERS, _LESS), ""]
    for share in standing.shares(found):
        name = f"{share.image} {share.version}".strip() or "unknown"
        many = "machine" if share.of == 1 else "machines"
        trial = f", {share.unconfirmed} on trial" if share.unconfirmed else ""
        percent = round(100 * share.machines / share.of)
        parts.append(f"{name}: {share.machines} of {share.of} {many} ({percent} %){trial}")
    late = standing.lags(found)
    if late:
        count = sum(len(each.devices) for each in late)
        parts += ["", f"{count} of {len(found)} lag:"]
        rows = [(f"  {len(e.devices)}", f"{e.reason} ({_some(e.devices)})") for e in late]
        shown = rows[:_MOST_REASONS]
        if len(rows) > len(shown):
            rest = sum(len(each.devices) for each in late[_MOST_REASONS:])
            shown.append((f"  {rest}", f"for {len(rows) - len(shown)} other reasons"))
        parts += [f"{number:>5}  {reason}" for number, reason in shown]
    return "\n".join(parts)


def _some(devices: Sequence[str]) -> str:
    names = ", ".join(devices[:_FEW_DEVICES])
    more = len(devices) - _FEW_DEVICES
    return f"{names} and {more} more" if more > 0 else names


def _row(each: Standing, present: datetime) -> dict[str, str]:
    said = each.checkin
    notes = f" ({'; '.join(each.notes)})" if each.notes else ""
    return {
        "device": said.device,
        "site": said.site,
        "image": said.image,
        "runs": said.version + ("" if said.confirmed else " (trial)"),
        "wanted": said.wanted or "?",
        "heard": ago(each.heard, present),
        "state": colour(each.text, _COLOURS.get(each.state, "red")) + notes,
    }


def _one(reports: CheckIns, device: str, present: datetime, silence: float, as_json: bool) -> None:
    from pipeline.fleet import standing

    newest, history = reports.of(device)
    if newest is None and not history:
        raise UsageError(
            f"there is no report of {device}", hint="`recast sites` lists the machines that are."
        )
    stands = standing.stand(newest, present, silence) if newest else None
    if as_json:
        print_json(
            {
                "device": device,
                "newest": _machine(stands) if stands else None,
                "problem": newest.problem if newest else "",
                "history": [e.signed.checkin.model_dump(mode="json") for e in history if e.signed],
            }
        )
        return
    lines = [colour(device, "", bold=True)]
    if stands is not None:
        lines += [
            f"  {label:<{_LABEL}}{value}" for label, value in _fields(stands, present) if value
        ]
    elif newest is not None:
        lines.append(f"  {colour('its newest report is passed over', 'red')}: {newest.problem}")
    if history:
        lines += ["", _past(history, stands.key if stands else "")]
    click.echo(printable("\n".join(lines), sys.stdout))


def _fields(each: Standing, present: datetime) -> list[tuple[str, str]]:
    said = each.checkin
    took = ", ".join(f"{step} {duration(seconds)}" for step, seconds in said.seconds.items())
    read = format_size(said.downloaded) if said.downloaded else ""
    return [
        ("state", colour(each.text, _COLOURS.get(each.state, "red"))),
        ("note", "; ".join(each.notes)),
        ("site", said.site),
        ("labels", ", ".join(f"{key}={value}" for key, value in said.labels.items())),
        ("runs", f"{said.image} {said.version}" + ("" if said.confirmed else ", on trial")),
        ("root hash", said.root_hash),
        ("channel", said.channel),
        ("wanted", said.wanted),
        ("update", f"{said.target}: {said.step}" if said.step else ""),
        ("reason", said.reason),
        ("took", took),
        ("downloaded", read),
        ("written", format_size(said.written) if said.written else ""),
        ("agent", said.agent),
        ("heard", f"{iso(each.heard)} ({ago(each.heard, present)}), report {said.number}"),
        ("asks again", iso(said.next) if said.next else ""),
        ("key", each.key),
    ]


def _past(history: Sequence[Arrival], key: str) -> str:
    rows: list[tuple[str, ...]] = []
    for each in history:
        if each.signed is None:
            rows.append((iso(each.heard), "", "", f"passed over: {each.problem}"))
            continue
        said = each.signed.checkin
        other = " (signed with another key)" if key and each.signed.key != key else ""
        word = colour(said.step, "red" if said.step == "failed" else "green")
        rows.append((iso(said.sent), said.target, word, said.reason + other))
    return table(rows, ("time", "release", "ended", "reason"))
