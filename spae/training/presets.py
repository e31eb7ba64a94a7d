"""Whole training runs by name: data, codebook, model, objective and schedule in one JSON file, with
overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.data import Dataset

from spae.codebook import Codebook, WordChoice
from spae.configs import Config, Count, check_arguments, checked
from spae.data import open_data
from spae.data.open import parse
from spae.losses import DISTS, LPIPS, FeatureDistance, Objective, ObjectiveConfig
from spae.models import FrameDiscriminator, PatchDiscriminator, ResidualDiscriminator
from spae.tokenizers import (
    LQAE,
    RQ,
    SPAE,
    VQGAN,
    LQAEConfig,
    RQConfig,
    SPAEConfig,
    Tokenizer,
    VQGANConfig,
)
from spae.tokenizers.checkpoints import WEIGHTS, find, read_weights
from spae.tokenizers.lqae import bert_codebook
from spae.tokenizers.v2l import V2LConfig, V2LTokenizer
from spae.tokenizers.v2l_words import V2LWords
from spae.training.config import TrainConfig
from spae.training.guidance import check_guidance, semantic_guidance, start_guidance

FOLDER = Path(__file__).parent.parent / "presets"
_PARTS = ("perceptual", "discriminator", "semantic")  # of an objective, beside its weights
_Perceptual = Literal["lite0", "lpips-vgg", "lpips-alex", "lpips-squeeze", "dists"]
_CONFIGS: dict[str, type[SPAEConfig]] = {
    "spae": SPAEConfig,
    "vqgan": VQGANConfig,
    "rq": RQConfig,
    "lqae": LQAEConfig,
    "v2l": V2LConfig,
}
_SECTIONS = ("data", "tokenizer", "codebook", "model", "weights", "objective", "train")
_QUANTIZER = (
    *("grids", "rule", "latent_norm", "vocabularies", "layer_dropout", "word_noise"),
    *("codebook_size", "codebook_dim", "update", "mask_rate"),
)


@dataclass(frozen=True)
class Preset(Config):
    """data: see `spae.data.open_data`. tokenizer: "spae", "vqgan", "rq", "lqae" or "v2l". model: fields of
        its config. train: fields of TrainConfig but for output_dir.

    codebook: arguments of `Codebook.load`; of `bert_codebook` for "lqae", of `V2LWords.load` for "v2l";
        "vqgan" and "rq" have none. If its "words" are a `WordChoice`, model.vocabularies may name its "names"
        and "others".

    weights: a saved model, by name or folder; weights of the same name and shape begin as there. None: all
        begin at random.

    objective: fields of ObjectiveConfig, and what takes part, each left out if absent or null:
        "perceptual": "lite0", "lpips-vgg", "lpips-alex", "lpips-squeeze" or "dists";
        "discriminator": {"kind": "patch"|"residual"} and that one's arguments; of clips it sees all frames at
        once, or with "per_frame": true each by itself;
        "semantic": see `semantic_guidance`, and `start_guidance` for its "start".
    None stands for the model's own losses, weighed by the loss_weights of `train`.

    Raises ValueError, naming section and entry, for anything that no run could be made of as far as can be
    said without opening the data, the codebook or a network.
    """

    section = "preset"

    data: str | dict[str, Any]
    model: dict[str, Any]
    train: dict[str, Any]
    tokenizer: Literal["spae", "vqgan", "rq", "lqae", "v2l"] = "spae"
    codebook: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    objective: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if "output_dir" in self.train:
            raise ValueError(
                "train.output_dir: expected none in a preset, for a run has its folder, "
                f"got {self.train['output_dir']!r:.80}"
            )
        TrainConfig.from_dict({**self.train, "output_dir": ""})
        if isinstance(self.data, dict):
            parse(self.data)
        config = _CONFIGS[self.tokenizer]
        check_arguments("model", config, self.model)
        try:
            config.from_dict(self.model)
        except ValueError as error:
            raise ValueError(f"model: {error}") from error
        if self.tokenizer == "v2l":
            check_arguments("codebook", V2LWords.load, self.codebook)
        elif self.tokenizer not in ("vqgan", "rq"):
            load = Codebook.load if self.tokenizer == "spae" else bert_codebook
            check_arguments("codebook", load, self.codebook)
            self._check_vocabularies()
        if self.objective is not None:
            _check_objective(self.objective)

    def _check_vocabularies(self) -> None:
        chosen = isinstance(self.codebook.get("words"), Mapping)
        known = sorted(self._choice().vocabularies()) if chosen else []
        for name in self.model.get("vocabularies") or ():
            if name not in ("all", *known):
                raise ValueError(
                    f"model.vocabularies: expected 'all' or what codebook.words chooses ({known}), "
                    f"got {name!r}"
                )

    def build(self) -> Tokenizer:
        if self.tokenizer == "vqgan":
            return VQGAN(cast(VQGANConfig, VQGANConfig.from_dict(self.model)))
        if self.tokenizer == "rq":
            return RQ(cast(RQConfig, RQConfig.from_dict(self.model)))
        if self.tokenizer == "lqae":
            return LQAE(cast(LQAEConfig, LQAEConfig.from_dict(self.model)), bert_codebook(**self.codebook))
        if self.tokenizer == "v2l":
            return self._v2l(cast(V2LConfig, V2LConfig.from_dict(self.model)))
        config = SPAEConfig.from_dict(self.model)
        vocabularies = None
        if named := set(config.vocabularies or ()) - {"all"}:
            known = self._choice().vocabularies()
            vocabularies = {name: known[name] for name in named}
        return SPAE(config, Codebook.load(**self.codebook), vocabularies)

    def _v2l(self, config: V2LConfig) -> V2LTokenizer:
        words = V2LWords.load(**self.codebook)
        encoder = words.image_encoder if config.image_encoder in ("ridge", "conse") else None
        return V2LTokenizer(
            config,
            words.codebook,
            {name: words.vocabularies[name] for name in set(config.vocabularies or ())},
            image_encoder=encoder,
        )

    def _choice(self) -> WordChoice:
        """What `codebook.words` chooses."""
        return WordChoice.from_dict(self.codebook["words"])

    def dataset(self, split: Any, image_size: tuple[int, ...]) -> Dataset[Any]:
        """Training set, or held-out images."""
        return open_data(self.data, split, image_size=image_size)

    def build_objective(
        self, model: Tokenizer, dataset: Dataset[Any]
    ) -> tuple[Objective | None, Dataset[Any]]:
        """The objective for a model of this preset, and the training set with what guides it. No weight of
        the model changes: that is `initialise`."""
        if self.objective is None:
            return None, dataset
        entries = dict(self.objective)
        perceptual, discriminator, guidance = (entries.pop(part, None) for part in _PARTS)
        semantic = None
        if guidance is not None:
            semantic, dataset = semantic_guidance(guidance, model, dataset)
        objective = Objective(
            ObjectiveConfig.from_dict(entries),
            perceptual=None if perceptual is None else _perceptual(perceptual),
            discriminator=None if discriminator is None else _discriminator(discriminator, model.config),
            semantic=semantic,
        )
        return objective, dataset

    def initialise(self, model: Tokenizer, objective: Objective | None, dataset: Dataset[Any]) -> None:
        """Set the weights that do not begin at random, by `weights` and then by `start_guidance`: once,
        before a run's first step. A run that goes on has them in its checkpoint.

        objective, dataset: from `build_objective`. Raises FileNotFoundError or ValueError if `weights` are of
        no model, or of one that has nothing in common with this.
        """
        if self.weights is not None:
            _take_weights(model, self.weights)
        guidance = (self.objective or {}).get("semantic")
        if guidance is not None and objective is not None:
            start_guidance(guidance, model, objective.semantic, dataset)

    def to_dict(self) -> dict[str, Any]:
        """As a preset's file holds it: without what has its default."""
        defaults = {"tokenizer": "spae", "codebook": {}, "weights": None, "objective": None}
        values = asdict(self)
        return {name: values[name] for name in _SECTIONS if values[name] != defaults.get(name, ...)}


