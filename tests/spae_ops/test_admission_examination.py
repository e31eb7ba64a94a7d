"""What the examinations find: CUDA kernels on the emulator, Triton's in its interpreter, and faults planted in
both, each of which must be found."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from spae_ops.admission import cross_entropy, matrix_unit, problems, pyramid, search
from spae_ops.admission import examine as examination
from spae_ops.admission.examine import EXAMINATIONS, examine
from spae_ops.cross_entropy import torch as plain_loss
from spae_ops.lookup import cuda, tensor_cores
from spae_ops.lookup import torch as plain
from spae_ops.lookup.distance import squared_distance
from spae_ops.quantize import torch as plain_pyramid

CPU, WIDTH = torch.device("cpu"), 40
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Compute capability, and how the emulated tensor cores add: terms of a step and bits kept (tensor_cores.py).
GPUS = {"sm_80": ((8, 0), 8, 24), "sm_90a": ((9, 0), 16, 25)}
# What the emulator leaves out by these numbers: __syncthreads and cp.async.wait; mbarrier waits and wgmma.wait.
WAITS = {"sm_80": (1, 2), "sm_90a": (3, 4)}


def changed(module, **names):
    """An implementation like `module` but for these names."""
    return SimpleNamespace(**{**vars(module), **names})


@pytest.fixture(params=GPUS)
def gpu(request, cuda_emulator, monkeypatch):
    """gpu(bits, left out) sets up the emulator of a GPU, which it returns by name."""
    capability, terms, standard = GPUS[request.param]
    monkeypatch.setattr(cuda, "_capability", lambda device: capability)
    monkeypatch.setattr(cuda.Kernels, "processors", lambda self, device: 1)
    monkeypatch.setattr(tensor_cores, "LIST_LIMIT", 8)  # so that there are several passes

    def configure(bits=standard, left_out=0):
        cuda_emulator.emulator_configure(1, terms, bits)
        cuda_emulator.emulator_leave_out(left_out)
        return request.param

    yield configure
    cuda_emulator.emulator_leave_out(0)


class Kernels(cuda.Kernels):
    """The CUDA kernels with a fault in what `screen` leaves."""

    def __init__(self, fault):
        self.fault = fault

    def screen(self, queries, index, inverse, scores):
        super().screen(queries, index, inverse, scores)
        self.fault(scores)


def with_kernels(kernels):
    return changed(
        cuda,
        KERNELS=kernels,
        prepare=lambda codes: tensor_cores.prepare(kernels, codes),
        search=lambda *arguments: tensor_cores.search(kernels, *arguments),
    )


class TestCuda:
    def test_passes(self, gpu):
        name = gpu()
        found = examine(
            "nearest_code", cuda, CPU, torch.bfloat16 if name == "sm_80" else torch.float32, WIDTH
        )
        assert found.outcome == "passed", found
        expected = "0.250" if name == "sm_80" else "0.123"  # what these units cut, of W 2^-22
        assert (
            f"matrix unit off by up to {expected} of the bound, without which answers are wrong"
            in found.detail
        )
        assert torch.are_deterministic_algorithms_enabled() is False

    def test_a_unit_that_cuts_earlier(self, gpu):
        name = gpu(bits=22)
        found = examine("nearest_code", cuda, CPU, torch.float32, WIDTH)
        assert found.outcome == "failed"
        assert "is off by 0.98" in found.detail or "is off by 1.0" in found.detail, (name, found)

    @pytest.mark.parametrize("nth", [0, 1])
    def test_a_wait_that_is_left_out(self, gpu, nth):
        gpu(left_out=WAITS[gpu()][nth])
        assert examine("nearest_code", cuda, CPU, torch.float32, WIDTH).outcome == "failed"

    def test_a_lost_update(self, gpu):
        """One row of one tile keeps what was in memory before."""

        def lose(scores):
            scores[:, -1, 2] = torch.nan

        gpu()
        found = examine("nearest_code", with_kernels(Kernels(lose)), CPU, torch.float32, WIDTH)
        assert found.outcome == "failed", found

    def test_a_wrong_tile_edge(self, gpu):
        """The last tile is left out where there are several."""

        def cut(scores):
            if scores.shape[1] > 1:
                scores[:, -1] = tensor_cores.LOWEST

        gpu()
        found = examine("nearest_code", with_kernels(Kernels(cut)), CPU, torch.float32, WIDTH)
        assert found.outcome == "failed", found

    def test_a_tile_edge_off_by_one(self, gpu):
        """Codes whose number is a multiple of 128 do not exist for the kernels."""

        def prepare(codes):
            prepared = tensor_cores.prepare(cuda.KERNELS, codes)
            if len(codes) > 128:
                prepared.bias[128::128] = tensor_cores.ABSENT
            return prepared

        gpu()
        found = examine("nearest_code", changed(cuda, prepare=prepare), CPU, torch.float32, WIDTH)
        assert found.outcome == "failed", found

    @pytest.mark.parametrize("fault", ["no accumulation term", "screened value"])
    def test_what_ignores_the_bound(self, gpu, fault):
        def prepare(codes):
            prepared = tensor_cores.prepare(cuda.KERNELS, codes)
            bounds = prepared.bounds.clone()
            bounds[0] -= prepared.table.shape[1] * 2.0**-22 * bounds[1]
            return prepared._replace(bounds=bounds if fault.startswith("no") else bounds * 0)

        gpu()
        found = examine("nearest_code", changed(cuda, prepare=prepare), CPU, torch.float32, WIDTH)
        assert found.outcome == "failed", found
        assert found.detail.startswith("the matrix unit at its worst, ids: "), found

    def test_void_where_it_could_not_have_failed(self, gpu, monkeypatch):
        """Kernels that have their term G from elsewhere: the control is answered rightly, and says nothing."""
        gpu()
        monkeypatch.setattr(matrix_unit, "control_fails", lambda *arguments: False)
        monkeypatch.setattr(search, "_float64", lambda *arguments: None)
        monkeypatch.setattr(search, "_fill", lambda *arguments: None)
        found = examine("nearest_code", cuda, CPU, torch.float32, WIDTH)
        assert found.outcome == "unknown"
        assert found.detail.endswith("the examination could not have failed")
        monkeypatch.setattr(matrix_unit, "probe", lambda *arguments: 0.001)
        monkeypatch.setattr(problems, "adversarial", lambda *arguments, **options: ())
        found = examine("nearest_code", cuda, CPU, torch.float32, WIDTH)
        assert found.outcome == "passed"
        assert found.detail.endswith("too exact for answers without it to be wrong")


class TestSearch:
    """Kernels that do not screen by matrix units get all but what is about those."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_passes(self, dtype):
        assert examine("nearest_code", plain, CPU, dtype, 17).outcome == "passed"

    def faulty(self, change):
        def search(*arguments):
            ids, sqdist = plain.search(*arguments)
            change(ids, sqdist, *arguments)
            return ids, sqdist

        found = examine("nearest_code", changed(plain, search=search), CPU, torch.float32, 17)
        assert found.outcome == "failed"
        return found.detail

    def test_one_bit_of_a_distance(self):
        def flip(ids, sqdist, *_):
            sqdist[-1] = sqdist[-1].nextafter(torch.tensor(torch.inf))

        assert "squared distances: 1 of 1 rows are wrong, row 0 first: expected " in self.faulty(flip)

    def test_ties_to_the_highest_id(self):
        def turn(ids, sqdist, x, codes, prepared, mask, k):
            if mask is None and k == 1:
                other, _ = plain.search(x, codes.flip(0), prepared, None, k)
                ids.copy_(len(codes) - 1 - other)

        assert "duplicates, ids: " in self.faulty(turn)

    def test_distances_in_float32(self):
        def screen(ids, sqdist, x, codes, prepared, mask, k):
            if mask is not None and k == 1:
                scores = torch.cdist(x.float(), codes.float()).masked_fill(~mask, torch.inf)
                ids.copy_(scores.argmin(1, keepdim=True))

        assert "bisectors to the last bit, ids: " in self.faulty(screen)

    def test_another_answer_the_second_time(self):
        count = []

        def change(ids, sqdist, x, *_):
            count.append(len(x))
            if count.count(len(x)) == 2 and len(x) == 129:
                ids[77] = 0

        assert self.faulty(change).startswith(
            "every multiprocessor, time 2, ids: 1 of 129 rows are wrong, row 77"
        )

    def test_memory_that_was_not_written(self):
        def forget(ids, sqdist, *_):
            sqdist[1:] = torch.empty(len(sqdist) - 1, 1)

        assert "got nan" in self.faulty(forget)

    def test_errors_are_told_apart(self):
        def outcome(error):
            def search(*_):
                raise error

            found = examine("nearest_code", changed(plain, search=search), CPU, torch.float32, 8)
            return found.outcome, found.detail

        assert outcome(torch.OutOfMemoryError("CUDA out of memory."))[0] == "unknown"
        assert outcome(RuntimeError("CUDA error: out of memory"))[0] == "unknown"
        assert outcome(RuntimeError("nearest_code: screen_sm90a: deadlock"))[0] == "failed"
        assert (
            outcome(RuntimeError("CUDA error: an illegal memory access was encountered\nmore"))[0] == "failed"
        )
        assert outcome(RuntimeError("Failed to find C compiler")) == (
            "unknown",
            "RuntimeError: Failed to find C compiler",
        )

    def test_a_device_that_no_kernel_was_built_for(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (13, 1))
        error = RuntimeError("nearest_code: frame: no kernel image is available for execution on the device")
        found = examination._of_error(error, torch.device("cuda", 0))
        assert found.outcome == "failed"
        assert found.detail.startswith(
            "no kernel was built for compute capability 13.1 (RuntimeError: nearest_code"
        )

    def test_answers_are_the_definition(self):
        for problem in problems.adversarial(torch.float16, 5, small=True):
            ids, sqdist = problems.answer(problem)
            codes = problem.codes
            row = len(problem.x) - 1
            expected = squared_distance(problem.x[row].expand_as(codes), codes)
            if problem.mask is not None:
                expected[~problem.mask] = torch.inf
            assert sqdist[row, 0] == expected.min()
            assert ids[row, 0] == (expected == expected.min()).nonzero()[0]


