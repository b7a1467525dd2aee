"""If these fail, images get an agent that cannot start, or too much, or are built in vain."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pipeline.command import Stop
from pipeline.dib import agent
from pipeline.dib.create import TreeRequest, create_tree
from pipeline.engine import look, reasons
from pipeline.engine.records import Components
from pipeline.errors import BuildError, DefinitionError, HostError
from pipeline.models.image import ImageDefinition
from tests.fakes.looks import catalog

ROOT = Path(__file__).parents[2]
BASE = ImageDefinition(name="edge-base", distribution="debian", release="trixie")


def write(package: Path, **files: str) -> Path:
    """A package ``pipeline`` of these files, ``__`` in a name being a slash."""
    for name in ("", "agent", "models", "cli"):
        (package / name).mkdir(parents=True, exist_ok=True)
        (package / name / "__init__.py").touch()
    (package / "agent" / "requirements.lock").write_text("one==1\n")
    for name, text in files.items():
        (package / (name.replace("__", "/") + ".py")).write_text(text)
    return package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write(
        tmp_path / "pipeline",
        agent__main="from typing import TYPE_CHECKING\n"
        "import pipeline.clock\n"
        "if TYPE_CHECKING:\n    from pipeline import cli\n    import pipeline.only_typed\n"
        "else:\n    import pipeline.otherwise\n"
        "def main():\n    from pipeline import digest\n    from .beside import x\n",
        agent__beside="from ..models import site as other\nfrom pipeline.models.site import Site\n",
        agent__unused="",
        models__site="import json, requests\n",
        models__image="",
        cli__main="",
        clock="",
        digest="from pipeline.files import *\n",
        files="",
        only_typed="",
        otherwise="",
    )


def test_it_takes_what_the_agent_imports_and_no_more(package: Path) -> None:
    assert list(agent.sources(package)) == [
        "pipeline/__init__.py",
        "pipeline/agent/__init__.py",
        "pipeline/agent/beside.py",
        "pipeline/agent/main.py",
        "pipeline/agent/unused.py",
        "pipeline/clock.py",
        "pipeline/digest.py",
        "pipeline/files.py",
        "pipeline/models/__init__.py",
        "pipeline/models/site.py",
        "pipeline/otherwise.py",
    ]


def digest_of(package: Path) -> str:
    return agent._sources_digest(agent.sources(package), package)


@pytest.mark.parametrize("name", ["agent/main.py", "files.py", "agent/requirements.lock"])
def test_a_change_of_the_agent_is_a_change_of_the_image(package: Path, name: str) -> None:
    before = digest_of(package)
    (package / name).write_text((package / name).read_text() + "# another\n")
    assert digest_of(package) != before


@pytest.mark.parametrize("name", ["cli/main.py", "models/image.py", "only_typed.py"])
def test_a_change_of_anything_else_is_none(package: Path, name: str) -> None:
    before = digest_of(package)
    (package / name).write_text("import pipeline.clock\n")
    assert digest_of(package) == before


def test_a_source_that_is_not_python_is_named(package: Path) -> None:
    (package / "clock.py").write_text("def\n")
    with pytest.raises(HostError, match=r"pipeline/clock\.py is not Python"):
        agent.sources(package)


def test_nothing_that_makes_images_or_signs_is_on_a_machine() -> None:
    taken = {name.split("/")[1] for name in agent.sources()}
    assert "agent" in taken
    assert not taken & set("channels cli definitions dib engine fleet providers testing".split())
    others = "trust/repository trust/keys policy/promotion store/locate store/s3".split()
    assert not {f"pipeline/{name}.py" for name in others} & agent.sources().keys()


def pins(path: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / path).read_text(), re.MULTILINE))


def test_all_libraries_that_it_imports_are_locked() -> None:
    pinned = {name.replace("-", "_") for name in pins("pipeline/agent/requirements.lock")}
    imported: set[str] = set()
    for text in agent.sources().values():
        for node in agent._at_runtime(ast.parse(text)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names - {"pipeline"} <= pinned


def test_its_lock_is_a_part_of_the_one_that_the_tests_run_with() -> None:
    own = pins("pipeline/agent/requirements.lock")
    assert own.items() <= pins("requirements.lock").items(), "run `make lock`"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[^a-z0-9-]", line)[0] for line in project["dependencies"]} <= own.keys()
    text = (ROOT / "pipeline/agent/requirements.lock").read_text()
    for place in ("://", "--index", "--find-links", ";", " @ "):
        assert place not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


_IMPORT_ALL = """
import importlib, json, pathlib, sys
top, denied = pathlib.Path(sys.argv[1]), set(json.loads(sys.argv[2]))
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in denied:
            raise ModuleNotFoundError(f"an image has no {name}", name=name)
sys.meta_path.insert(0, Lacking())
sys.path.insert(0, str(top))
for file in sorted(top.rglob("*.py")):
    parts = file.relative_to(top).with_suffix("").parts
    importlib.import_module(".".join(part for part in parts if part != "__init__"))
