"""How well does a tokenizer of sound keep recordings?"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from spae.configs import Config, Count
from spae.data import Images, open_data
from spae.data.sound import SoundProcessor
from spae.eval.classifier import PixelClassifier
from spae.eval.images import spread, stack
from spae.eval.reconstruction import evaluate_reconstruction, share_named
from spae.eval.run import Measured, Run
from spae.eval.table import markdown
from spae.figures import reconstruction_page
from spae.metrics import log_spectral_distance, multi_resolution_stft
from spae.tokenizers.batches import decode_all, encode_all

ABOUT = "Spectral distances and legibility of held-out recordings, layer by layer."
USES_LLM = False
_PICTURES = 6  # on the page


@dataclass(frozen=True)
class Sounds(Config):
    """data, split: see `open_data`, recordings. sounds: how many, evenly spread over the split; None: all."""

    section = "sound"

    data: str
    split: str = "test"
    sounds: Count | None = None


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="spoken-digits:PATH or wav:FOLDER (open_data)")
    parser.add_argument("--split", default="test", help="(default: test)")
    parser.add_argument("--sounds", type=int, help="how many, evenly spread (default: all)")


def settings(arguments: argparse.Namespace) -> Sounds:
    return Sounds(arguments.data, arguments.split, arguments.sounds)


def measure(run: Run) -> Measured:
    """Beside the layers stands "resynthesis": the recordings' own spectrograms made into sound, the best that
    any words could give."""
    chosen: Sounds = run.settings
    processor = run.model.processor
    if not isinstance(processor, SoundProcessor):
        raise ValueError(f"model: expected one of sound, got one with an {type(processor).__name__}")
    opened = open_data(chosen.data, chosen.split, image_size=run.model.config.image_size)
    assert isinstance(opened, Images)  # `Views` are of training images
    if opened.processor != processor:
        raise ValueError(f"data: expected recordings as {processor}, got {opened.processor}")
    dataset = spread(opened, chosen.sounds)
    images = stack(dataset, range(len(dataset)))
    tokens = encode_all(run.model, images)
    report: dict[str, Any] = {"run": asdict(chosen)}
    report |= evaluate_reconstruction(run.model, images, tokens=tokens)
    if run.model.pyramid.tokens_per_layer[0] == 1 and all(dataset.captions):
        report["named"] = share_named(run.model, tokens, dataset.captions)
    heard = _Heard(processor, images, torch.as_tensor(dataset.labels), _classifier(chosen, images))
    report["originals"] = heard.accuracies(images)
    report["resynthesis"] = heard(images)
    for row in report["layers"]:
        row |= heard(decode_all(run.model, tokens.upto(row["layer"])))
    pictures = images[:: max(1, len(images) // _PICTURES)][:_PICTURES]
    shown = encode_all(run.model, pictures)
    return Measured(report, lambda path: reconstruction_page(run.model, pictures, shown, path))


class _Heard:
    """Compares images, and what they sound like, with recordings' images."""

    def __init__(
        self, processor: SoundProcessor, images: Tensor, labels: Tensor, classifier: PixelClassifier | None
    ) -> None:
        self.processor, self.images, self.labels, self.classifier = processor, images, labels, classifier
        self.sound = processor.postprocess(images)

    def __call__(self, images: Tensor) -> dict[str, float]:
        """decibels: the root mean square difference of log-mel spectrograms. again: of that of the sound.
        The two spectral distances are between sounds that are made of images in the same way, ours and the
        recordings', for phases are nobody's."""
        clamped = images.clamp(-1, 1)
        sound = self.processor.postprocess(clamped)
        again = self.processor.preprocess(list(sound))
        return {
            "decibels": self._decibels(clamped),
            "decibels_of_sound": self._decibels(again),
            "log_spectral_distance": log_spectral_distance(self.sound, sound).mean().item(),
            "multi_resolution_stft": multi_resolution_stft(self.sound, sound).mean().item(),
            **self.accuracies(clamped),
            **{f"{name}_of_sound": value for name, value in self.accuracies(again).items()},
        }

    def accuracies(self, images: Tensor) -> dict[str, float]:
        """The share that is read as its class, where there are classes."""
        return {} if self.classifier is None else {"accuracy": self.classifier.accuracy(images, self.labels)}

    def _decibels(self, images: Tensor) -> float:
        difference = (images - self.images).square().flatten(1).mean(1).sqrt().mean().item()
        return difference * self.processor.floor / 2


def _classifier(chosen: Sounds, images: Tensor) -> PixelClassifier | None:
    """Of the training recordings, where they have classes."""
    train = open_data(chosen.data, "train", image_size=tuple(images.shape[2:]))
    labels = torch.as_tensor(train.labels)  # pyright: ignore[reportAttributeAccessIssue]
    if len(labels.unique()) < 2:
        return None
    return PixelClassifier(stack(train, range(len(labels))), labels)


def table(report: dict[str, Any]) -> str:
    """One row per number of layers, the last what resynthesis alone does."""
    with_accuracy = "accuracy" in report["originals"]
    header = ["layers", "words", "PSNR (dB)", "log-mel (dB)", "log-mel of the sound (dB)", "LSD (dB)"]
    header += ["STFT distance", *["read right", "heard right"] * with_accuracy]
    rows, words = [], 0
    for row in [*report["layers"], report["resynthesis"]]:
        words += row.get("words_per_image", 0)
        psnr = f"{row['psnr']:.2f} ± {row['psnr_standard_error']:.2f}" if "psnr" in row else ""
        cells = [str(row.get("layer", "resynthesis")), str(words) if "layer" in row else "", psnr]
        cells += [f"{row[name]:.1f}" for name in ("decibels", "decibels_of_sound", "log_spectral_distance")]
        cells.append(f"{row['multi_resolution_stft']:.2f}")
        names = ("accuracy", "accuracy_of_sound") if with_accuracy else ()
        rows.append([*cells, *(f"{row[name]:.1%}" for name in names)])
    note = f"{report['images']} recordings; {report['distinct_words']} of {report['codebook']} words in use"
    if "named" in report:
        note += f"; the first word is the recording's name for {report['named']:.1%}"
    if with_accuracy:
        note += f"; SVM accuracy on the originals' spectrograms {report['originals']['accuracy']:.1%}"
    return markdown(header, rows, note)
