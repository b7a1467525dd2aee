"""Small EROFS images, laid out by hand: whole ones, and each kind of damage that has a name.

Content lies in whole blocks, or with its end beside the inode. fsck.erofs takes what is made here.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.disk.erofs_reader import BLOCK, MAGIC, SUPER

META = 1
"""The block at which inodes begin."""

_SLOTS = 64  # of 32 bytes: a block of inodes holds two of them, 64 bytes each, and their tails
_TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFLNK: 7}


@dataclass
class Node:
    """A file, a folder or a symbolic link; *extended* is the longer kind of inode."""

    mode: int = stat.S_IFREG | 0o644
    content: bytes = b""
    names: dict[str, Node] = field(default_factory=dict)
    inline: bool = False
    extended: bool = True
    number: int = 0
    at: int = 0  # block of its content


def file(content: bytes, mode: int = 0o644, *, inline: bool = False, extended: bool = True) -> Node:
    return Node(stat.S_IFREG | mode, content, inline=inline, extended=extended)


def link(target: str) -> Node:
    return Node(stat.S_IFLNK | 0o777, target.encode(), inline=True, extended=False)


def tree(files: Mapping[str, Node | bytes]) -> Node:
    """Folders for these paths, such as ``usr/bin/sh``."""
    root = Node(stat.S_IFDIR | 0o755)
    for path, what in files.items():
        *parents, name = path.split("/")
        folder = root
        for parent in parents:
            folder = folder.names.setdefault(parent, Node(stat.S_IFDIR | 0o755))
        folder.names[name] = file(what) if isinstance(what, bytes) else what
    return root


def build(
    path: Path,
    files: Mapping[str, Node | bytes],
    *,
    first: int = 0,
    spoil: Callable[[bytearray, list[Node]], None] | None = None,
) -> Path:
    """Write an image with these files.

    Args:
        path: where to.
        files: content or node, by path.
        first: blocks of zeros before the content of files: everything then lies elsewhere.
        spoil: changes the finished bytes; given all nodes, the root first.
    """
    root = tree(files)
    nodes: list[Node] = []
    _number(root, root, nodes)
    at = META + len(nodes) + first
    data = bytearray()
    for node in nodes:
        if stat.S_ISDIR(node.mode):
            continue
        at = _lay(node, at, data)
    for node in nodes:
        if stat.S_ISDIR(node.mode):
            node.content = _folder(node, root)
            at = _lay(node, at, data)
    image = bytearray((META + len(nodes) + first) * BLOCK) + data
    for node in nodes:
        _write(image, node, _links(node, nodes))
    _superblock(image, nodes)
    if spoil is not None:
        spoil(image, nodes)
    path.write_bytes(image)
    return path


def inode_at(node: Node) -> int:
    """Where an inode is, in bytes."""
    return META * BLOCK + node.number * 32


def _number(node: Node, parent: Node, nodes: list[Node]) -> None:
    if any(node is each for each in nodes):
        return  # another name of the same file
    node.number = len(nodes) * (BLOCK // 32)  # a block for each: there is room for any tail
    nodes.append(node)
    for name in sorted(node.names):
        _number(node.names[name], node, nodes)


def _lay(node: Node, at: int, data: bytearray) -> int:
    rest = len(node.content) % BLOCK if node.inline else 0
    outside = node.content[: len(node.content) - rest]
    node.at = at if outside else 0xFFFFFFFF
    data += outside + bytes(-len(outside) % BLOCK)
    return at + -(-len(outside) // BLOCK)


def _folder(node: Node, root: Node) -> bytes:
    parent = next((each for each in _all(root) if node in each.names.values()), node)
    entries = {".": node, "..": parent, **node.names}
    names = sorted(entries, key=str.encode)
    assert sum(12 + len(name.encode()) for name in names) <= BLOCK, "a folder here is one block"
    start = 12 * len(names)
    rows = b""
    for name in names:
        kind = _TYPES[stat.S_IFMT(entries[name].mode)]
        rows += struct.pack("<QHBB", entries[name].number, start, kind, 0)
        start += len(name.encode())
    return rows + b"".join(name.encode() for name in names)


def _all(node: Node) -> list[Node]:
    return [node, *(each for inner in node.names.values() for each in _all(inner))]


def _links(node: Node, nodes: list[Node]) -> int:
    if stat.S_ISDIR(node.mode):
        return 2 + sum(stat.S_ISDIR(each.mode) for each in node.names.values())
    return sum(each is node for parent in nodes for each in parent.names.values())


def _write(image: bytearray, node: Node, links: int) -> None:
    form = (2 if node.inline and len(node.content) % BLOCK else 0) << 1 | node.extended
    size, at = len(node.content), inode_at(node)
    if node.extended:
        inode = struct.pack(
            "<HHHHQIIIIQII16x", form, 0, node.mode, 0, size, node.at, node.number, 0, 0, 0, 0, links
        )
    else:
        inode = struct.pack(
            "<HHHHIIIIHHI", form, 0, node.mode, links, size, 0, node.at, node.number, 0, 0, 0
        )
    if node.inline:
        inode += node.content[size - size % BLOCK :]
    image[at : at + len(inode)] = inode


def _superblock(image: bytearray, nodes: list[Node]) -> None:
    blocks = -(-len(image) // BLOCK)
    fields = (MAGIC, 0, 0, 12, 0, nodes[0].number, len(nodes), 0, 0, blocks, META, 0)
    image[SUPER : SUPER + 48] = struct.pack("<IIIBBHQQIIII", *fields)
