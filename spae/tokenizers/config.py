"""What a tokenizer is made of, as plain data that goes to JSON and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from spae.configs import Config, Count, Range, Share
from spae.models import BackboneConfig
from spae_ops import Pyramid

Dropout = Annotated[float, Range(0, 1, "right")]


@dataclass(frozen=True)
class SPAEConfig(Config):
    """Architecture of a SPAE. The defaults are the paper's for 128x128 images: 16x16 latents, 597 words in 6
    layers.

    image_size: height and width in pixels. For video: (frames, height, width).
    grids: the pyramid's layers, one grid each; a number stands for a grid of that size along every axis.
    channels, multipliers, num_res_blocks, strides, in_channels, causal: see `BackboneConfig`. Causal video
        has 1 + f k frames, and may have one: an image.
    rule: "saq", streaming average quantization, or "rq", residual quantization.
    latent_norm: "matched" gives the latents the codebook's mean and standard deviation, channel by channel;
        "none" is the paper's free latents, which drift away from a frozen table; "unit" gives each latent
        unit length, for a codebook of such rows.
    semantic_features: "lite0" joins features of a frozen, pretrained EfficientNet-Lite0 to the latents at the
        positions of the first `semantic_layers` layers (`SemanticFeatures`), with `semantic_dropout`. "none"
        is the paper's: it has millions of images to learn what they show.
    semantic_projection: "learned", or "frozen" as the start fitted it (`spae.training.start_guidance`): then
        a small set cannot be learnt by heart through it. "words": the latents of these positions are the
        vectors of words that are chosen in the scorer's space (`SemanticWords`), frozen as well, and nothing
        is joined; the rule is "saq" then, without vocabularies, and a projector is frozen. semantic_rank: of
        the projections' matrices; None: full, which "words" does not take.
    semantic_pools, semantic_local: of "words", see `SemanticWords`. semantic_size: images below so many
        pixels a side are enlarged to it for the network.
    word_dim: the width of what words are looked up by, their vectors through a projector that begins with the
        table's leading principal directions. In hundreds of dimensions no word is nearer to a latent than the
        words' mean is, and encoders settle on a few of them; in 8 most are used. None: the table as it is, as
        in the paper.
    word_projector: "learned", it follows the latents; "frozen" as it begins.
    vocabularies: a name for each layer's vocabulary, the words that it may take; "all" stands for the whole
        codebook. Which words the other names mean is in the weights. None: every layer takes every word.
    layer_dropout: the share of the images of a training batch that the decoder sees from a random number of
        their first layers, so that it learns to draw from fewer than all. Not in the paper.
    word_noise: for each layer the share of the words of a training batch that the decoder sees replaced by
        others of the layer's vocabulary, so that it learns how far to trust a layer whose words somebody
        guesses, as a language model does that draws. None: no word is replaced. Not in the paper.
    """

    image_size: tuple[Count, ...] = (128, 128)
    grids: tuple[Count | tuple[Count, ...], ...] = (1, 2, 4, 8, 16, 16)
    in_channels: Count = 3
    channels: Count = 128
    multipliers: tuple[Count, ...] = (1, 2, 2, 4)
    num_res_blocks: Count = 2
    strides: Count | tuple[Count | tuple[Count, ...], ...] = 2
    causal: bool = False
    rule: Literal["saq", "rq"] = "saq"
    latent_norm: Literal["matched", "none", "unit"] = "matched"
    semantic_features: Literal["none", "lite0"] = "none"
    semantic_layers: Count = 3
    semantic_dropout: Dropout = 0.1
    semantic_projection: Literal["learned", "frozen", "words"] = "learned"
    semantic_rank: Count | None = None
    semantic_pools: tuple[Count, ...] | None = None
    semantic_local: Share = 0.0
    semantic_size: Count = 128
    word_dim: Count | None = None
    word_projector: Literal["learned", "frozen"] = "learned"
    vocabularies: tuple[str, ...] | None = None
    layer_dropout: Dropout = 0.0
    word_noise: tuple[Dropout, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.ndim <= 3:
            raise ValueError(f"image_size: expected 1 to 3 sizes, got {self.image_size}")
        backbone = self.backbone(latent_dim=1)
        try:
            backbone.grid(self.image_size)
        except ValueError as error:
            said = str(error).replace(f"shape: expected {self.ndim} ", "image_size: expected ")
            raise ValueError(said) from error
        if self.semantic_features != "none":
            if self.ndim != 2 or self.in_channels != 3:
                shape = f"{self.in_channels} channels of {self.image_size}"
                raise ValueError(
                    f"semantic_features: expected 'none' but for [B, 3, H, W], got 'lite0' for {shape}"
                )
            if not 1 <= self.semantic_layers <= len(self.grids):
                raise ValueError(
                    f"semantic_layers: expected 1 to {len(self.grids)}, got {self.semantic_layers}"
                )
            self._check_semantic_words()
        if self.vocabularies is not None and len(self.vocabularies) != len(self.grids):
            raise ValueError(
                f"vocabularies: expected a name for each of {len(self.grids)} layers, got {self.vocabularies}"
            )
        if self.word_noise is not None and len(self.word_noise) != len(self.grids):
            raise ValueError(
                f"word_noise: expected a share for each of {len(self.grids)} layers, got {self.word_noise}"
            )
        if self.word_dim is None and self.word_projector != "learned":
            raise ValueError(
                f"word_dim: expected a number beside word_projector {self.word_projector!r}, got None"
            )
        if self.word_dim is not None and self.latent_norm == "unit":
            raise ValueError("latent_norm: expected 'matched' or 'none' beside word_dim, got 'unit'")
        _ = self.pyramid  # raises for grids that do not fit

    def _check_semantic_words(self) -> None:
        words, pools = self.semantic_projection == "words", self.semantic_pools
        for name, value, expected, fits in (
            ("semantic_rank", self.semantic_rank, "a number", self.semantic_rank is not None),
            ("rule", self.rule, "'saq'", self.rule == "saq"),
            ("vocabularies", self.vocabularies, "null", self.vocabularies is None),
            (
                "word_projector",  # else the latents would have to follow it
                self.word_projector,
                "'frozen' or no word_dim",
                self.word_dim is None or self.word_projector == "frozen",
            ),
            (
                "semantic_pools",
                pools,
                f"null or one for each of {self.semantic_layers} layers",
                pools is None or len(pools) == self.semantic_layers,
            ),
        ):
            if words and not fits:
                raise ValueError(
                    f"{name}: expected {expected} beside semantic_projection 'words', got {value!r}"
                )

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
            causal=self.causal,
        )
