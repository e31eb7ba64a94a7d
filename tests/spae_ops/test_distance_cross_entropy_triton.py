"""The Triton distance cross-entropy: loss and gradient in the interpreter, its compilation for GPUs.

The rule for tolerances: an error against float64 is no more than that of torch in fp32 with the whole [N, K]
matrix, plus a margin stated in `check`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spae.testing import oracles, strategies

pytest.importorskip("triton", reason="needs triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from spae_ops.cross_entropy import triton as implementation

TEMPERATURES = (1e-3, 0.1, 1.0, 1e3)


def test_answers_in_the_interpreter(run_interpreted):
    run_interpreted(__file__)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of branches that `where` does not take
class TestInterpreted:
    __test__ = INTERPRETED

    @pytest.fixture(autouse=True)
    def poison(self, monkeypatch):
        """Memory that was not written holds NaN, or the largest integer."""
        for name in ("ROWS_PER_FRAME", "ROWS_PER_FINISH"):  # programs are what takes time in the interpreter
            monkeypatch.setattr(implementation, name, 64)
        torch.use_deterministic_algorithms(True)
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(3).isnan().all()
        yield
        torch.use_deterministic_algorithms(False)

    @settings(max_examples=16)
    @given(
        problem=strategies.lookups(max_queries=5, max_codes=150, widths=(1, 17, 40), masks=False),
        temperature=st.sampled_from(TEMPERATURES),
    )
    def test_hard_problems(self, problem, temperature):
        x, codes, _ = problem
        check(x, codes, torch.arange(len(x)) % len(codes), temperature)

    @pytest.mark.parametrize("kind", strategies.KINDS)
    def test_every_kind(self, kind):
        rng = np.random.default_rng(len(kind))
        codes = strategies._values(kind, (140, 33), rng)
        x = strategies._queries(kind, 4, codes, rng)
        for temperature in (TEMPERATURES[0], TEMPERATURES[-1]):
            check(x, codes, torch.arange(4) * 40, temperature)

    @pytest.mark.parametrize(
        ("num_codes", "width"), [(1, 1), (2, 17), (127, 130), (128, 1), (129, 17), (257, 130)]
    )
    def test_sizes_around_the_tile(self, num_codes, width):
        x, codes, target = random_problem(3, num_codes, width)
        check(x, codes, target, 1.0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    @pytest.mark.parametrize("width", [128, 129, 256, 257, 576])
    def test_widths(self, width, dtype):
        x, codes, target = random_problem(3, 130, width)
        check(x.to(dtype), codes.to(dtype), target, float(width))

    @pytest.mark.parametrize(
        ("x_dtype", "dtype", "width"),
        [(a, b, 24) for a in strategies.DTYPES for b in strategies.DTYPES]
        + [(torch.bfloat16, torch.bfloat16, 300), (torch.float16, torch.float32, 300)],
    )
    def test_dtypes(self, x_dtype, dtype, width):
        x, codes, target = random_problem(4, 140, width)
        check(x.to(x_dtype), codes.to(dtype), target, 5.0)

    @pytest.mark.parametrize(
        ("capability", "num_queries"), [((8, 0), 70), ((9, 0), 70), ((10, 0), 70), ((9, 0), 3)]
    )
    def test_every_configuration(self, capability, num_queries, monkeypatch):
        if num_queries == 3:
            monkeypatch.undo()  # as many programs as on a device
        monkeypatch.setattr(implementation, "capability", lambda device: capability)
        x, codes, target = random_problem(num_queries, 200, 40)
        check(x, codes, target, 10.0)
        check(x.bfloat16(), codes.bfloat16(), target, 10.0)

    @pytest.mark.parametrize("width", [24, 300])
    def test_splits_of_the_codes_add_up(self, width, monkeypatch):
        x, codes, target = random_problem(5, 700, width)
        monkeypatch.setattr(implementation, "processors", lambda device: 1000)
        check(x, codes, target, 10.0)

    @pytest.mark.parametrize("processors", [1, 1000])
    @pytest.mark.parametrize("width", [24, 300])
    def test_chunks_of_rows_and_codes(self, width, processors, monkeypatch):
        monkeypatch.setattr(implementation, "processors", lambda device: processors)
        for name, value in (("ROWS", 64), ("SCORED_ROWS", 64), ("SCORE_BYTES", (1, 1))):
            monkeypatch.setattr(implementation, name, value)
        x, codes, target = random_problem(130, 300, width)
        check(x, codes, target, 10.0)

    @pytest.mark.parametrize("width", [5, 300])
    def test_no_queries_and_one_code(self, width):
        for n, k in ((0, 7), (3, 1)):
            x, codes, target = random_problem(n, k, width)
            loss, gradient = implementation.loss_and_gradient(x, codes, [], target, 1.0, True)
            assert loss.tolist() == [0.0] * n
            assert gradient.shape == (n, width)
            assert not gradient.any()

    def test_duplicates_of_the_target(self):
        codes = torch.ones(300, 3)
        loss, gradient = implementation.loss_and_gradient(
            torch.zeros(2, 3), codes, [], torch.tensor([0, 299]), 1e-3, True
        )
        torch.testing.assert_close(loss, torch.full((2,), np.log(300.0), dtype=torch.float32))
        assert not gradient.any()

    @pytest.mark.parametrize("width", [40, 300])
    def test_small_losses_keep_their_relative_accuracy(self, width):
        """Losses down to 1e-20, where 1 - p is long nothing in fp32, and their gradients."""
        x, codes, target = random_problem(6, 200, width)
        x = codes[target] + 0.1 * x
        temperature = width / torch.linspace(2, 20, 6)
        for row in range(6):
            tau = float(temperature[row])
            one = x[row : row + 1], codes, [], target[row : row + 1], tau
            loss, gradient = implementation.loss_and_gradient(*one, True)
            d = torch.from_numpy(oracles.squared_distances(*one[:2])) / tau
            own = d[0, target[row]]
            weights = torch.exp(own - d[0])
            weights[target[row]] = 0
            np.testing.assert_allclose(loss[0], torch.log1p(weights.sum()), rtol=1e-4)
            wanted = 2 / tau * (weights @ (codes - codes[target[row]]).double()) / (1 + weights.sum())
            np.testing.assert_allclose(gradient[0], wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))

    def test_a_loss_of_any_size(self):
        """Two codes, one of them nearer by what makes the loss."""
        codes, target = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0])
        for loss in (1e-30, 1e-12, 4.6e-9, 1e-6, 1e-3, 1.0, 30.0, 1e3):
            ahead = -np.log(np.expm1(loss)) if loss < 100 else -loss
            x = torch.tensor([[0.5 - 0.125 * np.sign(ahead), 0.25]], dtype=torch.float32)
            tau = 0.25 / abs(ahead)
            assert np.isclose(oracles.distance_cross_entropy(x, codes, target, tau)[0], loss, rtol=1e-9)
            found, gradient = implementation.loss_and_gradient(x, codes, [], target, tau, True)
            np.testing.assert_allclose(found[0], loss, rtol=2.0**-20)
            wanted = [[-2 / tau * np.expm1(-loss), 0]]
            np.testing.assert_allclose(gradient, wanted, rtol=2.0**-20, atol=0)

    def test_scores_out_of_range_are_nan_and_never_plausible(self):
        codes = torch.tensor([[1e30, 0.0], [0.0, 1e30], [1.0, 2.0]])
        loss, gradient = implementation.loss_and_gradient(
            torch.ones(1, 2), codes, [], torch.tensor([2]), 1.0, True
        )
        assert loss.isnan().all()
        assert gradient.isnan().all()
        loss, _ = implementation.loss_and_gradient(
            torch.tensor([[3e38, 0.0], [1.0, 1.0]]),
            codes[2:] * torch.ones(2, 1),
            [],
            torch.tensor([0, 1]),
            1e-3,
            False,
        )
        assert loss[0].isnan()
        assert loss[1] == torch.tensor(np.log(2.0), dtype=torch.float32)

    def test_the_same_bits_again(self):
        x, codes, target = random_problem(5, 700, 60)
        first = implementation.loss_and_gradient(x, codes, [], target, 3.0, True)
        again = implementation.loss_and_gradient(x, codes, [], target, 3.0, True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))

    def test_through_the_public_function(self):
        import spae_ops

        rows = {row.name: row for row in spae_ops.implementations("distance_cross_entropy")}
        assert rows["triton"].available
        x, codes, target = random_problem(6, 140, 12)
        gradients = {}
        for impl in ("triton", "reference"):
            q = x.reshape(2, 3, 12).clone().requires_grad_()
            loss = spae_ops.distance_cross_entropy(q, codes, target.reshape(2, 3), temperature=2.0, impl=impl)
            loss.backward()
            gradients[impl] = torch.cat([loss.detach().reshape(1), q.grad.flatten()])
        torch.testing.assert_close(gradients["triton"], gradients["reference"])
        torch.library.opcheck(
            torch.ops.spae_ops.distance_cross_entropy, (x, codes, [], "", [], target, 2.0, True, "triton")
        )
        with pytest.raises(RuntimeError, match="takes float32 or float16 or bfloat16, got float64"):
            spae_ops.distance_cross_entropy(x.double(), codes, target, impl="triton")


def random_problem(num_queries, num_codes, width):
    generator = torch.Generator().manual_seed(num_queries + 7 * num_codes + 31 * width)
    codes = torch.randn(num_codes, width, generator=generator)
    target = torch.randint(num_codes, (num_queries,), generator=generator)
    return torch.randn(num_queries, width, generator=generator), codes, target


def materialised(x, codes, target, temperature, dtype):
    """Loss [N] and gradient [N, D] by torch, with all scores at once."""
    x, codes = x.to(dtype).requires_grad_(), codes.to(dtype)
    scores = (2 * x @ codes.T - codes.square().sum(1)) / temperature
    loss = torch.nn.functional.cross_entropy(scores, target, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach().double(), gradient.double()


def check(x, codes, target, temperature):
    """Margins, to first order: fp32 results are good to 2^-22 relative; scores to 2^-21 of the largest product
    |q||c| / tau, which moves weights by as much; 16-bit inputs have weights of 11 bits in the gradient."""
    loss, gradient = implementation.loss_and_gradient(x, codes, [], target, temperature, True)
    assert loss.dtype == gradient.dtype == torch.float32
    alone, nothing = implementation.loss_and_gradient(x, codes, [], target, temperature, False)
    assert len(nothing) == 0
    assert (loss >= 0).all()
    if len(x) == 0:
        return
    expected = torch.from_numpy(oracles.distance_cross_entropy(x, codes, target, temperature))
    d = torch.from_numpy(oracles.squared_distances(x, codes)) / temperature
    centred = codes.double() - codes.double()[target][:, None]  # [N, K, D]
    wanted = (torch.softmax(-d, 1)[:, None] @ centred)[:, 0] * 2 / temperature
    torch_loss, torch_gradient = materialised(x, codes, target, temperature, torch.float32)
    norm = x.double().norm(dim=1) + codes.double().norm(dim=1).max()
    step = 2.0**-21 * norm.square() / temperature
    room = (torch_loss - expected).abs().nan_to_num(0) + 2.0**-22 * (1 + expected) + step
    for found in (loss, alone):
        assert ((found.double() - expected).abs() <= room).all()
    half = torch.float32 not in (x.dtype, codes.dtype)
    reach = centred.norm(dim=2).amax(1) * 2 / temperature
    torch_error = (torch_gradient - wanted).norm(dim=1).nan_to_num(0)
    room = torch_error + reach * ((2.0**-10 if half else 2.0**-20) + step.clamp(max=2))
    assert ((gradient.double() - wanted).norm(dim=1) <= room).all()


COMPILE = r"""
from spae_ops.cross_entropy import triton as implementation

