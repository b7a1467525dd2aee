"""What is known of past builds: ``artifacts/images/<image>/records.json``, one entry per build key.

A record says what a build was made of, so that the next plan can say what is different, and in
which words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue, ValidationError

from pipeline import digest
from pipeline.errors import HostError
from pipeline.files import locked, write_atomically
from pipeline.models.fields import Moment, Record

_KEPT = 20  # builds of one image; a revert to an older one builds again


class Components(Record):
    """All that the result of a build depends on; equal components give equal bytes.

    Attributes:
        definition: what the image's own file says that matters to its bytes, field by field.
        files: the digest of each file that the definition takes from the image's folder.
        elements: the digest of each element that takes part.
        agent: the digest of the agent in it: sources, libraries, Python; empty without one.
        builder: diskimage-builder's version, and the digest of its scripts.
        parent: the parent's build key; its definition is in there.
        archive: the newest version that the archive is known to offer of each package that the
            last build added to its parent's.
        index: digest over the archive's indexes, as long as there is no last build.
        format: how trees become disks, see :data:`pipeline.disk.FORMAT`.
    """

    definition: Mapping[str, JsonValue]
    files: Mapping[str, str] = {}
    elements: Mapping[str, str] = {}
    agent: str = ""
    builder: str = ""
    parent: str | None = None
    archive: Mapping[str, str] = {}
    index: str = ""
    format: int = 1

    @property
    def key(self) -> str:
        """The build key: hexadecimal SHA-256."""
        return digest.of_data(self.model_dump(mode="json"))


class BuildRecord(Record):
    """One build of one image.

    Attributes:
        build_key: the key of its components.
        tree: the name of its tree's folder in ``artifacts/cache/trees``: the key that it was
            planned by, before the packages were known.
        built: when the tree was done.
        version: its release's; empty until it is assembled.
        root_hash: the same.
        run: the id of the run that built it.
        started: when that began.
    """

    image: str
    build_key: str
    components: Components
    tree: str
    built: Moment
    version: str = ""
    root_hash: str = ""
    run: str = ""
    started: Moment | None = None


class _File(Record):
    format: int = 1
    records: tuple[BuildRecord, ...] = ()


class Records:
    """The records of all images. Safe for several processes at once.

    Args:
        artifacts: the store's folder.
    """

    def __init__(self, artifacts: Path) -> None:
        self._images = artifacts / "images"

    def of(self, image: str) -> tuple[BuildRecord, ...]:
        """The image's builds, the newest first.

        Raises:
            HostError: the file is damaged.
        """
        path = self._path(image)
        try:
            return tuple(reversed(_File.model_validate_json(path.read_bytes()).records))
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as error:
            raise HostError(
                f"the records of past builds cannot be read: {path}",
                hint="Remove that file: the image is then built again, and its releases stay.",
            ) from error

    def latest(self, image: str) -> BuildRecord | None:
        """The image's newest build.

        Raises:
            HostError: the file is damaged.
        """
        return next(iter(self.of(image)), None)

    def find(self, image: str, build_key: str) -> BuildRecord | None:
        """The build with that key.

        Raises:
            HostError: the file is damaged.
        """
        return next((each for each in self.of(image) if each.build_key == build_key), None)

    def add(self, record: BuildRecord) -> None:
        """Make *record* the newest of its image; it takes the place of one with the same key.

        Raises:
            HostError: the file is damaged.
            DiskFullError: no space is left.
        """
        path = self._path(record.image)
        with locked(path.with_name(".records.lock"), what=f"the records of {record.image}"):
            others = [e for e in self.of(record.image) if e.build_key != record.build_key]
            kept = [record, *others][:_KEPT]
            write_atomically(path, _File(records=tuple(reversed(kept))).model_dump_json() + "\n")

    def _path(self, image: str) -> Path:
        return self._images / image / "records.json"
