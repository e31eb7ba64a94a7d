"""Attention on CPUs for models whose heads share keys and values."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "spae"


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
    """transformers' sdpa attention; but under a mask, a CPU's kernel is told which heads share keys.

    transformers copies these for every head, for GPUs have no kernel that takes both. On a CPU the copies of
    a long prompt's keys and values take longer than the attention of a few tokens to them.

    Shapes: query [B, H, q, d], key and value [B, H_kv, n, d]; returns [B, q, H, d].
    """
    plain = position_bias is None and softcap is None
    if attention_mask is None or not plain or query.device.type != "cpu":
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