kernels = implementation.kernels
TYPES = dict(
    queries="*fp16", codes="*fp16", factor="*fp32", bias="*fp32", target="*i64", scores="*fp32", best="*fp32",
    ids="*i32", partition="*fp32", weighted="*fp32", shift="*fp64", scale="*fp64", inverse_temperature="*fp64",
    out="*fp16", loss="*fp32", gradient="*fp32",
)
aligned = ["queries", "codes", "factor", "bias", "scores", "best", "ids", "partition", "weighted"]
aligned += ["rows", "table_rows", "width", "offset", "chunk", "out"]

def stream(queries, width, split, scored, gradient, **ones):
    c = implementation.config(divmod(capability, 10), queries, split=split, scored=scored)
    constants = dict(
        BLOCK_M=c.block_m, BLOCK_N=c.block_n, BLOCK_D=width, SPLIT=split, SCORED=scored, GRADIENT=gradient, **ones
    )
    return compiled(kernels.stream, constants, TYPES, aligned, num_warps=c.num_warps, num_stages=c.num_stages)

rows = []
for split in (False, True):
    widest = implementation.widest(split)
    for queries in (4096, 64):
        rows.append(stream(queries, widest, split, False, True))
    rows.append(stream(4096, widest, split, False, False))
    rows.append(stream(64, 32, split, False, True, N=1, tiles_per_split=1))
    rows.append(stream(4096, widest, split, True, True, resume=1))
    for queries in (4096, 64):
        c = implementation.score_config(queries, split=split)
        constants = dict(WIDTH=640, BLOCK_M=c.block_m, BLOCK_N=c.block_n, BLOCK_K=c.block_k, SPLIT=split)
        rows.append(compiled(
            kernels.score, constants, TYPES, aligned, num_warps=c.num_warps, num_stages=c.num_stages
        ))
    for queries in (False, True):
        constants = dict(ROWS=implementation.ROWS_PER_FRAME, BLOCK=256, QUERIES=queries, SPLIT=split)
        types = {**TYPES, "x": "*bf16", "measured": "*fp32" if queries else "*fp64"}
        rows.append(compiled(kernels.frame_rows, constants, types, aligned, **implementation.FRAME))
