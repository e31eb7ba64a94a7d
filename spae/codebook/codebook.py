"""The frozen codebook: K words, a vector of width D for each, and each word's id in its LLM's vocabulary."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, compiler, device, int64, nn

from spae.codebook import sources, storage
from spae.codebook.checks import copied, rows_of
from spae.codebook.choice import WordChoice
from spae.codebook.data import CodebookData
from spae.codebook.sources import Encode, gguf, transformers
from spae.frozen import target_device
from spae_ops import CodeIndex


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
        llm_ids: int64 [K], each word's id in its LLM's vocabulary; or int64 [K, n] where words have up to
            n > 1 ids, -1 behind each word's last.
        round_trips: bool [K], whether the LLM's tokenizer reads the word, as text, as exactly its ids.
        name: which table this is, e.g. "smollm2".
        normalisation: what was done to the rows, one of "none", "centre", "unit", "centre+scale".
        source: the name by which `load` knows the table; None for any other table.
        rows: int64 [K], which rows of the source these are; None for all. Source, rows and normalisation
            make the codebook again.

    Args:
        words: K distinct strings, K >= 1.
        vectors: [K, D] finite floating-point, D >= 1; widened or rounded to float32. float32 is kept without
            a copy.
        llm_ids: int64 [K] or [K, n]; None means 0..K-1.
        round_trips: bool [K]; None means False everywhere (not known).

    Raises:
        TypeError, ValueError: naming the argument, what it was and what was expected.
    """

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
        self._data = CodebookData.of(
            words, vectors, llm_ids, round_trips=round_trips, name=name, normalisation=normalisation
        )
        self._index: CodeIndex | None = None

    @classmethod
    def from_data(cls, data: CodebookData) -> Codebook:
        """The module on top of what `data` holds already checked."""
        codebook = cls.__new__(cls)
        nn.Module.__init__(codebook)
        codebook._data, codebook._index = data, None
        return codebook

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        words: str | Mapping[str, Any] | WordChoice = "all",
        limit: int | None = None,
        normalise: str = "none",
        encode: Encode | None = None,
        progress: bool = True,
    ) -> Codebook:
        """A codebook by name or from disk.

        Args:
            source: "smollm2" (49,152 x 576), "gemma3-65k" (65,536 x 640), "llama2" (LLaMA-2's 32,000 words,
                x 256 from WordLlama), "cl100k" (99,483 x the encoder's width), a folder written by `save`,
                or a GGUF file. The first use of a name fetches its model file (gemma3 only by `spae fetch
                gemma3`: its licence asks for a decision) and prepares its table, later ones map that into
                memory.
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
        whole = sources.load(source, encode=encode, progress=progress)
        return cls.from_data(whole.select(words, limit).normalised(normalise))

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
        return cls.from_data(gguf.read(path, ids=ids, name=name, cache=cache))

    @classmethod
    def from_transformers(cls, model: Any, tokenizer: Any = None, *, name: str | None = None) -> Codebook:
        """The input embeddings of a transformers model (or of the model in a folder) and its tokenizer's
        words.

        Args:
            model: a `PreTrainedModel`, or a folder that `AutoModelForCausalLM` loads.
            tokenizer: its tokenizer; may be None if `model` is a folder.
            name: the codebook's name; None means the model's own.
        """
        return cls.from_data(transformers.read(model, tokenizer, name=name))

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
            copied("vectors", vectors),
            None if llm_ids is None else copied("llm_ids", llm_ids),
            round_trips=None if round_trips is None else copied("round_trips", round_trips),
            name=name,
        )

    def __len__(self) -> int:
        return len(self._data)

    @property
    def data(self) -> CodebookData:
        """All of it as plain data, on the device where it lies now."""
        return self._data

    @property
    def words(self) -> list[str]:
        return self._data.words

    @property
    def name(self) -> str:
        return self._data.name

    @property
    def normalisation(self) -> str:
        return self._data.normalisation

    @property
    def source(self) -> str | None:
        return self._data.source

    @property
    def rows(self) -> Tensor | None:
        return self._data.rows

    @property
    def vectors(self) -> Tensor:
        return self._data.vectors

    @property
    def llm_ids(self) -> Tensor:
        return self._data.llm_ids

    @property
    def round_trips(self) -> Tensor:
        return self._data.round_trips

    @property
    def width(self) -> int:
        """D, the length of each vector."""
        return self._data.vectors.shape[1]

    @property
    def device(self) -> device:
        return self._data.vectors.device

    @property
    def index(self) -> CodeIndex:
        """The vectors prepared for searching; built at first use and again after a move to another device."""
        if self._index is None:
            self._index = CodeIndex(self.vectors)
        return self._index

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) over words, llm_ids, vectors and normalisation; the same on every device and host."""
        return self._data.checksum

    def identity(self) -> dict[str, Any]:
        """What a checkpoint holds of the codebook: its name and the source's, normalisation, size and
        checksum."""
        return {
            "name": self.name,
            "source": self.source,
            "normalisation": self.normalisation,
            "shape": list(self.vectors.shape),
            "checksum": self.checksum,
        }

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] -> float32 [..., D]: the vectors of some words. Raises ValueError for ids that are no
        rows, but in a compiled graph."""
        if not isinstance(ids, Tensor) or ids.dtype != int64:
            raise TypeError(f"ids: expected int64, got {getattr(ids, 'dtype', type(ids).__name__)}")
        if ids.numel() and not compiler.is_compiling() and ids.device.type != "meta":
            low, high = (int(bound) for bound in ids.aminmax())
            if low < 0 or high >= len(self):
                raise ValueError(f"ids: expected 0 to {len(self) - 1}, got {low} to {high}")
        return self.vectors[ids]

    def ids_of(self, words: Sequence[str]) -> Tensor:
        """The row of each word: n strings -> int64 [n]; the inverse of `words`.

        Raises:
            ValueError: a word is not in the codebook; the message names it and its position.
        """
        return rows_of(words, self._data.row_of, self.name).to(self.device)

    def duplicates(self) -> list[tuple[int, ...]]:
        """Groups of rows whose vectors are bitwise equal; a search only ever finds the first of each."""
        return self._data.duplicates

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
        return self._of(self._data.normalised(kind))

    def subset(self, ids: Tensor | Sequence[int], *, name: str | None = None) -> Codebook:
        """Some of the words, with their vectors as they are here.

        Args:
            ids: the rows to take, int64 [n] distinct, in this order; or a mask, bool [K]. At least one row.
            name: the new codebook's name; None means this one's with the count.
        """
        return self._of(self._data.subset(ids, name=name))

    def select(self, words: str | Mapping[str, Any] | WordChoice, limit: int | None = None) -> Codebook:
        """The first `limit` (None: all) of the words of one kind; in most tables the first are the most
        frequent.

        words: "all"; "word-like", word-initial lower-case pieces: a space and then at least three letters,
            none upper-case; or "nouns", those that are singular nouns in WordNet (asset "wordnet"). Or a
            `WordChoice` (or its fields): some words by name, and of the first `limit` of a kind those that
            lie far apart.

        Raises ValueError for another kind, fewer than `limit` such words, or none.
        """
        return self._of(self._data.select(words, limit))

    def word_like(self, limit: int | None = None) -> Codebook:
        """`select("word-like", limit)`."""
        return self.select("word-like", limit)

    def _of(self, data: CodebookData) -> Codebook:
        return self if data is self._data else Codebook.from_data(data)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `codebook.safetensors` and `codebook.json` into a folder (made if need be), for `load`."""
        storage.write(self._data, Path(folder))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        super()._apply(fn, recurse)
        device = target_device(fn, self.device)
        if device != self.device:
            self._data = self._data.to(device)
            # Built here again rather than at the next use, which torch.compile may be tracing.
            prepared = self._index is not None and device.type != "meta"
            self._index = CodeIndex(self.vectors) if prepared else None
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Codebook:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        # Data and index never change in place, so the twin shares them; only nn.Module's own
        # registries (hooks, mainly) are copied.
        own = vars(nn.Module())
        vars(twin).update({k: copy.copy(v) if k in own else v for k, v in vars(self).items()})
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_index": None}
