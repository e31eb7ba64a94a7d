"""How long does the exact nearest-code lookup take, next to what else there is?"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import inputs, report
from benchmarks.contest import Case
from benchmarks.exactness import count_mismatches
from benchmarks.question import Inexact, Question, positive, verdict_table


class Lookup(Question):
    name = "lookup"
    about = (__doc__ or "").splitlines()[0]
    labels = ("kind", "queries")
    note = f"{Question.note} {report.INEXACT}"

    def add_arguments(self, add: Callable[..., Any]) -> None:
        add("--queries", type=positive, nargs="+", default=[64, 597, 4776], metavar="N")
        add("--kind", nargs="+", choices=inputs.KINDS, default=["random"], help="where the queries come from")

    def cases(self, arguments: argparse.Namespace, codes: np.ndarray) -> Iterator[Case]:
        for kind, count in itertools.product(arguments.kind, arguments.queries):
            x = inputs.make_queries(kind, count, codes, arguments.codebook)
            labels = {"kind": kind, "queries": count}
            work = 2.0 * count * codes.shape[0] * codes.shape[1]
            yield Case(labels, [inputs.rounded(x, arguments.dtype)], work=work)

    def judge(self, case: Case, codes: np.ndarray, ours: list[str]) -> dict[str, dict[str, Any]]:
        answers = {name: found[0].astype(np.int64) for name, found in case.answers.items()}
        wrong, compared = count_mismatches(case.inputs[0], codes, answers, next(iter(ours), None))
        if any(wrong[name] for name in ours):
            counts = {name: f"{count} of {compared}" for name, count in wrong.items()}
            raise Inexact(verdict_table(self.case_title(case.labels), "ids", counts))
        return {name: {"mismatches": count, "compared": compared} for name, count in wrong.items()}

    def case_title(self, labels: dict[str, Any]) -> str:
        return f"{labels['queries']:,} {labels['kind']} queries"

    def table(self, rows: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
        peer = report.fastest(rows, "peer")
        lines = [
            "| | median ms | p20 to p80 | fastest peer / this | of GEMM | MiB | of 4 N K | wrong ids |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in rows:
            speed = f"{peer['median_ms'] / row['median_ms']:.2f}" if peer else "-"
            if row["role"] == "yardstick":
                share = f"{row['yardstick_share']:.0%}"
                lines.append(
                    f"| {report.limit(row)} | {report.times(row)} | {speed} | {share} | | | no ids |"
                )
                continue
            share = "-" if row["yardstick_share"] is None else f"{row['yardstick_share']:.0%}"
            memory = report.memory(row, 4 * row["queries"] * results["num_codes"])
            wrong = f"{row['mismatches']} of {row['compared']}"
            if row["role"] == "inexact":
                wrong += f" ({row['mismatches'] / row['compared']:.1%})"
            lines.append(
                f"| {report.contestant(row)} | {report.times(row)} | {speed} | {share} | {memory} | {wrong} |"
            )
        return lines
