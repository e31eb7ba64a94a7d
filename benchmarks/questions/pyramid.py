"""What does a pyramid of dependent lookups cost, next to one flat lookup of as many queries?"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import inputs, report
from benchmarks.contest import Case
from benchmarks.question import Inexact, Question, positive, verdict_table

GRIDS = (1, 2, 4, 8, 16, 16)


class PyramidQuestion(Question):
    name = "pyramid"
    about = (__doc__ or "").splitlines()[0]
    labels = ("kind", "rule", "batch")
    dtypes = ("float32",)  # the queries of a pyramid are float32 whatever its latents are

    def add_arguments(self, add: Callable[..., Any]) -> None:
        add("--batch", type=positive, nargs="+", default=[1, 8], metavar="B", help="images")
        add("--kind", nargs="+", choices=inputs.KINDS, default=["random"], help="where the latents come from")
        add("--rules", nargs="+", choices=("saq", "rq"), default=["saq", "rq"])
        add(
            "--grids",
            type=positive,
            nargs="+",
            default=list(GRIDS),
            help="of layers; the last is the latents'",
        )

    def cases(self, arguments: argparse.Namespace, codes: np.ndarray) -> Iterator[Case]:
        import torch

        from spae_ops import Pyramid, layer_queries, pyramid_quantize

        side = max(arguments.grids)
        pyramid, table = Pyramid.square(side, tuple(arguments.grids)), torch.from_numpy(codes)
        for kind, rule, batch in itertools.product(arguments.kind, arguments.rules, arguments.batch):
            rows = inputs.make_queries(kind, batch * side * side, codes, arguments.codebook)
            z = rows.reshape(batch, side, side, -1).transpose(0, 3, 1, 2).copy()
            latents = torch.from_numpy(z)
            expected = pyramid_quantize(latents, table, pyramid, rule=rule, impl="torch").ids
            layers = [
                layer_queries(latents, expected, table, pyramid, layer, rule=rule)
                for layer in range(pyramid.num_layers)
            ]
            yield Case(
                {"kind": kind, "rule": rule, "batch": batch},
                [z, torch.cat(layers, 1).numpy()],
                {"grids": arguments.grids, "rule": rule},
                work=2.0 * expected.numel() * codes.size,
                truth=expected.numpy(),
            )

    def judge(self, case: Case, codes: np.ndarray, ours: list[str]) -> dict[str, dict[str, Any]]:
        """Against the reference, layer by layer, which the tests judge by the oracle."""
        expected = case.truth
        wrong = {name: int((found[0] != expected).sum()) for name, found in case.answers.items()}
        if any(wrong[name] for name in ours):
            counts = {name: f"{count} of {expected.size}" for name, count in wrong.items()}
            raise Inexact(verdict_table(self.case_title(case.labels), "ids", counts))
        verdict = {"compared": expected.size, "queries": expected.size}
        return {name: {"mismatches": count, **verdict} for name, count in wrong.items()}

    def case_title(self, labels: dict[str, Any]) -> str:
        images = "image" if labels["batch"] == 1 else "images"
        return f"{labels['rule'].upper()}, {labels['batch']} {images} of {labels['kind']} latents"

    def panel(self, labels: dict[str, Any]) -> tuple[Any, Any]:
        return (labels["kind"], labels["rule"]), labels["batch"]

    def ratio(self, rows: list[dict[str, Any]]) -> float | None:
        """The flat lookup's median over the pyramid's, both of our fastest implementation."""
        ours = report.fastest(rows, "ours")
        return ours["yardstick_share"] if ours else None

    def table(self, rows: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
        lines = [
            "| | median ms | p20 to p80 | pyramid / flat | GFLOP/s | MiB | of 4 N K | wrong ids |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in rows:
            cells = [report.contestant(row), report.times(row)]
            if row["role"] == "yardstick":
                cells += ["", f"{row['gflops']:,.0f}", "", "", ""]
            else:
                share = row["yardstick_share"]
                cells += [
                    "-" if share is None else f"{1 / share:.2f}",
                    f"{row['gflops']:,.0f}",
                    report.memory(row, 4 * row["queries"] * results["num_codes"]),
                    f"{row['mismatches']} of {row['compared']}",
                ]
            lines.append(f"| {' | '.join(cells)} |")
        return lines
