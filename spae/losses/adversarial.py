"""Both sides of the adversarial game, and LeCAM, which keeps the discriminator from running away."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Game = Literal["hinge", "non_saturating"]


def generator_loss(fake: Tensor, *, kind: Game = "hinge") -> Tensor:
    """What the decoder minimises: the mean of -fake ("hinge") or of softplus(-fake) ("non_saturating").

    fake: the discriminator's logits of reconstructions, any shape, high for what it takes for an image.
    """
    logits = fake.float()
    return _of(kind, hinge=lambda: -logits.mean(), non_saturating=lambda: F.softplus(-logits).mean())


def discriminator_loss(real: Tensor, fake: Tensor, *, kind: Game = "hinge") -> Tensor:
    """What the discriminator minimises, from its logits of images and of reconstructions, any shapes.

    "hinge" is VQGAN's, (E relu(1 - real) + E relu(1 + fake)) / 2; "non_saturating" is StyleGAN's logistic
    loss, E softplus(-real) + E softplus(fake).
    """
    real, fake = real.float(), fake.float()
    return _of(
        kind,
        hinge=lambda: (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2,
        non_saturating=lambda: F.softplus(-real).mean() + F.softplus(fake).mean(),
    )


def _of(kind: str, **losses):
    if kind not in losses:
        raise ValueError(f"kind: expected one of {', '.join(losses)}, got {kind!r}")
    return losses[kind]()


class LeCAM(nn.Module):
    """The regulariser of Tseng et al. 2021 with its moving averages of the discriminator's outputs.

    The loss is E relu(D(real) - ema_fake)^2 + E relu(ema_real - D(fake))^2, and 0 until the first `update`,
    whose means the averages start from. The averages are in the state dict.
    """

    ema_real: Tensor
    ema_fake: Tensor
    updates: Tensor

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected at least 0 and below 1, got {decay}")
        self.decay = decay
        for name in ("ema_real", "ema_fake"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The regulariser of logits of images and of reconstructions, any shapes; scalar."""
        above = F.relu(real.float() - self.ema_fake).square().mean()
        below = F.relu(self.ema_real - fake.float()).square().mean()
        return (above + below) * (self.updates > 0)

    @torch.no_grad()
    def update(self, real: float, fake: float) -> None:
        """Take in the mean logits of a batch, over all its processes: call it after every step."""
        for average, mean in ((self.ema_real, real), (self.ema_fake, fake)):
            average.copy_(torch.where(self.updates > 0, self.decay * average + (1 - self.decay) * mean, mean))
        self.updates += 1
