"""What share of a tokenizer's time does its quantizer take, and how does its cost grow?"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import inputs, report
from benchmarks.contest import Case
from benchmarks.peers.quantizer import SEMANTIC_LAYERS, model_config
from benchmarks.question import Inexact, Question, positive, verdict_table

WORKS = {
    "encode": "SPAE.encode",
    "step": "training step",
    "semantic": f"training step with a cross-entropy on up to {SEMANTIC_LAYERS} layers",
}
AXES = {"queries": "N", "codes": "K", "width": "D", "layers": "full layers"}
OURS, BEFORE = "spae_ops auto", "spae_ops torch"
_STYLE = {OURS: "#1b6ca8", BEFORE: "#8a9299", "spae_ops triton": "#c2701c", "spae_ops cuda": "#3f8f4f"}
_TOLERANCE = 1e-3  # of losses and gradients of a whole model, which no two libraries round the same way


class QuantizerQuestion(Question):
    name = "quantizer"
    about = (__doc__ or "").splitlines()[0]
    labels = ("work", "axis", "value")
    answers = "ids and losses"
    note = (
        "The quantizer's share is what the work takes longer than without a quantizer, of the whole; "
        "below 0 it is less than the noise."
    )
    dtypes = ("float32",)

    def add_arguments(self, add: Callable[..., Any]) -> None:
        add("--sizes", type=positive, nargs="*", default=[32, 64, 128, 256], help="pixels, multiples of 32")
        add("--works", nargs="+", choices=WORKS, default=list(WORKS))
        add("--batch", type=positive, default=2, help="images")
        add("--channels", type=positive, default=32, help="the model's width; the paper's is 128")
        add("--res-blocks", type=positive, default=1, help="the model's depth; the paper's is 2")
        add(
            "--axes",
            nargs="*",
            choices=AXES,
            default=list(AXES),
            help="along which the cost's growth is shown",
        )
        add("--side", type=positive, default=16, help="of the latents along the axes")

    def setup(self, arguments: argparse.Namespace) -> dict[str, Any]:
        scale = arguments.channels, arguments.res_blocks
        models = {str(size): model_config(size, *scale) for size in arguments.sizes}
        names = ("batch", "channels", "res_blocks", "side")
        return {"models": models, **{name: getattr(arguments, name) for name in names}}

    def cases(self, arguments: argparse.Namespace, codes: np.ndarray) -> Iterator[Case]:
        random = np.random.default_rng(inputs.SEED)
        for size in arguments.sizes:
            if size % 32:
                raise ValueError(f"sizes: expected multiples of 32 pixels, got {size}")
            images = random.uniform(-1, 1, (arguments.batch, 3, size, size)).astype(np.float32)
            model = {"image_size": size, "channels": arguments.channels, "res_blocks": arguments.res_blocks}
            for work in arguments.works:
                labels = {"work": work, "axis": "pixels", "value": size}
                yield Case(labels, [images], {"work": work, **model})
        for axis in arguments.axes:
            yield from self._growth(axis, arguments, codes)

    def _growth(self, axis: str, arguments: argparse.Namespace, codes: np.ndarray) -> Iterator[Case]:
        """Pyramid quantization alone, one size after another with the others held: a quarter of the codes,
        half of their width, one image, and two full layers."""
        (total, full), side = codes.shape, arguments.side
        base = {"queries": 1, "codes": max(1, total // 4), "width": max(1, full // 2), "layers": 2}
        steps = {
            "queries": [1, 2, 4, 8],
            "codes": [max(1, total // part) for part in (8, 4, 2, 1)],
            "width": [max(1, full // part) for part in (8, 4, 2, 1)],
            "layers": [1, 2, 4, 8],
        }
        for step in dict.fromkeys(steps[axis]):
            size = {**base, axis: step}
            table = codes[: size["codes"], : size["width"]]
            count = size["queries"] * side * side
            rows = inputs.make_queries("random", count, table, arguments.codebook)
            z = rows.reshape(size["queries"], side, side, -1).transpose(0, 3, 1, 2).copy()
            value = count * size["layers"] if axis == "queries" else step
            parameters = {"work": "pyramid", "num_codes": size["codes"], "grids": [side] * size["layers"]}
            labels = {"work": "pyramid", "axis": axis, "value": value}
            yield Case(labels, [z], parameters, only=tuple(_STYLE))

    def judge(self, case: Case, codes: np.ndarray, ours: list[str]) -> dict[str, dict[str, Any]]:
        """Ids against the reference's for the same latents; losses and gradients against each other's."""
        work = case.labels["work"]
        if work in ("encode", "pyramid"):
            wrong = {name: _wrong_ids(found, case, codes) for name, found in case.answers.items()}
        else:
            values = {name: np.concatenate(found) for name, found in case.answers.items()}
            truth = values[BEFORE if BEFORE in values else next(iter(values))] if values else np.empty(0)
            wrong = {n: int((~np.isclose(v, truth, rtol=_TOLERANCE)).sum()) for n, v in values.items()}
        if any(wrong[name] for name in ours):
            counts = {name: str(count) for name, count in wrong.items()}
            raise Inexact(verdict_table(self.case_title(case.labels), self.answers, counts))
        return {name: {"mismatches": count} for name, count in wrong.items()}

    def case_title(self, labels: dict[str, Any]) -> str:
        if labels["axis"] == "pixels":
            return f"{WORKS[labels['work']]}, {labels['value']} px"
        return f"pyramid_quantize, {AXES[labels['axis']]} = {labels['value']:,}"

    def ratio(self, rows: list[dict[str, Any]]) -> float | None:
        """torch's median over that of what "auto" picks."""
        medians = {row["contestant"]: row["median_ms"] for row in rows}
        return medians[BEFORE] / medians[OURS] if OURS in medians and BEFORE in medians else None

    def table(self, rows: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
        before = next((row["median_ms"] for row in rows if row["contestant"] == BEFORE), None)
        lines = [
            "| | median ms | p20 to p80 | torch / this | quantizer's share |",
            "|---|--:|--:|--:|--:|",
        ]
        for row in rows:
            speed = f"{before / row['median_ms']:.2f}" if before else "-"
            share = _share(row)
            if row["role"] == "yardstick":
                speed, share = "", None
            cells = report.contestant(row), report.times(row), speed, "" if share is None else f"{share:.0%}"
            lines.append(f"| {' | '.join(cells)} |")
        return lines

    def closing(self, results: dict[str, Any]) -> list[str]:
        lines = []
        if slopes := _slopes(results["rows"]):
            names = list(dict.fromkeys(name for _, name in slopes))
            lines += ["", "## Growth", "", "The slope of log time over log size, pyramid_quantize alone.", ""]
            lines += [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
            for axis in dict.fromkeys(axis for axis, _ in slopes):
                cells = (f"{slopes[axis, name]:.2f}" if (axis, name) in slopes else "-" for name in names)
                lines.append(f"| {AXES[axis]} | {' | '.join(cells)} |")
        if results["models"]:
            lines += ["", "## Models", "", f"Random weights, batches of {results['batch']}.", ""]
            lines += [f"- {size} px: {_config(config)}" for size, config in results["models"].items()]
        return lines

    def plot(self, results: dict[str, Any], file: Any) -> None:
        """Shares of the quantizer by image size above, growth along each axis below."""
        rows = results["rows"]
        works = [work for work in WORKS if any(row["work"] == work for row in rows)]
        axes = [axis for axis in AXES if any(row["axis"] == axis for row in rows)]
        halves = [(names, draw) for names, draw in ((works, _draw_shares), (axes, _draw_growth)) if names]
        width = 3.4 * max(len(works) * 4 // 3, len(axes), 1) + 0.6
        figure = report.new_figure(max(width, 7.5), 3.2 * len(halves) + 0.4)
        parts = figure.subfigures(len(halves), 1, squeeze=False)[:, 0]
        for part, (names, draw) in zip(parts, halves, strict=True):
            for axis, name in zip(part.subplots(1, len(names), squeeze=False)[0], names, strict=True):
                draw(axis, name, rows)
        figure.suptitle(textwrap.fill(_heading(results), 130 if width > 10 else 76), fontsize=11)
        figure.savefig(file, dpi=130)


def _heading(results: dict[str, Any]) -> str:
    """With the models' size, and the contestant's name where there is one."""
    parts = [report.heading(results)]
    configs = results["models"].values()
    sizes = {(config["channels"], config["num_res_blocks"]) for config in configs}
    for channels, blocks in sorted(sizes):
        parts.append(f"models of {channels} channels and {blocks} residual block{'s' if blocks > 1 else ''}")
    names = _contestants(results["rows"])
    return ", ".join(parts + names if len(names) == 1 else parts)


def _contestants(rows: list[dict[str, Any]]) -> list[str]:
    return [name for name in _STYLE if any(row["contestant"] == name for row in rows)]


def _wrong_ids(found: list[np.ndarray], case: Case, codes: np.ndarray) -> int:
    import torch

    from spae_ops import Pyramid, pyramid_quantize

    ids, z = found
    grids = case.parameters.get("grids") or model_config(case.parameters["image_size"], 1, 1)["grids"]
    table = torch.from_numpy(codes[: case.parameters.get("num_codes", len(codes)), : z.shape[1]])
    pyramid = Pyramid.square(z.shape[-1], tuple(grids))
    expected = pyramid_quantize(torch.from_numpy(z), table, pyramid, impl="torch").ids
    return int((ids != expected.numpy()).sum())


def _share(row: dict[str, Any]) -> float | None:
    """The quantizer's share: what the same work takes longer than without one, of the whole."""
    rest = row["yardstick_share"]
    return None if rest is None else 1 - rest


def _slopes(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    slopes = {}
    for axis in AXES:
        for name in dict.fromkeys(row["contestant"] for row in rows):
            points = _points(rows, axis, name)
            if len(points) > 1:
                slopes[axis, name] = report.slope(*np.array(points)[:, :2].T)
    return slopes


def _points(rows: list[dict[str, Any]], axis: str, name: str) -> list[tuple[float, float, float, float]]:
    """(value, median, p20, p80) in ascending order."""
    return sorted(
        (row["value"], row["median_ms"], row["p20_ms"], row["p80_ms"])
        for row in rows
        if row["axis"] == axis and row["contestant"] == name
    )


def _config(config: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in config.items() if key != "image_size")


def _draw_shares(axis: Any, work: str, rows: list[dict[str, Any]]) -> None:
    """Bars of the quantizer's share of one work, by image size. Shares below 0, where the work took less time
    with a quantizer than without, are noise: pale."""
    lowest = min((share for row in rows if (share := _share(row)) is not None), default=0.0)
    names = _contestants(rows)
    rows = [row for row in rows if row["work"] == work and row["role"] == "ours"]
    sizes = sorted({row["value"] for row in rows})
    width = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        shares = {row["value"]: _share(row) for row in rows if row["contestant"] == name}
        for place, size in enumerate(sizes):
            if (share := shares.get(size)) is None:
                continue
            x = place + (number - (len(names) - 1) / 2) * width
            bar = {"color": _STYLE[name], "alpha": 1 if share >= 0 else 0.35}
            axis.bar(x, 100 * share, width * 0.94, **bar, label=name if place == 0 else None)
            up = 1 if share >= 0 else -1
            label = {"xy": (x, 100 * share), "xytext": (0, 2 * up), "textcoords": "offset points"}
            align = {"ha": "center", "va": "bottom" if up > 0 else "top"}
            axis.annotate(f"{share:.0%}", **label, **align, fontsize=8, color="#333333")
    axis.set_xticks(range(len(sizes)), [f"{size} px" for size in sizes])
    axis.set_ylim(100 * lowest - 14 if lowest < 0 else 0, 119 if len(names) > 1 else 105)
    axis.set_yticks(range(0, 101, 25))
    axis.axhline(0, color="#444444", linewidth=0.8)
    axis.set_ylabel("quantizer's share, %", fontsize=9)
    axis.set_title(textwrap.fill(report.sentence(WORKS[work]), 44), loc="left", fontsize=10)
    if len(names) > 1:
        axis.legend(fontsize=8, frameon=False, loc="upper right", ncols=2)
    report.tidy(axis, "y")


def _draw_growth(axis: Any, name: str, rows: list[dict[str, Any]]) -> None:
    """Log-log medians along one axis, with slopes."""
    slopes = _slopes(rows)
    for contestant, colour in _STYLE.items():
        points = _points(rows, name, contestant)
        if not points:
            continue
        values, medians, low, high = np.array(points).T
        slope = slopes.get((name, contestant))
        label = contestant if slope is None else f"{contestant}, slope {slope:.2f}"
        axis.fill_between(values, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.plot(values, medians, "o-", color=colour, markersize=5, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    for formatter in (axis.xaxis, axis.yaxis):
        formatter.set_major_formatter("{x:,g}")
    axis.set_xticks(sorted({row["value"] for row in rows if row["axis"] == name}))
    axis.minorticks_off()
    axis.set_ylabel("ms, pyramid_quantize", fontsize=9)
    axis.set_title(f"Growth with {AXES[name]}", loc="left", fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
    report.tidy(axis, "both")
