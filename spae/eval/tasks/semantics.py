"""Do a tokenizer's words say what the images show?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spae.configs import Config, Count
from spae.eval.images import spread, stack
from spae.eval.run import Measured, Run
from spae.eval.table import markdown
from spae.losses.regions import Regions
from spae.losses.semantic import relative_scores
from spae.metrics import psnr
from spae.tokenizers import Tokenizer
from spae.tokenizers.batches import decode_all, encode_all

ABOUT = "How well each layer's words fit the images: the four splits of the emoji, or other data."
USES_LLM = False
NORMAL_95 = 1.96
_PICTURES = 12  # on the page of other data


@dataclass(frozen=True)
class Semantics(Config):
    """What is scored, and by whom.

    data: "emoji", in its four splits, or what else `open_data` opens, in its `split`. images: of other data,
    how many, evenly spread; None: all. scorer: "caption" reads names, "conse" sees pixels. regions: crops by
    which the cells of the layers are scored (`Regions`); more than the whole takes a scorer of pixels. Other
    scorers: `load_scorer`.
    """

    section = "semantics"

    data: str = "emoji"
    split: str = "test"
    images: Count | None = None
    scorer: str = "caption"
    regions: tuple[Count, ...] = (1,)

    def __post_init__(self) -> None:
        from spae.scorers import check_scorer

        super().__post_init__()
        check_scorer(self.scorer)
        if self.data == "emoji":
            for name, value, whole in (("split", self.split, "test"), ("images", self.images, None)):
                if value != whole:
                    raise ValueError(
                        f"semantics.{name}: expected the default, {whole}, for emoji, of which all four "
                        f"splits are scored whole, got {value}"
                    )
        Regions(self.regions)
        if self.scorer == "caption" and len(self.regions) > 1:
            raise ValueError(
                f"semantics.regions: expected (1,) for 'caption', which sees no pixels, got {self.regions}"
            )


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", default="emoji", help="emoji (default), another set, a folder or KIND:PLACE"
    )
    parser.add_argument("--split", default="test", help="of data other than emoji (default: test)")
    parser.add_argument("--images", type=int, help="of data other than emoji: how many (default: all)")
    parser.add_argument(
        "--scorer",
        default="caption",
        metavar="NAME",
        help="caption (default) compares words with each image's name, conse sees pixels, as does "
        "open_clip:ARCHITECTURE/CHECKPOINT, whose scores are the CLIP score and CLIP-R",
    )
    parser.add_argument(
        "--regions",
        type=int,
        nargs="+",
        default=[1],
        help="grids of crops that cells are scored by, e.g. 1 2 4 (default: 1, the whole image)",
    )


def settings(arguments: argparse.Namespace) -> Semantics:
    return Semantics(
        arguments.data, arguments.split, arguments.images, arguments.scorer, tuple(arguments.regions)
    )


def measure(run: Run) -> Measured:
    from spae.scorers import load_scorer

    chosen: Semantics = run.settings
    scorer = load_scorer(chosen.scorer)
    if chosen.data == "emoji":
        report = evaluate_emoji(run.model, scorer, Regions(chosen.regions))
        return Measured(report, partial(draw_emoji, run.model))
    return _measure_data(run.model, chosen, scorer)


def _measure_data(model: Tokenizer, chosen: Semantics, scorer: Any) -> Measured:
    from spae.data import open_data
    from spae.figures import semantics_page

    opened = open_data(chosen.data, chosen.split, image_size=model.config.image_size)
    dataset = spread(opened, chosen.images)
    images = stack(dataset, range(len(dataset)))
    regions = Regions(chosen.regions)
    features, words = _features(scorer, dataset, regions, model)
    # Images of one name are a group; where there are no names, each is one of its own.
    groups = dataset.captions if all(dataset.captions) else None
    result = evaluate_semantics(model, images, features, words, groups=groups, regions=regions)
    report = {"run": asdict(chosen), "scorer": scorer.name, "splits": {chosen.split: result}}
    page = spread(dataset, _PICTURES)
    shown = images[list(page.rows)]

    def draw(path: Path) -> None:
        semantics_page(model, shown, encode_all(model, shown), page.captions, path)

    return Measured(report, draw)


def _features(scorer: Any, dataset: Any, regions: Regions, model: Tokenizer) -> tuple[Tensor, Tensor]:
    """Of the regions of the images [N, R, E], and of the codebook's words [K, E]."""
    from spae.scorers import TextFeatureCache, region_features

    words = TextFeatureCache(scorer).features(model.codebook.words)
    return region_features(scorer, dataset, regions), words


