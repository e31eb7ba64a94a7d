"""A codebook that trains, for the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from spae.checksum import checksum
from spae.codebook.checks import rows_by_word, rows_of
from spae.configs import Count, Decay, Weight, checked
from spae.models.batch_norm import same_dtype
from spae_ops import CodeIndex

Update = Literal["ema", "gradient"]
_EPSILON = 1e-5


class LearnedCodebook(nn.Module):
    """K vectors of width D that follow the latents; a code's "word" is its number, "<17>", in no language.

    A `CodeTable` like a `Codebook`, but in no language: it has no `llm_ids`, and unlike a frozen table its
    vectors are part of the state dict.

    update: "ema", each vector an exponential moving average of its queries (van den Oord et al. 2017,
        appendix A.1), or "gradient", by the loss that `learn` returns.
    decay: of the averages; those of the codes' uses are taken either way.
    revive_below: a code with fewer uses a batch, on average, takes the place of a random query of the batch.
        At the start none is used, so all codes start as queries of the first batch.

    `synchronised`, which the trainer sets, exchanges the averages between the processes of a distributed run.
    """

    vectors: Tensor
    sums: Tensor
    counts: Tensor
    llm_ids = None  # its words are in no language model's vocabulary

    def __init__(
        self, size: int, width: int, *, update: Update = "ema", decay: float = 0.99, revive_below: float = 0.1
    ) -> None:
        super().__init__()
        for name, value, hint in (
            *(("size", size, Count), ("width", width, Count), ("update", update, Update)),
            *(("decay", decay, Decay), ("revive_below", revive_below, Weight)),
        ):
            checked(name, value, hint)
        self.update, self.decay, self.revive_below = update, decay, revive_below
        self.synchronised = False
        self.words = [f"<{code}>" for code in range(size)]
        self._row_of = rows_by_word(self.words)
        self.name = f"learned-{size}"
        vectors = torch.randn(size, width) / width**0.5
        if update == "gradient":
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
            self.register_buffer("sums", torch.zeros(size, width))
        self.register_buffer("counts", torch.zeros(size))
        self._index: CodeIndex | None = None

    def __len__(self) -> int:
        return len(self.words)

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    @property
    def index(self) -> CodeIndex:
        """The vectors as they are now, prepared for lookups; it does not change with them.

        It is known to be of now by its values, which cost a comparison what one query costs a lookup: torch
        does not count what is written by a fused optimizer, through `.data` or by a NumPy view. Only a graph
        compiled in evaluation mode takes the vectors to stand still.
        """
        known = self._index
        traced = torch.compiler.is_compiling() and not self.training
        if known is None or not (traced or _equal(known.codes, self.vectors)):
            known = self._index = CodeIndex(self.vectors.detach().clone())
        return known

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) over the vectors as they are now."""
        return checksum([f"spae learned codebook {list(self.vectors.shape)}", self.vectors])

    def identity(self) -> dict[str, Any]:
        """What a checkpoint says of it: its vectors are in the weights, so only their shape."""
        shape = list(self.vectors.shape)
        return {"name": self.name, "shape": shape, "checksum": f"learned {shape}"}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearnedCodebook:
        return super()._apply(same_dtype(fn), recurse)  # lookups are float32, in every precision of a model

    def ids_of(self, words: Sequence[str]) -> Tensor:
        """Strings like "<17>" -> int64 [n]. Raises ValueError for any other."""
        return rows_of(words, self._row_of, self.name).to(self.vectors.device)

    def learn(self, queries: Tensor, ids: Tensor) -> Tensor | None:
        """Take in what was looked up. Call it once in each forward pass of training, after the lookups.

        queries: float [N, D]; no gradient reaches them. ids: int64 [N], the codes that were found for them.
        Returns mean ||sg(query) - code||^2 for "gradient", and None for "ema".
        """
        queries = queries.detach().float()
        loss = None
        if self.update == "gradient":
            loss = F.mse_loss(F.embedding(ids, self.vectors), queries)
        if self.training:
            self._follow(queries, ids)
        return loss

    @torch.no_grad()
    def _follow(self, queries: Tensor, ids: Tensor) -> None:
        size = len(self)
        uses = torch.bincount(ids, minlength=size).to(queries.dtype)
        self.counts.lerp_(self._summed(uses), 1 - self.decay)
        if self.update == "ema":
            sums = torch.zeros_like(self.sums).index_add_(0, ids, queries)
            self.sums.lerp_(self._summed(sums), 1 - self.decay)
            # Smoothed, so that a code without uses has no zero to divide by.
            total = self.counts.sum()
            smoothed = (self.counts + _EPSILON) / (total + size * _EPSILON) * total
            self.vectors.copy_(self.sums / smoothed[:, None])
        dead = (self.counts < self.revive_below).nonzero()[:, 0]
        if len(dead) and len(queries):
            # Drawn on the CPU, whose generator is the one that checkpoints restore everywhere.
            fresh = queries[torch.randint(len(queries), (len(dead),)).to(queries.device)]
            if self._shared:
                distributed.broadcast(fresh, 0)
            self.vectors[dead] = fresh
            self.counts[dead] = 1.0
            if self.update == "ema":
                self.sums[dead] = fresh

    @property
    def _shared(self) -> bool:
        return self.synchronised and distributed.is_initialized()

    def _summed(self, values: Tensor) -> Tensor:
        if self._shared:
            distributed.all_reduce(values)
        return values

    def extra_repr(self) -> str:
        return f"{len(self)} codes x {self.width}, update={self.update!r}"


def _equal(codes: Tensor, vectors: Tensor) -> bool:
    return codes.device == vectors.device and codes.dtype == vectors.dtype and torch.equal(codes, vectors)
