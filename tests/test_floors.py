"""Who may import whom: imports, those inside functions included, go down the floors and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# From the ground up; what stands on one floor may import its own and lower ones. The longest prefix counts.
FLOORS = (
    ("spae.optional", "spae.modules", "spae.configs", "spae.devices"),
    ("spae_ops", "spae.models", "spae.assets", "spae.frozen", "spae.checksum", "spae.journal"),
    ("spae.losses", "spae.scorers", "spae.llm", "spae.data", "spae.testing", "spae.processing"),
    ("spae.codebook",),
    ("spae.tokenizers", "spae"),
    (
        "spae.export",
        "spae.clips",
        "spae.figures",
        "spae.metrics",
        "spae.viewer",
        "spae.incontext",
        "spae.scale",
        "spae.training",
        "spae.files",
        "spae.token_files",
    ),
    ("spae.eval",),
    ("spae.cli", "spae.commands", "spae.demo", "spae.__main__"),
    ("benchmarks",),
)
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("spae", "spae_ops", "benchmarks"):
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports(name: str, source: str) -> Iterator[str]:
    """The modules of ours that a module imports, anywhere in it; ``from a import b`` is a.b if that is one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: expected an absolute import"
            module = node.module or ""
            wanted = [f"{module}.{alias.name}" for alias in node.names]
            wanted = [path if path in MODULES else module for path in wanted]
        else:
            continue
        yield from (path for path in wanted if path in MODULES and path != name)


GRAPH = {name: set(imports(name, file.read_text(encoding="utf-8"))) for name, file in MODULES.items()}


def height(module: str) -> int:
    parts = module.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next(HEIGHT[prefix] for prefix in prefixes if prefix in HEIGHT)


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen, left = set(), [start]
        while left:
            for module in graph[left.pop()] - seen:
                seen.add(module)
                left.append(module)
        return seen

    reach = {module: reached(module) for module in graph}
    return {
        frozenset(other for other in seen if module in reach[other])
        for module, seen in reach.items()
        if module in seen
    }


def test_every_module_of_spae_stands_on_a_floor():
    # One that falls through to "spae" itself has not been placed.
    unplaced = [name for name in MODULES if name.count(".") and height(name) == HEIGHT["spae"]]
    assert [name for name in unplaced if not name.startswith("spae.tokenizers")] == []


def test_imports_go_down_the_floors():
    upward = {(name, to) for name, seen in GRAPH.items() for to in seen if height(to) > height(name)}
    assert upward == set()


def test_nothing_imports_in_a_circle():
    assert circles(GRAPH) == set()


def test_circles_and_imports_inside_functions_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}) == {
        frozenset("abc"),
        frozenset("e"),
    }
    source = (
        "if T:\n    from spae.llm import http\ndef f():\n    import spae_ops\n    from spae.llm import load"
    )
    assert sorted(imports("x", source)) == ["spae.llm", "spae.llm.http", "spae_ops"]
