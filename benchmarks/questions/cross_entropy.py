"""How long do the distance cross-entropy and its gradient take, next to what else there is?"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import inputs, report
from benchmarks.contest import Case
from benchmarks.exactness import loss_and_gradient
from benchmarks.question import Inexact, Question, positive, verdict_table

PASSES = {"forward": False, "forward+backward": True}
# What an error may be, of a loss to 1 + loss, of a gradient to the largest of the sample: a few roundings in
# the dtype, in which peers also accumulate.
TOLERANCE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}


class CrossEntropy(Question):
    name = "cross-entropy"
    about = (__doc__ or "").splitlines()[0]
    labels = ("kind", "temperature", "queries", "passes")
    answers = "losses and gradients"

    def add_arguments(self, add: Callable[..., Any]) -> None:
        add("--queries", type=positive, nargs="+", default=[341, 2728], metavar="N")
        add("--kind", nargs="+", choices=inputs.KINDS, default=["random", "near-code"], help="of queries")
        add("--temperatures", type=_temperature, nargs="+", default=[1.0], metavar="T")
        add("--passes", nargs="+", choices=PASSES, default=list(PASSES))

    def cases(self, arguments: argparse.Namespace, codes: np.ndarray) -> Iterator[Case]:
        order = arguments.kind, arguments.temperatures, arguments.queries
        for kind, temperature, count in itertools.product(*order):
            x = inputs.rounded(inputs.make_queries(kind, count, codes, arguments.codebook), arguments.dtype)
            # Targets like the semantic loss's: any code, not the nearest.
            target = np.random.default_rng([inputs.SEED, count]).integers(len(codes), size=count)
            for passes in arguments.passes:
                yield Case(
                    {"kind": kind, "temperature": temperature, "queries": count, "passes": passes},
                    [x, target],
                    {"temperature": temperature, "gradient": PASSES[passes]},
                    work=(4.0 if PASSES[passes] else 2.0) * count * codes.size,
                    truth=arguments.dtype,
                )

    def judge(self, case: Case, codes: np.ndarray, ours: list[str]) -> dict[str, dict[str, Any]]:
        x, target = case.inputs
        rows, loss, gradient = loss_and_gradient(x, codes, target, case.labels["temperature"])
        tolerance = TOLERANCE[case.truth]
        # A score is a difference of squares of this size: what a few roundings of it change is no error.
        squares = np.square(x[rows].astype(float)).sum(1) + np.square(codes.astype(float)).sum(1).max()
        rounding = 2.0**-21 * squares / case.labels["temperature"]
        verdicts: dict[str, dict[str, Any]] = {}
        for name, found in case.answers.items():
            errors = np.abs(found[0][rows] - loss)
            wrong = ~(errors <= tolerance * (1 + loss) + rounding)
            verdict: dict[str, Any] = {"loss_error": float(errors.max())}
            if case.parameters["gradient"]:
                scale = max(np.linalg.norm(gradient, axis=1).max(), 1e-30)
                off = np.linalg.norm(found[1][rows] - gradient, axis=1) / scale
                verdict["gradient_error"] = float(off.max())
                wrong |= ~(off <= tolerance + rounding)
            verdicts[name] = {**verdict, "mismatches": int(wrong.sum()), "compared": len(rows)}
        if any(verdicts[name]["mismatches"] for name in ours):
            counts = {n: f"{v['mismatches']} of {v['compared']}" for n, v in verdicts.items()}
            raise Inexact(verdict_table(self.case_title(case.labels), self.answers, counts))
        return verdicts

    def case_title(self, labels: dict[str, Any]) -> str:
        return (
            f"{labels['passes']}, {labels['queries']:,} {labels['kind']} queries, "
            f"temperature {labels['temperature']:g}"
        )

    def panel(self, labels: dict[str, Any]) -> tuple[Any, Any]:
        return (labels["kind"], labels["temperature"]), (labels["queries"], labels["passes"])

    def table(self, rows: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
        peer = report.fastest(rows, "peer")
        lines = [
            "| | median ms | p20 to p80 | fastest peer / this | GFLOP/s | MiB | of 4 N K "
            "| largest error: loss | gradient, relative | wrong |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in rows:
            speed = f"{peer['median_ms'] / row['median_ms']:.2f}" if peer else "-"
            if row["role"] == "yardstick":
                lines.append(f"| {report.limit(row)} | {report.times(row)} | {speed} | | | | no loss | | |")
                continue
            cells = [
                report.contestant(row),
                report.times(row),
                speed,
                f"{row['gflops']:,.0f}",
                report.memory(row, 4 * row["queries"] * results["num_codes"]),
                f"{row['loss_error']:.1e}",
                f"{row['gradient_error']:.1e}" if "gradient_error" in row else "-",
                f"{row['mismatches']} of {row['compared']}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return lines


def _temperature(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive finite number, got {text}")
    return value
