"""Results as a record (JSON), a table (Markdown) and a plot (PNG)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import host
from benchmarks.contest import Case, Setting
from benchmarks.registry import GEMM, Contestant

_COLOURS = {"ours": "#1b6ca8", "peer": "#8a9299"}


def rows_of(
    case: Case, codes: np.ndarray, entrants: Iterable[Contestant], wrong: dict[str, int], compared: int
) -> list[dict[str, Any]]:
    """One row per contestant that was timed, fastest first; times in milliseconds, memory in bytes."""
    kinds = {entrant.name: entrant.kind for entrant in entrants}
    medians = {name: float(np.median(samples)) for name, samples in case.samples.items()}
    work = 2 * case.queries * codes.shape[0] * codes.shape[1]
    gemm = medians.get(GEMM)
    rows = []
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        low, high = np.percentile(case.samples[name], [20, 80])
        rows.append(
            {
                "kind": case.kind,
                "queries": case.queries,
                "contestant": name,
                "role": kinds[name],
                "median_ms": median * 1e3,
                "p20_ms": float(low) * 1e3,
                "p80_ms": float(high) * 1e3,
                "samples": len(case.samples[name]),
                "gflops": work / median / 1e9,
                "gemm_share": None if gemm is None else gemm / median,
                "peak_extra_bytes": case.peaks.get(name),
                "mismatches": wrong.get(name),
                "compared": compared,
            }
        )
    return rows


def record(
    command: str,
    codebook: str,
    codes: np.ndarray,
    setting: Setting,
    contestants: list[dict[str, Any]],
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything a reader needs to judge the rows or to repeat them."""
    return {
        "question": "lookup",
        "command": host.scrubbed(command),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "host": host.host(setting.device),
        "versions": host.versions(),
        "codebook": codebook,
        "num_codes": codes.shape[0],
        "width": codes.shape[1],
        "device": setting.device,
        "dtype": setting.dtype,
        "threads": setting.threads,
        "rounds": setting.repeats,
        "contestants": contestants,
        "rows": rows,
    }


def grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Rows by (kind, queries), in order of first appearance."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["queries"]), []).append(row)
    return groups


def fastest(rows: list[dict[str, Any]], role: str) -> dict[str, Any] | None:
    return min((row for row in rows if row["role"] == role), key=lambda row: row["median_ms"], default=None)


def ratio(rows: list[dict[str, Any]]) -> float | None:
    """The fastest peer's median over that of our fastest, exact or not; None if either is missing."""
    ours, peer = fastest(rows, "ours"), fastest(rows, "peer")
    return peer["median_ms"] / ours["median_ms"] if ours and peer else None


def markdown(results: dict[str, Any]) -> str:
    machine = results["host"]
    gpu = "; ".join(f"{key} {value}" for key, value in (machine.get("gpu") or {}).items())
    lines = [
        f"# Lookup: {results['codebook']}, {results['num_codes']:,} x {results['width']} {results['dtype']}, "
        f"{results['device']}",
        "",
        f"    {results['command']}",
        "",
        f"{results['date']}. {machine['cpu']}, {machine['cores']} cores ({' '.join(machine['isa'])}), "
        f"{machine['memory_gib']} GiB, load {machine['load']}; {results['threads']} threads."
        + (f" GPU: {gpu}." if gpu else ""),
        ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        f"Medians of {results['rounds']} interleaved rounds, each contestant alone in its process. "
        "MiB is the peak of the extra memory, 4 N K the bytes of all distances in float32.",
    ]
    for (kind, queries), rows in grouped(results["rows"]).items():
        lines += ["", f"## {queries:,} {kind} queries", "", *_table(rows, results["num_codes"])]
    lines += ["", "## Preparation", "", "| | seconds | MiB kept |", "|---|--:|--:|"]
    lines += [
        f"| {row['name']} | {row['prepare_seconds']:.2f} | {_mebibytes(row['prepared_bytes'])} |"
        for row in results["contestants"]
        if "prepare_seconds" in row
    ]
    absent = [f"- {row['name']}: {row['absent']}" for row in results["contestants"] if "absent" in row]
    lines += ["", "Did not run:", "", *absent] if absent else []
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]], num_codes: int) -> list[str]:
    peer = fastest(rows, "peer")
    lines = [
        "| | median ms | p20 to p80 | fastest peer / this | of GEMM's rate | MiB | of 4 N K | wrong ids |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        times = f"{_digits(row['median_ms'])} | {_digits(row['p20_ms'])} to {_digits(row['p80_ms'])}"
        if row["role"] == "gemm":
            lines.append(f"| GEMM alone, {row['gflops']:,.0f} GFLOP/s | {times} | | 100% | | | |")
            continue
        name = f"**{row['contestant']}**" if row["role"] == "ours" else row["contestant"]
        speed = f"{peer['median_ms'] / row['median_ms']:.2f}" if peer else "-"
        share = "-" if row["gemm_share"] is None else f"{row['gemm_share']:.0%}"
        extra = row["peak_extra_bytes"]
        whole = "-" if extra is None else f"{extra / (4 * row['queries'] * num_codes):.1%}"
        wrong = f"{row['mismatches']} of {row['compared']}"
        lines.append(f"| {name} | {times} | {speed} | {share} | {_mebibytes(extra)} | {whole} | {wrong} |")
    return lines


def _digits(value: float) -> str:
    """Three significant digits, without an exponent: 6.33, 54.3, 1,490."""
    return f"{float(f'{value:.3g}'):,g}"


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:,.1f}"


