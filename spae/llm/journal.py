"""An append-only record of answers, so that nothing paid for is computed or asked for twice."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


class Journal:
    """Values by key in a JSONL file, one ``{"key": .., "value": ..}`` a line, each on disk before `put`
    returns.

    A line that a killed process left unfinished is cut off; any other line that is no entry raises
    ValueError, for the file is then something else. Several processes may append to one file; each knows the
    others' entries from when it opened it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._values: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._values[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected a journal's entry, got {line[:80]!r}"
                ) from error
        if whole < len(content):
            with path.open("rb+") as file:
                file.truncate(whole)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Any:
        """The value of a key, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        line = (json.dumps({"key": key, "value": value}) + "\n").encode()
        with self._lock, self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self._values[key] = value
