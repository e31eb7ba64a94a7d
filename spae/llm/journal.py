"""An append-only record of answers, so that nothing paid for is computed or asked for twice."""

from __future__ import annotations

import json
import os
import threading
import warnings
from pathlib import Path
from typing import Any

_START = b'{"key": '


class Journal:
    """Values by key in a JSONL file, one ``{"key": .., "value": ..}`` a line, each on disk before `put`
    returns.

    What a killed process or a full disk left behind the end of the last line is cut off, unless it is a whole
    entry that lacks only the newline. Damaged lines elsewhere are moved to a file beside this one, with
    ".bad" added to its name, with a warning. A file that holds nothing but something else raises ValueError
    and stays as it is.
    Several processes may append to one file; each knows the others' entries from when it opened it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._values: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._load()

    def _load(self) -> None:
        *lines, rest = self.path.read_bytes().split(b"\n")
        entries = [_entry(line) for line in (*lines, rest)]
        for entry in entries:
            self._values |= entry or {}
        if not self._values:
            for number, line in enumerate((*lines, rest), start=1):
                if not _damaged(line):
                    raise ValueError(
                        f"{self.path}, line {number}: expected a journal's entry, got {line[:80]!r}"
                    )
        pairs = list(zip(lines, entries, strict=False))
        if bad := [line for line, entry in pairs if entry is None and line.strip()]:
            self._set_aside(bad, [line for line, entry in pairs if entry is not None] + [rest])
        if rest:
            with self.path.open("rb+") as file:
                end = file.seek(0, os.SEEK_END)
                if entries[-1] is None:
                    file.truncate(end - len(rest))
                else:
                    file.write(b"\n")

    def _set_aside(self, bad: list[bytes], kept: list[bytes]) -> None:
        aside = self.path.with_name(f"{self.path.name}.bad")
        with aside.open("ab") as file:
            file.write(b"\n".join(bad) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh = self.path.with_name(f"{self.path.name}.tmp-{os.getpid()}")
        with fresh.open("wb") as file:
            file.write(b"\n".join(kept))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)
        warnings.warn(
            f"{self.path}: {len(bad)} damaged of {len(bad) + len(kept) - 1} lines moved to {aside.name}",
            stacklevel=4,
        )

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Any:
        """The value of a key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Record a value. Where it cannot be written (OSError), this journal still knows it."""
        line = json.dumps({"key": key, "value": value}).encode() + b"\n"
        with self._lock:
            self._values[key] = value
            try:
                with self.path.open("ab+") as file:
                    # A full disk may have left half a line: what comes now must not continue it.
                    if file.seek(0, os.SEEK_END):
                        file.seek(-1, os.SEEK_END)
                        line = line if file.read(1) == b"\n" else b"\n" + line
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("key"), str) and "value" in entry
    return {entry["key"]: entry["value"]} if whole else None


def _damaged(line: bytes) -> bool:
    """Whether a line that is no entry may be what is left of one: its beginning, or the zeros that a power
    cut leaves."""
    left = line.lstrip(b"\0")
    return left.startswith(_START) or _START.startswith(left)
