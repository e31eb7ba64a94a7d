"""Clips drawn by a frozen language model from captions such as "3 moving left", and which way they move."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from spae.configs import Count, checked
from spae.data.mnist import WORDS
from spae.data.moving_mnist import DIRECTIONS, MovingMNIST
from spae.eval.drawing import Drawing, add_drawing, described, drawing_options
from spae.eval.images import stack
from spae.eval.run import Measured, Run
from spae.eval.statistics import proportion
from spae.eval.table import markdown, shown
from spae.incontext import Lexicon
from spae.incontext.lexicon import seen_masks
from spae.incontext.tasks.denoising import majority
from spae.incontext.tasks.generation import captioned_images_task, image_query
from spae.tokenizers import PyramidTokens, Tokenizer
from spae.tokenizers.batches import decode_all, encode_all

ABOUT = "Clips of digits drawn as told, left, right, up or down, by a frozen language model."
USES_LLM = True
Captions = Literal["digits", "words", "ways"]


@dataclass(frozen=True, kw_only=True)
class Motion(Drawing):
    """What is asked.

    contexts: how often other examples are drawn; each answers a query for every direction. examples: clips a
    context shows, as many of each direction. pool: training clips that examples are drawn from. held_out:
    clips whose reconstructions are measured. digit_size: see `MovingMNIST`. captions: "3 moving left", "three
    moving left", or no more than "left".
    """

    contexts: Count = 10
    examples: Count = 8
    pool: Count = 400
    held_out: Count = 64
    digit_size: Count = 14
    captions: Captions = "digits"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("contexts", "examples", "pool", "held_out", "digit_size"):
            checked(name, getattr(self, name), Count)
        checked("captions", self.captions, Captions)
        if self.examples % len(DIRECTIONS):
            raise ValueError(f"examples: expected a multiple of {len(DIRECTIONS)}, got {self.examples}")


def add(parser: argparse.ArgumentParser) -> None:
    for name, what in (
        ("contexts", "how often examples are drawn"),
        ("examples", "clips a context shows"),
        ("pool", "training clips that examples are drawn from"),
        ("held-out", "clips whose reconstructions are measured"),
        ("digit-size", "pixels a side of a digit"),
    ):
        default = getattr(Motion, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: {default})")
    parser.add_argument(
        "--captions",
        choices=get_args(Captions),
        default=Motion.captions,
        help="3 moving left (default), three moving left, or left",
    )
    add_drawing(parser, Motion())


def settings(arguments: argparse.Namespace) -> Motion:
    own = ("contexts", "examples", "pool", "held_out", "digit_size", "captions", "seed")
    return Motion(**{name: getattr(arguments, name) for name in own}, **drawing_options(arguments))


def directions_of(clips: Tensor) -> Tensor:
    """Which of `DIRECTIONS` the centre of brightness goes from the first to the last frame, int64 [N]; clips
    float [N, C, T, H, W] in [-1, 1]. A clip that stands still counts as the first."""
    light = (clips.float().clamp(-1, 1) + 1).mean(1)
    total = light.sum((2, 3)).clamp_min(1e-6)
    rows, columns = (torch.arange(n, dtype=torch.float32, device=clips.device) for n in light.shape[2:])
    across = (light.sum(2) * columns).sum(2) / total
    down = (light.sum(3) * rows).sum(2) / total
    right, below = (place[:, -1] - place[:, 0] for place in (across, down))
    return torch.stack([-right, right, -below, below], 1).argmax(1)


def measure(run: Run) -> Measured:
    """Draw with captions and, as the control, with the examples' captions dealt out at random. Beside them
    stand "vote", at each place the commonest word of the examples that go as asked, for which no language
    model is needed, and what reconstructions of held-out clips keep of their motion. Finished segments are
    kept in `segments.jsonl`.

    Raises ValueError for a model of other than square clips.
    """
    asked: Motion = run.settings
    train, test = (_clips(run.model, asked, part) for part in ("train", "test"))
    tokens = encode_all(run.model, stack(train, range(len(train))))
    clips = stack(test, range(len(test)))
    seen = encode_all(run.model, clips)
    layers = run.model.pyramid.num_layers if asked.layers is None else asked.layers
    report: dict[str, Any] = {
        "prompts": asdict(asked),
        "chance": 1 / len(DIRECTIONS),
        "reconstructed": [
            _share(decode_all(run.model, seen.upto(number)), _ways(test)) for number in range(1, layers + 1)
        ],
    }
    drawn, voted = _drawn(run, train, tokens, shuffled=False)
    dealt, _ = _drawn(run, train, tokens, shuffled=True)
    wanted = torch.arange(len(DIRECTIONS)).repeat(asked.contexts)
    for name, made in (("captions", drawn), ("shuffled captions", dealt), ("vote", voted)):
        report[name] = [
            _share(decode_all(run.model, made.upto(number)), wanted) for number in range(1, layers + 1)
        ]
    return Measured(report)


def table(report: dict[str, Any]) -> str:
    """The share of clips that move as told, by how many layers they are decoded from, with 95% intervals."""
    kinds = [kind for kind in ("captions", "shuffled captions", "vote", "reconstructed") if kind in report]
    rows = [
        [
            kind,
            str(report[kind][0]["trials"]),
            *(shown(of_layer) for of_layer in report[kind]),
            f"{report['chance']:.2f}",
        ]
        for kind in kinds
    ]
    header = ["clips", "trials", *(f"{n} layers" for n in range(1, len(report["captions"]) + 1)), "chance"]
    note = (
        f"{report['llm']}, {report['prompts']['examples']} examples a context, "
        f"{described(report['prompts'])}{_extras(report['prompts'])}; reconstructed: held-out clips from "
        "their own words"
    )
    return markdown(header, rows, note)


def _extras(prompts: dict[str, Any]) -> str:
    """What earlier reports do not have."""
    how = prompts.get("captions", Motion.captions)
    return "" if how == Motion.captions else f', captions such as "{_told("3 moving left", how)}"'


def _clips(model: Tokenizer, asked: Motion, split: Any) -> MovingMNIST:
    shape = model.config.image_size
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"model: expected one of square clips, got one of {shape}")
    count = asked.pool if split == "train" else asked.held_out
    options: dict[str, Any] = {"digits": 1, "motion": "straight", "digit_size": asked.digit_size}
    return MovingMNIST(split, shape[1], frames=shape[0], count=count, **options)


def _drawn(
    run: Run, train: MovingMNIST, tokens: PyramidTokens, *, shuffled: bool
) -> tuple[PyramidTokens, PyramidTokens]:
    """What the model writes for a query of each direction in each context, and what the examples that go that
    way vote for."""
    asked: Motion = run.settings
    lexicon = Lexicon.of(run.model, run.asked, seen_masks(tokens, len(run.model.codebook)))
    words, ways, generator = lexicon.llm_ids(tokens), _ways(train), random.Random(asked.seed)
    ids, votes = [], []
    for number in range(asked.contexts):
        chosen = _examples(ways, asked.examples, generator)
        captions = [_told(train.captions[item], asked.captions) for item in chosen]
        digits = [generator.randrange(10) for _ in DIRECTIONS]
        if shuffled:
            random.Random(f"{asked.seed} {number}").shuffle(captions)
        task = captioned_images_task([words[item] for item in chosen], captions)
        wanted = [f"{digit} moving {way}" for digit, way in zip(digits, DIRECTIONS, strict=True)]
        queries = [image_query(_told(caption, asked.captions)) for caption in wanted]
        log = run.folder / "segments.jsonl"
        ids.append(asked.decode(run.asked, task, queries, lexicon, log=log, seed=asked.seed + number).ids)
        for way in range(len(DIRECTIONS)):
            going = [
                example for example, item in zip(task.examples, chosen, strict=True) if ways[item] == way
            ]
            votes.append(majority(replace(task, examples=tuple(going))))
    return PyramidTokens(torch.cat(ids), run.model.pyramid), lexicon.tokens(votes)


def _told(caption: str, captions: Captions) -> str:
    """A caption of `MovingMNIST`, "3 moving left", as it is asked for."""
    digit, moving, way = caption.split()
    return {"digits": caption, "words": f"{WORDS[int(digit)]} {moving} {way}", "ways": way}[captions]


def _ways(clips: MovingMNIST) -> Tensor:
    """Of the one digit of each clip, int64 [N]."""
    assert clips.directions is not None  # the motion is straight
    return clips.directions[:, 0]


def _examples(directions: Tensor, count: int, generator: random.Random) -> list[int]:
    """Clips for a context, equally many of each direction, in random order."""
    chosen: list[int] = []
    each = count // len(DIRECTIONS)
    for way in range(len(DIRECTIONS)):
        found: Sequence[int] = (directions == way).nonzero()[:, 0].tolist()
        if len(found) < each:
            raise ValueError(f"pool: expected {each} clips moving {DIRECTIONS[way]}, got {len(found)}")
        chosen += generator.sample(found, each)
    generator.shuffle(chosen)
    return chosen


def _share(clips: Tensor, wanted: Tensor) -> dict[str, float]:
    right = int((directions_of(clips) == wanted.to(clips.device)).sum())
    return {"trials": len(wanted), **proportion(right, len(wanted))._asdict()}
