"""What is built, and what a person is told about why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import digest
from pipeline.engine.plan import Look, Plan, final_key, make_plan, settle
from pipeline.engine.reasons import differences
from pipeline.engine.records import Components
from pipeline.errors import UsageError
from pipeline.models.image import Budget, Catalog, ImageDefinition
from tests.fakes.looks import (
    BASE,
    BASE_PACKAGES,
    WEB,
    WEB_PACKAGES,
    built,
    catalog,
    facts,
    look,
    offering,
    verdict,
)


def after_a_build(before: Look, images: Catalog | None = None, *, passed: bool = True) -> Look:
    """*before*, once everything that a plan for it says has been done."""
    plan = make_plan(images or catalog(), before)
    base = built(plan["edge-base"], BASE_PACKAGES, passed=passed)
    web = built(plan["edge-web"], WEB_PACKAGES, inherited=BASE_PACKAGES, parent=base, passed=passed)
    found = {
        name: replace(before.images[name], history=[known, *before.images[name].history])
        for name, known in (("edge-base", base), ("edge-web", web))
    }
    return replace(before, images=found)


@pytest.fixture
def built_look() -> Look:
    return after_a_build(look())


def told(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {planned.image: planned.reasons for planned in plan.images}


def with_image(before: Look, name: str, **changes: Any) -> Look:
    return replace(before, images={**before.images, name: replace(before.images[name], **changes)})


def test_what_was_never_built_is_built_parents_first() -> None:
    plan = make_plan(catalog(WEB, BASE), look())
    assert told(plan) == {"edge-base": ("never built",), "edge-web": ("never built",)}
    assert [planned.image for planned in plan.images] == ["edge-base", "edge-web"]
    assert all(planned.action == "build" and planned.test for planned in plan.images)


def test_after_a_build_nothing_is_to_be_done(built_look: Look) -> None:
    plan = make_plan(catalog(), built_look)
    assert told(plan) == {"edge-base": ("unchanged",), "edge-web": ("unchanged",)}
    assert not plan.builds
    assert not any(planned.test for planned in plan.images)
    for planned in plan.images:
        record = built_look.images[planned.image].history[0].record
        assert planned.build_key == record.build_key
        assert planned.release == record.version


def test_the_key_of_a_first_build_counts_the_archives_index(built_look: Look) -> None:
    first = make_plan(catalog(), look())["edge-base"]
    assert first.components.index
    assert first.build_key != built_look.images["edge-base"].history[0].record.build_key


def test_a_security_fix_rebuilds_the_images_that_carry_it(built_look: Look) -> None:
    plan = make_plan(catalog(), offering(built_look, openssl="3.5.1-2 trixie-security"))
    assert told(plan) == {
        "edge-base": ("openssl 3.5.1-1 → 3.5.1-2 in trixie-security",),
        "edge-web": ("parent edge-base rebuilt",),
    }


def test_a_leafs_own_package_leaves_its_parent_alone(built_look: Look) -> None:
    plan = make_plan(catalog(), offering(built_look, nginx="1.26.3-3+deb13u1"))
    assert told(plan) == {
        "edge-base": ("unchanged",),
        "edge-web": ("nginx 1.26.3-3 → 1.26.3-3+deb13u1 in trixie",),
    }


def test_an_unrelated_upload_triggers_nothing(built_look: Look) -> None:
    assert not make_plan(catalog(), offering(built_look, emacs="30.1")).builds


def test_an_index_that_changed_triggers_nothing_once_there_is_a_build(built_look: Look) -> None:
    (name,) = built_look.archives
    other = replace(built_look.archives[name], index=digest.of_data("another"))
    assert not make_plan(catalog(), replace(built_look, archives={name: other})).builds


@pytest.mark.parametrize("version", ["3.5.0-9", "3.5.1-1~bpo1"])
def test_an_older_offer_is_no_news(built_look: Look, version: str) -> None:
    """The last look may be older than the build; a mirror may lag behind another."""
    assert not make_plan(catalog(), offering(built_look, openssl=version)).builds


def test_a_package_that_is_held_back_is_news_only_once() -> None:
    first = look()
    offered = offering(first, openssl="3.5.2-1")
    base = built(
        make_plan(catalog(BASE), first)["edge-base"], BASE_PACKAGES, offered={"openssl": "3.5.2-1"}
    )
    held = with_image(offered, "edge-base", history=[base])
    assert told(make_plan(catalog(BASE), held)) == {"edge-base": ("unchanged",)}
    newer = offering(held, openssl="3.5.3-1")
    assert told(make_plan(catalog(BASE), newer)) == {
        "edge-base": ("openssl 3.5.2-1 → 3.5.3-1 in trixie",)
    }


def test_many_packages_are_counted_and_security_comes_first() -> None:
    packages = {f"lib{number:02}": "1" for number in range(17)}
    first = look()
    base = built(make_plan(catalog(BASE), first)["edge-base"], packages)
    news = dict.fromkeys(packages, "2") | {"lib16": "2 trixie-security"}
    plan = make_plan(
        catalog(BASE), offering(with_image(first, "edge-base", history=[base]), **news)
    )
    reasons = told(plan)["edge-base"]
    assert reasons[0] == "lib16 1 → 2 in trixie-security"
    assert len(reasons) == 6
    assert reasons[-1] == "and 12 more packages"


CHANGES: dict[str, dict[str, Any]] = {
    "definition changed: packages, persist": {"packages": ("openssl", "curl"), "persist": ("/x",)},
    "definition changed: budget": {"budget": Budget(root=1 << 30)},
    "definition changed: kernel_arguments": {"kernel_arguments": ("quiet",)},
    "definition changed: outputs": {"outputs": ("qcow2",)},
    "definition changed: release": {"release": "bookworm"},
}


@pytest.mark.parametrize("reason", CHANGES)
def test_a_changed_definition_names_its_fields(built_look: Look, reason: str) -> None:
    changed = ImageDefinition(**{**dict(BASE), **CHANGES[reason]})
    plan = make_plan(catalog(changed, WEB), built_look)
    assert told(plan) == {"edge-base": (reason,), "edge-web": ("parent edge-base rebuilt",)}


def test_a_description_is_not_worth_a_build(built_look: Look) -> None:
    described = BASE.model_copy(update={"description": "Another sentence."})
    assert not make_plan(catalog(described, WEB), built_look).builds


def test_elements_are_named_when_they_change_come_or_go(built_look: Look) -> None:
    now = {**built_look.images["edge-web"].elements, "nginx-site": "other", "motd": "new"}
    del now["recast-base"]
    plan = make_plan(catalog(), with_image(built_look, "edge-web", elements=now))
    assert told(plan)["edge-web"] == (
        "element motd added",
        "element nginx-site changed",
        "element recast-base removed",
    )


def test_a_file_of_the_image_is_named(built_look: Look) -> None:
    plan = make_plan(catalog(), with_image(built_look, "edge-web", files={"files/x": "digest"}))
    assert told(plan)["edge-web"] == ("file files/x added",)


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        ("3.44.0 " + digest.of_data("scripts"), "diskimage-builder 3.43.0 → 3.44.0"),
        ("3.43.0 " + digest.of_data("patched"), "diskimage-builder's own scripts changed"),
    ],
)
def test_another_diskimage_builder_builds_everything(
    built_look: Look, builder: str, reason: str
) -> None:
    plan = make_plan(catalog(), replace(built_look, builder=builder))
    assert told(plan)["edge-base"] == (reason,)
    assert told(plan)["edge-web"] == (reason, "parent edge-base rebuilt")


def test_another_assembly_format_builds_everything(built_look: Look) -> None:
    plan = make_plan(catalog(), replace(built_look, format=2))
    assert told(plan)["edge-base"] == ("assembly format 1 → 2",)
    assert len(plan.builds) == 2


def test_another_parent_is_told_as_a_change_of_the_definition(built_look: Look) -> None:
    other = BASE.model_copy(update={"name": "other-base"})
    moved = WEB.model_copy(update={"from_": "other-base"})
    with_other = replace(
        built_look, images={**built_look.images, "other-base": facts("other-base")}
    )
    plan = make_plan(catalog(BASE, other, moved), with_other)
    assert told(plan)["edge-web"] == ("definition changed: from",)


def test_changed_tests_run_again_without_a_build(built_look: Look) -> None:
    plan = make_plan(catalog(), with_image(built_look, "edge-web", tests="other"))
    assert told(plan)["edge-web"] == ("tests changed",)
    assert plan["edge-web"].action == "unchanged"
    assert plan["edge-web"].test
    assert not plan["edge-base"].test


def test_tests_that_failed_run_again() -> None:
    plan = make_plan(catalog(), after_a_build(look(), passed=False))
    assert told(plan)["edge-base"] == ("tests never passed",)
    assert plan["edge-base"].test


def test_a_verdict_over_another_root_proves_nothing(built_look: Look) -> None:
    known = built_look.images["edge-base"].history[0]
    other = replace(known, verdicts=(verdict("f" * 64, built_look.images["edge-base"].tests),))
    plan = make_plan(catalog(), with_image(built_look, "edge-base", history=[other]))
    assert told(plan)["edge-base"] == ("tests never passed",)


def test_tests_must_have_passed_on_every_provider(built_look: Look) -> None:
    tests = BASE.tests.model_copy(update={"providers": ("qemu", "aws")})
    both = BASE.model_copy(update={"tests": tests})
    plan = make_plan(catalog(both, WEB), built_look)
    assert told(plan)["edge-base"] == ("tests never passed",)


def test_a_revert_finds_the_release_of_back_then(built_look: Look) -> None:
    more = catalog(BASE, WEB.model_copy(update={"packages": ("nginx", "curl")}))
    plan = make_plan(more, built_look)
    assert plan["edge-web"].action == "build"
    newer = built(plan["edge-web"], {**WEB_PACKAGES, "curl": "8.14"}, inherited=BASE_PACKAGES)
    old = built_look.images["edge-web"].history[0]
    reverted = with_image(built_look, "edge-web", history=[newer, old])
    again = make_plan(catalog(), reverted)["edge-web"]
    assert again.reasons == ("unchanged",)
    assert again.build_key == old.record.build_key


def test_a_tree_that_was_not_assembled_is_taken_up_again(built_look: Look) -> None:
    known = built_look.images["edge-base"].history[0]
    record = known.record.model_copy(update={"version": "", "root_hash": ""})
    open_end = replace(known, record=record, released=False, verdicts=())
    plan = make_plan(catalog(), with_image(built_look, "edge-base", history=[open_end]))
    assert told(plan)["edge-base"] == ("not finished the last time",)
    assert plan["edge-base"].tree == record.tree
    assert plan["edge-base"].build_key == record.build_key
    assert told(plan)["edge-web"] == ("unchanged",), "its parent will be what it was"


def test_a_release_that_somebody_removed_is_made_again(built_look: Look) -> None:
    known = replace(built_look.images["edge-base"].history[0], released=False)
    plan = make_plan(catalog(), with_image(built_look, "edge-base", history=[known]))
    assert told(plan)["edge-base"] == (f"release {known.record.version} is gone",)


def test_a_plan_for_an_image_has_its_parents_and_nothing_else() -> None:
    other = BASE.model_copy(update={"name": "other"})
    images = catalog(BASE, WEB, other)
    plan = make_plan(images, look(other=facts("other")), only=["edge-web"])
    assert [planned.image for planned in plan.images] == ["edge-base", "edge-web"]
    with pytest.raises(UsageError, match="edge-wep"):
        make_plan(images, look(), only=["edge-wep"])


@pytest.mark.parametrize(
    ("path", "planned", "untouched"),
    [
        ("images/edge-web/image.yaml", ["edge-base", "edge-web"], ["other"]),
        ("images/edge-base/tests/test_it.py", ["edge-base", "edge-web"], ["other"]),
        ("images/elements/nginx-site/install.d/50-x", ["edge-base", "edge-web"], ["other"]),
        ("images/elements/nobodys/install.d/50-x", [], ["edge-base", "other", "edge-web"]),
        ("images/settings.yaml", [], ["edge-base", "other", "edge-web"]),
        ("images/channels.yaml", [], ["edge-base", "other", "edge-web"]),
        ("images/root.json", [], ["edge-base", "other", "edge-web"]),
        ("pipeline/disk/erofs.py", ["edge-base", "other", "edge-web"], []),
        ("requirements.lock", ["edge-base", "other", "edge-web"], []),
    ],
)
def test_a_push_limits_a_plan_to_what_it_touched(
    path: str, planned: list[str], untouched: list[str]
) -> None:
    images = catalog(BASE, WEB, BASE.model_copy(update={"name": "other"}))
    pushed = replace(look(other=facts("other")), changed=frozenset({path}))
    plan = make_plan(images, pushed)
    assert [each.image for each in plan.images] == planned
    assert list(plan.untouched) == untouched


def test_a_push_to_a_leaf_takes_its_parent_as_it_was_built(built_look: Look) -> None:
    """The archive's news of the parent are not what the push is about."""
    pushed = replace(
        offering(built_look, openssl="3.5.1-2", nginx="1.26.3-4"),
        changed=frozenset({"images/edge-web/image.yaml"}),
    )
    assert told(make_plan(catalog(), pushed)) == {
        "edge-base": ("unchanged",),
        "edge-web": ("nginx 1.26.3-3 → 1.26.3-4 in trixie",),
    }


