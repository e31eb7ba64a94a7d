import copy
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.testing import CompileCounterWithBackend

from spae import SPAE, Codebook, PyramidTokens, SPAEConfig
from spae_ops import layer_queries, pyramid_quantize

SMALL = SPAEConfig(
    image_size=(16, 16), grids=(1, 2, 4, 4), channels=8, multipliers=(1, 2, 2), num_res_blocks=1
)


def codebook(size=60, width=12, seed=0):
    vectors = torch.randn(size, width, generator=torch.Generator().manual_seed(seed)) * 0.3 + 0.1
    return Codebook.from_arrays([f" word{i}" for i in range(size)], vectors, name="toy")


def model(config=SMALL, seed=0, **kwargs):
    torch.manual_seed(seed)
    return SPAE(config, codebook(**kwargs)).eval()


def images(batch=3, size=(16, 16), seed=1):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    ("size", "multipliers", "latents"), [(16, (1, 2, 2), 4), (32, (1, 1, 1, 1), 4), (64, (1, 1, 1, 1, 1), 4)]
)
@pytest.mark.parametrize("rule", ["saq", "rq"])
def test_factors_4_8_16(size, multipliers, latents, rule):
    config = SPAEConfig(
        image_size=(size, size),
        grids=(1, 2, 4),
        channels=4,
        multipliers=multipliers,
        num_res_blocks=1,
        rule=rule,
    )
    spae = model(config)
    assert spae.pyramid.shape == (latents, latents)
    output = spae(images(2, (size, size)))
    assert output.reconstruction.shape == (2, 3, size, size)
    assert output.features.shape == output.quantized.shape == (2, 12, 4, 4)
    assert output.tokens.ids.shape == (2, 21)
    assert set(output.losses) == {"reconstruction", "commitment"}
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in output.losses.values())


def test_video_by_dimension():
    config = SPAEConfig(
        image_size=(4, 16, 16),
        grids=((1, 1, 1), (2, 2, 2), (2, 4, 4)),
        channels=4,
        multipliers=(1, 1, 1),
        num_res_blocks=1,
        strides=((1, 2, 2), 2),
    )
    spae = model(config)
    clip = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    tokens = spae.encode(clip)
    assert tokens.ids.shape == (2, 1 + 8 + 32)
    assert spae.decode(tokens).shape == clip.shape
    assert SPAEConfig.from_dict(config.to_dict()) == config


def test_encode_is_the_pyramid_of_the_latents():
    spae, x = model(), images()
    z = spae.latents(x)
    expected = pyramid_quantize(z, spae.codebook.vectors, spae.pyramid)
    output = spae(x)
    assert torch.equal(output.tokens.ids, expected.ids)
    assert torch.equal(output.features, z)
    assert torch.allclose(output.quantized, expected.quantized)
    for layers in range(1, 5):
        tokens = spae.encode(x, num_layers=layers)
        assert tokens.num_layers == layers
        assert torch.equal(tokens.ids, expected.ids[:, : spae.pyramid.num_tokens_upto(layers)])
        assert torch.equal(tokens.ids, output.tokens.upto(layers).ids)


def test_decode_from_any_number_of_layers():
    spae, x = model(), images()
    tokens = spae.encode(x)
    for layers in range(1, 5):
        decoded = spae.decode(tokens.upto(layers))
        assert decoded.shape == x.shape
        assert decoded.abs().max() <= 1
        assert torch.equal(decoded, spae.decode(spae.encode(x, layers)))
    whole = spae(x).reconstruction.clamp(-1, 1)
    assert torch.allclose(spae.decode(tokens), whole, atol=1e-5)


def test_words_round_trip_exactly():
    spae = model()
    tokens = spae.encode(images(4))
    for layers in range(1, 5):
        cut = tokens.upto(layers)
        words = spae.words(cut)
        assert len(words) == 4
        assert [len(layer) for layer in words[0]] == [1, 4, 16, 16][:layers]
        assert words[1][0][0] == spae.codebook.words[cut.ids[1, 0]]
        assert torch.equal(spae.tokens(words).ids, cut.ids)
    assert spae.tokens([]).ids.shape == (0, 1)


def test_straight_through_gradient_reaches_the_encoder_only_through_latents():
    spae = model().train()
    output = spae(images())
    (by_features,) = torch.autograd.grad(
        output.reconstruction.square().sum(), output.features, retain_graph=True
    )
    (by_quantized,) = torch.autograd.grad(
        output.reconstruction.square().sum(), output.quantized, retain_graph=True
    )
    assert torch.equal(by_features, by_quantized)
    sum(output.losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in spae.parameters())
    assert spae.codebook.vectors.grad is None
    assert not spae.codebook.vectors.requires_grad


