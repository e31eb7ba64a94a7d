"""The paper's objective: appearance (eq. 8), semantic guidance and the weight between them (eq. 9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call

from spae.configs import Decay, Natural, Weight
from spae.losses.adversarial import LeCAM, discriminator_loss
from spae.losses.appearance import AppearanceConfig, Perceptual, appearance_loss


class Output(Protocol):
    """What a tokenizer's forward returns, as far as a loss looks at it."""

    @property
    def reconstruction(self) -> Tensor: ...
    @property
    def losses(self) -> dict[str, Tensor]: ...


Semantic = Callable[[Any, Any], Tensor]
_LEAST_SEMANTIC = 1e-6  # of the dynamic weight's denominator


@dataclass(frozen=True)
class ObjectiveConfig(AppearanceConfig):
    """The weights of eqs. 8 and 9 with the paper's values.

    alpha: of the semantic loss, times w = sg(L_appearance / L_semantic) if `dynamic_weight`. The paper does
        not bound w. Here it is max(L_appearance, 0) / max(L_semantic, 1e-6): the hinge game's generator term
        can make L_appearance negative, and a negative w would push words away from what the image shows, so
        guidance rests until L_appearance is positive again; and where every word fits already, L_semantic is
        0.
    discriminator_start: the update (0-based) from which the discriminator trains and the generator's loss
        counts.
    lecam_decay: of LeCAM's moving averages.
    """

    alpha: Weight = 1.0
    dynamic_weight: bool = True
    discriminator_start: Natural = 0
    lecam_decay: Decay = 0.999


class Objective(nn.Module):
    """What a tokenizer minimises in training; its parts are optional, and so off where they are None.

    Args:
        config: the weights.
        perceptual: distance (images, reconstruction) -> scalar, e.g. `FeatureDistance`.
        discriminator: images [B, C, *shape] to logits of any shape; the trainer gives it its own optimizer.
        semantic: the semantic loss, called as ``semantic(output, guidance)``; returns a scalar.
    """

    def __init__(
        self,
        config: ObjectiveConfig | None = None,
        *,
        perceptual: Perceptual | None = None,
        discriminator: nn.Module | None = None,
        semantic: Semantic | None = None,
    ) -> None:
        super().__init__()
        self.config = config or ObjectiveConfig()
        self.perceptual, self.discriminator, self.semantic = perceptual, discriminator, semantic
        self.lecam = LeCAM(self.config.lecam_decay)

    def forward(
        self, output: Output, images: Tensor, guidance: Any = None, step: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of eq. 9, and its terms unweighted, by name.

        output: what the model made of `images` [B, C, *shape]; its losses "reconstruction" is computed anew,
            "commitment" weighs beta, any other 1. guidance: what the dataset gives beside the images; the
            semantic loss knows what it is. step: of the update, 0-based.

        "appearance", eq. 8's sum, is among the terms. With the dynamic weight the processes of a distributed
        run exchange two numbers, so that w is that of the whole batch.
        The discriminator's weights get no gradient from it.
        """
        others = {name: term for name, term in output.losses.items() if name != "reconstruction"}
        total, terms = appearance_loss(
            images,
            output.reconstruction,
            commitment=others.pop("commitment", None),
            logits=self._verdict(output.reconstruction) if self.adversarial(step) else None,
            perceptual=self.perceptual,
            further=others,
            config=self.config,
        )
        if self.semantic is None:
            return total, terms
        if guidance is None:
            raise ValueError("guidance: expected what the semantic loss looks at, got None")
        semantic = self.semantic(output, guidance)
        weight = self.config.alpha
        if self.config.dynamic_weight:
            weight = weight * _dynamic_weight(total, semantic)
        return total + weight * semantic, {**terms, "appearance": total, "semantic": semantic}

    def mixed(self, images: Tensor, guidance: Any) -> tuple[Tensor, Any]:
        """The images to train on and their guidance: the semantic loss may mix them (`SemanticLoss.mix`)."""
        mix = getattr(self.semantic, "mix", None)
        return (images, guidance) if mix is None or guidance is None else mix(images, guidance)

    def adversarial(self, step: int) -> bool:
        """Whether the discriminator takes part in this update."""
        return self.discriminator is not None and step >= self.config.discriminator_start

    def memory(self) -> list[nn.Module]:
        """The parts whose state dict a checkpoint must hold: LeCAM's averages, the semantic loss's draws."""
        return [part for part in (self.lecam, self.semantic) if isinstance(part, nn.Module)]

    def discriminator_loss(
        self, discriminator: Callable[[Tensor], Tensor], images: Tensor, reconstruction: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator minimises: `discriminator_loss` + phi * LeCAM, and the terms by name.

        discriminator: this objective's, possibly wrapped for distributed training. images, reconstruction:
        [B, C, *shape]; the reconstruction gets no gradient. The terms "logits_real" and "logits_fake" are the
        mean logits, for `lecam.update` after the step.
        """
        # One pass over both, as a distributed wrapper expects one forward for each backward.
        real, fake = discriminator(torch.cat([images, reconstruction.detach()])).chunk(2)
        game, lecam = discriminator_loss(real, fake, kind=self.config.gan), self.lecam(real, fake)
        means = {"logits_real": real.detach().float().mean(), "logits_fake": fake.detach().float().mean()}
        return game + self.config.phi * lecam, {self.config.gan: game, "lecam": lecam, **means}

    def _verdict(self, reconstruction: Tensor) -> Tensor:
        """The discriminator's logits, differentiable in the reconstruction but not in its weights."""
        assert self.discriminator is not None
        weights = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, weights, (reconstruction,))


def _dynamic_weight(appearance: Tensor, semantic: Tensor) -> Tensor:
    """w of eq. 9, of the losses' means over all processes, within the bounds that `ObjectiveConfig` names."""
    both = torch.stack([appearance.detach().float(), semantic.detach().float()])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(both, distributed.ReduceOp.SUM)
        both = both / distributed.get_world_size()
    return both[0].clamp_min(0) / both[1].clamp_min(_LEAST_SEMANTIC)
