"""A network with its own optimizer and schedule; a tokenizer and its discriminator are two of them."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spae.training.config import TrainConfig
from spae.training.schedule import lr_scheduler

if TYPE_CHECKING:
    from accelerate import Accelerator


class Learner:
    """A module prepared by accelerate with Adam over those of its parameters that require a gradient.

    Its optimizer and its schedule, which runs over `steps` updates, are part of the accelerator's
    checkpoints.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        config: TrainConfig,
        *,
        learning_rate: float,
        steps: int,
    ):
        self.accelerator = accelerator
        self.clip_norm = math.inf if config.clip_norm is None else config.clip_norm
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        adam = torch.optim.Adam(self.parameters, lr=learning_rate, betas=config.betas)
        self.module, self.optimizer = accelerator.prepare(module, adam)
        # Not prepared: accelerate would step it once per process, but its steps are updates.
        self.scheduler = lr_scheduler(
            adam,
            steps=steps,
            schedule=config.schedule,
            warmup_steps=config.warmup_steps,
            cooldown_steps=config.cooldown_steps,
        )
        accelerator.register_for_checkpointing(self.scheduler)

    def exchange(self, gradients: bool) -> AbstractContextManager[None]:
        """A context for forward and backward; without `gradients`, processes keep theirs to themselves."""
        return nullcontext() if gradients else self.accelerator.no_sync(self.module)

    def clip(self) -> float:
        """Bound the gradient's norm; returns what it was."""
        norm: Tensor = self.accelerator.clip_grad_norm_(self.parameters, self.clip_norm)  # pyright: ignore
        return float(norm)

    @property
    def learning_rate(self) -> float:
        return float(self.scheduler.get_last_lr()[0])

    def step(self) -> None:
        """Update the weights with the gradients, and forget those."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