def preset_names() -> list[str]:
    """Names for `load_preset`."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_preset(name: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """A preset by name, or from a JSON file, with overrides like "model.rule=rq" or "train.steps=500".

    The value is read as JSON, and as a string where it is none; sections inside a section appear as they are
    named. "quantizer.rule" and the like stand for "model.rule".

    Raises ValueError for an unknown name, a file that is no JSON object, and whatever `Preset` does not take:
    the message names the section and the entry, what came and what was expected.
    """
    path = Path(name) if str(name).endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"preset: expected one of {preset_names()} or a JSON file, got {str(name)!r}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"preset: expected JSON in {path}, got what is none ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"preset: expected an object of sections in {path}, got {values!r:.80}")
    values.pop("description", None)
    for override in overrides:
        _set(values, override)
    return Preset.from_dict(values)


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.split(".")
    if not equals or (len(path) == 1 and key not in _SECTIONS):
        raise ValueError(f"override: expected section.name=value, got {override!r}")
    if path[0] == "quantizer" and path[1] in _QUANTIZER:
        path[0] = "model"
    if path[0] not in _SECTIONS:
        raise ValueError(
            f"override: expected a section of {', '.join(_SECTIONS)}, got {path[0]!r} in {override!r}"
        )
    if path[0] == "data" and len(path) > 1 and isinstance(values.get("data"), str):
        values["data"] = {"name": values["data"]}
    *sections, last = path
    for part in sections:
        if not isinstance(values.setdefault(part, {}), dict):
            values[part] = {}
        values = values[part]
    try:
        values[last] = json.loads(text)
    except (ValueError, RecursionError):
        values[last] = text


def _take_weights(model: Tokenizer, name: str) -> None:
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    saved = read_weights(find(name) / WEIGHTS)
    same = {key for key, value in saved.items() if key in own and own[key].shape == value.shape}
    if not same:
        raise ValueError(f"weights: expected a model like the preset's, got {name!r}, which shares none")
    with torch.no_grad():
        for key in same:
            own[key].copy_(saved[key])


def _check_objective(objective: dict[str, Any]) -> None:
    entries = dict(objective)
    perceptual, discriminator, guidance = (entries.pop(part, None) for part in _PARTS)
    ObjectiveConfig.from_dict(entries)
    if perceptual is not None:
        checked("objective.perceptual", perceptual, _Perceptual)
    if discriminator is not None:
        _check_discriminator(discriminator)
    if guidance is not None:
        check_guidance(guidance)


def _perceptual(name: str) -> FeatureDistance | LPIPS | DISTS:
    checked("objective.perceptual", name, _Perceptual)
    if name == "lite0":
        from spae.models.lite0 import Lite0

        return FeatureDistance(Lite0.load(), "lite0_features")
    return DISTS() if name == "dists" else LPIPS(cast(Any, name.removeprefix("lpips-")))


def _check_discriminator(entries: Any) -> None:
    if not isinstance(entries, dict) or entries.get("kind") not in ("patch", "residual"):
        got = entries.get("kind") if isinstance(entries, dict) else entries
        raise ValueError(f"objective.discriminator.kind: expected 'patch' or 'residual', got {got!r}")
    check_arguments("objective.discriminator", _patch if entries["kind"] == "patch" else _residual, entries)


def _patch(kind: str, channels: Count = 64, num_layers: Count = 3, per_frame: bool = False) -> None:
    """What a configuration says of a `PatchDiscriminator`, or of one in a `FrameDiscriminator`."""


def _residual(kind: str, channels: Count = 64, per_frame: bool = False) -> None:
    """What a configuration says of a `ResidualDiscriminator`, or of one in a `FrameDiscriminator`."""


def _discriminator(entries: dict[str, Any], config: SPAEConfig) -> nn.Module:
    arguments = {"in_channels": config.in_channels, **entries}
    kind, per_frame = arguments.pop("kind"), arguments.pop("per_frame", False)
    if per_frame and config.ndim != 3:
        raise ValueError(
            f"objective.discriminator.per_frame: expected false for a model of images, got true with "
            f"{config.image_size}"
        )
    size = config.image_size[1:] if per_frame else config.image_size
    if kind == "patch":
        judge: nn.Module = PatchDiscriminator(ndim=len(size), **arguments)
    else:
        judge = ResidualDiscriminator(size, **arguments)
    return FrameDiscriminator(judge) if per_frame else judge
