"""The paper's ablation (Table 4): nine rows of one recipe, trained alike and measured side by side."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from spae.data import Images
from spae.eval.centroids import centroid_guess, histograms
from spae.eval.episodes import FewShotSetting, sample_episodes
from spae.eval.features import ImageFeatures
from spae.eval.host import host
from spae.eval.images import spread, stack
from spae.eval.reconstruction import evaluate_reconstruction
from spae.eval.statistics import proportion
from spae.eval.table import markdown
from spae.eval.tasks.semantics import evaluate_semantics
from spae.figures import dots
from spae.losses.regions import Regions
from spae.scorers import CaptionScorer, TextFeatureCache, region_features
from spae.tokenizers import SPAE, PyramidTokens, Tokenizer
from spae.tokenizers.batches import encode_all
from spae.training.ablation import ablations
from spae.training.disk import replace_text
from spae.training.presets import Preset, load_preset
from spae.training.run import train

_WAYS = 5
# Of a run: key, heading, decimals.
_MEASURES = (
    ("psnr", "PSNR (dB)", 2),
    ("ssim", "SSIM", 3),
    ("lpips", "LPIPS", 3),
    ("frechet", "Fréchet", 1),
    ("class_score", "class score", 2),
    ("semantic", "semantic score", 3),
    ("accuracy", "accuracy", 3),
)


@dataclass(frozen=True)
class Ablation:
    """What is trained and how it is measured.

    preset, overrides: the recipe (`load_preset`); it guides words and has a perceptual loss, so that a row
    can do without. seeds: each trains all rows. rows: which; none: all nine. images: held-out ones, evenly
    spread. episodes: of the classification.
    """

    preset: str
    out: Path
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    rows: tuple[str, ...] = ()
    images: int = 500
    episodes: int = 500

    def __post_init__(self) -> None:
        for name, least in (("images", 3), ("episodes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected different ones, at least one, got {list(self.seeds)}")
        if unknown := [row for row in self.rows if row not in ablations()]:
            raise ValueError(f"rows: expected some of {', '.join(ablations())}, got {unknown[0]!r}")

    def presets(self) -> dict[str, dict[int, Preset]]:
        """By row and seed. Raises ValueError for a recipe that has nothing to leave out."""
        base = load_preset(self.preset, self.overrides)
        objective = base.objective or {}
        for part in ("semantic", "perceptual"):
            if objective.get(part) is None:
                raise ValueError(f"objective.{part}: expected one, which a row does without, got none")
        if base.model.get("vocabularies"):
            raise ValueError(
                "model.vocabularies: expected none, for rows have other numbers of layers, got "
                f"{base.model['vocabularies']}"
            )
        changes = ablations(base.model["grids"][-1], len(objective["semantic"]["thresholds"]))
        return {
            row: {
                seed: load_preset(self.preset, [*self.overrides, *changes[row], f"train.seed={seed}"])
                for seed in self.seeds
            }
            for row in self.rows or changes
        }


def run_ablation(
    chosen: Ablation, measures: Callable[..., dict[str, Any]] | None = None
) -> dict[str, Any] | None:
    """Train and measure every row with every seed.

    Each run has a folder below `out/runs`, with its `result.json` once it is measured; the same call goes on
    where an interrupted one stopped. Returns the report, for `write`; None if a signal ended a training.

    measures: `measure`, or what takes its place.
    """
    measures = measures or measure
    presets = chosen.presets()
    asked = {"images": chosen.images, "episodes": chosen.episodes}
    rows: dict[str, dict[str, Any]] = {row: {} for row in presets}
    for seed in chosen.seeds:
        for row, of_seed in presets.items():
            folder = chosen.out / "runs" / _slug(row) / f"seed-{seed}"
            if not train(of_seed[seed], folder):
                return None
            file = folder / "result.json"
            result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            if result.get("asked") != asked:
                model = Tokenizer.from_pretrained(str(folder / "model"))
                result = {"asked": asked, **measures(model, of_seed[seed], **asked)}
                replace_text(file, json.dumps(result, indent=2) + "\n")
            rows[row][str(seed)] = result
    steps = next(iter(next(iter(presets.values())).values())).train["steps"]
    about = {"preset": chosen.preset, "overrides": list(chosen.overrides), "seeds": list(chosen.seeds)}
    return {"host": host(), **about, "steps": steps, **asked, "rows": rows}


def write(report: dict[str, Any], folder: Path) -> None:
    """`ablation.json`, its table and its plot."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "ablation.json", json.dumps(report, indent=2) + "\n")
    command = f"\n\n    {report['command']}" if "command" in report else ""
    replace_text(folder / "ablation.md", table(report) + command + "\n")
    panels = {
        heading: {row: [one[key] for one in of.values() if key in one] for row, of in report["rows"].items()}
        for key, heading, _ in _measured(report)
    }
    dots(panels, folder / "ablation.png")


