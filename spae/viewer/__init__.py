"""Pyramids on a page: one HTML file that needs no network, no server and nothing beside it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import IO, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from spae.data.images import to_bytes
from spae.figures import printable
from spae.metrics import psnr
from spae.optional import needs
from spae.tokenizers import PyramidTokens, Tokenizer
from spae_ops import Pyramid

HERE = Path(__file__).parent
_LETTERS = 80  # of a name or a word; the longest words of vocabularies are runs of spaces and dashes


class Shown(NamedTuple):
    """Some images of a page. names: B. images: [B, C, H, W] in [-1, 1], C = 1 or 3. tokens: of those."""

    names: Sequence[str]
    images: Tensor
    tokens: PyramidTokens


def write_page(
    stream: IO[str],
    model: Tokenizer,
    batches: Iterable[Shown],
    *,
    num_layers: int | None = None,
    title: str = "Pyramids",
) -> int:
    """Write a page of images, their reconstructions and their words, batch by batch; how many there are.

    The page's policy (Content-Security-Policy) allows its own style and script by their hashes, pictures in
    the page itself and nothing else, so that no word or name can do anything, even were it not escaped.

    Args:
        stream: text, UTF-8.
        model: of images, which `batches` are encoded by.
        batches: each with tokens of `num_layers` layers, or ValueError is raised.
        num_layers: None: all.

    Raises:
        ImportError: Pillow is missing.
        ValueError: the model is one of video or of other than 1 or 3 channels, or see above.
    """
    config = model.config
    if config.ndim != 2 or config.in_channels not in (1, 3):
        raise ValueError(
            f"model: expected one for images of 1 or 3 channels, got {config.in_channels} of "
            f"{config.image_size}"
        )
    layers = model.pyramid.num_layers if num_layers is None else num_layers
    stream.write(_head(model.pyramid.upto(layers), config.image_size, title))
    count = 0
    for batch in batches:
        if batch.tokens.num_layers != layers:
            raise ValueError(f"batches: expected tokens of {layers} layers, got {batch.tokens.num_layers}")
        for article in _articles(model, batch):
            stream.write(article)
            count += 1
    stream.write("</main>\n</body>\n</html>\n")
    return count


def _head(pyramid: Pyramid, image_size: Sequence[int], title: str) -> str:
    style = (HERE / "page.css").read_text(encoding="utf-8") + _geometry(pyramid, image_size)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    layers, words = pyramid.num_layers, pyramid.num_tokens
    name = escape(printable(title, _LETTERS))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}</title>
<style>{style}</style>
<script type="module">{script}</script>
</head>
<body>
<header>
<h1>{name}</h1>
<label for="layers">Layers <input id="layers" type="range" min="1" max="{layers}" value="{layers}" hidden>
<output id="shown" for="layers">{layers} of {layers}, {words} words</output></label>
<p>Point at a word, or move among words with Tab and the arrow keys: its cell is marked in both pictures, \
and the second is made of the words up to its layer. The dot is where the word was looked up.</p>
</header>
<main>
"""


def _geometry(pyramid: Pyramid, image_size: Sequence[int]) -> str:
    """The rules that depend on the pyramid: the shape of cells, and where in one its word is looked up."""
    rules = [f".picture{{aspect-ratio:{image_size[1]}/{image_size[0]}}}"]
    for layer, grid in enumerate(pyramid.grids):
        height, width = (size / cells for size, cells in zip(image_size, grid, strict=True))
        ratios = [size // cells for size, cells in zip(pyramid.shape, grid, strict=True)]
        # Of a cell of r positions the word is looked up at r // 2 (eq. 1).
        top, left = (f"{(ratio // 2 + 0.5) / ratio:.2%}" for ratio in ratios)
        rules.append(f".layer{layer + 1}{{--shape:{width / height:.4g};--top:{top};--left:{left}}}")
    return "\n".join(rules) + "\n"


def _articles(model: Tokenizer, batch: Shown) -> Iterable[str]:
    """A batch's images, an article each."""
    layers = range(1, batch.tokens.num_layers + 1)
    with torch.no_grad():
        decoded = [model.decode(batch.tokens.upto(number)).cpu() for number in layers]
    images = batch.images.cpu()
    quality = [psnr(images, reconstruction).tolist() for reconstruction in decoded]
    originals, pixels = to_bytes(images), [to_bytes(reconstruction) for reconstruction in decoded]
    words = model.words(batch.tokens)
    for row, name in enumerate(batch.names):
        label = escape(printable(str(name), _LETTERS))
        made = [
            _picture(
                pixels[number - 1][row],
                f"{label} from {number} layer{'s' * (number > 1)}, {quality[number - 1][row]:.1f} dB",
            )
            for number in layers
        ]
        grids = [_table(words[row][n], model.pyramid.grids[n], n + 1, label) for n in range(len(layers))]
        yield f"""<article>
<h2>{label}</h2>
<div class="pictures">
<figure><div class="picture">{_picture(originals[row], label)}<i class="cell"></i></div>
<figcaption>the image</figcaption></figure>
<figure class="made"><div class="picture">{"".join(made)}<i class="cell"></i></div>
<figcaption>{escape(f"from {len(layers)} layers, {quality[-1][row]:.1f} dB")}</figcaption></figure>
<p class="word" aria-live="polite"></p>
</div>
<div class="grids">
{"".join(grids)}</div>
</article>
"""


def _table(words: Sequence[str], grid: Sequence[int], layer: int, label: str) -> str:
    """The words of one layer on their grid; label: escaped."""
    columns = grid[-1]
    rows = [words[start : start + columns] for start in range(0, len(words), columns)]
    body = "".join(f"<tr>{''.join(f'<td>{_word(word)}</td>' for word in row)}</tr>\n" for row in rows)
    about = f"{label}, layer {layer}"
    return (
        f'<figure class="layer layer{layer}"><figcaption>layer {layer}</figcaption>'
        f'<table role="grid" aria-label="{about}">\n{body}</table></figure>\n'
    )


def _word(word: str) -> str:
    """A word as the rest of the project shows it, with a leading space as "_", but hardly cut."""
    return escape(printable("_" + word[1:] if word.startswith(" ") else word, _LETTERS))


def _picture(pixels: NDArray, alt: str) -> str:
    """uint8 [H, W, C] as an image in the page. alt: escaped."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("pages of pictures", "pillow")) from error
    file = io.BytesIO()
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    image.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


__all__ = ["Shown", "write_page"]
