from __future__ import annotations

from itertools import chain

import pytest
import torch

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae.training import lr_scheduler, schedule_factor
from spae.training.order import StepBatches, epoch_order


def test_inverse_square_root_with_warm_up_and_cool_down():
    shape = {"steps": 100, "warmup_steps": 4, "cooldown_steps": 9}
    factors = [schedule_factor(step, **shape) for step in range(101)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[15] == 0.5
    assert factors[63] == 0.25
    assert factors[90] == pytest.approx((4 / 91) ** 0.5)
    assert factors[95] == pytest.approx((4 / 96) ** 0.5 * 0.5)
    assert factors[99] == pytest.approx((4 / 100) ** 0.5 * 0.1)
    assert factors[100] == 0
    assert factors[3:] == sorted(factors[3:], reverse=True)


def test_constant():
    assert [schedule_factor(step, steps=3, schedule="constant") for step in range(4)] == [1, 1, 1, 0]
    factors = [
        schedule_factor(s, steps=6, schedule="constant", warmup_steps=2, cooldown_steps=3) for s in range(6)
    ]
    assert factors == [0.5, 1, 1, 0.75, 0.5, 0.25]
    with pytest.raises(
        ValueError, match="schedule: expected one of inverse_sqrt, cosine, constant, got 'step'"
    ):
        schedule_factor(0, steps=3, schedule="step")  # pyright: ignore[reportArgumentType]


def test_half_a_cosine_after_the_warm_up():
    factors = [schedule_factor(step, steps=21, schedule="cosine", warmup_steps=2) for step in range(22)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[11] == pytest.approx(0.5)
    assert factors[6] == pytest.approx((1 + 2**-0.5) / 2)
    assert 0 < factors[20] < 0.01
    assert factors[21] == 0
    assert factors[1:] == sorted(factors[1:], reverse=True)


def test_scheduler_follows_the_function():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = lr_scheduler(optimizer, steps=30, warmup_steps=5, cooldown_steps=5)
    for step in range(30):
        expected = 2 * schedule_factor(step, steps=30, warmup_steps=5, cooldown_steps=5)
        assert optimizer.param_groups[0]["lr"] == expected
        optimizer.step()
        scheduler.step()


def test_order_of_the_data_is_a_function_of_seed_and_step():
    whole = list(StepBatches(10, 4, 7, seed=3))
    assert list(StepBatches(10, 4, 7, seed=3, start=5)) == whole[5:]
    assert list(StepBatches(10, 4, 7, seed=4)) != whole
    assert len(StepBatches(10, 4, 7, seed=3, start=5)) == 2
    for epoch in range(3):
        seen = [*whole[2 * epoch], *whole[2 * epoch + 1]]
        assert seen == epoch_order(10, 3, epoch)[:8].tolist()
        assert len(set(seen)) == 8
    assert epoch_order(8, 0, 0).tolist() == [3, 7, 4, 0, 2, 6, 5, 1]


def test_processes_share_every_batch():
    whole = list(StepBatches(12, 6, 4, seed=0))
    shares = [list(StepBatches(12, 6, 4, seed=0, rank=rank, world=3)) for rank in range(3)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert {len(part) for part in parts} == {2}
        assert sorted(chain(*parts)) == sorted(batch)
    with pytest.raises(ValueError, match="a multiple of the 5 processes, got 6"):
        StepBatches(12, 6, 4, seed=0, world=5)
