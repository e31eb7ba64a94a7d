"""Features of crops: of the right pixels, kept, and resumed."""

import pytest
import torch
import torch.nn.functional as F

from spae.losses import Regions
from spae.scorers import CaptionScorer, region_features


class Means:
    """An image's feature is its mean colour; counts the images that it sees."""

    name = "means"

    def __init__(self, checksum="0", stops_after=None):
        self.checksum, self.stops_after, self.seen = checksum, stops_after, 0

    def image_features(self, images):
        if self.stops_after is not None and self.seen >= self.stops_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return images.mean((2, 3))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    return tmp_path


def quarters(*values):
    """An image whose quarters have these values."""
    return F.interpolate(torch.tensor(values).float().reshape(1, 1, 2, 2), (8, 8))[0].expand(3, 8, 8)


IMAGES = [(quarters(0, 1, 2, 3), "label"), (quarters(4, 5, 6, 7), "label"), (quarters(9, 9, 9, 9), "label")]


def test_each_region_is_seen_alone():
    features = region_features(Means(), IMAGES, Regions((1, 2), 1), progress=False)
    assert features.shape == (3, 5, 3)
    assert features[0, :, 0].tolist() == [1.5, 0, 1, 2, 3]
    assert features[1, :, 2].tolist() == [5.5, 4, 5, 6, 7]
    wider = region_features(Means(), IMAGES, Regions((1, 2), 1.5), progress=False)
    assert 0 < wider[0, 1, 0] < 1.5, "some of its neighbours"


def test_features_are_kept_for_the_same_scorer_regions_and_pixels():
    def asked(scorer, images=IMAGES, regions=None):
        region_features(scorer, images, regions or Regions((1, 2)), progress=False)
        return scorer.seen

    assert asked(Means()) == 15
    assert asked(Means()) == 0
    assert asked(Means(checksum="1")) == 15
    assert asked(Means(), IMAGES[:2]) == 10
    assert asked(Means(), [(image + 1e-3, label) for image, label in IMAGES]) == 15
    assert asked(Means(), regions=Regions((1, 2), 2)) == 15
    assert asked(Means(), regions=Regions()) == 3
    assert asked(Means(), regions=Regions((1, 2), blend=0.5)) == 0, "blending comes after"


def test_an_interrupted_computation_goes_on(cache):
    straight = region_features(Means(), IMAGES, Regions((1, 2)), chunk=1, progress=False)
    with pytest.raises(KeyboardInterrupt):
        region_features(Means("2", stops_after=7), IMAGES, Regions((1, 2)), chunk=1, progress=False)
    rest = Means("2")
    assert torch.equal(region_features(rest, IMAGES, Regions((1, 2)), chunk=1, progress=False), straight)
    assert rest.seen == 10, "the first image was done"
    assert not list(cache.rglob("*.parts"))


def test_captions_have_no_regions():
    class Captioned(list):
        captions = ("a", "bb", "a")

    scorer = CaptionScorer(lambda texts: torch.tensor([[len(text), 1.0] for text in texts]), checksum="0")
    features = region_features(scorer, Captioned(IMAGES), Regions(), progress=False)
    assert torch.equal(features[:, 0], scorer.caption_features(Captioned.captions))
    with pytest.raises(
        ValueError, match=r"regions.grids: expected \(1,\) for caption-minilm, which reads names"
    ):
        region_features(scorer, Captioned(IMAGES), Regions((1, 2)))


def test_a_feature_that_is_not_finite_is_named_and_not_kept(cache):
    class Broken(Means):
        def image_features(self, images):
            return super().image_features(images) / (images.mean((2, 3)) != 5.5)

    with pytest.raises(ValueError, match=r"scorer: expected finite features of means, got .* for 1"):
        region_features(Broken(), IMAGES, Regions(), progress=False)
    assert not list(cache.rglob("features.npy"))


def test_frames_of_clips_are_seen_one_by_one():
    clip = torch.stack([torch.full((3, 8, 8), float(value)) for value in range(1, 10)], 1)
    clip[1:] = 0
    clips = [(clip, "label"), (-clip, "label")]

    class Unit(Means):
        def image_features(self, images):
            return F.normalize(super().image_features(images) + torch.tensor([0.0, 1.0, 0.0]), dim=1)

    frames = F.normalize(torch.tensor([[1.0, 1, 0], [5, 1, 0], [9, 1, 0]]), dim=1)
    features = region_features(Unit(), clips, Regions(moments=3), progress=False)
    torch.testing.assert_close(features[0, 1:], frames)
    torch.testing.assert_close(features[0, 0], F.normalize(frames.mean(0), dim=0))
    torch.testing.assert_close(features[1], features[0] * torch.tensor([-1.0, 1, 1]))
    whole = region_features(Unit(), clips, Regions(), progress=False)
    torch.testing.assert_close(whole[0], frames[1:2])  # the middle one
    with pytest.raises(ValueError, match=r"regions.grids: expected \(1,\) for clips, got \(1, 2\)"):
        region_features(Unit(), clips, Regions((1, 2)), progress=False)
    with pytest.raises(ValueError, match=r"regions.moments: expected 1 for images, got 3"):
        region_features(Unit(), IMAGES, Regions(moments=3), progress=False)
    named = CaptionScorer(lambda texts: torch.ones(len(texts), 1), checksum="0")
    with pytest.raises(
        ValueError, match=r"regions.moments: expected 1 for caption-minilm, .* no frames, got 3"
    ):
        region_features(named, clips, Regions(moments=3), progress=False)
