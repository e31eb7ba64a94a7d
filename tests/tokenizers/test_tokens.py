"""A batch of tokens as a sequence, and the plain-tensor face of tokenizers."""

from __future__ import annotations

import io

import pytest
import torch
from torch.utils.data import DataLoader

from spae import SPAE, VQGAN, Codebook, PyramidTokens, SPAEConfig, VQGANConfig
from spae_ops import Pyramid

PYRAMID = Pyramid.square(4, (1, 2, 4))
SMALL = {"image_size": (16, 16), "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1}


def tokens(batch=3, n=21, start=0):
    return PyramidTokens(torch.arange(start, start + batch * n).reshape(batch, n), PYRAMID)


def spae():
    torch.manual_seed(0)
    book = Codebook.from_arrays(
        [f" w{i}" for i in range(50)], torch.randn(50, 12) * 0.3, torch.arange(50) * 7 + 3
    )
    return SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4)), book).eval()


def images(batch=3):
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_it_is_a_sequence_of_images():
    whole = tokens()
    assert whole.shape == (3, 21)
    assert whole.device.type == "cpu"
    assert [one.ids.tolist() for one in whole] == [[row] for row in whole.ids.tolist()]
    assert whole[-1] == whole[2] == whole[2:]
    assert whole[[2, 0]] == whole[torch.tensor([2, 0])] == PyramidTokens(whole.ids[[2, 0]], PYRAMID)
    assert whole[whole.ids[:, 0] > 0] == whole[1:]
    with pytest.raises(IndexError):
        whole[3]
    with pytest.raises(TypeError, match=r"images: expected a number, a slice, .* got torch.float32"):
        whole[torch.ones(3)]


def test_equality_is_of_values():
    assert tokens() == tokens()
    assert tokens() != tokens(start=1)
    assert tokens() != tokens(2)
    assert tokens().upto(2) != tokens()
    assert tokens() != PyramidTokens(tokens().ids, Pyramid.square(8, (1, 2, 4)))
    assert tokens() != tokens().ids.tolist()
    with pytest.raises(TypeError, match="unhashable"):
        hash(tokens())


def test_putting_together():
    whole = tokens()
    assert PyramidTokens.cat([whole[:1], whole[1:]]) == whole
    assert PyramidTokens.stack(list(whole)) == whole
    loader = DataLoader(list(whole), batch_size=2, collate_fn=PyramidTokens.stack)
    assert PyramidTokens.cat(list(loader)) == whole
    other = PyramidTokens(torch.zeros(1, 1, dtype=torch.int64), Pyramid.square(4, (1,)))
    for parts in ([whole, other], [whole, whole.upto(2)]):
        with pytest.raises(ValueError, match=r"parts\[1\]: expected 3 layers of .* as in parts\[0\], got"):
            PyramidTokens.cat(parts)
    with pytest.raises(ValueError, match="parts: expected at least one"):
        PyramidTokens.cat([])
    with pytest.raises(ValueError, match=r"images\[0\]: expected tokens of one image, got 3"):
        PyramidTokens.stack([whole])


def test_from_ids():
    whole = tokens(1)
    for ids in (
        whole.ids.int(),
        whole.ids[0],
        whole.ids.tolist(),
        whole.ids[0].tolist(),
        whole.ids.to(torch.uint8),
    ):
        assert PyramidTokens.from_ids(ids, PYRAMID) == whole
    with pytest.raises(ValueError, match=r"ids: expected integers, got torch\.float32"):
        PyramidTokens.from_ids(torch.ones(1, 21), PYRAMID)
    with pytest.raises(ValueError, match="ids: expected a whole number of layers"):
        PyramidTokens.from_ids([1, 2, 3], PYRAMID)


def test_devices_and_disk():
    whole = tokens()
    assert whole.cpu() == whole.to("cpu") == whole
    assert whole.to("meta").device.type == "meta"
    stream = io.BytesIO()
    torch.save({"tokens": whole}, stream)
    stream.seek(0)
    assert torch.load(stream, weights_only=True)["tokens"] == whole


def test_plain_tensors_in_and_out():
    model, x = spae(), images()
    found = model.encode(x)
    ids = model.tokenize(x)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, found.ids)
    assert torch.equal(model.tokenize(x, 2), found.upto(2).ids)
    assert torch.equal(model.detokenize(ids), model.decode(found))
    assert torch.equal(model.detokenize(ids[0].int()), model.decode(found[0]))
    assert torch.equal(model.detokenize(ids[:, :5]), model.decode(found.upto(2)))
    assert model.vocab_size == 50
    assert torch.equal(model.get_image_tokens(x), ids * 7 + 3)
    assert torch.equal(model.get_image_tokens(x, 1), ids[:, :1] * 7 + 3)
    assert torch.equal(model.get_image_tokens(found.upto(2)), ids[:, :5] * 7 + 3)
    with pytest.raises(ValueError, match=r"ids: expected ids in 0\.\.49"):
        model.detokenize(ids + 50)
    learned = VQGAN(VQGANConfig(**SMALL, codebook_size=40, codebook_dim=12, grids=(4,))).eval()
    assert learned.vocab_size == 40
    with pytest.raises(
        ValueError, match=r"codebook: expected one with llm_ids, got .learned-40., which is in no language"
    ):
        learned.get_image_tokens(x)
