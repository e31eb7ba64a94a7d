"""The likeliest next tokens of many prompts, by whatever a language model offers for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from spae.configs import Count, checked
from spae.llm.protocol import FrozenLLM, Prefix


@runtime_checkable
class Ranks(Protocol):
    """A language model that ranks next tokens itself, as one on this machine does."""

    def likeliest(
        self, prompts: Sequence[Sequence[int]], k: int, *, allowed: Tensor, prefix: Prefix | None = None
    ) -> Tensor: ...


def likeliest(
    llm: FrozenLLM,
    prompts: Sequence[Sequence[int]],
    k: int,
    *,
    allowed: Tensor,
    prefix: Prefix | None = None,
) -> Tensor:
    """The k likeliest next ids of each prompt, int64 [B, k], likeliest first, the lowest of equals.

    allowed: the ids that count, int64 [m] ascending, m >= k. prefix: what all prompts begin with, read
    already.

    A model that does not rank is asked for the likeliest, then for the likeliest of the others, and so on: B
    prompts at once the first time, one by one from then on.
    """
    checked("k", k, Count)
    if len(allowed) < k:
        raise ValueError(f"allowed: expected at least {k} ids, got {len(allowed)}")
    if isinstance(llm, Ranks):
        return llm.likeliest(prompts, k, allowed=allowed, prefix=prefix)
    found = llm.generate(prompts, 1, prefix=prefix, allowed=[allowed])
    while found.shape[1] < k:
        rest = [allowed[~torch.isin(allowed, row)] for row in found]
        following = [
            llm.generate([prompt], 1, prefix=prefix, allowed=[ids])
            for prompt, ids in zip(prompts, rest, strict=True)
        ]
        found = torch.cat([found, torch.cat(following)], dim=1)
    return found
