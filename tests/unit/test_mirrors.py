"""Where packages are taken from, and which of a machine's sources may say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.dib.mirrors import Mirrors, components, mirrors
from pipeline.models.settings import Settings

DEFAULTS = """\
export DIB_DISTRIBUTION_MIRROR=${DIB_DISTRIBUTION_MIRROR:-http://default.example/debian}
DIB_DEBIAN_SECURITY_MIRROR=${DIB_DEBIAN_SECURITY_MIRROR:-http://security.example/}
"""


@pytest.fixture
def stock(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "stock" / "debian-minimal" / "environment.d"
    folder.mkdir(parents=True)
    (folder / "10-debian-minimal.bash").write_text(DEFAULTS)
    return [tmp_path / "stock"]


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    return tmp_path / "apt"


def found(
    apt: Path,
    stock: list[Path],
    settings: Settings | None = None,
    variables: Mapping[str, str] | None = None,
) -> Mirrors:
    return mirrors("debian", settings, environment=variables or {}, apt=apt, elements=stock)


def test_the_stock_default_is_used_for_looks_and_left_alone_for_builds(
    apt: Path, stock: list[Path]
) -> None:
    answer = found(apt, stock)
    assert (answer.main, answer.security) == (
        "http://default.example/debian",
        "http://security.example",
    )
    assert answer.environment() == {}


def test_the_hosts_own_archive_comes_before_the_default(apt: Path, stock: list[Path]) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(
        "# comment\nTypes: deb deb-src\nURIs: https://mirror.example/debian/\n"
        "Suites: bookworm bookworm-updates\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        "Types: deb\nURIs: https://mirror.example/debian-security\n"
        "Suites:\n bookworm-security\nComponents: main\n"
    )
    answer = found(apt, stock)
    assert answer.environment() == {
        "DIB_DISTRIBUTION_MIRROR": "https://mirror.example/debian",
        "DIB_DEBIAN_SECURITY_MIRROR": "https://mirror.example/debian-security",
    }


def test_one_line_sources_are_read_too(apt: Path, stock: list[Path]) -> None:
    (apt / "sources.list").write_text(
        "# deb http://old.example/debian trixie main\n"
        "deb cdrom:[Debian]/ trixie main\n"
        "deb-src http://source.example/debian trixie main\n"
        "deb [arch=amd64] http://mirror.example/pub/debian trixie main contrib # ours\n"
        "deb http://mirror.example/pub/debian-security trixie-security main\n"
    )
    answer = found(apt, stock)
    assert answer.main == "http://mirror.example/pub/debian"
    assert answer.security == "http://mirror.example/pub/debian-security"


@pytest.mark.parametrize(
    "line",
    [
        "deb https://vendor.example/linux/debian trixie stable",
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://vendor.example/debian trixie main",
        "deb https://vendor.example/debian-tools trixie main",
        "deb file:/srv/debian trixie main",
    ],
)
def test_archives_that_only_look_like_debians_are_passed_over(
    apt: Path, stock: list[Path], line: str
) -> None:
    (apt / "sources.list.d" / "vendor.list").write_text(line + "\n")
    assert found(apt, stock).defaults == {"main", "security"}


def test_an_archive_with_updates_is_preferred(apt: Path, stock: list[Path]) -> None:
    (apt / "sources.list").write_text(
        "deb https://vendor.example/debian trixie main\n"
        "deb https://mirror.example/debian trixie main\n"
        "deb https://mirror.example/debian trixie-updates main\n"
    )
    assert found(apt, stock).main == "https://mirror.example/debian"


def test_a_disabled_source_does_not_count(apt: Path, stock: list[Path]) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(
        "Enabled: no\nTypes: deb\nURIs: https://mirror.example/debian\nSuites: trixie\n"
        "Components: main\n"
    )
    assert "main" in found(apt, stock).defaults


def test_a_list_of_mirrors_gives_its_first(apt: Path, stock: list[Path], tmp_path: Path) -> None:
    (tmp_path / "debian.list").write_text("https://mirror.example/debian\nhttps://b.example/d\n")
    (apt / "sources.list").write_text(f"deb mirror+file:{tmp_path}/debian.list trixie main\n")
    assert found(apt, stock).main == "https://mirror.example/debian"


def test_settings_come_before_variables_and_a_definitions_own_before_both(
    apt: Path, stock: list[Path]
) -> None:
    variables = {"DIB_DISTRIBUTION_MIRROR": "http://variable.example/debian"}
    settings = Settings(mirror={"debian": "http://settings.example/debian/"})
    own = {"DIB_DISTRIBUTION_MIRROR": "http://own.example/debian"}
    assert found(apt, stock, None, variables).main == "http://variable.example/debian"
    assert found(apt, stock, settings, variables).main == "http://settings.example/debian"
    answer = mirrors("debian", settings, own=own, environment=variables, apt=apt, elements=stock)
    assert answer.main == "http://own.example/debian"


def test_the_archive_and_its_security_updates_are_chosen_apart(
    apt: Path, stock: list[Path]
) -> None:
    settings = Settings(mirror={"debian-security": "http://settings.example/s"})
    assert found(apt, stock, settings).environment() == {
        "DIB_DEBIAN_SECURITY_MIRROR": "http://settings.example/s"
    }


def test_a_release_has_three_suites_and_a_rolling_one_has_one() -> None:
    answer = Mirrors("debian", "http://mirror.example/d", "http://mirror.example/s")
    assert answer.sources("trixie", ("main", "contrib")) == [
        "deb http://mirror.example/d trixie main contrib",
        "deb http://mirror.example/d trixie-updates main contrib",
        "deb http://mirror.example/s trixie-security main contrib",
    ]
    assert answer.sources("sid", ("main",)) == ["deb http://mirror.example/d sid main"]


def test_other_families_have_no_archive_to_ask(apt: Path, stock: list[Path]) -> None:
    answer = mirrors("fedora", environment={}, apt=apt, elements=stock)
    assert answer.environment() == {}
    assert answer.sources("42", ("main",)) == []


def test_the_stock_elements_do_name_defaults(tmp_path: Path) -> None:
    """Should diskimage-builder word them otherwise one day, this says so."""
    for distribution in ("debian", "ubuntu"):
        answer = mirrors(distribution, environment={}, apt=tmp_path)
        assert answer.main.startswith("http")
        assert answer.security.startswith("http")


def test_components_are_the_definitions_or_the_distributions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DIB_DEBIAN_COMPONENTS", raising=False)
    assert components("debian", {}) == ("main",)
    assert components("ubuntu", {}) == ("main", "universe")
    assert components("debian", {"DIB_DEBIAN_COMPONENTS": "main,contrib"}) == ("main", "contrib")
