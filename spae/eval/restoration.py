"""Degraded images restored by a frozen language model, in context.

`run_denoising`: from ten copies of the image itself, corrupted less and less (SPAE section 3.2; V2L).
`run_outpainting`: from other images with their lower halves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spae import data
from spae.eval.figures import picture_grid
from spae.eval.metrics import psnr
from spae.eval.reconstruction import decode_all, encode_all
from spae.eval.runs import markdown, shown, stack, write_report
from spae.eval.statistics import mean
from spae.incontext import Example, Lexicon, Options, Task, decode
from spae.incontext.decoding import Layout
from spae.incontext.lexicon import seen_masks
from spae.incontext.tasks.denoising import (
    DEGRADATIONS,
    answers_of,
    denoising_task,
    majority,
    outpainting,
    paired_task,
)
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens, Tokenizer

# The split that examples are drawn from, and the one that is restored.
DATA = {"digits": ("mnist", "train", "test"), "emoji": ("emoji", "train", "new_both")}
_PAGE_ROWS = 6
_PRIOR = 200  # images; the language model may write the words that occur in them, layer by layer
_NO_DIFFERENCE = 60.0  # dB; where nothing differs PSNR has no value


@dataclass(frozen=True)
class RestorationRun:
    """What is restored.

    data: one of `DATA`. images: how many. layers: how many are generated; None means all of the pyramid's.
    condition_layers: how many of the degraded image the model is shown. stride: tokens of a pass.
    layout: of the prompts (`spae.incontext.Options`).
    tasks: names of `DEGRADATIONS` (`run_denoising` only). examples, contexts: images that a prompt shows, and
    how often others are drawn (`run_outpainting` only).
    """

    data: str = "digits"
    images: int = 20
    layers: int | None = None
    condition_layers: int = 2
    stride: int = 4
    layout: Layout = "examples"
    seed: int = 0
    tasks: tuple[str, ...] = tuple(DEGRADATIONS)
    examples: int = 20
    contexts: int = 2

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data: expected one of {sorted(DATA)}, got {self.data!r}")
        if unknown := [task for task in self.tasks if task not in DEGRADATIONS]:
            raise ValueError(f"tasks: expected some of {sorted(DEGRADATIONS)}, got {unknown[0]!r}")
        if self.images < 2 or self.contexts < 1 or self.images % self.contexts:
            raise ValueError(
                f"images: expected at least 2, as many in each of {self.contexts} contexts, got {self.images}"
            )


class Restored(NamedTuple):
    """images: [N, C, H, W] in [-1, 1]. tokens: theirs, where they were made of tokens."""

    images: Tensor
    tokens: PyramidTokens | None = None


def run_denoising(
    model: Tokenizer, llm: FrozenLLM, run: RestorationRun, out: Path, *, command: str = ""
) -> dict[str, Any]:
    """Restore images of every task and write `denoise.json`, `denoise.md` and the page `denoise.png`.

    Beside the language model's images stand, by name: "wrong image", the same with another image's words in
    place of the degraded ones; "majority", at each position the commonest of the examples' words (the copies
    share most of the answer, so this is what a model must reach to have understood the examples); "nearest
    example", that of them that is most like the original; "degraded", the input as it is; "random words"; and
    "own words", the original's in as many layers.

    Finished segments are kept in `segments.jsonl`: the same call goes on where it stopped.
    """
    lab = _Bench(model, llm, run, out)
    rows, pages = [], []
    for name in run.tasks:
        degraded = DEGRADATIONS[name](lab.originals)
        conditions = encode_all(model, degraded)
        answers: dict[str, list[PyramidTokens]] = {"language model": [], "wrong image": []}
        most, nearest = [], []
        for i in tqdm(range(run.images), desc=name, disable=None):
            for kind, j in zip(answers, (i, (i + 1) % run.images), strict=True):
                task, query = denoising_task(
                    conditions[j : j + 1],
                    lab.tokens[i : i + 1],
                    lab.lexicon,
                    condition_layers=run.condition_layers,
                    seed=run.seed * 10**6 + i,
                )
                answers[kind].append(lab.decode(task, [query]))
                if kind == "language model":
                    most.append(majority(task))
                    nearest.append(lab.nearest(answers_of(task), i))
        methods = {kind: lab.restored(_join(parts)) for kind, parts in answers.items()}
        methods["majority"] = lab.restored(lab.lexicon.tokens(most))
        methods["nearest example"] = lab.restored(lab.lexicon.tokens(nearest))
        methods |= {"degraded": Restored(degraded), **lab.limits()}
        rows += lab.rows(name, methods)
        pages.append((f"{name}:\noriginal", methods))
    return lab.finish("denoise", rows, pages, command)


def run_outpainting(
    model: Tokenizer, llm: FrozenLLM, run: RestorationRun, out: Path, *, command: str = ""
) -> dict[str, Any]:
    """Draw the lower halves of images after examples of other images, and write `outpaint.json`,
    `outpaint.md` and the page `outpaint.png`. Everything is measured on the lower half.

    Beside the language model's images stand, by name: "shuffled", the same with the examples' conditions
    dealt out among them; "nearest example", the lower half of the example whose upper half is most like the
    image's; "mean example", the mean of the examples' lower halves; "degraded", the grey input; "random
    words"; and "own words", the original's in as many layers.

    Finished segments are kept in `segments.jsonl`: the same call goes on where it stopped.
    """
    lab = _Bench(model, llm, run, out)
    generator = random.Random(run.seed)
    degraded = outpainting(lab.originals)
    conditions = encode_all(model, degraded)
    each = run.images // run.contexts
    answers: dict[str, list[PyramidTokens]] = {"language model": [], "shuffled": []}
    nearest, means = [], []
    for context in tqdm(range(run.contexts), desc="contexts", disable=None):
        items = generator.sample(range(len(lab.pool)), run.examples)
        examples = stack(lab.pool, items)
        inputs, outputs = encode_all(model, outpainting(examples)), encode_all(model, examples)
        dealt = PyramidTokens(inputs.ids[generator.sample(range(run.examples), run.examples)], model.pyramid)
        here = slice(context * each, (context + 1) * each)
        for kind, shown_inputs in zip(answers, (inputs, dealt), strict=True):
            task, queries = paired_task(
                shown_inputs,
                outputs.upto(lab.layers),
                conditions[here],
                lab.lexicon,
                condition_layers=run.condition_layers,
            )
            answers[kind].append(lab.decode(task, queries))
        nearest.append(examples[_like(lab.originals[here], examples)])
        means.append(examples.mean(0, keepdim=True).expand(each, -1, -1, -1))
    methods = {kind: lab.restored(_join(parts)) for kind, parts in answers.items()}
    methods["nearest example"] = Restored(torch.cat(nearest))
    methods["mean example"] = Restored(torch.cat(means))
    methods |= {"degraded": Restored(degraded), **lab.limits()}
    known = lab.originals.shape[-2] // 2
    whole = {
        name: Restored(torch.cat([lab.originals[..., :known, :], images[..., known:, :]], 2), tokens)
        for name, (images, tokens) in methods.items()
        if name != "degraded"
    } | {"degraded": methods["degraded"]}
    rows = lab.rows("outpainting", whole, lambda images: images[..., known:, :])
    return lab.finish("outpaint", rows, [("original", whole)], command)


class _Bench:
    """The images of a run, and what is measured on them."""

    def __init__(self, model: Tokenizer, llm: FrozenLLM, run: RestorationRun, out: Path) -> None:
        name, shown_split, asked_split = DATA[run.data]
        size = model.config.image_size[0]
        self.model, self.llm, self.run, self.out = model, llm, run, out
        self.pool = data.load(name, shown_split, size=size)
        asked = data.load(name, asked_split, size=size)
        if run.images > len(asked):
            raise ValueError(f"images: expected at most {len(asked)}, got {run.images}")
        items = random.Random(f"{run.seed} images").sample(range(len(asked)), run.images)
        self.layers = model.pyramid.num_layers if run.layers is None else run.layers
        self.originals = stack(asked, items)
        self.tokens = encode_all(model, self.originals).upto(self.layers)
        prior = encode_all(
            model, stack(self.pool, random.Random(run.seed).sample(range(len(self.pool)), _PRIOR))
        )
        self._masks = seen_masks(prior, len(model.codebook))
        self.lexicon = Lexicon(model.codebook, model.pyramid, llm, self._masks)
        out.mkdir(parents=True, exist_ok=True)

    def decode(self, task: Task, queries: list[Example]) -> PyramidTokens:
        options = Options(num_layers=self.layers, layout=self.run.layout, log=self.out / "segments.jsonl")
        return decode(self.llm, task, queries, self.lexicon, stride=self.run.stride, options=options)

    def restored(self, tokens: PyramidTokens) -> Restored:
        return Restored(decode_all(self.model, tokens), tokens)

    def nearest(self, candidates: list[tuple[int, ...]], i: int) -> tuple[int, ...]:
        """The candidate whose image is most like original i."""
        images = decode_all(self.model, self.lexicon.tokens(candidates))
        return candidates[int(psnr(self.originals[i].expand_as(images), images).argmax())]

    def limits(self) -> dict[str, Restored]:
        generator = torch.Generator().manual_seed(self.run.seed)
        ids = torch.cat(
            [
                mask.nonzero()[:, 0][torch.randint(int(mask.sum()), layer.shape, generator=generator)]
                for mask, layer in zip(self._masks, self.tokens.layers(), strict=False)
            ],
            dim=1,
        )
        words = PyramidTokens(ids, self.model.pyramid)
        return {"random words": self.restored(words), "own words": self.restored(self.tokens)}

    def rows(
        self, task: str, methods: dict[str, Restored], region: Callable[[Tensor], Tensor] = lambda x: x
    ) -> list[dict[str, Any]]:
        """PSNR of each method's images over a region of them, and the share of the original's words."""
        rows = []
        for name, (images, tokens) in methods.items():
            quality = psnr(region(self.originals), region(images)).clamp(max=_NO_DIFFERENCE)
            row: dict[str, Any] = {"task": task, "method": name, "psnr": mean(quality)._asdict()}
            if tokens is not None:
                same = (tokens.ids == self.tokens.ids).double().mean(1)
                share = mean(same)
                row["words"] = share._replace(low=max(0.0, share.low), high=min(1.0, share.high))._asdict()
            rows.append(row)
        return rows

    def finish(
        self,
        name: str,
        rows: list[dict[str, Any]],
        pages: list[tuple[str, dict[str, Restored]]],
        command: str,
    ) -> dict[str, Any]:
        report = {"command": command, "llm": self.llm.name, "run": asdict(self.run), "rows": rows}
        write_report(self.out, name, report, restoration_table(report))
        pictures, titles = [], []
        each = max(1, _PAGE_ROWS // len(pages))
        for title, methods in pages:
            columns = {title: Restored(self.originals), "degraded": methods["degraded"], **methods}
            for i in range(min(each, self.run.images)):
                pictures += [images[i] for images, _ in columns.values()]
                titles += list(columns) if i == 0 else [""] * len(columns)
        columns = len(titles) // (len(pages) * min(each, self.run.images))
        path = self.out / f"{name}.png"
        picture_grid(torch.stack(pictures), titles, path, columns=columns, width=1.35)
        return report


def restoration_table(report: dict[str, Any]) -> str:
    """A report of `run_denoising` or `run_outpainting` as a Markdown table: means with 95% intervals."""
    rows = [
        [row["task"], row["method"], shown(row["psnr"]), shown(row["words"]) if "words" in row else ""]
        for row in report["rows"]
    ]
    run = report["run"]
    note = (
        f"{report['llm']}, {run['images']} {run['data']}, {run['condition_layers']} layers shown, "
        f"stride {run['stride']}, layout {run['layout']}, seed {run['seed']}; means over images with 95% "
        "intervals."
    )
    header = ["task", "method", "PSNR (dB)", "share of the original's words"]
    return markdown(header, rows, note, report["command"])


def _join(parts: list[PyramidTokens]) -> PyramidTokens:
    return PyramidTokens(torch.cat([part.ids for part in parts]), parts[0].pyramid)


def _like(images: Tensor, examples: Tensor) -> Tensor:
    """For each image the example with the nearest upper half, int64 [N]."""
    known = images.shape[-2] // 2
    return torch.cdist(images[..., :known, :].flatten(1), examples[..., :known, :].flatten(1)).argmin(1)
