"""Whole training runs by name: data, codebook, model, objective and schedule in one JSON file, with
overrides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from torch.utils.data import Dataset

from spae.codebook import Codebook
from spae.data import open_data
from spae.losses import LPIPS, FeatureDistance, Objective, ObjectiveConfig
from spae.models import PatchDiscriminator, ResidualDiscriminator
from spae.tokenizers import LQAE, SPAE, VQGAN, LQAEConfig, SPAEConfig, Tokenizer, VQGANConfig
from spae.tokenizers.lqae import bert_codebook
from spae.training.guidance import semantic_guidance

FOLDER = Path(__file__).parent.parent / "presets"
_SECTIONS = ("data", "tokenizer", "codebook", "model", "objective", "train")
_QUANTIZER = ("grids", "rule", "latent_norm", "codebook_size", "codebook_dim", "update", "mask_rate")


@dataclass(frozen=True)
class Preset:
    """data: see `spae.data.open_data`. tokenizer: "spae", "vqgan" or "lqae". model: fields of its config.
    train: fields of TrainConfig but for output_dir.

    codebook: arguments of `Codebook.load`; of `bert_codebook` for "lqae"; "vqgan" has none.

    objective: fields of ObjectiveConfig, and what takes part, each left out if absent or null:
        "perceptual": "lite0", "lpips-vgg", "lpips-alex" or "lpips-squeeze";
        "discriminator": {"kind": "patch"|"residual"} and that one's arguments;
        "semantic": see `semantic_guidance`.
    None stands for the model's own losses, weighed by the loss_weights of `train`.
    """

    data: str | dict[str, Any]
    model: dict[str, Any]
    train: dict[str, Any]
    tokenizer: str = "spae"
    codebook: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] | None = None

    def build(self) -> Tokenizer:
        if self.tokenizer == "vqgan":
            return VQGAN(cast(VQGANConfig, VQGANConfig.from_dict(self.model)))
        if self.tokenizer == "lqae":
            return LQAE(cast(LQAEConfig, LQAEConfig.from_dict(self.model)), bert_codebook(**self.codebook))
        if self.tokenizer == "spae":
            return SPAE(SPAEConfig.from_dict(self.model), Codebook.load(**self.codebook))
        raise ValueError(f"tokenizer: expected 'spae', 'vqgan' or 'lqae', got {self.tokenizer!r}")

    def dataset(self, split: Any, image_size: tuple[int, ...]) -> Dataset[Any]:
        """Training set, or held-out images."""
        return open_data(self.data, split, image_size=image_size)

    def build_objective(
        self, model: Tokenizer, dataset: Dataset[Any]
    ) -> tuple[Objective | None, Dataset[Any]]:
        """The objective for a model of this preset, and the training set with what guides it."""
        if self.objective is None:
            return None, dataset
        entries, semantic = dict(self.objective), None
        perceptual, discriminator = entries.pop("perceptual", None), entries.pop("discriminator", None)
        guidance = entries.pop("semantic", None)
        config = ObjectiveConfig.from_dict(entries)
        if guidance is not None:
            semantic, dataset = semantic_guidance(guidance, model, dataset)
        objective = Objective(
            config,
            perceptual=None if perceptual is None else _perceptual(perceptual),
            discriminator=None if discriminator is None else _discriminator(discriminator, model.config),
            semantic=semantic,
        )
        return objective, dataset

    def to_dict(self) -> dict[str, Any]:
        """As a preset's file holds it: without what has its default."""
        defaults = {"tokenizer": "spae", "codebook": {}, "objective": None}
        values = asdict(self)
        return {name: values[name] for name in _SECTIONS if values[name] != defaults.get(name, ...)}


def presets() -> list[str]:
    """Names for `load_preset`."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_preset(name: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """A preset by name, or from a JSON file, with overrides like "model.rule=rq" or "train.steps=500".

    The value is read as JSON, and as a string where it is none; sections inside a section appear as they are
    named. "quantizer.rule" and the like stand for "model.rule". Raises ValueError for an unknown name or
    section; unknown keys raise where they are used.
    """
    path = Path(name) if str(name).endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"preset: expected one of {presets()} or a JSON file, got {name!r}")
    values = json.loads(path.read_text())
    values.pop("description", None)
    for override in overrides:
        _set(values, override)
    if unknown := sorted(set(values) - set(_SECTIONS)):
        raise ValueError(f"preset: unknown sections {unknown} in {path.name}; expected {_SECTIONS}")
    return Preset(**values)


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.split(".")
    if not equals or (len(path) == 1 and key not in _SECTIONS):
        raise ValueError(f"override: expected section.name=value, got {override!r}")
    if path[0] == "quantizer" and path[1] in _QUANTIZER:
        path[0] = "model"
    if path[0] not in _SECTIONS:
        raise ValueError(f"override: no section {path[0]!r} in {override!r}; expected one of {_SECTIONS}")
    if path[0] == "data" and len(path) > 1 and isinstance(values["data"], str):
        values["data"] = {"name": values["data"]}
    *sections, last = path
    for part in sections:
        if not isinstance(values.setdefault(part, {}), dict):
            values[part] = {}
        values = values[part]
    try:
        values[last] = json.loads(text)
    except json.JSONDecodeError:
        values[last] = text


def _perceptual(name: str) -> FeatureDistance | LPIPS:
    if name == "lite0":
        from spae.models.lite0 import Lite0  # pyright: ignore[reportMissingImports]

        return FeatureDistance(Lite0.load(), "lite0_features")
    kind, _, net = name.partition("-")
    if kind != "lpips" or net not in ("vgg", "alex", "squeeze"):
        raise ValueError(f"perceptual: expected lite0, lpips-vgg, lpips-alex or lpips-squeeze, got {name!r}")
    return LPIPS(net)


def _discriminator(entries: dict[str, Any], config: SPAEConfig) -> PatchDiscriminator | ResidualDiscriminator:
    arguments = {"in_channels": config.in_channels, **entries}
    kind = arguments.pop("kind", None)
    if kind == "patch":
        return PatchDiscriminator(ndim=config.ndim, **arguments)
    if kind == "residual":
        return ResidualDiscriminator(config.image_size, **arguments)
    raise ValueError(f"discriminator.kind: expected 'patch' or 'residual', got {kind!r}")
