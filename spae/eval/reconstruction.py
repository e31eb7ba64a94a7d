"""How well a tokenizer reconstructs, layer by layer, and which words it uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spae.eval.table import markdown
from spae.metrics import codebook_usage, psnr
from spae.tokenizers import PyramidTokens, Tokenizer
from spae.tokenizers.batches import decode_all, encode_all


def evaluate_reconstruction(
    model: Tokenizer,
    images: Tensor,
    *,
    tokens: PyramidTokens | None = None,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """PSNR (dB, mean over images and standard error) from 1..L layers, and the codebook's usage by layer.

    "vocabulary" is how many words a layer may take; "bits_per_image", the sum over the words of log2 of that,
    is what they could say at most.

    images: [N, C, *image_size] in [-1, 1]. tokens: theirs, if known already. lpips: two batches of images to
    their distances [B], e.g. an `LPIPSNetwork`, which is then measured like PSNR. The model should be in eval
    mode.
    """
    if tokens is None:
        tokens = encode_all(model, images, batch_size=batch_size)
    sizes = model.vocabulary_sizes
    layers = []
    for number in range(1, tokens.num_layers + 1):
        decoded = decode_all(model, tokens.upto(number), batch_size=batch_size)
        values = psnr(images, decoded)
        usage = codebook_usage(tokens.layer(number - 1))
        layers.append(
            {
                "layer": number,
                "vocabulary": sizes[number - 1],
                "words_per_image": model.pyramid.tokens_per_layer[number - 1],
                "psnr": values.mean().item(),
                "psnr_standard_error": values.std().item() / len(values) ** 0.5,
                "distinct_words": usage.distinct,
                "perplexity": usage.perplexity,
            }
        )
        if lpips is not None:
            layers[-1] |= _distances(lpips, images, decoded, batch_size)
    whole = codebook_usage(tokens.ids)
    bits = sum(row["words_per_image"] * math.log2(row["vocabulary"]) for row in layers)
    return {
        "images": len(images),
        "codebook": len(model.codebook),
        "layers": layers,
        "bits_per_image": bits,
        "distinct_words": whole.distinct,
        "perplexity": whole.perplexity,
    }


def share_named(model: Tokenizer, tokens: PyramidTokens, names: Sequence[str]) -> float:
    """The share of N images whose first word, without its leading space, is their name."""
    first = [image[0][0].strip() for image in model.words(tokens.upto(1))]
    return sum(map(str.__eq__, first, names)) / len(first)


@torch.no_grad()
def _distances(
    lpips: Callable[[Tensor, Tensor], Tensor], images: Tensor, decoded: Tensor, batch_size: int
) -> dict[str, float]:
    pairs = zip(images.split(batch_size), decoded.to(images).split(batch_size), strict=True)
    values = torch.cat([lpips(a, b) for a, b in pairs])
    return {"lpips": values.mean().item(), "lpips_standard_error": values.std().item() / len(values) ** 0.5}


def layer_table(report: dict[str, Any]) -> str:
    """A report of `evaluate_reconstruction` as a Markdown table, one row per number of layers; with LPIPS
    and the digit classifier's accuracy where they were measured."""
    with_accuracy = "accuracy_originals" in report
    with_bits = "bits_per_image" in report  # not in reports of before
    with_lpips = "lpips" in report["layers"][0]
    header = ["layers", "words", *["bits"] * with_bits, "PSNR (dB)", *["LPIPS"] * with_lpips]
    header += ["distinct words", "perplexity"]
    header += ["SVM accuracy"] * with_accuracy
    rows, words, bits = [], 0, 0.0
    for row in report["layers"]:
        words += row["words_per_image"]
        bits += row["words_per_image"] * math.log2(row["vocabulary"]) if with_bits else 0
        cells = [
            str(row["layer"]),
            str(words),
            *[f"{bits:.0f}"] * with_bits,
            f"{row['psnr']:.2f} ± {row['psnr_standard_error']:.2f}",
            *[f"{row['lpips']:.3f} ± {row['lpips_standard_error']:.3f}" for _ in range(with_lpips)],
            str(row["distinct_words"]),
            f"{row['perplexity']:.0f}",
        ]
        rows.append([*cells, f"{row['accuracy']:.1%}"] if with_accuracy else cells)
    note = f"{report['images']} images; {report['distinct_words']} of {report['codebook']} words in use"
    if "named" in report:
        note += f"; the first word is the image's name for {report['named']:.1%}"
    if "lpips_net" in report:
        note += f"; LPIPS 0.1 over {report['lpips_net']}"
    if with_accuracy:
        note += f"; SVM accuracy on the originals {report['accuracy_originals']:.1%}"
    return markdown(header, rows, note)
