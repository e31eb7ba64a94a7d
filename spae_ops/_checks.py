"""The checks of every op: each error names the argument, what came and what was expected.

Static checks (shapes, dtypes, devices) run in the api modules and trace under torch.compile. Checks that read
values (finite, ids in range, a mask that allows something) run inside the registered ops, where no graph can
break.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ArgumentTypeError(TypeError, ValueError):
    """An argument of the wrong type or dtype. Every bad argument is a ValueError; this one is a TypeError
    too."""


QUERY_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DIFFERENTIABLE_DTYPES = (*QUERY_DTYPES, torch.float64)


def dtype_names(dtypes: Sequence[torch.dtype]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def check_tensor(name: str, value: object, dtypes: Sequence[torch.dtype]) -> None:
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise ArgumentTypeError(
            f"{name}: expected dtype {dtype_names(dtypes)}, got {dtype_names([value.dtype])}"
        )


def check_codes(name: str, codes: Tensor) -> None:
    check_tensor(name, codes, QUERY_DTYPES)
    if codes.ndim != 2:
        raise ValueError(f"{name}: expected shape [K, D], got {list(codes.shape)}")
    if codes.shape[0] == 0 or codes.shape[1] == 0:
        raise ValueError(f"{name}: expected a codebook with K >= 1 and D >= 1, got shape {list(codes.shape)}")


def check_device(name: str, value: Tensor, codes: Tensor) -> None:
    if value.device != codes.device:
        raise ValueError(f"{name}: expected the codebook's device {codes.device}, got {value.device}")


def check_queries(name: str, x: Tensor, codes: Tensor, dtypes: Sequence[torch.dtype] = QUERY_DTYPES) -> None:
    """x [.., D] against codes [K, D]."""
    check_tensor(name, x, dtypes)
    if x.ndim < 1 or x.shape[-1] != codes.shape[1]:
        raise ValueError(
            f"{name}: expected shape [.., {codes.shape[1]}] (D of the codebook), got {list(x.shape)}"
        )
    check_device(name, x, codes)


def check_latents(name: str, z: Tensor, shape: Sequence[int], width: int | None = None) -> None:
    """z [B, D, *shape]."""
    check_tensor(name, z, DIFFERENTIABLE_DTYPES)
    if z.ndim != len(shape) + 2 or tuple(z.shape[2:]) != tuple(shape) or width not in (None, z.shape[1]):
        expected = ", ".join(str(size) for size in ("D" if width is None else width, *shape))
        raise ValueError(f"{name}: expected shape [B, {expected}], got {list(z.shape)}")


def check_mask(mask: Tensor | None, codes: Tensor, *, layers: int | None = None) -> None:
    """mask [K]; with `layers` also [layers, K]."""
    if mask is None:
        return
    check_tensor("mask", mask, (torch.bool,))
    count = codes.shape[0]
    if mask.ndim not in (1, 1 if layers is None else 2) or mask.shape[-1] != count:
        per_layer = "" if layers is None else f" or [{layers}, {count}]"
        raise ValueError(
            f"mask: expected shape [{count}]{per_layer} (K of the codebook), got {list(mask.shape)}"
        )
    if mask.ndim == 2 and mask.shape[0] != layers:
        raise ValueError(f"mask: expected one row for each of {layers} layers, got {list(mask.shape)}")
    check_device("mask", mask, codes)


def check_ids(name: str, ids: Tensor, codes: Tensor) -> None:
    check_tensor(name, ids, (torch.int64,))
    check_device(name, ids, codes)


def check_impl(impl: object) -> None:
    """Only that it is a name, for the registered ops take no other; dispatch knows which there are."""
    if not isinstance(impl, str):
        raise ArgumentTypeError(f"impl: expected 'auto' or an implementation's name, got {impl!r}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


# Checks that read values.


def all_finite(values: Tensor) -> bool:
    """Whether there is no nan or inf: a sum cannot hide them, and only where it overflows need all be looked
    at."""
    total = values.sum(dtype=torch.promote_types(values.dtype, torch.float32))
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


def check_finite(name: str, rows: Tensor) -> None:
    """rows [N, D]."""
    if all_finite(rows):
        return
    bad = torch.nonzero(~torch.isfinite(rows).all(-1)).flatten().tolist()
    shown = ", ".join(map(str, bad[:8])) + (", .." if len(bad) > 8 else "")
    raise ValueError(
        f"{name}: expected finite values, got nan or inf in {len(bad)} of {len(rows)} rows: {shown}"
    )


def check_allowed(mask: Tensor | None, num_codes: int, k: int) -> None:
    """mask [K] or [L, K]: at least k codes in each row."""
    allowed = num_codes if mask is None else int(mask.sum(-1).min())
    if allowed == 0 and mask is not None and mask.ndim == 2:
        layer = int((~mask.any(-1)).nonzero()[0])
        raise ValueError(
            f"mask: expected at least one True among {num_codes} codes in each layer, "
            f"got none in layer {layer}"
        )
    if allowed == 0:
        raise ValueError(f"mask: expected at least one True among {num_codes} codes, got none")
    if k > allowed:
        raise ValueError(f"k: expected at most the {allowed} codes that may be chosen, got {k}")


def check_range(name: str, ids: Tensor, num_codes: int) -> None:
    if ids.numel() == 0:
        return
    low, high = torch.aminmax(ids)
    if low < 0 or high >= num_codes:
        raise ValueError(f"{name}: expected ids in 0..{num_codes - 1}, got {int(low)}..{int(high)}")
