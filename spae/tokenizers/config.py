"""What a tokenizer is made of, as plain data that goes to JSON and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from spae.models import BackboneConfig
from spae_ops import Pyramid


@dataclass(frozen=True)
class SPAEConfig:
    """Architecture of a SPAE. The defaults are the paper's for 128x128 images: 16x16 latents, 597 words in 6
    layers.

    image_size: height and width in pixels. For video: (frames, height, width).
    grids: the pyramid's layers, one grid each; a number stands for a grid of that size along every axis.
    channels, multipliers, num_res_blocks, strides, in_channels: see `BackboneConfig`.
    rule: "saq", streaming average quantization, or "rq", residual quantization.
    latent_norm: "matched" gives the latents the codebook's mean and standard deviation, channel by channel;
        "none" is the paper's free latents, which drift away from a frozen table; "unit" gives each latent
        unit length, for a codebook of such rows.
    semantic_features: "lite0" joins features of a frozen, pretrained EfficientNet-Lite0 to the latents at the
        positions of the first `semantic_layers` layers (`SemanticFeatures`), with `semantic_dropout`. "none"
        is the paper's: it has millions of images to learn what they show.
    vocabularies: a name for each layer's vocabulary, the words that it may take; "all" stands for the whole
        codebook. Which words the other names mean is in the weights. None: every layer takes every word.
    layer_dropout: the share of the images of a training batch that the decoder sees from a random number of
        their first layers, so that it learns to draw from fewer than all. Not in the paper.
    """

    image_size: tuple[int, ...] = (128, 128)
    grids: tuple[int | tuple[int, ...], ...] = (1, 2, 4, 8, 16, 16)
    in_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    strides: int | tuple[int | tuple[int, ...], ...] = 2
    rule: str = "saq"
    latent_norm: str = "matched"
    semantic_features: str = "none"
    semantic_layers: int = 3
    semantic_dropout: float = 0.1
    vocabularies: tuple[str, ...] | None = None
    layer_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("image_size", "grids", "multipliers", "strides", "vocabularies"):
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        if self.rule not in ("saq", "rq"):
            raise ValueError(f"rule: expected 'saq' or 'rq', got {self.rule!r}")
        if self.latent_norm not in ("matched", "none", "unit"):
            raise ValueError(f"latent_norm: expected 'matched', 'none' or 'unit', got {self.latent_norm!r}")
        if self.semantic_features not in ("none", "lite0"):
            raise ValueError(f"semantic_features: expected 'none' or 'lite0', got {self.semantic_features!r}")
        if self.semantic_features != "none":
            if self.ndim != 2 or self.in_channels != 3:
                shape = f"{self.in_channels} channels of {self.image_size}"
                raise ValueError(f"semantic_features: 'lite0' sees images of 3 channels, got {shape}")
            if not 1 <= self.semantic_layers <= len(self.grids):
                raise ValueError(
                    f"semantic_layers: expected 1 to {len(self.grids)}, got {self.semantic_layers}"
                )
        if self.vocabularies is not None and len(self.vocabularies) != len(self.grids):
            raise ValueError(
                f"vocabularies: expected a name for each of {len(self.grids)} layers, got {self.vocabularies}"
            )
        if not 0 <= self.layer_dropout < 1:
            raise ValueError(f"layer_dropout: expected at least 0 and below 1, got {self.layer_dropout}")
        _ = self.pyramid  # raises for grids that do not fit

    @property
    def ndim(self) -> int:
        return len(self.image_size)

    @property
    def pyramid(self) -> Pyramid:
        shape = self.backbone(latent_dim=1).grid(self.image_size)
        grids = tuple((g,) * self.ndim if isinstance(g, int) else g for g in self.grids)
        return Pyramid(shape, grids)

    def backbone(self, latent_dim: int) -> BackboneConfig:
        """The encoder's and decoder's configuration for a codebook of width `latent_dim`."""
        return BackboneConfig(
            latent_dim=latent_dim,
            in_channels=self.in_channels,
            channels=self.channels,
            multipliers=self.multipliers,
            num_res_blocks=self.num_res_blocks,
            ndim=self.ndim,
            strides=self.strides,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SPAEConfig:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"config: unknown fields {unknown}; this version knows {sorted(known)}")
        return cls(**values)


def _tuples(value: Any) -> Any:
    """Lists, as JSON gives them, to tuples, so that configs hash and compare."""
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
