"""Semantic guidance in a training run: what a scorer sees in each image, beside that image."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from spae import scorers
from spae.codebook.kinds import of_kind
from spae.configs import Count, Natural, Positive, Share, Weight, check_arguments
from spae.data import open_data
from spae.data.open import parse
from spae.data.views import Views
from spae.losses import Regions, SemanticLoss, TargetRules, hub_offset
from spae.losses.semantic import THRESHOLDS
from spae.losses.targets import Draw, Sizes
from spae.models.semantic_words import SemanticWords
from spae.scorers import TextFeatureCache, region_features
from spae.tokenizers import Tokenizer
from spae.training.semantic_start import start_semantic_features, start_semantic_words

_SECTION = "objective.semantic"
_SCORERS = {"caption": "CaptionScorer", "conse": "ConSEScorer", "open_clip": "OpenCLIPScorer"}
_Kind = Literal["all", "things", "actions", "colours", "materials"]


class GuidedImages(Dataset[tuple[Tensor, Tensor]]):
    """The images of a dataset, each with its feature: (image, features[i]).

    features: [N, E], one row per item, or [N, R, E] with one for each of `regions`. Of `Views` there is one
    row for each image that is seen: views share it, and mirrored ones have their regions mirrored. (Their
    shift, of a few pixels, is left out of account.)
    """

    def __init__(self, dataset: Dataset[Any], features: Tensor, regions: Regions | None = None):
        length = dataset.size if isinstance(dataset, Views) else len(dataset)  # pyright: ignore[reportArgumentType]
        count = 1 if regions is None else len(regions)
        shape = (length,) if count == 1 else (length, count)
        if features.ndim != len(shape) + 1 or features.shape[:-1] != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(f"features: expected [{expected}, E], got {list(features.shape)}")
        self.dataset, self.features = dataset, features
        self._mirrored = None if regions is None or count == 1 else regions.mirrored()

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.dataset[index]
        feature = self.features[index % len(self.features)]
        views = self.dataset
        if self._mirrored is not None and isinstance(views, Views) and views.mirrored(index):
            feature = feature[self._mirrored]
        return sample[0] if isinstance(sample, list | tuple) else sample, feature


@dataclass(frozen=True)
class _Guidance:
    """A configuration's semantic guidance, taken apart: `load(**arguments)` is the scorer; the rest is what
    `_loss_entries` names."""

    load: Any
    arguments: dict[str, Any]
    loss: dict[str, Any]
    rules: dict[str, Any]
    regions: Regions
    hubs: float
    hub_neighbours: int | None
    words: Any
    start: dict[str, Any] | None


def semantic_guidance(
    entries: dict[str, Any], model: Tokenizer, dataset: Dataset[Any]
) -> tuple[Any, GuidedImages]:
    """The semantic loss of a configuration, and the dataset with the image features that it needs.

    entries: "scorer", the name of one ("caption", "conse", "open_clip") or a mapping of that "name" and the
        scorer's arguments, in which "codebook" stands for the words of the model's codebook as a
        "vocabulary"; the others, but "start" (`start_guidance`), say what guides:
        "thresholds", "temperature", "seed": see `SemanticLoss`;
        "draw", "least", "most", "mixup": see `TargetRules`;
        "regions": fields of `Regions`;
        "hubs", "hub_neighbours": the weight and neighbours of `hub_offset` over this data set; 0 for none;
        "words": "all" or a kind of words (`spae.codebook.kinds`) from which targets come, or a list of
        those; a list of such lists has one for each guided layer.

    Raises ValueError for "mixup" beside a model whose words a regression chooses (`SemanticWords`): no step
    of training changes those.

    All features are computed before the run, those of words and of images from the cache if they are there;
    by default on this process's device.
    """
    found = _parts(entries)
    if found.rules.get("mixup") and isinstance(getattr(model, "semantic", None), SemanticWords):
        raise ValueError(
            f"{_SECTION}.mixup: expected 0 beside model.semantic_projection 'words', which no step changes, "
            f"got {found.rules['mixup']}"
        )
    book, regions = model.codebook, found.regions
    scorer = _scorer(found, book.words)
    words = TextFeatureCache(scorer).features(book.words)
    seen = dataset.dataset if isinstance(dataset, Views) else dataset
    features = regions.blended(region_features(scorer, seen, regions))
    if found.hubs:
        whole, neighbours = features[:, 0], found.hub_neighbours
        found.rules["offset"] = hub_offset(whole, words, weight=found.hubs, neighbours=neighbours)
    if found.words is not None:
        found.rules["allowed"] = allowed_words(book.words, found.words, len(found.loss["thresholds"]))
    rules = TargetRules(regions=regions, **found.rules)
    loss = SemanticLoss(model.table, words, rule=model.config.rule, rules=rules, **found.loss)
    return loss, GuidedImages(dataset, features[:, 0] if len(regions) == 1 else features, regions)


def guide(entries: dict[str, Any], model: Tokenizer, dataset: Dataset[Any]) -> GuidedImages:
    """Another dataset, e.g. of held-out images, with the features that `semantic_guidance` would give it."""
    found = _parts(entries)
    regions = found.regions
    features = regions.blended(region_features(_scorer(found, model.codebook.words), dataset, regions))
    return GuidedImages(dataset, features[:, 0] if len(regions) == 1 else features, regions)


def _scorer(found: _Guidance, words: Sequence[str]) -> Any:
    arguments = dict(found.arguments)
    if "device" in inspect.signature(found.load).parameters:
        from accelerate import PartialState

        arguments.setdefault("device", PartialState().device)
    if arguments.get("vocabulary") == "codebook":
        arguments["vocabulary"] = words
    return found.load(**arguments)


def allowed_words(words: Sequence[str], kinds: Any, num_layers: int) -> Tensor:
    """bool [num_layers, K]: the words of the kinds of each guided layer, see "words" of `semantic_guidance`.

    Raises ValueError for another number of layers, and for kinds of which the codebook has no word.
    """
    layers = _kinds_of_layers(kinds, num_layers)
    of = {kind: of_kind(words, kind) for kind in set().union(*layers) - {"all"}}
    allowed = torch.zeros(num_layers, len(words), dtype=torch.bool)
    for layer, wanted in enumerate(layers):
        for kind in wanted:
            allowed[layer, of.get(kind, slice(None))] = True
        if not allowed[layer].any():
            raise ValueError(f"{_SECTION}.words: expected words in the codebook that are {wanted}, got none")
    return allowed


def _kinds_of_layers(kinds: Any, num_layers: int) -> list[list[str]]:
    def listed(one: Any) -> list[str]:
        return [one] if isinstance(one, str) else list(one)

    nested = not isinstance(kinds, str) and any(not isinstance(one, str) for one in kinds)
    layers = [listed(one) for one in kinds] if nested else [listed(kinds)] * num_layers
    if len(layers) != num_layers or not all(layers):
        raise ValueError(
            f"{_SECTION}.words: expected kinds for each of {num_layers} guided layers, got {kinds!r}"
        )
    return layers


def start_guidance(entries: dict[str, Any], model: Tokenizer, loss: Any, guided: Any) -> None:
    """What "start" among the entries of a semantic guidance asks for: its arguments are those of
    `start_semantic_features`, or of `start_semantic_words` for a model with model.semantic_projection
    "words"; these set the model's semantic features from a data set: from what "data" opens, its split
    "train" (`open_data`), by default from the training set (from the images themselves, if it is one of
    views).

    loss, guided: from `semantic_guidance`. Raises ValueError for a model without semantic features.
    """
    start = _parts(entries).start
    if start is None:
        return
    features = getattr(model, "semantic", None)
    if features is None:
        raise ValueError(
            "objective.semantic.start: expected a model with semantic features "
            "(model.semantic_features), got one without"
        )
    data = start.pop("data", None)
    views = guided.dataset
    if data is not None:
        once = guide(entries, model, open_data(data, "train", image_size=model.config.image_size))
    else:
        once = Subset(guided, range(views.size)) if isinstance(views, Views) else guided
    if not isinstance(features, SemanticWords):
        start_semantic_features(features, loss, model.table, once, **start)
    elif "sharpness" in start:
        raise ValueError(
            "objective.semantic.start.sharpness: expected none beside model.semantic_projection 'words', "
            f"got {start['sharpness']!r}"
        )
    else:
        start_semantic_words(features, loss, once, **start)


def check_guidance(entries: Any) -> None:
    """Raises ValueError, naming the entry, for what `semantic_guidance` and `start_guidance` do not take."""
    _parts(entries)


def _parts(entries: Any) -> _Guidance:
    if not isinstance(entries, Mapping):
        raise ValueError(f"{_SECTION}: expected a mapping with a scorer, got {entries!r:.200}")
    rest = dict(entries)
    start, scorer = rest.pop("start", None), rest.pop("scorer", None)
    arguments = dict(scorer) if isinstance(scorer, Mapping) else {"name": scorer}
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in _SCORERS:
        raise ValueError(f"{_SECTION}.scorer: expected one of {sorted(_SCORERS)}, got {name!r:.200}")
    kind = getattr(scorers, _SCORERS[name])
    load = getattr(kind, "load", kind)
    own_words = arguments.get("vocabulary") == "codebook"
    check_arguments(f"{_SECTION}.scorer", load, arguments | ({"vocabulary": []} if own_words else {}))
    check_arguments(_SECTION, _loss_entries, rest)
    regions = Regions.from_dict(rest.pop("regions", {}))
    if name == "caption" and regions.moments > 1:
        raise ValueError(
            f"{_SECTION}.regions.moments: expected 1 for the scorer 'caption', which sees no frames, "
            f"got {regions.moments}"
        )
    if name == "caption" and len(regions) > 1:
        raise ValueError(
            f"{_SECTION}.regions.grids: expected (1,) for the scorer 'caption', which sees no pixels, "
            f"got {regions.grids}"
        )
    if start is not None:
        check_arguments(f"{_SECTION}.start", _start_entries, start)
        start = dict(start)
        if isinstance(start.get("data"), Mapping):
            parse(start["data"])
    rules = {entry: rest.pop(entry) for entry in ("draw", "least", "most", "mixup") if entry in rest}
    hubs, neighbours = rest.pop("hubs", 0.0), rest.pop("hub_neighbours", 10)
    words, loss = rest.pop("words", None), {"thresholds": THRESHOLDS, **rest}
    TargetRules(**rules).check(len(loss["thresholds"]), 1)
    if words is not None:
        _kinds_of_layers(words, len(loss["thresholds"]))
    return _Guidance(load, arguments, loss, rules, regions, hubs, neighbours, words, start)


def _loss_entries(
    thresholds: Sequence[Share] = THRESHOLDS,
    temperature: Positive = 1.0,
    seed: Natural = 0,
    draw: Draw = "uniform",
    least: Sizes = None,
    most: Sizes = None,
    regions: Mapping[str, Any] | None = None,
    hubs: Weight = 0.0,
    hub_neighbours: Count | None = 10,
    words: _Kind | Sequence[_Kind | Sequence[_Kind]] | None = None,
    mixup: Weight = 0.0,
) -> None:
    """What a configuration says of a semantic loss."""


def _start_entries(
    ridge: Positive = 3.0,
    sharpness: Weight = 33.0,
    batch_size: Count = 64,
    data: str | Mapping[str, Any] | None = None,
) -> None:
    """What a configuration says of a start."""
