"""What a change costs: only what it touches is built, and the same bytes are no new release."""

from __future__ import annotations

from tests.e2e.harness import IMAGES, Bench

RENDER = "images/elements/nginx-site/nginx-site/usr/lib/site/render"
NOTES = "images/elements/nginx-site/README.md"
BOOTSTRAP = ("mmdebstrap", "debootstrap")


def plan_of(bench: Bench, *words: str) -> dict[str, tuple[str, str]]:
    found = bench.ask("plan", *words)
    return {i["image"]: (i["action"], "; ".join(i["reasons"])) for i in found["images"]}


def test_a_leaf_is_built_on_its_parents_tree(copy: Bench) -> None:
    before = copy.ask("plan")["commit"]
    assert plan_of(copy, "--since", before) == {}, "nothing was pushed"
    old = copy.release("edge-web")
    base = copy.release("edge-base")

    # An image's words change no byte of it: the page of its element does.
    copy.replace("images/edge-web/image.yaml", "name: edge-web\n", "# A comment.\nname: edge-web\n")
    copy.commit("Explain")
    assert plan_of(copy) == dict.fromkeys(IMAGES, ("unchanged", "unchanged"))
    copy.replace(RENDER, "This machine runs one image", "One image runs this machine")
    copy.commit("Another headline")
    assert plan_of(copy, "--since", before) == {
        "edge-base": ("unchanged", "unchanged"),
        "edge-web": ("build", "element nginx-site changed"),
    }
    assert copy.ask("plan", "--since", before)["untouched"] == ["bookworm"]

    ended = copy.run("build", "edge-web", "--json")
    done = {(e["image"], e["stage"]): e["status"] for e in ended.events if "status" in e}
    assert ("edge-base", "build") not in done
    assert done["edge-web", "build"] == "done"
    log = copy.log(ended.events[0]["run"], "edge-web", "build")
    assert "recast-parent" in log
    assert not [line for line in log.splitlines() if line.lstrip("+ ").startswith(BOOTSTRAP)]

    new = copy.release("edge-web")
    assert new.root_hash != old.root_hash
    assert new.version != old.version
    assert copy.release("edge-base") == base
    assert len(copy.ask("images", "--all")) == 4, "three images, one of them twice"
    shown = copy.run("show", "edge-web").out
    assert f"since {old.name}" in shown
    assert "no package changed" in shown

    # A change that comes to the same bytes is built, and is no new release.
    copy.append(NOTES, "\nWhat is written here is not in the image.\n")
    copy.commit("Explain more")
    assert plan_of(copy, "edge-web")["edge-web"][0] == "build"
    ended = copy.run("build", "edge-web", "--json")
    said = [e["text"] for e in ended.events if e["event"] == "stage.progress"]
    assert f"same root as {new.version}" in said
    assert copy.release("edge-web") == new
    assert len(copy.ask("images", "--all")) == 4
    assert plan_of(copy, "edge-web")["edge-web"] == ("unchanged", "tests never passed")
