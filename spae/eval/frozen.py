"""Frozen on the episodes that a tokenizer's words are asked about: the same examples, names and chance, with
two embeddings in the place of an image's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spae.eval.episode_pictures import EpisodePictures
from spae.eval.episodes import FewShotSetting, sample_episodes
from spae.eval.fewshot import ANSWERS, WordImages, evaluate_fewshot
from spae.eval.labelled import LabelledSet
from spae.eval.table import markdown, shown
from spae.llm.local import LocalLLM
from spae.training.prefixes import PrefixEncoder, images_as_ids

_KEPT = ("setting", "episodes", "chance", *ANSWERS, "exact over shuffled exact")
_BATCH = 64


def frozen_rows(
    llm: LocalLLM,
    encoder: PrefixEncoder,
    labelled: LabelledSet,
    settings: Sequence[FewShotSetting],
    *,
    episodes: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of `evaluate_fewshot`, one a setting, of what a model reads by an encoder's embeddings; without
    those that count an image's words, which are its own here.

    The episodes are those that `spae eval fewshot` asks about the same data, split, settings, number and
    seed. Raises ValueError for questions about images, and as `sample_episodes`.
    """
    if labelled.questions is not None:
        raise ValueError("data: expected images with names, got questions about images")
    played = [(one, sample_episodes(labelled.labels, one, episodes, seed=seed)) for one in settings]
    pictures = EpisodePictures(labelled, [episode for _, of in played for episode in of])
    items = [list(of) for of in pictures.each]
    prefixes = [_encoded(encoder, torch.stack(list(of.values()))) for of in pictures.each]
    with images_as_ids(llm, torch.cat(prefixes)) as ids:
        pairs = iter([tuple((one,) for one in pair) for pair in ids])
        words = [{item: next(pairs) for item in of} for of in items]
        images = WordImages(pictures.by_item(words[0]), words[-1], labelled.names, kinds=labelled.kinds)
        rows = [evaluate_fewshot(llm, images, setting, of, seed=seed) for setting, of in played]
    return [{name: row[name] for name in _KEPT if name in row} for row in rows]


def frozen_table(report: dict[str, Any]) -> str:
    """A report of `spae tune frozen` as Markdown: shares with 95% intervals."""
    rows = [
        [
            row["setting"],
            str(row["episodes"]),
            f"{row['chance']:.2f}",
            *(shown(row[name]) for name in ANSWERS),
        ]
        for row in report["rows"]
    ]
    run = report["run"]
    note = (
        f"Frozen: {report['llm']} reads two embeddings an image, by an encoder of {run['size']}-pixel images "
        f"trained on {run['lessons']} captions of {run['data']} for {run['steps']} steps of "
        f"{run['batch_size']}, seed {run['seed']}; shares with 95% intervals."
    )
    return markdown(["setting", "episodes", "chance", *ANSWERS], rows, note)


@torch.no_grad()
def _encoded(encoder: PrefixEncoder, images: Tensor) -> Tensor:
    return torch.cat([encoder(batch) for batch in images.split(_BATCH)])
