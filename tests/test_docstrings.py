"""The examples in docstrings. Here, not by pytest's --doctest-modules: that skips, without a word, every test
file whose import fails."""

import doctest
import importlib
import pkgutil

import pytest

import spae
import spae_ops

# What needs a package that is optional; these may be missing.
OPTIONAL = ("triton",)


def modules():
    for package in (spae, spae_ops):
        yield package.__name__
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("__main__", "._C")):
                yield module.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if not any(package in str(error) for package in OPTIONAL):
            raise
        pytest.skip(f"needs {', '.join(OPTIONAL)}: {error}")
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    tried = [
        doctest.testmod(importlib.import_module(f"spae_ops.{name}")).attempted
        for name in ("code_index", "pyramid")
    ]
    assert all(tried)
