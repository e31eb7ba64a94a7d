"""Pyramids of words as text, and pages of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from spae.files import to_bytes
from spae.metrics import psnr
from spae.optional import needs
from spae.tokenizers import PyramidTokens, Tokenizer
from spae_ops import Pyramid

_MAX_LETTERS = 11
_MAX_COLUMNS = 8


def pyramid_text(layers: list[list[str]], pyramid: Pyramid) -> str:
    """One image's words (`words(tokens)[image]`), every layer as the rows of its grid."""
    blocks = []
    for number, words in enumerate(layers):
        columns = pyramid.grids[number][-1]
        cells = [shown(word) for word in words]
        width = max(map(len, cells))
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        lines = ["  ".join(cell.ljust(width) for cell in row).rstrip() for row in rows]
        label = f"  {number + 1}  "
        blocks.append(
            "\n".join((label if i == 0 else " " * len(label)) + line for i, line in enumerate(lines))
        )
    return "\n".join(blocks)


def shown(word: str) -> str:
    """A word as a reader sees it: a leading space as "_", control characters escaped, at most 11 letters."""
    return printable("_" + word[1:] if word.startswith(" ") else word, _MAX_LETTERS)


def printable(text: str, length: int) -> str:
    """A text with control characters escaped, cut to a length."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def reconstruction_page(model: Tokenizer, images: Tensor, tokens: PyramidTokens, path: Path) -> None:
    """Draw a page: for each image the original, its reconstructions from 1..L layers, and its words on their
    grids, for grids of up to 8 words a side.

    images: [B, C, H, W] in [-1, 1]; tokens: all layers of them. Writes a PNG.
    """
    total = tokens.num_layers
    by_layers = [model.decode(tokens.upto(number)).detach() for number in range(1, total + 1)]
    words = model.words(tokens)
    # A word needs about as much room as a picture of 12 words a side; small grids get less.
    shown_layers = [n for n in range(total) if max(model.pyramid.grids[n]) <= _MAX_COLUMNS]
    widths = [1.3] * (total + 1) + [0.55 + 0.85 * model.pyramid.grids[n][-1] for n in shown_layers]
    figure = _figure(sum(widths) + 0.6, 1.75 * len(images) + 0.5)
    axes = figure.subplots(len(images), len(widths), squeeze=False, width_ratios=widths)
    counts = [model.pyramid.num_tokens_upto(number) for number in range(1, total + 1)]
    for row, image in enumerate(images):
        _picture(axes[row][0], image, "original" if row == 0 else "")
        for number in range(1, total + 1):
            reconstruction = by_layers[number - 1][row]
            title = f"{counts[number - 1]} word{'s' * (counts[number - 1] > 1)}" if row == 0 else ""
            quality = psnr(image[None], reconstruction[None].cpu()).item()
            _picture(axes[row][number], reconstruction, title, f"{quality:.1f} dB")
        for column, layer in enumerate(shown_layers, total + 1):
            title = f"layer {layer + 1}" if row == 0 else ""
            _word_grid(axes[row][column], words[row][layer], model.pyramid.grids[layer], title)
    _save(figure, path)


def semantics_page(
    model: Tokenizer, images: Tensor, tokens: PyramidTokens, captions: list[str], path: Path
) -> None:
    """Draw a page of cards, two a row: original, reconstruction, and the words of layers 1 to 3 on their
    grids.

    images: [B, C, H, W] in [-1, 1]; tokens: all layers of them; captions: B. Writes a PNG.
    """
    shown_layers = range(min(3, tokens.num_layers))
    reconstructions = model.decode(tokens).detach()
    words = model.words(tokens)
    grids = [model.pyramid.grids[layer] for layer in shown_layers]
    card = [1.25, 1.25] + [0.35 + 0.75 * grid[-1] for grid in grids]
    rows, gap = (len(images) + 1) // 2, 0.3
    widths = [*card, gap, *card]
    figure = _figure(sum(widths) + 0.4, 1.62 * rows + 0.2)
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
    for place in axes.flat:
        place.set_axis_off()
    for number, image in enumerate(images):
        row, column = divmod(number, 2)
        places = axes[row][column * (len(card) + 1) :]
        for place in places[: len(card)]:
            place.set_axis_on()
        quality = psnr(image[None], reconstructions[number, None].cpu()).item()
        _picture(places[0], image, "", captions[number])
        _picture(places[1], reconstructions[number], "", f"{quality:.1f} dB")
        for layer, grid in zip(shown_layers, grids, strict=True):
            title = f"layer {layer + 1}" if row == 0 else ""
            _word_grid(places[2 + layer], words[number][layer], grid, title)
    _save(figure, path)


def _figure(width: float, height: float):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(needs("drawing", "matplotlib")) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def picture_grid(
    images: Tensor, captions: Sequence[str], path: Path, *, columns: int, width: float = 1.0
) -> None:
    """Draw images [B, C, H, W] in [-1, 1] in rows, each under its caption. width: of a column in inches.
    Writes a PNG."""
    rows = -(-len(images) // columns)
    titles = [captions[i : i + columns] for i in range(0, len(captions), columns)]
    lines = sum(max(len(caption.splitlines()) for caption in row) for row in titles)
    height = width * images.shape[-2] / images.shape[-1]
    figure = _figure(width * columns, height * rows + 0.2 * lines)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for place, image, caption in zip(axes, images, captions, strict=False):
        _picture(place, image, caption)
    for place in axes[len(images) :]:
        place.axis("off")
    _save(figure, path)


class Curve(NamedTuple):
    """Figures at some places, and the ends of their 95% intervals (of no width: none is drawn)."""

    x: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def curves(panels: Mapping[str, Mapping[str, Curve]], path: Path, *, x: str) -> None:
    """Draw panels side by side, by their titles, each with a line for every name, over a logarithmic x; a
    name has one colour in all of them, and one legend stands below. Writes a PNG."""
    figure = _figure(3.6 * len(panels) + 0.6, 3.9)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    drawn = {}
    for axes, (title, lines) in zip(places, panels.items(), strict=True):
        for name, line in lines.items():
            # At 0 and 1 rounding may leave an interval's end on the other side.
            below = [max(0.0, value - end) for value, end in zip(line.values, line.low, strict=True)]
            above = [max(0.0, end - value) for value, end in zip(line.values, line.high, strict=True)]
            errors = [below, above] if any(below + above) else None
            # There are ten colours; after them come others' marks.
            number = names.index(name)
            look = {"color": f"C{number}", "marker": "os^D"[number // 10 % 4], "markersize": 4, "capsize": 2}
            look["linestyle"] = ("-", "--", ":", "-.")[number // 10 % 4]
            drawn[name] = axes.errorbar(line.x, line.values, errors, **look)
        ticks: list[float] = []
        marked = sorted({place for line in lines.values() for place in line.x}, reverse=True)
        apart = (marked[0] / marked[-1]) ** 0.09  # nearer ones would be written over each other
        for place in marked:
            if not ticks or ticks[-1] >= apart * place:
                ticks.append(place)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set(title=title, xlabel=x)
        axes.grid(color="0.9")
    columns = min(len(names), 2 * len(panels))
    handles = [drawn[name] for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8)
    _save(figure, path)


def dots(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw panels side by side, by their titles: for each row, by its name, its values as dots and their mean
    as a bar across. All panels have the same rows; a row may have no values. Writes a PNG."""
    rows = list(next(iter(panels.values())))
    figure = _figure(2.2 + 2.3 * len(panels), 0.9 + 0.32 * len(rows))
    places = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, values) in zip(places, panels.items(), strict=True):
        for place, row in enumerate(rows):
            found = list(values[row])
            axes.plot(found, [place] * len(found), "o", markersize=4, alpha=0.6, color="C0")
            if found:
                axes.plot([sum(found) / len(found)] * 2, [place - 0.3, place + 0.3], color="C0")
        axes.set_title(title, fontsize=10)
        axes.grid(color="0.9")
        axes.tick_params(labelsize=8)
    places[0].set_yticks(range(len(rows)), rows)
    places[0].set_ylim(len(rows) - 0.5, -0.5)  # the first row is at the top
    _save(figure, path)


