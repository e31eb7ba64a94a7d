"""What the packages export, and what their import takes along."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys

import pytest

import spae.incontext.tasks as tasks
from spae import training


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has after some code."""
    report = f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_training_exports_what_it_says():
    pytest.importorskip("accelerate", reason="spae.training needs accelerate")
    assert {name for name in training.__all__ if not callable(getattr(training, name))} == set()
    assert set(training.__all__) == set(training._HOME)
    with pytest.raises(AttributeError, match=r"module 'spae.training' has no attribute 'nothing'"):
        _ = training.nothing


def test_reading_presets_takes_no_accelerate():
    found = imported("from spae.training import load_preset, read_log, TrainConfig; load_preset('mnist')")
    assert "spae.training.presets" in found
    assert not {"accelerate", "spae.training.loop", "transformers", "triton"} & found


def test_training_does_not_import_evaluation():
    pytest.importorskip("accelerate", reason="spae.training needs accelerate")
    assert not [name for name in imported("import spae.training.run") if name.startswith("spae.eval")]


def test_tasks_export_all_that_is_public():
    public = set()
    for module in pkgutil.iter_modules(tasks.__path__, f"{tasks.__name__}."):
        members = vars(importlib.import_module(module.name)).items()
        public |= {
            name
            for name, value in members
            if (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == module.name
            and not name.startswith("_")
        }
    degradations = {degrade.__name__ for degrade in tasks.DEGRADATIONS.values()}
    assert public - degradations <= set(tasks.__all__)
    assert all(hasattr(tasks, name) for name in tasks.__all__)
