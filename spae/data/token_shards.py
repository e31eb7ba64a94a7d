"""Shards of tokens on disk, in three forms, all of the same rows.

- npy: `00000.npy`, the ids [N, n], and `00000.jsonl`, a line of key, caption and label for each row.
- tar: webdataset's samples: `.npy` (ids [n]), `.json` (key, caption, label), `.txt` and `.cls` where there
  are a caption and a label. They are called by their numbers: keys may hold what samples' names must not.
- parquet: columns ids (lists of n), key, caption, label. Needs pyarrow.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from spae.optional import needs

Form = Literal["npy", "tar", "parquet"]
FORMS: tuple[Form, ...] = get_args(Form)


class About(NamedTuple):
    """What is known of an image besides its ids."""

    key: str
    caption: str
    label: int


class Rows(NamedTuple):
    """N images. numbers: theirs in the source, ascending. ids: uint16 or uint32 [N, n]. about: N."""

    numbers: list[int]
    ids: NDArray[Any]
    about: list[About]


class Shard(Protocol):
    """A shard that is open. ids: uint16 or uint32 [N, n]."""

    ids: NDArray[Any]

    def about(self, row: int) -> About: ...


def check_form(form: Form) -> None:
    """Raises ValueError for an unknown form, ImportError where it needs what is not installed."""
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    if form == "parquet":
        _pyarrow()


def write_shard(form: Form, folder: Path, name: str, rows: Rows) -> list[Path]:
    """Write the files of a shard; their paths."""
    if form == "npy":
        return _write_npy(folder, name, rows)
    path = folder / f"{name}.{form}"
    (_write_tar if form == "tar" else _write_parquet)(path, rows)
    return [path]


def read_shard(form: Form, folder: Path, name: str) -> Shard:
    """Open a shard: npy mapped into memory, the others read whole.

    Raises FileNotFoundError, or ValueError for what no shard is; both name the file.
    """
    path = folder / f"{name}.{form}"
    try:
        if form == "npy":
            return _Mapped(path)
        return _Read(*(_read_tar(path) if form == "tar" else _read_parquet(path)))
    except (ValueError, KeyError, EOFError, TypeError, tarfile.TarError) as error:
        raise ValueError(f"{path}: expected a whole shard of tokens, got what is none ({error})") from error


class _Read:
    def __init__(self, ids: NDArray[Any], about: list[About]) -> None:
        if len(ids) != len(about):
            raise ValueError(f"keys: expected as many as rows of ids, {len(ids)}, got {len(about)}")
        self.ids, self._about = ids, about

    def about(self, row: int) -> About:
        return self._about[row]


class _Mapped:
    """Of the lines only their places are held, 8 bytes each."""

    def __init__(self, path: Path) -> None:
        self.ids = np.load(path, mmap_mode="r", allow_pickle=False)
        lines = path.with_suffix(".jsonl")
        self._lines = np.memmap(lines, np.uint8, "r") if lines.stat().st_size else np.empty(0, np.uint8)
        self._ends = np.flatnonzero(self._lines == ord("\n"))
        if len(self._ends) != len(self.ids):
            raise ValueError(f"keys: expected as many as rows of ids, {len(self.ids)}, got {len(self._ends)}")

    def about(self, row: int) -> About:
        start = self._ends[row - 1] + 1 if row else 0
        return About(**json.loads(self._lines[start : self._ends[row]].tobytes()))


def _write_npy(folder: Path, name: str, rows: Rows) -> list[Path]:
    ids, lines = folder / f"{name}.npy", folder / f"{name}.jsonl"
    np.save(ids, rows.ids)
    with lines.open("w", encoding="ascii") as file:  # what is not, lone surrogates too, is escaped
        file.writelines(json.dumps(about._asdict()) + "\n" for about in rows.about)
    return [ids, lines]


def _write_tar(path: Path, rows: Rows) -> None:
    with tarfile.open(path, "w") as archive:
        for number, ids, about in zip(rows.numbers, rows.ids, rows.about, strict=True):
            for extension, content in _sample(ids, about):
                entry = tarfile.TarInfo(f"{number:012}.{extension}")  # no time, no user: the same every time
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def _sample(ids: NDArray[Any], about: About) -> Iterator[tuple[str, bytes]]:
    array = io.BytesIO()
    np.save(array, ids)
    yield "npy", array.getvalue()
    yield "json", json.dumps(about._asdict()).encode()
    if about.caption:
        yield "txt", about.caption.encode("utf-8", "replace")
    if about.label >= 0:
        yield "cls", str(about.label).encode()


def _read_tar(path: Path) -> tuple[NDArray[Any], list[About]]:
    ids, about = [], []
    with tarfile.open(path, "r:") as archive:
        for entry in archive:
            stream = archive.extractfile(entry)
            if stream is not None and entry.name.endswith(".npy"):
                ids.append(np.load(io.BytesIO(stream.read()), allow_pickle=False))
            elif stream is not None and entry.name.endswith(".json"):
                about.append(About(**json.loads(stream.read())))
    return np.stack(ids) if ids else np.empty((0, 0), np.uint16), about


def _write_parquet(path: Path, rows: Rows) -> None:
    pa, parquet = _pyarrow()
    flat = pa.array(rows.ids.reshape(-1))
    columns = {
        "ids": pa.FixedSizeListArray.from_arrays(flat, rows.ids.shape[1]),
        "key": pa.array([_text(about.key) for about in rows.about], pa.string()),
        "caption": pa.array([_text(about.caption) for about in rows.about], pa.string()),
        "label": pa.array([about.label for about in rows.about], pa.int64()),
    }
    parquet.write_table(pa.table(columns), path)


def _text(text: str) -> str:
    # A file's name may hold bytes that are no text.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _read_parquet(path: Path) -> tuple[NDArray[Any], list[About]]:
    _, parquet = _pyarrow()
    table = parquet.read_table(path)
    ids = table["ids"].combine_chunks()
    values = ids.flatten().to_numpy().reshape(len(table), ids.type.list_size)
    columns = (table[name].to_pylist() for name in About._fields)
    return values, [About(*row) for row in zip(*columns, strict=True)]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(needs("Parquet", "pyarrow")) from error
    return pyarrow, parquet
