"""The tools that others use, each run as its own users would run it.

``whole`` is an image compressed once for everybody; ``xdelta3`` and ``patch-from`` are deltas from
one file to another; ``casync`` and ``zsync`` fetch what the old file lacks, over HTTP, from a real
server whose log is counted; ``ostree`` sends files. What each of them makes is compared with the
new release.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench.images import Image
from tests.bench.pairs import Pair
from tests.bench.ways import Costs, Row, Way, require_equal
from tests.fakes.nginx import nginx

Argv = Sequence[str | Path]


class Peer:
    """What the peers share.

    Args:
        place: ``artifacts/bench``; has the log, and scratch while something is measured.
    """

    name = ""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._log = place / f"transfer-{self.name}.log"
        self._known: dict[tuple[str, str], Row] = {}

    def serves(self, pair: Pair) -> bool:
        """Every pair, unless a peer says otherwise."""
        return True

    def measure(self, pair: Pair) -> Row:
        """Measure once what is the same for several pairs."""
        key = (pair.old.digest, pair.new.digest)
        if key not in self._known:
            with tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=self._place) as scratch:
                self._known[key] = self._measure(pair, Path(scratch))
        return replace(self._known[key], pair=pair.name)

    def _measure(self, pair: Pair, scratch: Path) -> Row:
        raise NotImplementedError


class _Files(Peer):
    """One file to send for each file of the release."""

    def _measure(self, pair: Pair, scratch: Path) -> Row:
        costs, size = Costs(self._log, scratch), 0
        for role, new in pair.new.files.items():
            old = pair.old.files[role]
            sent, made = scratch / f"{role}.sent", scratch / role
            costs.publish(self._publish(pair, old, new, sent))
            costs.apply(self._apply(pair, old, sent, made))
            require_equal(made, new)
            size += sent.stat().st_size
            made.unlink()
        return costs.row(pair, self.name, size=size, requests=len(pair.new.files))

    def _publish(self, pair: Pair, old: Path, new: Path, sent: Path) -> Argv:
        raise NotImplementedError

    def _apply(self, pair: Pair, old: Path, sent: Path, made: Path) -> Argv:
        raise NotImplementedError


class Whole(_Files):
    """The whole image, compressed."""

    name = "whole"

    def measure(self, pair: Pair) -> Row:
        """Whatever the machine has, the same is sent: one measurement for each new release."""
        return super().measure(replace(pair, old=pair.new))

    def _publish(self, pair: Pair, old: Path, new: Path, sent: Path) -> Argv:
        return ["zstd", "-q", "-f", "-19", "--long=27", "-T0", new, "-o", sent]

    def _apply(self, pair: Pair, old: Path, sent: Path, made: Path) -> Argv:
        return ["zstd", "-q", "-f", "-d", "--long=27", sent, "-o", made]


class _Chained(_Files):
    """A delta for each step: a machine that is two releases back fetches two."""

    def measure(self, pair: Pair) -> Row:
        """One step after the other."""
        if pair.between is None:
            return super().measure(pair)
        first = super().measure(replace(pair, new=pair.between))
        return first.then(super().measure(replace(pair, old=pair.between)))


class Xdelta3(_Chained):
    """VCDIFF, with the whole old file in view, as Debian's debdelta and others use it."""

    name = "xdelta3"

    def _publish(self, pair: Pair, old: Path, new: Path, sent: Path) -> Argv:
        return ["xdelta3", "-q", "-9", "-e", "-f", "-B", _window(old), "-s", old, new, sent]

    def _apply(self, pair: Pair, old: Path, sent: Path, made: Path) -> Argv:
        return ["xdelta3", "-q", "-d", "-f", "-B", _window(old), "-s", old, sent, made]


class PatchFrom(_Chained):
    """zstd with the old file as its dictionary."""

    name = "patch-from"

    def serves(self, pair: Pair) -> bool:
        """Minutes for each step: it is measured where it is a goal of ours."""
        return pair.between is None

    def _publish(self, pair: Pair, old: Path, new: Path, sent: Path) -> Argv:
        # A step to another distribution happens once in two years, and would take a quarter of an
        # hour at the highest level.
        level = "-19" if pair.adjacent else "-9"
        return ["zstd", "-q", "-f", level, "--long=31", f"--patch-from={old}", new, "-o", sent]

    def _apply(self, pair: Pair, old: Path, sent: Path, made: Path) -> Argv:
        return ["zstd", "-q", "-f", "-d", "--long=31", f"--patch-from={old}", sent, "-o", made]


def _chunked(image: Image) -> dict[str, Path]:
    """The files of the format that serves those best who fetch blocks or chunks."""
    return dict(image.files) if image.packed is None else {"root": image.packed}


