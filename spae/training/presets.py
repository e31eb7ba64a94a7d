"""Whole training runs by name: data, codebook, model and schedule in one JSON file, with overrides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from spae.codebook import Codebook
from spae.tokenizers import SPAE, SPAEConfig

FOLDER = Path(__file__).parent.parent / "presets"
_SECTIONS = {"description", "data", "codebook", "model", "train"}


@dataclass(frozen=True)
class Preset:
    """data: name of a packaged dataset. codebook: arguments of `Codebook.load`. model: fields of SPAEConfig.
    train: fields of TrainConfig but for output_dir."""

    data: str
    codebook: dict[str, Any]
    model: dict[str, Any]
    train: dict[str, Any]

    def build(self) -> SPAE:
        return SPAE(SPAEConfig.from_dict(self.model), Codebook.load(**self.codebook))

    def datasets(self) -> tuple[Dataset[Any], Tensor]:
        """Training set, and held-out images [N, C, *image_size]."""
        if self.data == "mnist":
            from spae.data.mnist import MNISTDigits

            return MNISTDigits("train"), MNISTDigits("test").images
        raise ValueError(f"data: expected 'mnist', got {self.data!r}")


def presets() -> list[str]:
    """Names for `load_preset`."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_preset(name: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """A preset by name, or from a JSON file, with overrides like "model.rule=rq" or "train.steps=500".

    The value is read as JSON, and as a string where it is none. Raises ValueError for an unknown name or key.
    """
    path = Path(name) if str(name).endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"preset: expected one of {presets()} or a JSON file, got {name!r}")
    values = json.loads(path.read_text())
    if unknown := sorted(set(values) - _SECTIONS):
        raise ValueError(f"preset: unknown sections {unknown} in {path.name}; expected {sorted(_SECTIONS)}")
    for override in overrides:
        _set(values, override)
    values.pop("description", None)
    return Preset(**values)


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *path, last = key.split(".")
    if not equals or not path:
        raise ValueError(f"override: expected section.name=value, got {override!r}")
    for part in path:
        if part not in values:
            raise ValueError(
                f"override: no section {part!r} in {override!r}; expected one of {sorted(values)}"
            )
        values = values[part]
    try:
        values[last] = json.loads(text)
    except json.JSONDecodeError:
        values[last] = text
