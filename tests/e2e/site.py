"""A site: a machine in QEMU that follows a channel over a link that can be made bad.

The machine is watched from outside, by the reports that it sends and by its console, as its
operators would; ssh is for what only a person on site could see or do.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import clock, command, ssh
from pipeline.command import Stop
from pipeline.files import write_atomically
from pipeline.models.checkin import Checkin
from pipeline.models.pointer import PublishedRelease
from pipeline.models.release import Release, TestVerdict
from pipeline.providers.base import BootRequest
from pipeline.providers.qemu import QemuBooter
from pipeline.providers.qemu.arguments import credential
from pipeline.providers.qemu.machine import QemuMachine
from pipeline.releases import verdict_path
from pipeline.store.base import object_key, release_key
from tests.e2e.harness import Bench, unfinished
from tests.fakes.link import Link

DEVICE = "till-1"
IMAGE = "edge-web"
CHANNEL = "stable"
_LIMIT = 900.0  # seconds; for whatever a machine does between two reports, on a busy host
_DISK = 6 << 30

_UNITS = "images/elements/nginx-site/nginx-site/usr/lib/systemd/system"
_HOOK = "images/elements/nginx-site/post-install.d/71-nginx-site"

CHANNELS = f"""\
channels:
  - name: {CHANNEL}
    gates: {{tests: [qemu]}}
"""


@dataclass
class Site:
    """A machine, the link to its store, and the store.

    Attributes:
        bench: the project; its store is what the machine follows.
        machine: in QEMU; its disk lasts as long as the block of :func:`site`.
        link: between the two.
        console: what the machine printed.
    """

    bench: Bench
    machine: QemuMachine
    link: Link
    console: Path
    began: float = field(default_factory=time.monotonic)

    def run(self, *words: str, timeout: float = 180.0) -> str:
        """Run a command on the machine, as root."""
        return ssh.run(self.machine.ssh_config(), words, timeout=timeout, shared=False)

    def shell(self, script: str, timeout: float = 180.0) -> str:
        """Run a line of shell on the machine, as root."""
        return self.run("sh", "-c", script, timeout=timeout)

    def ask(self, *words: str) -> Any:
        """What ``recast-agent`` answers with ``--json``."""
        return json.loads(self.run("recast-agent", *words, "--json"))

    def status(self) -> str:
        """What a person on site reads."""
        return self.run("recast-agent", "status")

    def ready(self) -> None:
        """Wait until a login works, whatever the machine has been through."""
        end = time.monotonic() + _LIMIT
        while True:
            try:
                ssh.run(self.machine.ssh_config(), ["true"], timeout=120.0, shared=False)
                return
            except (command.CommandError, command.CommandTimeout) as error:
                if time.monotonic() > end:
                    raise AssertionError(f"no login: {error}\n{self.tail()}") from error
                time.sleep(1.0)

    def boots(self, release: Release) -> None:
        """Wait until *release* has booted, by logging in.

        A machine without its data partition is another one after each boot: its host key is new,
        and so is the one that it signs reports with.
        """
        end = time.monotonic() + _LIMIT
        while True:
            target = self.machine.ssh_config()
            target.known_hosts.unlink(missing_ok=True)
            with suppress(command.CommandError, command.CommandTimeout):
                words = ssh.run(target, ["cat", "/proc/cmdline"], timeout=120.0, shared=False)
                if release.root_hash in words:
                    break
            assert time.monotonic() < end, f"{release.name} does not run\n{self.tail()}"
            time.sleep(5.0)
        self.shell("systemctl is-system-running --wait || true", timeout=_LIMIT)

    def poke(self) -> None:
        """Have the agent look now."""
        self.run("systemctl", "start", "--no-block", "recast-agent.service")

    def cut_power(self) -> None:
        """Off and on again, at once."""
        self.machine.reboot_hard()

    def set(self, name: str, value: str) -> None:
        """Change a setting of the site; the machine reads it when its power has been cut."""
        for path in self.machine.settings():
            if path.read_text().startswith(credential(f"recast.{name}", "")):
                path.write_text(credential(f"recast.{name}", value))
                return
        raise AssertionError(f"it was not started with recast.{name}")

    def report(self) -> Checkin | None:
        """The newest report that the store has."""
        path = published(self.bench) / "checkins" / f"{DEVICE}.json"
        try:
            envelope = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        return Checkin.model_validate_json(base64.b64decode(envelope["payload"]))

    def until(self, wanted: Callable[[Checkin], bool], what: str, limit: float = _LIMIT) -> Checkin:
        """Wait for a report; *what* says for which."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            found = self.report()
            if found is not None and wanted(found):
                return found
            fault = self.machine.fault()
            if fault is not None and "switched itself off" in fault:
                raise AssertionError(f"{fault}\n{self.tail()}")
            time.sleep(0.5)
        raise AssertionError(
            f"no report of {what} within {limit:.0f} s; the last one: {self.report()}\n"
            f"{self.tail()}"
        )

    def when(self, wanted: Callable[[], bool], limit: float = _LIMIT) -> None:
        """Wait for something to become true that costs little to ask."""
        end = time.monotonic() + limit
        while not wanted():
            assert time.monotonic() < end, f"not within {limit:.0f} s\n{self.tail()}"
            time.sleep(0.02)

    def runs(self, version: str) -> Checkin:
        """Wait until *version* runs, is confirmed, and nothing else is under way."""
        settled = ("", "confirmed", "failed")
        return self.until(
            lambda r: r.version == version and r.confirmed and r.step in settled,
            f"{version} running",
        )

    def failed(self, version: str) -> Checkin:
        """Wait until *version* is reported as failed, by another release."""
        return self.until(
            lambda r: r.target == version and r.step == "failed" and r.version != version,
            f"{version} failing",
        )

    def tail(self) -> str:
        """The last lines of the console."""
        return "\n".join(self.console.read_text(errors="replace").splitlines()[-60:])


