"""The Codebook as a module: no state, its device, copies and pickles, and what lies below it."""

from __future__ import annotations

import copy
import dataclasses
import io
import pathlib
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from spae.codebook import Codebook


class Parent(nn.Module):
    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.codebook = codebook


def test_no_state_dict_parameters_or_buffers(small):
    parent = Parent(small())
    assert set(parent.state_dict()) == {"linear.weight", "linear.bias"}
    assert set(dict(parent.named_parameters())) == {"linear.weight", "linear.bias"}
    assert not list(parent.buffers())
    parent.load_state_dict(nn.ModuleDict({"linear": nn.Linear(2, 2)}).state_dict(), strict=True)


@pytest.mark.parametrize(
    "convert",
    [
        nn.Module.half,
        nn.Module.double,
        nn.Module.bfloat16,
        lambda module: module.to(torch.float16),
        lambda module: module.to("cpu", torch.float16),
        lambda module: module.to_empty(device="cpu"),
        lambda module: module.requires_grad_(True),
    ],
)
def test_conversions_leave_values_and_type(small, convert):
    codebook = small()
    before, address = codebook.vectors.clone(), codebook.vectors.data_ptr()
    parent = convert(Parent(codebook))
    assert parent.codebook.vectors.dtype == torch.float32
    assert parent.codebook.vectors.equal(before)
    assert parent.codebook.vectors.data_ptr() == address
    assert parent.codebook.llm_ids.dtype == torch.int64
    assert not parent.codebook.vectors.requires_grad


def test_it_follows_the_device(small):
    codebook = small()
    index = codebook.index
    assert codebook.index is index
    assert codebook.to("cpu").index is index
    twin = copy.deepcopy(codebook)
    twin.to("meta", torch.float16)
    assert {twin.vectors.device.type, twin.llm_ids.device.type, twin.round_trips.device.type} == {"meta"}
    assert twin.vectors.dtype == torch.float32
    assert codebook.device.type == "cpu"
    assert "small" in repr(twin)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_moves_to_cuda_and_back(small):
    codebook = small()
    before, checksum = codebook.vectors.clone(), codebook.checksum
    parent = Parent(codebook).cuda().half()
    assert codebook.index.device.type == "cuda"
    assert codebook.ids_of([" cat"]).device.type == "cuda"
    assert codebook.subset([1, 0]).normalised("unit").device.type == "cuda"
    parent.cpu()
    assert codebook.index.device.type == "cpu"
    assert codebook.vectors.equal(before)
    assert codebook.checksum == checksum


def test_index_holds_the_vectors(small):
    codebook = small()
    assert codebook.index.codes.equal(codebook.vectors)


def test_deepcopy_shares_the_table_but_not_the_hooks(small):
    parent = Parent(small())
    twin = copy.deepcopy(parent)
    assert twin.codebook is not parent.codebook
    assert twin.codebook.vectors.data_ptr() == parent.codebook.vectors.data_ptr()
    assert twin.linear.weight.data_ptr() != parent.linear.weight.data_ptr()
    twin.codebook.register_forward_hook(lambda *_: None)
    assert not parent.codebook._forward_hooks
    assert twin.eval().codebook.training is False
    assert parent.codebook.training is True


def test_pickle_and_torch_save(small):
    codebook = small()
    assert codebook.index is not None
    for twin in (pickle.loads(pickle.dumps(codebook)), copy.copy(codebook)):
        assert twin.checksum == codebook.checksum
        assert twin.words == codebook.words
        assert twin.index.codes.equal(codebook.vectors)
    stream = io.BytesIO()
    torch.save(Parent(codebook), stream)
    stream.seek(0)
    assert torch.load(stream, weights_only=False).codebook.vectors.equal(codebook.vectors)


def test_distributed_training_never_broadcasts_it(small, tmp_path):
    parent = Parent(small())
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(parent)
        assert not wrapped.modules_buffers
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_lookup_takes_the_table_as_it_is(small):
    codebook = small()
    ids = torch.tensor([2, 0])
    compiled = torch.compile(codebook, fullgraph=True, backend="eager")
    assert compiled(ids).equal(codebook(ids))


def test_the_data_below_the_module(small):
    """Plain and frozen; what is known of it goes with it to another device, and nothing is computed twice."""
    data = small().data
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"
    assert data.checksum == small().checksum
    assert "checksum" in vars(data.to(torch.device("meta")))
    assert data.select("all") is data
    assert data.normalised("none") is data
    named = data.from_source("somewhere").subset([3, 1])
    assert (named.source, named.rows.tolist()) == ("somewhere", [3, 1])
    assert Codebook.from_data(named).words == ["\n", "dog"]
    with pytest.raises(AttributeError, match="source"):
        small().source = "somewhere"


def test_nothing_below_the_module_imports_it():
    """`data` and what it stands on, then storage, then the sources, then the module: no circle."""
    code = "import sys, spae.codebook.{0}; print('spae.codebook.codebook' in sys.modules)"
    source = "import sys, types, pathlib\n" + (
        "for name in ('spae', 'spae.codebook'):\n"
        "    package = types.ModuleType(name); package.__path__ = [str(pathlib.Path(*name.split('.')))]\n"
        "    sys.modules[name] = package\n"
    )
    root = pathlib.Path(__file__).parents[2]
    for module in ("data", "storage", "sources"):
        done = subprocess.run(
            [sys.executable, "-c", source + code.format(module)],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "False", module
