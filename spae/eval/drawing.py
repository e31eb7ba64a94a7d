"""How a language model writes the words of images: the options that evaluations of generation share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from spae.configs import checked
from spae.incontext import Example, Lexicon, Options, Task, decode
from spae.incontext.passes import Layout, Mode
from spae.llm import GREEDY, FrozenLLM, Sampling
from spae.tokenizers import PyramidTokens


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How images are written.

    stride: tokens of a pass; small models lose the thread within longer ones. layers: how many are generated,
    and decoded from; None means all of the pyramid's. layout, mode, par_layers, best_of: see
    `spae.incontext.decode` and its `Options`; shown_words is its window. temperature, top_p, top_k: see
    `spae.llm.Sampling`.
    """

    stride: int = 1
    layers: int | None = None
    layout: Layout = "examples"
    mode: Mode = "par"
    par_layers: int | None = None
    shown_words: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    best_of: int = 1

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride: expected 1 or more, got {self.stride}")
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers: expected at least 1, got {self.layers}")
        for name, known in (("layout", get_args(Layout)), ("mode", get_args(Mode))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.par_layers is not None and (self.mode != "par" or self.par_layers < 1):
            raise ValueError(
                f'par_layers: expected 1 or more with mode "par", or None, got {self.par_layers} with mode '
                f"{self.mode!r}"
            )
        if self.shown_words is not None and (self.shown_words < 0 or self.layout != "examples"):
            raise ValueError(
                f"shown_words: expected 0 or more in the layout examples, or None, got {self.shown_words} in "
                f"{self.layout}"
            )
        for name, hint in get_type_hints(Sampling, include_extras=True).items():
            if name in ("temperature", "top_p", "top_k"):
                checked(name, getattr(self, name), hint)
        if self.best_of < 1 or (self.best_of > 1 and self.temperature == 0):
            raise ValueError(
                f"best_of: expected 1 or more, and 1 at temperature 0, got {self.best_of} at "
                f"{self.temperature:g}"
            )

    def decode(
        self,
        llm: FrozenLLM,
        task: Task,
        queries: Sequence[Example],
        lexicon: Lexicon,
        *,
        log: Path | None = None,
        seed: int = 0,
    ) -> PyramidTokens:
        """`spae.incontext.decode` so; finished segments are kept in `log`, if there is one. seed: of the
        samples, if there is a temperature."""
        sampling = Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=seed)
        options = Options(
            num_layers=self.layers,
            par_layers=self.par_layers,
            window=self.shown_words,
            layout=self.layout,
            sampling=sampling if self.temperature else GREEDY,
            best_of=self.best_of,
            log=log,
        )
        return decode(llm, task, queries, lexicon, mode=self.mode, stride=self.stride, options=options)


def add_drawing(parser: argparse.ArgumentParser, defaults: Drawing) -> None:
    """The options for the fields of `Drawing`."""
    parser.add_argument(
        "--stride", type=int, default=defaults.stride, help=f"tokens of a pass (default: {defaults.stride})"
    )
    parser.add_argument(
        "--layout",
        choices=get_args(Layout),
        default=defaults.layout,
        help="examples shows the words so far in each example's line; segments reads nothing twice "
        f"(default: {defaults.layout})",
    )
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default=defaults.mode,
        help="par: each pass sees the words so far; pnar: passes do not see each other (default: par)",
    )
    parser.add_argument(
        "--par-layers",
        type=int,
        help="with --mode par: only the first so many layers, the others see these alone (default: all)",
    )
    parser.add_argument(
        "--shown-words",
        type=int,
        help="of an image before a pass, the last so many (default: all)",
    )
    add_choice(parser, defaults)


def add_choice(parser: argparse.ArgumentParser, defaults: Drawing) -> None:
    """Those of them that say how many words are chosen, and how; not in which passes."""
    parser.add_argument(
        "--layers", type=int, help="layers that are generated, and decoded from (default: all)"
    )
    parser.add_argument(
        "--temperature", type=float, default=defaults.temperature, help="0 is greedy (default)"
    )
    parser.add_argument("--top-p", type=float, help="sample among the likeliest words of so much probability")
    parser.add_argument("--top-k", type=int, help="sample among so many of the likeliest words")
    parser.add_argument(
        "--best-of",
        type=int,
        default=defaults.best_of,
        metavar="N",
        help="draw N images a query and keep the one that the language model finds likeliest (default: 1)",
    )


def drawing_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Drawing` that the options name."""
    given = vars(arguments)
    return {field.name: given[field.name] for field in fields(Drawing) if field.name in given}


def described(run: dict[str, Any], *, passes: bool = True) -> str:
    """Settings of a report in words. passes: also those of its passes. Reports of before an option had its
    default, but for "layout", which was "segments"."""
    parts = [] if run.get("layers") is None else [f"{run['layers']} layers written"]
    if passes:
        parts += [f"stride {run['stride']}", f"layout {run.get('layout', 'segments')}"]
        if run.get("mode", "par") != "par":
            parts.append(f"mode {run['mode']}")
        elif run.get("par_layers") is not None:
            parts.append(f"PAR in {run['par_layers']} layers")
        if run.get("shown_words") is not None:
            parts.append(f"the last {run['shown_words']} words shown")
    if run.get("temperature"):
        parts.append(f"temperature {run['temperature']:g}")
        parts += [f"{n.replace('_', '-')} {run[n]:g}" for n in ("top_p", "top_k") if run.get(n) is not None]
        if run.get("best_of", 1) > 1:
            parts.append(f"likeliest of {run['best_of']}")
    return ", ".join(parts)
