"""Results as a record (JSON), a table (Markdown) and a plot (PNG)."""

from __future__ import annotations

import datetime
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from benchmarks import host
from benchmarks.contest import Case, Setting
from benchmarks.contestants import Contestant

Rows = list[dict[str, Any]]
INEXACT = "Those in italics round the values further; the fastest peer is the fastest that does not."
IDLE = 0.5  # load average of the last minute
_COLOURS = {"ours": "#1b6ca8", "peer": "#8a9299", "inexact": "#c08a3e"}


class Reading(Protocol):
    """How a question wants its results read; see `benchmarks.question.Question`."""

    name: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]
    note: ClassVar[str]
    rounds: ClassVar[str]

    def sections(self, results: dict[str, Any]) -> list[tuple[str, list[str]]]: ...

    def case_title(self, labels: dict[str, Any]) -> str: ...

    def panel(self, labels: dict[str, Any]) -> tuple[Any, Any]: ...

    def ratio(self, rows: Rows) -> float | None: ...

    def plot(self, results: dict[str, Any], file: Path) -> None: ...

    def closing(self, results: dict[str, Any]) -> list[str]: ...


def rows_of(case: Case, contestants: Iterable[Contestant], verdicts: dict[str, dict[str, Any]]) -> Rows:
    """One row per contestant that was timed, fastest first; times in milliseconds, memory in bytes."""
    known = {contestant.name: contestant for contestant in contestants}
    medians = {name: float(np.median(samples)) for name, samples in case.samples.items()}
    only = next((name for name in medians if known[name].kind == "yardstick"), None)
    rows: Rows = []
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        low, high = np.percentile(case.samples[name], [20, 80])
        yardstick = medians.get(known[name].yardstick or only or "")
        rows.append(
            {
                **case.labels,
                "contestant": name,
                "role": known[name].kind,
                "median_ms": median * 1e3,
                "p20_ms": float(low) * 1e3,
                "p80_ms": float(high) * 1e3,
                "samples": len(case.samples[name]),
                **({} if case.work is None else {"gflops": case.work / median / 1e9}),
                "yardstick_share": None if yardstick is None else yardstick / median,
                "peak_extra_bytes": case.peaks.get(name),
                **verdicts.get(name, {}),
            }
        )
    return rows


def record(
    question: Reading,
    command: str,
    facts: dict[str, Any],
    setting: Setting,
    contestants: Rows,
    rows: Rows,
) -> dict[str, Any]:
    """Everything a reader needs to judge the rows or to repeat them."""
    return {
        "question": question.name,
        "command": host.scrubbed(command),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "host": host.host(setting.device),
        "versions": host.versions(),
        **facts,
        "device": setting.device,
        "instructions": host.instructions() if setting.device == "cpu" else None,
        "dtype": setting.dtype,
        "threads": setting.threads,
        "rounds": setting.repeats,
        "contestants": contestants,
        "rows": rows,
    }


def grouped(question: Reading, rows: Rows) -> list[tuple[dict[str, Any], Rows]]:
    """The cases' labels with their rows, in order of first appearance."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in question.labels), []).append(row)
    return [(dict(zip(question.labels, key, strict=True)), group) for key, group in groups.items()]


def fastest(rows: Rows, role: str) -> dict[str, Any] | None:
    return min((row for row in rows if row["role"] == role), key=lambda row: row["median_ms"], default=None)


def ratio(rows: Rows) -> float | None:
    """The fastest peer's median over that of our fastest, exact or not; None if either is missing."""
    ours, peer = fastest(rows, "ours"), fastest(rows, "peer")
    return peer["median_ms"] / ours["median_ms"] if ours and peer else None


def slope(values: Iterable[float], times: Iterable[float]) -> float:
    """Of the logarithms: 1 where time grows as the value does."""
    return float(np.polyfit(np.log(list(values)), np.log(list(times)), 1)[0])


def heading(results: dict[str, Any]) -> str:
    name = results["question"].capitalize()
    size = f"{results['num_codes']:,} x {results['width']} {results['dtype']}"
    return f"{name}: {results['codebook']}, {size}, {results['device']}"


def markdown(question: Reading, results: dict[str, Any]) -> str:
    machine = results["host"]
    gpu = "; ".join(f"{key} {value}" for key, value in (machine.get("gpu") or {}).items())
    lines = [
        f"# {heading(results)}",
        "",
        f"    {results['command']}",
        "",
        f"{results['date']}. {machine['cpu']}, {machine['cores']} cores ({' '.join(machine['isa'])}), "
        f"{machine['memory_gib']} GiB, {load(results)}; {results['threads']} threads"
        + (f", ours by {results['instructions']}." if results.get("instructions") else ".")
        + (f" GPU: {gpu}." if gpu else ""),
        ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        f"{question.rounds.format(results['rounds'])}, each contestant alone in its process. "
        + question.note,
    ]
    for title, section in question.sections(results):
        lines += ["", f"## {sentence(title)}", "", *section]
    lines += question.closing(results)
    prepared = [
        f"| {row['name']} | {row['prepare_seconds']:.2f} | {mebibytes(row['prepared_bytes'])} |"
        for row in results["contestants"]
        if "prepare_seconds" in row
    ]
    if prepared:
        lines += ["", "## Preparation", "", "| | seconds | MiB kept |", "|---|--:|--:|", *prepared]
    absent = [f"- {row['name']}: {row['absent']}" for row in results["contestants"] if "absent" in row]
    lines += ["", "Did not run:", "", *absent] if absent else []
    return "\n".join(lines) + "\n"


