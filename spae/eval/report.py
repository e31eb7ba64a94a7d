"""Results as text."""

from __future__ import annotations

from typing import Any


def layer_table(report: dict[str, Any]) -> str:
    """A report of `evaluate_reconstruction` or `evaluate_digits` as a Markdown table, one row per number of
    layers."""
    with_accuracy = "accuracy_originals" in report
    header = ["layers", "words", "PSNR (dB)", "distinct words", "perplexity"] + [
        "SVM accuracy"
    ] * with_accuracy
    rows, words = [], 0
    for row in report["layers"]:
        words += row["words_per_image"]
        cells = [
            str(row["layer"]),
            str(words),
            f"{row['psnr']:.2f} ± {row['psnr_standard_error']:.2f}",
            str(row["distinct_words"]),
            f"{row['perplexity']:.0f}",
        ]
        rows.append([*cells, f"{row['accuracy']:.1%}"] if with_accuracy else cells)
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]
    total = f"{report['images']} images; {report['distinct_words']} of {report['codebook']} words in use"
    if with_accuracy:
        total += f"; SVM accuracy on the originals {report['accuracy_originals']:.1%}"
    return "\n".join([*lines, "", total])


def semantics_table(report: dict[str, Any]) -> str:
    """A report of `evaluate_emoji` as a Markdown table, one row per split and layer."""
    header = [
        "split",
        "images",
        "layer",
        "words",
        "relative score",
        "random",
        "best",
        "distinct",
        "PSNR (dB)",
    ]
    rows = [header, ["---"] * len(header)]
    for split, result in report["splits"].items():
        for row in result["layers"]:
            rows.append(
                [
                    split,
                    str(result["images"]),
                    str(row["layer"]),
                    str(row["words_per_image"]),
                    f"{row['score']:.3f} ± {row['interval']:.3f}",
                    f"{row['random']:.3f}",
                    f"{row['best']:.3f}",
                    f"{row['distinct']:.1f}",
                    f"{row['psnr']:.2f}",
                ]
            )
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([*lines, "", f"scores by {report['scorer']}; 95% intervals over concepts"])
