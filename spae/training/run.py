"""`spae train`: a preset from start to a saved model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from spae.eval.metrics import psnr
from spae.eval.reconstruction import decode_all, encode_all
from spae.tokenizers import Tokenizer
from spae.training.config import TrainConfig
from spae.training.loop import Trainer
from spae.training.presets import Preset

PROGRESS_IMAGES = 128


def train(preset: Preset, output_dir: str | Path) -> bool:
    """Train (or go on training) a preset in `output_dir`; the model ends up in its folder `model`.

    Returns False if a signal ended the run before its last step: the same call goes on with it.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    config = TrainConfig(output_dir=str(output_dir), **preset.train)
    # The weights are drawn from the run's seed too, so that preset and seed make the model.
    torch.manual_seed(config.seed)
    model = preset.build()
    dataset, held_out = preset.datasets()
    trainer = Trainer(
        model, dataset, config, evaluate=_held_out_psnr(held_out[:: max(1, len(held_out) // PROGRESS_IMAGES)])
    )
    recipe = {"data": preset.data, "codebook": preset.codebook, "model": preset.model, "train": preset.train}
    (output_dir / "preset.json").write_text(json.dumps(recipe, indent=2) + "\n")
    if not trainer.train():
        return False
    with trainer.averaged():
        model.save_pretrained(output_dir / "model")
    return True


def _held_out_psnr(images: torch.Tensor):
    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, Tokenizer)
        tokens = encode_all(model, images)
        return {
            f"psnr_{number}_layers": psnr(images, decode_all(model, tokens.upto(number))).mean().item()
            for number in range(max(1, tokens.num_layers - 2), tokens.num_layers + 1)
        } | {"distinct_words": float(tokens.ids.unique().numel())}

    return evaluate
