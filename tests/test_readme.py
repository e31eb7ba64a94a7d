"""The README is run: its Python, in order, and its table."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.report import ratio
from spae import SPAE, assets
from spae.eval.reconstruction import layer_table
from spae.eval.tasks import fewshot, generate
from spae.eval.tasks.digits import evaluate_digits
from spae.eval.tasks.semantics import evaluate_semantics

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    scope: dict = {}
    exec("\n".join(blocks), scope)
    assert scope["tokens"].ids.shape == (8, 37)
    assert scope["spae"].tokens(scope["words"]).ids.equal(scope["tokens"].ids)
    assert scope["decoded"].shape == (8, 3, 32, 32)
    assert scope["codes"].ids.shape == (2, 597)
    assert scope["again"].covered.sum() == 85


@pytest.fixture(scope="module")
def fresh():
    """The bundled model, measured again."""
    return evaluate_digits(SPAE.from_pretrained("mnist"))


def test_measured_table_is_what_the_command_prints(fresh):
    """Up to what another CPU's rounding does to a few of 500 images."""
    shown = re.search(
        r"<!-- begin: spae eval digits --model mnist -->\n(.*?)\n<!-- end -->", README, re.DOTALL
    )
    number = re.compile(r"\d[\d,.]*")
    for row, printed in zip(shown[1].splitlines(), layer_table(fresh).splitlines(), strict=True):
        assert number.sub("#", row) == number.sub("#", printed)
        for a, b in zip(number.findall(row), number.findall(printed), strict=True):
            assert float(b.rstrip(".")) == pytest.approx(float(a.rstrip(".")), rel=0.03, abs=0.3)


def test_bundled_model_keeps_its_promises(fresh):
    report = json.loads((ROOT / "spae/bundled/mnist/report.json").read_text())
    psnr = [row["psnr"] for row in fresh["layers"]]
    assert psnr == pytest.approx([row["psnr"] for row in report["layers"]], abs=0.1)
    assert psnr[-1] >= 19.5
    assert psnr[0] >= 14, "the name alone gives a digit"
    assert fresh["named"] == pytest.approx(report["named"], abs=0.006)
    assert fresh["named"] >= 0.98
    assert psnr[-1] > psnr[-2] > psnr[-3]
    assert fresh["accuracy_originals"] - fresh["layers"][-1]["accuracy"] <= 0.01


NAMES = {
    "train": "training",
    "new_vendor": "new vendor",
    "new_concept": "new concepts",
    "new_both": "both new",
}


def emoji_table(guided: dict, unguided: dict) -> str:
    """Reports of `spae eval semantics` as the README shows them."""
    rows = [
        "| split | images | random words | layer 1 | layer 2 | layer 3 | layer 1, no semantic loss "
        "| PSNR (dB) | PSNR, no semantic loss |",
        "|---|" + "--:|" * 8,
    ]
    for split, name in NAMES.items():
        first, *others = guided["splits"][split]["layers"]
        bare, *_, last = unguided["splits"][split]["layers"]
        scores = [f"{row['score']:.3f} ± {row['interval']:.3f}" for row in (first, *others[:2], bare)]
        cells = [name, f"{guided['splits'][split]['images']:,}", f"{first['random']:.3f}", *scores]
        cells += [f"{row['psnr']:.2f}" for row in (others[-1], last)]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def test_emoji_table_is_that_of_the_reports():
    reports = [
        json.loads((ROOT / "spae/bundled/emoji64" / f"{name}.json").read_text())
        for name in ("report", "report-unguided")
    ]
    assert emoji_table(*reports) in README


def words_table(reports: dict[str, dict]) -> str:
    """What layers say in `emoji64` and in `emoji64-words`, as the README shows it."""
    rows = [
        "| model | split | images | layer 1 | layer 2 | layer 3 | words of 4 | of 16 | PSNR (dB) |",
        "|---|---|" + "--:|" * 7,
    ]
    for split, name in NAMES.items():
        for model, report in reports.items():
            if split not in report["splits"]:
                continue
            result = report["splits"][split]
            guided = result["layers"][:3]
            scores = [f"{row['score']:.3f} ± {row['interval']:.3f}" for row in guided]
            distinct = [f"{row['distinct']:.1f}" for row in guided[1:]]
            cells = [
                model,
                name,
                f"{result['images']:,}",
                *scores,
                *distinct,
                f"{result['layers'][-1]['psnr']:.2f}",
            ]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def test_words_table_is_that_of_the_reports():
    names = ("emoji64", "emoji64-words")
    reports = {name: json.loads((ROOT / f"spae/bundled/{name}/report.json").read_text()) for name in names}
    assert words_table(reports) in README


