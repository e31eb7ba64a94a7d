"""`make wheel`: builds an sdist, a wheel from it, and tries the wheel where nothing else is installed.

Both environments are new. They see of the environment that runs this only what they may: the build's torch,
the trial's what the wheel itself asks for, each with what those need in turn, as links; nothing large is
fetched. The trial runs README's first snippet, loads the extension in every other Python that is found, and
type-checks the examples.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
BUILD = ("setuptools>=77", "wheel", "ninja")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
IN_SDIST = (
    "csrc/module.cpp",
    "tests/conftest.py",
    "benchmarks/__main__.py",
    "examples/own_codebook.py",
    "setup.py",
)
IN_WHEEL = ("spae_ops/_C.abi3.so", "spae/viewer/page.css", "spae/presets/mnist.json", "spae/py.typed")
# What the extension may be linked with, beside torch, by the rules for manylinux.
LIBRARIES = (
    r"(libtorch\w*|libc10\w*|libstdc\+\+|libgcc_s|libc|libm|libpthread|libdl|librt|ld-linux-[\w-]+)\.so.*"
)


def run(*command: str | Path, **options) -> str:
    """A command's standard output, which a failure shows; its errors go where ours do."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, **options)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))}: status {done.returncode}")
    return done.stdout


def closure(requirements: Iterable[str]) -> list[metadata.Distribution]:
    """The installed distributions that requirements name, and what those require here in turn."""
    environment = {**default_environment(), "extra": ""}
    found: dict[str, metadata.Distribution] = {}
    left = [Requirement(text) for text in requirements]
    while left:
        wanted = left.pop()
        applies = wanted.marker is None or wanted.marker.evaluate(environment)
        if not applies or wanted.name.lower() in found:
            continue
        found[wanted.name.lower()] = distribution = metadata.distribution(wanted.name)
        left += [Requirement(text) for text in distribution.requires or ()]
    return list(found.values())


def new_environment(folder: Path, requirements: Iterable[str]) -> Path:
    """A virtual environment with `link`s; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    run(
        python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"
    )  # an old one comes with some Pythons
    link(python, requirements)
    return python


def link(python: Path, requirements: Iterable[str]) -> None:
    """Let an environment see installed distributions of this one."""
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for distribution in closure(requirements):
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for top in tops:
            target = Path(str(distribution.locate_file(top))).resolve()
            if not (site / top).exists() and target.exists():
                (site / top).symlink_to(target)


def copy_tracked(target: Path) -> None:
    """The files of this checkout that git knows, without what building and running leave behind."""
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def built(python: Path, source: Path, kind: str, target: Path) -> Path:
    """The sdist or wheel of a source tree, by its build backend and without isolation."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    environment = {**os.environ, "SPAE_REQUIRE_EXT": "1", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    return target / run(python, "-c", code, target, cwd=source, env=environment).splitlines()[-1]


def manylinux(extension: Path, tag: str) -> str:
    """The platform tag that an extension deserves: by the newest glibc that it asks for.

    Raises ValueError if it is linked with what is not everywhere.
    """
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", extension))
    if odd := [name for name in needed if not re.fullmatch(LIBRARIES, name)]:
        raise ValueError(f"{extension.name}: expected common libraries and torch's, got {', '.join(odd)}")
    versions = re.findall(r"GLIBC_(\d+)\.(\d+)", run("readelf", "-V", extension))
    major, minor = max((int(a), int(b)) for a, b in versions)
    return f"{tag}_{major}_{minor}_{platform.machine()}"


def retagged(python: Path, wheel: Path, work: Path) -> Path:
    """The wheel under the tag that package indexes take, instead of plain linux."""
    with zipfile.ZipFile(wheel) as archive:
        extension = Path(archive.extract("spae_ops/_C.abi3.so", work / "extension"))
    tag = manylinux(extension, "manylinux")
    options = ("--remove", "--platform-tag", tag)
    return wheel.parent / run(python, "-m", "wheel", "tags", *options, wheel, cwd=wheel.parent).split()[-1]


