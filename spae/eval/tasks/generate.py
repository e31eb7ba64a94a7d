"""Images drawn by a frozen language model from captions, and whether they are what was asked for."""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spae.data.mnist import WORDS
from spae.eval.drawable import Drawable, check_drawable, drawable
from spae.eval.drawing import Drawing, add_drawing, described, drawing_options
from spae.eval.run import Measured, Run
from spae.eval.statistics import mean, proportion
from spae.eval.sums import Captions, numeral, said_sums, sum_text
from spae.eval.table import markdown, shown
from spae.figures import picture_grid
from spae.incontext import Lexicon
from spae.incontext.lexicon import seen_masks
from spae.incontext.tasks.generation import captioned_images_task, image_query
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens, Tokenizer
from spae.tokenizers.batches import decode_all, encode_all

ABOUT = "Digits or garments drawn from captions by a frozen language model."
USES_LLM = True
NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Prompts(Drawing):
    """What is asked.

    data: "digits", "garments" or "spoken-digits:PATH". contexts: how often other examples are drawn.
    examples: images a context shows, as many of each class. sums: queries a context answers, such as "1+7",
    of sums up to 9, where it shows digits; plain: queries such as "3". captions: how numbers are written:
    "digits", "words" ("three", "one plus seven"). chain: ask for each sum a second time, by the number that
    the language model says it is; see `spae.eval.sums`.
    """

    data: str = "digits"
    contexts: int = 10
    examples: int = 20
    sums: int = 10
    plain: int = 10
    captions: Captions = "digits"
    chain: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_drawable(self.data)
        if self.data != "digits" and self.sums:
            raise ValueError(f"sums: expected 0 where {self.data} are drawn, got {self.sums}")
        for name, least in (("contexts", 1), ("sums", 0), ("plain", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if self.sums + self.plain == 0:
            raise ValueError("plain: expected 1 or more where there are no sums, got 0")
        if self.captions not in get_args(Captions):
            raise ValueError(f"captions: expected digits or words, got {self.captions!r}")
        if self.data != "digits" and self.captions != "digits":
            raise ValueError(
                f"captions: expected digits, the default, where {self.data} are drawn, which are called by "
                f"their own names, got {self.captions!r}"
            )
        if self.chain and not self.sums:
            raise ValueError("chain: expected False where there are no sums, got True")
        if self.examples < NUM_CLASSES or self.examples % NUM_CLASSES:
            raise ValueError(f"examples: expected a multiple of {NUM_CLASSES}, got {self.examples}")


class Query(NamedTuple):
    """kind: "plain", "sums" or "chained". caption: what is asked. label: the class meant. terms: of a sum."""

    kind: str
    caption: str
    label: int
    terms: tuple[int, ...] = ()


@dataclass(frozen=True)
class Generated:
    """queries: what was asked. tokens: what came. images: what the first 1, 2, .. layers of it decode to,
    those of all layers last. context: which context of the contexts' ids
    [contexts, examples, n] and images [contexts, examples, C, H, W] each was drawn in."""

    queries: list[Query]
    tokens: PyramidTokens
    images: list[Tensor]
    context: Tensor
    context_ids: Tensor
    context_images: Tensor


class Pool:
    """What examples are drawn from: training images, their tokens, and these as the model's ids. Only words
    that occur in them may be written."""

    def __init__(self, model: Tokenizer, llm: FrozenLLM, data: str = "digits") -> None:
        self.shown: Drawable = drawable(data, model.config.image_size[0])
        self.tokens = encode_all(model, self.shown.images)
        self.lexicon = Lexicon.of(model, llm, seen_masks(self.tokens, len(model.codebook)))
        self.words = self.lexicon.llm_ids(self.tokens)


def generate_images(
    model: Tokenizer,
    llm: FrozenLLM,
    prompts: Prompts,
    *,
    pool: Pool | None = None,
    shuffle_captions: bool = False,
    log: Path | None = None,
) -> Generated:
    """Draw images by progressive decoding.

    pool: None makes it. shuffle_captions: deal the captions of the examples out at random, the control in
    which nothing links captions to images. log: keeps finished segments.
    """
    pool = Pool(model, llm, prompts.data) if pool is None else pool
    train = pool.shown
    names = list(train.names)
    if prompts.data == "digits":
        names = [numeral(digit, prompts.captions) for digit in range(NUM_CLASSES)]
    generator = random.Random(prompts.seed)
    ids, queries, contexts, counts = [], [], [], []
    for number in tqdm(range(prompts.contexts), desc="contexts", disable=None):
        chosen = _examples(train.labels, prompts.examples, generator)
        named = [names[int(train.labels[i])] for i in chosen]
        if shuffle_captions:
            generator.shuffle(named)
        asked = _queries(prompts, names, generator)
        if prompts.chain:
            asked += _chained(llm, asked, prompts.captions, f"{prompts.seed} {number}")
        task = captioned_images_task([pool.words[i] for i in chosen], named)
        captions = [image_query(query.caption) for query in asked]
        drawn = prompts.decode(llm, task, captions, pool.lexicon, log=log, seed=prompts.seed + number)
        ids.append(drawn.ids)
        queries += asked
        contexts.append(torch.tensor(chosen))
        counts.append(len(asked))
    drawn = PyramidTokens(torch.cat(ids), model.pyramid)
    items = torch.stack(contexts)
    return Generated(
        queries=queries,
        tokens=drawn,
        images=[decode_all(model, drawn.upto(n)) for n in range(1, drawn.num_layers + 1)],
        context=torch.arange(prompts.contexts).repeat_interleave(torch.tensor(counts)),
        context_ids=pool.tokens.upto(drawn.num_layers).ids[items],
        context_images=train.images[items],
    )


def evaluate_generation(generated: Generated, shown: Drawable) -> dict[str, Any]:
    """Which share of the images a classifier reads as what was asked, by kind of query, from all the layers
    and ("layers") from the first 1, 2, .. of the same words, and how near they are to the examples that the
    model was shown. "all" is plain ones and sums; sums by chained prompts stand apart, beside the share of
    them that the model said right. shown: what the examples are from (`Pool`).

    Distances are root mean squares of pixels in [-1, 1] to the nearest of the context's examples; beside them
    stands that of held-out images, which are nobody's copies.
    """
    labels = torch.tensor([query.label for query in generated.queries])
    layers = [shown.classifier.predict(images) == labels for images in generated.images]
    right = layers[-1]
    of = {
        kind: torch.tensor([query.kind == kind for query in generated.queries])
        for kind in ("plain", "sums", "chained")
    }
    rows = {"all": of["plain"] | of["sums"], **of}
    said = [query for query in generated.queries if query.kind == "chained"]
    held_out = shown.held_out
    real = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[: len(right)]]
    real_context = generated.context[: len(real)]
    return {
        "images": len(right),
        "chance": 1 / NUM_CLASSES,
        "accuracy": {
            name: {
                "trials": int(chosen.sum()),
                **proportion(int(right[chosen].sum()), int(chosen.sum()))._asdict(),
                "layers": [
                    proportion(int(of_layer[chosen].sum()), int(chosen.sum()))._asdict()
                    for of_layer in layers
                ],
            }
            for name, chosen in rows.items()
            if chosen.any()
        },
        **({"sums said right": _share(said)} if said else {}),
        "copies": int(
            (generated.context_ids[generated.context] == generated.tokens.ids[:, None]).all(2).any(1).sum()
        ),
        "distinct images": len({tuple(row) for row in generated.tokens.ids.tolist()}),
        "nearest example": mean(_nearest(generated, generated.images[-1], generated.context))._asdict(),
        "nearest example of held-out images": mean(_nearest(generated, real, real_context))._asdict(),
    }


def add(parser: argparse.ArgumentParser) -> None:
    add_prompts(parser)
    add_drawing(parser, Prompts())


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """The options for what is asked."""
    parser.add_argument("--data", default="digits", help="digits (default), garments, or spoken-digits:PATH")
    parser.add_argument("--contexts", type=int, default=10, help="how often examples are drawn (default: 10)")
    parser.add_argument("--examples", type=int, default=20, help="images a context shows (default: 20)")
    parser.add_argument("--plain", type=int, default=10, help='queries such as "3" (default: 10)')
    parser.add_argument(
        "--sums", type=int, help='queries such as "1+7" (default: 10 where digits are drawn, else 0)'
    )
    parser.add_argument(
        "--captions", choices=get_args(Captions), default="digits", help="3 (default), or three"
    )
    parser.add_argument(
        "--chain",
        action="store_true",
        help="also draw what the language model says that each sum is; reported apart",
    )


def settings(arguments: argparse.Namespace) -> Prompts:
    return Prompts(**prompt_options(arguments), **drawing_options(arguments))


def prompt_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields that `add_prompts`'s options name."""
    own = ("data", "contexts", "examples", "plain", "sums", "captions", "chain", "seed")
    options = {name: getattr(arguments, name) for name in own}
    if options["sums"] is None:
        options["sums"] = Prompts.sums if options["data"] == "digits" else 0
    return options


def measure(run: Run) -> Measured:
    """Generate with captions and with shuffled captions; the page shows the first two contexts. Finished
    segments are kept in `segments.jsonl`."""
    prompts: Prompts = run.settings
    log = run.folder / "segments.jsonl"
    pool = Pool(run.model, run.asked, prompts.data)
    generated, control = (
        generate_images(run.model, run.asked, prompts, pool=pool, shuffle_captions=shuffled, log=log)
        for shuffled in (False, True)
    )
    report = {
        "prompts": asdict(prompts),
        "captions": evaluate_generation(generated, pool.shown),
        "shuffled captions": evaluate_generation(control, pool.shown),
    }
    pictures = generated.images[-1][generated.context < 2]
    titles = [query.caption for query in generated.queries[: len(pictures)]]
    return Measured(report, lambda path: picture_grid(pictures, titles, path, columns=10))


def table(report: dict[str, Any]) -> str:
    """Each figure with its 95% interval."""
    prefixes = report["captions"]["accuracy"]["all"]["layers"][:-1]
    rows = [
        [
            kind,
            asked,
            str(row["trials"]),
            shown(row),
            *(f"{of['value']:.2f}" for of in row["layers"][:-1]),
            f"{report[kind]['chance']:.2f}",
        ]
        for kind in ("captions", "shuffled captions")
        for asked, row in report[kind]["accuracy"].items()
    ]
    own = report["captions"]
    near, real = own["nearest example"], own["nearest example of held-out images"]
    note = (
        f"{report['llm']}, {report['prompts']['examples']} examples a context, "
        f"{described(report['prompts'])}{_extras(report)}; {own['distinct images']} different images among "
        f"{own['images']}, {own['copies']} of them copies of an example word by word. Root mean square "
        f"distance to the nearest example: {shown(near)}; of held-out images {shown(real)}."
    )
    header = [
        "captions",
        "asked",
        "images",
        "right",
        *(f"{n} of the layers" for n in range(1, len(prefixes) + 1)),
    ]
    return markdown([*header, "chance"], rows, note)


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


def _queries(prompts: Prompts, names: list[str], generator: random.Random) -> list[Query]:
    """The classes in turn, so that each is asked for equally often."""
    queries = []
    for number in range(prompts.sums):
        total = number % NUM_CLASSES
        first = generator.randint(0, total)
        text = sum_text(first, total - first, prompts.captions)
        queries.append(Query("sums", text, total, (first, total - first)))
    plain = [number % NUM_CLASSES for number in range(prompts.plain)]
    return queries + [Query("plain", names[label], label) for label in plain]


def _chained(llm: FrozenLLM, queries: list[Query], captions: Captions, seed: str) -> list[Query]:
    """The sums once more, by what the model says that they are."""
    sums = [query for query in queries if query.kind == "sums"]
    answers = said_sums(llm, [(query.terms[0], query.terms[1]) for query in sums], captions, seed)
    return [query._replace(kind="chained", caption=said) for query, said in zip(sums, answers, strict=True)]


def _share(chained: list[Query]) -> dict[str, float]:
    right = sum(query.caption in (str(query.label), WORDS[query.label]) for query in chained)
    return proportion(right, len(chained))._asdict()


def _extras(report: dict[str, Any]) -> str:
    """What earlier reports do not have."""
    prompts, own = report["prompts"], report["captions"]
    text = ", captions in words" if prompts.get("captions") == "words" else ""
    if "sums said right" in own:
        text += f"; of the sums the model says {shown(own['sums said right'])} right before it draws them"
    return text