ours = [module.__file__ for name, module in sys.modules.items() if name.startswith("pipeline")]
print(json.dumps([file for file in ours if not file.startswith(str(top))]))
"""


def test_it_starts_with_nothing_but_what_an_image_gets(tmp_path: Path) -> None:
    for name, text in agent.sources().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    locked = pins("pipeline/agent/requirements.lock")
    denied = [
        module
        for module, origins in packages_distributions().items()
        if module != "pipeline"
        and not {name.lower().replace("_", "-") for name in origins} & locked.keys()
    ]
    assert {"boto3", "click", "yaml"} <= set(denied)
    ended = subprocess.run(
        [sys.executable, "-IB", "-c", _IMPORT_ALL, str(tmp_path), json.dumps(denied)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [], "and of Recast, with nothing but that"


def test_nothing_lies_beside_its_sources_that_images_would_lack() -> None:
    files = [path for path in (ROOT / "pipeline/agent").rglob("*") if path.is_file()]
    others = {path.name for path in files if path.suffix not in (".py", ".pyc")}
    assert others == {"requirements.lock"}


@pytest.mark.parametrize(
    ("distribution", "release", "python"),
    [("debian", "trixie", "3.13"), ("debian", "bookworm", "3.11"), ("ubuntu", "noble", "3.12")],
)
def test_an_image_gets_the_agent_of_its_own_python(
    distribution: str, release: str, python: str
) -> None:
    definition = ImageDefinition(name="x", distribution=distribution, release=release)
    assert agent.python_of(definition) == python
    others = agent.digest_for(BASE, "sources")
    assert (agent.digest_for(definition, "sources") == others) == (python == "3.13")


def test_an_unknown_release_is_refused_with_the_known_ones() -> None:
    definition = ImageDefinition(name="edge-base", distribution="debian", release="sid")
    with pytest.raises(
        DefinitionError, match="edge-base is not known to run on debian sid"
    ) as told:
        agent.python_of(definition)
    assert "debian bookworm, debian trixie, ubuntu noble" in told.value.hint
    assert "images/elements/recast-agent/" in told.value.hint


def test_a_plan_names_the_file_that_says_the_unknown_release() -> None:
    known = catalog(ImageDefinition(name="edge-base", distribution="debian", release="sid"))
    with pytest.raises(DefinitionError, match=r"^images/edge-base/image\.yaml: the agent that"):
        look._agent(known, "edge-base", "sources")


def test_a_projects_own_element_is_taken_as_it_is(tmp_path: Path) -> None:
    ours = ROOT / "pipeline/elements/recast-agent"
    assert agent.takes_part({"recast-agent": ours})
    assert not agent.takes_part({"recast-agent": tmp_path / "recast-agent"})
    assert not agent.takes_part({"recast-base": ours.with_name("recast-base")})


def test_a_plan_says_that_the_agent_changed() -> None:
    old, new = Components(definition={}, agent="1"), Components(definition={}, agent="2")
    assert old.key != new.key
    assert reasons.differences(old, new, None, {}) == ("the agent changed",)
    none = Components(definition={})
    assert reasons.differences(none, new, None, {}) == ("the agent added",)
    assert reasons.differences(old, none, None, {}) == ("the agent removed",)


def test_an_agent_that_changed_since_the_plan_is_not_built(tmp_path: Path) -> None:
    """Its bytes would be found under the build key of what was planned for ever."""
    shutil.copytree(ROOT / "pipeline/elements/recast-agent", tmp_path / "own/recast-agent")
    request = TreeRequest(
        definition=BASE,
        elements={"recast-agent": tmp_path / "own/recast-agent"},
        named=["recast-agent"],
        sources=[],
        environment={},
        parent_tree=None,
        files_from=tmp_path,
        sizes={"root": 0, "verity": 0, "esp": 0},
        agent=agent.Agent("3.13", "amd64", "0" * 64),
    )
    with pytest.raises(BuildError, match="the agent has changed since this run was planned"):
        create_tree(
            request,
            scratch=tmp_path / "scratch",
            package_cache=tmp_path / "packages",
            agent_cache=tmp_path / "agent",
            log=io.StringIO(),
            stop=Stop(),
        )
    assert not (tmp_path / "agent").exists(), "nothing was fetched for it"


def test_the_files_of_the_element_can_be_run() -> None:
    element = ROOT / "pipeline/elements/recast-agent"
    for program in (element / "recast-agent/usr/bin/recast-agent", *element.glob("*.d/*")):
        assert program.stat().st_mode & 0o100, program
    launcher = (element / "recast-agent/usr/bin/recast-agent").read_text()
    assert launcher.startswith("#!/usr/bin/python3 -ISB\n"), "no packages of the image's own"
    assert f'"/{agent.PLACE}"' in launcher