def load(results: dict[str, Any]) -> str:
    """The machine's load, and whether others were at work before the run began."""
    after, before = results["host"]["load"], results.get("load_before")
    if before is None:
        return f"load {after}"
    if results.get("busy"):
        return f"busy: {results['busy']} cores kept so (load {after} after the run)"
    return f"{'idle' if before < IDLE else 'busy'} (load {before} before the run, {after} after it)"


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def contestant(row: dict[str, Any]) -> str:
    styles = {"ours": "**{}**", "inexact": "*{}*"}
    return styles.get(row["role"], "{}").format(row["contestant"])


def limit(row: dict[str, Any]) -> str:
    """A yardstick's first cell."""
    return f"limit: {row['contestant']} alone, {row['gflops']:,.0f} GFLOP/s"


def times(row: dict[str, Any]) -> str:
    """Two cells: the median, and the 20th to the 80th percentile."""
    return f"{digits(row['median_ms'])} | {digits(row['p20_ms'])} to {digits(row['p80_ms'])}"


def memory(row: dict[str, Any], whole: int) -> str:
    """Two cells: MiB, and the share of `whole` bytes."""
    extra = row["peak_extra_bytes"]
    return f"{mebibytes(extra)} | {'-' if extra is None else f'{extra / whole:.1%}'}"


def digits(value: float) -> str:
    """Three significant digits, without an exponent: 6.33, 54.3, 1,490."""
    return f"{float(f'{value:.3g}'):,g}"


def mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:,.1f}"


def plot_panels(question: Reading, results: dict[str, Any], file: Path) -> None:
    """A panel per case: medians as dots, p20 to p80 as lines, the yardstick dashed; log scale."""
    groups = {question.panel(labels): (labels, rows) for labels, rows in grouped(question, results["rows"])}
    lines = list(dict.fromkeys(line for line, _ in groups))
    columns = list(dict.fromkeys(column for _, column in groups))
    height = max(len(rows) for _, rows in groups.values())
    figure = new_figure(4.6 * len(columns), (0.34 * height + 0.9) * len(lines) + 0.5)
    axes = figure.subplots(len(lines), len(columns), squeeze=False)
    for i, line in enumerate(lines):
        for j, column in enumerate(columns):
            if (line, column) not in groups:
                axes[i, j].set_axis_off()
                continue
            labels, rows = groups[line, column]
            _panel(axes[i, j], rows)
            title = sentence(question.case_title(labels))
            axes[i, j].set_title(textwrap.fill(title, 32), loc="left", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("ms a call, log scale", fontsize=9)
    yardstick = _dashed(results["rows"])
    dashed = f", {yardstick.split(', ')[-1]} dashed" if yardstick else ""
    inexact = any(row["role"] == "inexact" for row in results["rows"])
    colours = "ours in blue" + ", inexact in ochre" * inexact
    figure.suptitle(f"{heading(results)}: {colours}{dashed}", fontsize=11)
    figure.savefig(file, dpi=130)


def _dashed(rows: Rows) -> str | None:
    """The yardstick that answers are measured against; of several, the one that their shares are of."""
    timed = {row["median_ms"]: row["contestant"] for row in rows if row["role"] == "yardstick"}
    of = [row["yardstick_share"] * row["median_ms"] for row in rows if row["yardstick_share"] is not None]
    near = {min(timed, key=lambda median: abs(median - at)) for at in of[:1] if timed}
    return timed[near.pop()] if near else next(iter(timed.values()), None)


def new_figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axis: Any, grid: str = "x") -> None:
    axis.tick_params(labelsize=8)
    axis.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _panel(axis: Any, rows: Rows) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    answers = [row for row in reversed(rows) if row["role"] != "yardstick"]
    for place, row in enumerate(answers):
        colour = _COLOURS[row["role"]]
        axis.plot([row["p20_ms"], row["p80_ms"]], [place, place], color=colour, linewidth=2, alpha=0.5)
        axis.plot(row["median_ms"], place, "o", color=colour, markersize=6)
        label = digits(row["median_ms"]) + (f" ({row['mismatches']} wrong)" if row.get("mismatches") else "")
        place_of_text = {"xy": (row["p80_ms"], place), "xytext": (6, 0), "textcoords": "offset points"}
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # over the dashed line
        axis.annotate(label, **place_of_text, va="center", fontsize=8, color="#333333", bbox=paper)
    yardstick = [row["median_ms"] for row in rows if row["role"] == "yardstick"]
    own = [
        None if row["yardstick_share"] is None else row["yardstick_share"] * row["median_ms"]
        for row in answers
    ]
    dashes = {"color": "#444444", "linestyle": "--", "linewidth": 1}
    if own and own[0] is not None and np.allclose([x or np.nan for x in own], own[0], rtol=1e-6):
        axis.axvline(own[0], **dashes)
    else:
        for place, at in enumerate(own):
            if at is not None:
                axis.plot([at, at], [place - 0.3, place + 0.3], **dashes)
    low = min([row["p20_ms"] for row in answers] + yardstick)
    high = max(row["p80_ms"] for row in answers)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(low / 1.5, high * (high / low) ** 0.25 * 1.5)  # room for the labels on the right
    axis.set_yticks(range(len(answers)), [row["contestant"] for row in answers])
    axis.set_ylim(-0.6, len(answers) - 0.4)
    tidy(axis)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def write(question: Reading, results: dict[str, Any], prefix: Path) -> list[Path]:
    """Writes PREFIX.json, PREFIX.md and, where matplotlib is installed, PREFIX.png; returns what it wrote."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    files = [Path(f"{prefix}{ending}") for ending in (".json", ".md", ".png")]
    files[0].write_text(json.dumps(results, indent=1) + "\n")
    files[1].write_text(markdown(question, results))
    try:
        question.plot(results, files[2])
    except ImportError:
        return files[:2]
    return files
