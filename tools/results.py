"""`make results`: RESULTS.md and its plots, from the committed JSON and nothing else.

Every report below `results/` and `benchmarks/results/` and of the bundled models is found; a new one comes
into the section of its evaluation by itself. Published figures are those of `results/published.json` and
stand in columns of their own.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.report import ratio
from spae.eval.frozen import frozen_table
from spae.eval.phrases import phrases_table
from spae.eval.reconstruction import quality_curves
from spae.eval.run import find, table_of, tasks
from spae.eval.table import markdown
from spae.eval.tuning import tuning_table
from spae.figures import Curve, curves

ROOT = Path(__file__).resolve().parents[1]
PLOTS = Path("results/plots")
LABELS = {
    "lookup": ("kind", "queries"),
    "cross-entropy": ("kind", "temperature", "queries", "passes"),
    "pyramid": ("kind", "rule", "batch"),
    "quantizer": ("work", "axis", "value"),
    "growth": ("axis", "value", "threads"),
}
# Reports of other commands than `spae eval`, by their file's name: the command, and their table.
OTHERS = {
    "tuning": ("spae tune", tuning_table),
    "frozen": ("spae tune frozen", frozen_table),
    "phrases": ("spae expand --compare SPLIT", phrases_table),
}
PUBLISHED = json.loads((ROOT / "results/published.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Result:
    """A committed report. name: of its folder or model. task: whose it is."""

    name: str
    task: str
    report: dict[str, Any]

    @property
    def of_models(self) -> dict[str, dict[str, Any]]:
        """The reports by model: of several on one page, each's; else the one that the command names."""
        return self.report.get("models", {_model(self.report): self.report})


def results() -> list[Result]:
    """All reports of evaluations, sorted by name."""
    found = []
    for file in sorted((ROOT / "results").glob("*/*.json")):
        if file.stem in tasks() or file.stem in OTHERS:
            found.append(Result(file.parent.name, file.stem, _read(file)))
    for file in sorted((ROOT / "spae/bundled").glob("*/report.json")):
        report = _read(file)
        if "image_size" not in report:  # not in reports of before
            report["image_size"] = _read(file.parent / "config.json")["config"]["image_size"]
        kind = "semantics" if "splits" in report else "reconstruction"
        if "accuracy_originals" in report:
            kind = "digits"
        command = report.get("command", f"spae eval {kind} --model {file.parent.name} --json")
        found.append(Result(f"bundled {file.parent.name}", kind, {**report, "command": command}))
    return found


def text(found: list[Result]) -> str:
    """RESULTS.md."""
    parts = [_INTRODUCTION]
    for title, names, about, extra in _SECTIONS:
        mine = [result for result in found if result.task in names]
        lines = [f"## {title}", about]
        if names and not mine:
            made = (OTHERS[name][0] if name in OTHERS else f"spae eval {name}" for name in names)
            commands = " or ".join(f"`{command}`" for command in made)
            lines.append(f"No run is committed yet; {commands} makes one.")
        lines += [*extra(mine), *(_shown(result) for result in mine)]
        parts.append("\n\n".join(line for line in lines if line))
    return "\n\n".join(parts) + "\n"


def draw(found: list[Result], folder: Path) -> None:
    """The plots that the text shows."""
    for name, panels, x in _figures(found):
        curves(panels, folder / f"{name}.png", x=x)
    # Pages of several models have plots of their own; all in one would be a tangle.
    alone = _reconstructions([result for result in found if "models" not in result.report])
    if alone:
        quality_curves(alone, folder / "reconstruction.png")


def fewshot(mine: list[Result]) -> Iterator[str]:
    own: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in mine:
        for model, report in result.of_models.items():
            for row in report["rows"]:
                if "ways" in row and "exact" in row:
                    # Earlier reports are of all items.
                    data = row["data"] + (f", split {row['split']}" if row.get("split") else "")
                    key = f"**{model}** (ours)", data, report["llm"], str(row["words"])
                    own.setdefault(key, []).append(row)
    rows = [
        [*key, *(_averaged([row for row in of if row["ways"] == ways]) for ways in (2, 5)), "", ""]
        for key, of in own.items()
    ]
    for row in PUBLISHED["fewshot"]["rows"]:
        figures = [f"{row[ways] / 100:.3f}" for ways in ("2", "5")]
        rows.append([row["system"], "mini-ImageNet", row["llm"], row["words"], "", "", *figures])
    header = ["system", "data", "language model", "words", "2-way, ours", "5-way, ours"]
    note = (
        "Ours: all tokens of the name right, the mean of the settings below, and the least and most of them. "
        f"{_published('fewshot')}"
    )
    yield markdown([*header, "2-way, published", "5-way, published"], rows, note)
    yield from _pictures(mine, "fewshot", "layers")


