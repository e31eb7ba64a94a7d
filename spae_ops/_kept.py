"""What an implementation prepares of the codebook in an exported program: at its first lookup, then kept.

A program that held it beside the codebook would be three times as large, and would only run where the same
implementation does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from spae_ops import _checks

LAYOUT = "kept/1"  # in place of that of an implementation
_MADE: Any = WeakIdKeyDictionary()  # by tensor: its version, and what was prepared of it by layout


def kept(codes: Tensor, layout: str, prepare: Callable[[Tensor], Any]) -> Any:
    """``prepare(codes)``, which is of this layout; once, for as long as the tensor lives and stays as it is.

    Raises ValueError for codes that are not finite.
    """
    current = None if codes.is_inference() else codes._version
    known = _MADE.get(codes)
    if known is None or known[0] != current:
        _checks.check_finite("codes", codes)
        known = _MADE[codes] = current, {}
    made = known[1]
    if layout not in made:
        with torch.inference_mode(False):
            made[layout] = prepare(codes)
    return made[layout]
