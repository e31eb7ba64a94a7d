"""How many tokens should a pass write, and which should it see? Digits drawn with every stride, by PAR and by
PNAR (SPAE, figure 7)."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from spae.eval.drawing import add_choice, described, drawing_options
from spae.eval.run import Measured, Run
from spae.eval.table import markdown, shown
from spae.eval.tasks.generate import (
    Pool,
    Prompts,
    add_prompts,
    evaluate_generation,
    generate_images,
    prompt_options,
)
from spae.figures import interval_lines
from spae.incontext.passes import Layout, Mode

ABOUT = "Digits drawn with every stride, by PAR and by PNAR."
USES_LLM = True
WHOLE = "whole"
Stride = int | Literal["whole"]
_KINDS = ("plain", "sums", "chained")


@dataclass(frozen=True)
class StrideStudy:
    """Every stride with every mode and layout, each with the same prompts.

    strides: tokens of a pass, or "whole" for all in one (PNAR passes end with their layer). prompts: what is
    asked; its own stride, mode and layout do not count.
    """

    strides: tuple[Stride, ...] = (1, 2, 4, 16, WHOLE)
    modes: tuple[Mode, ...] = ("par", "pnar")
    layouts: tuple[Layout, ...] = ("examples", "segments")
    prompts: Prompts = field(default_factory=Prompts)

    def __post_init__(self) -> None:
        for name, known in (("modes", get_args(Mode)), ("layouts", get_args(Layout))):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values) or set(values) - set(known):
                raise ValueError(f"{name}: expected some of {', '.join(known)}, each once, got {values}")
        strides = self.strides
        if (
            not strides
            or len(set(strides)) != len(strides)
            or any(s != WHOLE and int(s) < 1 for s in strides)
        ):
            raise ValueError(f'strides: expected numbers from 1 or "{WHOLE}", each once, got {strides}')
        if self.prompts.par_layers is not None:
            raise ValueError(f"par_layers: expected None, got {self.prompts.par_layers}")


def add(parser: argparse.ArgumentParser) -> None:
    default = StrideStudy()
    shown_strides = " ".join(map(str, default.strides))
    parser.add_argument(
        "--strides",
        nargs="+",
        type=_stride,
        default=list(default.strides),
        metavar="N",
        help=f"tokens of a pass, or {WHOLE} (default: {shown_strides})",
    )
    for name, known in (("modes", get_args(Mode)), ("layouts", get_args(Layout))):
        parser.add_argument(
            f"--{name}", nargs="+", choices=known, default=list(known), help=f"(default: {' '.join(known)})"
        )
    add_prompts(parser)
    add_choice(parser, default.prompts)


def settings(arguments: argparse.Namespace) -> StrideStudy:
    prompts = Prompts(**prompt_options(arguments), **drawing_options(arguments))
    return StrideStudy(tuple(arguments.strides), tuple(arguments.modes), tuple(arguments.layouts), prompts)


def measure(run: Run) -> Measured:
    """One row for each layout, mode and stride; the plot shows the shares that are right.

    Finished segments are kept in `segments.jsonl`.
    """
    study: StrideStudy = run.settings
    pool = Pool(run.model, run.asked, study.prompts.data)
    pyramid = run.model.pyramid
    layers = study.prompts.layers
    whole = pyramid.num_tokens if layers is None else pyramid.num_tokens_upto(layers)
    rows = []
    for layout in study.layouts:
        for mode in study.modes:
            for stride in study.strides:
                tokens = whole if stride == WHOLE else int(stride)
                prompts = replace(study.prompts, stride=tokens, mode=mode, layout=layout)
                log = run.folder / "segments.jsonl"
                generated = generate_images(run.model, run.asked, prompts, pool=pool, log=log)
                found = evaluate_generation(generated, pool.shown)
                rows.append({"layout": layout, "mode": mode, "stride": stride, **found})
    report = {"prompts": asdict(study.prompts), "strides": list(study.strides), "rows": rows}
    return Measured(report, lambda path: _draw(report, path))


def table(report: dict[str, Any]) -> str:
    """Each share with its 95% interval."""
    kinds = _kinds(report)
    rows = [
        [
            row["layout"],
            row["mode"],
            str(row["stride"]),
            *(shown(row["accuracy"][kind]) for kind in kinds),
            str(row["distinct images"]),
            str(row["copies"]),
        ]
        for row in report["rows"]
    ]
    first, prompts = report["rows"][0], report["prompts"]
    trials = ", ".join(f"{first['accuracy'][kind]['trials']} {kind}" for kind in kinds)
    how = described(prompts, passes=False)
    note = (
        f"{report['llm']}, {prompts['examples']} examples a context, {trials}, {f'{how}, ' if how else ''}"
        f"seed {prompts['seed']}; chance is {first['chance']:.2f}. Copies: of examples, word by word."
    )
    return markdown(["layout", "mode", "stride", *kinds, "different images", "copies"], rows, note)


def _draw(report: dict[str, Any], path) -> None:
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        lines.setdefault(f"{row['mode'].upper()}, {row['layout']}", []).append(row)
    panels = {
        kind: {name: [row["accuracy"][kind] for row in rows] for name, rows in lines.items()}
        for kind in _kinds(report)
    }
    ticks = [str(stride) for stride in report["strides"]]
    interval_lines(panels, ticks, path, x="tokens of a pass", chance=report["rows"][0]["chance"])


def _kinds(report: dict[str, Any]) -> list[str]:
    return [kind for kind in _KINDS if kind in report["rows"][0]["accuracy"]]


def _stride(text: str) -> Stride:
    return WHOLE if text == WHOLE else int(text)
