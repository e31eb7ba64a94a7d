"""Finished segments on disk, so that a long decoding run can stop and go on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spae.llm.journal import Journal


class SegmentLog:
    """The finished segments of one decoding run in a JSONL file that many runs may share.

    run: everything the result depends on; its `repr` is the run's key.
    """

    def __init__(self, path: str | os.PathLike[str] | None, run: Any) -> None:
        self._journal = None if path is None else Journal(Path(path))
        self._run = hashlib.sha256(repr(run).encode("utf-8", "surrogatepass")).hexdigest()

    def get(self, tokens: range) -> tuple[list[list[int]], list[float] | None] | None:
        """The ids of each image in a segment, and their log-probabilities if those were kept; None if it has
        not been generated."""
        found = None if self._journal is None else self._journal.get(self._key(tokens))
        if isinstance(found, dict):
            return found["ids"], found["scores"]
        return None if found is None else (found, None)

    def put(self, tokens: range, ids: Sequence[Sequence[int]], scores: Sequence[float] | None = None) -> None:
        if self._journal is not None:
            rows = [list(row) for row in ids]
            self._journal.put(
                self._key(tokens), rows if scores is None else {"ids": rows, "scores": list(scores)}
            )

    def _key(self, tokens: range) -> str:
        return f"{self._run}:{tokens.start}-{tokens.stop}"