class TestCrossEntropy:
    def test_passes(self):
        found = examine("distance_cross_entropy", plain_loss, CPU, torch.float32, WIDTH)
        assert found.outcome == "passed", found

    @pytest.mark.parametrize("part", ["losses", "gradients"])
    @pytest.mark.parametrize("factor", [1 + 1e-4, float("nan")])
    def test_a_result_that_is_off(self, part, factor):
        def run(*arguments):
            loss, gradient = plain_loss.loss_and_gradient(*arguments)
            return (loss * factor, gradient) if part == "losses" else (loss, gradient * factor)

        found = examine(
            "distance_cross_entropy", changed(plain_loss, loss_and_gradient=run), CPU, torch.float32, WIDTH
        )
        assert found.outcome == "failed"
        assert f"{part} are further off than they may be" in found.detail or "nan" in str(factor)

    def test_results_that_differ_from_run_to_run(self):
        count = []

        def run(*arguments):
            loss, gradient = plain_loss.loss_and_gradient(*arguments)
            count.append(1)
            return loss * (1 + 2.0**-52 * len(count)), gradient

        problem = cross_entropy._problems(torch.float32, WIDTH, small=True)[1]
        with pytest.raises(cross_entropy.Wrong, match="another run gives other bits"):
            cross_entropy.check(changed(plain_loss, loss_and_gradient=run), CPU, problem)


