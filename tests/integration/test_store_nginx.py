"""If these fail, a site cannot read a store that an ordinary web server serves as plain files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.base import Reader, Store
from pipeline.store.http import HttpStore
from pipeline.store.local import LocalStore
from tests.contract.store_suite import ReaderContract
from tests.fakes.bad_server import Wire
from tests.fakes.nginx import nginx


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder in which each test has one of its own, and its URL."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "stores").mkdir()
    with nginx(folder / "stores", folder / "work") as url:
        yield folder / "stores", url


class TestHttpStoreBehindNginx(ReaderContract):
    @pytest.fixture
    def store(self, served: tuple[Path, str], tmp_path: Path) -> Store:
        return LocalStore(served[0] / tmp_path.name)

    @pytest.fixture
    def reader(self, served: tuple[Path, str], tmp_path: Path) -> Iterator[Reader]:
        with HttpStore(f"{served[1]}/{tmp_path.name}") as reader:
            yield reader

    def test_an_idle_check_costs_less_than_one_kib(
        self, store: Store, served: tuple[Path, str], tmp_path: Path
    ) -> None:
        store.replace("metadata/timestamp.json", bytes(900), etag="")
        with Wire(served[1]) as wire, HttpStore(f"{wire.url}/{tmp_path.name}") as reader:
            first = reader.get_changed("metadata/timestamp.json", "", limit=5000)
            assert first is not None
            before = wire.total
            assert reader.get_changed("metadata/timestamp.json", first[1], limit=5000) is None
            assert 100 < wire.total - before < 1024

    def test_what_is_a_folders_own_is_not_served(
        self, store: Store, served: tuple[Path, str], tmp_path: Path
    ) -> None:
        import requests

        store.create("a", b"x")
        folder = served[0] / tmp_path.name
        (folder / ".tmp" / "secret").write_text("x")
        (folder / "link").symlink_to("/etc/passwd")
        url = f"{served[1]}/{tmp_path.name}"
        assert requests.get(f"{url}/a", timeout=60).status_code == 200
        assert requests.get(f"{url}/.tmp/secret", timeout=60).status_code == 404
        assert requests.get(f"{url}/link", timeout=60).status_code == 403