def make(bench: Bench, message: str) -> Release:
    """Commit what the project is now, and build its image."""
    bench.commit(message)
    bench.run("build", IMAGE)
    return bench.release(IMAGE)


def publish(bench: Bench) -> Release:
    """Put the newest release into the channel.

    That its image passes its tests in a VM is what other tests are about: here the verdict is
    written as a tester would.
    """
    stored = bench.newest(IMAGE)
    release = stored.release
    verdict = TestVerdict(
        provider="qemu",
        passed=True,
        root_hash=release.root_hash,
        tests=1,
        seconds=1.0,
        boot_seconds=1.0,
        tests_digest="0" * 64,
        when=clock.now(),
    )
    # Put in its place whole: the file may be a link to that of the store that this one copies.
    write_atomically(verdict_path(stored.folder, release.name, "qemu"), verdict.model_dump_json())
    bench.run("publish", f"{IMAGE}@{release.version}")
    return release


def add_unit(bench: Bench, name: str, target: str, text: str) -> None:
    """Have the site's element start a unit of *text* with *target*."""
    (bench.project / _UNITS / name).write_text(text)
    bench.append(_HOOK, f"systemctl add-wants {target} {name}\n")


def published(bench: Bench) -> Path:
    """The store that sites read."""
    return Path(bench.settings.get("RECAST_STORE", bench.store / "store"))


def described(bench: Bench, release: Release) -> PublishedRelease:
    """What the store says of a release."""
    text = (published(bench) / release_key(release.image, release.version)).read_text()
    return PublishedRelease.model_validate_json(text)


def damage_deltas(bench: Bench, release: Release) -> int:
    """Flip a bit in the middle of each delta of a release; how many there are."""
    deltas = [delta for part in described(bench, release).parts.values() for delta in part.deltas]
    for delta in deltas:
        path = published(bench) / object_key((delta.stored or delta.index).digest)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
    return len(deltas)


def settings(port: int, root: bytes, **more: str) -> Mapping[str, str]:
    """The credentials of the machine."""
    return {
        "recast.device": DEVICE,
        "recast.site": "harbour",
        "recast.channel": CHANNEL,
        "recast.store": f"http://10.0.2.2:{port}",
        "recast.root": root.decode(),
        "recast.poll": "30s",
        **{f"recast.{name}": value for name, value in more.items()},
    }


@contextmanager
def site(bench: Bench, folder: Path, release: Release, **more: str) -> Iterator[Site]:
    """A machine that was installed with *release*, and follows the channel.

    Args:
        bench: the project, with its store.
        folder: for the machine's files.
        release: what is on its disk.
        more: further settings.
    """
    stored = bench.newest(IMAGE)
    disk = stored.folder.parent / release.version / release.parts["disk"].file
    words = ("serve", "--port", "0", "--checkins", "--json", "--quiet")
    with unfinished(bench.start(*words)) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        with Link(int(url.rsplit(":", 1)[1])).running() as link:
            keys = Path(bench.settings.get("RECAST_KEYS", bench.store / "keys"))
            root = (keys / "root.json").read_bytes()
            console = folder / "console.log"
            machine = QemuBooter().boot(
                BootRequest(
                    disk=disk,
                    name="site",
                    workdir=folder / "machine",
                    console=console,
                    log=io.StringIO(),
                    stop=Stop(),
                    disk_size=_DISK,
                    credentials=settings(link.own_port, root, **more),
                )
            )
            try:
                yield Site(bench, machine, link, console)
            finally:
                machine.close()
        server.terminate()