rows.append(stream(4096, 256, False, True, False))
for block, ones in ((256, {}), (32, dict(N=1, D=1, splits=1))):
    constants = dict(ROWS=implementation.ROWS_PER_FINISH, BLOCK=block, GRADIENT=True, **ones)
    types = {**TYPES, "x": "*bf16", "codes": "*fp32"}
    rows.append(compiled(kernels.finish, constants, types, ["rows", "width"], **implementation.FINISH))
"""


@pytest.mark.parametrize(("capability", "shared"), [(80, 99), (90, 227), (100, 227)])
def test_compiles_without_spills(capability, shared, compile_kernels):
    """Within the shared memory of a program: for sm_80, of the smallest device that has its configurations."""
    rows = compile_kernels(COMPILE, capability)
    assert len(rows) == 21
    for row in rows:
        assert row["spills"] == 0, row
        assert row["shared"] <= shared * 1024, row
        computes = row["kernel"] == "score" or (
            row["kernel"] == "stream"
            and ("'SCORED': False" in row["constants"] or "'GRADIENT': True" in row["constants"])
        )
        assert (row["matrix"] > 0) == computes, row


def test_auto_does_not_pick_it_until_it_has_run_on_a_gpu(run_python):
    result = run_python(
        "import sys, torch, spae_ops\n"
        "from spae_ops._dispatch import CROSS_ENTROPY\n"
        "for device in ('cpu', 'cuda'):\n"
        "    assert CROSS_ENTROPY.resolve('distance_cross_entropy', 'auto', torch.device(device))[0] != 'triton'\n"
        "assert 'triton' not in sys.modules\n"
    )
    assert result.returncode == 0, result.stderr