def reconstruction(mine: list[Result]) -> Iterator[str]:
    rows = []
    for name, report in _reconstructions(mine).items():
        last = report["layers"][-1]
        words = sum(row["words_per_image"] for row in report["layers"])
        size = "x".join(map(str, report["image_size"]))
        lpips = f"{last['lpips']:.3f}" if "lpips" in last else ""
        if lpips and report["lpips_net"] != "vgg":
            lpips += f" ({report['lpips_net']})"
        ours = [f"{last['psnr']:.2f}", lpips, f"{last['frechet']:.1f}" if "frechet" in last else ""]
        rows.append(
            [f"**{name}** (ours)", f"{report['images']} of {size}", str(words), *ours, "", "", "", ""]
        )
    for row in PUBLISHED["reconstruction"]["rows"]:
        figures = [_figure(row, key) for key in ("psnr", "lpips", "fid", "is")]
        rows.append([row["system"], "ImageNet", str(row["words"]), "", "", "", *figures])
    ours = ["PSNR, ours", "LPIPS, ours", "Fréchet on Lite0, ours"]
    published = [f"{name}, published" for name in ("PSNR", "LPIPS", "FID", "IS")]
    note = (
        "Ours from all layers, LPIPS over VGG16 unless said; other data, so no comparison of methods. "
        f"{_published('reconstruction')}"
    )
    yield markdown(["system", "images", "words", *ours, *published], rows, note)
    if any("models" not in result.report for result in mine):
        yield f"![Quality of single models against words kept]({PLOTS}/reconstruction.png)"


def semantics(mine: list[Result]) -> Iterator[str]:
    rows = [
        [row["system"], str(row["words"]), f"{row['clip']:.4f}", f"{row['relative']:.4f}"]
        for row in PUBLISHED["semantics"]["rows"]
    ]
    yield from _pictures(mine, "semantics")
    note = f"Not comparable with ours, which are of another scorer. {_published('semantics')}"
    yield markdown(["system", "words", "CLIP, published", "CLIP-R, published"], rows, note)


def ablation(mine: list[Result]) -> Iterator[str]:
    """The runs of `spae ablate`, which writes its own table and plot; and what is published."""
    files = sorted((ROOT / "results").glob("*/ablation.json"))
    for file in files:
        table = file.with_suffix(".md").read_text(encoding="utf-8").strip()
        yield f"### {file.parent.name}\n\n{table}"
        if file.with_suffix(".png").exists():
            yield f"![Rows of the ablation]({file.with_suffix('.png').relative_to(ROOT)})"
    if not files:
        command = "spae ablate --seeds 0 1 2 --set objective.perceptual=lite0"
        yield f"No run is committed yet; `{command}` makes one."
    keys = ("fid", "is", "lpips", "clip", "accuracy")
    rows = [
        [name, *(_figure(row, key) for key in keys)] for name, row in PUBLISHED["ablation"]["rows"].items()
    ]
    header = ["row", *(f"{name}, published" for name in ("FID", "IS", "LPIPS", "CLIP", "accuracy (%)"))]
    yield markdown(header, rows, _published("ablation"))


