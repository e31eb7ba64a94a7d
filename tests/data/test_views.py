import pytest
import torch
from torch.utils.data import Dataset

from spae.data.views import Views


class Pictures(Dataset):
    captions = ("first", "second", "third")

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.arange(48.0).reshape(1, 6, 8) + 100 * index, index


def test_views_are_mirrored_and_shifted_and_always_the_same():
    views, again = (Views(Pictures(), 40, shift=2, seed=1) for _ in range(2))
    assert len(views) == 120
    assert views.captions == ["first", "second", "third"] * 40
    seen = set()
    for i in range(120):
        image, index = views[i]
        assert index == i % 3
        assert torch.equal(image, again[i][0])
        original = Pictures()[index][0]
        found = [
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(image, shifted(original.flip(-1) if mirrored else original, down, right))
        ]
        assert len(found) == 1
        if i < 3:
            assert found == [(False, 0, 0)]
        seen.update(found)
    assert len(seen) > 40, "of 50 possible views"
    assert not all(torch.equal(views[i][0], Views(Pictures(), 40, shift=2, seed=2)[i][0]) for i in range(120))


def shifted(image, down, right):
    rows = (torch.arange(6) + down).clamp(0, 5)
    columns = (torch.arange(8) + right).clamp(0, 7)
    return image[:, rows][:, :, columns]


def test_what_is_left_alone():
    views = Views(Pictures(), 5, shift=0, mirror=False)
    assert all(torch.equal(views[i][0], Pictures()[i % 3][0]) for i in range(15))
    images = Views([torch.zeros(1, 2, 2)], 2)
    assert images[1].shape == (1, 2, 2)
    assert torch.equal(views[-1][0], views[14][0])
    with pytest.raises(IndexError):
        views[15]
    with pytest.raises(ValueError, match="count: expected a whole number from 1, got 0"):
        Views(Pictures(), 0)
