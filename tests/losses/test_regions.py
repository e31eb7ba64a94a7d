"""Crops: where they lie, and which guides which cell."""

import pytest
import torch

from spae.losses import Regions
from spae_ops import Pyramid

PYRAMID = Pyramid.square(8, (1, 2, 4, 8))


def test_boxes_tile_the_image_where_they_just_touch():
    covered = torch.zeros(3, 12, 20)
    boxes = Regions((1, 2, 4), 1).boxes(12, 20)
    assert len(boxes) == len(Regions((1, 2, 4))) == 21
    for layer, (first, count) in enumerate([(0, 1), (1, 4), (5, 16)]):
        for top, left, height, width in boxes[first : first + count]:
            covered[layer, top : top + height, left : left + width] += 1
    assert covered.eq(1).all()


def test_context_widens_crops_within_the_image():
    boxes = Regions((1, 4), 2).boxes(16, 16)
    assert boxes[0] == (0, 0, 16, 16)
    assert boxes[1] == (0, 0, 8, 8)  # moved inwards from (-2, -2)
    assert boxes[1 + 5] == (2, 2, 8, 8)
    assert boxes[-1] == (8, 8, 8, 8)
    assert Regions((1, 2), 9).boxes(5, 7)[1:] == [(0, 0, 5, 7)] * 4
    assert all(min(box[2:]) == 1 for box in Regions((1, 8), 1).boxes(4, 4)[1:])


def test_each_cell_has_the_crop_that_holds_it():
    regions = Regions((1, 2, 4))
    whole = [regions.of_layer(PYRAMID, layer).tolist() for layer in range(4)]
    assert whole[0] == [0]
    assert whole[1] == [1, 2, 3, 4]
    assert whole[2] == list(range(5, 21))
    # 8 x 8 cells over 4 x 4 crops: two by two share one.
    finest = torch.tensor(whole[3]).reshape(8, 8)
    assert finest[0].tolist() == [5, 5, 6, 6, 7, 7, 8, 8]
    assert torch.equal(finest[::2, ::2].flatten(), torch.arange(5, 21))
    assert torch.equal(finest[1::2, 1::2], finest[::2, ::2])
    assert [Regions().of_layer(PYRAMID, layer).unique().tolist() for layer in range(4)] == [[0]] * 4


def test_a_crop_never_cuts_a_cell():
    pyramid = Pyramid.square(6, (1, 3, 6))
    regions = Regions((1, 2, 3))
    assert regions.of_layer(pyramid, 1).tolist() == list(range(5, 14))  # not by 2: 3 cells do not halve
    assert regions.of_layer(Pyramid.square(6, (1, 2, 6)), 1).tolist() == [1, 2, 3, 4]
    assert Regions().of_layer(Pyramid((2, 4, 4), ((1, 1, 1), (2, 4, 4))), 1).tolist() == [0] * 32
    with pytest.raises(ValueError, match=r"regions.grids: expected \(1,\) for a grid of \(2, 4, 4\)"):
        regions.of_layer(Pyramid((2, 4, 4), ((1, 1, 1), (2, 4, 4))), 1)


def test_mirrored_regions_are_those_of_the_mirrored_image():
    regions = Regions((1, 2, 4), 1.5)
    image = torch.rand(12, 20)

    def seen(picture):
        return [picture[y : y + h, x : x + w] for y, x, h, w in regions.boxes(*picture.shape)]

    mirrored, straight = seen(image.flip(1)), seen(image)
    for region, source in enumerate(regions.mirrored().tolist()):
        assert torch.equal(mirrored[region].flip(1), straight[source])


def test_blending_moves_crops_towards_the_whole():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]])[None]
    blended = Regions((1, 2), blend=0.25).blended(features)
    assert torch.equal(blended[0, 0], features[0, 0])
    assert blended[0, 2].tolist() == [0.25, 1.5]
    assert torch.equal(Regions((1, 2)).blended(features), features)


@pytest.mark.parametrize(
    ("grids", "options", "message"),
    [
        ((2, 4), {}, r"regions.grids: expected numbers ascending from 1, as in \[1, 2, 4\], got \(2, 4\)"),
        ((1, 4, 2), {}, r"got \(1, 4, 2\)"),
        ((1, 2, 2), {}, r"got \(1, 2, 2\)"),
        ((), {}, r"got \(\)"),
        ((1, 0), {}, r"regions.grids: expected a list of: a whole number from 1, got \(1, 0\)"),
        ((1,), {"context": 0.5}, r"regions.context: expected a number from 1, got 0.5"),
        ((1,), {"blend": 2}, r"regions.blend: expected a number from 0 to 1, got 2"),
    ],
)
def test_errors(grids, options, message):
    with pytest.raises(ValueError, match=message):
        Regions(grids, **options)


def test_frames_of_a_clip_guide_the_cells_that_they_lie_in():
    clip = Pyramid((6, 2, 2), ((1, 1, 1), (3, 1, 1), (6, 2, 2), (2, 2, 2)))
    regions = Regions(moments=3)
    assert len(regions) == 4
    assert regions.of_layer(clip, 0).tolist() == [0]
    assert regions.of_layer(clip, 1).tolist() == [1, 2, 3]
    assert regions.of_layer(clip, 2).tolist() == [1] * 8 + [2] * 8 + [3] * 8
    assert regions.of_layer(clip, 3).tolist() == [0] * 8  # two cells do not hold three frames
    # Of 12 frames a cell holds two, and the frame that is seen lies in its third; causal clips of 9 likewise.
    assert [frame // 4 for frame in regions.frames(12)] == [0, 1, 2]
    assert [-(-frame // 4) for frame in regions.frames(9)] == [0, 1, 2]
    assert regions.mirrored().tolist() == [0, 1, 2, 3]
    section = "objective.semantic.regions"
    with pytest.raises(ValueError, match=rf"{section}.moments: expected 1 for a grid of \(1, 1\), .* got 3"):
        regions.of_layer(PYRAMID, 0)
    with pytest.raises(ValueError, match=rf"{section}.moments: expected at most 2, got 3"):
        regions.frames(2)
    with pytest.raises(
        ValueError, match=rf"{section}.moments: expected 1 beside grids of crops, \(1, 2\), got 3"
    ):
        Regions((1, 2), moments=3)
