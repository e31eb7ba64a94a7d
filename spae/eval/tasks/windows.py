"""How many words should a language model restore at once, and how many should it see before them? Every n
and m of V2L's denoising (its figure 11)."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from spae.eval.restoration import Lab, restoration_options
from spae.eval.run import Measured, Run
from spae.eval.table import markdown, shown
from spae.eval.tasks import denoise
from spae.eval.tasks.denoise import Denoising, restore

ABOUT = "Masked images restored with every length of the condition (n) and every step (m), as V2L studies."
USES_LLM = True
_MODEL, _LIMITS = "language model", ("majority", "degraded", "own words")


@dataclass(frozen=True)
class WindowStudy:
    """Every n of `windows` with every m of `steps`, each with the same images and examples.

    denoising: what is restored, by the scheme "windows"; its own window and stride do not count.
    """

    windows: tuple[int, ...] = (4, 8, 16, 32)
    steps: tuple[int, ...] = (1, 2, 4, 8)
    denoising: Denoising = field(default_factory=lambda: Denoising(tasks=("inpainting",)))

    def __post_init__(self) -> None:
        for name, least in (("windows", 0), ("steps", 1)):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values) or min(values) < least:
                raise ValueError(f"{name}: expected numbers from {least}, each once, got {values}")
        if self.denoising.scheme != "windows":
            raise ValueError(f"scheme: expected 'windows', got {self.denoising.scheme!r}")


def add(parser: argparse.ArgumentParser) -> None:
    default = WindowStudy()
    for name, what in (("windows", "words before those predicted, n"), ("steps", "words predicted, m")):
        values = getattr(default, name)
        parser.add_argument(
            f"--{name}",
            nargs="+",
            type=int,
            default=list(values),
            help=f"{what} (default: {' '.join(map(str, values))})",
        )
    denoise.add(parser)
    parser.set_defaults(tasks=list(default.denoising.tasks))


def settings(arguments: argparse.Namespace) -> WindowStudy:
    for name, other in (("window", "windows"), ("stride", "steps"), ("scheme", "")):
        value, default = getattr(arguments, name), getattr(Denoising, name)
        if value != default:
            use = f", for --{other} has them" if other else ""
            raise ValueError(f"{name}: expected the default, {default}{use}, got {value}")
    chosen = Denoising(tasks=tuple(arguments.tasks), **restoration_options(arguments))
    return WindowStudy(tuple(arguments.windows), tuple(arguments.steps), chosen)


def measure(run: Run) -> Measured:
    """A row for each task, n and m, and for what needs no language model: "majority", "degraded" and "own
    words" (`spae eval denoise` says what they are).

    What is finished is kept in `segments.jsonl`. There is no page.
    """
    study: WindowStudy = run.settings
    lab = Lab(replace(run, settings=study.denoising))
    rows: list[dict[str, Any]] = []
    for task in study.denoising.tasks:
        limits: dict[str, Any] = {}
        for before in study.windows:
            for step in study.steps:
                lab.chosen = replace(study.denoising, window=before, stride=step)
                limits = restore(lab, task, (_MODEL,))
                found = lab.rows(task, {_MODEL: limits.pop(_MODEL)})
                rows += [{"n": before, "m": step, **row} for row in found]
        rows += lab.rows(task, {name: limits[name] for name in _LIMITS})
    study_run = {**asdict(study.denoising), "windows": list(study.windows), "steps": list(study.steps)}
    return Measured({"run": study_run, "rows": rows})


def table(report: dict[str, Any]) -> str:
    """Means over images with 95% intervals."""
    columns = [name for name in _COLUMNS if any(name in row for row in report["rows"])]
    rows = [
        [row["task"], row["method"], str(row.get("n", "")), str(row.get("m", ""))]
        + [shown(row[name]) if name in row else "" for name in columns]
        for row in report["rows"]
    ]
    run = report["run"]
    note = (
        f"{report['llm']}, {run['images']} {run['data']}, m words at a time from the n before, seed "
        f"{run['seed']}; means over images with 95% intervals."
    )
    return markdown(["task", "method", "n", "m", *(_COLUMNS[name] for name in columns)], rows, note)


_COLUMNS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "words": "share of the original's words"}
