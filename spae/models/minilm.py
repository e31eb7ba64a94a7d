"""all-MiniLM-L6-v2, a small sentence encoder (Wang et al. 2020; Reimers & Gurevych 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from spae import assets
from spae.optional import needs

EMBED_DIM = 384
_BATCH = 256


class MiniLM:
    """Texts to the mean of the last hidden states over their tokens, which is not normalised.

    English, and it lower-cases: words that differ in case or in the white space around them get the same
    vector. Texts of more than 512 tokens are cut.

    Raises:
        ImportError: transformers is missing.
    """

    def __init__(self, folder: Path, *, device: torch.device | str = "cpu"):
        try:
            from transformers import AutoTokenizer, BertModel
        except ImportError as error:
            raise ImportError(needs("MiniLM", "transformers")) from error
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = BertModel.from_pretrained(folder, local_files_only=True)
        self.model = model.eval().requires_grad_(False).to(device)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, *, device: torch.device | str = "cpu", progress: bool = True) -> MiniLM:
        """From the asset "minilm", fetched if the cache lacks it; raises as `assets.require`."""
        return cls(assets.require("minilm", progress=progress), device=device)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """n texts -> float32 [n, 384]."""
        if not texts:
            return torch.zeros(0, EMBED_DIM, device=self.model.device)
        readings = self.tokenizer(list(texts), truncation=True)["input_ids"]
        # Words that differ in case or white space read the same: each reading is encoded once, by length.
        distinct = sorted(
            {tuple(reading) for reading in readings}, key=lambda reading: (len(reading), reading)
        )
        place = {reading: i for i, reading in enumerate(distinct)}
        vectors = []
        for start in range(0, len(distinct), _BATCH):
            batch = self.tokenizer.pad(
                {"input_ids": [list(r) for r in distinct[start : start + _BATCH]]}, return_tensors="pt"
            ).to(self.model.device)
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors.append((hidden * mask).sum(dim=1) / mask.sum(dim=1))
        return torch.cat(vectors)[[place[tuple(reading)] for reading in readings]]
