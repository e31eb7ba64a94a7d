"""Attention on CPUs: for heads that share keys and values, and for processors that multiply bfloat16."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "spae"
_ROWS = 64  # queries whose scores are held at a time: they stay in a core's cache
_WORTH_BLOCKS = 32


def use_grouped_attention(model: Any) -> None:
    """Where a model attends through torch's `scaled_dot_product_attention`, let it do so by `attend`."""
    if model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(_NAME, attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa attention, but on a CPU

    - bfloat16 goes through `blocks_of_rows` where the processor multiplies it;
    - else, under a mask, torch's kernel is told which heads share keys. transformers copies these for every
      head, for GPUs have no kernel that takes both. On a CPU the copies of a long prompt's keys and values
      take longer than the attention of a few tokens to them.

    Shapes: query [B, H, q, d], key and value [B, H_kv, n, d]; returns [B, q, H, d].
    """
    plain = position_bias is None and softcap is None and query.device.type == "cpu"
    causal = options.get("is_causal")
    causal = attention_mask is None and (getattr(module, "is_causal", True) if causal is None else causal)
    if plain and _suits_blocks(query, attention_mask, causal):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        mask = None if attention_mask is None else attention_mask[0, 0]
        return blocks_of_rows(query[0], key[0], value[0], mask, scale)[None], None
    if attention_mask is None or not plain:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            position_bias=position_bias,
            softcap=softcap,
            **options,
        )
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


def blocks_of_rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention by two products of bfloat16 matrices for a block of queries at a time.

    The scores are rounded to bfloat16 where torch's own kernel keeps float32, but on CPUs that one multiplies
    in float32.

    Shapes: query [H, q, d], key and value [H_kv, n, d], mask bool [q, n], True = seen; None: the queries are
    the last of the n, and each sees those up to itself. Returns [q, H, d].
    """
    heads, num_queries, width = query.shape
    groups, num_keys = key.shape[:2]
    shared = heads // groups
    output = query.new_empty(num_queries, heads, width)
    query = (query * scale).view(groups, shared, num_queries, width)
    keys = key.transpose(1, 2)
    # Most keys are seen by all queries, or by none of a block: those need no masking.
    by_all = 0 if mask is None else int(mask.all(0).long().cumprod(0).sum())
    for start in range(0, num_queries, _ROWS):
        rows = slice(start, min(start + _ROWS, num_queries))
        count = rows.stop - start
        if mask is None:
            seen = num_keys - num_queries + rows.stop
            masked, hidden = slice(seen - count, seen), _later(count)
        else:
            seen = int(mask[rows].any(0).nonzero().max()) + 1
            masked = slice(by_all, seen)
            hidden = ~mask[rows, masked]
        scores = torch.bmm(query[:, :, rows].reshape(groups, shared * count, width), keys[:, :, :seen])
        scores.view(groups, shared, count, seen)[..., masked].masked_fill_(hidden, -torch.inf)
        found = torch.bmm(scores.softmax(-1), value[:, :seen])
        output[rows] = found.view(heads, count, width).transpose(0, 1)
    return output


def _suits_blocks(query: Tensor, mask: Tensor | None, causal: bool) -> bool:
    """One sequence in bfloat16, long enough, with a mask of the one form that `blocks_of_rows` takes."""
    batch, _, length, _ = query.shape
    known = causal if mask is None else mask.dtype == torch.bool and mask.shape[:2] == (1, 1)
    long = batch == 1 and length >= _WORTH_BLOCKS
    return query.dtype == torch.bfloat16 and long and known and _multiplies_bfloat16()


@cache
def _later(count: int) -> Tensor:
    return torch.ones(count, count, dtype=torch.bool).triu_(1)


@cache
def _multiplies_bfloat16() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
