"""How well does a tokenizer reconstruct images of any data?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from spae.assets import AssetError, AssetNotCached
from spae.clips import clip_page
from spae.configs import Config, Count
from spae.data import open_data
from spae.eval.features import ImageFeatures
from spae.eval.images import spread, stack
from spae.eval.reconstruction import evaluate_reconstruction, layer_table, quality_curves, share_named
from spae.eval.run import Measured, Run
from spae.figures import reconstruction_page
from spae.models.dists import DISTSNetwork
from spae.models.lpips import LPIPSNetwork
from spae.tokenizers import Tokenizer
from spae.tokenizers.batches import encode_all

T = TypeVar("T")

ABOUT = "PSNR, SSIM, LPIPS, distances of features and the codebook's usage on held-out images, by layer."
USES_LLM = False
_PICTURES = 6  # on the page
_INCEPTION = "inception:"
table, draw_models = layer_table, quality_curves


@dataclass(frozen=True)
class Images(Config):
    """What is reconstructed.

    data, split: see `open_data`. images: how many, evenly spread over the split; None: all.
    lpips: over which network LPIPS is measured; "none": not at all. features: of which network the
    distributions are compared, "lite0" or "inception:FILE" of its weights; "none": not at all. dists: measure
    DISTS, too. All see colours: none is measured of other pictures than those of three channels. Of clips
    LPIPS and DISTS are the mean over frames, and features are `over_time`.
    """

    section = "reconstruction"

    data: str
    split: str = "test"
    images: Count | None = None
    lpips: Literal["vgg", "alex", "none"] = "vgg"
    features: str = "lite0"
    dists: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features not in ("lite0", "none") and not self.features.startswith(_INCEPTION):
            raise ValueError(f"features: expected lite0, inception:FILE or none, got {self.features!r}")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, help="a set by name, a folder, KIND:PLACE, or a mapping in JSON (open_data)"
    )
    parser.add_argument("--split", default="test", help="(default: test)")
    parser.add_argument("--images", type=int, help="how many, evenly spread (default: all)")
    parser.add_argument(
        "--lpips",
        choices=("vgg", "alex", "none"),
        default="vgg",
        help="the network that LPIPS is measured with, if its weights can be had (default: vgg)",
    )
    parser.add_argument(
        "--features",
        default="lite0",
        help="whose features' distributions are compared: lite0, if its weights can be had (default); "
        "inception:FILE, torch-fidelity's weights; or none",
    )
    parser.add_argument("--dists", action="store_true", help="measure DISTS over VGG16, too")


def settings(arguments: argparse.Namespace) -> Images:
    chosen = arguments.lpips, arguments.features, arguments.dists
    return Images(arguments.data, arguments.split, arguments.images, *chosen)


def measure(run: Run) -> Measured:
    chosen: Images = run.settings
    opened = open_data(chosen.data, chosen.split, image_size=run.model.config.image_size)
    dataset = spread(opened, chosen.images)
    images = stack(dataset, range(len(dataset)))
    tokens = encode_all(run.model, images)
    net = chosen.lpips
    colours = images.shape[1] == 3
    loaders: dict[str, tuple[str, Callable[[], nn.Module]]] = {}
    if net != "none" and colours:
        loaders["lpips"] = "LPIPS is", lambda: LPIPSNetwork.load(net)
    if chosen.dists and colours:
        loaders["dists"] = "DISTS is", DISTSNetwork.load
    loaded = {name: _or_none(*of) for name, of in loaders.items()}
    distances = {name: _of_frames(of) if images.ndim == 5 else of for name, of in loaded.items() if of}
    moving = images.ndim == 5
    wanted = chosen.features != "none" and len(images) > 2 and colours
    load_features = partial(_features, chosen.features, moving)
    report: dict[str, Any] = {"run": asdict(chosen)} | ({"lpips_net": net} if "lpips" in distances else {})
    report["parameters"] = sum(weights.numel() for weights in run.model.parameters())
    report |= evaluate_reconstruction(
        run.model,
        images,
        tokens=tokens,
        distances=distances,
        similarity=images.ndim == 4,
        features=_or_none("the features' distributions are", load_features) if wanted else None,
    )
    said = not _first_words(run.model).isdisjoint(dataset.captions)  # "3 moving left" cannot be
    if run.model.pyramid.tokens_per_layer[0] == 1 and all(dataset.captions) and said:
        report["named"] = share_named(run.model, tokens, dataset.captions)
    pictures = images[:: max(1, len(images) // _PICTURES)][:_PICTURES]
    shown = encode_all(run.model, pictures)
    if moving:
        return Measured(report, lambda path: clip_page(run.model, pictures, shown, path.with_suffix(".gif")))
    return Measured(report, lambda path: reconstruction_page(run.model, pictures, shown, path))


def _first_words(model: Tokenizer) -> set[str]:
    """What the first layer may say, without leading spaces."""
    masks, words = model.word_masks, model.codebook.words
    rows = range(len(words)) if masks is None else masks[0].nonzero()[:, 0].tolist()
    return {words[row].strip() for row in rows}


def _features(name: str, moving: bool) -> ImageFeatures:
    if name == "lite0":
        return ImageFeatures.lite0_over_time() if moving else ImageFeatures.lite0()
    features = ImageFeatures.inception(name.removeprefix(_INCEPTION))
    return features.over_time() if moving else features


def _of_frames(network: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Of clips [B, C, T, H, W] the mean over their frames."""

    def of_clips(clips: Tensor, others: Tensor) -> Tensor:
        frames = (video.transpose(1, 2).flatten(0, 1) for video in (clips, others))
        return network(*frames).reshape(len(clips), -1).mean(1)

    return of_clips


def _or_none(what: str, load: Callable[[], T]) -> T | None:
    """None, and said on stderr, where the weights are missing: the rest can be had without them."""
    try:
        return load()
    except (AssetNotCached, AssetError) as error:
        print(f"spae: {what} not measured: {error}", file=sys.stderr)
        return None
