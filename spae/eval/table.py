"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> str:
    """A Markdown table and a note below it."""
    lines = [list(header), ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{table}\n\n{note}"


def shown(row: dict[str, Any], digits: int = 2) -> str:
    """A figure with its 95% interval, from `Interval._asdict()`.

    >>> shown({"value": 0.5, "low": 0.4, "high": 0.6})
    '0.50 [0.40, 0.60]'
    """
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
