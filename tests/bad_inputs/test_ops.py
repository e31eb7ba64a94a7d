"""Bad arguments of `spae_ops`: each is refused by name, with what came and what was expected."""

import math

import pytest
import torch

import spae_ops
from spae_ops import CodeIndex, Pyramid

NAN, INF = math.nan, math.inf


def tall(x):  # a width, a rank, a value that is wrong
    return x.new_zeros(5, 4)


def with_value(tensor, value):
    spoilt = tensor.clone()
    spoilt.flatten()[1] = value
    return spoilt


def nearest(g, x=None, codes=None, **options):
    return spae_ops.nearest_code(g.x if x is None else x, g.codes if codes is None else codes, **options)


def topk(g, k, **options):
    return spae_ops.topk_codes(g.x, g.codes, k, **options)


def subsample(g, z=None, pyramid=None, layer=0):
    return spae_ops.dilation_subsample(g.z if z is None else z, pyramid or g.pyramid, layer)


def quantize(g, z=None, codes=None, pyramid=None, **options):
    z, codes = g.z if z is None else z, g.codes if codes is None else codes
    return spae_ops.pyramid_quantize(z, codes, pyramid or g.pyramid, **options)


def dequantize(g, ids=None, codes=None, pyramid=None, **options):
    ids, codes = g.ids if ids is None else ids, g.codes if codes is None else codes
    return spae_ops.pyramid_dequantize(ids, codes, pyramid or g.pyramid, **options)


def queries(g, z=None, ids=None, codes=None, layer=1, **options):
    z, ids = g.z if z is None else z, g.ids if ids is None else ids
    return spae_ops.layer_queries(z, ids, g.codes if codes is None else codes, g.pyramid, layer, **options)


def entropy(g, x=None, codes=None, target=None, **options):
    x, target = g.x if x is None else x, g.target if target is None else target
    return spae_ops.distance_cross_entropy(x, g.codes if codes is None else codes, target, **options)


