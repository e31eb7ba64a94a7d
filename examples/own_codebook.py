"""A codebook of your own: the names of colours, each at its place in RGB.

With no encoder at all, the paper's quantizer then says an image in colours: one word at the top, more below.
Then the same codebook in a tokenizer that trains, is saved and finds its codebook again by itself.

    python examples/own_codebook.py photo.jpg --steps 200 --out colours
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import ImageColor

from spae import SPAE, Codebook, ImageProcessor, PyramidTokens, SPAEConfig, load
from spae.figures import pyramid_text
from spae_ops import Pyramid, pyramid_dequantize, pyramid_quantize


def colours() -> Codebook:
    """CSS's names of colours as words, with RGB in [-1, 1] as their vectors: [K, 3]. Of two names of one
    colour the first stays."""
    named: dict[tuple[int, ...], str] = {}
    for name in list(ImageColor.colormap):
        named.setdefault(ImageColor.getrgb(name), name)
    vectors = torch.tensor(list(named)) / 127.5 - 1
    return Codebook.from_arrays(list(named.values()), vectors, name="css-colours")


def said_in_colours(path: Path, codebook: Codebook, pyramid: Pyramid) -> str:
    """An image's pixels themselves as latents [1, 3, H, W], quantized to names."""
    image = ImageProcessor((pyramid.shape[0], pyramid.shape[1])).preprocess(path)
    codes = pyramid_quantize(image, codebook.index, pyramid)
    again = pyramid_dequantize(codes.ids, codebook.index, pyramid)
    assert again.quantized.equal(codes.quantized)  # ids alone give the same picture
    layers = PyramidTokens(codes.ids, pyramid).layers()
    error = (image - codes.quantized).square().mean().item()
    words = [[codebook.words[row] for row in layer[0].tolist()] for layer in layers]
    return f"{pyramid_text(words, pyramid)}\nmean squared error {error:.4f}"


def trained(path: Path, codebook: Codebook, steps: int) -> SPAE:
    """A small tokenizer over these words, fitted to one image."""
    torch.manual_seed(0)
    config = SPAEConfig((32, 32), (1, 2, 4, 8), channels=16, multipliers=(1, 2, 2), num_res_blocks=1)
    model = SPAE(config, codebook)
    images = model.preprocess(path).expand(4, -1, -1, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        losses = model(images).losses
        loss = losses["reconstruction"] + 0.33 * losses["commitment"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.4f}")
    return model.eval()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("colours"), help="folder for the trained model")
    arguments = parser.parse_args(argv)

    codebook = colours()
    print(said_in_colours(arguments.image, codebook, Pyramid.square(8, (1, 2, 4, 8))))
    model = trained(arguments.image, codebook, arguments.steps)
    model.save_pretrained(arguments.out)

    again = load(arguments.out)  # a codebook of your own is saved beside the weights
    image = again.preprocess(arguments.image)
    assert again.encode(image) == model.encode(image)
    print(f"{arguments.out}: {again.codebook}")


if __name__ == "__main__":
    main()
