"""Degraded images restored by a frozen language model, from ten copies of the image itself, corrupted less
and less (SPAE section 3.2; V2L)."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Any

from tqdm.auto import tqdm

from spae.eval.drawing import Drawing, described
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
from spae.incontext.tasks.denoising import (
    DEGRADATIONS,
    Windows,
    answers_of,
    denoising_task,
    hidden_tokens,
    majority,
    restore_windows,
)
from spae.tokenizers import PyramidTokens, V2LTokenizer
from spae.tokenizers.batches import encode_all

ABOUT = "Degraded images restored after ten copies, corrupted less and less."
USES_LLM = True
SCHEMES = ("windows", "layers")
KINDS = ("language model", "wrong image")
_DECODING = {field.name for field in fields(Drawing)} - {"stride", "layers"}
_ONLY_WITH = {"window": "windows", "condition_layers": "layers", **dict.fromkeys(_DECODING, "layers")}


@dataclass(frozen=True, kw_only=True)
class Denoising(Restoration):
    """tasks: names of `DEGRADATIONS`. scheme: "windows", as V2L predicts a few words at a time (`stride`)
    from the `window` before them, of the hidden positions only where the task hides some; or "layers", all
    words by progressive decoding, conditioned on the degraded image's first `condition_layers`. The window is
    the former's alone; the latter's are `condition_layers` and all of `Drawing` but `stride` and `layers`.
    control: restore each image from what is shown of another one, too."""

    tasks: tuple[str, ...] = tuple(DEGRADATIONS)
    scheme: str = "windows"
    window: int = Windows.before
    stride: int = Windows.predicted
    control: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [task for task in self.tasks if task not in DEGRADATIONS]:
            raise ValueError(f"tasks: expected some of {sorted(DEGRADATIONS)}, got {unknown[0]!r}")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme: expected {' or '.join(SCHEMES)}, got {self.scheme!r}")
        if self.window < 0:
            raise ValueError(f"window: expected 0 or more, got {self.window}")
        for field in fields(self):
            value, scheme = getattr(self, field.name), _ONLY_WITH.get(field.name, self.scheme)
            if scheme != self.scheme and value != field.default:
                raise ValueError(
                    f"{field.name}: expected the default, {field.default}, for only the scheme {scheme} has "
                    f"it, got {value} with {self.scheme}"
                )


def add(parser: argparse.ArgumentParser) -> None:
    add_restoration(parser, Denoising())
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=list(DEGRADATIONS),
        help=f"some of {', '.join(DEGRADATIONS)} (default: all)",
    )
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        default=Denoising.scheme,
        help="windows: --stride words at a time from the --window before them, as V2L does; layers: "
        f"progressive decoding (default: {Denoising.scheme})",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=Denoising.window,
        help=f"of the scheme windows, words before those predicted (default: {Denoising.window})",
    )
    parser.add_argument(
        "--no-control",
        action="store_true",
        help="do not restore each image from what is shown of another one, too, which is half the work",
    )


def settings(arguments: argparse.Namespace) -> Denoising:
    return Denoising(
        tasks=tuple(arguments.tasks),
        scheme=arguments.scheme,
        window=arguments.window,
        control=not arguments.no_control,
        **restoration_options(arguments),
    )


def table(report: dict[str, Any]) -> str:
    """See `restoration_table`."""
    run = report["run"]
    if run.get("scheme", "layers") == "windows":
        return restoration_table(report, f"{run['stride']} words at a time from the {run['window']} before")
    return restoration_table(report, f"{run['condition_layers']} layers shown, {described(run)}")


def measure(run: Run) -> Measured:
    """Restore images of every task.

    Beside the language model's images stand, by name: "wrong image", the control, the same with another
    image's words in place of what each prompt shows of this one; "majority", at each position the commonest
    of the examples' words (the copies share most of the answer, so this is what a model must reach to have
    understood the examples); "nearest example", that of them that is most like the original; "degraded", the
    input as it is; "random words"; and "own words", the original's in as many layers. Where only some
    positions are hidden all methods have the original's words at the others.

    What is finished is kept in `segments.jsonl`.
    """
    lab = Lab(run)
    rows, pages = [], []
    for name in run.settings.tasks:
        methods = restore(lab, name, KINDS if run.settings.control else KINDS[:1])
        rows += lab.rows(name, methods)
        pages.append((f"{name}:\noriginal", methods))
    return lab.measured(rows, pages)


def restore(lab: Lab, name: str, kinds: tuple[str, ...] = KINDS) -> dict[str, Restored]:
    """One task's images by method. kinds: the language model's, one or both."""
    chosen: Denoising = lab.chosen  # type: ignore[assignment]
    degraded = DEGRADATIONS[name](lab.originals)
    conditions = encode_all(lab.model, degraded)
    in_windows = chosen.scheme == "windows"
    # Of a V2L, whose global words say what is seen as a whole, the local ones are hidden.
    v2l = isinstance(lab.model, V2LTokenizer)
    hidden = hidden_tokens(name, lab.model.pyramid, local=v2l) if in_windows else None
    if hidden is not None:
        hidden, conditions = hidden[: lab.tokens.ids.shape[1]], lab.tokens
    answers: dict[str, list[PyramidTokens]] = {kind: [] for kind in kinds}
    most, nearest = [], []
    for i in tqdm(range(chosen.images), desc=name, disable=None):
        for kind, j in zip(kinds, (i, (i + 1) % chosen.images), strict=False):
            task, query = denoising_task(
                conditions[j : j + 1],
                lab.tokens[i : i + 1],
                lab.lexicon,
                condition_layers=lab.layers if in_windows else chosen.condition_layers,
                seed=chosen.seed * 10**6 + i,
                masks=lab.model.word_masks if v2l else None,
            )
            if in_windows:
                windows = Windows(chosen.stride, chosen.window)
                words = restore_windows(
                    lab.run.asked, task, query, lab.lexicon, hidden, windows=windows, log=lab.log
                )
                answers[kind].append(lab.lexicon.tokens([words]))
            else:
                answers[kind].append(lab.decode(task, [query]))
            if kind == "language model":
                most.append(majority(task))
                nearest.append(lab.nearest(answers_of(task), i))
    methods = {kind: lab.restored(join(parts)) for kind, parts in answers.items()}
    methods["majority"] = lab.restored(lab.lexicon.tokens(most))
    methods["nearest example"] = lab.restored(lab.lexicon.tokens(nearest))
    methods |= {"degraded": Restored(degraded), **lab.limits()}
    if hidden is None:
        return methods
    return {k: m if m.tokens is None else lab.completed(m.tokens, hidden) for k, m in methods.items()}