def speed(mine: list[Result]) -> Iterator[str]:
    rows = []
    for name, report in _benchmarks():
        for labels, case in _cases(report):
            ours = [row for row in case if row["role"] == "ours"]
            peers = [row for row in case if row["role"] == "peer"]
            if ours and peers:
                best, peer = (min(of, key=lambda row: row["median_ms"]) for of in (ours, peers))
                times = [f"{r['median_ms']:.3g} [{r['p20_ms']:.3g}, {r['p80_ms']:.3g}]" for r in (best, peer)]
                cells = [best["contestant"], times[0], peer["contestant"], times[1], f"{ratio(case):.2f}"]
                rows.append([f"[{name}](benchmarks/results/{name}.json)", labels, *cells])
    header = ["benchmark", "case", "ours", "ms", "fastest peer", "ms", "fastest peer / ours"]
    hosts = {_host(report) for _, report in _benchmarks()}
    commands = "\n".join(f"    {report['command']}" for _, report in _benchmarks())
    yield markdown(
        header, rows, f"Medians in ms and the 20th and 80th percentile. {'; '.join(sorted(hosts))}."
    )
    yield commands
    for name, _ in _benchmarks():
        if (ROOT / f"benchmarks/results/{name}.png").exists():
            yield f"![{name}](benchmarks/results/{name}.png)"


def plain(mine: list[Result]) -> Iterator[str]:
    yield from ()


def _shown(result: Result) -> str:
    """A result's own table, below its name, with what makes it again."""
    other = OTHERS.get(result.task)
    table = other[1](result.report) if other else table_of(find(result.task), result.report)
    host = result.report.get("host") or next(iter(result.of_models.values())).get("host")
    where = f"Host: {_host({'host': host})}." if host else "Host: not recorded, a CPU."
    page = Path("results") / result.name / f"{result.task}.png"
    picture = f"\n\n![{result.name}]({page})" if (ROOT / page).exists() else ""
    return f"### {result.name}\n\n{table}\n\n{where}\n\n    {result.report['command']}{picture}"


def _pictures(mine: list[Result], *names: str) -> Iterator[str]:
    drawn = [name for name, _, _ in _figures(mine)]
    for name in names:
        if name in drawn:
            yield f"![{_CAPTIONS[name]}]({PLOTS}/{name}.png)"


def _figures(found: list[Result]) -> Iterator[tuple[str, dict[str, dict[str, Curve]], str]]:
    """Names, panels and x of the plots of lines."""
    shots = {name: _by_repeats(report) for name, report in _reports(found, "fewshot")}
    shots = {name: lines for name, lines in shots.items() if lines}
    if shots:
        yield "fewshot", shots, "times that an example stands in the prompt"
    layers = {name: _by_words(report) for name, report in _reports(found, "fewshot")}
    layers = {name: lines for name, lines in layers.items() if lines}
    if layers:
        yield "layers", layers, "words of an image"
    panels = {}
    for name, report in _reports(found, "semantics"):
        panels[name] = {split: _by_layer(of["layers"]) for split, of in report["splits"].items()}
    if panels:
        yield "semantics", panels, "layer"


def _by_repeats(report: dict[str, Any]) -> dict[str, Curve]:
    """Exactness of settings with one shot and induction, by how often an example is repeated."""
    lines = {}
    for ways in sorted({row["ways"] for row in report["rows"] if "ways" in row}):
        rows = [
            r for r in report["rows"] if r.get("ways") == ways and r["induction"] and r["inner_shots"] == 1
        ]
        rows = sorted(rows, key=lambda row: row["repeats"])
        if len({row["repeats"] for row in rows}) < 2:
            continue
        for measure in ("exact", "shuffled exact", "word overlap"):
            if all(measure in row for row in rows) and len({r["words"] for r in rows}) == 1:
                lines[f"{ways}-way, {measure}"] = _line([row["repeats"] + 1 for row in rows], rows, measure)
    return lines


def _by_words(report: dict[str, Any]) -> dict[str, Curve]:
    """Exactness of each setting that was asked with several numbers of words."""
    lines = {}
    for setting in dict.fromkeys(row["setting"] for row in report["rows"]):
        rows = sorted((r for r in report["rows"] if r["setting"] == setting), key=lambda row: row["words"])
        if len({row["words"] for row in rows}) > 1:
            lines[setting] = _line([row["words"] for row in rows], rows, "exact")
    return lines


def _line(x: list[float], rows: list[dict[str, Any]], measure: str) -> Curve:
    found = [row[measure] for row in rows]
    return Curve(x, *([of[end] for of in found] for end in ("value", "low", "high")))


def _by_layer(layers: list[dict[str, Any]]) -> Curve:
    places, scores = ([row[key] for row in layers] for key in ("layer", "score"))
    ends = [[row["score"] + sign * row["interval"] for row in layers] for sign in (-1, 1)]
    return Curve(places, scores, *ends)