def test_commitment_is_the_paper_s_sum_over_layers():
    spae, x = model(), images()
    output = spae(x)
    z, expected = output.features.double(), 0.0
    for layers in range(1, 5):
        cut = pyramid_quantize(output.features, spae.codebook.vectors, spae.pyramid, num_layers=layers)
        covered = cut.covered.flatten()
        square = (z - cut.quantized.double()).square().flatten(2)[:, :, covered]
        expected += square.mean().item()
    assert output.losses["commitment"].item() == pytest.approx(expected, rel=1e-5)
    query = layer_queries(output.features, output.tokens.ids, spae.codebook.index, spae.pyramid, 3)
    assert query.shape == (3, 16, 12)


def test_matched_latents_have_the_table_s_statistics():
    spae = model().train()
    z = spae(images(64)).features
    flat = z.detach().transpose(0, 1).flatten(1)
    assert torch.allclose(flat.mean(1), spae.codebook.vectors.mean(0), atol=1e-3)
    assert torch.allclose(flat.std(1), spae.codebook.vectors.std(0), rtol=2e-2)
    free = model(SPAEConfig(**{**SMALL.to_dict(), "latent_norm": "none"}))
    assert free(images()).tokens.ids.shape == (3, 37)


def test_autocast_keeps_the_lookup_in_float32():
    spae, x = model(), images()
    with torch.autocast("cpu", torch.bfloat16):
        output = spae(x)
        tokens = spae.encode(x)
    assert output.features.dtype == output.quantized.dtype == torch.float32
    expected = pyramid_quantize(output.features, spae.codebook.vectors, spae.pyramid)
    assert torch.equal(tokens.ids, expected.ids)
    assert torch.equal(output.tokens.ids, expected.ids)
    sum(output.losses.values()).backward()


def test_compile_fullgraph_once_for_every_batch():
    torch._dynamo.reset()
    spae = model()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(spae, fullgraph=True, dynamic=True, backend=counter)
    frames = []
    for batch in (5, 7, 11):  # no size of the model, which would be taken for the same symbol
        x = images(batch)
        got, expected = compiled(x), spae(x)
        assert torch.equal(got.tokens.ids, expected.tokens.ids)
        assert torch.allclose(got.reconstruction, expected.reconstruction, atol=1e-5)
        assert got.tokens.pyramid == spae.pyramid
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1, "recompiles with the batch size"
    sum(compiled(images(5)).losses.values()).backward()


def test_deepcopy_and_pickle():
    spae, x = model(), images()
    for twin in (copy.deepcopy(spae), pickle.loads(pickle.dumps(spae))):
        assert torch.equal(twin.encode(x).ids, spae.encode(x).ids)
        assert torch.equal(twin.decode(twin.encode(x)), spae.decode(spae.encode(x)))
    twin = copy.deepcopy(spae)
    assert twin.codebook.vectors.data_ptr() == spae.codebook.vectors.data_ptr()
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(next(twin.parameters()), next(spae.parameters()))


def test_the_frozen_table_is_in_no_state_and_no_optimizer():
    spae = model()
    table = spae.codebook.vectors
    for name, value in spae.state_dict().items():
        assert value.numel() < table.numel() or value.shape != table.shape, name
        assert "codebook" not in name
    assert sum(v.nbytes for v in spae.state_dict().values()) < sum(p.nbytes for p in spae.parameters()) + 2000
    assert all(p.data_ptr() != table.data_ptr() for p in spae.parameters())
    assert all(p.requires_grad for p in spae.parameters())


def test_checkpoints_round_trip(tmp_path):
    spae, x = model().train(), images()
    spae(x)  # moves the running statistics, which a checkpoint must hold
    spae.eval().save_pretrained(tmp_path)
    loaded = SPAE.from_pretrained(tmp_path, codebook=codebook())
    assert not loaded.training
    assert loaded.config == spae.config
    assert torch.equal(loaded.encode(x).ids, spae.encode(x).ids)
    assert torch.equal(loaded(x).reconstruction, spae(x).reconstruction)
    assert (tmp_path / "model.safetensors").stat().st_size < 200_000


def test_checkpoints_refuse_another_codebook(tmp_path):
    spae = model()
    spae.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"codebook: expected the checkpoint's, .*'toy'.*ids would mean other words"
    ):
        SPAE.from_pretrained(tmp_path, codebook=codebook(seed=1))
    with pytest.raises((ValueError, RuntimeError), match="codebook: expected the checkpoint's"):
        SPAE(SMALL, codebook().normalised("centre")).load_state_dict(spae.state_dict())
    save_file(spae.state_dict(), tmp_path / "plain.safetensors")
    SPAE(SMALL, codebook()).load_state_dict(load_file(tmp_path / "plain.safetensors"))
    with pytest.raises((ValueError, RuntimeError), match="codebook: expected the checkpoint's"):
        SPAE(SMALL, codebook(seed=1)).load_state_dict(load_file(tmp_path / "plain.safetensors"))


