"""What csrc's CUDA compiles to, as PTX: what the emulator, which stands in for ptx.cuh, cannot show.

Instructions, operands and their order are written here once more, from the PTX ISA.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"

# One kernel for each function of ptx.cuh with operands. Arrays are read from and written to `d`.
KERNELS = {
    "cp_async(uint32_t to, const void* from)": "ptx::cp_async_16(to, from);",
    "cp_wait()": "ptx::cp_async_commit(); ptx::cp_async_wait<1>();",
    "ldmatrix(uint32_t* d, uint32_t from)": "uint32_t t[4]; ptx::ldmatrix_x4(t, from); copy(d, t);",
    "mma(float* d, const uint32_t* a)": "float t[4]; uint32_t left[4]; copy(t, d); copy(left, a);"
    "ptx::mma_m16n8k16(t, left, a[4], a[5]); copy(d, t);",
    "init(uint32_t barrier, uint32_t count)": "ptx::mbarrier_init(barrier, count);",
    "init_fence()": "ptx::mbarrier_init_fence();",
    "arrive(uint32_t barrier)": "ptx::mbarrier_arrive(barrier);",
    "expect(uint32_t barrier, uint32_t bytes)": "ptx::mbarrier_arrive_expect(barrier, bytes);",
    "wait(uint32_t barrier, uint32_t parity)": "ptx::mbarrier_wait(barrier, parity);",
    "sync(int barrier, int threads)": "ptx::named_barrier_sync(barrier, threads);",
    "arrive_only(int barrier, int threads)": "ptx::named_barrier_arrive(barrier, threads);",
    "tma(uint32_t to, const CUtensorMap* map, uint32_t barrier, int column, int row)": (
        "ptx::tma_load_2d(to, map, barrier, column, row);"
    ),
    "prefetch(const CUtensorMap* map)": "ptx::tma_prefetch_map(map);",
    "registers()": "ptx::registers_decrease<40>(); ptx::registers_increase<232>();",
    "groups()": "ptx::wgmma_fence(); ptx::wgmma_commit(); ptx::wgmma_wait<1>();",
    "wgmma(float* d, uint64_t a, uint64_t b, uint32_t more)": "float t[128]; copy(t, d);"
    "ptx::wgmma_m64n256k16(t, a, b, more); copy(d, t);",
}


def listed(form: str, count: int, start: int = 0) -> str:
    return "{" + ", ".join(form.format(i) for i in range(start, start + count)) + "}"


D4, D128 = listed("d[{}]", 4), listed("d[{}]", 128)
# What each is to be, with parameters by name; `d[i]` and `a[i]` are elements behind pointers.
EXPECTED = {
    "cp_async": ["cp.async.cg.shared.global [to], [from], 16"],
    "cp_wait": ["cp.async.commit_group", "cp.async.wait_group 1"],
    "ldmatrix": [f"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {D4}, [from]"],
    "mma": [
        f"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {D4}, {listed('a[{}]', 4)}, {listed('a[{}]', 2, 4)}, {D4}"
    ],
    "init": ["mbarrier.init.shared::cta.b64 [barrier], count"],
    "init_fence": ["fence.mbarrier_init.release.cluster", "fence.proxy.async.shared::cta"],
    "arrive": ["mbarrier.arrive.shared::cta.b64 _, [barrier]"],
    "expect": ["mbarrier.arrive.expect_tx.shared::cta.b64 _, [barrier], bytes"],
    "wait": [
        "again:",
        "mbarrier.try_wait.parity.shared::cta.b64 done, [barrier], parity",
        "@done bra finished",
        "bra again",
        "finished:",
    ],
    "sync": ["bar.sync barrier, threads"],
    "arrive_only": ["bar.arrive barrier, threads"],
    "tma": [
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[to], [map, {column, row}], [barrier]"
    ],
    "prefetch": ["prefetch.tensormap [map]"],
    "registers": ["setmaxnreg.dec.sync.aligned.u32 40", "setmaxnreg.inc.sync.aligned.u32 232"],
    "groups": [
        "wgmma.fence.sync.aligned",
        "wgmma.commit_group.sync.aligned",
        "wgmma.wait_group.sync.aligned 1",
    ],
    # scale-d, then A and B as they are, both with K contiguous.
    "wgmma": [
        "setp.ne.b32 accumulate, more, 0",
        f"wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {D128}, a, b, accumulate, 1, 1, 0, 0",
    ],
}


def compiled(source: str, folder: Path) -> str:
    file = folder / "source.cu"
    file.write_text(source)
    target = "-gencode=arch=compute_90a,code=compute_90a"
    command = [
        "nvcc",
        "-O3",
        "-std=c++20",
        "-ptx",
        target,
        f"-I{CSRC}",
        str(file),
        "-o",
        str(folder / "out.ptx"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    return (folder / "out.ptx").read_text()


@pytest.fixture(scope="module", autouse=True)
def nvcc():
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    """Name -> the PTX of its kernel in KERNELS."""
    copy = "template <class A, class B> __device__ void copy(A* to, const B* from, int n) {\n#pragma unroll\n"
    copy += "for (int i = 0; i < n; ++i) to[i] = from[i]; }\n"
    copy += (
        "template <class T, int n> __device__ void copy(T* to, const T (&from)[n]) { copy(to, from, n); }\n"
    )
    copy += (
        "template <class T, int n> __device__ void copy(T (&to)[n], const T* from) { copy(to, from, n); }\n"
    )
    source = '#include "nearest_code/cuda/ptx.cuh"\nusing namespace spae;\n' + copy
    source += "".join(f'extern "C" __global__ void {head} {{ {body} }}\n' for head, body in KERNELS.items())
    ptx = compiled(source, tmp_path_factory.mktemp("ptx"))
    return {entry.partition("(")[0]: entry for entry in ptx.split(".visible .entry ")[1:]}


def instructions(name: str, body: str) -> list[str]:
    """The inline assembly's instructions, registers replaced by what they hold."""
    head = next(head for head in KERNELS if head.startswith(f"{name}("))
    parameters = re.findall(r"(\w+)(?:,|\))", head.partition("(")[2])
    held = {}
    for register, number in re.findall(r"ld\.param\.\w+\s+(%\w+), \[\w+_param_(\d+)\]", body):
        held[register] = parameters[int(number)]
    for to, source in re.findall(r"cvta\.to\.global\.u64\s+(%\w+), (%\w+);", body):
        held[to] = held[source]
    for register, base, offset in re.findall(r"ld\.global\.\w+\s+(%\w+), \[(%\w+)\+?(\d*)\]", body):
        held[register] = f"{held[base]}[{int(offset or 0) // 4}]"
    for base, offset, register in re.findall(r"st\.global\.\w+\s+\[(%\w+)\+?(\d*)\], (%\w+)", body):
        held[register] = f"{held[base]}[{int(offset or 0) // 4}]"
    for flag, register in re.findall(r"setp\.ne\.\w+\s+(%p\d+), (%\w+), 0;", body):
        held[flag] = held.get(register, register)
    for register, flag in re.findall(r"selp\.\w+\s+(%\w+), 1, 0, (%p\d+);", body):
        held[register] = held[flag]
    found = []
    for text in re.findall(r"// begin inline asm\n(.*?)// end inline asm", body, re.DOTALL):
        text = re.sub(r"%\w+", lambda match: held.get(match[0], match[0]), text)
        lines = [" ".join(line.split()) for line in re.split(r"[;\n]", text)]
        found += [line for line in lines if line and line not in "{}" and not line.startswith(".reg")]
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_operands(functions, name):
    assert instructions(name, functions[name]) == EXPECTED[name]


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """The lines of the sm_90a screen."""
    ptx = compiled('#include "nearest_code/cuda/sm90a.cu"\n', tmp_path_factory.mktemp("ptx"))
    return [line.strip() for line in ptx.splitlines()]


