"""A tiny model in a folder, and pictures of two classes beside it."""

import numpy as np
import pytest
import torch
from PIL import Image

from spae import SPAE, Codebook, SPAEConfig


@pytest.fixture
def toy(tmp_path):
    """The folder of a tiny model of 40 words, in grids of 1, 4 and 16."""
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" w{i}" for i in range(40)], torch.randn(40, 6))
    book.save(tmp_path / "book")
    config = SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    SPAE(config, Codebook.load(tmp_path / "book")).eval().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def photos(tmp_path):
    """23 pictures in two folders, of which the fifth and the last are damaged; one has a caption."""
    for number in range(23):
        path = tmp_path / "photos" / ("red_things" if number < 12 else "blue") / f"{number:02}.x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number in (4, 22):
            path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "photos/blue/13.x.txt").write_text("thirteen, größer")
    return tmp_path / "photos"
