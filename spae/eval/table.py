"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> str:
    """A Markdown table and a note below it."""
    lines = [list(header), ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{table}\n\n{note}"


def joined(tables: Mapping[str, str], first: str) -> str:
    """Tables of `markdown` by name as one, whose first column is headed `first` and holds the names, with
    each name's note; one below the other where their columns differ.

    >>> print(joined({"a": markdown(["x"], [["1"]], "ten"), "b": markdown(["x"], [["2"]], "ten")}, "model"))
    | model | x |
    | --- | --- |
    | a | 1 |
    | b | 2 |
    <BLANKLINE>
    ten
    """
    parts = {name: text.split("\n\n", 1) for name, text in tables.items()}
    heads = {tuple(table.split("\n")[:2]) for table, _ in parts.values()}
    if len(heads) > 1:
        return "\n\n".join(f"**{name}**\n\n{text}" for name, text in tables.items())
    (head, rule), *_ = heads
    rows = [f"| {name} {row}" for name, (table, _) in parts.items() for row in table.split("\n")[2:]]
    notes = {name: note for name, (_, note) in parts.items()}
    same = len(set(notes.values())) == 1
    note = next(iter(notes.values())) if same else "\n\n".join(f"{n}: {note}" for n, note in notes.items())
    return "\n".join([f"| {first} {head}", f"| --- {rule}", *rows]) + f"\n\n{note}"


def shown(row: dict[str, Any], digits: int = 2) -> str:
    """A figure with its 95% interval, from `Interval._asdict()`.

    >>> shown({"value": 0.5, "low": 0.4, "high": 0.6})
    '0.50 [0.40, 0.60]'
    """
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
