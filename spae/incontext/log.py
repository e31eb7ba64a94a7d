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

    def get(self, tokens: range) -> list[list[Any]] | None:
        """The ids of each image in a segment, or None if it has not been generated."""
        return None if self._journal is None else self._journal.get(self._key(tokens))

    def scores(self, tokens: range) -> list[float] | None:
        """Their log-probabilities, if those were kept."""
        return None if self._journal is None else self._journal.get(f"{self._key(tokens)}:scores")

    def put(self, tokens: range, ids: Sequence[Sequence[Any]], scores: Sequence[float] | None = None) -> None:
        if self._journal is None:
            return
        if scores is not None:  # first: where there are ids nothing is missing
            self._journal.put(f"{self._key(tokens)}:scores", list(scores))
        self._journal.put(self._key(tokens), [list(row) for row in ids])

    def _key(self, tokens: range) -> str:
        return f"{self._run}:{tokens.start}-{tokens.stop}"
