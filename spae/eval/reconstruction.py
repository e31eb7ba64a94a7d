"""How well a tokenizer reconstructs, layer by layer, and which words it uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spae.eval.features import ImageFeatures, compare
from spae.eval.table import markdown, shown
from spae.figures import Curve, curves
from spae.metrics import (
    class_score,
    codebook_usage,
    ms_ssim,
    ms_ssim_scales,
    psnr,
    psnr_per_frame,
    ssim,
    temporal_difference_error,
)
from spae.tokenizers import PyramidTokens, Tokenizer
from spae.tokenizers.batches import decode_all, encode_all


def evaluate_reconstruction(
    model: Tokenizer,
    images: Tensor,
    *,
    tokens: PyramidTokens | None = None,
    distances: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
    similarity: bool = False,
    features: ImageFeatures | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """PSNR (dB, mean over images and standard error) from 1..L layers, and the codebook's usage by layer.

    "vocabulary" is how many words a layer may take; "bits_per_image", the sum over the words of log2 of that,
    is what they could say at most.

    images: [N, C, *image_size] in [-1, 1]. tokens: theirs, if known already. distances: by name ("lpips",
    "dists"), two batches of images to their distances [B], e.g. an `LPIPSNetwork`, which are then measured
    like PSNR. similarity: measure SSIM and MS-SSIM, too. features: compare those of the images and of the
    reconstructions, too (`spae.eval.features.compare`). The model should be in eval mode.

    Clips [N, C, T, H, W] of several frames get their `temporal_difference_error`, too, and "frames": PSNR
    frame by frame from all layers, and the temporal difference error of the first frame standing still, which
    a reconstruction that shows no motion would have.
    """
    if tokens is None:
        tokens = encode_all(model, images, batch_size=batch_size)
    sizes = model.vocabulary_sizes
    pairs: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr}
    pairs |= {"ssim": ssim, "ms_ssim": ms_ssim} if similarity else {}
    pairs |= distances or {}
    if moving := images.ndim == 5 and images.shape[2] > 1:
        pairs["temporal_difference_error"] = temporal_difference_error
    seen = None if features is None else features.all_of(images, batch_size=batch_size)
    layers, frames = [], {}
    for number in range(1, tokens.num_layers + 1):
        decoded = decode_all(model, tokens.upto(number), batch_size=batch_size)
        usage = codebook_usage(tokens.layer(number - 1))
        layers.append(
            {
                "layer": number,
                "vocabulary": sizes[number - 1],
                "words_per_image": model.pyramid.tokens_per_layer[number - 1],
                "distinct_words": usage.distinct,
                "perplexity": usage.perplexity,
            }
        )
        for name, measured in pairs.items():
            layers[-1] |= _of_pairs(name, measured, images, decoded, batch_size)
        if features is not None and seen is not None:
            layers[-1] |= compare(seen[0], *features.all_of(decoded.to(images), batch_size=batch_size))
        if moving and number == tokens.num_layers:
            frames = {"frames": _of_frames(images, decoded.to(images))}
    whole = codebook_usage(tokens.ids)
    bits = sum(row["words_per_image"] * math.log2(row["vocabulary"]) for row in layers)
    return {
        "images": len(images),
        "image_size": list(images.shape[2:]),
        **({} if features is None or seen is None else _of_originals(features, seen)),
        "codebook": len(model.codebook),
        "layers": layers,
        **frames,
        "bits_per_image": bits,
        "distinct_words": whole.distinct,
        "perplexity": whole.perplexity,
    }


def _of_originals(features: ImageFeatures, seen: tuple[Tensor, Tensor]) -> dict[str, Any]:
    return {
        "features": features.name,
        "features_width": seen[0].shape[1],
        "class_score_originals": class_score(seen[1]),
    }


def share_named(model: Tokenizer, tokens: PyramidTokens, names: Sequence[str]) -> float:
    """The share of N images whose first word, without its leading space, is their name."""
    first = [image[0][0].strip() for image in model.words(tokens.upto(1))]
    return sum(map(str.__eq__, first, names)) / len(first)


@torch.no_grad()
def _of_pairs(
    name: str,
    measured: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    decoded: Tensor,
    batch_size: int,
) -> dict[str, float]:
    pairs = zip(images.split(batch_size), decoded.to(images).split(batch_size), strict=True)
    values = torch.cat([measured(a, b) for a, b in pairs])
    return {name: values.mean().item(), f"{name}_standard_error": values.std().item() / len(values) ** 0.5}


def _of_frames(clips: Tensor, decoded: Tensor) -> dict[str, Any]:
    still = clips[:, :, :1].expand_as(clips)
    return {
        "psnr": psnr_per_frame(clips, decoded).mean(0).tolist(),
        "temporal_difference_error_still": temporal_difference_error(clips, still).mean().item(),
    }


_Z95 = 1.96
# Of images and their reconstructions: key, heading, decimals.
_OF_PAIRS = (
    ("psnr", "PSNR (dB)", 2),
    ("ssim", "SSIM", 3),
    ("ms_ssim", "MS-SSIM", 3),
    ("lpips", "LPIPS", 3),
    ("dists", "DISTS", 3),
)
_OF_CLIPS = (("temporal_difference_error", "temporal difference error", 4),)


def layer_table(report: dict[str, Any]) -> str:
    """A report of `evaluate_reconstruction` as a Markdown table, one row per number of layers, of what was
    measured; with the digit classifier's accuracy where there is one."""
    first = report["layers"][0]
    with_accuracy = "accuracy_originals" in report
    with_bits = "bits_per_image" in report  # not in reports of before
    of_pairs = [(key, heading, digits) for key, heading, digits in (*_OF_PAIRS, *_OF_CLIPS) if key in first]
    header = ["layers", "words", *["bits"] * with_bits, *(heading for _, heading, _ in of_pairs)]
    header += ["Fréchet", "kernel x 1,000", "class score"] * ("features" in report)
    header += ["distinct words", "perplexity"] + ["SVM accuracy"] * with_accuracy
    rows, words, bits = [], 0, 0.0
    for row in report["layers"]:
        words += row["words_per_image"]
        bits += row["words_per_image"] * math.log2(row["vocabulary"]) if with_bits else 0
        cells = [str(row["layer"]), str(words), *[f"{bits:.0f}"] * with_bits]
        for key, _, digits in of_pairs:
            cells.append(f"{row[key]:.{digits}f} ± {row[f'{key}_standard_error']:.{digits}f}")
        if "features" in report:
            kernel = {key: value * 1000 for key, value in row["kernel"].items()}
            cells += [f"{row['frechet']:.2f}", shown(kernel), f"{row['class_score']:.2f}"]
        cells += [str(row["distinct_words"]), f"{row['perplexity']:.0f}"]
        rows.append([*cells, f"{row['accuracy']:.1%}"] if with_accuracy else cells)
    return markdown(header, rows, _note(report))


