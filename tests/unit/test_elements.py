"""Which elements an image gets, and what is said when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dib import elements
from pipeline.errors import DefinitionError, HostError
from pipeline.models.image import ImageDefinition


def make(folder: Path, name: str, deps: str = "", provides: str = "", **files: str) -> Path:
    element = folder / name
    element.mkdir(parents=True)
    if deps:
        (element / "element-deps").write_text("\n".join(deps.split()) + "\n")
    if provides:
        (element / "element-provides").write_text("\n".join(provides.split()) + "\n")
    for file, text in files.items():
        (element / file).write_text(text)
    return element


@pytest.fixture
def path(tmp_path: Path) -> list[Path]:
    own, stock = tmp_path / "own", tmp_path / "stock"
    make(own, "nginx-site", deps="package-installs")
    make(own, "package-installs", files="the project's own")
    make(stock, "package-installs", files="the stock one")
    make(stock, "debian-minimal", deps="debootstrap", provides="operating-system")
    make(stock, "fedora-minimal", provides="operating-system")
    make(stock, "debootstrap")
    make(stock, "broken", deps="nginx-sites")
    return [own, stock]


def test_dependencies_are_found_and_a_project_overrides_the_stock(path: list[Path]) -> None:
    found = elements.expand(["debian-minimal", "nginx-site"], path)
    assert list(found) == ["debian-minimal", "debootstrap", "nginx-site", "package-installs"]
    assert found["package-installs"] == path[0] / "package-installs"


def test_an_unknown_element_names_what_is_near(path: list[Path]) -> None:
    with pytest.raises(DefinitionError, match="`ngninx-site` does not exist") as caught:
        elements.expand(["debian-minimal", "ngninx-site"], path)
    assert caught.value.hint == "Did you mean `nginx-site`?"


def test_an_unknown_dependency_names_who_wants_it(path: list[Path]) -> None:
    with pytest.raises(DefinitionError, match="`nginx-sites`, which `broken` depends on,"):
        elements.expand(["debian-minimal", "broken"], path)


def test_an_element_unlike_any_other_says_where_one_is_made(path: list[Path]) -> None:
    with pytest.raises(DefinitionError) as caught:
        elements.expand(["debian-minimal", "zzz"], path)
    assert "images/elements/zzz/" in caught.value.hint


def test_two_operating_systems_are_named(path: list[Path]) -> None:
    with pytest.raises(DefinitionError) as caught:
        elements.expand(["debian-minimal", "fedora-minimal"], path)
    assert "`debian-minimal` and `fedora-minimal` both provide `operating-system`" in str(
        caught.value
    )


def test_an_element_that_another_provides_is_named(path: list[Path]) -> None:
    make(path[0], "my-bootstrap", provides="debootstrap")
    with pytest.raises(DefinitionError, match="`debootstrap` is provided by `my-bootstrap`"):
        elements.expand(["fedora-minimal", "my-bootstrap", "debootstrap"], path)


def test_without_an_operating_system_the_known_ones_are_named(path: list[Path]) -> None:
    with pytest.raises(DefinitionError, match="brings an operating system") as caught:
        elements.expand(["nginx-site"], path)
    assert "debian-minimal, fedora-minimal" in caught.value.hint


def test_nothing_is_logged_to_the_terminal(
    path: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """diskimage-builder warns of each override, which is what images/elements is there for."""
    elements.expand(["debian-minimal", "nginx-site"], path)
    with pytest.raises(DefinitionError):
        elements.expand(["debian-minimal", "operating-system"], path)
    assert capfd.readouterr() == ("", "")


def test_stock_elements_are_found_beside_the_projects_own(tmp_path: Path) -> None:
    make(tmp_path / "images" / "elements", "nginx-site", deps="package-installs")
    path = elements.elements_path(tmp_path)
    assert path[0] == tmp_path / "images" / "elements"
    found = elements.expand(["debian-minimal", "recast-base", "nginx-site"], path)
    assert {"debian-minimal", "recast-base", "nginx-site", "package-installs"} <= found.keys()


def test_a_project_without_elements_of_its_own_is_fine(tmp_path: Path) -> None:
    assert all(place.is_dir() for place in elements.elements_path(tmp_path))


def test_a_colon_in_a_path_is_refused_before_it_splits_one(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="colon"):
        elements.elements_path(tmp_path / "a:b")


def test_a_base_gets_its_distribution_and_a_child_its_parents_tree() -> None:
    base = ImageDefinition(
        name="base", distribution="debian", release="trixie", elements=("sysctl", "recast-base")
    )
    child = ImageDefinition(name="child", from_="base", elements=("sysctl", "nginx-site"))
    assert elements.effective_elements(base, False) == ["debian-minimal", "recast-base", "sysctl"]
    assert elements.effective_elements(child, True, {"sysctl"}) == [
        "recast-parent",
        "recast-base",
        "nginx-site",
    ]


# --- digests -----------------------------------------------------------------------------------


def test_a_digest_is_of_contents_wherever_they_lie(tmp_path: Path) -> None:
    one = make(tmp_path / "a", "x", text="hello")
    two = make(tmp_path / "b", "x", text="hello")
    assert elements.digests({"x": one}) == elements.digests({"x": two})
    (two / "text").chmod(0o755)
    assert elements.digests({"x": one}) != elements.digests({"x": two})


def test_a_change_is_seen_through_the_memo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.dib.memo._SETTLED", -60.0)
    element = make(tmp_path, "x", text="hello")
    memo = tmp_path / "memo.json"
    first = elements.digests({"x": element}, memo)
    assert elements.digests({"x": element}, memo) == first
    (element / "text").write_text("jello")
    second = elements.digests({"x": element}, memo)
    assert second != first
    assert second == elements.digests({"x": element})


def test_an_unchanged_element_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dib.memo._SETTLED", -60.0)
    element = make(tmp_path, "x", text="hello")
    memo = tmp_path / "memo.json"
    first = elements.digests({"x": element}, memo)
    monkeypatch.setattr("pipeline.digest.of_folder", lambda _folder: pytest.fail("read again"))
    assert elements.digests({"x": element}, memo) == first


def test_what_was_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    """It may be written again within the resolution of its time stamp."""
    element = make(tmp_path, "x", text="hello")
    memo = tmp_path / "memo.json"
    elements.digests({"x": element}, memo)
    assert not memo.exists()


def test_a_damaged_memo_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.dib.memo._SETTLED", -60.0)
    element = make(tmp_path, "x", text="hello")
    memo = tmp_path / "memo.json"
    memo.write_text('{"entries": {"x"')
    assert elements.digests({"x": element}, memo) == elements.digests({"x": element})
    assert elements.digests({"x": element}, memo) == elements.digests({"x": element})


def test_the_builder_counts_with_its_version_and_its_scripts() -> None:
    from importlib.metadata import version

    found, scripts = elements.builder().split(" ")
    assert found == version("diskimage-builder")
    assert len(scripts) == 64


def test_defaults_are_read_from_an_elements_environment(tmp_path: Path) -> None:
    element = make(tmp_path, "x-minimal")
    (element / "environment.d").mkdir()
    (element / "environment.d" / "10-x.bash").write_text(
        "export DIB_A=${DIB_A:-https://mirror.example/debian}\n"
        "if other; then\n    fallback=https://mirror.example/ports\n"
        "else\n    fallback=https://mirror.example/ubuntu\nfi\n"
        "export DIB_B=${DIB_B:-$fallback}\nexport DIB_C=${DIB_C:-}\n"
    )
    assert elements.default_of("x-minimal", "DIB_A", [tmp_path]) == "https://mirror.example/debian"
    assert elements.default_of("x-minimal", "DIB_B", [tmp_path]) == "https://mirror.example/ubuntu"
    assert elements.default_of("x-minimal", "DIB_C", [tmp_path]) is None
    assert elements.default_of("x-minimal", "DIB_D", [tmp_path]) is None
    assert elements.default_of("y-minimal", "DIB_A", [tmp_path]) is None
