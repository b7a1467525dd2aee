"""Putting a release into the other slot, step by step, so that a cut at any instant is harmless.

What there is to lose is named by few small things: names in the partition table, and files of
entries on the ESP. They are taken away before the bytes that they stand for are touched, the
entry before the name, and given again when all the bytes are on the medium and were read back,
the entry last. Each step can be done again at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.agent import entries, gpt, verity
from pipeline.agent.following import Follower
from pipeline.errors import DigestError, HostError
from pipeline.models.device import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.agent.base import Note, Progress
    from pipeline.agent.blocks import Part
    from pipeline.agent.esp import Esp
    from pipeline.agent.slots import DiskSlots, Layout
    from pipeline.command import Stop
    from pipeline.models.device import Attempt, Step
    from pipeline.models.pointer import PublishedRelease
    from pipeline.transfer.base import Seed, Source

_PIECE = 1 << 20


@dataclass(frozen=True)
class _RootSeed:
    """The running root."""

    part: Part
    root_hash: str

    @property
    def size(self) -> int:
        """Bytes of its slot."""
        return self.part.size

    def read(self, offset: int, size: int) -> bytes:
        """See :meth:`pipeline.transfer.base.Readable.read`."""
        return self.part.read(offset, size)

    def identity(self) -> str:
        """Its root hash."""
        return self.root_hash


@dataclass(frozen=True)
class _UkiSeed:
    """A file of the ESP, to be read."""

    esp: Esp
    path: str
    size: int

    def identity(self) -> str:
        """Its SHA-256; empty if it cannot be read."""
        try:
            return _digest(self.esp, self.path, self.size)
        except HostError:
            return ""

    def read(self, offset: int, size: int) -> bytes:
        """See :meth:`pipeline.transfer.base.Readable.read`."""
        data = bytearray()
        while len(data) < size:
            piece = self.esp.read(self.path, offset + len(data), size - len(data))
            if not piece:
                raise HostError(f"{self.esp.name}: {self.path} is shorter than it was")
            data += piece
        return bytes(data)


class Application:
    """One call of :meth:`pipeline.agent.base.Slots.apply`."""

    def __init__(
        self,
        slots: DiskSlots,
        source: Source,
        note: Note,
        *,
        tries: int,
        progress: Progress | None,
        stop: Stop | None,
    ) -> None:
        self._slots = slots
        self._source = source
        self._note = note
        self._tries = tries
        self._progress = progress
        self._stop = stop
        self._follower: Follower | None = None
        self._staged = False
        self._steps: Mapping[Step, Callable[[Attempt], Attempt]] = {
            "chosen": self._clear,
            "cleared": self._write,
            "written": self._verify,
            "verified": self._name,
            "named": self._stage,
            "staged": self._activate,
        }

    def run(self, attempt: Attempt, sequence: int, until: Step) -> Attempt:
        """Take step after step, from where *attempt* stands; see the Protocol."""
        attempt = self._with_entry(attempt, sequence)
        try:
            while attempt.step != until and attempt.step in self._steps:
                if STEPS.index(attempt.step) > STEPS.index(until):
                    break
                self._check_stop()
                attempt = self._take(attempt)
        finally:
            self._drop_follower()
        return attempt

    def _take(self, attempt: Attempt) -> Attempt:
        before, start = attempt.step, self._slots.clock()
        attempt = self._steps[before](attempt)
        spent = self._slots.clock() - start
        seconds = dict(attempt.seconds)
        seconds[attempt.step] = round(seconds.get(attempt.step, 0.0) + spent, 3)
        attempt = attempt.model_copy(update={"seconds": seconds})
        self._note(attempt)
        return attempt

    def _with_entry(self, attempt: Attempt, sequence: int) -> Attempt:
        """Give the attempt the name of its entry: the same in each call, and not one in use.

        A machine that has lost its memory counts on from what its ESP has.
        """
        if attempt.entry:
            return attempt
        files = entries.read_boot_files(self._slots.esp)
        used = [entries.sequence_of(each.entry.id) for each in files]
        number = max([sequence, *(each + 1 for each in used)])
        return attempt.model_copy(update={"entry": entries.entry_id(number)})

    # --- the steps ---------------------------------------------------------------------------

    def _clear(self, attempt: Attempt) -> Attempt:
        """Take away what leads to the other slot: entries, their UKIs, then its names."""
        slots, release = self._slots, attempt.release
        same = release.root_hash == slots.running.root_hash
        reuse = not same and attempt.step == "chosen" and self._reusable(attempt)
        clearing = slots.clearing(release, reuse=reuse)
        entries.remove_entries(slots.esp, clearing.entries)
        for path in clearing.files:
            slots.esp.remove(path)
        if clearing.files:
            slots.esp.sync()
        if not (same or reuse):
            self._empty(slots.layout())
        step = "named" if same or reuse else "cleared"
        return attempt.model_copy(update={"step": step, "reuse": reuse, "same_root": same})

    def _write(self, attempt: Attempt) -> Attempt:
        """Have the root brought into the slot."""
        layout, release = self._slots.layout(), attempt.release
        if not layout.is_named(layout.emptied):
            # The journal is older than the disk, or somebody has named the slot meanwhile.
            return attempt.model_copy(update={"step": "chosen"})
        recipe = _recipe(release)
        target = layout.other_root.on(self._slots.disk).first(recipe.size)
        tree = layout.other_verity.on(self._slots.disk)
        follower = Follower(recipe, target, tree, stop=self._stop, active=self._slots.overlap)
        self._drop_follower()
        self._follower = follower
        part = layout.root.on(self._slots.disk)
        seed = _RootSeed(part, self._slots.running.root_hash)
        with self._reporting("written", recipe.size) as hear:
            filled = self._source.fill(
                release, "root", follower, [seed], progress=hear, stop=self._stop
            )
        follower.sync()
        return attempt.model_copy(
            update={
                "step": "written",
                "downloaded": attempt.downloaded + filled.downloaded,
                "written": attempt.written + filled.written,
                "how": {**attempt.how, "root": filled.how},
            }
        )

    def _verify(self, attempt: Attempt) -> Attempt:
        """Read the root back, and hold it against the signed root hash; leave its tree."""
        layout, release = self._slots.layout(), attempt.release
        recipe = _recipe(release)
        tree = layout.other_verity.on(self._slots.disk)
        wanted, kept = release.root_hash, False
        try:
            found = self._follower.finish() if self._follower is not None else None
            if found is None:
                data = layout.other_root.on(self._slots.disk)
                found = self._hash(recipe, data, tree.write)
            self._report("verified", recipe.size, recipe.size)
            tree.sync()
            kept = verity.check_tree(recipe, tree, found)
        except HostError:  # writing it once more may mend it
            self._note(attempt.model_copy(update={"step": "cleared"}))
            raise
        if found == wanted and kept:
            return attempt.model_copy(update={"step": "verified"})
        # Whoever tries again begins with the writing.
        self._note(attempt.model_copy(update={"step": "cleared"}))
        if not kept:
            raise HostError(
                f"the disk {self._slots.disk.name} does not keep what is written to it: the hash "
                f"tree of {release.name} reads back differently",
                hint="Replace the disk.",
            )
        raise DigestError(
            f"the root of {release.name}, read back from {self._slots.disk.name}, has the root "
            f"hash {found[:16]}…, and must have {wanted[:16]}…",
            hint="It is not used. If this happens again, the disk or the memory of this machine "
            "is failing, or the release was published wrongly.",
        )

    def _name(self, attempt: Attempt) -> Attempt:
        """Call the slot by its root hash: from here on a boot can find it."""
        layout = self._slots.layout()
        gpt.rename(self._slots.disk, layout.filled(attempt.release))
        return attempt.model_copy(update={"step": "named"})

    def _stage(self, attempt: Attempt) -> Attempt:
        """Have the UKI brought to the ESP, where no boot loader looks yet."""
        release, esp = attempt.release, self._slots.esp
        path = self._uki(attempt)
        if self._is_staged(release, path):
            self._staged = True
            return attempt.model_copy(update={"step": "staged"})
        target = esp.target(path, release.parts["uki"].size)
        with contextlib.closing(target), self._reporting("staged", target.size) as hear:
            filled = self._source.fill(
                release, "uki", target, self._other_ukis(path), progress=hear, stop=self._stop
            )
            target.sync()
            esp.sync()
            target.forget()
        if not self._is_staged(release, path):
            esp.remove(path)
            esp.sync()
            raise DigestError(
                f"the boot file of {release.name} reads back from {esp.name} with another digest "
                "than the signed one",
                hint="It is not used. If this happens again, the disk or the memory of this "
                "machine is failing.",
            )
        self._staged = True
        return attempt.model_copy(
            update={
                "step": "staged",
                "downloaded": attempt.downloaded + filled.downloaded,
                "written": attempt.written + filled.written,
                "how": {**attempt.how, "uki": filled.how},
            }
        )

    def _activate(self, attempt: Attempt) -> Attempt:
        """Write the entry: the one small file that makes the boot loader try the release."""
        release, esp = attempt.release, self._slots.esp
        path = self._uki(attempt)
        if not (self._staged or self._is_staged(release, path)):
            return attempt.model_copy(update={"step": "named"})
        number = entries.sequence_of(attempt.entry)
        text = entries.entry_text(release.name, release.root_hash, number, path)
        if not self._is_active(attempt.entry, text):
            name = entries.counted(attempt.entry, self._tries)
            entries.write_file(esp, f"{entries.ENTRIES}/{name}", text)
        return attempt.model_copy(update={"step": "activated"})

    def _is_active(self, entry: str, text: bytes) -> bool:
        """Is the entry there? One that was counted down keeps its counter: it was tried.

        What a cut has left of one, under any counter, is removed.
        """
        esp = self._slots.esp
        found = [each for each in entries.read_boot_files(esp) if each.entry.id == entry]
        broken = [each.path for each in found if entries.find_text(esp, each.path) != text]
        entries.remove_entries(esp, broken)
        return len(broken) < len(found)

    # --- what they need ----------------------------------------------------------------------

    def _empty(self, layout: Layout) -> None:
        gpt.rename(self._slots.disk, layout.emptied)

    def _reusable(self, attempt: Attempt) -> bool:
        """Does the other slot hold the release, every byte of it?"""
        layout, release = self._slots.layout(), attempt.release
        if layout.other_hash != release.root_hash:
            return False
        recipe = _recipe(release)
        tree = layout.other_verity.on(self._slots.disk)
        data = layout.other_root.on(self._slots.disk)
        if data.size < recipe.size:
            return False
        try:
            if not verity.check_tree(recipe, tree, release.root_hash):
                return False
            return self._hash(recipe, data, _to_nobody) == release.root_hash
        except HostError:  # what cannot be read may be mended by writing it
            return False

    def _uki(self, attempt: Attempt) -> str:
        stays = attempt.reuse or attempt.same_root
        return self._slots.staged_uki(attempt.release, stays=stays)

    def _other_ukis(self, path: str) -> list[Seed]:
        """What is on the ESP besides: a kernel and an initrd seldom change with a release."""
        esp = self._slots.esp
        found = {each.uki for each in entries.read_boot_files(esp)} - {path, ""}
        sizes = {uki: esp.size(uki) for uki in sorted(found)}
        return [_UkiSeed(esp, uki, size) for uki, size in sizes.items() if size]

    def _is_staged(self, release: PublishedRelease, path: str) -> bool:
        esp, part = self._slots.esp, release.parts["uki"]
        if esp.size(path) != part.size:
            return False
        try:
            return _digest(esp, path, part.size) == part.digest
        except HostError:  # a cut can leave a name that leads nowhere
            return False

    def _hash(self, recipe: verity.Recipe, data: Part, emit: verity.Emit) -> str:
        done = 0

        def hear(count: int) -> None:
            nonlocal done
            done += count
            self._report("verified", done, recipe.size)

        return verity.hash_data(recipe, data, emit, hear=hear, stop=self._stop)

    @contextlib.contextmanager
    def _reporting(self, step: str, total: int) -> Iterator[Callable[[int, int], None]]:
        def hear(right: int, _downloaded: int) -> None:
            self._report(step, right, total)

        yield hear

    def _report(self, step: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(step, done, total)

    def _drop_follower(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def _check_stop(self) -> None:
        if self._stop is not None:
            self._stop.check()


def _recipe(release: PublishedRelease) -> verity.Recipe:
    root = release.parts["root"]
    return verity.Recipe.of_content(root.size, root.digest)


def _digest(esp: Esp, path: str, size: int) -> str:
    import hashlib

    hasher = hashlib.sha256()
    for at in range(0, size, _PIECE):
        hasher.update(esp.read(path, at, _PIECE))
    return hasher.hexdigest()


def _to_nobody(_offset: int, _data: bytes) -> None:
    """The tree is there already."""
