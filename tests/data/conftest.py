import struct
import zlib

import pytest


@pytest.fixture(scope="session")
def write_rcc():
    return write


def write(tree, version=3, packed=()):
    """An archive of a tree of dicts and bytes; files named in `packed` go through zlib."""
    names, data, entries = bytearray(), bytearray(), []

    def named(name):
        start = len(names)
        names.extend(struct.pack(">HI", len(name), 0) + name.encode("utf-16-be"))
        return start

    queue = [("", tree)]
    waiting = 1
    for name, node in queue:  # breadth first, so that children of one folder lie together
        offset = named(name) if name else 0
        tail = b"" if version == 1 else struct.pack(">Q", 0)
        if isinstance(node, dict):
            entries.append(struct.pack(">IHII", offset, 2, len(node), waiting) + tail)
            waiting += len(node)
            queue.extend(sorted(node.items()))
        else:
            flag = name in packed
            content = struct.pack(">I", len(node)) + zlib.compress(node) if flag else node
            entries.append(struct.pack(">IHHHI", offset, int(flag), 0, 1, len(data)) + tail)
            data.extend(struct.pack(">I", len(content)) + content)
    head = 20 if version < 3 else 24
    tree_bytes = b"".join(entries)
    offsets = head, head + len(tree_bytes), head + len(tree_bytes) + len(data)
    flags = b"" if version < 3 else struct.pack(">I", 0)
    return (
        struct.pack(">4sIIII", b"qres", version, *offsets) + flags + tree_bytes + bytes(data) + bytes(names)
    )
