"""Stopping a run where its held-out figures no longer rise, and going back to where they were best."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class EarlyStopping:
    """Keeps the weights of the best evaluation, and says when none was better for a while.

    figure: which of an evaluation's figures counts; more is better, and nan is never the best. patience:
    after how many evaluations without a better one it is `done`.
    """

    def __init__(self, figure: str, patience: int) -> None:
        self.figure, self.patience = figure, patience
        self.best: float | None = None
        self.step = self.waited = 0
        self.weights: dict[str, Any] = {}

    @property
    def done(self) -> bool:
        return self.waited >= self.patience

    def see(self, figures: Mapping[str, float], step: int, model: nn.Module) -> None:
        """Take in an evaluation of `model` as it is now. Raises ValueError if the figure is not in it."""
        if self.figure not in figures:
            raise ValueError(
                f"train.early_stopping_figure: expected one of {sorted(figures)}, got {self.figure!r}"
            )
        value = float(figures[self.figure])
        if not math.isnan(value) and (self.best is None or value > self.best):
            self.best, self.step, self.waited = value, step, 0
            self.weights = {
                name: part.detach().to("cpu", copy=True) if isinstance(part, Tensor) else copy.deepcopy(part)
                for name, part in model.state_dict().items()
            }
        else:
            self.waited += 1

    def restore(self, model: nn.Module) -> None:
        """Give a model the best weights; does nothing where no evaluation gave a number yet."""
        if self.weights:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "step": self.step, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.step, self.waited = state["best"], state["step"], state["waited"]
        self.weights = dict(state["weights"])
