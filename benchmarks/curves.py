"""Growth as curves: time and memory by size, log-log, a column of panels for each axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report

Rows = list[dict[str, Any]]
AXES = {"queries": "N", "codes": "K", "width": "D"}
_COLOURS = {"ours": "#1b6ca8", "peer": "#8a9299", "yardstick": "#444444"}  # in the order of legends
_MARKS = {"ours": "o", "peer": "s", "yardstick": "x"}
RESULT = 20  # bytes that our lookup returns of a query: id, squared distance, codes evaluated
_FLOOR = 2.0**-4  # MiB; less is drawn here, for nothing has no logarithm


def curves(rows: Rows) -> dict[tuple[str, str, int], Rows]:
    """Rows by axis, contestant and threads, in ascending order of the size."""
    found: dict[tuple[str, str, int], Rows] = {}
    for row in sorted(rows, key=lambda row: row["value"]):
        found.setdefault((row["axis"], row["contestant"], row["threads"]), []).append(row)

    def order(item: tuple[tuple[str, str, int], Rows]) -> tuple[int, int, int]:
        (axis, _, threads), of = item
        return list(AXES).index(axis), list(_COLOURS).index(of[0]["role"]), -threads

    return dict(sorted(found.items(), key=order))


def time_slope(rows: Rows) -> str:
    if len(rows) < 2:
        return "-"
    return f"{report.slope([row['value'] for row in rows], [row['median_ms'] for row in rows]):.2f}"


def axis_title(axis: str, results: dict[str, Any]) -> str:
    """What grows, and what is held: Growth with N; smollm2, K = 49,152, D = 576."""
    held = {"N": results["held_queries"], "K": results["num_codes"], "D": results["width"]}
    del held[AXES[axis]]
    sizes = [f"{name} = {value:,}" for name, value in held.items()]
    table = results["codebook"] if axis == "queries" else "random codes"
    return f"Growth with {AXES[axis]}; {', '.join([table, *sizes])}"


def draw(results: dict[str, Any], file: Path) -> None:
    """Times above with their slopes, and peaks of the extra memory below, without the yardstick's."""
    rows = results["rows"]
    axes = [axis for axis in AXES if any(row["axis"] == axis for row in rows)]
    figure = report.new_figure(5.2 * len(axes) + 0.4, 8.4)
    panels = figure.subplots(2, len(axes), squeeze=False)
    for column, name in enumerate(axes):
        own = {key[1:]: found for key, found in curves(rows).items() if key[0] == name}
        _times(panels[0, column], own)
        _memory(panels[1, column], own)
        panels[0, column].set_title(axis_title(name, results), loc="left", fontsize=10)
        panels[1, column].set_xlabel(f"{AXES[name]}, log scale", fontsize=9)
    panels[0, 0].set_ylabel("ms a call", fontsize=9)
    panels[1, 0].set_ylabel("MiB of extra memory, results included", fontsize=9)
    figure.suptitle(
        f"{report.heading(results)}, {results['host']['cpu']}, {report.load(results)}", fontsize=11
    )
    figure.savefig(file, dpi=130)


def _times(axis: Any, own: dict[tuple[str, int], Rows]) -> None:
    for (name, threads), rows in own.items():
        label = f"{_name(name, threads)}, slope {time_slope(rows)}"
        _line(axis, rows, threads, [row["median_ms"] for row in rows], label)
    _finish(axis, own)


def _memory(axis: Any, own: dict[tuple[str, int], Rows]) -> None:
    for (name, threads), rows in own.items():
        known = [row for row in rows if row["peak_extra_bytes"] is not None]
        if not known or rows[0]["role"] == "yardstick":
            continue
        peaks = [max(row["peak_extra_bytes"] / 2**20, _FLOOR) for row in known]
        label = f"{_name(name, threads)}, {report.digits(peaks[0])} to {report.digits(peaks[-1])} MiB"
        _line(axis, known, threads, peaks, label)
    sizes = {row["value"]: row for rows in own.values() for row in rows}
    for style, label, size in (
        ("--", "all distances, 4 N K bytes", lambda row: 4 * row["queries"] * row["num_codes"]),
        (":", f"our results, {RESULT} N bytes", lambda row: RESULT * row["queries"]),
    ):
        values = sorted(sizes)
        bytes_of = [max(size(sizes[value]) / 2**20, _FLOOR) for value in values]
        axis.plot(values, bytes_of, style, color="#b0413e", linewidth=1, label=label)
    _finish(axis, own)


def _name(name: str, threads: int) -> str:
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def _line(axis: Any, rows: Rows, threads: int, heights: list[float], label: str) -> None:
    role, many = rows[0]["role"], threads > 1
    style = {"color": _COLOURS[role], "linestyle": "-" if many else "--", "marker": _MARKS[role]}
    fill = _COLOURS[role] if many else "white"
    axis.plot(
        [row["value"] for row in rows], heights, **style, markersize=5, markerfacecolor=fill, label=label
    )


def _finish(axis: Any, own: dict[tuple[str, int], Rows]) -> None:
    values = sorted({row["value"] for rows in own.values() for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.set_xticks(values, [_short(value) for value in values])
    axis.minorticks_off()
    low, high = axis.get_ylim()
    lines = len(axis.get_legend_handles_labels()[1])
    axis.set_ylim(low, high * (high / low) ** (0.085 * lines))  # room for the legend
    axis.legend(fontsize=7.5, frameon=False, loc="upper left")
    report.tidy(axis, "both")


def _short(value: int) -> str:
    """64, 4k, 1M: thousands of 1,024."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if value >= unit:
            return f"{np.round(value / unit, 1):g}{letter}"
    return str(value)
