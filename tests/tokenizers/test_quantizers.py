import torch

from spae import Codebook
from spae.losses import commitment_loss
from spae.tokenizers.quantizers import PyramidQuantizer, straight_through
from spae_ops import Pyramid, pyramid_dequantize, pyramid_quantize

PYRAMID = Pyramid.square(4, (1, 2, 4, 4))


def problem(width=3):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, width, generator=generator)
    z = torch.randn(2, width, 4, 4, generator=generator, dtype=torch.float64)
    return z.requires_grad_(), Codebook.from_arrays([f" word{i}" for i in range(30)], vectors, name="toy")


def test_straight_through_has_the_jacobian_of_what_follows():
    """The decoder's at the quantized latents, as if they were its own; finite differences see only steps."""
    z, codebook = problem()
    decoder = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Tanh()).double()
    quantized = pyramid_quantize(z, codebook.index, PYRAMID).quantized.double()

    def through(z):
        return decoder(straight_through(z, quantized))

    assert torch.allclose(through(z), decoder(quantized), rtol=1e-12)
    by_z = torch.autograd.functional.jacobian(through, z.detach())
    assert torch.allclose(by_z, torch.autograd.functional.jacobian(decoder, quantized), rtol=1e-12)
    assert by_z.abs().sum() > 0
    learned = quantized.clone().requires_grad_()
    straight_through(z, learned).sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    assert learned.grad is None


def test_the_quantizer_s_features_pass_gradients_straight_to_the_latents():
    z, codebook = problem()
    z = z.detach().float().requires_grad_()
    out = PyramidQuantizer(PYRAMID)(z, codebook)
    weight = torch.randn(z.shape)
    (grad,) = torch.autograd.grad((out.features * weight).sum(), z)
    assert torch.equal(grad, weight)


def test_gradcheck_of_the_commitment():
    z, codebook = problem()
    for rule in ("saq", "rq"):
        ids = pyramid_quantize(z, codebook.index, PYRAMID, rule=rule).ids
        for layers in (1, 3, 4):
            kept = ids[:, : PYRAMID.num_tokens_upto(layers)]
            assert torch.autograd.gradcheck(
                lambda z: commitment_loss(z, kept, codebook.index, PYRAMID, rule=rule),  # noqa: B023
                z,
            )


def test_dropped_layers_are_no_part_of_what_the_decoder_sees():
    z, codebook = problem()
    z = z.detach().float().repeat(20, 1, 1, 1).requires_grad_()
    quantizer = PyramidQuantizer(PYRAMID, layer_dropout=0.6)
    torch.manual_seed(0)
    out = quantizer(z, codebook)
    weight = torch.randn(z.shape)
    (grad,) = torch.autograd.grad((out.features * weight).sum(), z)
    prefixes = [pyramid_dequantize(out.ids[:, :n], codebook.index, PYRAMID) for n in (1, 5, 21, 37)]
    kept = []
    for i, features in enumerate(out.features):
        fits = [k for k, cut in enumerate(prefixes) if torch.allclose(cut.quantized[i], features, atol=1e-6)]
        assert fits, "the features of some first layers"
        kept.append(fits[-1])
        assert torch.equal(grad[i], weight[i] * prefixes[fits[-1]].covered)
    assert 8 <= kept.count(3) <= 24
    assert {0, 1, 2, 3} == set(kept)

    torch.manual_seed(0)
    assert torch.equal(quantizer(z, codebook).features, out.features)
    whole = quantizer.eval()(z, codebook)
    assert torch.equal(whole.ids, out.ids)
    assert torch.allclose(whole.features, prefixes[-1].quantized)
