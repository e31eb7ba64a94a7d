"""How a language model writes the words of images: the options that evaluations of generation share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from spae.incontext import Example, Lexicon, Options, Task, decode
from spae.incontext.decoding import Layout, Mode
from spae.llm import GREEDY, FrozenLLM, Sampling
from spae.tokenizers import PyramidTokens


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """stride: tokens of a pass. layout, mode, par_layers: see `spae.incontext.decode` and its `Options`."""

    stride: int = 4
    layout: Layout = "examples"
    mode: Mode = "par"
    par_layers: int | None = None

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride: expected 1 or more, got {self.stride}")
        for name, known in (("layout", get_args(Layout)), ("mode", get_args(Mode))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.par_layers is not None and (self.mode != "par" or self.par_layers < 1):
            raise ValueError(
                f'par_layers: expected 1 or more with mode "par", or None, got {self.par_layers} with mode '
                f"{self.mode!r}"
            )

    def decode(
        self,
        llm: FrozenLLM,
        task: Task,
        queries: Sequence[Example],
        lexicon: Lexicon,
        *,
        log: Path | None = None,
        num_layers: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> PyramidTokens:
        """`spae.incontext.decode` so; finished segments are kept in `log`, if there is one."""
        options = Options(
            num_layers=num_layers,
            par_layers=self.par_layers,
            layout=self.layout,
            sampling=sampling,
            log=log,
            progress=False,
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


def drawing_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Drawing` that the options name."""
    return {field.name: getattr(arguments, field.name) for field in fields(Drawing)}


def described(run: dict[str, Any]) -> str:
    """Settings of a report in words. Reports of before the option "layout" were of "segments"."""
    text = f"stride {run['stride']}, layout {run.get('layout', 'segments')}"
    if run.get("mode", "par") != "par":
        return f"{text}, mode {run['mode']}"
    return text if run.get("par_layers") is None else f"{text}, PAR in {run['par_layers']} layers"
