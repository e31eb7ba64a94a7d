"""The next frames of clips, written by a frozen language model after other clips."""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor
from tqdm.auto import tqdm

from spae.configs import Config, Count, Range
from spae.eval.restoration import Lab, Restored, join, restoration_table
from spae.eval.run import Measured, Run
from spae.incontext.tasks import Windows, continuation_task, later_tokens, majority, restore_windows
from spae.tokenizers import PyramidTokens
from spae.tokenizers.batches import encode_all

ABOUT = "The last frames of clips from the words of the earlier ones, after other clips."
USES_LLM = True


@dataclass(frozen=True, kw_only=True)
class NextFrame(Config):
    """What is continued.

    data: what `spae.data.open_data` opens, clips; examples are of "train", what is continued of "test".
    images: how many clips. moments: how many of the latent frames are hidden, the last ones. examples: clips
    that a prompt shows, others for each clip. layers: how many are written, and decoded from; None: all.
    window, stride: words shown before those predicted, and predicted at once, V2L's n and m (`Windows`).
    """

    section = "nextframe"

    data: str = "moving-mnist"
    images: Annotated[int, Range(2)] = 20
    moments: Count = 1
    examples: Count = 20
    layers: Count | None = None
    window: Annotated[int, Range(0)] = Windows.before
    stride: Count = Windows.predicted
    seed: int = 0


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", default=NextFrame.data, help="clips, as for training (default: moving-mnist, as it is)"
    )
    for name, what in (
        ("images", "clips that are continued"),
        ("moments", "latent frames that are hidden, the last ones"),
        ("examples", "clips that a prompt shows"),
        ("window", "words before those predicted"),
        ("stride", "words predicted at once"),
    ):
        default = getattr(NextFrame, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--layers", type=int, help="layers that are written, and decoded from (default: all)")


def settings(arguments: argparse.Namespace) -> NextFrame:
    names = ("data", "images", "moments", "examples", "layers", "window", "stride", "seed")
    return NextFrame(**{name: getattr(arguments, name) for name in names})


def table(report: dict[str, Any]) -> str:
    """See `restoration_table`; the share of words is of the hidden ones."""
    run = report["run"]
    how = (
        f"the last {report['frames']} frames, {report['hidden']} words, after {run['examples']} clips, "
        f"{run['stride']} words at a time from the {run['window']} before"
    )
    return restoration_table(report, how)


def measure(run: Run) -> Measured:
    """Continue clips; everything is measured on their last frames, the share of words on the hidden words.

    Beside the language model's clips stand, by name: "shuffled", the control, the same with the examples'
    answers dealt out among them; "majority", at each hidden place the examples' commonest word; "last frame",
    the last one that is known, standing still, and "last frame's words", the tokenizer's of that; "random
    words"; and "own words", the original's in as many layers.

    What is finished is kept in `segments.jsonl`. Raises ValueError for a model that is not causal: the words
    of earlier moments would say what comes.
    """
    config = run.model.config
    if len(config.image_size) != 3 or not getattr(config, "causal", False):
        raise ValueError(
            f"model: expected a causal one of clips, whose earlier words know nothing of later frames, got "
            f"{type(run.model).__name__} of {config.image_size}"
        )
    lab, chosen = Lab(run), run.settings
    pyramid = run.model.pyramid
    hidden = later_tokens(pyramid, chosen.moments)[: lab.tokens.ids.shape[1]]
    known = 1 + (config.image_size[0] - 1) // (pyramid.shape[0] - 1) * (pyramid.shape[0] - 1 - chosen.moments)
    methods = _continued(lab, chosen, hidden, known)
    rows = lab.rows("next frames", methods, lambda clips: clips[:, :, known:], hidden)
    page = lab.measured(rows, [("original", methods)], lambda clips: clips[:, :, known - 1 :])
    facts = {"frames": config.image_size[0] - known, "hidden": int(hidden.sum())}
    return page._replace(report=page.report | facts)


def _continued(lab: Lab, chosen: NextFrame, hidden: Tensor, known: int) -> dict[str, Restored]:
    """Whole clips by method, the known words those of the original."""
    if chosen.examples > len(lab.prior):
        raise ValueError(f"examples: expected at most {len(lab.prior)}, got {chosen.examples}")
    still = lab.originals.clone()
    still[:, :, known:] = still[:, :, known - 1 : known]
    copied = encode_all(lab.model, still).upto(lab.layers)
    answers: dict[str, list[PyramidTokens]] = {"language model": [], "shuffled": [], "majority": []}
    windows = Windows(chosen.stride, chosen.window)
    for i in tqdm(range(chosen.images), desc="clips", disable=None):
        generator = random.Random(f"{chosen.seed} {i}")
        shown = lab.prior.upto(lab.layers)[generator.sample(range(len(lab.prior)), chosen.examples)]
        dealt = shown[generator.sample(range(chosen.examples), chosen.examples)]
        for kind, given in (("language model", shown), ("shuffled", dealt)):
            task, query = continuation_task(shown, given, copied[i : i + 1], lab.lexicon)
            words = restore_windows(
                lab.run.asked, task, query, lab.lexicon, hidden, windows=windows, log=lab.log
            )
            answers[kind].append(lab.lexicon.tokens([words]))
            if kind == "language model":
                answers["majority"].append(lab.lexicon.tokens([majority(task)]))
    limits = {name: one.tokens for name, one in lab.limits().items()}
    found = {kind: join(parts) for kind, parts in answers.items()} | {"last frame's words": copied, **limits}
    methods = {name: lab.completed(tokens, hidden) for name, tokens in found.items() if tokens is not None}
    return methods | {"last frame": Restored(still)}
