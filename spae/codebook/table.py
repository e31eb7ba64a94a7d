"""The frozen codebook: K words, a vector of width D for each, and each word's id in its LLM's vocabulary."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from spae.codebook import selection, storage
from spae.codebook.checks import aligned, copied, rows_by_word
from spae.codebook.normalisation import KINDS, normalise_rows
from spae_ops import CodeIndex

if TYPE_CHECKING:
    from spae.codebook.sources import Encode


class Codebook(nn.Module):
    """A frozen table of words and vectors; the e(k) of the SPAE paper (section 3).

    Nothing in it trains, and it is too large to be copied or synchronised by accident, so its tensors are
    neither parameters nor registered buffers, though they follow `.to(device)` as buffers do:

    - `state_dict()` of any module that holds it has no trace of it, nor has `parameters()` or `buffers()`;
      distributed wrappers therefore never broadcast it;
    - `.half()`, `.to(dtype)` and the like leave its values and float32 as they are;
    - `copy.deepcopy` shares the storage. Pickle writes everything.

    Attributes:
        words: K distinct strings. What the LLM's tokenizer writes for the id, leading space included; where
            that is not UTF-8 or not unique, the bytes as `<0xE2><0x96>`, with the id behind if that is not
            unique either, `<0x41><id 306>`. Not to be modified.
        vectors: float32 [K, D], the normalised rows. Not to be modified.
        llm_ids: int64 [K], each word's id in its LLM's vocabulary.
        round_trips: bool [K], whether the LLM's tokenizer reads the word, as text, as exactly that one id.
        name: which table this is, e.g. "smollm2".
        normalisation: what was done to the rows, one of "none", "centre", "unit", "centre+scale".
        source: the name by which `load` knows the table; None for any other table.
        rows: int64 [K], which rows of the source these are; None for all. Source, rows and normalisation
            make the codebook again.

    Args:
        words: K distinct strings, K >= 1.
        vectors: [K, D] finite floating-point, D >= 1; widened or rounded to float32. float32 is kept without
            a copy.
        llm_ids: int64 [K]; None means 0..K-1.
        round_trips: bool [K]; None means False everywhere (not known).

    Raises:
        TypeError, ValueError: naming the argument, what it was and what was expected.
    """

    words: list[str]
    name: str
    normalisation: str
    source: str | None = None
    rows: Tensor | None = None

    def __init__(
        self,
        words: Sequence[str],
        vectors: Tensor,
        llm_ids: Tensor | None = None,
        *,
        round_trips: Tensor | None = None,
        name: str = "custom",
        normalisation: str = "none",
    ) -> None:
        super().__init__()
        if vectors.ndim != 2 or 0 in vectors.shape or not vectors.is_floating_point():
            raise ValueError(
                "vectors: expected [K, D] floating-point with K, D >= 1, "
                f"got {list(vectors.shape)} {vectors.dtype}"
            )
        if normalisation not in KINDS:
            raise ValueError(f"normalisation: expected one of {', '.join(KINDS)}, got {normalisation!r}")
        count = len(vectors)
        self.words = list(words)
        self.name = name
        self.normalisation = normalisation
        self._vectors = vectors.detach().to(torch.float32).contiguous()
        self._llm_ids = aligned("llm_ids", llm_ids, torch.int64, self._vectors)
        self._round_trips = aligned("round_trips", round_trips, torch.bool, self._vectors)
        if len(self.words) != count:
            raise ValueError(f"words: expected one per row of vectors ({count}), got {len(self.words)}")
        self._rows = rows_by_word(self.words)
        if self._vectors.device.type != "meta":
            finite = torch.isfinite(self._vectors).all(dim=1)
            if not finite.all():
                row = int((~finite).nonzero()[0])
                raise ValueError(f"vectors: row {row} ({self.words[row]!r}) is not finite")
        self._index: CodeIndex | None = None
        self._checksum: str | None = None
        self._duplicates: list[tuple[int, ...]] | None = None

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        words: str = "all",
        limit: int | None = None,
        normalise: str = "none",
        encode: Encode | None = None,
        progress: bool = True,
    ) -> Codebook:
        """A codebook by name or from disk.

        Args:
            source: "smollm2" (49,152 x 576), "gemma3-65k" (65,536 x 640), "cl100k" (99,483 x the encoder's
                width), a folder written by `save`, or a GGUF file. The first use of a name fetches
                its model file (gemma3 only by `spae fetch gemma3`: its licence asks for a decision) and
                prepares its table, later ones map that into memory.
            words, limit: see `select`.
            normalise: see `normalised`; done last, over the chosen words.
            encode: only for "cl100k": the text encoder that gives the vectors, list of n texts -> [n, D].
                None means MiniLM (384 wide), computed once and cached; what another encoder gives is not
                cached (use `save`). An encoder's last bits, and so the checksum, may differ between hosts.
            progress: report long work on stderr.

        Raises:
            ValueError: no such name or path, or a folder whose content does not match its checksum.
            spae.assets.AssetNotCached: the model file must be fetched first; the message names the command.
        """
        from spae.codebook import sources

        whole = sources.load(source, encode=encode, progress=progress)
        return whole.select(words, limit).normalised(normalise)

    @classmethod
    def from_gguf(
        cls,
        path: str | os.PathLike[str],
        *,
        ids: Sequence[int] | None = None,
        name: str | None = None,
        cache: bool = True,
    ) -> Codebook:
        """The input embeddings and vocabulary of a GGUF file (needs the package gguf).

        Args:
            ids: LLM ids to take, in this order; None means all.
            name: the codebook's name; None means the file's stem.
            cache: keep the dequantised table in the cache, for as long as the file does not change.
        """
        from spae.codebook import sources

        return sources.from_gguf(path, ids=ids, name=name, cache=cache)

    @classmethod
    def from_transformers(cls, model: Any, tokenizer: Any = None, *, name: str | None = None) -> Codebook:
        """The input embeddings of a transformers model (or of the model in a folder) and its tokenizer's
        words.

        Args:
            model: a `PreTrainedModel`, or a folder that `AutoModelForCausalLM` loads.
            tokenizer: its tokenizer; may be None if `model` is a folder.
            name: the codebook's name; None means the model's own.
        """
        from spae.codebook import sources

        return sources.from_transformers(model, tokenizer, name=name)

    @classmethod
    def from_arrays(
        cls,
        words: Sequence[str],
        vectors: Tensor | np.ndarray,
        llm_ids: Tensor | np.ndarray | Sequence[int] | None = None,
        *,
        round_trips: Tensor | np.ndarray | Sequence[bool] | None = None,
        name: str = "custom",
    ) -> Codebook:
        """A codebook from arrays, which are copied; arguments as for `Codebook`."""
        return cls(
            words,
            copied(vectors),
            None if llm_ids is None else copied(llm_ids),
            round_trips=None if round_trips is None else copied(round_trips),
            name=name,
        )

    def __len__(self) -> int:
        return len(self.words)

    @property
    def vectors(self) -> Tensor:
        return self._vectors

    @property
    def llm_ids(self) -> Tensor:
        return self._llm_ids

    @property
    def round_trips(self) -> Tensor:
        return self._round_trips

    @property
    def width(self) -> int:
        """D, the length of each vector."""
        return self._vectors.shape[1]

    @property
    def device(self) -> torch.device:
        return self._vectors.device

    @property
    def index(self) -> CodeIndex:
        """The vectors prepared for searching; built at first use and again after a move to another device."""
        if self._index is None:
            self._index = CodeIndex(self._vectors)
        return self._index

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) over words, llm_ids, vectors and normalisation; the same on every device and host."""
        if self._checksum is None:
            digest = hashlib.sha256(
                f"spae codebook {storage.FORMAT} {self.normalisation} {len(self)} {self.width}".encode()
            )
            for word in self.words:
                encoded = word.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
            digest.update(np.ascontiguousarray(self._llm_ids.cpu().numpy(), dtype="<i8").data)
            digest.update(np.ascontiguousarray(self._vectors.cpu().numpy(), dtype="<f4").data)
            self._checksum = digest.hexdigest()
        return self._checksum

    def identity(self) -> dict[str, Any]:
        """What a checkpoint holds of the codebook: its name and the source's, normalisation, size and
        checksum."""
        return {
            "name": self.name,
            "source": self.source,
            "normalisation": self.normalisation,
            "shape": list(self._vectors.shape),
            "checksum": self.checksum,
        }

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] -> float32 [..., D]: the vectors of some words."""
        return self._vectors[ids]

    def ids_of(self, words: Sequence[str]) -> Tensor:
        """The row of each word: n strings -> int64 [n]; the inverse of `words`.

        Raises:
            ValueError: a word is not in the codebook; the message names it and its position.
        """
        if isinstance(words, str):
            raise TypeError(f"words: expected a sequence of words, got one string {words!r}")
        rows = []
        for position, word in enumerate(words):
            row = self._rows.get(word)
            if row is None:
                raise ValueError(f"words: no word {word!r} (position {position}) in codebook {self.name!r}")
            rows.append(row)
        return torch.tensor(rows, dtype=torch.int64, device=self.device)

    def duplicates(self) -> list[tuple[int, ...]]:
        """Groups of rows whose vectors are bitwise equal; a search only ever finds the first of each."""
        if self._duplicates is None:
            groups: dict[bytes, list[int]] = {}
            for row, values in enumerate(self._vectors.cpu().numpy()):
                groups.setdefault(hashlib.blake2b(values.data, digest_size=16).digest(), []).append(row)
            self._duplicates = [tuple(rows) for rows in groups.values() if len(rows) > 1]
        return self._duplicates

    def extra_repr(self) -> str:
        parts = [
            repr(self.name),
            f"{len(self)} words x {self.width}",
            f"normalisation={self.normalisation!r}",
        ]
        if self.device.type != "meta":
            repeated = sum(len(group) - 1 for group in self.duplicates())
            parts.append(f"{repeated} rows repeat an earlier one")
        return ", ".join(parts)

    def normalised(self, kind: str) -> Codebook:
        """The same words with rows normalised, computed in float64 and rounded once.

        - "none": the rows as they are, returns this codebook;
        - "centre": minus the mean row, c_k = e_k - mean_j e_j;
        - "unit": each row to unit norm, e_k / ||e_k||;
        - "centre+scale": centred, then over the root mean square norm, c_k / sqrt(mean_j ||c_j||^2).

        The mean runs over this codebook's own rows, so normalise after `subset` to centre the subset.

        Raises:
            ValueError: unknown kind; this codebook is normalised in another way already; a norm of zero.
        """
        if kind not in KINDS:
            raise ValueError(f"normalise: expected one of {', '.join(KINDS)}, got {kind!r}")
        if kind in ("none", self.normalisation):
            return self
        if self.normalisation != "none":
            raise ValueError(
                f"normalise: this codebook is normalised by {self.normalisation!r} already, got {kind!r}"
            )
        rows = normalise_rows(self._vectors.cpu().numpy(), kind)
        changed = self._like(
            self.words, torch.from_numpy(rows).to(self.device), slice(None), normalisation=kind
        )
        changed.source, changed.rows = self.source, self.rows
        return changed

    def subset(self, ids: Tensor | Sequence[int], *, name: str | None = None) -> Codebook:
        """Some of the words, with their vectors as they are here.

        Args:
            ids: the rows to take, int64 [n] distinct, in this order; or a mask, bool [K]. At least one row.
            name: the new codebook's name; None means this one's with the count.
        """
        rows = torch.as_tensor(ids, device="cpu")
        if rows.dtype == torch.bool and rows.shape == (len(self),):
            rows = rows.nonzero()[:, 0]
        if rows.dtype == torch.bool or rows.is_floating_point() or rows.ndim != 1 or len(rows) == 0:
            raise ValueError(
                f"ids: expected integers [n] or a mask, bool [{len(self)}], with at least one row to take, "
                f"got {rows.dtype} {list(rows.shape)}"
            )
        rows = rows.to(torch.int64)
        if (outside := (rows < 0) | (rows >= len(self))).any():
            raise ValueError(f"ids: expected 0 to {len(self) - 1}, got {int(rows[outside][0])}")
        if len(rows.unique()) != len(rows):
            raise ValueError("ids: expected distinct rows, some are repeated")
        words = [self.words[row] for row in rows.tolist()]
        on_device = rows.to(self.device)
        taken = self._like(
            words, self._vectors[on_device], on_device, name=name or f"{self.name}[{len(rows)}]"
        )
        # A mean over the whole table cannot be had from the rows: then the source does not make them again.
        if self.normalisation in ("none", "unit"):
            taken.source = self.source
            taken.rows = None if self.source is None else rows if self.rows is None else self.rows[rows]
        return taken

    def select(self, words: str, limit: int | None = None) -> Codebook:
        """The first `limit` (None: all) of the words of one kind; in most tables the first are the most
        frequent.

        words: "all"; "word-like", word-initial lower-case pieces: a space and then at least three letters,
            none upper-case; or "nouns", those that are singular nouns in WordNet (asset "wordnet").

        Raises ValueError for another kind, fewer than `limit` such words, or none.
        """
        if limit is None and words == "all":
            return self
        rows = selection.select(self.words, words)
        if not rows:
            raise ValueError(f"words: codebook {self.name!r} has no {words} words")
        if limit is not None and not 1 <= limit <= len(rows):
            raise ValueError(f"limit: codebook {self.name!r} has {len(rows)} {words} words, got {limit}")
        return self.subset(rows[:limit], name=f"{self.name}[{words}]")

    def word_like(self, limit: int | None = None) -> Codebook:
        """`select("word-like", limit)`."""
        return self.select("word-like", limit)

    def _like(self, words: list[str], vectors: Tensor, rows: Any, **changes: str) -> Codebook:
        return Codebook(
            words,
            vectors,
            self._llm_ids[rows],
            round_trips=self._round_trips[rows],
            name=changes.get("name", self.name),
            normalisation=changes.get("normalisation", self.normalisation),
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `codebook.safetensors` and `codebook.json` into a folder (made if need be), for `load`."""
        storage.write(self, Path(folder))

    def _recall(self, checksum: str, duplicates: list[tuple[int, ...]]) -> None:
        """Take over what is known about the content without computing it again."""
        self._checksum, self._duplicates = checksum, duplicates

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        super()._apply(fn, recurse)
        # `fn` may change device and dtype at once, or fill with garbage (to_empty). An empty probe tells the
        # device, which is all that a frozen table follows.
        device = fn(torch.empty(0, device=self.device)).device
        if device != self.device:
            self._vectors = self._vectors.to(device)
            self._llm_ids = self._llm_ids.to(device)
            self._round_trips = self._round_trips.to(device)
            # Built here again rather than at the next use, which torch.compile may be tracing.
            prepared = self._index is not None and device.type != "meta"
            self._index = CodeIndex(self._vectors) if prepared else None
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Codebook:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        # Tensors, words and index never change in place, so the twin shares them; only nn.Module's own
        # registries (hooks, mainly) are copied.
        own = vars(nn.Module())
        vars(twin).update({k: copy.copy(v) if k in own else v for k, v in vars(self).items()})
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_index": None}