def table(report: dict[str, Any]) -> str:
    """A report of the evaluation as a Markdown table, one row per split and layer."""
    header = [
        "split",
        "images",
        "layer",
        "words",
        "score",
        "relative score",
        "random",
        "best",
        "distinct",
        "PSNR (dB)",
    ]
    rows = [
        [
            split,
            str(result["images"]),
            str(row["layer"]),
            str(row["words_per_image"]),
            f"{row['similarity']:.3f}",
            f"{row['score']:.3f} ± {row['interval']:.3f}",
            f"{row['random']:.3f}",
            f"{row['best']:.3f}",
            f"{row['distinct']:.1f}",
            f"{row['psnr']:.2f}",
        ]
        for split, result in report["splits"].items()
        for row in result["layers"]
    ]
    alone = all(result["groups"] == result["images"] for result in report["splits"].values())
    over = "images" if alone else "concepts"
    return markdown(header, rows, f"scores by {report['scorer']}; 95% intervals over {over}")


@torch.no_grad()
def evaluate_semantics(
    model: Tokenizer,
    images: Tensor,
    guidance: Tensor,
    text_features: Tensor,
    *,
    groups: Sequence[Any] | None = None,
    regions: Regions | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """How well each layer's words fit the images, by a scorer: the mean of their relative scores (eq. 6).

    images: [N, C, H, W] in [-1, 1]. guidance: the scorer's feature of each image [N, E], or of each of its
    regions [N, R, E], by which the cells are then scored that lie in them. text_features: those of the
    codebook's words [K, E]. groups: what makes images alike, one per image; the interval is then taken over
    groups' means, as if each were one image. Where all are of one group, that says nothing: the interval is
    over images. The model should be in evaluation mode.

    For each layer: "score"; "interval", half the width of its 95% confidence interval over images (or
    groups), normal approximation; "random", what words drawn from the whole codebook get; "best", what the
    best words get, as many different ones as a region of the layer has tokens; "similarity", the mean of the
    raw scores; "distinct", how many different words an image has in the layer; "psnr" of the layers up to it,
    in dB.
    """
    regions = Regions() if regions is None else regions
    _check_features(model, len(images), guidance, text_features, len(regions))
    if groups is None or len(set(groups)) == 1:
        groups = range(len(images))
    tokens = encode_all(model, images, batch_size=batch_size)
    pyramid = model.pyramid
    of_layer = [regions.of_layer(pyramid, layer) for layer in range(pyramid.num_layers)]
    region = torch.cat(of_layer)
    share = [int(torch.bincount(rows).max()) for rows in of_layer]  # tokens that share a region
    ids, most = tokens.ids.cpu().split(batch_size), max(share)
    batches = zip(ids, guidance.split(batch_size), strict=True)
    parts = [_scores(ids, features, text_features, region, len(regions), most) for ids, features in batches]
    raw, relative, random, ranked = map(torch.cat, zip(*parts, strict=True))
    layers = []
    for layer, size in enumerate(pyramid.tokens_per_layer):
        start = pyramid.num_tokens_upto(layer)
        columns, rows = slice(start, start + size), of_layer[layer]
        words = tokens.layer(layer).sort(dim=1).values
        values = relative[:, columns].mean(1)
        decoded = decode_all(model, tokens.upto(layer + 1), batch_size=batch_size)
        layers.append(
            {
                "layer": layer + 1,
                "words_per_image": size,
                "score": values.mean().item(),
                "interval": _interval(values, groups),
                "random": random[:, rows].mean().item(),
                "best": ranked[:, rows.unique(), : share[layer]].mean().item(),
                "similarity": raw[:, columns].mean().item(),
                "distinct": 1 + (words.diff(dim=1) != 0).sum(1).float().mean().item(),
                "psnr": psnr(images, decoded).mean().item(),
            }
        )
    return {
        "images": len(images),
        "groups": len(set(groups)),
        "codebook": len(text_features),
        "layers": layers,
    }


def _check_features(
    model: Tokenizer, images: int, guidance: Tensor, text_features: Tensor, regions: int
) -> None:
    if images < 2:
        raise ValueError(f"images: expected at least 2, for figures with intervals, got {images}")
    width = text_features.shape[1]
    expected = (images, width) if regions == 1 and guidance.ndim == 2 else (images, regions, width)
    if guidance.shape != expected:
        raise ValueError(f"guidance: expected shape {list(expected)}, got {list(guidance.shape)}")
    if len(text_features) != len(model.codebook.words):
        raise ValueError(
            f"text_features: expected one row for each of {len(model.codebook.words)} words, "
            f"got {list(text_features.shape)}"
        )


def _scores(
    ids: Tensor, features: Tensor, text_features: Tensor, region: Tensor, regions: int, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids [B, n], features [B, E] or [B, R, E], text_features [K, E], the region of each token [n] -> the
    words' raw and relative scores [B, n]; of each region the mean of all words' relative scores [B, R] and
    the `most` best [B, R, most]."""
    scores = features.float().reshape(len(ids), regions, -1) @ text_features.float().T
    places = torch.arange(len(ids))[:, None], region, ids
    raw = scores[places]
    scores = relative_scores(scores.flatten(0, 1)).unflatten(0, (len(ids), regions))
    return raw, scores[places], scores.mean(2), scores.topk(min(most, scores.shape[2])).values


def evaluate_emoji(model: Tokenizer, scorer: Any = None, regions: Regions | None = None) -> dict[str, Any]:
    """`evaluate_semantics` for the four splits of the emoji, by name; images of one concept are a group.

    scorer: None means CaptionScorer, which compares words with each emoji's name.
    """
    from spae.data.emoji import SPLITS, Emoji
    from spae.scorers import CaptionScorer

    scorer = CaptionScorer() if scorer is None else scorer
    regions = Regions() if regions is None else regions
    splits = {}
    for split in SPLITS:
        dataset = Emoji(split, model.config.image_size[0])
        features, words = _features(scorer, dataset, regions, model)
        splits[split] = evaluate_semantics(
            model,
            torch.stack([image for image, _ in dataset]),
            features,
            words,
            groups=dataset.concepts,
            regions=regions,
        )
    return {"scorer": scorer.name, "splits": splits}


def draw_emoji(model: Tokenizer, path: Path, *, per_split: int = 3) -> None:
    """A page of emoji and their words: `per_split` from each of the four splits, evenly spread over it."""
    from spae.data.emoji import SPLITS, Emoji
    from spae.figures import semantics_page

    images, captions = [], []
    for split in SPLITS:
        dataset = Emoji(split, model.config.image_size[0])
        for place in range(per_split):
            item = (2 * place + 1) * len(dataset) // (2 * per_split)
            images.append(dataset[item][0])
            captions.append(f"{dataset.captions[item]}\n({split.replace('_', ' ')})")
    stacked = torch.stack(images)
    semantics_page(model, stacked, encode_all(model, stacked), captions, path)


def _interval(values: Tensor, groups: Sequence[Any]) -> float:
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index = torch.tensor([numbers[group] for group in groups])
    means = torch.zeros(len(numbers)).index_add_(0, index, values) / torch.bincount(index)
    return NORMAL_95 * means.std().item() / len(means) ** 0.5
