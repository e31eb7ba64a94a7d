"""How setup.py builds the extension: what nvcc compiles for, and what happens when compilers fail."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from setuptools import Extension

ROOT = Path(__file__).parents[1]
# Of three toolkits: the first knows no GPU of Blackwell, the last none of Ampere.
KNOWN = {"12.6": (75, 80, 86, 89, 90), "13.0": (75, 80, 90, 100, 103, 110, 120), "future": (100, 120)}
CUDA_MACROS = ["SPAE_WITH_CUDA", "USE_CUDA", "SPAE_CUDA_ARCHITECTURES"]


@pytest.fixture
def build():
    """setup.py, as a module."""
    spec = importlib.util.spec_from_file_location("spae_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["spae_setup"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["spae_setup"]


@pytest.fixture
def nvcc(tmp_path):
    """Makes an nvcc that knows those GPUs and does `act` when it is to compile."""

    def make(known, act="exit 3"):
        path = tmp_path / "nvcc"
        codes = " ".join(f"sm_{number}" for number in known)
        path.write_text(f"""#!/bin/sh
case "$*" in
  *--list-gpu-code*) printf '%s\\n' {codes} ;;
  *--dryrun*) echo '#$ INCLUDES="-I/cuda/include"' >&2; echo '#$ LIBRARIES=  "-L/cuda/lib"' >&2 ;;
  *) {act} ;;
esac
""")
        path.chmod(0o755)
        return str(path)

    return make


class Compiler:
    """Stands for the C++ compiler: keeps what it was asked to compile, and fails where it is told to."""

    def __init__(self, fails_with=()):
        self.extension = Extension("spae_ops._C", ["csrc/register.cpp"])
        self.fails_with = fails_with
        self.calls = []

    def __call__(self):
        macros = [name for name, _ in self.extension.define_macros]
        assert not self.extension.optional
        self.calls.append(macros)
        if self.fails_with == "everything" or any(name in self.fails_with for name in macros):
            raise RuntimeError("c++ fails")


def test_machine_code_for_every_generation_that_nvcc_knows(build, nvcc):
    source, hopper = Path("sm80.cu"), Path("sm90a.cu")
    toolkit = build.read_toolkit(nvcc(KNOWN["12.6"]))
    assert toolkit[1:] == (["/cuda/include"], ["/cuda/lib"], [80, 90])
    code = [option.rpartition("code=")[2] for option in build.targets(source, toolkit.architectures)]
    assert code == ["sm_80", "sm_90", "compute_90"]
    known = build.read_toolkit(nvcc(KNOWN["13.0"])).architectures
    code = [option.rpartition("code=")[2] for option in build.targets(source, known)]
    assert code == ["sm_80", "sm_90", "sm_100", "sm_110", "sm_120", "compute_120"]
    assert build.targets(hopper, known) == ["-gencode=arch=compute_90a,code=sm_90a"]
    with pytest.raises(RuntimeError, match="CUDA 12 or later"):
        build.read_toolkit(nvcc(KNOWN["future"]))


def test_failing_nvcc_leaves_the_cpu_kernels(build, nvcc, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("SPAE_REQUIRE_EXT", raising=False)
    compiler = Compiler()
    build.build(compiler.extension, build.read_toolkit(nvcc(KNOWN["13.0"])), tmp_path / "build", compiler)
    assert compiler.calls == [[]]
    assert compiler.extension.sources == ["csrc/register.cpp"]
    assert compiler.extension.extra_objects == compiler.extension.libraries == []
    (message,) = build.left_out
    assert "WITHOUT ITS CUDA KERNELS" in message
    assert "Why: nvcc fails on nearest_code/cuda/" in message
    monkeypatch.setattr(build, "setup", lambda: None)
    monkeypatch.setattr(build, "extension", dict)
    build.main()
    assert message in capfd.readouterr().err


def test_amx_is_built_in_where_the_compiler_knows_it(build, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nexit 0\n")
    compiler.chmod(0o755)
    assert build.amx_macros(f"{compiler} -m64") == [("SPAE_WITH_AMX", None)]
    assert capsys.readouterr().err == ""
    for unfit in ("false", str(tmp_path / "none")):
        assert build.amx_macros(unfit) == []
        assert f"{unfit} does not know AMX's instructions" in capsys.readouterr().err
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    assert build.amx_macros(str(compiler)) == []
    assert capsys.readouterr().err == ""


def test_cuda_that_compiles_is_built_in(build, nvcc, tmp_path):
    compiler, folder = Compiler(), tmp_path / "build"
    toolkit = build.read_toolkit(nvcc(KNOWN["13.0"], act="true"))
    build.build(compiler.extension, toolkit, folder, compiler)
    assert compiler.calls == [CUDA_MACROS]
    kernels = sorted(path.stem for path in (ROOT / "csrc").rglob("*.cu"))
    assert [Path(name).name for name in compiler.extension.extra_objects] == [f"{k}.cuda.o" for k in kernels]
    assert all((ROOT / source).exists() for source in compiler.extension.sources)
    assert len(compiler.extension.sources) == 2
    assert compiler.extension.define_macros[-1] == ("SPAE_CUDA_ARCHITECTURES", "80,90,100,110,120")
    assert build.left_out == []


def test_the_extension_knows_what_it_was_built_for(build):
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"needs a C++ compiler, {compiler} is not found")
    command = [compiler, "-std=c++20", "-E", "-P", f"-I{build.SOURCES}", f"-I{sysconfig.get_path('include')}"]
    for macros, expected in ((["-DSPAE_CUDA_ARCHITECTURES=80,90,120"], '"80,90,120"'), ([], '""')):
        result = subprocess.run(
            [*command, *macros, str(build.SOURCES / "module.cpp")], capture_output=True, text=True
        )
        if "Python.h" in result.stderr:
            pytest.skip("needs Python's headers")
        assert f"const char* architectures = {expected};" in result.stdout


def test_cuda_that_does_not_link_is_left_out(build, nvcc, tmp_path, monkeypatch):
    monkeypatch.delenv("SPAE_REQUIRE_EXT", raising=False)
    compiler = Compiler(fails_with=("SPAE_WITH_CUDA",))
    toolkit = build.read_toolkit(nvcc(KNOWN["13.0"], act="true"))
    build.build(compiler.extension, toolkit, tmp_path / "build", compiler)
    assert compiler.calls == [CUDA_MACROS, []]
    assert compiler.extension.libraries == []
    assert "c++ fails" in build.left_out[0]


def test_failing_compiler_leaves_pure_python(build, tmp_path, monkeypatch):
    monkeypatch.delenv("SPAE_REQUIRE_EXT", raising=False)
    compiler = Compiler(fails_with="everything")
    build.build(compiler.extension, None, tmp_path, compiler)
    (message,) = build.left_out
    assert "WITHOUT ITS COMPILED OPERATORS" in message
    assert "c++ fails" in message
    assert compiler.extension.optional


@pytest.mark.parametrize("cuda", [True, False])
def test_required_is_an_error(build, nvcc, tmp_path, monkeypatch, cuda):
    monkeypatch.setenv("SPAE_REQUIRE_EXT", "1")
    compiler = Compiler(fails_with="everything")
    toolkit = build.read_toolkit(nvcc(KNOWN["13.0"])) if cuda else None
    with pytest.raises(RuntimeError, match=r"nvcc fails on nearest_code/cuda/" if cuda else r"c\+\+ fails"):
        build.build(compiler.extension, toolkit, tmp_path / "build", compiler)
    assert len(compiler.calls) == (0 if cuda else 1)


@pytest.mark.parametrize(
    "flag", ["-ffast-math", "-Ofast", "-ffinite-math-only", "-funsafe-math-optimizations"]
)
def test_fast_math_is_overridden_and_otherwise_refused(build, flag, tmp_path):
    """The definition adds in an order that fast math would not keep; nothing of csrc compiles with it."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"needs a C++ compiler, {compiler} is not found")
    source = tmp_path / "source.cpp"
    source.write_text('#include "simd/simd.h"\n')
    command = [compiler, "-std=c++20", "-fsyntax-only", f"-I{build.SOURCES}", "-O2", flag]
    result = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert result.returncode != 0
    assert "without -ffast-math" in result.stderr
    assert subprocess.run([*command, *build.CXX, str(source)]).returncode == 0