@pytest.mark.parametrize(
    ("name", "score", "quality"), [("emoji64", 0.461, 23.15), ("emoji64-words", 0.519, 22.88)]
)
def test_emoji_models_keep_their_promises(name, score, quality):
    """On the images that are hardest for it: new concepts by a new vendor."""
    try:
        for asset in ("emoji", "efficientnet-lite0", "minilm"):
            assets.path(asset)
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the packages: {error}")
    from spae.data.emoji import Emoji
    from spae.scorers import CaptionScorer, TextFeatureCache, dataset_features

    model, scorer, dataset = SPAE.from_pretrained(name), CaptionScorer(), Emoji("new_both", 64)
    images = torch.stack([image for image, _ in dataset])
    words = TextFeatureCache(scorer).features(model.codebook.words)
    report = evaluate_semantics(model, images, dataset_features(scorer, dataset), words)
    first, *_, last = report["layers"]
    assert first["score"] == pytest.approx(score, abs=0.02)
    assert first["random"] < 0.32
    assert last["psnr"] == pytest.approx(quality, abs=0.1)


def test_fewshot_table_is_that_of_the_report():
    folder = "results/fewshot-emoji-5-way"
    report = json.loads((ROOT / folder / "fewshot.json").read_text())
    shown = re.search(rf"<!-- begin: {folder} -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert fewshot.table(report).startswith(shown[1] + "\n\n")
    assert all(row["episodes"] == 200 for row in report["rows"])


def speed_table() -> str:
    """How many times as long the fastest peer takes, from the committed results."""
    questions = {
        "nearest word, random queries": ("lookup-cpu-gemma3-65k", {"kind": "random"}, (64, 597, 4776)),
        "nearest word, queries near a code": (
            "lookup-cpu-gemma3-65k",
            {"kind": "near-code"},
            (64, 597, 4776),
        ),
        "loss": ("cross-entropy-cpu-smollm2", {"passes": "forward"}, (341, 2728)),
        "loss and gradient": ("cross-entropy-cpu-smollm2", {"passes": "forward+backward"}, (341, 2728)),
        "nearest word, random queries ": ("lookup-cpu-smollm2", {"kind": "random"}, (64, 597)),
        "nearest word, queries near a code ": ("lookup-cpu-smollm2", {"kind": "near-code"}, (64, 597)),
        "loss and gradient, queries near a code, temperature 0.1": (
            "cross-entropy-cpu-smollm2-peaked",
            {"passes": "forward+backward"},
            (341,),
        ),
    }
    lines = ["| | CPU | table | queries | fastest peer / this |", "|---|---|---|---|---|"]
    for name, (file, labels, counts) in questions.items():
        report = json.loads((ROOT / f"benchmarks/results/{file}.json").read_text())
        ratios = []
        for count in counts:
            wanted = {**labels, "queries": count}.items()
            rows = [row for row in report["rows"] if wanted <= row.items()]
            assert all(row["mismatches"] == 0 for row in rows if row["role"] == "ours")
            ratios.append(f"{ratio(rows):.1f}")
        table = f"{report['codebook']}, {report['num_codes']:,} x {report['width']}"
        counted = ", ".join(f"{count:,}" for count in counts)
        cpu = "EPYC" if "EPYC" in report["host"]["cpu"] else "Xeon"
        lines.append(f"| {name.strip()} | {cpu} | {table} | {counted} | {', '.join(ratios)} |")
    return "\n".join(lines)


def test_speed_table_is_that_of_the_results():
    assert f"<!-- begin: speed -->\n{speed_table()}\n<!-- end -->" in README


def test_drawing_table_is_that_of_the_report():
    folder = "results/generate-mnist"
    report = json.loads((ROOT / folder / "generate.json").read_text())
    shown = re.search(rf"<!-- begin: {folder} -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert generate.table(report).startswith(shown[1] + "\n\n")
    assert report["captions"]["accuracy"]["plain"]["trials"] == 100


def test_bundled_models_of_a_context_window_are_what_the_readme_says():
    for name in ("fashion", "cifar10"):
        report = json.loads((ROOT / f"spae/bundled/{name}/report.json").read_text())
        figures = [f"{layer['psnr']:.1f}" for layer in report["layers"]]
        text = " ".join(README.split())
        assert f"{', '.join(figures[:3])} and {figures[3]} dB" in text
        assert f"right for {report['named']:.1%} of" in text


def test_promises_are_those_of_the_results():
    """Counts of mutants, kills and adversarial queries; how many bad inputs there are at the least."""
    mutants = json.loads((ROOT / "results/mutants.json").read_text())
    killed = sum("::" in known["verdict"] for known in mutants.values())
    assert re.search(rf"killed {killed} of {len(mutants)}\s+mutants", README)
    torture = (ROOT / "results/torture.md").read_text(encoding="utf-8")
    kills = sum(map(int, re.findall(r"^\|.*\| (\d+) \|", torture, re.MULTILINE)))
    assert f"{kills} processes killed" in README
    asked = json.loads((ROOT / "results/adversarial.json").read_text())
    least = {
        how: min(known["queries"] for name, known in asked.items() if name.rpartition(" ")[2] in kinds)
        for how, kinds in {
            "cpu": ("avx512", "avx2", "portable", "amx-emulated", "amx-emulated-avx512", "torch"),
            "emulated": ("emulated",),
            "interpreted": ("interpreted",),
        }.items()
    }
    assert f"{least['cpu']:,} adversarial\nqueries" in README
    assert f"{least['emulated']:,} to each emulated GPU kernel and {least['interpreted']:,} to the" in README
    assert not any(known["wrong"] for known in asked.values())
