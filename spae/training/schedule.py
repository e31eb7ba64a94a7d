"""The learning rate over the steps: linear warm-up; inverse square root, half a cosine or constant; linear
cool-down."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["inverse_sqrt", "cosine", "constant"]


def schedule_factor(
    step: int,
    *,
    steps: int,
    schedule: Schedule = "inverse_sqrt",
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
) -> float:
    """What the learning rate is multiplied by in update `step` (0-based) of `steps`.

    With t = step + 1 and w = max(warmup_steps, 1), the product of
      warm-up   min(1, t / w), reaching the full rate in the last warm-up step,
      body      sqrt(w / max(t, w)) for "inverse_sqrt", so the warm-up also sets the pace of the decay; for
                "cosine" (1 + cos(pi u)) / 2, where u goes from 0 in the last warm-up step to 1 in step
                `steps`, the first without an update (V2L's half cycle); 1 for "constant",
      cool-down min(1, (steps - step) / (cooldown_steps + 1)), whose last step has 1 / (cooldown_steps + 1).
    From step `steps` on it is 0.
    """
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule: expected one of {', '.join(get_args(Schedule))}, got {schedule!r}")
    done, warmup = step + 1, max(warmup_steps, 1)
    body = 1.0
    if schedule == "inverse_sqrt":
        body = math.sqrt(warmup / max(done, warmup))
    elif schedule == "cosine":
        share = max(0, done - warmup) / max(1, steps + 1 - warmup)
        body = (1 + math.cos(math.pi * min(1.0, share))) / 2
    cooldown = max(0, steps - step) / (cooldown_steps + 1)
    return min(1.0, done / warmup) * body * min(1.0, cooldown)


def lr_scheduler(
    optimizer: Optimizer,
    *,
    steps: int,
    schedule: Schedule = "inverse_sqrt",
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    done: int = 0,
) -> LambdaLR:
    """`schedule_factor` as a PyTorch scheduler: call its `step()` after every update.

    done: updates that the optimizer, if it goes on from a saved state, has behind it.
    """

    def factor(step: int) -> float:
        return schedule_factor(
            step, steps=steps, schedule=schedule, warmup_steps=warmup_steps, cooldown_steps=cooldown_steps
        )

    return LambdaLR(optimizer, factor, last_epoch=done - 1)
