import pickle
import pkgutil

import pytest
import torch

import spae_ops
from spae_ops import CodeIndex, distance_cross_entropy, nearest_code, pyramid_quantize
from spae_ops._dispatch import CROSS_ENTROPY, PYRAMID, SEARCH
from spae_ops.code_index import as_table
from spae_ops.lookup import torch as screened


def codebook(num_codes=50, width=8):
    return torch.randn(num_codes, width, generator=torch.Generator().manual_seed(0))


def counted(monkeypatch, module):
    calls, prepare = [], module.prepare
    monkeypatch.setattr(module, "prepare", lambda codes: calls.append(1) or prepare(codes))
    return calls


@pytest.mark.parametrize(
    "change",
    [lambda c: c.mul_(-1), lambda c: c[3].zero_(), lambda c: c.detach().add_(1), lambda c: c.view(-1).copy_(torch.ones(400))],
    ids=["whole", "a row", "detached", "a view"],
)  # fmt: skip
def test_a_codebook_changed_in_place_is_an_error(change):
    codes = codebook()
    index = CodeIndex(codes)
    pyramid = spae_ops.Pyramid.square(2, (1, 2))
    calls = [
        lambda: nearest_code(torch.zeros(2, 8), index),
        lambda: spae_ops.topk_codes(torch.zeros(2, 8), index, 2),
        lambda: distance_cross_entropy(torch.zeros(2, 8), index, torch.tensor([0, 1])),
        lambda: pyramid_quantize(torch.zeros(1, 8, 2, 2), index, pyramid),
        lambda: torch.compile(nearest_code, backend="aot_eager")(torch.zeros(2, 8), index),
    ]
    for call in calls:
        call()
    change(codes)
    for call in calls:
        with pytest.raises(ValueError, match=r"codes: expected a codebook as it was .* changed in place"):
            call()
    nearest_code(torch.zeros(2, 8), CodeIndex(codes))


def test_a_copied_codebook_may_change():
    codes = codebook(8, 50).T  # not contiguous: the index copies it
    index = CodeIndex(codes)
    expected = nearest_code(torch.zeros(2, 8), index)
    codes.mul_(-1)
    assert torch.equal(nearest_code(torch.zeros(2, 8), index).sqdist, expected.sqdist)


@pytest.mark.parametrize("made", ["codes and index", "index"])
def test_an_index_made_in_inference_mode_serves_training(made):
    codes = codebook()
    with torch.inference_mode():
        index = CodeIndex(codes.clone() if made == "codes and index" else codes)
    x = torch.zeros(2, 8, requires_grad=True)
    distance_cross_entropy(x, index, torch.tensor([0, 1])).backward()
    assert torch.isfinite(x.grad).all()
    with torch.inference_mode():  # a second implementation's tensors too
        nearest_code(torch.zeros(2, 8), index, impl="torch")
    x.grad = None
    distance_cross_entropy(x, index, torch.tensor([0, 1]), impl="torch").backward()
    assert torch.isfinite(x.grad).all()


def test_auto_takes_what_the_index_is_prepared_for(monkeypatch):
    index = CodeIndex(codebook(), impl="torch")
    searched, search = [], screened.search
    monkeypatch.setattr(screened, "search", lambda *a: searched.append(1) or search(*a))
    calls = counted(monkeypatch, screened)
    nearest_code(torch.zeros(2, 8), index)
    pyramid_quantize(torch.zeros(1, 8, 2, 2), index, spae_ops.Pyramid((2, 2), ((1, 1),)))
    assert len(searched) == 2
    assert not calls


def test_another_implementation_is_prepared_once(monkeypatch):
    index = CodeIndex(codebook(), impl="reference")
    calls = counted(monkeypatch, screened)
    for _ in range(3):
        nearest_code(torch.zeros(2, 8), index, impl="torch")
        distance_cross_entropy(torch.zeros(2, 8), index, torch.tensor([0, 1]), impl="torch")
    assert len(calls) == 1


def test_tensors_of_another_version_are_refused(monkeypatch):
    index = CodeIndex(codebook(), impl="torch")
    monkeypatch.setattr(screened, "LAYOUT", "torch/2")
    arguments = torch.zeros(2, 8), *as_table(index), None, "torch"
    assert arguments[3] == "torch/1"
    with pytest.raises(ValueError, match=r"codes: expected an index of layout torch/2, got one of torch/1"):
        torch.ops.spae_ops.nearest_code(*arguments)


def test_pickles_are_prepared_anew():
    index = CodeIndex(codebook(), impl="torch")
    again = pickle.loads(pickle.dumps(index))
    assert again.impl == "torch"
    assert torch.equal(again.codes, index.codes)
    assert len(pickle.dumps(CodeIndex(codebook(2000)))) < 2 * 2000 * 8 * 4


@pytest.mark.parametrize("family", [SEARCH, CROSS_ENTROPY, PYRAMID])
def test_every_family_ends_in_the_definition(family):
    assert family.names[-2:] == ["torch", "reference"]
    assert family.resolve("op", "auto", torch.device("meta"))[0] == "torch"


def test_no_function_hides_a_module():
    for module in pkgutil.iter_modules(spae_ops.__path__):
        assert not callable(getattr(spae_ops, module.name, None)), module.name
