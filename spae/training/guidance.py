"""Semantic guidance in a training run: what a scorer sees in each image, beside that image."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, Subset

from spae import scorers
from spae.configs import Natural, Positive, Share, check_arguments
from spae.data.views import Views
from spae.losses.semantic import THRESHOLDS, SemanticLoss
from spae.scorers import TextFeatureCache, dataset_features
from spae.tokenizers import Tokenizer
from spae.training.semantic_start import start_semantic_features

_SCORERS = {"caption": "CaptionScorer", "conse": "ConSEScorer", "open_clip": "OpenCLIPScorer"}


class GuidedImages(Dataset[tuple[Tensor, Tensor]]):
    """The images of a dataset, each with its feature: (image, features[i]).

    features: [N, E], one row per item.
    """

    def __init__(self, dataset: Dataset[Any], features: Tensor):
        length = len(dataset)  # pyright: ignore[reportArgumentType]
        if features.ndim != 2 or len(features) != length:
            raise ValueError(f"features: expected [{length}, E], got {list(features.shape)}")
        self.dataset, self.features = dataset, features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.dataset[index]
        return sample[0] if isinstance(sample, list | tuple) else sample, self.features[index]


def semantic_guidance(
    entries: dict[str, Any], model: Tokenizer, dataset: Dataset[Any]
) -> tuple[Any, GuidedImages]:
    """The semantic loss of a configuration, and the dataset with the image features that it needs.

    entries: "scorer", the name of one ("caption", "conse", "open_clip") or a mapping of that "name" and the
        scorer's arguments; the others, but "start" (`start_guidance`), are arguments of `SemanticLoss`:
        thresholds, temperature, seed.

    All features are computed before the run, the words' from the cache if they are there; by default on this
    process's device.
    """
    load, arguments, loss_arguments, _ = _parts(entries)
    if "device" in inspect.signature(load).parameters:
        from accelerate import PartialState

        arguments.setdefault("device", PartialState().device)
    scorer = load(**arguments)
    words = TextFeatureCache(scorer).features(model.codebook.words)
    loss = SemanticLoss(model.codebook, words, rule=model.config.rule, **loss_arguments)
    return loss, GuidedImages(dataset, dataset_features(scorer, dataset))


def start_guidance(entries: dict[str, Any], model: Tokenizer, loss: Any, guided: Any) -> None:
    """What "start" among the entries of a semantic guidance asks for: its arguments are those of
    `start_semantic_features`, which sets the model's semantic features from the data set (from the images
    themselves, if it is one of views).

    loss, guided: from `semantic_guidance`. Raises ValueError for a model without semantic features.
    """
    *_, start = _parts(entries)
    if start is None:
        return
    features = getattr(model, "semantic", None)
    if features is None:
        raise ValueError(
            "objective.semantic.start: expected a model with semantic features "
            "(model.semantic_features), got one without"
        )
    views = guided.dataset
    once = Subset(guided, range(views.size)) if isinstance(views, Views) else guided
    start_semantic_features(features, loss, model.codebook, once, **start)


def check_guidance(entries: Any) -> None:
    """Raises ValueError, naming the entry, for what `semantic_guidance` and `start_guidance` do not take."""
    _parts(entries)


def _parts(entries: Any) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """What loads the scorer, its arguments, those of the loss, and those of the start or None."""
    section = "objective.semantic"
    if not isinstance(entries, Mapping):
        raise ValueError(f"{section}: expected a mapping with a scorer, got {entries!r:.200}")
    rest = dict(entries)
    start, scorer = rest.pop("start", None), rest.pop("scorer", None)
    arguments = dict(scorer) if isinstance(scorer, Mapping) else {"name": scorer}
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in _SCORERS:
        raise ValueError(f"{section}.scorer: expected one of {sorted(_SCORERS)}, got {name!r:.200}")
    kind = getattr(scorers, _SCORERS[name])
    load = getattr(kind, "load", kind)
    check_arguments(f"{section}.scorer", load, arguments)
    check_arguments(section, _loss_entries, rest)
    if start is not None:
        check_arguments(f"{section}.start", start_semantic_features, start, given=4)
    return load, arguments, rest, start


def _loss_entries(
    thresholds: Sequence[Share] = THRESHOLDS, temperature: Positive = 1.0, seed: Natural = 0
) -> None:
    """The arguments of `SemanticLoss` that a configuration gives."""
