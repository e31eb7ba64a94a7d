"""A tiny model in a folder, and pictures beside it."""

import numpy as np
import pytest
import torch
from PIL import Image

from spae import SPAE, Codebook, SPAEConfig


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The folder of a tiny model, saved with a codebook of 40 words, so that the command line can load both;
    grids of 1, 4 and 16. The current folder is empty."""
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" w{i}" for i in range(40)], torch.randn(40, 6))
    book.save(tmp_path / "book")
    book = Codebook.load(tmp_path / "book")
    config = SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    SPAE(config, book).eval().save_pretrained(tmp_path / "model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(tmp_path / "model")


@pytest.fixture
def picture():
    """Draws a random picture into a file: picture(path, seed)."""

    def draw(path, seed=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return draw
