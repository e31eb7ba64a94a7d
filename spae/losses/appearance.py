"""The terms of SPAE's appearance loss (eq. 8), one function each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from spae.configs import Config, Weight
from spae.losses.adversarial import Game, generator_loss
from spae_ops import CodeIndex, Pyramid, pyramid_dequantize

Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AppearanceConfig(Config):
    """The weights of eq. 8, by the paper's letters, with the paper's values.

    reconstruction: "l2" (the paper's) or "l1".
    beta: of the commitment. lambda_: of the generator's loss. eta: of the perceptual distance. phi: of LeCAM,
        which acts on the discriminator (`discriminator_loss`).
    gan: "hinge" or "non_saturating".
    """

    section = "objective"

    reconstruction: Literal["l2", "l1"] = "l2"
    beta: Weight = 0.33
    lambda_: Weight = 0.1
    eta: Weight = 0.1
    phi: Weight = 1e-4
    gan: Game = "hinge"


def appearance_loss(
    images: Tensor,
    reconstruction: Tensor,
    *,
    commitment: Tensor | None = None,
    logits: Tensor | None = None,
    perceptual: Perceptual | None = None,
    further: Mapping[str, Tensor] | None = None,
    config: AppearanceConfig | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 8 of the SPAE paper as the encoder and decoder see it: the weighted sum, and its terms unweighted.

    Args:
        images, reconstruction: [B, C, *shape] in [-1, 1].
        commitment: `commitment_loss`, None to leave it out.
        logits: the discriminator's verdict on the reconstruction, of any shape; None for no adversary.
        perceptual: a distance (images, reconstruction) -> scalar; None for none. Its term is called by its
            `name`, so that a Lite0 feature distance never goes by the name of LPIPS.
        further: scalars that the model adds (a learned codebook's), of weight 1.
        config: weights, by default the paper's.
    """
    config = AppearanceConfig() if config is None else config
    if not isinstance(config, AppearanceConfig):
        raise TypeError(f"config: expected an AppearanceConfig or None, got {type(config).__name__}")
    terms = {"reconstruction": reconstruction_loss(images, reconstruction, kind=config.reconstruction)}
    total = terms["reconstruction"]
    weighted = [(1.0, name, term) for name, term in (further or {}).items()]
    if commitment is not None:
        weighted.append((config.beta, "commitment", commitment))
    if logits is not None:
        weighted.append((config.lambda_, "generator", generator_loss(logits, kind=config.gan)))
    if perceptual is not None:
        name = getattr(perceptual, "name", "perceptual")
        weighted.append((config.eta, name, perceptual(images, reconstruction)))
    for weight, name, term in weighted:
        terms[name] = term
        total = total + weight * term.float()
    return total, terms


def reconstruction_loss(
    images: Tensor, reconstruction: Tensor, *, kind: Literal["l2", "l1"] = "l2"
) -> Tensor:
    """Mean squared ("l2") or absolute ("l1") error of the pixels, the first term of eq. 8.

    Both images are [B, C, *shape]; computed in float32.
    """
    if kind not in ("l2", "l1"):
        raise ValueError(f"kind: expected 'l2' or 'l1', got {kind!r}")
    distance = {"l2": F.mse_loss, "l1": F.l1_loss}[kind]
    for name, value in (("images", images), ("reconstruction", reconstruction)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if reconstruction.shape != images.shape:  # else they would be broadcast
        raise ValueError(
            f"reconstruction: expected shape {list(images.shape)} like images, "
            f"got {list(reconstruction.shape)}"
        )
    return distance(reconstruction.float(), images.float())


def commitment_loss(
    z: Tensor, ids: Tensor, codes: Tensor | CodeIndex, pyramid: Pyramid, *, rule: str = "saq"
) -> Tensor:
    """sum over layers of ||Z - sg(Zhat_<=l)||^2, the second term of eq. 8, before its factor beta.

    z: latents [B, D, *pyramid.shape] as they were quantized. ids: int64 [B, n], their codes in a whole number
    of layers. Each layer's square is averaged over images, channels and the positions covered so far. The
    gradient reaches z only.
    """
    total = z.new_zeros((), dtype=z.dtype)
    for num_layers in range(1, pyramid.num_layers_of(ids.shape[1], name="ids") + 1):
        target = pyramid_dequantize(ids, codes, pyramid, rule=rule, num_layers=num_layers, fill="zero")
        if z.shape != target.quantized.shape:  # else they would be broadcast
            expected = list(target.quantized.shape)
            raise ValueError(f"z: expected shape {expected}, of ids and codes, got {list(z.shape)}")
        square = (z - target.quantized).square() * target.covered
        total = total + square.sum() / (target.covered.sum() * z.shape[0] * z.shape[1])
    return total
