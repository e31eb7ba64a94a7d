"""A tokenizer trained on a folder of your own images.

What lies beside the images as captions (1.txt for 1.png, metadata.csv, ..) or as folders of classes is read;
images fall to training and test by their names, so that more images can be added later. The same command goes
on where a run has stopped.

    python examples/own_folder.py photos --size 64 --steps 2000 --out runs/photos
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from spae import load
from spae.data import open_data
from spae.eval.reconstruction import evaluate_reconstruction, layer_table
from spae.training import Preset, train


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--channels", type=int, default=32, help="width of the network")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--codebook", default="smollm2", help="what Codebook.load takes")
    parser.add_argument("--out", type=Path, default=Path("runs/own-folder"))
    arguments = parser.parse_args(argv)

    # A preset is plain data: its JSON file and `spae train --set` say the same.
    preset = Preset(
        data=str(arguments.folder),
        codebook={"source": arguments.codebook, "normalise": "centre"},
        model={
            "image_size": (arguments.size, arguments.size),
            "grids": (1, 2, 4, arguments.size // 8),  # the encoder makes a latent of 8 x 8 pixels
            "channels": arguments.channels,
            "num_res_blocks": 1,
        },
        train={
            "steps": arguments.steps,
            "batch_size": arguments.batch_size,
            "learning_rate": 1e-3,
            "schedule": "constant",
            "warmup_steps": arguments.steps // 20,
            "cooldown_steps": arguments.steps // 2,
            "loss_weights": {"reconstruction": 1.0, "commitment": 0.33},
            "eval_every": max(1, arguments.steps // 8),
            "log_every": max(1, arguments.steps // 100),
        },
    )
    if not train(preset, arguments.out):
        return  # a signal ended it; the same command goes on

    model = load(arguments.out / "model")
    held_out = open_data(str(arguments.folder), "test", image_size=arguments.size)
    images = torch.stack([held_out[number].image for number in range(len(held_out))])
    print(layer_table(evaluate_reconstruction(model, images)))
    print(
        f"pictures and words: spae view {arguments.folder} --model {arguments.out / 'model'} --out page.html"
    )


if __name__ == "__main__":
    main()
