"""A frozen table of words seen through a projector that trains: V2L's local codebook, or a whole SPAE's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spae.codebook import Codebook
from spae.models.batch_norm import same_dtype
from spae_ops import CodeIndex, Pyramid, layer_queries, nearest_code


class Seen(NamedTuple):
    """What an index was made of: the rows, and the projector's values then."""

    rows: Tensor
    values: tuple[Tensor, ...]
    index: CodeIndex


class ProjectedWords(nn.Module):
    """Some rows of a frozen table, each e(k) projected to P e(k) + b (V2L's P-LLM embeddings), or as it is.

    The table's vectors are arguments, as they are in no state dict; `projector` alone trains, in float32 in
    every precision of a model. Lookups take an index of the projected rows, which is made anew where the
    projector has moved since, at most once for each of its steps, and never in inference. Without a projector
    it is made once.

    width: of the table. dim: of the projected rows; None: no projector.
    """

    def __init__(self, width: int, dim: int | None) -> None:
        super().__init__()
        self.projector = None if dim is None else nn.Linear(width, dim)
        self.dim = width if dim is None else dim
        self._seen: Seen | None = None

    @torch.no_grad()
    def start(self, vectors: Tensor, name: str = "local_dim", *, keep_norm: bool = False) -> None:
        """Begin with the whitening of the vectors, [K, width] with K > 1: their leading principal directions,
        each with mean 0 and the same variance over the K, so that latents of those statistics meet words
        everywhere. V2L does not say how its projector begins.

        keep_norm: the variance that leaves the rows' mean squared distance from their mean as it is, and
        with it what a temperature means; else 1.

        Raises ValueError, which calls `dim` by `name`, for vectors of fewer directions.
        """
        if self.projector is None:
            return
        rows = vectors.detach().double().cpu()
        mean = rows.mean(0)
        variances, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        wanted = float(variances.sum()) / self.dim if keep_norm else 1.0
        variances, directions = variances.flip(0)[: self.dim], directions.flip(1)[:, : self.dim]
        if self.dim > len(rows[0]) or variances[-1] < 1e-9 * variances[0]:
            rank = int((variances >= 1e-9 * variances[0]).sum())
            raise ValueError(f"{name}: expected at most {rank}, the table's rank, got {self.dim}")
        weight = (directions * (wanted / variances).sqrt()).T
        self.projector.weight.copy_(weight)
        self.projector.bias.copy_(-(weight @ mean))

    def forward(self, vectors: Tensor) -> Tensor:
        """Rows of the table [.., width] to float32 [.., dim]; differentiable in the projector."""
        if self.projector is None:
            return vectors
        with torch.autocast(vectors.device.type, enabled=False):
            return self.projector(vectors.float())

    def lookup(self, z: Tensor, rows: Tensor, vectors_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Which of the table's `rows`, int64 [m] ascending, is the nearest when projected, for latents
        [B, D, *grid]: int64 [B, *grid], the lowest of equals.

        vectors_of: rows to their vectors [m, width]; called where the index is made.
        """
        queries = z.detach().movedim(1, -1).contiguous()
        return rows[nearest_code(queries, self.index(rows, vectors_of)).ids]

    def index(self, rows: Tensor, vectors_of: Callable[[Tensor], Tensor]) -> CodeIndex:
        """The projected rows as they are now, prepared for lookups.

        It is known to be of now by the projector's values, which are few: torch does not count what fused
        optimizers write.
        """
        values = () if self.projector is None else tuple(self.projector.parameters())
        seen = self._seen
        if seen is not None and torch.compiler.is_compiling() and not self.training:
            return seen.index  # a graph compiled in evaluation mode takes the projector to stand still
        if seen is None or not _same((seen.rows, *seen.values), (rows, *values)):
            with torch.no_grad():
                index = CodeIndex(self(vectors_of(rows)).contiguous())
            seen = self._seen = Seen(rows, tuple(value.detach().clone() for value in values), index)
        return seen.index

    def loss(self, z: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        """V2L's terms between latents [B, D, *grid] and the projected words there: "commitment",
        mean ||F - sg(Fhat)||^2, and, where there is a projector to train, "codebook", mean
        ||sg(F) - Fhat||^2."""
        terms = {"commitment": F.mse_loss(z, chosen.detach())}
        if self.projector is not None:
            terms["codebook"] = F.mse_loss(chosen, z.detach())
        return terms

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ProjectedWords:
        self._seen = None
        return super()._apply(same_dtype(fn), recurse)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_seen": None}


class ProjectedTable(nn.Module):
    """A whole codebook through a projector, as the table that latents are looked up in (`VectorTable`). Its
    rows are the codebook's, so ids stay words.

    codebook: frozen; no part of this module. dim: of the projected rows. learned: whether the projector
    trains, else it stays the principal directions that it begins with (`ProjectedWords.start`).
    """

    def __init__(self, codebook: Codebook, dim: int, *, learned: bool) -> None:
        super().__init__()
        self._codebook = (codebook,)  # in a tuple, where torch does not look for parts
        self.words = ProjectedWords(codebook.width, dim)
        self.words.start(codebook.vectors, "word_dim", keep_norm=True)
        self.learned = learned
        self.words.requires_grad_(learned)

    def __len__(self) -> int:
        return len(self._codebook[0])

    @property
    def width(self) -> int:
        return self.words.dim

    @property
    def vectors(self) -> Tensor:
        """float32 [K, D], as they are now, without a gradient."""
        with torch.no_grad():
            return self.words(self._codebook[0].vectors)

    @property
    def index(self) -> CodeIndex:
        vectors = self._codebook[0].vectors
        return self.words.index(torch.arange(len(vectors), device=vectors.device), vectors.__getitem__)

    def loss(self, z: Tensor, ids: Tensor, pyramid: Pyramid, rule: str) -> dict[str, Tensor]:
        """The term "codebook": mean over lookups of ||sg(z_l) - e(c)||^2, a mean over channels too, by which
        the projector follows latents [B, D, *shape] with codes int64 [B, n]. None if it does not train."""
        if not self.learned:
            return {}
        index, z = self.index, z.detach()
        queries = [
            layer_queries(z, ids, index, pyramid, layer, rule=rule) for layer in range(pyramid.num_layers)
        ]
        return {"codebook": F.mse_loss(self.words(self._codebook[0](ids)), torch.cat(queries, 1))}


def _same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(
        a is b or (a.device == b.device and torch.equal(a, b)) for a, b in zip(one, other, strict=True)
    )
