"""How well does a tokenizer reconstruct images of any data?"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from spae.assets import AssetError, AssetNotCached
from spae.configs import Config, Count
from spae.data import open_data
from spae.eval.images import spread, stack
from spae.eval.reconstruction import evaluate_reconstruction, layer_table, share_named
from spae.eval.run import Measured, Run
from spae.figures import reconstruction_page
from spae.models.lpips import LPIPSNetwork
from spae.tokenizers.batches import encode_all

ABOUT = "PSNR, LPIPS and the codebook's usage on held-out images, layer by layer."
USES_LLM = False
_PICTURES = 6  # on the page
table = layer_table


@dataclass(frozen=True)
class Images(Config):
    """What is reconstructed.

    data, split: see `open_data`. images: how many, evenly spread over the split; None: all.
    lpips: over which network LPIPS is measured; "none": not at all.
    """

    section = "reconstruction"

    data: str
    split: str = "test"
    images: Count | None = None
    lpips: Literal["vgg", "alex", "none"] = "vgg"


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


def settings(arguments: argparse.Namespace) -> Images:
    return Images(arguments.data, arguments.split, arguments.images, arguments.lpips)


def measure(run: Run) -> Measured:
    chosen: Images = run.settings
    opened = open_data(chosen.data, chosen.split, image_size=run.model.config.image_size)
    dataset = spread(opened, chosen.images)
    images = stack(dataset, range(len(dataset)))
    tokens = encode_all(run.model, images)
    lpips = None if chosen.lpips == "none" else _network(chosen.lpips)
    report: dict[str, Any] = {"run": asdict(chosen)} | ({"lpips_net": chosen.lpips} if lpips else {})
    report |= evaluate_reconstruction(run.model, images, tokens=tokens, lpips=lpips)
    if run.model.pyramid.tokens_per_layer[0] == 1 and all(dataset.captions):
        report["named"] = share_named(run.model, tokens, dataset.captions)
    pictures = images[:: max(1, len(images) // _PICTURES)][:_PICTURES]
    shown = encode_all(run.model, pictures)
    return Measured(report, lambda path: reconstruction_page(run.model, pictures, shown, path))


def _network(net: Literal["vgg", "alex"]) -> LPIPSNetwork | None:
    """None, and said on stderr, where the weights are missing: PSNR can be had without them."""
    try:
        return LPIPSNetwork.load(net)
    except (AssetNotCached, AssetError) as error:
        print(f"spae: LPIPS is not measured: {error}", file=sys.stderr)
        return None
