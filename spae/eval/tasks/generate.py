"""Digits drawn by a frozen language model from captions, and whether they are what was asked for."""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spae.configs import Weight, checked
from spae.data.mnist import MNISTDigits
from spae.eval.classifier import DigitClassifier
from spae.eval.drawing import Drawing, add_drawing, described, drawing_options
from spae.eval.run import Measured, Run
from spae.eval.statistics import mean, proportion
from spae.eval.table import markdown, shown
from spae.figures import picture_grid
from spae.incontext import Lexicon
from spae.incontext.lexicon import seen_masks
from spae.incontext.tasks.generation import captioned_images_task, image_query
from spae.llm import FrozenLLM, Sampling
from spae.tokenizers import PyramidTokens, Tokenizer
from spae.tokenizers.batches import decode_all, encode_all

ABOUT = "Digits drawn from captions by a frozen language model."
USES_LLM = True
NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class DigitPrompts(Drawing):
    """What is asked.

    contexts: how often other examples are drawn. examples: digits a context shows, as many of each class.
    sums: queries a context answers, such as "1+7", of sums up to 9; plain: queries such as "3".
    """

    contexts: int = 10
    examples: int = 20
    sums: int = 10
    plain: int = 10
    temperature: float = 0.0
    seed: int = 0
    stride: int = 1  # small models lose the thread within longer passes

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("contexts", "sums", "plain"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        checked("temperature", self.temperature, Weight)
        if self.examples < NUM_CLASSES or self.examples % NUM_CLASSES:
            raise ValueError(f"examples: expected a multiple of {NUM_CLASSES}, got {self.examples}")


@dataclass(frozen=True)
class Generated:
    """captions: what was asked. labels: the digit meant. tokens, images: what came. context: which context of
    the contexts' ids [contexts, examples, n] and images [contexts, examples, C, H, W] each was drawn in."""

    captions: list[str]
    labels: Tensor
    tokens: PyramidTokens
    images: Tensor
    context: Tensor
    context_ids: Tensor
    context_images: Tensor


def generate_digits(
    model: Tokenizer,
    llm: FrozenLLM,
    prompts: DigitPrompts,
    *,
    shuffle_captions: bool = False,
    log: Path | None = None,
) -> Generated:
    """Draw digits by progressive autoregressive decoding.

    shuffle_captions: deal the captions of the examples out at random, the control in which nothing links
    captions to images. log: keeps finished segments.
    """
    train = MNISTDigits("train")
    tokens = encode_all(model, train.images)
    lexicon = Lexicon.of(model, llm, seen_masks(tokens, len(model.codebook)))
    words = lexicon.llm_ids(tokens)
    generator = random.Random(prompts.seed)
    ids, captions, labels, contexts = [], [], [], []
    for number in tqdm(range(prompts.contexts), desc="contexts", disable=None):
        chosen = _examples(train.labels, prompts.examples, generator)
        named = [str(int(train.labels[i])) for i in chosen]
        if shuffle_captions:
            generator.shuffle(named)
        queries = _queries(prompts, generator)
        task = captioned_images_task([words[i] for i in chosen], named)
        sampling = Sampling(temperature=prompts.temperature, seed=prompts.seed + number)
        asked = [image_query(caption) for caption, _ in queries]
        drawn = prompts.decode(llm, task, asked, lexicon, log=log, sampling=sampling)
        ids.append(drawn.ids)
        captions += [caption for caption, _ in queries]
        labels += [label for _, label in queries]
        contexts.append(torch.tensor(chosen))
    drawn = PyramidTokens(torch.cat(ids), model.pyramid)
    context = torch.arange(prompts.contexts).repeat_interleave(prompts.sums + prompts.plain)
    items = torch.stack(contexts)
    return Generated(
        captions=captions,
        labels=torch.tensor(labels),
        tokens=drawn,
        images=decode_all(model, drawn),
        context=context,
        context_ids=tokens.ids[items],
        context_images=train.images[items],
    )


def evaluate_generation(generated: Generated) -> dict[str, Any]:
    """Which share of the digits a classifier reads as what was asked, by kind of caption, and how near they
    are to the examples that the model was shown.

    Distances are root mean squares of pixels in [-1, 1] to the nearest of the context's examples; beside them
    stands that of held-out digits, which are nobody's copies.
    """
    classifier = DigitClassifier()
    read = classifier.predict(generated.images)
    right = read == generated.labels
    is_sum = torch.tensor(["+" in caption for caption in generated.captions])
    rows = {"all": torch.ones_like(is_sum), "plain": ~is_sum, "sums": is_sum}
    held_out = MNISTDigits("test").images
    real = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[: len(read)]]
    real_context = generated.context[: len(real)]
    return {
        "digits": len(read),
        "chance": 1 / NUM_CLASSES,
        "accuracy": {
            name: {
                "trials": int(chosen.sum()),
                **proportion(int(right[chosen].sum()), int(chosen.sum()))._asdict(),
            }
            for name, chosen in rows.items()
            if chosen.any()
        },
        "copies": int(
            (generated.context_ids[generated.context] == generated.tokens.ids[:, None]).all(2).any(1).sum()
        ),
        "distinct images": len({tuple(row) for row in generated.tokens.ids.tolist()}),
        "nearest example": mean(_nearest(generated, generated.images, generated.context))._asdict(),
        "nearest example of held-out digits": mean(_nearest(generated, real, real_context))._asdict(),
    }


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--contexts", type=int, default=10, help="how often examples are drawn (default: 10)")
    parser.add_argument("--examples", type=int, default=20, help="digits a context shows (default: 20)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add_drawing(parser, DigitPrompts())


def settings(arguments: argparse.Namespace) -> DigitPrompts:
    return DigitPrompts(
        contexts=arguments.contexts,
        examples=arguments.examples,
        temperature=arguments.temperature,
        seed=arguments.seed,
        **drawing_options(arguments),
    )


def measure(run: Run) -> Measured:
    """Generate with captions and with shuffled captions; the page shows the first two contexts. Finished
    segments are kept in `segments.jsonl`."""
    prompts: DigitPrompts = run.settings
    log = run.folder / "segments.jsonl"
    generated = generate_digits(run.model, run.asked, prompts, log=log)
    control = generate_digits(run.model, run.asked, prompts, shuffle_captions=True, log=log)
    report = {
        "prompts": asdict(prompts),
        "captions": evaluate_generation(generated),
        "shuffled captions": evaluate_generation(control),
    }
    pictures = generated.images[: 2 * (prompts.sums + prompts.plain)]
    titles = generated.captions[: len(pictures)]
    return Measured(report, lambda path: picture_grid(pictures, titles, path, columns=10))


def table(report: dict[str, Any]) -> str:
    """Each figure with its 95% interval."""
    rows = [
        [kind, asked, str(row["trials"]), shown(row), f"{report[kind]['chance']:.2f}"]
        for kind in ("captions", "shuffled captions")
        for asked, row in report[kind]["accuracy"].items()
    ]
    own = report["captions"]
    near, real = own["nearest example"], own["nearest example of held-out digits"]
    note = (
        f"{report['llm']}, {report['prompts']['examples']} examples a context, "
        f"{described(report['prompts'])}; {own['distinct images']} different images among {own['digits']}, "
        f"{own['copies']} of them copies of an example word by word. Root mean square distance to the "
        f"nearest example: {shown(near)}; of held-out digits {shown(real)}."
    )
    return markdown(["captions", "asked", "digits", "right", "chance"], rows, note)


def _nearest(generated: Generated, images: Tensor, context: Tensor) -> Tensor:
    """Root mean square distance of each image to the nearest example of its context, [N]."""
    examples = generated.context_images.flatten(2)
    rows = [torch.cdist(x[None], examples[c]).amin() for x, c in zip(images.flatten(1), context, strict=True)]
    return torch.stack(rows) / images[0].numel() ** 0.5


def _examples(labels: Tensor, count: int, generator: random.Random) -> list[int]:
    """Items for a context, equally many of each class, in random order."""
    chosen = []
    for digit in range(NUM_CLASSES):
        chosen += generator.sample((labels == digit).nonzero().flatten().tolist(), count // NUM_CLASSES)
    generator.shuffle(chosen)
    return chosen


def _queries(prompts: DigitPrompts, generator: random.Random) -> list[tuple[str, int]]:
    """Captions and the digits they mean; the classes in turn, so that each is asked for equally often."""
    queries = []
    for number in range(prompts.sums):
        total = number % NUM_CLASSES
        first = generator.randint(0, total)
        queries.append((f"{first}+{total - first}", total))
    return queries + [(str(number % NUM_CLASSES), number % NUM_CLASSES) for number in range(prompts.plain)]
