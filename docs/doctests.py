"""For the reference: examples in docstrings (>>>) as blocks of code."""

from __future__ import annotations

import re

import griffe


class Doctests(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Each run of lines from one that begins with >>> to the next empty one, as a block."""
    return re.sub(r"^( *)(>>>.*(?:\n(?! *$).*)*)", r"\1```pycon\n\1\2\n\1```", text, flags=re.MULTILINE)
