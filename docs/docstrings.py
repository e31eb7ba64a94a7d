"""For the reference: examples in docstrings (>>>) as blocks of code, and `name: what it is` as lists."""

from __future__ import annotations

import re

import griffe

_FIELD = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)")


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(fenced(obj.docstring.value))


def fenced(text: str) -> str:
    """Each run of lines from one that begins with >>> to the next empty one, as a block."""
    return re.sub(r"^( *)(>>>.*(?:\n(?! *$).*)*)", r"\1```pycon\n\1\2\n\1```", text, flags=re.MULTILINE)


def listed(text: str) -> str:
    """Fields that a docstring explains outside of a section, as items of a list."""
    lines: list[str] = []
    for line in text.splitlines():
        if field := _FIELD.match(line):
            inside = lines and (not lines[-1] or lines[-1].startswith(("- ", "    ")))
            lines += [] if inside else [""]
            line = f"- **{field[1]}**: {line[field.end() :]}"
        lines.append(line)
    return "\n".join(lines)
