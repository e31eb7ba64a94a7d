"""What the trials share: an empty folder to work in, and a small codebook."""

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig

NOUNS = (
    "apple",
    "pear",
    "egg",
    "dog",
    "cat",
    "fox",
    "bird",
    "ship",
    "car",
    "tree",
    "leaf",
    "sun",
    "moon",
    "star",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    return Codebook.from_arrays([f" {noun}" for noun in NOUNS], torch.randn(len(NOUNS), 8), name="nouns")


@pytest.fixture
def model(codebook):
    """An untrained tokenizer of 32x32 pixels, whose statistics have seen some images."""
    torch.manual_seed(0)
    config = SPAEConfig((32, 32), (1, 2, 4), channels=8, multipliers=(1, 1, 1, 1), num_res_blocks=1)
    model = SPAE(config, codebook)
    for _ in range(4):
        model(torch.rand(4, 3, 32, 32) * 2 - 1)
    return model.eval()