def check_contents(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    missing = [name for name in IN_SDIST if name not in source] + [n for n in IN_WHEEL if n not in installed]
    strange = sorted({name.partition("/")[0] for name in installed} - {"spae", "spae_ops"})
    strange = [name for name in strange if not name.endswith(".dist-info")]
    if missing or strange or "-cp310-abi3-" not in wheel.name:
        raise ValueError(f"{wheel.name}: missing {missing}, unexpected {strange}")


def requirements_of(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    return re.findall(r"^Requires-Dist: (.*)$", text.partition("\n\n")[0], re.MULTILINE)


def try_bare(python: Path, wheel: Path, work: Path) -> None:
    """What the wheel asks for is all that README's first snippet takes; its cache holds the asset alone."""
    from spae import assets

    table = assets.require("smollm2").parent
    shutil.copytree(table, work / "cache/assets/smollm2")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["SPAE_CACHE"] = str(work / "cache")
    options = {"cwd": work, "env": environment}
    run(python, "-m", "pip", "install", "--quiet", "--no-index", wheel, **options)
    run(python, "-m", "pip", "check", **options)
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[
        0
    ]
    (work / "snippet.py").write_text(
        snippet + "print(tuple(tokens.ids.shape), tuple(decoded.shape), words[0][0])\n"
    )
    print(f"README's first snippet: {run(python, 'snippet.py', **options).strip()}")
    run(python, "-c", "from spae_ops._extension import load; load()", **options)
    print(run(python.parent / "spae", "--version", **options).strip())


def try_pythons(extension: Path, torch_libraries: Path) -> None:
    """Load the extension in every Python found: it needs torch's libraries, not torch's Python package."""
    code = """
import ctypes, sys
for name in ("c10", "torch_cpu", "torch"):
    ctypes.CDLL(f"{sys.argv[2]}/lib{name}.so", ctypes.RTLD_GLOBAL)
sys.path.insert(0, sys.argv[1])
import _C
print(*_C.instruction_sets())
"""
    for version in PYTHONS:
        program = shutil.which(f"python{version}")
        if program is None or subprocess.run([program, "--version"], capture_output=True).returncode:
            print(f"Python {version}: not found")
            continue
        sets = run(program, "-I", "-c", code, extension.parent, torch_libraries)
        print(f"Python {version} loads the extension: {sets.strip()}")


def check_examples(python: Path, work: Path) -> None:
    """The examples' types against the package as it is installed."""
    link(python, ["hypothesis", "pillow"])
    shutil.copytree(ROOT / "examples", work / "examples")
    settings = {"reportMissingImports": "none", "reportMissingModuleSource": "none", "pythonVersion": "3.10"}
    (work / "pyrightconfig.json").write_text(json.dumps({"include": ["examples"], **settings}))
    run(sys.executable, "-m", "pyright", "--pythonpath", python, cwd=work)
    print("examples: type-checked against the wheel")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for both (default: dist)")
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory(prefix="spae-wheel-") as name:
        work = Path(name)
        copy_tracked(work / "source")
        builder = new_environment(work / "build", ["torch", "numpy"])
        run(builder, "-m", "pip", "install", "--quiet", *BUILD)
        sdist = built(builder, work / "source", "sdist", work)
        with tarfile.open(sdist) as archive:
            archive.extractall(work / "unpacked", filter="data")
        wheel = built(builder, next((work / "unpacked").iterdir()), "wheel", work)
        check_contents(sdist, wheel)
        wheel = retagged(builder, wheel, work)
        bare = new_environment(work / "bare", requirements_of(wheel))
        (work / "trial").mkdir()
        try_bare(bare, wheel, work / "trial")
        import torch

        try_pythons(work / "extension/spae_ops/_C.abi3.so", Path(torch.__file__).parent / "lib")
        check_examples(bare, work / "trial")
        out.mkdir(parents=True, exist_ok=True)
        for file in (sdist, wheel):
            print(shutil.copy2(file, out))


if __name__ == "__main__":
    main()