def quality_curves(reports: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Draw the quality that every number of layers keeps against its words: a panel a measure, a line a model
    of which it was measured. Writes a PNG."""
    panels = {}
    of_features = [("frechet", "Fréchet distance", 2)]
    for key, heading, _ in (*_OF_PAIRS, *_OF_CLIPS, *of_features):
        measured = {name: report for name, report in reports.items() if key in report["layers"][0]}
        if measured:
            panels[heading] = {name: _curve(report, key) for name, report in measured.items()}
    curves(panels, path, x="words kept")


def _curve(report: dict[str, Any], key: str) -> Curve:
    rows = report["layers"]
    words = list(accumulate(row["words_per_image"] for row in rows))
    values = [(row[key], _Z95 * row.get(f"{key}_standard_error", 0.0)) for row in rows]
    return Curve(words, [row[key] for row in rows], [v - e for v, e in values], [v + e for v, e in values])


def _note(report: dict[str, Any]) -> str:
    items = "clips" if "frames" in report else "images"
    note = f"{report['images']} {items}; {report['distinct_words']} of {report['codebook']} words in use"
    if "parameters" in report:  # not in reports of before
        note += f"; {report['parameters'] / 1e6:.2f} M parameters"
    if "named" in report:
        note += f"; the first word is the image's name for {report['named']:.1%}"
    if "ms_ssim" in report["layers"][0]:
        note += f"; MS-SSIM of {ms_ssim_scales(report['image_size'])} scales"
    if "lpips_net" in report:
        note += f"; LPIPS 0.1 over {report['lpips_net']}"
    if "features" in report:
        note += (
            f"; Fréchet and kernel distance and class score (of the originals "
            f"{report['class_score_originals']:.2f}) of the features of {report['features']}"
        )
        usual = "I3D" if "frames" in report else "Inception"
        note += "" if report["features"] == usual else f", not {usual}"
        if report["images"] <= report["features_width"]:
            note += (
                f"; {report['images']} {items} are few for the Fréchet distance of "
                f"{report['features_width']} features, which is too large then: compare it only among as "
                "many images"
            )
    if "frames" in report:
        values = report["frames"]["psnr"]
        note += (
            f"; PSNR of the frames from {min(values):.2f} to {max(values):.2f} dB, of the first "
            f"{values[0]:.2f}; temporal difference error of the first frame standing still "
            f"{report['frames']['temporal_difference_error_still']:.4f}"
        )
    if "accuracy_originals" in report:
        note += f"; SVM accuracy on the originals {report['accuracy_originals']:.1%}"
    return note