# (call, the beginning of what is said)
LOOKUPS = [
    (lambda g: nearest(g, [[0.0, 1.0, 2.0]]), r"x: expected a torch.Tensor, got list"),
    (lambda g: nearest(g, g.x.numpy()), r"x: expected a torch.Tensor, got ndarray"),
    (lambda g: nearest(g, g.x.double()), r"x: expected dtype float32 or float16 or bfloat16, got float64"),
    (lambda g: nearest(g, g.x.long()), r"x: expected dtype .*, got int64"),
    (lambda g: nearest(g, g.x.to(torch.complex64)), r"x: expected dtype .*, got complex64"),
    (lambda g: nearest(g, tall(g.x)), r"x: expected shape \[\.\., 3\] \(D of the codebook\), got \[5, 4\]"),
    (lambda g: nearest(g, torch.tensor(1.0)), r"x: expected shape \[\.\., 3\].*, got \[\]"),
    (lambda g: nearest(g, with_value(g.x, NAN)), r"x: expected finite values, got nan or inf in 1 of 5 rows: 0"),
    (lambda g: nearest(g, with_value(g.x, -INF)), r"x: expected finite values, got nan or inf in 1 of 5 rows: 0"),
    (lambda g: nearest(g, g.x.to("meta")), r"x: expected the codebook's device cpu, got meta"),
    (lambda g: nearest(g, codes=g.codes.tolist()), r"codes: expected a torch.Tensor, got list"),
    (lambda g: nearest(g, codes=g.codes.double()), r"codes: expected dtype .*, got float64"),
    (lambda g: nearest(g, codes=g.codes[0]), r"codes: expected shape \[K, D\], got \[3\]"),
    (lambda g: nearest(g, codes=g.codes[:0]), r"codes: expected a codebook with K >= 1 and D >= 1, got shape \[0, 3\]"),
    (lambda g: nearest(g, codes=g.codes[:, :0]), r"codes: expected a codebook with K >= 1 and D >= 1, got shape \[8, 0\]"),
    (lambda g: nearest(g, codes=with_value(g.codes, NAN)), r"codes: expected finite values, got nan or inf in 1 of 8 rows: 0"),
    (lambda g: nearest(g, mask=[True] * 8), r"mask: expected a torch.Tensor, got list"),
    (lambda g: nearest(g, mask=torch.ones(8)), r"mask: expected dtype bool, got float32"),
    (lambda g: nearest(g, mask=torch.ones(7, dtype=torch.bool)), r"mask: expected shape \[8\] \(K of the codebook\), got \[7\]"),
    (lambda g: nearest(g, mask=torch.zeros(8, dtype=torch.bool)), r"mask: expected at least one True among 8 codes, got none"),
    (lambda g: nearest(g, mask=torch.ones(8, dtype=torch.bool, device="meta")), r"mask: expected the codebook's device cpu, got meta"),
    (lambda g: nearest(g, impl="gpu"), r"impl: expected 'auto' or one of .*'cpu'.* for nearest_code, got 'gpu'"),
    (lambda g: nearest(g, impl=None), r"impl: expected 'auto' or an implementation's name, got None"),
    (lambda g: nearest(g, impl=["cpu"]), r"impl: expected 'auto' or an implementation's name, got \['cpu'\]"),
    (lambda g: nearest(g, codes=g.index, impl="gpu"), r"impl: expected 'auto' or one of .*, got 'gpu'"),
    (lambda g: topk(g, 0), r"k: expected an integer of at least 1, got 0"),
    (lambda g: topk(g, -1), r"k: expected an integer of at least 1, got -1"),
    (lambda g: topk(g, 9), r"k: expected at most the 8 codes that may be chosen, got 9"),
    (lambda g: topk(g, 2.0), r"k: expected an integer of at least 1, got 2.0"),
    (lambda g: topk(g, True), r"k: expected an integer of at least 1, got True"),
    (lambda g: topk(g, "2"), r"k: expected an integer of at least 1, got '2'"),
    (lambda g: topk(g, 3, mask=torch.arange(8) < 2), r"k: expected at most the 2 codes that may be chosen, got 3"),
    (lambda g: CodeIndex(g.codes.numpy()), r"codebook: expected a torch.Tensor, got ndarray"),
    (lambda g: CodeIndex(g.codes.int()), r"codebook: expected dtype .*, got int32"),
    (lambda g: CodeIndex(g.codes.flatten()), r"codebook: expected shape \[K, D\], got \[24\]"),
    (lambda g: CodeIndex(g.codes[:0]), r"codebook: expected a codebook with K >= 1 and D >= 1, got shape \[0, 3\]"),
    (lambda g: CodeIndex(with_value(g.codes, INF)), r"codebook: expected finite values, got nan or inf in 1 of 8 rows: 0"),
    (lambda g: CodeIndex(g.codes, impl=["cpu"]), r"impl: expected 'auto' or an implementation's name, got \['cpu'\]"),
    (lambda g: CodeIndex(g.codes, impl="gpu"), r"impl: expected 'auto' or one of .*, got 'gpu'"),
    (lambda g: changed_index(g), r"codes: expected a codebook as it was when its CodeIndex was made, got one that has changed"),
    (lambda g: spae_ops.implementations("nearest"), r"op: expected one of nearest_code, .*, got 'nearest'"),
    (lambda g: spae_ops.implementations(["nearest_code"]), r"op: expected one of nearest_code, .*, got \['nearest_code'\]"),
]  # fmt: skip


def changed_index(g):
    codes = g.codes.clone()
    index = CodeIndex(codes)
    codes[0] = 0
    return spae_ops.nearest_code(g.x, index)


