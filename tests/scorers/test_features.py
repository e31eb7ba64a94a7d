"""The caption scorer and the caches of features, with an encoder of letters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spae import assets
from spae.models.minilm import MiniLM
from spae.scorers import CaptionScorer, ImageTextScorer, TextFeatureCache, dataset_features
from spae.scorers.protocol import checksum_of

WORDS = [" cat", "dog", "cat", "\ud800", "naïve", "zebra", "x"]


def letters(texts) -> Tensor:
    codes = [np.bincount([ord(c) % 8 for c in text] + [9], minlength=10) for text in texts]
    return torch.tensor(np.array(codes), dtype=torch.float64)


class Pixels:
    """A scorer of mean colours."""

    name, checksum = "mean colour", "c0"

    def image_features(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.mean((2, 3)) + 2, dim=1)

    def text_features(self, texts) -> Tensor:
        return torch.ones(len(texts), 3) / 3**0.5


class Captioned:
    def __init__(self, captions):
        self.captions = captions

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((3, 4, 4), index / 5), index


@pytest.fixture
def scorer(monkeypatch, tmp_path) -> CaptionScorer:
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    return CaptionScorer(letters, name="a/b letters", checksum="abc")


def test_captions_score_words_by_text(scorer):
    assert isinstance(scorer, ImageTextScorer)
    words = scorer.text_features(["cat", "dog", "zebra"])
    torch.testing.assert_close(words.norm(dim=1), torch.ones(3))
    assert words.dtype == torch.float32
    scores = scorer.caption_features(["dog", "cat"]) @ words.T
    assert scores.argmax(1).tolist() == [1, 0]


def test_pixels_hold_no_caption(scorer):
    with pytest.raises(TypeError, match=r"caption_features.*dataset_features"):
        scorer.image_features(torch.zeros(1, 3, 8, 8))


def test_another_encoder_needs_an_identity():
    with pytest.raises(ValueError, match="checksum: expected one for an encoder other than MiniLM"):
        CaptionScorer(letters)


def test_features_are_computed_once(scorer, capsys):
    first = TextFeatureCache(scorer, chunk=3).features(WORDS)
    torch.testing.assert_close(first, scorer.text_features(WORDS))
    assert "a/b letters: words 7 of 7" in capsys.readouterr().err
    scorer.encoder = None
    again = TextFeatureCache(scorer, chunk=2).features(list(WORDS))
    assert torch.equal(first, again)
    again[0] = 0  # what a careless caller changes stays with them
    assert torch.equal(TextFeatureCache(scorer).features(WORDS), first)


def test_other_words_and_other_scorers_have_their_own(scorer):
    entry = TextFeatureCache(scorer).entry(WORDS)
    others = [
        TextFeatureCache(scorer).entry(WORDS[::-1]),
        TextFeatureCache(scorer).entry([*WORDS[:-2], WORDS[-2] + WORDS[-1]]),
        TextFeatureCache(CaptionScorer(letters, name="a/b letters", checksum="abd")).entry(WORDS),
    ]
    assert len({entry, *others}) == 4


def test_an_interrupted_computation_goes_on(scorer, monkeypatch):
    calls = []
    compute = scorer.text_features

    def interrupted(words):
        calls.append(list(words))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(words)

    monkeypatch.setattr(scorer, "text_features", interrupted)
    cache = TextFeatureCache(scorer, chunk=3, progress=False)
    with pytest.raises(KeyboardInterrupt):
        cache.features(WORDS)
    torch.testing.assert_close(cache.features(WORDS), compute(WORDS))
    assert calls == [WORDS[:3], WORDS[3:6], WORDS[3:6], WORDS[6:]]
    assert not list(assets.cache_root().rglob("*.parts"))


def test_bad_words_and_features_are_refused(scorer, monkeypatch):
    with pytest.raises(ValueError, match="words: expected at least one"):
        TextFeatureCache(scorer).features([])
    with pytest.raises(ValueError, match="chunk: expected at least 1, got 0"):
        TextFeatureCache(scorer, chunk=0)
    monkeypatch.setattr(scorer, "text_features", lambda words: torch.zeros(2, 3))
    with pytest.raises(
        ValueError, match=r"scorer: expected text_features \[7, E\] for 7 words, got \[2, 3\]"
    ):
        TextFeatureCache(scorer).features(WORDS)


def test_every_image_of_a_dataset(scorer, capsys):
    dataset = Captioned(["dog", "cat", "dog", "zebra", "cat"])
    torch.testing.assert_close(dataset_features(scorer, dataset), scorer.text_features(dataset.captions))
    features = dataset_features(Pixels(), dataset, batch_size=2)
    images = torch.stack([dataset[i][0] for i in range(5)])
    torch.testing.assert_close(features, Pixels().image_features(images))
    assert "images 5 of 5" in capsys.readouterr().err
    with pytest.raises(
        ValueError,
        match=r"dataset: expected a name for each of the 5 images, for .* reads names, got 0 .* In a folder",
    ):
        dataset_features(scorer, Captioned(None))


def test_features_that_are_not_finite_are_named_and_not_kept(scorer, monkeypatch):
    compute = scorer.text_features
    bad = WORDS[4]
    monkeypatch.setattr(
        scorer,
        "text_features",
        lambda words: torch.where(
            torch.tensor([[word == bad] for word in words]), float("nan"), compute(words)
        ),
    )
    for _ in range(2):
        with pytest.raises(
            ValueError, match=rf"scorer: expected finite features of .*, got \[nan.* for {bad!r}"
        ):
            TextFeatureCache(scorer, chunk=3, progress=False).features(WORDS)
    monkeypatch.setattr(scorer, "text_features", compute)
    torch.testing.assert_close(
        TextFeatureCache(scorer, chunk=3, progress=False).features(WORDS), compute(WORDS)
    )

    class Dark(Pixels):
        def image_features(self, images):
            return super().image_features(images) / (images.mean((1, 2, 3))[:, None] != 0)

    with pytest.raises(ValueError, match=r"expected finite features of mean colour, got .* for 0"):
        dataset_features(Dark(), Captioned(None), batch_size=2, progress=False)
    monkeypatch.setattr(scorer, "caption_features", lambda texts: compute(texts) / 0)
    with pytest.raises(ValueError, match=r"expected finite features of a/b letters, got .* for 'dog'"):
        dataset_features(scorer, Captioned(["dog", "cat"] * 2 + ["zebra"]))


@pytest.mark.parametrize("found", [None, torch.device("cuda")])
def test_scorers_are_where_images_are(monkeypatch, found):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    asked = []
    monkeypatch.setattr(MiniLM, "load", lambda device: asked.append(device))
    CaptionScorer()
    CaptionScorer(device="meta")
    assert asked == [found or torch.device("cpu"), torch.device("meta")]


def test_checksums_see_names_values_and_settings():
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bfloat16)}
    sums = [
        checksum_of(tensors),
        checksum_of(tensors, 1),
        checksum_of({"c": tensors["a"], "b": tensors["b"]}),
        checksum_of(tensors | {"a": torch.tensor([0.0, 1.0, 2.5])}),
        checksum_of(tensors | {"a": torch.arange(3)}),
    ]
    assert len(set(sums)) == len(sums)
    assert checksum_of(dict(tensors)) == sums[0]


def test_minilm_scores_captions():
    pytest.importorskip("transformers", reason="needs the package transformers")
    scorer = CaptionScorer()
    assert len(scorer.checksum) == 64
    scores = scorer.caption_features(["fire engine"]) @ scorer.text_features([" truck", " daisy", " Truck"]).T
    assert scores[0, 0] > 0.4 > scores[0, 1]
    assert scores[0, 0] == scores[0, 2]
