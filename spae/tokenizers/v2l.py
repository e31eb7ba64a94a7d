"""V2L (Zhu et al. 2024): global words that say what an image shows, local words that say where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from spae.checksum import checksum
from spae.codebook import Codebook
from spae.configs import Count
from spae.losses import reconstruction_loss
from spae.models import Encoder
from spae.models.attention import AttentiveDecoder
from spae.models.batch_norm import BatchNorm
from spae.models.global_features import GlobalFeatures, ScoredFeatures
from spae.models.seen_images import SeenImages
from spae.tokenizers.base import SPAEOutput, Tokenizer
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.parts import Vocabularies, layer_masks
from spae.tokenizers.projected import ProjectedWords
from spae.tokenizers.quantizers import FreeLatents, MatchedNorm, straight_through
from spae.tokenizers.registry import register
from spae.tokenizers.tokens import PyramidTokens
from spae_ops import topk_codes

GLOBAL, LOCAL = "global", "local"


@dataclass(frozen=True)
class V2LConfig(SPAEConfig):
    """Architecture of a V2L tokenizer. The defaults are the paper's, for 128x128 images: 21 global words,
    then 16x16 local ones, 277 in all.

    grids: the last one is the whole latent grid, the local words. The layers before are the global words, the
        nearest first: 1, 2 and 4 make 21 of them in layers of 1, 4 and 16 (a SPAE's layers of as many words;
        here they stand at no position), 1 and 2 make 5. One layer alone: no global words.
    local_vectors: what local words are looked up by. "projected": the codebook's vectors through a projector
        that trains; "text": as they are; "llm": the vectors of the language model's own table.
    local_dim: width of the projected vectors; the paper does not say. Few, as ViT-VQGAN's codes (Yu et al.
        2022): among many dimensions no word is nearer to a latent than their mean is, and training settles on
        a handful of words.
    llm_table: the table for "llm", one that `Codebook.load` knows.
    latent_norm: "none" is the paper's; "matched" as in `SPAEConfig`, for a projector at the statistics that
        it begins with.
    image_encoder: what gives the feature that global words are near to: "ridge" or "conse"
        (`GlobalFeatures`), an OpenCLIP model ("open_clip:ViT-L-14/openai"), or "custom", a scorer given to
        the tokenizer.
    global_attention: whether the decoder sees the global words.
    vocabularies: the words of each layer; always "global" but for the last one's "local".
    """

    grids: tuple[Count | tuple[Count, ...], ...] = (1, 2, 4, 16)
    latent_norm: Literal["matched", "none", "unit"] = "none"
    local_vectors: Literal["projected", "text", "llm"] = "projected"
    local_dim: Count = 8
    llm_table: str = "smollm2"
    image_encoder: str = "ridge"
    global_attention: bool = True

    def __post_init__(self) -> None:
        own = (GLOBAL,) * (len(self.grids) - 1) + (LOCAL,)
        if self.vocabularies is None:
            object.__setattr__(self, "vocabularies", own)
        super().__post_init__()
        if self.vocabularies != own:
            raise ValueError(f"vocabularies: expected {own} or None, got {self.vocabularies}")
        if self.pyramid.grids[-1] != self.pyramid.shape:
            raise ValueError(
                f"grids: expected the whole grid {self.pyramid.shape} last, got {self.pyramid.grids[-1]}"
            )
        for name, only in (
            ("semantic_features", "none"),
            ("layer_dropout", 0.0),
            ("word_noise", None),
            ("rule", "saq"),
            ("word_dim", None),
        ):
            if getattr(self, name) != only:
                raise ValueError(f"{name}: expected {only!r} for V2L, got {getattr(self, name)!r}")
        if self.latent_norm == "unit":
            raise ValueError("latent_norm: expected 'matched' or 'none' for V2L, got 'unit'")
        encoder = self.image_encoder
        if encoder not in ("ridge", "conse", "custom") and not encoder.startswith("open_clip:"):
            raise ValueError(
                "image_encoder: expected 'ridge', 'conse', 'custom' or 'open_clip:ARCHITECTURE/CHECKPOINT', "
                f"got {encoder!r}"
            )

    @property
    def num_global(self) -> int:
        """K_g, the global words."""
        return self.pyramid.num_tokens_upto(self.pyramid.num_layers - 1)


@register
class V2LTokenizer(Tokenizer):
    """An image as global words, the phrases nearest to what a frozen image encoder sees, and a grid of local
    words; the decoder attends to the global ones.

    Tokens are a pyramid's, so `tokens.upto(n)` for n below the number of layers are global words alone, for
    tasks of understanding, and the last layer are the local ones. Decoding tokens without local words is
    possible but not trained for.

    config: architecture. codebook: words and phrases with the vectors that the image encoder's text side
    gives them (`spae.codebook.expansion`).
    vocabularies: the rows of the "global" words (without global layers: none) and of the "local" ones, int
    [n] each; part of the state dict. None: a state dict is to bring them.
    image_encoder: a `spae.scorers.ImageTextScorer`, or `GlobalFeatures`; None: a state dict is to bring what
    the config names, or OpenCLIP is loaded. A `ConSEScorer`, with or without a ridge map, is saved with the
    model (but for Lite0).
    llm_table: for local_vectors "llm"; None loads the config's.

    Only encoder, decoder and projector train. Losses: "reconstruction", "commitment" (the paper's beta, 0.3)
    and, with a projector, "codebook" (1).
    """

    config_class: ClassVar[type[SPAEConfig]] = V2LConfig
    config: V2LConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    codebook: Codebook
    masks: Tensor

    def __init__(
        self,
        config: V2LConfig,
        codebook: Codebook,
        vocabularies: Vocabularies | None = None,
        *,
        image_encoder: Any = None,
        llm_table: Codebook | None = None,
    ) -> None:
        super().__init__(config, codebook)
        self.register_buffer("masks", layer_masks(config, len(codebook), vocabularies))
        self._rows: Tensor | None = None
        self._seen = SeenImages()
        self._table = _llm_table(config, llm_table) if config.local_vectors == "llm" else None
        self._place = None if self._table is None else _places(self._table, codebook)
        table = codebook if self._table is None else self._table
        local = ProjectedWords(table.width, config.local_dim if config.local_vectors == "projected" else None)
        backbone = config.backbone(local.dim)
        reads = config.global_attention and config.num_global > 0
        self.encoder = Encoder(backbone)
        self.decoder = AttentiveDecoder(backbone, codebook.width if reads else None)
        self.local = local
        if config.latent_norm == "none":
            self.latent_norm = FreeLatents()
        elif local.projector is None:
            self.latent_norm = MatchedNorm(table, config.ndim)
        else:  # of what the projected words begin with: mean 0, variance 1
            self.latent_norm = BatchNorm(local.dim, affine=False)
        self.global_features = _features(config, codebook, image_encoder) if config.num_global else None
        if vocabularies is not None:
            if config.num_global and (known := int(self.masks[0].sum())) < config.num_global:
                raise ValueError(
                    f"vocabularies: expected at least {config.num_global} words in 'global', got {known}"
                )
            local.start(self._vectors_of(self._local_rows()))  # raises where the table lacks a word

    def forward(self, images: Tensor) -> SPAEOutput:
        self.check_images(images)
        z = self.latent_norm(self.encoder(images).float()).float()
        local = self.local.lookup(z, self._local_rows(), self._vectors_of)
        ids = torch.cat([*self._global_words(images), local.flatten(1)], dim=1)
        chosen = self._words_at(local)
        quantized = straight_through(z, chosen)
        reconstruction = self.decoder(quantized, self._memory(ids))
        losses = {"reconstruction": reconstruction_loss(images, reconstruction), **self.local.loss(z, chosen)}
        return SPAEOutput(reconstruction, PyramidTokens(ids, self.pyramid), z, quantized, losses)

    def latents(self, images: Tensor) -> Tensor:
        """Images to float32 [B, D + E, *shape]: local latents, and the image's global feature [E], the same
        at every position (none without global words)."""
        self.check_images(images)
        z = self.latent_norm(self.encoder(images).float(), inference=True).float()
        feature = self._feature(images)
        if feature is None:
            return z
        return torch.cat([z, feature[:, :, None, None].expand(-1, -1, *z.shape[2:])], dim=1)

    def quantize(self, latents: Tensor, num_layers: int | None = None) -> Tensor:
        pyramid = self.pyramid
        count = pyramid.num_layers if num_layers is None else num_layers
        wanted = pyramid.num_tokens_upto(count)
        z, feature = latents[:, : self.local.dim], latents[:, self.local.dim :, 0, 0]
        found = self._global_ids(feature if self.config.num_global else None, wanted)
        if count == pyramid.num_layers:
            found.append(self.local.lookup(z, self._local_rows(), self._vectors_of).flatten(1))
        return torch.cat(found, dim=1)

    def pixels(self, ids: Tensor) -> Tensor:
        local = ids[:, self.config.num_global :]
        shape = self.pyramid.shape
        features = (
            self._words_at(local.reshape(-1, *shape))
            if local.shape[1]
            else torch.zeros(len(ids), self.local.dim, *shape, device=ids.device)
        )
        return self.decoder(features, self._memory(ids))

    @property
    def word_masks(self) -> Tensor | None:
        return self.masks

    @torch.no_grad()
    def _feature(self, images: Tensor) -> Tensor | None:
        return None if self.global_features is None else self.global_features(images)

    def _global_ids(self, feature: Tensor | None, wanted: int | None = None) -> list[Tensor]:
        """The global words nearest to features [B, E], the nearest first: int64 [B, at most K_g], if any."""
        if feature is None:
            return []
        count = self.config.num_global if wanted is None else min(wanted, self.config.num_global)
        return [topk_codes(feature, self.codebook.index, count, mask=self.masks[0]).ids]

    def _global_words(self, images: Tensor) -> list[Tensor]:
        """Images' global words, if any. In training, where the same images come again, each image's are found
        once: the image encoder is most of a step's work."""
        if self.global_features is None:
            return []
        if not self.training or torch.compiler.is_compiling():
            return self._global_ids(self._feature(images))
        return [self._seen.ids(images, lambda unknown: self._global_ids(self._feature(unknown))[0])]

    def _memory(self, ids: Tensor) -> Tensor | None:
        if self.decoder.cross is None:
            return None
        return self.codebook(ids[:, : self.config.num_global])

    def _words_at(self, rows: Tensor) -> Tensor:
        """Projected vectors float32 [B, D, *grid] of the words at a grid's places, int64 [B, *grid]."""
        return self.local(self._vectors_of(rows)).movedim(-1, 1)

    # Local words

    def _vectors_of(self, rows: Tensor) -> Tensor:
        """What rows of the codebook, int64 [..], are looked up by before the projector: [.., width]."""
        if self._table is None or self._place is None:
            if rows is self._rows and not torch.compiler.is_compiling():
                first, last = int(rows[0]), int(rows[-1])
                if last - first + 1 == len(rows):  # a view: a copy would be most of what an index anew costs
                    return self.codebook.vectors[first : last + 1]
            return self.codebook(rows)
        places = self._place[rows]
        if (places < 0).any():
            word = self.codebook.words[int(rows[places < 0][0])]
            raise ValueError(f"local: expected words of {self._table.name}, of one id each, got {word!r}")
        return self._table(places)

    def _local_rows(self) -> Tensor:
        if self._rows is None or self._rows.device != self.masks.device:
            self._rows = self.masks[-1].nonzero()[:, 0]
        return self._rows

    # What stays outside the state dict

    def codebook_identity(self) -> dict[str, Any]:
        """The codebook's, with the image encoder and the language model's table in the checksum."""
        identity, parts = super().codebook_identity(), []
        if self.global_features is not None:
            identity["image_encoder"] = self.global_features.identity()
            parts.append(repr(sorted(identity["image_encoder"].items())))
        if self._table is not None:
            identity["llm_table"] = self._table.identity()
            parts.append(self._table.checksum)
        if parts:
            identity["checksum"] = checksum([identity["checksum"], *parts])
        return identity

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._rows = None
        self._seen.clear()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> V2LTokenizer:
        super()._apply(fn, recurse)
        self._rows = None
        self._seen.clear()
        if self._place is not None:
            self._place = self._place.to(self.masks.device)
        return self


def _llm_table(config: V2LConfig, table: Codebook | None) -> Codebook:
    return Codebook.load(config.llm_table) if table is None else table


def _places(table: Codebook, codebook: Codebook) -> Tensor:
    """The table's row of every word of the codebook that has one id, int64 [K]; -1 for the others."""
    if table.llm_ids.ndim != 1:
        raise ValueError(f"llm_table: expected words of one id each, got {table.name!r}, which has phrases")
    rows = torch.full((int(max(table.llm_ids.max(), codebook.llm_ids.max())) + 1,), -1)
    rows[table.llm_ids] = torch.arange(len(table))
    ids = codebook.llm_ids
    if ids.ndim == 1:
        return rows[ids]
    return torch.where((ids[:, 1:] < 0).all(1), rows[ids[:, 0]], -1)


def _features(config: V2LConfig, codebook: Codebook, encoder: Any) -> GlobalFeatures | ScoredFeatures:
    """The image encoder that the configuration names: the one given, or one for a state dict to fill."""
    kind, width = config.image_encoder, codebook.width
    if isinstance(encoder, GlobalFeatures) and encoder.kind == kind:
        return encoder
    if kind in ("ridge", "conse"):
        if encoder is None:
            return GlobalFeatures(kind, width)
        return lite0_features(kind, width, encoder)
    if encoder is None and kind == "custom":
        raise ValueError(
            "image_encoder: expected the one that the tokenizer was made with, for 'custom' names none that "
            "could be loaded, got None: build the tokenizer with it and use load_state_dict"
        )
    if encoder is None:
        from spae.scorers import OpenCLIPScorer

        architecture, _, checkpoint = kind.removeprefix("open_clip:").partition("/")
        encoder = OpenCLIPScorer.load(architecture, checkpoint)
    return ScoredFeatures(encoder)


def lite0_features(kind: str, width: int, encoder: Any) -> GlobalFeatures:
    """What a `ConSEScorer`, with a ridge map ("ridge") or without ("conse"), sees in images."""
    from spae.scorers import ConSEScorer

    if not isinstance(encoder, ConSEScorer) or (encoder.ridge is None) != (kind == "conse"):
        raise ValueError(
            f"image_encoder: expected a ConSEScorer {'without' if kind == 'conse' else 'with'} a ridge map "
            f"for {kind!r}, got {getattr(encoder, 'name', type(encoder).__name__)!r}"
        )
    tensors = {"classes": encoder.class_features} if encoder.ridge is None else vars(encoder.ridge)
    return GlobalFeatures(kind, width, tensors, top=encoder.top)