PYRAMIDS = [
    (lambda g: Pyramid(16, ((1,),)), r"shape: expected a tuple of positive sizes, got 16"),
    (lambda g: Pyramid((), ((),)), r"shape: expected a tuple of positive sizes, got \(\)"),
    (lambda g: Pyramid((4, 0), ((1, 1),)), r"shape: expected positive sizes, got \(4, 0\)"),
    (lambda g: Pyramid((4, 4.0), ((1, 1),)), r"shape: expected positive sizes, got \(4, 4.0\)"),
    (lambda g: Pyramid("44", (("1", "1"),)), r"shape: expected positive sizes, got"),
    (lambda g: Pyramid((4, True), ((1, 1),)), r"shape: expected positive sizes, got \(4, True\)"),
    (lambda g: Pyramid((4, 4), ()), r"grids: expected at least one layer's grid, got \(\)"),
    (lambda g: Pyramid((4, 4), 4), r"grids: expected at least one layer's grid, got 4"),
    (lambda g: Pyramid((4, 4), (1, 2)), r"grids\[0\]: expected a tuple of positive sizes, got 1"),
    (lambda g: Pyramid((4, 4), ((1, 1), (2,))), r"grids\[1\]: expected 2 axes like shape \(4, 4\), got \(2,\)"),
    (lambda g: Pyramid((4, 4), ((1, 1), (3, 3))), r"grids\[1\]: expected a grid that divides shape \(4, 4\), got \(3, 3\)"),
    (lambda g: Pyramid((4, 4), ((1, 1), (-1, 1))), r"grids\[1\]: expected positive sizes, got \(-1, 1\)"),
    (lambda g: Pyramid.square(4, 2), r"grids: expected a sequence of sizes, got 2"),
    (lambda g: Pyramid.square(4.0, (1,)), r"shape: expected positive sizes, got \(4.0, 4.0\)"),
    (lambda g: Pyramid.square(4, (1, 3)), r"grids\[1\]: expected a grid that divides shape \(4, 4\), got \(3, 3\)"),
    (lambda g: g.pyramid.num_tokens_upto(4), r"num_layers: expected 0\.\.3, got 4"),
    (lambda g: g.pyramid.num_tokens_upto(-1), r"num_layers: expected 0\.\.3, got -1"),
    (lambda g: g.pyramid.num_tokens_upto(1.5), r"num_layers: expected 0\.\.3, got 1.5"),
    (lambda g: g.pyramid.num_tokens_upto("1"), r"num_layers: expected 0\.\.3, got '1'"),
    (lambda g: g.pyramid.num_layers_of(4), r"num_tokens: expected a whole number of layers, one of \[1, 5, 21\], got 4"),
    (lambda g: g.pyramid.upto(0), r"num_layers: expected 1\.\.3, got 0"),
    (lambda g: g.pyramid.upto(4), r"num_layers: expected 1\.\.3, got 4"),
    (lambda g: g.pyramid.upto(2.0), r"num_layers: expected 1\.\.3, got 2.0"),
    (lambda g: g.pyramid.upto(None), r"num_layers: expected 1\.\.3, got None"),
    (lambda g: g.pyramid.positions(3), r"layer: expected 0\.\.2, got 3"),
    (lambda g: g.pyramid.positions(-1), r"layer: expected 0\.\.2, got -1"),
    (lambda g: g.pyramid.positions(0.5), r"layer: expected 0\.\.2, got 0.5"),
    (lambda g: g.pyramid.flat_positions("0"), r"layer: expected 0\.\.2, got '0'"),
    (lambda g: subsample(g, g.z.numpy()), r"z: expected a torch.Tensor, got ndarray"),
    (lambda g: subsample(g, g.z.long()), r"z: expected dtype .*, got int64"),
    (lambda g: subsample(g, g.z[0]), r"z: expected shape \[B, D, 4, 4\], got \[3, 4, 4\]"),
    (lambda g: subsample(g, g.z[..., :3]), r"z: expected shape \[B, D, 4, 4\], got \[2, 3, 4, 3\]"),
    (lambda g: subsample(g, pyramid=(4, 4)), r"pyramid: expected a spae_ops.Pyramid, got tuple"),
    (lambda g: subsample(g, layer=3), r"layer: expected 0\.\.2, got 3"),
    (lambda g: subsample(g, layer=-1), r"layer: expected 0\.\.2, got -1"),
    (lambda g: subsample(g, layer=True), r"layer: expected 0\.\.2, got True"),
    (lambda g: quantize(g, g.z.tolist()), r"z: expected a torch.Tensor, got list"),
    (lambda g: quantize(g, g.z[:, :2]), r"z: expected shape \[B, 3, 4, 4\], got \[2, 2, 4, 4\]"),
    (lambda g: quantize(g, g.z[:, :, None]), r"z: expected shape \[B, 3, 4, 4\], got \[2, 3, 1, 4, 4\]"),
    (lambda g: quantize(g, g.z.bool()), r"z: expected dtype .*, got bool"),
    (lambda g: quantize(g, with_value(g.z, NAN)), r"z: expected finite values, got nan or inf in 1 of 32 rows: 1"),
    (lambda g: quantize(g, g.z * 3e38), r"z: expected (finite values|latents whose queries.*fit float32), got"),
    (lambda g: quantize(g, g.z.double() * 1e39), r"z: expected latents whose queries.* fit float32, got values up to"),
    (lambda g: quantize(g, g.z.to("meta")), r"z: expected the codebook's device cpu, got meta"),
    (lambda g: quantize(g, codes="smollm2"), r"codes: expected a torch.Tensor, got str"),
    (lambda g: quantize(g, codes=with_value(g.codes, NAN)), r"codes: expected finite values, got"),
    (lambda g: quantize(g, pyramid=[1, 2, 4]), r"pyramid: expected a spae_ops.Pyramid, got list"),
    (lambda g: quantize(g, rule="SAQ"), r"rule: expected one of 'saq', 'rq', got 'SAQ'"),
    (lambda g: quantize(g, rule=None), r"rule: expected one of 'saq', 'rq', got None"),
    (lambda g: quantize(g, num_layers=0), r"num_layers: expected 1\.\.3, got 0"),
    (lambda g: quantize(g, num_layers=4), r"num_layers: expected 1\.\.3, got 4"),
    (lambda g: quantize(g, num_layers=1.0), r"num_layers: expected 1\.\.3, got 1.0"),
    (lambda g: quantize(g, mask=torch.ones(3, dtype=torch.bool)), r"mask: expected shape \[8\].*, got \[3\]"),
    (lambda g: quantize(g, mask=torch.zeros(8, dtype=torch.bool)), r"mask: expected at least one True among 8 codes, got none"),
    (lambda g: quantize(g, impl="fast"), r"impl: expected 'auto' or one of .* for pyramid_quantize, got 'fast'"),
    (lambda g: dequantize(g, g.ids.tolist()), r"ids: expected a torch.Tensor, got list"),
    (lambda g: dequantize(g, g.ids.int()), r"ids: expected dtype int64, got int32"),
    (lambda g: dequantize(g, g.ids.float()), r"ids: expected dtype int64, got float32"),
    (lambda g: dequantize(g, g.ids[0]), r"ids: expected shape \[B, n\], got \[21\]"),
    (lambda g: dequantize(g, g.ids[:, :4]), r"ids: expected a whole number of layers, one of \[1, 5, 21\], got 4"),
    (lambda g: dequantize(g, g.ids[:, :0]), r"ids: expected a whole number of layers, one of \[1, 5, 21\], got 0"),
    (lambda g: dequantize(g, with_value(g.ids, 8)), r"ids: expected ids in 0\.\.7, got 0\.\.8"),
    (lambda g: dequantize(g, with_value(g.ids, -1)), r"ids: expected ids in 0\.\.7, got -1\.\.7"),
    (lambda g: dequantize(g, with_value(g.ids, 2**62)), r"ids: expected ids in 0\.\.7, got"),
    (lambda g: dequantize(g, num_layers=4), r"num_layers: expected 1\.\.3, got 4"),
    (lambda g: dequantize(g, g.ids[:, :5], num_layers=3), r"num_layers: expected 1\.\.2, got 3"),
    (lambda g: dequantize(g, num_layers=0), r"num_layers: expected 1\.\.3, got 0"),
    (lambda g: dequantize(g, num_layers="2"), r"num_layers: expected 1\.\.3, got '2'"),
    (lambda g: dequantize(g, fill="mean"), r"fill: expected one of 'nearest', 'zero', got 'mean'"),
    (lambda g: dequantize(g, rule="vq"), r"rule: expected one of 'saq', 'rq', got 'vq'"),
    (lambda g: dequantize(g, pyramid="paper"), r"pyramid: expected a spae_ops.Pyramid, got str"),
    (lambda g: dequantize(g, impl=0), r"impl: expected 'auto' or an implementation's name, got 0"),
    (lambda g: dequantize(g, impl="cuda12"), r"impl: expected 'auto' or one of .* for pyramid_dequantize, got 'cuda12'"),
    (lambda g: queries(g, ids=g.ids[:1]), r"ids: expected shape \[2, n\] with n >= 1, got \[1, 21\]"),
    (lambda g: queries(g, ids=g.ids[:, :0]), r"ids: expected shape \[2, n\] with n >= 1, got \[2, 0\]"),
    (lambda g: queries(g, ids=g.ids[:, :1], layer=2), r"ids: expected shape \[2, n\] with n >= 5, got \[2, 1\]"),
    (lambda g: queries(g, ids=g.ids + 8), r"ids: expected ids in 0\.\.7, got"),
    (lambda g: queries(g, ids=g.ids.float()), r"ids: expected dtype int64, got float32"),
    (lambda g: queries(g, z=g.z[:, :1]), r"z: expected shape \[B, 3, 4, 4\], got \[2, 1, 4, 4\]"),
    (lambda g: queries(g, layer=3), r"layer: expected 0\.\.2, got 3"),
    (lambda g: queries(g, layer=1.0), r"layer: expected 0\.\.2, got 1.0"),
    (lambda g: queries(g, rule=0), r"rule: expected one of 'saq', 'rq', got 0"),
    (lambda g: queries(g, impl="x"), r"impl: expected 'auto' or one of .* for layer_queries, got 'x'"),
]  # fmt: skip