def plot(results: dict[str, Any], file: Path) -> None:
    """A panel per set of queries: medians as dots, p20 to p80 as lines, the GEMM dashed; log scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = grouped(results["rows"])
    kinds = list(dict.fromkeys(kind for kind, _ in groups))
    counts = list(dict.fromkeys(queries for _, queries in groups))
    height = max(len(rows) for rows in groups.values())
    figure = Figure(
        figsize=(4.6 * len(counts), (0.34 * height + 0.9) * len(kinds) + 0.5), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(kinds), len(counts), squeeze=False)
    for i, kind in enumerate(kinds):
        for j, queries in enumerate(counts):
            _panel(axes[i, j], groups[kind, queries])
            axes[i, j].set_title(f"{queries:,} {kind} queries", loc="left", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("ms for all queries, log scale", fontsize=9)
    figure.suptitle(
        f"{results['codebook']}, {results['num_codes']:,} x {results['width']} {results['dtype']}, "
        f"{results['device']}: ours in blue, a GEMM of the same shape dashed",
        fontsize=11,
    )
    figure.savefig(file, dpi=130)


def _panel(axis: Any, rows: list[dict[str, Any]]) -> None:
    lookups = [row for row in reversed(rows) if row["role"] != "gemm"]
    for place, row in enumerate(lookups):
        colour = _COLOURS[row["role"]]
        axis.plot([row["p20_ms"], row["p80_ms"]], [place, place], color=colour, linewidth=2, alpha=0.5)
        axis.plot(row["median_ms"], place, "o", color=colour, markersize=6)
        label = _digits(row["median_ms"]) + (f" ({row['mismatches']} wrong)" if row["mismatches"] else "")
        place_of_text = {"xy": (row["p80_ms"], place), "xytext": (6, 0), "textcoords": "offset points"}
        axis.annotate(label, **place_of_text, va="center", fontsize=8, color="#333333")
    gemm = [row["median_ms"] for row in rows if row["role"] == "gemm"]
    for median in gemm:
        axis.axvline(median, color="#444444", linestyle="--", linewidth=1)
    low = min([row["p20_ms"] for row in lookups] + gemm)
    high = max(row["p80_ms"] for row in lookups)
    axis.set_xscale("log")
    axis.set_xlim(low / 1.5, high * (high / low) ** 0.25 * 1.5)  # room for the labels on the right
    axis.set_yticks(range(len(lookups)), [row["contestant"] for row in lookups])
    axis.set_ylim(-0.6, len(lookups) - 0.4)
    axis.tick_params(labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)


def write(results: dict[str, Any], prefix: Path) -> list[Path]:
    """Writes PREFIX.json, PREFIX.md and, where matplotlib is installed, PREFIX.png; returns what it wrote."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    files = [Path(f"{prefix}{ending}") for ending in (".json", ".md", ".png")]
    files[0].write_text(json.dumps(results, indent=1) + "\n")
    files[1].write_text(markdown(results))
    try:
        plot(results, files[2])
    except ImportError:
        return files[:2]
    return files
