"""Lower halves of images drawn by a frozen language model, after examples of other images."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spae.eval.images import stack
from spae.eval.restoration import (
    Lab,
    Restoration,
    Restored,
    add_restoration,
    join,
    restoration_options,
    restoration_table,
)
from spae.eval.run import Measured, Run
from spae.incontext.tasks.denoising import outpainting, paired_task
from spae.tokenizers import PyramidTokens
from spae.tokenizers.batches import encode_all

ABOUT = "Lower halves of images drawn after examples of other images."
USES_LLM = True
table = restoration_table


@dataclass(frozen=True, kw_only=True)
class Outpainting(Restoration):
    """examples: images that a prompt shows. contexts: how often others are drawn."""

    examples: int = 20
    contexts: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples < 1:
            raise ValueError(f"examples: expected at least 1, got {self.examples}")
        if self.contexts < 1 or self.images % self.contexts:
            raise ValueError(
                f"images: expected as many in each of {self.contexts} contexts, got {self.images}"
            )


def add(parser: argparse.ArgumentParser) -> None:
    add_restoration(parser, Outpainting())
    parser.add_argument("--examples", type=int, default=20, help="images a context shows (default: 20)")
    parser.add_argument("--contexts", type=int, default=2, help="how often examples are drawn (default: 2)")


def settings(arguments: argparse.Namespace) -> Outpainting:
    return Outpainting(
        examples=arguments.examples, contexts=arguments.contexts, **restoration_options(arguments)
    )


def measure(run: Run) -> Measured:
    """Draw the lower halves; everything is measured on them.

    Beside the language model's images stand, by name: "shuffled", the same with the examples' conditions
    dealt out among them; "nearest example", the lower half of the example whose upper half is most like the
    image's; "mean example", the mean of the examples' lower halves; "degraded", the grey input; "random
    words"; and "own words", the original's in as many layers.

    Finished segments are kept in `segments.jsonl`.
    """
    lab = Lab(run)
    methods = _draw(lab, run.settings)
    known = lab.originals.shape[-2] // 2
    whole = {
        name: Restored(torch.cat([lab.originals[..., :known, :], images[..., known:, :]], -2), tokens)
        for name, (images, tokens) in methods.items()
        if name != "degraded"
    } | {"degraded": methods["degraded"]}
    rows = lab.rows("outpainting", whole, lambda images: images[..., known:, :])
    return lab.measured(rows, [("original", whole)])


def _draw(lab: Lab, chosen: Outpainting) -> dict[str, Restored]:
    """Images by method; only their lower halves count."""
    generator = random.Random(chosen.seed)
    degraded = outpainting(lab.originals)
    conditions = encode_all(lab.model, degraded)
    each = chosen.images // chosen.contexts
    answers: dict[str, list[PyramidTokens]] = {"language model": [], "shuffled": []}
    nearest, means = [], []
    for context in tqdm(range(chosen.contexts), desc="contexts", disable=None):
        items = generator.sample(range(len(lab.pool)), chosen.examples)
        examples = stack(lab.pool, items)
        inputs, outputs = (encode_all(lab.model, images) for images in (outpainting(examples), examples))
        order = generator.sample(range(chosen.examples), chosen.examples)
        dealt = PyramidTokens(inputs.ids[order], lab.model.pyramid)
        here = slice(context * each, (context + 1) * each)
        for kind, shown_inputs in zip(answers, (inputs, dealt), strict=True):
            task, queries = paired_task(
                shown_inputs,
                outputs.upto(lab.layers),
                conditions[here],
                lab.lexicon,
                condition_layers=chosen.condition_layers,
            )
            answers[kind].append(lab.decode(task, queries))
        nearest.append(examples[_like(lab.originals[here], examples)])
        means.append(examples.mean(0, keepdim=True).expand(each, *examples.shape[1:]))
    methods = {kind: lab.restored(join(parts)) for kind, parts in answers.items()}
    methods["nearest example"] = Restored(torch.cat(nearest))
    methods["mean example"] = Restored(torch.cat(means))
    return methods | {"degraded": Restored(degraded), **lab.limits()}


def _like(images: Tensor, examples: Tensor) -> Tensor:
    """For each image the example with the nearest upper half, int64 [N]."""
    known = images.shape[-2] // 2
    return torch.cdist(images[..., :known, :].flatten(1), examples[..., :known, :].flatten(1)).argmin(1)
