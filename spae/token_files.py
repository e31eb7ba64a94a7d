"""Tokens as files: one JSON document, or JSON lines, which hold any number of images at flat memory.

A document is {"format", "codebook", "images": [row, ..]}; of JSON lines the first is {"format", "codebook"}
and every other a row. A row is {"name", "ids", "words"}; the ids count, the words are for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from spae.tokenizers import PyramidTokens, Tokenizer

FORMAT = "spae-tokens-1"
_START = json.dumps({"format": FORMAT})[:-1]  # of JSON lines


class Row(NamedTuple):
    """One image of a file: what it is called, and its ids, layer by layer."""

    name: str
    ids: list[int]


class TokenWriter:
    """Writes tokens to a stream, batch by batch; as a context manager it ends the document.

    lines: JSON lines rather than one document. append: to JSON lines that have their head already.
    """

    def __init__(self, stream: IO[str], model: Tokenizer, *, lines: bool, append: bool = False) -> None:
        self._stream, self._model, self._lines = stream, model, lines
        self._rows = 0
        head = {"format": FORMAT, "codebook": _codebook(model)}
        if lines and not append:
            self._put(json.dumps(head) + "\n")
        elif not lines:
            self._put(json.dumps(head, indent=2)[: -len("\n}")] + ',\n  "images": [')

    def write(self, names: Sequence[Path | str], tokens: PyramidTokens) -> None:
        """Add images by their names."""
        words = self._model.words(tokens)
        for name, ids, own in zip(names, tokens.ids.tolist(), words, strict=True):
            row = json.dumps({"name": str(name), "ids": ids, "words": own}, ensure_ascii=False)
            separator = "" if self._lines else ",\n    " if self._rows else "\n    "
            self._put(f"{row}\n" if self._lines else separator + row)
            self._rows += 1
        self._stream.flush()

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self._lines:
            self._put("\n  ]\n}\n" if self._rows else "]\n}\n")
            self._stream.flush()

    def _put(self, text: str) -> None:
        # A file's name may hold bytes that are no text.
        self._stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def read_tokens(path: Path, model: Tokenizer) -> Iterator[Row]:
    """The rows of a file that fits a model, one after the other.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not what `spae encode` writes, or of another codebook or pyramid; names the file and
            the place in it, what came and what was expected. All rows have as many ids as the first.
    """
    count = None
    for where, values in _rows(path, model):
        row = _row(where, values, model)
        count = len(row.ids) if count is None else count
        if len(row.ids) != count:
            raise ValueError(f"{where}: ids: expected {count} as in the first image, got {len(row.ids)}")
        yield row


def as_tokens(rows: Sequence[Row], model: Tokenizer) -> PyramidTokens:
    """Some rows of a file as tokens."""
    return PyramidTokens(torch.tensor([row.ids for row in rows], dtype=torch.int64), model.pyramid)


def cut_tail(path: Path, model: Tokenizer) -> tuple[set[str], int]:
    """The names that JSON lines hold whole, after an interruption, and how many ids each image has; half a
    line at the end is cut off."""
    with path.open(encoding="utf-8-sig") as stream:
        head = _text(stream.readline, path)
        # Nothing is cut off a file that is not ours.
        if head.endswith("\n"):
            _check_head(_json(head, str(path)), str(path), model)
        elif not (head.startswith(_START) or _START.startswith(head)):
            raise ValueError(f"{path}: expected JSON lines from `spae encode`, got {_short(head)}")
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("rb+") as file:
            file.truncate(whole)
    names, count = set(), 0
    for row in read_tokens(path, model) if whole else ():
        names.add(row.name)
        count = len(row.ids)
    return names, count


def _rows(path: Path, model: Tokenizer) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and what stands there."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file that `spae encode` wrote, got no such file")
    with path.open(encoding="utf-8-sig") as stream:
        first = _parsed(stream, path)
        if first is None:  # the first line is only the beginning of a document
            stream.seek(0)
            document = _json(_text(stream.read, path), str(path))
        elif isinstance(first, dict) and "images" not in first and first.get("format") == FORMAT:
            _check_head(first, str(path), model)
            for number, line in enumerate(_lines(stream, path), start=2):
                where = f"{path}, line {number}"
                if line.strip():
                    yield where, _json(line, where)
            return
        else:
            document = first
            if rest := _text(stream.read, path).strip():
                raise ValueError(f"{path}: expected nothing after the document, got {_short(rest)}")
    _check_head(document, str(path), model)
    images = document.get("images")
    if not isinstance(images, list):
        raise ValueError(f"{path}: images: expected a list, got {_short(document, 'images')}")
    for number, values in enumerate(images):
        yield f"{path}, images[{number}]", values


def _parsed(stream: IO[str], path: Path) -> Any:
    """The first line as JSON, or None where it is none by itself."""
    line = _text(stream.readline, path)
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines(stream: IO[str], path: Path) -> Iterator[str]:
    """All that follow; empty ones are none, but count."""
    while line := _text(stream.readline, path):
        yield line


def _text(read: Any, path: Path) -> str:
    try:
        return read()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path}: expected JSON in UTF-8, got the byte {byte:#04x}") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ValueError(f"{where}: expected JSON from `spae encode`, got {error.msg} at {place}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON from `spae encode`, got {error}") from error


def _codebook(model: Tokenizer) -> dict[str, Any]:
    # Not a checkpoint's checksum, which leaves out a learned codebook's vectors, as the weights hold them.
    return {**model.codebook_identity(), "checksum": model.codebook.checksum}


def _check_head(values: Any, where: str, model: Tokenizer) -> None:
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ValueError(f"{where}: expected an object with format, codebook and images, got {kind}")
    if values.get("format") != FORMAT:
        raise ValueError(f"{where}: format: expected {FORMAT!r}, got {_short(values, 'format')}")
    book, own = values.get("codebook"), _codebook(model)
    if not isinstance(book, dict) or not isinstance(book.get("checksum"), str):
        got = _short(values, "codebook")
        raise ValueError(f"{where}: codebook: expected an object with a checksum, got {got}")
    if book["checksum"] != own["checksum"]:
        raise ValueError(f"{where}: codebook: expected the model's, {_identity(own)}, got {_identity(book)}")


def _row(where: str, values: Any, model: Tokenizer) -> Row:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected an object with name and ids, got {_short(values)}")
    name, ids = values.get("name"), values.get("ids")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{where}: name: expected a file's name, got {_short(values, 'name')}")
    if not isinstance(ids, list):
        raise ValueError(f"{where}: ids: expected a list of integers, got {_short(values, 'ids')}")
    total = len(model.codebook)
    for place, value in enumerate(ids):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{where}: ids[{place}]: expected an integer, got {_short(value)}")
        if not 0 <= value < total:
            raise ValueError(f"{where}: ids[{place}]: expected 0 to {total - 1}, got {_short(value)}")
    pyramid = model.pyramid
    sizes = [pyramid.num_tokens_upto(layer) for layer in range(1, pyramid.num_layers + 1)]
    if len(ids) not in sizes:
        expected = ", ".join(map(str, sizes))
        raise ValueError(f"{where}: ids: expected whole layers ({expected} ids), got {len(ids)}")
    return Row(name, ids)


def _identity(book: dict[str, Any]) -> str:
    return f"{str(book.get('name'))[:40]} {str(book.get('checksum'))[:12]}"


def _short(values: Any, key: str | None = None) -> str:
    """A value as a message shows it; "nothing" where an object lacks the key."""
    if key is not None:
        if key not in values:
            return "nothing"
        values = values[key]
    if isinstance(values, int) and abs(values) >= 10**20:
        return f"an integer of {values.bit_length()} bits"
    text = repr(values)
    return text if len(text) <= 40 else text[:39] + "…"
