"""A network with its own optimizer and schedule; a tokenizer and its discriminator are two of them."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from spae.training.config import TrainConfig
from spae.training.schedule import lr_scheduler

if TYPE_CHECKING:
    from accelerate import Accelerator


class Learner:
    """A module prepared by accelerate with Adam over those of its parameters that require a gradient.

    The schedule runs over `steps` updates. The state dict holds the module, the optimizer and how many of
    them are done.
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
        self.config, self.steps = config, steps
        self.clip_norm = math.inf if config.clip_norm is None else config.clip_norm
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        adam = torch.optim.Adam(self.parameters, lr=learning_rate, betas=config.betas)
        self.module, self.optimizer = accelerator.prepare(module, adam)
        self.scheduler = self._schedule(0)

    def _schedule(self, done: int) -> LambdaLR:
        # Not prepared by accelerate, which would step it once per process, but its steps are updates.
        return lr_scheduler(
            self.optimizer.optimizer,
            steps=self.steps,
            schedule=self.config.schedule,
            warmup_steps=self.config.warmup_steps,
            cooldown_steps=self.config.cooldown_steps,
            done=done,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self.accelerator.unwrap_model(self.module).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.scheduler.last_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accelerator.unwrap_model(self.module).load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        # A new one, as the number of steps may have changed and with it the rate of the next update.
        self.scheduler = self._schedule(state["updates"])

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
