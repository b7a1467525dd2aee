"""If these fail, a role is left without keys, or one person's signature counts twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Root, Targets

from pipeline.errors import UsageError
from pipeline.trust.key_edits import (
    add_key,
    numbered,
    remove_key,
    replace_key,
    roles_of,
    set_threshold,
    successor,
)
from pipeline.trust.layout import NAME_FIELD


def make_key(name: str) -> Key:
    key = CryptoSigner.generate_ed25519().public_key
    key.unrecognized_fields[NAME_FIELD] = name
    return key


KEYS = {name: make_key(name) for name in "abcdefgh"}


def make_root(threshold: int = 2, names: Sequence[str] = "abc") -> Root:
    root = Root(consistent_snapshot=True)
    for role in ("root", "targets"):
        for name in names:
            root.add_key(KEYS[name], role)
        root.roles[role].threshold = threshold
    for role in ("snapshot", "timestamp"):
        root.add_key(KEYS["h"], role)
    return root


def make_targets() -> Targets:
    roles = {
        "dev": DelegatedRole("dev", [], 1, True, ["dev/*"]),
        "stable": DelegatedRole("stable", [], 2, True, ["stable/*"]),
        "builder": DelegatedRole("builder", [], 1, False, []),
    }
    targets = Targets(delegations=Delegations({}, roles))
    for role, names in {"dev": "d", "stable": "def", "builder": "g"}.items():
        for name in names:
            targets.add_key(KEYS[name], role)
    return targets


def holders(part: Root | Targets, role: str) -> tuple[str, ...]:
    roles = part.roles if isinstance(part, Root) else (part.delegations.roles or {})  # type: ignore[union-attr]
    keys = part.keys if isinstance(part, Root) else part.delegations.keys  # type: ignore[union-attr]
    return tuple(str(keys[k].unrecognized_fields[NAME_FIELD]) for k in roles[role].keyids)


def test_the_roles_are_told_as_people_call_them() -> None:
    found = roles_of(make_root(), make_targets(), ("dev", "beta", "stable"))
    assert [(role.name, role.names, role.threshold) for role in found] == [
        ("root", ("a", "b", "c"), 2),
        ("targets", ("a", "b", "c"), 2),
        ("online", ("h",), 1),
        ("dev", ("d",), 1),
        ("stable", ("d", "e", "f"), 2),
        ("beta", (), 0),
        ("builder", ("g",), 1),
    ]


def test_a_key_is_added_once() -> None:
    root = make_root()
    add_key(root, "targets", KEYS["d"])
    assert holders(root, "targets") == ("a", "b", "c", "d")
    with pytest.raises(UsageError, match="`d` may sign targets already"):
        add_key(root, "targets", KEYS["d"])


def test_one_key_under_two_ids_is_one_key() -> None:
    root = make_root()
    key = KEYS["a"]
    twin = SSlibKey("f" * 64, key.keytype, key.scheme, key.keyval, {NAME_FIELD: "twin"})
    with pytest.raises(UsageError, match="`a` may sign root already"):
        add_key(root, "root", twin)


def test_a_name_means_one_key() -> None:
    targets = make_targets()
    with pytest.raises(UsageError, match="another key is called `e` already"):
        add_key(targets, "dev", make_key("e"))
    renamed = SSlibKey(
        KEYS["e"].keyid, "ed25519", "ed25519", KEYS["e"].keyval, {NAME_FIELD: "other"}
    )
    with pytest.raises(UsageError, match="this key is known as `e`"):
        add_key(targets, "dev", renamed)


def test_a_key_is_removed_from_one_role_alone() -> None:
    targets = make_targets()
    remove_key(targets, "stable", "d")
    assert holders(targets, "stable") == ("e", "f")
    assert holders(targets, "dev") == ("d",)
    remove_key(make_root(threshold=1), "root", "a")


@pytest.mark.parametrize(
    ("part", "role", "name", "words"),
    [
        (make_root(names="ab"), "root", "a", "with 1 key, fewer than its threshold of 2"),
        (make_targets(), "dev", "d", "0 keys, and nobody could sign it"),
        (make_targets(), "builder", "g", "0 keys, and nobody could sign it"),
        (make_root(), "timestamp", "h", "without `h`, online would be left with 0 keys"),
        (make_root(), "root", "zed", "root has no key `zed`"),
        (make_targets(), "beta", "d", "there is no role `beta`"),
    ],
)
def test_too_few_keys_are_refused(part: Root | Targets, role: str, name: str, words: str) -> None:
    before = part.to_dict()
    with pytest.raises(UsageError, match=words):
        remove_key(part, role, name)
    assert part.to_dict() == before


def test_a_key_is_replaced_where_it_stood() -> None:
    root = make_root()
    replace_key(root, "root", "b", KEYS["d"])
    assert holders(root, "root") == ("a", "d", "c")
    assert holders(root, "targets") == ("a", "b", "c")
    replace_key(root, "targets", "b", KEYS["d"])
    assert KEYS["b"].keyid not in root.keys
    with pytest.raises(UsageError, match="`a` may sign root already"):
        replace_key(root, "root", "d", KEYS["a"])


@pytest.mark.parametrize("threshold", [0, -1, 4])
def test_a_threshold_stays_within_reach(threshold: int) -> None:
    with pytest.raises(UsageError, match=f"its threshold cannot be {threshold}"):
        set_threshold(make_root(), "root", threshold)


def test_a_threshold_is_set() -> None:
    root = make_root()
    set_threshold(root, "root", 3)
    assert root.roles["root"].threshold == 3


@pytest.mark.parametrize(
    ("name", "taken", "new"),
    [
        ("online", (), "online-2"),
        ("online-2", ("online", "online-2"), "online-3"),
        ("offline-1", ("offline-2", "offline-3"), "offline-4"),
        ("a-b", ("a-b-2",), "a-b-3"),
        ("7", (), "7-2"),
    ],
)
def test_a_successor_has_a_name_of_its_own(name: str, taken: Sequence[str], new: str) -> None:
    assert successor(name, taken) == new


@given(st.lists(st.tuples(st.sampled_from("arts"), st.sampled_from("abcdefgh")), max_size=30))
def test_whatever_is_done_every_role_stays_within_reach(steps: list[tuple[str, str]]) -> None:
    root = make_root()
    for verb, name in steps:
        try:
            if verb == "a":
                add_key(root, "root", KEYS[name])
            elif verb == "r":
                remove_key(root, "root", name)
            elif verb == "t":
                set_threshold(root, "root", ord(name) - ord("a"))
            else:
                replace_key(root, "root", name, KEYS["h"])
        except UsageError:
            pass
        role = root.roles["root"]
        assert 1 <= role.threshold <= len(set(role.keyids)) == len(role.keyids)
        assert set(role.keyids) <= set(root.keys)
        used = {keyid for each in root.roles.values() for keyid in each.keyids}
        assert set(root.keys) == used


def test_numbers_start_where_they_are_told() -> None:
    assert numbered("stable", ()) == "stable-1"
    assert numbered("stable", ("stable-1", "stable-2")) == "stable-3"
