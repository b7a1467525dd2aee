"""What a person on site can do about what keeps a machine from moving; little, as a rule."""

from __future__ import annotations

from collections.abc import Mapping

WRONG_CLOCK = (
    "Set the clock of this machine: `timedatectl` shows it and its time server; where there is no "
    "time server, set it by hand (`timedatectl set-time`), and look at its battery."
)
DATA = (
    "The machine runs and is still updated, but keeps nothing of its own: look at "
    "`systemctl status data.mount` and the disk's health; `fsck` mends a damaged filesystem."
)
UNSET = (
    "Give it the credentials recast.store and recast.channel (and recast.root, unless its image "
    "brings a root of trust), then reboot it."
)

UNKNOWN = (
    "Only a machine that was put up by Recast can be updated: `recast-agent install` writes a "
    "release to a disk."
)
ASK = "Nothing: it asks by itself, soon after it came up. `recast-agent check` asks now."
UNPIN = "`recast-agent unpin` lets it follow its channel again."

_ELSEWHERE = "Nothing here: those who run channel {channel} decide"

FOR_GATES: Mapping[str, str] = {
    "available": f"{_ELSEWHERE} what it holds.",
    "confirmed": "Nothing: it decides by itself. `recast-agent confirm`, if you know that it is "
    "good and cannot wait.",
    "machine class": "Give this machine a channel of its own image, or name the other image in the "
    "credential recast.image if it shall become one of those.",
    "not revoked": f"{_ELSEWHERE} what takes its place.",
    "not failed here": "Look at `recast-agent log`. A release with another version is tried by "
    "itself; once the cause is mended, `recast-agent allow {version}` has this one tried again.",
    "not frozen": f"{_ELSEWHERE} when it moves again.",
    "not halted": f"{_ELSEWHERE} when the rollout goes on.",
    "wave": "Nothing: it begins by itself. `recast-agent update --now` does not wait for the wave.",
    "window": "Nothing: it reboots by itself. `recast-agent update --now` does not wait for the "
    "window.",
    "attested": "Nothing here: tell those who run channel {channel}. Without proof of how a "
    "release was built and tested no machine installs it.",
    "architecture": "Give this machine a channel of releases for its kind of processor.",
    "slot size": "Nothing that an update can do: `recast-agent install` lays the disk out anew, "
    "with larger slots.",
    "ESP space": "Remove what is not Recast's from /efi, such as other systems' boot files; then "
    "it goes on by itself.",
    "disk": "Look at `journalctl -b -u recast-agent`, and at the disk: without one that can be "
    "read and written it stays on what runs.",
    "reboot": "Let what holds it end, or end it: it goes on by itself then.",
}

FOR_TROUBLES: Mapping[str, str] = {
    "network": "It tries again by itself, and goes on where it stood. If that lasts, look at the "
    "cable, the address (`ip address`), the name server, and whatever stands between this machine "
    "and its store.",
    "store": "Nothing here: the store lacks what its channel promises, so tell those who run it. A "
    "mirror may be behind; it tries again by itself.",
    "expired": "It tries again by itself: nothing else has to be done here once the store is "
    "renewed, or the clock is right.",
    "trust": "Do not work around it: tell those who run the channel. This machine goes on with "
    "what it has.",
    "disk": "Make room where it says; then it goes on by itself.",
    "host": "Look at `journalctl -b -u recast-agent`, and at the disk's health.",
    "other": "Look at `journalctl -b -u recast-agent`.",
}
