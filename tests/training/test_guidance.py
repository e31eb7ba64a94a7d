"""Guidance by configuration: what each entry makes of the loss and the data, with toy scorers."""

from typing import Any

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig, scorers
from spae.codebook import kinds
from spae.data import Views
from spae.losses import Regions
from spae.training.guidance import GuidedImages, allowed_words, check_guidance, semantic_guidance
from spae_ops import Pyramid

WORDS = [" cat", " dog", " red", " blue", " run", " wood", " idea", " glass"]


class Colours:
    """Sees an image's mean colour; words are colours, too."""

    name, checksum = "colours", "0123"

    @staticmethod
    def text_features(texts):
        table = torch.nn.functional.normalize(
            torch.randn(len(WORDS), 3, generator=torch.Generator().manual_seed(1)), dim=1
        )
        return torch.stack([table[WORDS.index(text)] for text in texts])

    @staticmethod
    def image_features(images):
        return torch.nn.functional.normalize(images.mean((2, 3)) + 0.1, dim=1)


@pytest.fixture(autouse=True)
def toys(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    monkeypatch.setattr(scorers, "ConSEScorer", Colours)
    listed = {"things": [0, 1, 7], "actions": [4], "materials": [5, 7]}
    real = kinds.of_kind
    monkeypatch.setattr(
        "spae.training.guidance.of_kind",
        lambda words, kind: listed[kind] if kind in listed else real(words, kind),
    )


def model():
    torch.manual_seed(0)
    book = Codebook.from_arrays(WORDS, torch.randn(len(WORDS), 6))
    return SPAE(SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1), book)


def data(count=5) -> Any:
    generator = torch.Generator().manual_seed(2)
    return [(torch.rand(3, 16, 16, generator=generator) * 2 - 1, "x") for _ in range(count)]


def test_the_default_is_one_feature_an_image_and_the_paper_s_rules():
    loss, guided = semantic_guidance({"scorer": "conse", "thresholds": [0.9, 0.8]}, model(), data())
    assert guided[2][1].shape == (3,)
    assert torch.equal(guided[2][1], Colours.image_features(data()[2][0][None])[0])
    rules = loss.rules
    assert (rules.draw, rules.least, rules.most, rules.offset, rules.allowed) == (
        "uniform",
        None,
        None,
        None,
        None,
    )
    assert rules.regions == Regions()


def test_every_entry_reaches_the_loss():
    entries = {
        "scorer": "conse",
        "thresholds": [0.9, 0.8],
        "draw": "ranked",
        "least": [1, 4],
        "most": 6,
        "regions": {"grids": [1, 2], "context": 1, "blend": 0.5},
        "hubs": 0.5,
        "hub_neighbours": None,
        "words": ["things", ["colours", "materials"]],
    }
    check_guidance(entries)
    tokenizer = model()
    loss, guided = semantic_guidance(entries, tokenizer, data())
    image, feature = guided[1]
    assert feature.shape == (5, 3)
    top_right = Colours.image_features(image[None, :, :8, 8:])[0]
    whole = Colours.image_features(image[None])[0]
    torch.testing.assert_close(feature[2], (top_right + whole) / 2)
    assert (loss.rules.draw, loss.rules.least, loss.rules.most) == ("ranked", (1, 4), 6)
    means = Colours.image_features(torch.stack([image for image, _ in data()])).mean(0)
    torch.testing.assert_close(loss.rules.offset, 0.5 * Colours.text_features(WORDS) @ means)
    assert loss.rules.allowed.nonzero().tolist() == [[0, 0], [0, 1], [0, 7], [1, 2], [1, 3], [1, 5], [1, 7]]
    images, guidance = (torch.stack(part) for part in zip(*guided, strict=True))
    targets = loss.targets(guidance, tokenizer.pyramid, 5)
    assert set(targets[0].flatten().tolist()) <= {0, 1, 7}
    assert all(sorted(row) == [2, 3, 5, 7] for row in targets[1].tolist())
    loss(tokenizer(images), guidance).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.encoder.parameters())


def test_views_share_their_image_s_features_and_mirror_its_regions():
    views = Views(data(), 4, shift=0)
    entries = {"scorer": "conse", "regions": {"grids": [1, 2], "context": 1}, "thresholds": [0.9]}
    _, guided = semantic_guidance(entries, model(), views)
    assert len(guided) == 20
    mirrored = [index for index in range(20) if views.mirrored(index)]
    assert 0 < len(mirrored) < 15
    for index in range(20):
        image, feature = guided[index]
        assert torch.equal(image, views[index][0])
        seen = [image[:, y : y + h, x : x + w] for y, x, h, w in Regions((1, 2), 1).boxes(16, 16)]
        expected = torch.cat([Colours.image_features(crop[None]) for crop in seen])
        torch.testing.assert_close(feature, expected)


