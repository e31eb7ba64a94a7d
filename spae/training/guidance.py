"""Semantic guidance in a training run: what a scorer sees in each image, beside that image."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, Subset

from spae.data.views import Views
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
        scorer's arguments; "start", arguments of `start_semantic_features`, which then sets the model's
        semantic features from the data set (from the images themselves, if it is one of views); the others
        are arguments of `SemanticLoss`: thresholds, temperature, seed.

    All features are computed before the run, the words' from the cache if they are there.
    """
    from spae.losses.semantic import SemanticLoss  # pyright: ignore
    from spae.scorers import TextFeatureCache, dataset_features  # pyright: ignore

    arguments = dict(entries)
    start = arguments.pop("start", None)
    scorer = _scorer(arguments.pop("scorer", None))
    words = TextFeatureCache(scorer).features(model.codebook.words)
    loss = SemanticLoss(model.codebook, words, rule=model.config.rule, **arguments)
    guided = GuidedImages(dataset, dataset_features(scorer, dataset))
    if start is not None:
        features = getattr(model, "semantic", None)
        if features is None:
            raise ValueError("semantic.start: the model has no semantic features (model.semantic_features)")
        once = Subset(guided, range(dataset.size)) if isinstance(dataset, Views) else guided
        start_semantic_features(features, loss, model.codebook, once, **start)
    return loss, guided


def _scorer(spec: Any) -> Any:
    from spae import scorers  # pyright: ignore

    arguments = {"name": spec} if isinstance(spec, str) else dict(spec or {})
    name = arguments.pop("name", None)
    if name not in _SCORERS:
        raise ValueError(f"semantic.scorer: expected one of {sorted(_SCORERS)}, got {name!r}")
    kind = getattr(scorers, _SCORERS[name])
    return getattr(kind, "load", kind)(**arguments)