def _reconstructions(found: list[Result]) -> dict[str, dict[str, Any]]:
    """By name, of a page of several models by each model's."""
    by_name = {}
    for result in found:
        if result.task in ("reconstruction", "digits"):
            data = result.name.removeprefix("reconstruction-")
            for model, report in result.of_models.items():
                by_name[f"{model}, {data}" if "models" in result.report else result.name] = report
    return by_name


def _reports(found: list[Result], task: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for result in found:
        if result.task == task:
            for model, report in result.of_models.items():
                yield (f"{result.name}, {model}" if "models" in result.report else result.name), report


def _averaged(rows: list[dict[str, Any]]) -> str:
    """Over settings, of which several ask about the same episodes, so that they have no interval together."""
    shares = [row["exact"]["value"] for row in rows]
    return f"{fmean(shares):.3f} ({min(shares):.2f} to {max(shares):.2f})" if shares else ""


def _benchmarks() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted((ROOT / "benchmarks/results").glob("*.json")):
        report = _read(file)
        if "question" in report:
            yield file.stem, report


def _cases(report: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows that are of the same work, by what that is."""
    labels = LABELS[report["question"]]
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        cases.setdefault(", ".join(f"{key} {row[key]}" for key in labels if key in row), []).append(row)
    yield from cases.items()


def _model(report: dict[str, Any]) -> str:
    words = shlex.split(report["command"])
    return words[words.index("--model") + 1] if "--model" in words else "mnist"


def _host(report: dict[str, Any]) -> str:
    host = report["host"]
    torch = host.get("torch") or report["versions"]["torch"]
    return f"{host['cpu']}, {host['cores']} cores, torch {torch}"


def _published(key: str) -> str:
    return f"Published figures, not ours: {PUBLISHED[key]['from']}."


def _figure(row: dict[str, Any], key: str) -> str:
    return str(row[key]) if key in row else ""


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


_SOURCES = "; ".join(f"{name}: {source}" for name, source in PUBLISHED["sources"].items())
_INTRODUCTION = f"""# Results

Made by `make results` from the committed JSON in `results`, `benchmarks/results` and `spae/bundled`; nothing
here is written by hand. In brackets stand 95% intervals, after ± one standard error unless a table says
otherwise. The seed is that of the command, 0 where it names none. Columns headed "published" are other
people's figures, on other data and with far larger models: they say what was reported, not how the methods
compare. {_SOURCES}."""
_CAPTIONS = {
    "fewshot": "Few-shot classification by repeats of the examples",
    "layers": "Few-shot classification by words of an image",
    "semantics": "Relative scores of each layer's words",
}
Extra = Callable[[list[Result]], Iterator[str]]
_SECTIONS: tuple[tuple[str, tuple[str, ...], str, Extra], ...] = (
    ("Few-shot classification", ("fewshot",), "A frozen language model names images from examples.", fewshot),
    ("Questions about pictures", ("vqa",), "", plain),
    ("Captions", ("caption",), "", plain),
    ("Reconstruction", ("reconstruction", "digits"), "", reconstruction),
    ("Ablation", (), "The nine rows of the paper's table 4.", ablation),
    ("Semantics by layer", ("semantics",), "How well each layer's words fit the images.", semantics),
    ("Drawing", ("generate", "outpaint"), "Images that a frozen language model wrote, word by word.", plain),
    ("Video", ("frames", "motion", "nextframe"), "Clips as words, drawn as told, and continued.", plain),
    ("Sound", ("sound",), "Recordings as words.", plain),
    ("Denoising", ("denoise", "windows"), "", plain),
    ("Words and phrases", ("phrases",), "V2L's global words, of one, two and three ids.", plain),
    ("Tuned language models", ("tuning",), "By LoRA on a tokenizer's words, before and after.", plain),
    ("Frozen", ("frozen",), "Two embeddings an image in place of words, on the episodes above.", plain),
    ("Strides", ("strides",), "", plain),
    ("Speed", (), "", speed),
)


def main() -> None:
    found = results()
    draw(found, ROOT / PLOTS)
    (ROOT / "RESULTS.md").write_text(text(found), encoding="utf-8")


if __name__ == "__main__":
    main()
