"""Captions that lie beside the images of a folder: text files and tables."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

FILE_COLUMNS = ("file_name", "filename", "file", "image", "path")
CAPTION_COLUMNS = ("caption", "text", "name", "title")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*_DELIMITERS, ".jsonl")


def read_captions(files: Sequence[Path], beside: Iterable[Path]) -> dict[Path, str]:
    """The captions of images, for those that have one.

    A caption is the text of `1.txt` for `1.png`, or stands in a table that lists the file: CSV or TSV with a
    header, or JSON Lines with an object a line, such as Hugging Face's `metadata.csv` and `metadata.jsonl`.
    A table has one of `FILE_COLUMNS`, paths from the table's folder, and one of `CAPTION_COLUMNS`; tables
    without are none of captions, unless they are called "metadata". A text file comes before a table, and of
    several captions the first one counts. White space is reduced to single spaces.

    Args:
        files: images, as they were listed.
        beside: the other files listed there.

    Raises:
        ValueError: a table of captions is damaged, or lists a file that is not there; a text is not UTF-8.
    """
    wanted, texts, tables = {_plain(file): file for file in files}, {}, []
    for path in beside:
        if path.suffix.lower() == ".txt":
            texts[path.with_suffix("")] = path
        elif path.suffix.lower() in TABLES:
            tables.append(path)
    found: dict[Path, str] = {}
    for file in files:
        if text := texts.get(file.with_suffix("")):
            try:
                found[file] = _tidy(_read(text))
            except ValueError as error:
                raise ValueError(f"{text}: {error}") from error
    for table in sorted(tables):
        for line, name, caption in _rows(table):
            listed = _plain(table.parent / name)
            if listed in wanted:
                found.setdefault(wanted[listed], caption)
            elif not listed.is_file():
                raise ValueError(f"{table}: line {line}: expected a file beside the table, got {name!r}")
    return {file: caption for file, caption in found.items() if caption}


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, file and caption of every row; nothing if this is no table of captions."""
    records = _of_jsonl(table) if table.suffix.lower() == ".jsonl" else _of_csv(table)
    required = table.stem.lower() == "metadata"
    columns: tuple[str, str] | None = None
    try:
        for line, record in records:
            if columns is None:
                columns = _columns(table, record, required)
                if columns is None:
                    return
            name, caption = (record.get(column) for column in columns)
            if not isinstance(name, str) or not name:
                raise ValueError(f"line {line}: {columns[0]}: expected the name of a file, got {name!r}")
            if isinstance(caption, list) and caption:
                caption = caption[0]
            if not isinstance(caption, str | None):
                raise ValueError(f"line {line}: {columns[1]}: expected text, got {caption!r}")
            yield line, name, _tidy(caption or "")
    except ValueError as error:
        # What does not even begin as a table of captions may be anything.
        if columns is not None or required:
            raise ValueError(f"{table}: {error}") from error


def _columns(table: Path, record: dict[str, Any], required: bool) -> tuple[str, str] | None:
    file, caption = (
        next((column for column in known if column in record), None)
        for known in (FILE_COLUMNS, CAPTION_COLUMNS)
    )
    if file and caption:
        return file, caption
    if required and not file:
        raise ValueError(f"expected a column {' or '.join(FILE_COLUMNS)}, got {list(record)}")
    return None


def _of_csv(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(
        io.StringIO(_read(table), newline=""), delimiter=_DELIMITERS[table.suffix.lower()], strict=True
    )
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(
            f"line {reader.reader.line_num}: expected a row of the table, got {error}"
        ) from error


def _of_jsonl(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_read(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: expected JSON, got {line[:40]!r}: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"line {number}: expected an object, got {line[:40]!r}")
        yield number, record


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8, got {error}") from error


def _plain(path: Path) -> Path:
    """Without "." and "..", so that two ways to write a path compare equal."""
    return Path(os.path.normpath(path))


def _tidy(text: str) -> str:
    return " ".join(text.split())
