"""What a person is told of files under ``images/`` that are not right, and what right ones mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.definitions import find_project, load_catalog, load_settings
from pipeline.errors import DefinitionError, UsageError
from pipeline.models.settings import Settings

GOLDEN = Path(__file__).parent.parent / "golden" / "definitions"
MIB = 1 << 20
BASE = "name: base\ndistribution: debian\nrelease: trixie\n"


def image(project: Path, name: str, text: str, *, tests: bool = True) -> Path:
    folder = project / "images" / name
    folder.mkdir(parents=True)
    (folder / "image.yaml").write_text(text)
    if tests:
        (folder / "tests").mkdir()
        (folder / "tests" / "test_it.py").write_text("")
    return folder


def told(project: Path) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        load_catalog(project / "images")
    assert caught.value.hint
    return caught.value.message.splitlines()


def told_of(project: Path, line: str) -> list[str]:
    """What is said of a definition whose fourth line is *line*, without the place before it."""
    image(project, "base", BASE + line + "\n")
    place = "images/base/image.yaml:4: "
    return [each.removeprefix(place) for each in told(project)]


# --- what is right


def test_the_sample_means_what_it_says() -> None:
    catalog = load_catalog(GOLDEN / "sample" / "images")
    assert catalog.order() == ["edge-base", "edge-web"]
    base = catalog["edge-base"]
    assert (base.distribution, base.release, base.from_) == ("debian", "trixie", None)
    assert base.budget.root == 1024 * MIB
    assert base.files[1].source == "files/uplink.network"
    assert base.files[1].permissions == 0o644
    assert base.tests.boot_deadline == 240
    web = catalog["edge-web"]
    assert (web.distribution, web.from_, web.outputs) == (None, "edge-base", ("qcow2",))
    assert catalog.folders["edge-web"] == GOLDEN / "sample" / "images" / "edge-web"


def test_a_child_inherits_what_a_machine_needs_and_no_more() -> None:
    web = load_catalog(GOLDEN / "sample" / "images").resolved("edge-web")
    assert (web.distribution, web.release, web.from_) == ("debian", "trixie", "edge-base")
    assert web.packages == ("python3", "systemd-timesyncd", "nginx-light")
    assert web.elements == ("openssh-server", "site")
    assert web.environment == {"DIB_APT_MINIMAL_CREATE_INTERFACES": "0"}
    assert web.kernel_arguments == ("console=ttyS0", "console=tty0"), "the child's word is last"
    assert web.persist == ("/var/lib/site", "/var/log/journal", "/var/lib/nginx")
    assert [(check.name, check.command[0]) for check in web.health] == [
        ("network-online", "true"),
        ("web-answers", "curl"),
    ]
    assert web.files == (), "a parent's files are in its tree already"
    assert web.budget.root == 1536 * MIB, "a budget is an image's own"
    assert web.tests.boot_deadline == 300


def test_settings_of_the_sample() -> None:
    settings = load_settings(GOLDEN / "sample" / "images")
    assert settings.archive_max_age == 12 * 3600
    assert settings.jobs == 2
    assert settings.mirror["debian-security"] == "copy:/srv/mirror/debian-security"


@pytest.mark.parametrize("text", [None, "", "# all defaults\n", "---\n", "\ufeff# marked\n"])
def test_settings_are_optional(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "settings.yaml").write_text(text)
    assert load_settings(tmp_path) == Settings()


def test_anchors_are_plain_yaml(tmp_path: Path) -> None:
    text = "name: base\ndistribution: &d debian\nrelease: *d\n"
    image(tmp_path, "base", text)
    assert load_catalog(tmp_path / "images")["base"].release == "debian"


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    image(tmp_path, "base", BASE)
    for name in ("elements", ".git", "__pycache__"):
        (tmp_path / "images" / name).mkdir()
    (tmp_path / "images" / "channels.yaml").write_text("- anything\n")
    assert load_catalog(tmp_path / "images").order() == ["base"]


def test_the_project_is_the_nearest_folder_with_images(tmp_path: Path) -> None:
    deep = tmp_path / "site" / "images" / "base" / "tests"
    deep.mkdir(parents=True)
    assert find_project(deep) == tmp_path / "site"
    (tmp_path / "images").mkdir()
    assert find_project(tmp_path / "site") == tmp_path / "site"
    assert find_project(tmp_path) == tmp_path


def test_without_a_project_the_error_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder `images/` in") as caught:
        find_project(tmp_path)
    assert "RECAST_PROJECT" in caught.value.hint


# --- everything at once


def test_all_problems_of_all_files_are_told_at_once() -> None:
    expected = (GOLDEN / "everything-wrong" / "expected.txt").read_text()
    assert "\n".join(told(GOLDEN / "everything-wrong")) + "\n" == expected


def test_labels_do_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path, "base", "name: 3\n" + BASE.partition("\n")[2])
    monkeypatch.chdir(tmp_path / "images" / "base")
    expected = (
        'images/base/image.yaml:1: name: expected text, got 3 (a number); put it in quotes: "3"'
    )
    assert told(tmp_path) == [expected]


# --- one wrong thing at a time

WRONG = {
    "persist: [var/log]": 'persist[0]: expected an absolute path, got "var/log"',
    "persist: [/etc]": 'persist[0]: "/etc" as a whole cannot persist; name what is needed below it',
    "persist: [/]": 'persist[0]: "/" as a whole cannot persist; name what is needed below it',
    "persist: [/run/x]": (
        'persist[0]: "/run/x" cannot persist: /run belongs to the release or the system'
    ),
    "persist: [/data]": (
        'persist[0]: "/data" cannot persist: /data belongs to the release or the system'
    ),
    "persist: [/srv/../usr]": (
        'persist[0]: expected "/usr", the same path in its plainest form, got "/srv/../usr"'
    ),
    "persist: [/srv/]": (
        'persist[0]: expected "/srv", the same path in its plainest form, got "/srv/"'
    ),
    'persist: ["/srv/a b"]': (
        'persist[0]: expected a path of letters, digits and any of . _ @ + = - /, got "/srv/a b"'
    ),
    "persist: [/srv/a, /srv/a/b]": 'persist[1]: "/srv/a/b" lies in "/srv/a", also in the list',
    "persist: [/srv/a, /srv/b, /srv/a]": ('persist[2]: "/srv/a" is in the list already, at [0]'),
    "packages: [a, a]": 'packages[1]: "a" is in the list already, at [0]',
    "packages: nginx": 'packages: expected a list, got "nginx" (text); write [nginx]',
    "packages:": "packages: expected a list, got nothing; leave the key out, or write []",
    "packages: [nginx-]": (
        'packages[0]: expected the name of a package, without version or architecture, got "nginx-"'
    ),
    "packages: [--force]": (
        "packages[0]: expected the name of a package, without version or architecture, "
        'got "--force"'
    ),
    "packages: [2024-01-31]": (
        'packages[0]: expected text, got 2024-01-31 (a date); put it in quotes: "2024-01-31"'
    ),
    "elements: [../x]": (
        'elements[0]: expected the name of an element, such as openssh-server, got "../x"'
    ),
    "environment: {DIB_X: off}": (
        'environment.DIB_X: expected text, got off (a yes/no value); put it in quotes: "off"'
    ),
    "environment: {LD_PRELOAD: x}": (
        "environment.LD_PRELOAD: expected a variable that starts with DIB_ (or BASE_IMAGE_FILE, "
        "GENTOO_OVERLAYS, GENTOO_PROFILE, GENTOO_PYTHON_TARGETS)"
    ),
    "environment: {DIB_RELEASE: sid}": (
        "environment.DIB_RELEASE: Recast itself sets this variable"
    ),
    "kernel_arguments: [roothash=12]": (
        'kernel_arguments[0]: "roothash=12" cannot be given: Recast itself sets `roothash`'
    ),
    "kernel_arguments: [systemd.volatile=no]": (
        'kernel_arguments[0]: "systemd.volatile=no" cannot be given: '
        "Recast itself sets `systemd.volatile`"
    ),
    "kernel_arguments: [rw]": (
        'kernel_arguments[0]: "rw" cannot be given: Recast itself sets `rw`'
    ),
    "kernel_arguments: ['quiet splash']": (
        "kernel_arguments[0]: expected one kernel argument without spaces, quotes or "
        'backslashes, got "quiet splash"'
    ),
    "kernel_arguments: [--]": 'kernel_arguments[0]: expected a kernel argument, got "--"',
    "files: [{path: /etc/x, content: a, source: image.yaml}]": (
        "files[0]: expected either `content` or `source`, got both"
    ),
    "files: [{path: /etc/x, content: a}, {path: /etc/x/y, content: a}]": (
        'files[1]: "/etc/x/y" lies below the file "/etc/x"'
    ),
    "files: [{path: /run/x, content: a}]": (
        'files[0]: "/run/x": a file there is not part of the root'
    ),
    "files: [{path: /etc/x, content: a, mode: 0755}]": (
        'files[0].mode: expected text, got 0755 (a number); put it in quotes: "0755"'
    ),
    "files: [{path: /etc/x, content: a, mode: '0999'}]": (
        'files[0].mode: expected an octal mode in quotes, such as "0644", got "0999"'
    ),
    "files: [{path: /etc/x, source: /etc/passwd}]": (
        'files[0].source: expected a path inside the image\'s folder, got "/etc/passwd"'
    ),
    "files: [{path: /etc/x, source: tests}]": (
        "files[0].source: expected a file, images/base/tests is a folder"
    ),
    "files: [{path: /etc/x, source: gone}]": ("files[0].source: there is no file images/base/gone"),
    "health: [{name: a, command: [x]}, {name: a, command: [y]}]": (
        'health[1]: "a" is in the list already, at [0]'
    ),
    "health: [{name: a, command: []}]": ("health[0].command: expected a program and its arguments"),
    "health: [{name: a}]": "health[0].command: missing; it must be given",
    "tests: {boot_deadline: true}": (
        "tests.boot_deadline: expected a whole number, got true (a yes/no value)"
    ),
    "tests: {boot_deadline: 0}": "tests.boot_deadline: expected at least 1, got 0",
    "tests: {boot_deadline: 9999}": "tests.boot_deadline: expected at most 7200, got 9999",
    "tests: {providers: []}": "tests.providers: expected at least one entry, got none",
    "tests: {providers: [quemu]}": (
        'tests.providers[0]: there is no provider "quemu"; did you mean `qemu`?'
    ),
    "tests: {path: none}": "tests.path: there is no folder images/base/none",
    "tests: tests": 'tests: expected a mapping (`key: value`), got "tests" (text)',
    "budget: {root: 1.5 pounds}": ('budget.root: expected a size such as 512MiB, got "1.5 pounds"'),
    "budget: {root: 0}": "budget.root: expected a size above zero, got 0",
    "budget: {esp: 271MiB}": (
        "budget.esp: expected at least 272 MiB (two UKIs of 128 MiB and 16.0 MiB besides), "
        "got 271 MiB"
    ),
    "budget: {uki: 300MiB}": (
        "budget.esp: expected at least 616 MiB (two UKIs of 300 MiB and 16.0 MiB besides), "
        "got 512 MiB"
    ),
    "outputs: [vmdk]": 'outputs[0]: expected `qcow2`, got "vmdk"',
    "arch: arm64": 'arch: expected `amd64`, got "arm64"',
    "from_: x": "from_: unknown key; did you mean `from`?",
    "pakages: []": "pakages: unknown key; did you mean `packages`?",
    "parent: x": "parent: unknown key; did you mean `from`?",
    "boot_deadline: 3": "boot_deadline: unknown key here; it belongs under `tests`",
    "budget: {roots: 1GiB}": "budget.roots: unknown key; did you mean `root`?",
    "version: 1.2": (
        "version: unknown key; the version comes from the commit and is never written down"
    ),
    "release: sid": "release: this key is given already, on line 3",
    "1: x": "expected a key that is text, got `1`; put it in quotes",
    "<<: {arch: amd64}": "merge keys (`<<`) are not taken here; write the keys out",
    "description: !!python/object/apply:os.system [id]": (
        "description: the tag `!!python/object/apply:os.system` is not allowed: only plain "
        "values are"
    ),
    "description: !vault x": "description: the tag `!vault` is not allowed: only plain values are",
    "description: !!int x": ("description: `x` cannot be read as a number; put it in quotes"),
}


@pytest.mark.parametrize("line", WRONG)
def test_one_wrong_thing_is_one_exact_sentence(tmp_path: Path, line: str) -> None:
    assert told_of(tmp_path, line) == [WRONG[line]]


def test_a_long_command_line_is_refused(tmp_path: Path) -> None:
    arguments = ", ".join(f"example.argument={index:03}" for index in range(80))
    assert told_of(tmp_path, f"kernel_arguments: [{arguments}]") == [
        "kernel_arguments: expected at most 1536 characters in all, got 1679"
    ]


FOUNDATIONS = {
    "": "1: expected `distribution` and `release`, or `from` with a parent image",
    "distribution: debian": "1: release: missing; `distribution` needs it",
    "from: other\nrelease: sid": "3: release: not together with `from`: the parent decides it",
    "distribution: Debian\nrelease: sid": (
        "2: distribution: expected a distribution's name in small letters, such as debian, "
        'got "Debian"'
    ),
}


@pytest.mark.parametrize("text", FOUNDATIONS)
def test_an_image_stands_on_a_distribution_or_a_parent(tmp_path: Path, text: str) -> None:
    image(tmp_path, "other", BASE.replace("base", "other"))
    image(tmp_path, "it", "name: it\n" + text)
    assert told(tmp_path) == ["images/it/image.yaml:" + FOUNDATIONS[text]]


# --- between files


def test_an_unknown_parent_and_a_near_one(tmp_path: Path) -> None:
    image(tmp_path, "base", BASE)
    image(tmp_path, "far", "name: far\nfrom: zzz\n")
    image(tmp_path, "near", "name: near\nfrom: bse\n")
    assert told(tmp_path) == [
        'images/far/image.yaml:2: from: there is no image "zzz"; other images: `base`, `near`',
        'images/near/image.yaml:2: from: there is no image "bse"; did you mean `base`?',
    ]


def test_a_cycle_is_named_once_and_its_children_are_not_blamed(tmp_path: Path) -> None:
    for name, parent in {"a": "c", "b": "a", "c": "b", "child": "a", "self": "self"}.items():
        image(tmp_path, name, f"name: {name}\nfrom: {parent}\n")
    assert told(tmp_path) == [
        "images/a/image.yaml:2: from: a cycle of parents: a → c → b → a",
        "images/self/image.yaml:2: from: a cycle of parents: self → self",
    ]


def test_a_parent_that_is_wrong_is_not_an_unknown_parent(tmp_path: Path) -> None:
    image(tmp_path, "base", BASE + "x: 1\n")
    image(tmp_path, "child", "name: child\nfrom: base\n")
    assert [line.partition(":")[0] for line in told(tmp_path)] == ["images/base/image.yaml"]


def test_persisting_paths_may_not_overlap_an_ancestors(tmp_path: Path) -> None:
    image(tmp_path, "base", BASE + "persist: [/srv/a, /srv/same]\n")
    image(tmp_path, "mid", "name: mid\nfrom: base\n")
    image(tmp_path, "leaf", "name: leaf\nfrom: mid\npersist: [/srv/a/b, /srv/same]\n")
    assert told(tmp_path) == [
        'images/leaf/image.yaml:3: persist[0]: "/srv/a/b" overlaps "/srv/a", which base persists'
    ]


def test_the_name_is_the_folders(tmp_path: Path) -> None:
    image(tmp_path, "other", BASE)
    assert told(tmp_path) == [
        'images/other/image.yaml:1: name: expected "other", the name of its folder, got "base"'
    ]


def test_a_folder_with_an_impossible_name(tmp_path: Path) -> None:
    image(tmp_path, "Edge", BASE.replace("base", "Edge"))
    assert told(tmp_path) == [
        "images/Edge/image.yaml:1: name: expected a name of small letters, digits and dashes "
        'that starts with a letter and has at most 63 characters, got "Edge"'
    ]


def test_tests_must_be_there(tmp_path: Path) -> None:
    image(tmp_path, "base", BASE, tests=False)
    empty = image(tmp_path, "empty", BASE.replace("base", "empty"), tests=False)
    (empty / "tests").mkdir()
    assert told(tmp_path) == [
        "images/base/image.yaml:1: tests.path: there is no folder images/base/tests",
        "images/empty/image.yaml:1: tests.path: there is no test (test_*.py) in images/empty/tests",
    ]


def test_nothing_leads_out_of_an_images_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("")
    (secret / "test_x.py").write_text("")
    folder = image(tmp_path, "base", BASE + "files: [{path: /etc/k, source: key}]\n", tests=False)
    (folder / "key").symlink_to(secret / "key")
    (folder / "tests").symlink_to(secret)
    place = "images/base/image.yaml"
    assert told(tmp_path) == [
        f"{place}:1: tests.path: images/base/tests leads out of the image's folder",
        f"{place}:4: files[0].source: images/base/key leads out of the image's folder",
    ]


# --- files and folders


def test_a_folder_without_a_definition(tmp_path: Path) -> None:
    image(tmp_path, "base", BASE)
    for name in ("stray", "short", "site"):
        (tmp_path / "images" / name).mkdir()
    (tmp_path / "images" / "short" / "image.yml").write_text(BASE)
    (tmp_path / "images" / "site" / "install.d").mkdir()
    assert told(tmp_path) == [
        "images/short: there is no image.yaml in this folder; rename image.yml",
        "images/site: there is no image.yaml in this folder; an element belongs in elements/",
        "images/stray: there is no image.yaml in this folder; write one, or remove the folder",
    ]


def test_elements_is_no_image(tmp_path: Path) -> None:
    image(tmp_path, "elements", BASE)
    assert told(tmp_path) == [
        "images/elements/image.yaml:1: `elements` is the folder for elements; an image needs "
        "another name"
    ]


def test_no_images_at_all(tmp_path: Path) -> None:
    (tmp_path / "images" / "elements").mkdir(parents=True)
    assert told(tmp_path) == [f"there is no image in {tmp_path}/images"]
    assert told(tmp_path / "nowhere") == [
        f"{tmp_path}/nowhere/images cannot be read: No such file or directory"
    ]


def test_a_definition_that_is_no_file_does_not_hang(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "pipe"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "image.yaml")
    assert told(tmp_path) == ["images/pipe/image.yaml: expected a file"]
