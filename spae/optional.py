"""What is said where an optional package is missing: one sentence, and a command that always works.

The command names the missing packages themselves, not an extra of this one: it works from a checkout, from a
wheel, and whatever the index calls by a similar name.
"""

from __future__ import annotations


def needs(what: str, *packages: str) -> str:
    """The message of the ImportError where `what` cannot be done without `packages`, as pip knows them.

    >>> needs("drawing emoji", "resvg-py", "pillow")
    'drawing emoji needs resvg-py and pillow: pip install resvg-py pillow'
    """
    return f"{what} needs {' and '.join(packages)}: pip install {' '.join(packages)}"
