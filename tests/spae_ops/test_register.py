"""How the ops are registered with torch: what is true of all of them, whatever they compute."""

import subprocess
import sys

import pytest
import torch

from spae_ops import Pyramid, pyramid_quantize

OPS = [
    "nearest_code",
    "topk_codes",
    "pyramid_covered",
    "pyramid_quantize",
    "pyramid_dequantize",
    "layer_queries",
    "layer_queries_backward",
    "dilation_subsample",
    "distance_cross_entropy",
    "distance_cross_entropy_backward",
]
READ_VALUES = {
    "nearest_code",
    "topk_codes",
    "pyramid_quantize",
    "pyramid_dequantize",
    "layer_queries",
    "distance_cross_entropy",
}
SHAPE, GRIDS = [4, 4], [1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize("name", OPS)
def test_schemas_and_tags(name):
    op = getattr(torch.ops.spae_ops, name).default
    assert not op._schema.is_mutable
    assert all(argument.alias_info is None for argument in [*op._schema.arguments, *op._schema.returns])
    tags = {torch.Tag.pt2_compliant_tag} | ({torch.Tag.cudagraph_unsafe} if name in READ_VALUES else set())
    assert set(op.tags) == tags


def call(name, grad):
    """An op without a derivative, called as it is registered: its tensors of floating point."""
    codes = torch.randn(30, 6, requires_grad=grad)
    x, z = torch.randn(5, 6, requires_grad=grad), torch.randn(2, 6, 4, 4, requires_grad=grad)
    table = (codes, [], "", [])
    ids = pyramid_quantize(z, codes.detach(), Pyramid.square(4, (1, 2, 4))).ids
    arguments = {
        "nearest_code": (x, *table, None, "auto"),
        "topk_codes": (x, *table, None, 2, "auto"),
        "pyramid_quantize": (z, *table, SHAPE, GRIDS, "saq", None, "auto"),
        "pyramid_dequantize": (ids, codes, SHAPE, GRIDS, "saq", "nearest", "auto"),
    }
    results = getattr(torch.ops.spae_ops, name)(*arguments[name])
    return results if isinstance(results, torch.Tensor) else results[1]


@pytest.mark.parametrize("name", ["nearest_code", "topk_codes", "pyramid_quantize", "pyramid_dequantize"])
def test_a_backward_through_what_has_no_derivative_raises(name):
    """Of the ops themselves; the functions detach what they give them."""
    assert not call(name, grad=False).requires_grad
    with pytest.raises(RuntimeError, match=f"{name}: expected no gradient of its result"):
        call(name, grad=True).sum().backward()


def test_bodies_are_not_compiled():
    """Where torch.compile gives up on a function, it goes on with all that it calls."""
    graphs = []
    codes, x = torch.randn(30, 6), torch.randn(5, 6)

    def skipped(x):
        try:
            torch._dynamo.graph_break()
            return torch.ops.spae_ops.nearest_code(x, codes, [], "", [], None, "auto")
        finally:
            pass

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    found = torch.compile(skipped, backend=backend)(x)
    assert torch.equal(found[0], skipped(x)[0])
    assert [node for graph in graphs for node in graph.graph.nodes if node.op.startswith("call")] == []


def test_a_call_does_not_load_the_compiler():
    program = (
        "import sys, torch, spae_ops; spae_ops.nearest_code(torch.eye(3), torch.eye(3)); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
