from __future__ import annotations

import copy
import pickle

import torch
from torch import nn

from spae.frozen import Frozen, target_device


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.held = Frozen(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.held.follow(fn)
        return self


def test_the_owner_does_not_see_it():
    owner = Owner().train().requires_grad_(True)
    assert set(owner.state_dict()) == {"own.weight", "own.bias"}
    assert len(list(owner.parameters())) == 2
    assert not list(owner.buffers())
    network = owner.held.network
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


def test_it_follows_the_device_but_not_the_dtype_and_leaves_copies_where_they_are():
    owner = Owner()
    weight = owner.held.network[0].weight
    twin = copy.deepcopy(owner)
    assert twin.held.network is owner.held.network
    assert twin.own.weight is not owner.own.weight
    for convert in (nn.Module.half, nn.Module.double, lambda module: module.to_empty(device="cpu")):
        convert(owner)
        assert owner.held.network[0].weight is weight
    twin.to("meta", torch.float16)
    assert twin.held.network[0].weight.device.type == "meta"
    assert twin.held.network[0].weight.dtype == torch.float32
    assert owner.held.network[0].weight is weight


def test_pickle_writes_it():
    owner = Owner()
    read = pickle.loads(pickle.dumps(owner))
    assert torch.equal(read.held.network[0].weight, owner.held.network[0].weight)


def test_target_device():
    cpu = torch.device("cpu")
    assert target_device(lambda t: t.half(), cpu) == cpu
    assert target_device(lambda t: torch.empty_like(t, device="meta"), cpu) == torch.device("meta")