ENTROPY = [
    (lambda g: entropy(g, g.x.tolist()), r"x: expected a torch.Tensor, got list"),
    (lambda g: entropy(g, g.x.long()), r"x: expected dtype .*, got int64"),
    (lambda g: entropy(g, tall(g.x)), r"x: expected shape \[\.\., 3\].*, got \[5, 4\]"),
    (lambda g: entropy(g, with_value(g.x, NAN)), r"x: expected finite values, got nan or inf in 1 of 5 rows: 0"),
    (lambda g: entropy(g, codes=g.codes[0]), r"codes: expected shape \[K, D\], got \[3\]"),
    (lambda g: entropy(g, codes=with_value(g.codes, INF)), r"codes: expected finite values, got"),
    (lambda g: entropy(g, target=g.target.tolist()), r"target: expected a torch.Tensor, got list"),
    (lambda g: entropy(g, target=g.target.float()), r"target: expected dtype int64, got float32"),
    (lambda g: entropy(g, target=g.target[:4]), r"target: expected shape \[5\] like x \[\.\., D\], got \[4\]"),
    (lambda g: entropy(g, target=g.target[:, None]), r"target: expected shape \[5\] like x \[\.\., D\], got \[5, 1\]"),
    (lambda g: entropy(g, target=with_value(g.target, 8)), r"target: expected ids in 0\.\.7, got \d\.\.8"),
    (lambda g: entropy(g, target=with_value(g.target, -100)), r"target: expected ids in 0\.\.7, got -100\.\.\d"),
    (lambda g: entropy(g, target=g.target.to("meta")), r"target: expected the codebook's device cpu, got meta"),
    (lambda g: entropy(g, temperature=0), r"temperature: expected a positive finite number .*, got 0"),
    (lambda g: entropy(g, temperature=-1.0), r"temperature: expected a positive finite number .*, got -1.0"),
    (lambda g: entropy(g, temperature=NAN), r"temperature: expected a positive finite number .*, got nan"),
    (lambda g: entropy(g, temperature=INF), r"temperature: expected a positive finite number .*, got inf"),
    (lambda g: entropy(g, temperature=1e-320), r"temperature: expected a positive finite number of at least 2.23e-308, got 1e-320"),
    (lambda g: entropy(g, temperature="1"), r"temperature: expected a positive finite number .*, got '1'"),
    (lambda g: entropy(g, temperature=None), r"temperature: expected a positive finite number .*, got None"),
    (lambda g: entropy(g, temperature=torch.ones(2)), r"temperature: expected a positive finite number .*, got tensor"),
    (lambda g: entropy(g, reduction="avg"), r"reduction: expected one of 'mean', 'sum', 'none', got 'avg'"),
    (lambda g: entropy(g, reduction=None), r"reduction: expected one of 'mean', 'sum', 'none', got None"),
    (lambda g: entropy(g, impl="tpu"), r"impl: expected 'auto' or one of .* for distance_cross_entropy, got 'tpu'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), [*LOOKUPS, *PYRAMIDS, *ENTROPY])
def test_refused(call, said, good, refused):
    refused(lambda: call(good), ValueError, said)


@pytest.mark.parametrize("impl", ["cuda", "triton"])
def test_an_implementation_that_cannot_run_says_why(impl, good, refused):
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    refused(
        lambda: nearest(good, impl=impl), RuntimeError, rf"impl: '{impl}' cannot run nearest_code on cpu: .+"
    )
