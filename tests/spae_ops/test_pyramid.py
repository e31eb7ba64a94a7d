import contextlib
import copy
import pickle

import pytest
import torch
from hypothesis import given
from torch._subclasses.fake_tensor import FakeTensorMode

import spae_ops
from spae.testing import oracles, strategies
from spae_ops import Pyramid
from spae_ops.quantize.rules import layout

PAPER = Pyramid.square(16, (1, 2, 4, 8, 16, 16))


def test_paper_pyramid():
    assert [PAPER.num_tokens_upto(layers) for layers in range(7)] == [0, 1, 5, 21, 85, 341, 597]
    rows = [sorted({row + 1 for row, _ in PAPER.positions(layer).tolist()}) for layer in range(4)]
    assert rows == [[9], [5, 13], [3, 7, 11, 15], list(range(2, 17, 2))]
    seen = [tuple(p) for layer in range(4) for p in PAPER.positions(layer).tolist()]
    assert len(set(seen)) == len(seen) == 85
    assert [len(r) for r in PAPER.rounds()] == [256, 256, 85]


@given(strategies.pyramids())
def test_positions_follow_eq_1(pyramid):
    for layer, grid in enumerate(pyramid.grids):
        expected = oracles.positions(pyramid.shape, grid)
        assert [tuple(p) for p in pyramid.positions(layer).tolist()] == expected


@given(strategies.pyramids())
def test_rounds_are_every_lookup_once_and_in_order(pyramid):
    tokens = torch.cat([r.tokens for r in pyramid.rounds()])
    assert sorted(tokens.tolist()) == list(range(pyramid.num_tokens))
    seen: dict[tuple[int, ...], int] = {}
    for number, step in enumerate(pyramid.rounds()):
        assert len({place for _, place in step}) == len(step), "a position twice in one round"
        for layer, place in step:
            assert place in [tuple(p) for p in pyramid.positions(layer).tolist()]
            assert seen.get(place, -1) < layer, "a later layer looked up first"
            seen[place] = layer
            assert number < int(pyramid.depth()[place])
    assert int(pyramid.depth().sum()) == pyramid.num_tokens
    assert len(pyramid.rounds()) == int(pyramid.depth().max())


@given(strategies.pyramids())
def test_pyramid_is_a_value(pyramid):
    twin = Pyramid(list(pyramid.shape), [list(grid) for grid in pyramid.grids])
    assert twin == pyramid
    assert hash(twin) == hash(pyramid)
    assert pickle.loads(pickle.dumps(pyramid)) == copy.deepcopy(pyramid) == pyramid
    for layers in range(1, pyramid.num_layers + 1):
        assert pyramid.num_layers_of(pyramid.num_tokens_upto(layers)) == layers
        assert pyramid.upto(layers).num_tokens == pyramid.num_tokens_upto(layers)


@contextlib.contextmanager
def default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    "meta device": lambda: torch.device("meta"),
    "fake tensors": FakeTensorMode,
    "inference": torch.inference_mode,
    "default dtype": default_dtype,
}


@pytest.mark.parametrize("mode", MODES)
def test_no_mode_leaves_traces(mode):
    """A pyramid first used in some mode: its tensors lie on the CPU there, and are the usual ones afterwards."""
    pyramid = Pyramid((4, 6 * (1 + list(MODES).index(mode))), ((1, 1), (2, 3), (4, 6), (4, 6)))
    codes = torch.randn(9, 3)
    z = torch.randn(2, 3, *pyramid.shape)
    with MODES[mode]() as entered:
        tensors = [
            pyramid.depth(),
            pyramid.positions(2),
            pyramid.flat_positions(1),
            pyramid.rounds()[0].tokens,
        ]
        layout(pyramid, torch.device("cpu"))
        fake = isinstance(entered, FakeTensorMode)
        given = [entered.from_tensor(t) if fake else t for t in (z, codes)]
        found = spae_ops.pyramid_quantize(*given, pyramid)
        back = spae_ops.pyramid_dequantize(found.ids, given[1], pyramid)
        tensors += [*found, back.quantized, spae_ops.layer_queries(given[0], found.ids, given[1], pyramid, 3)]
        tensors.append(spae_ops.dilation_subsample(given[0], pyramid, 1))
    assert all(t.device.type == "cpu" for t in tensors)

    expected = oracles.pyramid_quantize(z, codes, pyramid.shape, pyramid.grids, "saq")
    for layer, grid in enumerate(pyramid.grids):
        assert [tuple(p) for p in pyramid.positions(layer).tolist()] == oracles.positions(pyramid.shape, grid)
    assert int(pyramid.depth().sum()) == pyramid.num_tokens == sum(map(len, pyramid.rounds()))
    for impl in ("auto", "reference"):
        assert (spae_ops.pyramid_quantize(z, codes, pyramid, impl=impl).ids.numpy() == expected).all()
    ids = torch.from_numpy(expected)
    z.requires_grad_()
    query = spae_ops.layer_queries(z, ids, codes, pyramid, 3)
    assert torch.equal(spae_ops.nearest_code(query, codes).ids, ids[:, -len(pyramid.positions(3)) :])
    (grad,) = torch.autograd.grad(query.sum(), z)
    assert set(grad.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    for kept in (pyramid.depth(), layout(pyramid, torch.device("cpu")).depth):
        assert type(kept) is torch.Tensor
        assert not kept.is_inference()
        assert kept.dtype == torch.int64


@pytest.mark.parametrize(
    ("shape", "grids", "message"),
    [
        ((16, 16), ((3, 3),), r"grids\[0\]: expected a grid that divides shape \(16, 16\), got \(3, 3\)"),
        ((16, 16), ((1, 1), (4,)), r"grids\[1\]: expected 2 axes"),
        ((16, 0), ((1, 1),), r"shape: expected positive sizes, got \(16, 0\)"),
        ((16, 16), (), "grids: expected at least one"),
        ((4, 4), ((8, 8),), "expected a grid that divides shape"),
        ((), ((),), "shape"),
        ((4, 4), ((2.0, 2.0),), r"grids\[0\]"),
    ],
)
def test_bad_pyramids_are_named(shape, grids, message):
    with pytest.raises(ValueError, match=message):
        Pyramid(shape, grids)


@pytest.mark.parametrize(
    "call",
    [
        lambda: PAPER.positions(6),
        lambda: PAPER.positions(-1),
        lambda: PAPER.num_tokens_upto(7),
        lambda: PAPER.upto(0),
    ],
)
def test_layers_out_of_range(call):
    with pytest.raises(ValueError, match=r"layer|num_layers"):
        call()


def test_num_tokens_between_layers_is_an_error():
    with pytest.raises(ValueError, match="num_tokens: expected a whole number of layers"):
        PAPER.num_layers_of(6)