def test_a_build_without_compiler_installs_and_says_so(tmp_path):
    """setup.py itself, with a compiler that fails: it exits with 0 and ends with what is lost, or, required, with 1."""
    command = [sys.executable, str(ROOT / "setup.py"), "build_ext"]
    command += ["--build-temp", str(tmp_path / "temp"), "--build-lib", str(tmp_path / "lib")]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120}
    environment = {
        "PATH": "/usr/bin:/bin",
        "CC": "false",
        "CXX": "false",
        "SPAE_NO_CUDA": "1",
        "USE_NINJA": "0",
    }
    result = subprocess.run(command, env=environment, **options)
    assert result.returncode == 0, result.stderr
    assert "WITHOUT ITS COMPILED OPERATORS" in result.stderr[-1000:]
    assert not list(tmp_path.rglob("*.so"))
    result = subprocess.run(command, env={**environment, "SPAE_REQUIRE_EXT": "1"}, **options)
    assert result.returncode != 0


def test_one_binary_for_every_python(build, monkeypatch):
    """What says so, and that nothing of csrc includes more of Python than its limited API."""
    monkeypatch.setenv("SPAE_NO_CUDA", "1")
    arguments = build.extension()
    (compiled,) = arguments["ext_modules"]
    assert compiled.py_limited_api
    assert "torch_python" not in compiled.libraries
    assert arguments["options"]["bdist_wheel"] == {"py_limited_api": "cp310"}
    includes = [line for path in build.SOURCES.rglob("*.[ch]*") for line in path.read_text().splitlines()]
    assert not [
        line for line in includes if line.startswith("#include <pybind11") or "torch/extension.h" in line
    ]
