import pytest
import torch

from spae_ops._checks import all_finite, check_finite

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_values_whose_sum_overflows_are_finite(dtype):
    largest = torch.finfo(dtype).max
    assert all_finite(torch.full((3, 1000), largest, dtype=dtype))
    assert all_finite(torch.tensor([[largest, -largest], [largest, largest]], dtype=dtype))
    assert all_finite(torch.empty(0, 4, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [[torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf]])
def test_no_sum_hides_nan_or_inf(dtype, bad):
    x = torch.randn(40, 33).to(dtype)
    for i, value in enumerate(bad):
        x[7 + 20 * i, 5] = value
    assert not all_finite(x)
    assert not all_finite(x.T)
    assert not all_finite(x.abs() + torch.finfo(dtype).max)  # a sum that overflows besides
    with pytest.raises(ValueError, match=rf"x: .* got nan or inf in {len(bad)} of 40 rows: 7"):
        check_finite("x", x)
