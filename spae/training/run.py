"""`spae train`: a preset from start to a saved model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from spae.clips import clip_page
from spae.data.open import Images, parse
from spae.figures import reconstruction_page
from spae.losses import SemanticLoss, relative_scores
from spae.metrics import psnr
from spae.tokenizers import PyramidTokens, Tokenizer
from spae.tokenizers.batches import decode_all, encode_all
from spae.training.checkpoints import checkpoints
from spae.training.config import TrainConfig
from spae.training.disk import replace_text
from spae.training.guidance import GuidedImages, guide
from spae.training.loop import Trainer
from spae.training.presets import Preset

PROGRESS_IMAGES = 128
SAMPLED_IMAGES = 64
PAGE_IMAGES = 4


def train(preset: Preset, output_dir: str | Path) -> bool:
    """Train (or go on training) a preset in `output_dir`; the model ends up in its folder `model`.

    As it trains, `progress/` gets a page of held-out images with their reconstructions and words.
    Returns False if a signal ended the run before its last step: the same call goes on with it.
    Raises what `Trainer.train` says; a preset other than the folder's is refused before anything is written.
    """
    output_dir = Path(output_dir)
    config = TrainConfig.from_dict({**preset.train, "output_dir": str(output_dir)})
    # The weights are drawn from the run's seed too, so that preset and seed make the model.
    torch.manual_seed(config.seed)
    model = preset.build()
    split = "test" if config.early_stopping is None else "dev"  # what ends a run must not test it
    dataset, held_out = (preset.dataset(part, model.config.image_size) for part in ("train", split))
    settings = _settings(preset, dataset)
    objective, dataset = preset.build_objective(model, dataset)
    if not checkpoints(output_dir / "checkpoints"):
        preset.initialise(model, objective, dataset)
    if (processor := getattr(held_out, "processor", None)) is not None:
        model.processor = processor
    progress = _Progress(held_out, output_dir / "progress")
    guidance = (preset.objective or {}).get("semantic")
    if config.early_stopping is not None and objective is not None and guidance is not None:
        progress.guide(guidance, model, cast(SemanticLoss, objective.semantic))
    trainer = Trainer(
        model,
        dataset,
        config,
        objective=objective,
        evaluate=progress,
        settings=settings,
    )
    main = trainer.accelerator.is_main_process
    with trainer.lock:
        trainer.resume()
        if main:
            replace_text(output_dir / "preset.json", json.dumps(preset.to_dict(), indent=2) + "\n")
        finished = trainer.train()
        if finished and main:
            with trainer.averaged():
                if trainer.stopping is not None:
                    trainer.stopping.restore(model)
                model.save_pretrained(output_dir / "model")
    return finished


def _settings(preset: Preset, dataset: Dataset[Any]) -> dict[str, Any]:
    """What of a preset the trainer cannot know: the parts of the objective and the data."""
    kind, place, options = parse(preset.data)
    return {
        "objective": {key: part for key, part in (preset.objective or {}).items() if part is not None},
        "data": {kind: place, **options, "sha256": _sample_checksum(dataset)},
        **({} if preset.weights is None else {"weights": preset.weights}),
    }


def _sample_checksum(dataset: Dataset[Any]) -> str:
    """Of evenly spread images, in their order."""
    total = len(dataset)  # pyright: ignore[reportArgumentType]
    digest = hashlib.sha256()
    for index in range(0, total, max(1, total // SAMPLED_IMAGES)):
        digest.update(_image(dataset[index]).numpy().tobytes())
    return digest.hexdigest()


class _Progress:
    """Held-out figures of a model in training, and a page of pictures and words."""

    def __init__(self, dataset: Dataset[Any], folder: Path):
        total = len(dataset)  # pyright: ignore[reportArgumentType]
        chosen = range(0, total, max(1, total // PROGRESS_IMAGES))
        self.dataset, self.chosen = dataset, list(chosen)
        self.images: Tensor = torch.stack([_image(dataset[i]) for i in chosen])
        self.folder = folder
        self.semantic: SemanticLoss | None = None
        self.features = torch.empty(0)

    def guide(self, entries: dict[str, Any], model: Tokenizer, semantic: SemanticLoss) -> None:
        """Score words, too, by what guides the training (`semantic_guidance`)."""
        guided: GuidedImages = guide(entries, model, Images(self.dataset, self.chosen))
        self.semantic, self.features = semantic, torch.stack([feature for _, feature in guided])

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, Tokenizer)
        tokens = encode_all(model, self.images)
        self._page(model, step)
        return {
            f"psnr_{number}_layers": psnr(self.images, decode_all(model, tokens.upto(number))).mean().item()
            for number in range(max(1, tokens.num_layers - 2), tokens.num_layers + 1)
        } | {"distinct_words": float(tokens.ids.unique().numel()), **self._scores(tokens)}

    def _scores(self, tokens: PyramidTokens) -> dict[str, float]:
        """The mean relative score (eq. 6) of each guided layer's words, and the mean over those layers."""
        if self.semantic is None:
            return {}
        scores = relative_scores(self.semantic.scores(self.features, len(self.features)).cpu())
        layers = range(len(self.semantic.thresholds))
        means = [scores.gather(1, tokens.layer(layer).cpu()).mean().item() for layer in layers]
        by_layer = {f"semantic_score_layer_{layer + 1}": mean for layer, mean in enumerate(means)}
        return by_layer | {"semantic_score": sum(means) / len(means)}

    def _page(self, model: Tokenizer, step: int) -> None:
        """Where there is matplotlib to draw it; of video an animated one, where there is Pillow."""
        first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        drawn = {4: ("matplotlib", "png", reconstruction_page), 5: ("PIL", "gif", clip_page)}
        if not first or self.images.ndim not in drawn:
            return
        needed, kind, draw = drawn[self.images.ndim]
        if importlib.util.find_spec(needed):
            images = self.images[:: max(1, len(self.images) // PAGE_IMAGES)][:PAGE_IMAGES].to(model.device)
            draw(model, images, model.encode(images), self.folder / f"step-{step:08d}.{kind}")


def _image(sample: Any) -> Tensor:
    return sample[0] if isinstance(sample, list | tuple) else sample