def test_a_push_to_a_leaf_still_builds_a_parent_that_is_not_what_it_was(built_look: Look) -> None:
    """Or the leaf would stand on something that no commit describes."""
    other = BASE.model_copy(update={"packages": ("openssl", "curl")})
    pushed = replace(built_look, changed=frozenset({"images/edge-web/image.yaml"}))
    plan = make_plan(catalog(other, WEB), pushed)
    assert told(plan)["edge-base"] == ("definition changed: packages",)


def test_a_distribution_whose_archive_is_not_asked_can_be_planned() -> None:
    fedora = BASE.model_copy(update={"distribution": "fedora", "release": "42"})
    unknown = replace(look(), archives={})
    known = built(make_plan(catalog(fedora), unknown)["edge-base"], {})
    again = make_plan(catalog(fedora), with_image(unknown, "edge-base", history=[known]))
    assert told(again) == {"edge-base": ("unchanged",)}


# --- the law of the build key ------------------------------------------------------------------

_NAMES = st.sampled_from(["openssl", "nginx", "libc6", "curl"])
_DIGESTS = st.sampled_from(["a", "b", "c"])
_COMPONENTS = st.builds(
    Components,
    definition=st.dictionaries(st.sampled_from(["packages", "persist", "from"]), _DIGESTS),
    files=st.dictionaries(_NAMES, _DIGESTS),
    elements=st.dictionaries(_NAMES, _DIGESTS),
    builder=st.sampled_from(["3.43.0 a", "3.43.0 b", "3.44.0 b"]),
    parent=st.none() | _DIGESTS,
    archive=st.dictionaries(_NAMES, st.sampled_from(["1", "2", "2.1"])),
    index=_DIGESTS,
    format=st.integers(1, 3),
)