def table(report: dict[str, Any]) -> str:
    """A row of the ablation a line: means over seeds, with the least and the most of them."""
    measured = _measured(report)
    rows = []
    for row, of in report["rows"].items():
        first = next(iter(of.values()))
        cells = [row, str(first["layers"]), str(first["words"])]
        for key, _, digits in measured:
            values = [one[key] for one in of.values() if key in one]
            text = f"{fmean(values):.{digits}f}" if values else "n/a"
            if len(values) > 1:
                text += f" [{min(values):.{digits}f}, {max(values):.{digits}f}]"
            cells.append(text)
        rows.append(cells)
    ways = max((one.get("ways", 0) for of in report["rows"].values() for one in of.values()), default=0)
    seeds = ", ".join(map(str, report["seeds"]))
    note = (
        f"{report['preset']}, {report['steps']} steps, seeds {seeds}: means, and least and most in brackets; "
        f"{report['images']} held-out images. Fréchet distance and class score of the features of Lite0, not "
        "Inception. Semantic score: the mean relative score of the guided layers' words by the images' names."
        f" Accuracy: {ways}-way 1-shot, the class whose example has the nearest counts of words, of as many "
        "layers as are best, without a language model."
    )
    return markdown(["row", "layers", "words", *(heading for _, heading, _ in measured)], rows, note)


def measure(model: Tokenizer, preset: Preset, *, images: int, episodes: int) -> dict[str, Any]:
    """One run on held-out images: its reconstructions from all layers, its words, and how classes are told by
    them."""
    opened = preset.dataset("test", model.config.image_size)
    dataset = spread(opened, images)
    pixels = stack(dataset, range(len(dataset)))
    tokens = encode_all(model, pixels)
    lpips, features = _lpips(), ImageFeatures.lite0()
    found = evaluate_reconstruction(
        model, pixels, tokens=tokens, distances={"lpips": lpips}, similarity=True, features=features
    )
    last = found["layers"][-1]
    keys = [key for key, *_ in _MEASURES if key in last]
    result = {"layers": tokens.num_layers, "words": tokens.ids.shape[1], **{key: last[key] for key in keys}}
    result["distinct_words"] = found["distinct_words"]
    guided = len(((preset.objective or {}).get("semantic") or {}).get("thresholds", ())) or 1
    return (
        result
        | _semantics(model, dataset, pixels, guided)
        | accuracies(dataset.labels.tolist(), tokens, episodes)
    )


def accuracies(labels: Sequence[int], tokens: PyramidTokens, episodes: int) -> dict[str, Any]:
    """Few-shot classification by counts of words: "accuracy_by_layers", with 95% intervals, and the best of
    them, "accuracy"; nothing for data without labels."""
    ways = min(_WAYS, len(set(labels) - {-1}))
    if ways < 2:
        return {}
    played = sample_episodes(labels, FewShotSetting(ways, 1), episodes, seed=0)
    by_layers = []
    for number in range(1, tokens.num_layers + 1):
        words = [tuple(row) for row in tokens.upto(number).ids.tolist()]
        features, generator = histograms(words, words), random.Random(0)
        guesses = [centroid_guess(features, episode, generator) == episode.query.way for episode in played]
        by_layers.append(proportion(sum(guesses), len(guesses))._asdict())
    best = max(share["value"] for share in by_layers)
    return {"accuracy": best, "accuracy_by_layers": by_layers, "ways": ways}


def _semantics(model: Tokenizer, dataset: Images, pixels: Tensor, guided: int) -> dict[str, Any]:
    """Of words, by the images' names, where both have them."""
    if not isinstance(model, SPAE) or not all(dataset.captions):
        return {}
    scorer = CaptionScorer()
    words = TextFeatureCache(scorer).features(model.codebook.words)
    features = region_features(scorer, dataset, Regions())
    found = evaluate_semantics(model, pixels, features, words, groups=dataset.captions)
    scores = [row["score"] for row in found["layers"]]
    return {"semantic": fmean(scores[:guided]), "semantic_by_layer": scores}


def _lpips() -> Callable[[Tensor, Tensor], Tensor]:
    from spae.models.lpips import LPIPSNetwork

    return LPIPSNetwork.load("vgg")


def _measured(report: dict[str, Any]) -> list[tuple[str, str, int]]:
    results = [one for of in report["rows"].values() for one in of.values()]
    return [measured for measured in _MEASURES if any(measured[0] in one for one in results)]


def _slug(row: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")
