"""Do phrases say what images show better than words do? V2L's global codebooks side by side: words alone,
with phrases of two ids, with phrases of three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spae.codebook.expansion import Expansion, describing
from spae.configs import Count, checked
from spae.eval.statistics import mean
from spae.eval.table import markdown, shown
from spae.losses.semantic import relative_scores
from spae_ops import CodeIndex, topk_codes

NAMES = {1: "words", 2: "with bigrams", 3: "with trigrams"}
_MEASURES = ("similarity", "relative", "by name")


@torch.no_grad()
def evaluate_phrases(
    expansion: Expansion,
    texts: Tensor,
    taught: Tensor,
    asked: Tensor,
    *,
    named: tuple[Tensor, Tensor] | None = None,
    groups: Sequence[Any] | None = None,
    counts: Sequence[int] = (1, 5),
    keep: Count = 5,
) -> list[dict[str, Any]]:
    """How well held-out images are described by the global words that V2L's filter leaves of the phrases of
    one id, of at most two, and so on.

    texts: a scorer's vectors of all phrases [n, E]. taught, asked: of the images that the filter sees [N, E]
    and of held-out ones [M, E]; all unit vectors. named: a second judge's, which does not choose: of the
    phrases [n, F] and of the held-out images' names [M, F]. groups: what makes held-out images alike, one for
    each; intervals are over groups' means. counts: how many of the nearest words are looked at. keep: phrases
    that the filter keeps of each image.

    A row for each length and count: "longest", "phrases" before and "kept" after the filter, "shown"; and
    means over an image's words with their intervals: "similarity" (the scorer's), "relative" (of eq. 6 among
    all phrases, V2L's CLIP-R) and "by name" (the second judge's). "NAME gain": its mean difference from the
    codebook before, of the same images. As a codebook holds the one before, but for what the filter drops,
    the nearest word's similarity hardly can fall; the second judge's can.
    """
    checked("keep", keep, Count)
    scores = asked.float() @ texts.float().T
    relative = relative_scores(scores)
    judged = {"similarity": scores, "relative": relative}
    if named is not None:
        judged["by name"] = named[1].float() @ named[0].float().T
    rows: list[dict[str, Any]] = []
    before: dict[tuple[int, str], Tensor] = {}
    lengths = (expansion.llm_ids >= 0).sum(1)
    for longest in range(1, expansion.llm_ids.shape[1] + 1):
        pool = (lengths <= longest).nonzero()[:, 0]
        kept = pool[describing(texts[pool], taught, keep=keep)]
        if max(counts) > len(kept):
            raise ValueError(f"counts: expected at most the {len(kept)} words kept, got {max(counts)}")
        nearest = kept[topk_codes(asked.float(), CodeIndex(texts[kept].float()), max(counts)).ids]
        for count in counts:
            row: dict[str, Any] = {"longest": longest, "phrases": len(pool), "kept": len(kept)}
            row["shown"] = count
            for name, of in judged.items():
                values = _by_group(of.gather(1, nearest[:, :count]).mean(1), groups)
                row[name] = mean(values)._asdict()
                if (count, name) in before:
                    row[f"{name} gain"] = mean(values - before[count, name])._asdict()
                before[count, name] = values
            rows.append(row)
    return rows


def phrases_table(report: dict[str, Any]) -> str:
    """A report of `spae expand --compare` as Markdown: means with 95% intervals, and how much more each is
    than the codebook before."""
    measures = [name for name in _MEASURES if name in report["rows"][0]]
    header = ["codebook", "phrases", "kept", "words shown"]
    for name in measures:
        header += [name, f"{name}, gain"]
    rows = []
    for row in report["rows"]:
        longest = row["longest"]
        cells = [
            NAMES.get(longest, f"of {longest} ids"),
            *(str(row[k]) for k in ("phrases", "kept", "shown")),
        ]
        for name in measures:
            gain = row.get(f"{name} gain")
            cells += [shown(row[name], 3), shown(gain, 3) if gain else ""]
        rows.append(cells)
    run = report["run"]
    note = (
        f'{report["llm"]}\'s phrases behind "{report["prompt"]}"; kept for {run["taught"]} images of '
        f"{run['data']}, asked about {run['asked']} of the split {run['split']}. Similarity and relative "
        f"score by {report['scorer']}, which chooses the words"
    )
    if "judge" in run:
        note += f"; by name: {run['judge']}, which does not. 95% intervals over {run['groups']} names."
    else:
        note += "; 95% intervals over images."
    return markdown(header, rows, note)


def _by_group(values: Tensor, groups: Sequence[Any] | None) -> Tensor:
    """The mean of each group's values [M]; of no groups the values."""
    if groups is None:
        return values
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index = torch.tensor([numbers[group] for group in groups])
    sums = torch.zeros(len(numbers)).index_add_(0, index, values.float())
    return sums / torch.bincount(index)
