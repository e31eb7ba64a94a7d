import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import spae_ops
from spae_ops import _extension
from spae_ops._extension import FallbackWarning, warn_fallback


@pytest.fixture
def unsaid(monkeypatch):
    monkeypatch.setattr(_extension, "_warned", False)


def test_the_fall_back_is_mentioned_once_with_its_reason(unsaid):
    with pytest.warns(
        FallbackWarning, match=r"plain torch, several times slower .*: no compiler\. `spae doctor`"
    ):
        assert warn_fallback("no compiler")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not warn_fallback("no compiler")
    assert not caught


@pytest.mark.parametrize(("reason", "work"), [(None, 1 << 40), ("no compiler", 1000)])
def test_nothing_is_said_of_small_calls_or_where_it_is_built(unsaid, reason, work):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_fallback(reason, work)
    with pytest.warns(FallbackWarning):
        assert warn_fallback("no compiler", 1 << 40)


def test_threads_say_it_once(unsaid):
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        assert sum(pool.map(warn_fallback, ["no compiler"] * 64)) == 1
    assert len(caught) == 1


def test_large_calls_on_the_fall_back_say_so(unsaid, monkeypatch):
    monkeypatch.setattr(_extension, "reason", lambda: "no compiler")
    monkeypatch.setattr(_extension, "_NOTICED", 1000)
    x, codes, z = torch.randn(20, 4), torch.randn(30, 4), torch.randn(1, 4, 4, 4)
    pyramid = spae_ops.Pyramid.square(4, (4,))
    calls = [
        lambda impl: spae_ops.nearest_code(x, codes, impl=impl),
        lambda impl: spae_ops.pyramid_quantize(z, codes, pyramid, impl=impl),
        lambda impl: spae_ops.distance_cross_entropy(x, codes, torch.arange(20), impl=impl),
    ]
    for call in calls:
        monkeypatch.setattr(_extension, "_warned", False)
        with pytest.warns(FallbackWarning):
            call("auto")
        monkeypatch.setattr(_extension, "_warned", False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call("torch")
