"""A codebook as plain data: words, vectors, ids, and where they come from."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from spae.checksum import Part, checksum
from spae.codebook import selection
from spae.codebook.checks import aligned, listed, rows_by_word, trimmed, word_ids
from spae.codebook.choice import WordChoice, choose_words
from spae.codebook.normalisation import KINDS, normalise_rows

FORMAT = 1  # of what a checksum and a saved codebook hold


@dataclass(frozen=True, eq=False)
class CodebookData:
    """What `Codebook` documents, without a module around it. Built by `of`, which checks.

    known: what an earlier look at the same content found, so that it is not computed again.
    """

    words: list[str]
    vectors: Tensor
    llm_ids: Tensor
    round_trips: Tensor
    name: str = "custom"
    normalisation: str = "none"
    source: str | None = None
    rows: Tensor | None = None
    known: Known | None = None

    @classmethod
    def of(
        cls,
        words: Sequence[str],
        vectors: Tensor,
        llm_ids: Tensor | None = None,
        *,
        round_trips: Tensor | None = None,
        name: str = "custom",
        normalisation: str = "none",
        known: Known | None = None,
    ) -> CodebookData:
        """Checked, as `Codebook` takes them; raises TypeError and ValueError naming the argument."""
        if not isinstance(vectors, Tensor):
            raise TypeError(
                f"vectors: expected [K, D] floating-point with K, D >= 1, got {type(vectors).__name__}"
            )
        if vectors.ndim != 2 or 0 in vectors.shape or not vectors.is_floating_point():
            raise ValueError(
                "vectors: expected [K, D] floating-point with K, D >= 1, "
                f"got {list(vectors.shape)} {vectors.dtype}"
            )
        if not isinstance(name, str):
            raise TypeError(f"name: expected a string, got {name!r:.80}")
        if normalisation not in KINDS:
            raise ValueError(f"normalisation: expected one of {', '.join(KINDS)}, got {normalisation!r}")
        vectors = vectors.detach().to(torch.float32).contiguous()
        llm_ids = word_ids(llm_ids, vectors)
        round_trips = aligned("round_trips", round_trips, torch.bool, vectors)
        words = listed(words)
        if len(words) != len(vectors):
            raise ValueError(f"words: expected one per row of vectors ({len(vectors)}), got {len(words)}")
        data = cls(words, vectors, llm_ids, round_trips, name, normalisation, known=known)
        _ = data.row_of  # checks that words are distinct strings
        if vectors.device.type != "meta":
            finite = torch.isfinite(vectors).all(dim=1)
            if not finite.all():
                row = int((~finite).nonzero()[0])
                raise ValueError(
                    f"vectors: expected finite rows, got {words[row]!r} (row {row}) with nan or inf"
                )
        return data

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each word."""
        return rows_by_word(self.words)

    @cached_property
    def checksum(self) -> str:
        """See `Codebook.checksum`."""
        return self.known.checksum if self.known is not None else checksum(self._parts())

    def _parts(self) -> Iterator[Part]:
        yield f"spae codebook {FORMAT} {self.normalisation} {len(self)} {self.vectors.shape[1]}"
        if self.llm_ids.ndim > 1:
            yield f"up to {self.llm_ids.shape[1]} ids a word"
        for word in self.words:
            encoded = word.encode("utf-8", "surrogatepass")
            yield len(encoded).to_bytes(8, "little") + encoded
        yield self.llm_ids
        yield self.vectors

    @cached_property
    def duplicates(self) -> list[tuple[int, ...]]:
        """See `Codebook.duplicates`."""
        if self.known is not None:
            return self.known.duplicates
        groups: dict[bytes, list[int]] = {}
        for row, values in enumerate(self.vectors.cpu().numpy()):
            groups.setdefault(hashlib.blake2b(values.data, digest_size=16).digest(), []).append(row)
        return [tuple(rows) for rows in groups.values() if len(rows) > 1]

    def from_source(self, source: str | None) -> CodebookData:
        """The same content as the whole of a source that `load` knows by name (None: of none)."""
        return replace(self, source=source, rows=None)

    def normalised(self, kind: str) -> CodebookData:
        """See `Codebook.normalised`."""
        if kind not in KINDS:
            raise ValueError(f"normalise: expected one of {', '.join(KINDS)}, got {kind!r}")
        if kind in ("none", self.normalisation):
            return self
        if self.normalisation != "none":
            raise ValueError(
                f"normalise: expected {self.normalisation!r}, by which this codebook is normalised already, "
                f"or 'none', got {kind!r}"
            )
        rows = torch.from_numpy(normalise_rows(self.vectors.cpu().numpy(), kind)).to(self.vectors.device)
        changed = CodebookData.of(
            self.words, rows, self.llm_ids, round_trips=self.round_trips, name=self.name, normalisation=kind
        )
        return replace(changed, source=self.source, rows=self.rows)

    def subset(self, ids: Tensor | Sequence[int], *, name: str | None = None) -> CodebookData:
        """See `Codebook.subset`."""
        rows = _checked_rows(ids, len(self))
        on_device = rows.to(self.vectors.device)
        # A mean over the whole table cannot be had from the rows: then the source does not make them again.
        source = self.source if self.normalisation in ("none", "unit") else None
        return CodebookData(
            [self.words[row] for row in rows.tolist()],
            self.vectors[on_device],
            trimmed(self.llm_ids[on_device]),
            self.round_trips[on_device],
            name or f"{self.name}[{len(rows)}]",
            self.normalisation,
            source,
            None if source is None else rows if self.rows is None else self.rows[rows],
        )

    def select(self, words: str | Mapping[str, Any] | WordChoice, limit: int | None = None) -> CodebookData:
        """See `Codebook.select`."""
        if not isinstance(words, str):
            choice = words if isinstance(words, WordChoice) else WordChoice.from_dict(words)
            rows = choose_words(self.words, self.vectors, choice, limit)
            return self.subset(rows, name=f"{self.name}[{choice.count} chosen]")
        if limit is None and words == "all":
            return self
        rows = selection.select(self.words, words)
        if not rows:
            raise ValueError(
                f"words: expected a kind that codebook {self.name!r} has words of, got {words!r}"
            )
        if limit is not None and not (isinstance(limit, int) and 1 <= limit <= len(rows)):
            raise ValueError(
                f"limit: expected 1 to {len(rows)} ({words} words) of codebook {self.name!r}, got {limit!r}"
            )
        return self.subset(rows[:limit], name=f"{self.name}[{words}]")

    def to(self, device: torch.device) -> CodebookData:
        """The same on a device, with all that is known of it."""
        twin = copy.copy(self)
        tensors = {"vectors": self.vectors, "llm_ids": self.llm_ids, "round_trips": self.round_trips}
        vars(twin).update({name: tensor.to(device) for name, tensor in tensors.items()})
        return twin


@dataclass(frozen=True)
class Known:
    """What was found out about a codebook's content: checksum and groups of equal rows."""

    checksum: str
    duplicates: list[tuple[int, ...]]


def _checked_rows(ids: Tensor | Sequence[int], count: int) -> Tensor:
    expected = f"expected integers [n] or a mask, bool [{count}], with at least one row to take"
    try:
        rows = torch.as_tensor(ids, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"ids: {expected}, got {type(ids).__name__} ({error})") from error
    if rows.dtype == torch.bool and rows.shape == (count,):
        rows = rows.nonzero()[:, 0]
    if rows.dtype == torch.bool or rows.is_floating_point() or rows.ndim != 1 or len(rows) == 0:
        raise ValueError(f"ids: {expected}, got {rows.dtype} {list(rows.shape)}")
    rows = rows.to(torch.int64)
    if (outside := (rows < 0) | (rows >= count)).any():
        raise ValueError(f"ids: expected 0 to {count - 1}, got {int(rows[outside][0])}")
    found, times = rows.unique(return_counts=True)
    if (times > 1).any():
        raise ValueError(f"ids: expected distinct rows, got {int(found[times > 1][0])} more than once")
    return rows