def test_guided_images_want_a_row_for_each():
    regions = Regions((1, 2))
    with pytest.raises(ValueError, match=r"features: expected \[5, 5, E\], got \[5, 3\]"):
        GuidedImages(data(), torch.zeros(5, 3), regions)
    with pytest.raises(ValueError, match=r"features: expected \[5, E\], got \[5, 5, 3\]"):
        GuidedImages(data(), torch.zeros(5, 5, 3))
    with pytest.raises(ValueError, match=r"features: expected \[5, E\], got \[20, 3\]"):
        GuidedImages(Views(data(), 4), torch.zeros(20, 3))


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ("all", [range(8), range(8)]),
        ("things", [[0, 1, 7], [0, 1, 7]]),
        (["things", "actions"], [[0, 1, 4, 7], [0, 1, 4, 7]]),
        (["things", ["actions", "colours"]], [[0, 1, 7], [2, 3, 4]]),
        ([["all"], ["materials"]], [range(8), [5, 7]]),
    ],
)
def test_kinds_for_all_layers_or_for_each(wanted, rows):
    allowed = allowed_words(WORDS, wanted, 2)
    assert [layer.nonzero()[:, 0].tolist() for layer in allowed] == [list(row) for row in rows]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"draw": "best"}, r"objective.semantic.draw: expected one of 'uniform', .*, got 'best'"),
        ({"least": [1, 2, 3], "thresholds": [0.9]}, r"least: expected one for each of 1 layers, got \(1, 2, 3\)"),
        ({"least": 4, "most": 2}, "least: expected at most 2, the most, got 4"),
        ({"regions": {"grids": [2]}}, r"objective.semantic.regions.grids: expected numbers ascending from 1"),
        ({"regions": {"size": 2}}, r"objective.semantic.regions: expected no fields but grids, .*, got \['size'\]"),
        ({"regions": 4}, r"objective.semantic.regions: expected a mapping .*, got 4"),
        ({"scorer": "caption", "regions": {"grids": [1, 2]}}, r"regions.grids: expected \(1,\) for the scorer 'caption', which sees no pixels, got \(1, 2\)"),
        ({"hubs": -1}, r"objective.semantic.hubs: expected a number from 0, got -1"),
        ({"hub_neighbours": 0}, r"objective.semantic.hub_neighbours: expected a whole number from 1 or null, got 0"),
        ({"words": "feelings"}, r"objective.semantic.words: expected one of 'all', .*, got 'feelings'"),
        ({"words": ["things", ["all"], "actions"], "thresholds": [0.9]}, r"objective.semantic.words: expected kinds for each of 1 guided layers"),
    ],
)  # fmt: skip
def test_entries_are_checked_before_anything_is_loaded(entries, message):
    with pytest.raises(ValueError, match=message):
        check_guidance({"scorer": "conse", **entries})


def test_a_codebook_without_such_words_is_named():
    with pytest.raises(
        ValueError, match=r"objective.semantic.words: expected words in the codebook .*'colours'"
    ):
        allowed_words([" cat"], "colours", 1)


def test_a_pyramid_of_video_is_guided_as_a_whole():
    pyramid = Pyramid((2, 4, 4), ((1, 1, 1), (2, 4, 4)))
    entries = {"scorer": "conse", "thresholds": [1.0, 1.0]}
    loss, guided = semantic_guidance(entries, model(), data())
    guidance = guided.features
    best = (guidance @ Colours.text_features(WORDS).T).argmax(1, keepdim=True)
    first, second = loss.targets(guidance, pyramid, 5)
    assert torch.equal(first, best)
    assert torch.equal(second, best.expand(5, 32))
    loss, guided = semantic_guidance(entries | {"regions": {"grids": [1, 2]}}, model(), data())
    with pytest.raises(ValueError, match=r"regions.grids: expected \(1,\) for a grid of \(1, 1, 1\)"):
        loss.targets(guided.features, pyramid, 5)


def test_frames_of_a_clip_guide_the_words_of_their_moments():
    pyramid = Pyramid((3, 4, 4), ((1, 1, 1), (3, 1, 1), (3, 4, 4)))
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # of each moment
    moving = colours.T[:, :, None, None].expand(3, 3, 16, 16)
    clips: Any = [(moving, "x"), (torch.zeros(3, 3, 16, 16), "y")]
    entries = {"scorer": "conse", "thresholds": [1.0] * 3, "regions": {"moments": 3}}
    loss, guided = semantic_guidance(entries, model(), clips)
    assert guided[0][1].shape == (4, 3)
    whole, moments, cells = loss.targets(guided.features, pyramid, 2)
    words = Colours.text_features(WORDS)
    for clip in range(2):
        seen = torch.stack([Colours.image_features(clips[clip][0][None, :, t])[0] for t in range(3)])
        best = (seen @ words.T).argmax(1)
        assert len(best.unique()) == (3 if clip == 0 else 1)
        assert torch.equal(moments[clip], best)
        assert torch.equal(cells[clip], best.repeat_interleave(16))
        assert whole[clip].tolist() == [(seen.mean(0) @ words.T).argmax()]
    with pytest.raises(ValueError, match=r"regions.moments: expected 1 for the scorer 'caption', .* got 3"):
        check_guidance({**entries, "scorer": "caption"})
