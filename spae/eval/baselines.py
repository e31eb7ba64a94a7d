"""SPAE beside other tokenizers, trained with one budget and measured on the same held-out images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spae.eval.run import Run, evaluate_models, find
from spae.eval.tasks.reconstruction import Images
from spae.tokenizers import Tokenizer
from spae.training.baselines import baselines
from spae.training.presets import Preset, load_preset
from spae.training.run import train

_TASK = "reconstruction"


@dataclass(frozen=True)
class Baselines:
    """What is trained and how it is measured.

    preset, overrides: the recipe of a SPAE (`load_preset`). words: of V2L (`spae expand`); None: no V2L.
    rows: which of `baselines`; none: all. images: held-out ones, evenly spread.
    """

    preset: str
    out: Path
    overrides: tuple[str, ...] = ()
    words: Path | None = None
    rows: tuple[str, ...] = ()
    images: int = 500

    def __post_init__(self) -> None:
        if self.images < 3:
            raise ValueError(f"images: expected at least 3, got {self.images}")

    def presets(self) -> dict[str, Preset]:
        """By row. Raises ValueError for a recipe of anything but a SPAE with a square grid last, and for
        unknown rows."""
        base = load_preset(self.preset, self.overrides)
        grids = base.model.get("grids")
        if base.tokenizer != "spae" or base.model.get("vocabularies"):
            raise ValueError(
                "preset: expected one of a SPAE without vocabularies, which the others have not, got "
                f"{self.preset}"
            )
        if not grids or not isinstance(grids[-1], int) or "multipliers" not in base.model:
            raise ValueError(f"model.grids: expected a square one last, and multipliers, got {base.model}")
        changes = baselines(grids[-1], base.model["multipliers"], self.words)
        if unknown := [row for row in self.rows if row not in changes]:
            raise ValueError(f"rows: expected some of {', '.join(changes)}, got {unknown[0]!r}")
        return {
            row: load_preset(self.preset, [*self.overrides, *changes[row]]) for row in self.rows or changes
        }


def run_baselines(chosen: Baselines, command: str = "") -> dict[str, Any] | None:
    """Train every row and measure all of them as `spae eval reconstruction` does, onto one page in `out`.

    Each run has a folder below `out/runs`; the same call goes on where an interrupted one stopped. Returns
    the report of `evaluate_models`; None if a signal ended a training.
    """
    presets = chosen.presets()
    for row, preset in presets.items():
        if not train(preset, _folder(chosen, row)):
            return None
    data = next(iter(presets.values())).data
    settings = Images(data if isinstance(data, str) else json.dumps(data), images=chosen.images)

    def run_of(row: str) -> Run:
        model = Tokenizer.from_pretrained(_folder(chosen, row) / "model")
        return Run(_TASK, settings, model, None, chosen.out, command)

    return evaluate_models(find(_TASK), list(presets), run_of)


def _folder(chosen: Baselines, row: str) -> Path:
    return chosen.out / "runs" / row
