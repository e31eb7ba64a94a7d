"""LQAE, the Language-Quantized AutoEncoder (Liu et al. 2023): BERT's words, one layer of 256."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from spae import assets
from spae.checksum import checksum, state_parts
from spae.codebook import Codebook, CodeTable
from spae.configs import Count
from spae.frozen import Frozen
from spae.losses import reconstruction_loss
from spae.optional import needs
from spae.tokenizers.base import SPAEOutput, Tokenizer
from spae.tokenizers.checkpoints import SavedCodebook
from spae.tokenizers.config import Dropout, SPAEConfig
from spae.tokenizers.parts import build_parts, latents_of
from spae.tokenizers.registry import register
from spae.tokenizers.tokens import PyramidTokens

MINILM = "minilm"


@dataclass(frozen=True)
class LQAEConfig(SPAEConfig):
    """Architecture of an LQAE: a SPAE of one full-grid layer, whose latents and codes have unit length.

    mask_rate: the share of words that are masked in training before BERT reads them; None leaves BERT out.
    """

    grids: tuple[Count | tuple[Count, ...], ...] = (16,)
    latent_norm: Literal["matched", "none", "unit"] = "unit"
    mask_rate: Dropout | None = None

    def __post_init__(self) -> None:
        if self.word_dim is not None:
            raise ValueError(f"word_dim: expected None, for BERT reads its own vectors, got {self.word_dim}")
        super().__post_init__()
        if self.vocabularies is not None:
            raise ValueError(
                f"vocabularies: expected None, for one layer takes every word, got {self.vocabularies}"
            )
        if len(self.pyramid.grids) != 1:
            raise ValueError(f"grids: expected one layer, got {self.grids}")


@register
class LQAE(Tokenizer):
    """An image as words of a BERT vocabulary, and back.

    With `config.mask_rate` the frozen BERT reads the words, a random part of them masked in training, and
    the decoder sees its last hidden states instead of the words' own vectors. Gradients pass through BERT to
    the latents; it does not train.

    config: architecture. codebook: BERT's words with rows of unit length (`bert_codebook`). bert: a
    transformers `BertModel` with the same words, in evaluation mode; None loads MiniLM if the config asks for
    it. Like the codebook it is in no state dict; its weights are part of the codebook's checksum there.
    """

    config_class: ClassVar[type[SPAEConfig]] = LQAEConfig
    codebook: Codebook

    def __init__(self, config: LQAEConfig, codebook: Codebook, bert: nn.Module | None = None) -> None:
        self._check_config(config)
        self._check_table(codebook)
        if codebook.normalisation != "unit":
            raise ValueError(f"codebook: expected rows of unit length, got {codebook.normalisation!r}")
        if config.mask_rate is None and bert is not None:
            raise ValueError(f"bert: expected None without config.mask_rate, got {type(bert).__name__}")
        super().__init__(config, codebook)
        parts = build_parts(config, codebook)
        self.encoder, self.semantic, self.latent_norm, self.quantizer, self.decoder = parts
        self.mask_rate = config.mask_rate
        frozen = load_bert() if config.mask_rate is not None and bert is None else bert
        self._bert = None if frozen is None else Frozen[Any](frozen)
        if self._bert is not None:
            words, width = self._bert.network.get_input_embeddings().weight.shape
            if width != codebook.width or int(codebook.llm_ids.max()) >= words:
                raise ValueError(
                    f"bert: expected the codebook's words, {codebook}, got a table [{words}, {width}]"
                )

    def forward(self, images: Tensor) -> SPAEOutput:
        """Images through words and back, with the unweighted losses "reconstruction" and "commitment"; in
        training BERT reads masked words."""
        self.check_images(images)
        z = latents_of(self, images, inference=False)
        ids, quantized, commitment = self.quantizer(z, self.codebook)
        reconstruction = self.decoder(self._read(quantized, ids, masks=self.training))
        losses = {"reconstruction": reconstruction_loss(images, reconstruction), "commitment": commitment}
        return SPAEOutput(reconstruction, PyramidTokens(ids, self.pyramid), z, quantized, losses)

    def latents(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return latents_of(self, images, inference=True)

    def quantize(self, latents: Tensor, num_layers: int | None = None) -> Tensor:
        return self.quantizer.encode(latents, self.codebook, num_layers)

    def pixels(self, ids: Tensor) -> Tensor:
        return self.decoder(self._read(self.quantizer.decode(ids, self.codebook), ids, masks=False))

    def codebook_identity(self) -> dict[str, Any]:
        """The codebook's, with BERT's weights in the checksum."""
        identity = super().codebook_identity()
        if self._bert is not None:
            bert = self._bert.network
            digest = checksum([identity["checksum"], *state_parts(bert)])
            identity |= {"bert": type(bert).__name__, "checksum": digest}
        return identity

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LQAE:
        super()._apply(fn, recurse)
        if self._bert is not None:
            self._bert.follow(fn)
        return self

    def _read(self, quantized: Tensor, ids: Tensor, *, masks: bool) -> Tensor:
        """BERT's last hidden states over the words, in their places: [B, D, *shape] -> the same."""
        if self._bert is None:
            return quantized
        bert = self._bert.network
        table = bert.get_input_embeddings().weight
        rows = self.codebook.llm_ids.to(ids.device)[ids]
        # BERT knows its rows at their own length; the gradient passes along the unit rows.
        lengths = table[rows].norm(dim=-1, keepdim=True)
        words = quantized.flatten(2).transpose(1, 2) * lengths
        if masks and self.mask_rate:
            masked = torch.rand(ids.shape, device=ids.device) < self.mask_rate
            words = torch.where(masked[..., None], table[self._mask_id()], words)
        hidden = bert(inputs_embeds=words).last_hidden_state
        return hidden.transpose(1, 2).reshape(quantized.shape).float()

    def _mask_id(self) -> int:
        return int(self.codebook.llm_ids[self.codebook.ids_of(["[MASK]"])])

    @classmethod
    def load_codebook(cls, config: Any, saved: SavedCodebook) -> CodeTable:
        """MiniLM's words, unless the checkpoint brings its own."""
        return bert_codebook() if saved.identity["name"] == MINILM else saved.load()


def bert_codebook(folder: str | Path | None = None) -> Codebook:
    """The words of a BERT model with rows of unit length; None: MiniLM's 30,522 x 384.

    folder: of a transformers model, with its `vocab.txt`. A row of zeros, as a padding token's may be, has no
    direction and is left out.
    """
    root = assets.require(MINILM) if folder is None else Path(folder)
    words = (root / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    table = load_bert(folder).get_input_embeddings().weight.detach()
    kept = table.any(dim=1).nonzero()[:, 0]
    name = MINILM if folder is None else root.name
    book = Codebook.from_arrays([words[i] for i in kept.tolist()], table[kept], llm_ids=kept, name=name)
    return book.normalised("unit")


def load_bert(folder: str | Path | None = None) -> Any:
    """A frozen BERT encoder from a transformers folder; None: MiniLM. Raises ImportError without
    transformers."""
    try:
        from transformers import BertModel
    except ImportError as error:
        raise ImportError(needs("BERT", "transformers")) from error
    root = assets.require(MINILM) if folder is None else folder
    model = BertModel.from_pretrained(root, local_files_only=True)
    return model.eval().requires_grad_(False)
