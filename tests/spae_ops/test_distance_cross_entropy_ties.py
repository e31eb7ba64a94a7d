"""Truncated rows so large beside the codes that different scores are distances that tie: E_q of running thresholds, which
the codes' and the row's own rounding to int8, exact here, does not cover (see test_distance_cross_entropy_bounds.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spae.testing import int8, oracles
from spae_ops import _extension
from spae_ops.cross_entropy import cpu

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)

SETS = [name for name in _extension.load().instruction_sets() if name not in ("portable", "amx-emulated")]
PREFIX, TAIL, TILE = 16, 48, 32


@pytest.mark.parametrize("isa", SETS)
def test_ties_in_tiles_of_their_own(isa, monkeypatch):
    """Codes of signs times 127 once rotated, of which eight are near one another and to where the row points, each in a
    tile of its own, the best first; prefixes are empty, so that all elements decide."""
    monkeypatch.setenv("SPAE_ISA", isa)
    size = 2.0**50
    tails = 127 * torch.randn(4200, TAIL, generator=torch.Generator().manual_seed(0)).sign()
    for tile in range(8):
        tails[TILE * tile] = -127
        tails[TILE * tile, :tile] = -126
    rows = torch.cat([tails, torch.full((1, TAIL), -size)]).double()
    rows = torch.nn.functional.pad(rows, (PREFIX, 0)) @ torch.from_numpy(int8.rotation(PREFIX + TAIL)).T
    assert (rows.float() == rows).all()
    codes, x, target = rows[:-1].float(), rows[-1:].float(), torch.tensor([4199])
    distance = oracles.squared_distances(x, codes)[0]
    tied = np.flatnonzero(distance == distance.min())
    assert len(tied) > 1
    evaluated = cpu.num_evaluated(x, codes, cpu.prepare(codes), target, 2.0**40)
    assert evaluated.tolist() == [len(tied)]