class Casync(Peer):
    """Chunks that the old image lacks, from a store that has the old release's already."""

    name = "casync"

    def _measure(self, pair: Pair, scratch: Path) -> Row:
        costs = Costs(self._log, scratch)
        served, store = scratch / "served", scratch / "served" / "store.castr"
        served.mkdir()
        for role, old in _chunked(pair.old).items():
            costs.aside(["casync", "make", f"--store={store}", scratch / f"{role}.caibx", old])
        for role, new in _chunked(pair.new).items():
            costs.publish(["casync", "make", f"--store={store}", served / f"{role}.caibx", new])
        with serving(served, scratch / "nginx") as server:
            for role, new in _chunked(pair.new).items():
                made = scratch / role
                where = [f"--store={server.url}/store.castr", f"--seed={_chunked(pair.old)[role]}"]
                index = f"{server.url}/{role}.caibx"
                costs.apply(["casync", "extract", *where, index, made])
                require_equal(made, new)
                made.unlink()
            size, requests = server.sent()
        return costs.row(pair, self.name, size=size, requests=requests)


class Zsync(Peer):
    """Blocks that the old image lacks, of the plain new image on any web server."""

    name = "zsync"

    def _measure(self, pair: Pair, scratch: Path) -> Row:
        costs = Costs(self._log, scratch)
        served = scratch / "served"
        served.mkdir()
        with serving(served, scratch / "nginx") as server:
            for role, new in _chunked(pair.new).items():
                shutil.copyfile(new, served / role)
                control = served / f"{role}.zsync"
                made = scratch / role
                costs.publish(["zsyncmake", "-u", f"{server.url}/{role}", "-o", control, new])
                url = f"{server.url}/{role}.zsync"
                costs.apply(["zsync", "-q", "-i", _chunked(pair.old)[role], "-o", made, url])
                require_equal(made, new)
                made.unlink()
            size, requests = server.sent()
        return costs.row(pair, self.name, size=size, requests=requests)


class Ostree(Peer):
    """Files, and static deltas between two commits."""

    name = "ostree"

    def serves(self, pair: Pair) -> bool:
        """The images two steps apart are those of the pair with the kernel."""
        return pair.between is None

    def _measure(self, pair: Pair, scratch: Path) -> Row:
        costs = Costs(self._log, scratch)
        repository, machine = (f"--repo={scratch / name}" for name in ("archive", "machine"))
        costs.aside(["ostree", repository, "init", "--mode=archive"])
        costs.aside(["ostree", machine, "init", "--mode=bare"])
        costs.aside(self._commit(repository, "old", pair.old, scratch))
        costs.aside(["ostree", machine, "pull-local", scratch / "archive", "old"])
        costs.publish(self._commit(repository, "new", pair.new, scratch))
        # Large files too: of a UKI it would else send the whole.
        generate = ["--from=old", "--to=new", "--min-fallback-size=0", "--max-bsdiff-size=512"]
        costs.publish(["ostree", repository, "static-delta", "generate", *generate])
        shutil.rmtree(scratch / "tree")
        sent = next((scratch / "archive" / "deltas").glob("*/*"))
        costs.apply(["ostree", machine, "static-delta", "apply-offline", sent])
        commit = (scratch / "archive" / "refs" / "heads" / "new").read_text().strip()
        # Reads every file of the commit: it is named by their digests.
        costs.aside(["ostree", machine, "fsck", "--quiet"])
        costs.aside(["ostree", machine, "ls", "-R", commit])
        files = [path for path in sent.iterdir() if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        return costs.row(pair, self.name, size=size, requests=len(files))

    def _commit(self, repository: str, branch: str, image: Image, scratch: Path) -> Argv:
        """Unpack the tree, for a commit of it; devices, which no commit may have, left out."""
        tree = scratch / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        options = ["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-p"]
        source: Argv = ["--exclude=./dev/*", "-xf", image.tree]
        Costs(self._log, scratch).aside(["tar", "-C", tree, "--zstd", *options, *source])
        return ["ostree", repository, "commit", f"--branch={branch}", f"--tree=dir={tree}"]


class Server:
    """A web server that tells how much it sent."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    def sent(self) -> tuple[int, int]:
        """Bytes of bodies, and requests, so far; a request for what is not there counts."""
        lines = self._log.read_text().splitlines()
        # The "combined" format: … [time] "GET /path HTTP/1.1" status bytes "referrer" "agent"
        return sum(int(line.split('" ')[1].split()[1]) for line in lines), len(lines)


@contextmanager
def serving(folder: Path, work: Path) -> Iterator[Server]:
    """Serve *folder* while the block runs; *work* is for the server's own files."""
    log = work / "access.log"
    with nginx(folder, work, f"access_log {log} combined; keepalive_requests 1000000;") as url:
        yield Server(url, log)


def _window(old: Path) -> str:
    return str(old.stat().st_size)


def all_peers(place: Path) -> list[Way]:
    """Every peer."""
    kinds: list[type[Peer]] = [Whole, Xdelta3, PatchFrom, Ostree, Casync, Zsync]
    return [kind(place) for kind in kinds]