def places(lines, start):
    found = [i for i, line in enumerate(lines) if line.startswith(start)]
    assert found, start
    return found


def test_barriers_are_fenced_between_their_initialisation_and_their_use(screen):
    last, fence = places(screen, "mbarrier.init.")[-1], places(screen, "fence.mbarrier_init.")[0]
    proxy, met = places(screen, "fence.proxy.async")[0], places(screen, "bar.sync \t0")[0]
    assert last < fence < proxy < met < places(screen, "cp.async.bulk.tensor")[0]
    assert met < places(screen, "mbarrier.try_wait")[0]


def test_every_group_of_wgmma_begins_with_a_fence_and_is_committed(screen):
    """Fence, products, commit, wait: in this order, nothing between products."""
    kinds = [re.match(r"wgmma\.(fence|mma_async|commit_group|wait_group)", line) for line in screen]
    order = " ".join(kind[1] for kind in kinds if kind)
    assert re.fullmatch(r"((fence( mma_async)+ commit_group wait_group)+( wait_group)?\s?)+", order), order


def test_registers_that_warps_take_are_those_given_up(screen):
    """The launch gives each of 384 threads 168; 128 leave some to the other 256. More, and the kernel hangs."""
    text = "\n".join(screen)
    threads = int(re.findall(r"\.maxntid (\d+)", text)[0])
    (left,), (taken,) = (re.findall(rf"setmaxnreg\.{act}\.\S+ (\d+)", text) for act in ("dec", "inc"))
    assert threads == 384
    assert 128 * int(left) + 256 * int(taken) <= threads * (65536 // threads // 8 * 8)
    assert int(left) % 8 == int(taken) % 8 == 0