def interval_lines(
    panels: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
    ticks: Sequence[str],
    path: Path,
    *,
    x: str,
    chance: float,
) -> None:
    """Draw shares in panels side by side, by their titles: each line, by its name, has a figure with its
    interval (`Interval._asdict()`) for each tick. x: what the ticks are. Writes a PNG."""
    figure = _figure(4.2 * len(panels), 3.6)
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(places, panels.items(), strict=True):
        for number, (name, rows) in enumerate(lines.items()):
            shift = 0.04 * (number - (len(lines) - 1) / 2)  # intervals stand side by side
            values = [row["value"] for row in rows]
            # At 0 and 1 rounding may leave the interval's end on the other side.
            below = [max(0.0, row["value"] - row["low"]) for row in rows]
            above = [max(0.0, row["high"] - row["value"]) for row in rows]
            where = [place + shift for place in range(len(ticks))]
            axes.errorbar(where, values, [below, above], marker="o", capsize=2, label=name)
        axes.axhline(chance, color="0.6", linestyle=":", label="chance")
        axes.set(title=title, xlabel=x, ylim=(0, 1.04), xticks=range(len(ticks)), xticklabels=ticks)
        axes.grid(color="0.9")
        axes.legend(fontsize=8)
    _save(figure, path)


def _picture(axes, image: Tensor, title: str, caption: str = "") -> None:
    pixels = to_bytes(image)
    axes.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
    # parse_math off: a model may write "$".
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel(caption, fontsize=8, labelpad=2)
    axes.set_xticks([])
    axes.set_yticks([])


def _word_grid(axes, words: list[str], grid: tuple[int, ...], title: str) -> None:
    rows, columns = grid[-2:]
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=range(columns + 1), yticks=range(rows + 1))
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.grid(color="0.85", linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_color("0.85")
    axes.set_title(title, fontsize=10)
    for i, word in enumerate(words):
        # parse_math off: a word may well be "$" or "\\alpha".
        place = (i % columns + 0.5, i // columns + 0.5)
        axes.text(*place, shown(word), fontsize=7, ha="center", va="center", parse_math=False)