@given(_COMPONENTS, _COMPONENTS)
def test_a_key_changes_exactly_when_a_reason_can_be_given(a: Components, b: Components) -> None:
    assert (a.key == b.key) == (differences(a, b, "parent", {}) == ())


@given(_COMPONENTS, _COMPONENTS, st.sampled_from(sorted(Components.model_fields)))
def test_one_changed_component_is_the_one_that_is_named(
    before: Components, other: Components, field: str
) -> None:
    after = before.model_copy(update={field: getattr(other, field)})
    reasons = differences(before, after, "parent", {})
    words = {
        "definition": "definition changed: ",
        "files": "file ",
        "elements": "element ",
        "builder": "diskimage-builder",
        "parent": "parent parent rebuilt",
        "archive": " → ",
        "index": "the archive changed",
        "format": "assembly format",
    }
    if getattr(before, field) == getattr(after, field):
        assert reasons == ()
    else:
        assert reasons
        assert all(words[field] in reason for reason in reasons)


@given(
    _COMPONENTS,
    st.dictionaries(_NAMES, st.sampled_from(["1", "2", "2.1"])),
    st.dictionaries(_NAMES, st.sampled_from(["1", "2", "2.1"])),
)
def test_settling_twice_changes_nothing(
    components: Components, packages: dict[str, str], offered: dict[str, str]
) -> None:
    once = settle(components, packages, offered=offered)
    assert settle(once, once.archive, offered=offered) == once
    assert final_key(components, packages, offered=offered) == once.key
    assert once.archive.keys() == packages.keys()


def test_a_childs_key_does_not_count_what_its_parent_has() -> None:
    components = Components(definition={})
    settled = settle(components, WEB_PACKAGES, inherited=BASE_PACKAGES, parent_key="k")
    assert settled.archive == {"nginx": "1.26.3-3"}
    assert settled.parent == "k"


def test_a_package_that_a_child_upgrades_counts_for_it() -> None:
    newer = {**BASE_PACKAGES, "openssl": "3.5.1-2"}
    settled = settle(Components(definition={}), newer, inherited=BASE_PACKAGES)
    assert settled.archive == {"openssl": "3.5.1-2"}