@pytest.mark.parametrize("kind", ["none", "centre"])
def test_a_subset_of_a_named_codebook_is_found_again(tmp_path, monkeypatch, kind):
    """A checkpoint holds the rows of a part of a table, so its name alone loads the model."""
    whole = Codebook.from_data(codebook().data.from_source("smollm2"))
    monkeypatch.setattr(Codebook, "load", lambda name: {"smollm2": whole}[name])
    part = whole.subset(torch.arange(5, 60, 2)).normalised(kind)
    spae, x = SPAE(SMALL, part).eval(), images()
    spae.save_pretrained(tmp_path)
    loaded = SPAE.from_pretrained(tmp_path)
    assert loaded.codebook.words == part.words
    assert loaded.codebook.checksum == part.checksum
    assert loaded.codebook_identity() == spae.codebook_identity()
    assert torch.equal(loaded.encode(x).ids, spae.encode(x).ids)
    assert torch.equal(SPAE.from_pretrained(tmp_path, codebook=part).encode(x).ids, spae.encode(x).ids)
    assert not any("rows" in name for name in spae.state_dict())
    with pytest.raises(ValueError, match="codebook: expected the checkpoint's"):
        SPAE.from_pretrained(tmp_path, codebook=whole)


def test_unknown_models_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="a bundled model"):
        SPAE.from_pretrained("no-such-model")
    with pytest.raises(FileNotFoundError, match="expected a folder with config"):
        SPAE.from_pretrained(tmp_path)
    model().save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "codebook")
    with pytest.raises(ValueError, match=r"'toy'.* no name that Codebook.load knows; pass that codebook"):
        SPAE.from_pretrained(tmp_path)


def test_a_codebook_of_one_s_own_comes_with_the_checkpoint(tmp_path):
    spae, x = model(), images()
    spae.save_pretrained(tmp_path)
    loaded = SPAE.from_pretrained(tmp_path)
    assert loaded.codebook.words == spae.codebook.words
    assert loaded.codebook_identity() == spae.codebook_identity()
    assert torch.equal(loaded.encode(x).ids, spae.encode(x).ids)
    loaded.save_pretrained(tmp_path)  # over the file that its codebook is mapped from
    assert torch.equal(SPAE.from_pretrained(tmp_path).codebook.vectors, spae.codebook.vectors)


SPAE_SMALL = model()
TOKENS = SPAE_SMALL.encode(images())


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"images: expected shape \[B, 3, 16, 16\], got \[1, 3, 32, 32\]", lambda: SPAE_SMALL(images(1, (32, 32)))),
        (ValueError, r"images: expected shape \[B, 3, 16, 16\], got \[3, 16, 16\]", lambda: SPAE_SMALL.encode(images(1)[0])),
        (TypeError, r"images: expected a floating-point tensor .* got torch.uint8", lambda: SPAE_SMALL.encode(images().byte())),
        (ValueError, r"num_layers: expected 1..4, got 5", lambda: SPAE_SMALL.encode(images(), 5)),
        (TypeError, r"tokens: expected PyramidTokens, got Tensor", lambda: SPAE_SMALL.decode(TOKENS.ids)),
        (ValueError, r"ids: expected ids in 0..59", lambda: SPAE_SMALL.decode(PyramidTokens(TOKENS.ids + 60, TOKENS.pyramid))),
        (ValueError, r"ids: expected a whole number of layers", lambda: PyramidTokens(TOKENS.ids[:, :7], TOKENS.pyramid)),
        (ValueError, r"layer: expected 0..3, got 4", lambda: TOKENS.layer(4)),
        (ValueError, r"num_layers: expected 1..2, got 3", lambda: TOKENS.upto(2).upto(3)),
        (ValueError, r"words\[0\]: expected the first layers of \(1, 4, 16, 16\) words, got \(2,\)", lambda: SPAE_SMALL.tokens([[["a", "b"]]])),
        (ValueError, r"unknown-word", lambda: SPAE_SMALL.tokens([[["unknown-word"]]])),
        (ValueError, r"rule: expected 'saq' or 'rq', got 'vq'", lambda: SPAEConfig(rule="vq")),
        (ValueError, r"grids\[1\]: expected a grid that divides", lambda: SPAEConfig(grids=(1, 3))),
        (ValueError, r"config: expected no fields but .*, got \['colour'\]", lambda: SPAEConfig.from_dict({"colour": 1})),
    ],
)  # fmt: skip
def test_errors_name_the_argument(error, message, call):
    with pytest.raises(error, match=message):
        call()
