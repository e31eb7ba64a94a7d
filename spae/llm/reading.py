"""Reading prompts with a model of transformers: several as one sequence, behind what was read before."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spae.llm.protocol import Prefix

if TYPE_CHECKING:
    from spae.llm.memory import Memory

_ATTENTION = {"full_attention", "sliding_attention"}


class Network:
    """A model of transformers, frozen, and asked in one way whatever its version and its kinds of layers.

    Raises:
        ValueError: a layer is not attention.
    """

    def __init__(self, model: Any) -> None:
        self.config = model.config.get_text_config()
        self._layer_types = frozenset(getattr(self.config, "layer_types", None) or ())
        if unknown := set(self._layer_types) - _ATTENTION:
            raise ValueError(
                f"model: expected attention in every layer ({', '.join(_ATTENTION)}), got {unknown}"
            )
        from spae.llm.attention import use_grouped_attention

        self._model = model.eval().requires_grad_(False)
        # Later versions of transformers 5 call it `cache`, and warn of the old name.
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        use_grouped_attention(model)
        self._sliding_window: int | None = getattr(self.config, "sliding_window", None)

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def name(self) -> str:
        return type(self._model).__name__

    @contextmanager
    def trainable(self) -> Iterator[Any]:
        """See `LocalLLM.trainable`."""
        usual = self.config._attn_implementation
        self._model.set_attn_implementation("sdpa" if usual == "spae" else usual)
        try:
            yield self._model
        finally:
            self._model.set_attn_implementation(usual)

    @contextmanager
    def more_embeddings(self, known: int, rows: Tensor) -> Iterator[None]:
        """Inside, ids from `known` on stand for rows [n, D] in place of embeddings."""
        usual = self._model.get_input_embeddings()
        # Models may have more embeddings than ids that they know.
        self._model.set_input_embeddings(_MoreEmbeddings(usual, known, rows.detach()))
        try:
            yield
        finally:
            self._model.set_input_embeddings(usual)

    @torch.no_grad()
    def logits(
        self,
        ids: list[int],
        positions: Tensor,
        keep: list[int],
        seen: Tensor | None,
        everywhere: Tensor,
        memory: Memory,
    ) -> Tensor:
        """Read more tokens; float32 logits [len(keep), V] after the kept ones of them.

        positions: int64 [new], of `ids`; everywhere: int64 [all], those of the memory and of `ids`.
        seen: bool [new, all], which of all tokens each of `ids` sees; None: those before it.
        """
        device = self.device
        output = self._model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=positions[None].to(device),
            attention_mask=None if seen is None else self._masks(seen, positions[:, None] - everywhere),
            use_cache=True,
            logits_to_keep=torch.tensor(keep, dtype=torch.int64, device=device),
            **{self._cache_argument: memory.cache},
        )
        return output.logits[0].float()

    def _masks(self, seen: Tensor, distance: Tensor) -> Any:
        """`seen` as the model takes it, bool [1, 1, new, all]: by kind of layer where it has several."""
        full = seen[None, None].to(self.device)
        kinds = self._layer_types
        if self._sliding_window is None or kinds == {"full_attention"}:
            return full
        near = (seen & (distance < self._sliding_window))[None, None].to(self.device)
        masks = {"full_attention": full, "sliding_attention": near}
        return {kind: masks[kind] for kind in kinds} if kinds else near


class _MoreEmbeddings(nn.Module):
    """Another module's embeddings of ids below `known`, and rows [n, D] for those from there on."""

    def __init__(self, usual: nn.Embedding, known: int, rows: Tensor) -> None:
        super().__init__()
        self.usual, self.known = usual, known
        self.weight = usual.weight  # which some models look for
        self.rows = rows.to(self.weight.device, self.weight.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        more = ids >= self.known
        embedded = self.usual(ids.masked_fill(more, 0))
        return torch.where(more[..., None], self.rows[(ids - self.known).clamp_min(0)], embedded)


@dataclass(frozen=True, eq=False)
class ReadPrefix:
    """A prompt's beginning, read: its ids, and the memory that begins with them."""

    ids: tuple[int, ...]
    memory: Memory


def check_prefix(prefix: Prefix | None) -> ReadPrefix | None:
    """`prefix`, if it is one of a model on this machine.

    Raises:
        TypeError: it is another's.
    """
    if prefix is not None and not isinstance(prefix, ReadPrefix):
        raise TypeError(f"prefix: expected what this model's prefix() returned, got {type(prefix).__name__}")
    return prefix


class Reading:
    """Some prompts behind a prefix, as one growing sequence.

    Prompts are rows, numbered from 0. What several of them begin with is read once: a token belongs to every
    row whose text it is part of, and sees those before it that all of its rows share.
    """

    def __init__(self, network: Network, prefix: Prefix | None) -> None:
        from spae.llm.memory import Memory

        checked = check_prefix(prefix)
        self._network = network
        self.memory = checked.memory.behind(len(checked.ids)) if checked else Memory().behind(0)
        self._start = len(checked.ids) if checked else 0
        self._ends: dict[int, tuple[int, int]] = {}  # of each row: its last token, and how many it has
        self._members = torch.empty(0, 0)  # 1 where a token belongs to a row
        self._positions = torch.empty(0, dtype=torch.int64)

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *error: object) -> None:
        self.memory.close()

    def read(self, tokens: list[list[int]], owners: list[int], keep: list[int]) -> Tensor:
        """Append tokens[i] to row owners[i], the first time to all rows; float32 logits [len(keep), V] after
        the kept ones of the tokens of all i in order."""
        known = len(self._positions)
        places: dict[tuple[int, int], int] = {}  # of a token behind another
        new, positions, members = [], [], []
        for ids, row in zip(tokens, owners, strict=True):
            end, length = self._ends.get(row, (-1, 0))
            for token in ids:
                end = places.setdefault((end, token), known + len(new))
                if end == known + len(new):
                    new.append(token)
                    positions.append(self._start + length)
                length += 1
                members.append((end - known, row))
            self._ends[row] = end, length
        new_positions = torch.tensor(positions)
        new_members = torch.zeros(len(new), len(self._ends))
        new_members[tuple(torch.tensor(members).T)] = 1
        self._positions = torch.cat([self._positions, new_positions])
        self._members = torch.cat([self._members.reshape(known, len(self._ends)), new_members])
        seen = None if self._members.all() else self._seen(new_members, new_positions)
        everywhere = torch.cat([torch.arange(self._start), self._positions])
        after = [members[i][0] for i in keep]
        return self._network.logits(new, new_positions, after, seen, everywhere, self.memory)

    def _seen(self, members: Tensor, positions: Tensor) -> Tensor:
        """Who sees whom, bool [new, all]: the prefix, and what stands before in all rows of a token."""
        elsewhere = members @ (1 - self._members).T  # how many rows of the one the other does not belong to
        seen = (elsewhere == 0) & (positions[:, None] >= self._positions)
        return torch.cat([torch.ones(len(members), self._start, dtype=torch.bool), seen], dim=1)
