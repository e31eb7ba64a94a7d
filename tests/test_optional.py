"""What our messages and documents ask a reader to install: this checkout, or packages that it declares."""

import ast
import re
from pathlib import Path

import spae
from spae.optional import needs

ROOT = Path(__file__).parent.parent
PYTHON = [path for folder in ("spae", "spae_ops", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
PROSE = [*PYTHON, ROOT / "setup.py", ROOT / "Makefile", ROOT / "README.md", ROOT / "benchmarks/README.md"]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
DECLARED = set(re.findall(r'"([\w.-]+)(?:\[\w+\])?[><=][^"]*"', PROJECT))
# Beside them what pip builds with, torchvision, which comes with torch, and what else CLIP's tests need.
ALLOWED = DECLARED | {
    "pip",
    "wheel",
    "torchvision",
    "$(TORCH)",
    "timm",
    "ftfy",
    "wcwidth",
    "$(CLIP)",
    "ray[data]",
}


def asked_for(text: str) -> set[str]:
    """The distributions after every "pip install"; neither options nor this checkout (".", ".[demo]")."""
    words = [word for line in re.findall(r"pip install ([^\n`#:;&{\\]*)", text) for word in line.split()]
    names = (
        re.split(r"[\[<>=]", word.strip("\"',."))[0]
        for word in words
        if word.strip("\"'")[:1] not in (".", "-")
    )
    return {name for name in names if name}


def test_what_is_asked_for_is_found():
    assert asked_for('pip install "stranger[data]" gguf.') == {"stranger", "gguf"}
    assert asked_for("pip install --no-build-isolation '.[demo]'\npip install 'gguf>=1': why") == {"gguf"}


def test_nobody_is_asked_to_install_a_stranger():
    found = {path: asked_for(path.read_text(encoding="utf-8")) for path in PROSE}
    assert {path: names - ALLOWED for path, names in found.items() if names - ALLOWED} == {}
    assert {"torch", "triton"} <= set().union(*found.values())
    assert not [path for path in PROSE if re.search(r"\bspae\[[a-z]+\]", path.read_text(encoding="utf-8"))]


def test_missing_packages_are_named_as_the_extras_name_them():
    calls = [
        (path, node)
        for path in (ROOT / "spae").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "needs"
    ]
    assert len(calls) >= 20
    for path, node in calls:
        names = {argument.value for argument in node.args[1:] if isinstance(argument, ast.Constant)}
        assert names <= ALLOWED, path
    assert needs("x", "gguf", "pillow") == "x needs gguf and pillow: pip install gguf pillow"


def test_the_distribution_is_ours_and_has_one_version():
    assert re.search(r'^name = "spae-tokenizer"$', PROJECT, re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", spae.__version__)
    assert [path.name for path in PYTHON if "\n__version__ = " in path.read_text(encoding="utf-8")] == [
        "_version.py"
    ]
