"""LQAE, the Language-Quantized AutoEncoder (Liu et al. 2023): BERT's words, one layer of 256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from spae import assets
from spae.codebook import Codebook
from spae.optional import needs
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.spae import SPAE


@dataclass(frozen=True)
class LQAEConfig(SPAEConfig):
    """Architecture of an LQAE: a SPAE of one full-grid layer, whose latents and codes have unit length.

    mask_rate: the share of words that are masked in training before BERT reads them; None leaves BERT out.
    """

    grids: tuple[int | tuple[int, ...], ...] = (16,)
    latent_norm: str = "unit"
    mask_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_rate is not None and not 0 <= self.mask_rate < 1:
            raise ValueError(f"mask_rate: expected at least 0 and below 1, or None, got {self.mask_rate}")
        if len(self.pyramid.grids) != 1:
            raise ValueError(f"grids: LQAE has one layer, got {self.grids}")


class LQAE(SPAE):
    """An image as words of a BERT vocabulary, and back.

    With `config.mask_rate` the frozen BERT reads the words, a random part of them masked in training, and
    the decoder sees its last hidden states instead of the words' own vectors. Gradients pass through BERT to
    the latents; it does not train.

    config: architecture. codebook: BERT's words with rows of unit length (`bert_codebook`). bert: a
    transformers `BertModel` with the same words, in evaluation mode; None loads MiniLM if the config asks for
    it. Like the codebook it is in no state dict; its weights are part of the codebook's checksum there.
    """

    config_class: ClassVar[type[SPAEConfig]] = LQAEConfig

    def __init__(self, config: LQAEConfig, codebook: Codebook, bert: nn.Module | None = None) -> None:
        if codebook.normalisation != "unit":
            raise ValueError(f"codebook: expected rows of unit length, got {codebook.normalisation!r}")
        if config.mask_rate is None and bert is not None:
            raise ValueError("bert: expected None without config.mask_rate")
        super().__init__(config, codebook)
        self.mask_rate = config.mask_rate
        frozen = load_bert() if config.mask_rate is not None and bert is None else bert
        # In a list, so that it is no submodule: frozen, and too large to be saved or synchronised.
        self._bert = [] if frozen is None else [frozen.eval().requires_grad_(False)]
        for model in cast(list[Any], self._bert):
            words, width = model.get_input_embeddings().weight.shape
            if width != codebook.vectors.shape[1] or int(codebook.llm_ids.max()) >= words:
                raise ValueError(
                    f"bert: expected the codebook's words, {codebook}, got a table [{words}, {width}]"
                )

    def codebook_identity(self) -> dict[str, Any]:
        identity = super().codebook_identity()
        for model in self._bert:
            digest = hashlib.sha256(identity["checksum"].encode())
            for name, value in sorted(model.state_dict().items()):
                digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
            identity |= {"bert": type(model).__name__, "checksum": digest.hexdigest()}
        return identity

    def _pixels(self, quantized: Tensor, ids: Tensor, *, inference: bool) -> Tensor:
        masks = self.training and not inference
        for model in self._bert:
            quantized = self._read(model.to(quantized.device), quantized, ids, masks=masks)
        return super()._pixels(quantized, ids, inference=inference)

    def _read(self, bert: Any, quantized: Tensor, ids: Tensor, *, masks: bool) -> Tensor:
        """BERT's last hidden states over the words, in their places: [B, D, *shape] -> the same."""
        table = bert.get_input_embeddings().weight
        rows = self.codebook.llm_ids.to(ids.device)[ids]
        # BERT knows its rows at their own length; the gradient passes along the unit rows.
        lengths = table[rows].norm(dim=-1, keepdim=True)
        words = quantized.flatten(2).transpose(1, 2) * lengths
        if masks and self.mask_rate:
            masked = torch.rand(ids.shape, device=ids.device) < self.mask_rate
            words = torch.where(masked[..., None], table[self._mask_id(bert)], words)
        hidden = bert(inputs_embeds=words).last_hidden_state
        return hidden.transpose(1, 2).reshape(quantized.shape).float()

    def _mask_id(self, bert: Any) -> int:
        return int(self.codebook.llm_ids[self.codebook.ids_of(["[MASK]"])])

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str | Path, *, codebook: Codebook | None = None, device: str | torch.device = "cpu"
    ) -> SPAE:
        """A trained LQAE; see `Tokenizer.from_pretrained`. None takes MiniLM's words."""
        book = bert_codebook() if codebook is None else codebook
        return super().from_pretrained(name, codebook=book, device=device)  # pyright: ignore


def bert_codebook(folder: str | Path | None = None) -> Codebook:
    """The words of a BERT model with rows of unit length; None: MiniLM's 30,522 x 384.

    folder: of a transformers model, with its `vocab.txt`. A row of zeros, as a padding token's may be, has no
    direction and is left out.
    """
    root = assets.require("minilm") if folder is None else Path(folder)
    words = (root / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    table = load_bert(folder).get_input_embeddings().weight.detach()
    kept = table.any(dim=1).nonzero()[:, 0]
    name = "minilm" if folder is None else root.name
    book = Codebook.from_arrays([words[i] for i in kept.tolist()], table[kept], llm_ids=kept, name=name)
    return book.normalised("unit")


def load_bert(folder: str | Path | None = None) -> Any:
    """A frozen BERT encoder from a transformers folder; None: MiniLM. Raises ImportError without
    transformers."""
    try:
        from transformers import BertModel
    except ImportError as error:
        raise ImportError(needs("BERT", "transformers")) from error
    root = assets.require("minilm") if folder is None else folder
    model = BertModel.from_pretrained(root, local_files_only=True)
    return model.eval().requires_grad_(False)