class TestPyramid:
    def test_passes(self):
        found = examine("pyramid", plain_pyramid, CPU, torch.bfloat16, WIDTH)
        assert found.outcome == "passed", found

    @pytest.mark.parametrize("op", ["quantize", "dequantize", "layer_queries", "layer_queries_backward"])
    def test_one_bit(self, op):
        def run(*arguments):
            results = getattr(plain_pyramid, op)(*arguments)
            out = results[1] if op == "quantize" else results
            out.view(-1)[-1] += out.view(-1)[-1].abs() * 2.0**-23
            return results

        found = examine("pyramid", changed(plain_pyramid, **{op: run}), CPU, torch.float32, WIDTH)
        assert found.outcome == "failed"
        assert found.detail.startswith(f"{op}, ")


def test_triton_in_the_interpreter(run_interpreted):
    pytest.importorskip("triton", reason="needs triton")
    run_interpreted(__file__)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of branches that `where` does not take
class TestInterpreted:
    __test__ = INTERPRETED

    @pytest.fixture(autouse=True)
    def few_programs(self, monkeypatch):
        from spae_ops.cross_entropy import triton as loss
        from spae_ops.lookup import triton as lookup

        for module in (lookup, loss):  # programs are what takes time in the interpreter
            monkeypatch.setattr(module, "ROWS_PER_FRAME", 64)
        monkeypatch.setattr(loss, "ROWS_PER_FINISH", 64)
        monkeypatch.setattr(lookup, "processors", lambda device: 1)
        monkeypatch.setitem(lookup.RESOLVE, "BLOCK", 128)
        monkeypatch.setattr(tensor_cores, "LIST_LIMIT", 8)
        monkeypatch.setattr(problems, "filling", partial(problems.filling, stages=1))  # there is no ring

    def test_search(self, monkeypatch):
        from spae_ops.lookup import triton

        found = examine("nearest_code", triton, CPU, torch.float32, WIDTH)
        assert found.outcome == "passed", found

    def test_a_product_of_too_few_bits(self, monkeypatch):
        """Queries of 8 bits, as if the matrix unit were bfloat16's."""
        from spae_ops.lookup import triton

        class Coarse(triton.Kernels):
            def screen(self, queries, index, inverse, scores):
                super().screen(queries.bfloat16().half(), index, inverse, scores)

        kernels = Coarse()
        with pytest.raises(search.Wrong, match="matrix unit, "):
            matrix_unit.probe(kernels, CPU, 64)

    def test_cross_entropy(self):
        from spae_ops.cross_entropy import triton

        found = examine("distance_cross_entropy", triton, CPU, torch.float32, WIDTH)
        assert found.outcome == "passed", found

    def test_pyramid(self, monkeypatch):
        from spae_ops.quantize import triton

        monkeypatch.setattr(pyramid, "PYRAMIDS", (pyramid.Pyramid.square(4, (1, 2, 4)), pyramid.PYRAMIDS[2]))
        found = examine("pyramid", triton, CPU, torch.float32, WIDTH)
        assert found.outcome == "passed", found


def test_every_family_has_an_examination():
    from spae_ops._dispatch import TABLES

    assert set(EXAMINATIONS) == set(TABLES)
    assert all(family.kind == kind for kind, family in TABLES.items())
    assert pyramid.PYRAMIDS[2].depth().min() == 0  # positions without a token are examined
