"""Bad presets are answered by section, entry, what came and what was expected; nothing else ever comes."""

from __future__ import annotations

import contextlib
import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spae.training.presets import FOLDER, Preset, load_preset

GOOD = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=abc", "train.steps: expected a whole number from 1, got 'abc'"),
        ("train.steps=null", "train.steps: expected a whole number from 1, got None"),
        ("train.steps=1.5", "train.steps: expected a whole number from 1, got 1.5"),
        ("train.steps=0", "train.steps: expected a whole number from 1, got 0"),
        ("train.steps=true", "train.steps: expected a whole number from 1, got True"),
        ("train.clip_norm=-1", "train.clip_norm: expected a number above 0 or null, got -1"),
        ("train.learning_rate=NaN", "train.learning_rate: expected a number above 0, got nan"),
        ("train.betas=[0.9]", r"train.betas: expected \(a number from 0 to below 1, .*\), got \[0.9\]"),
        ("train.schedule=step", "train.schedule: expected one of .*, got 'step'"),
        ("train.loss_weights=[1]", r"train.loss_weights: expected a mapping of names to: a number from 0, got \[1\]"),
        ("train.loss_weights.commitment=Infinity", "train.loss_weights: expected a mapping .*, got {.*inf"),
        ("train.seed=-1", "train.seed: expected a whole number from 0 to 4294967295, got -1"),
        ("train.checkpoint_minutes=soon", "train.checkpoint_minutes: expected a number from 0 or null, got 'soon'"),
        ("train.output_dir=x", "train.output_dir: expected none in a preset"),
        ("train=3", "preset.train: expected a mapping of names to: Any, got 3"),
        ("objective.alpha=NaN", "objective.alpha: expected a number from 0, got nan"),
        ("objective.alpha=null", "objective.alpha: expected a number from 0, got None"),
        ("objective.semantic=3", "objective.semantic: expected a mapping with a scorer, got 3"),
        ("objective.semantic.scorer=clip", r"objective.semantic.scorer: expected one of \['caption', .* got 'clip'"),
        ("objective.semantic.scorer.name=[]", r"objective.semantic.scorer: expected one of .* got \[\]"),
        ('objective.semantic.scorer={"name": "conse", "top": 1.5}', "objective.semantic.scorer.top: expected a whole number, got 1.5"),
        ('objective.semantic.scorer={"name": "open_clip"}', "objective.semantic.scorer: expected architecture, checkpoint too"),
        ("objective.semantic.thresholds=[0.9, 2]", r"objective.semantic.thresholds: expected a list of: a number from 0 to 1, got \[0.9, 2\]"),
        ("objective.semantic.temperature=0", "objective.semantic.temperature: expected a number above 0, got 0"),
        ("objective.semantic.start.ridge=-1", "objective.semantic.start.ridge: expected a number above 0, got -1"),
        ("objective.semantic.start.data.place=x", "data: expected exactly one of name, folder"),
        ("objective.semantic.start=0.5", "objective.semantic.start: expected a mapping of ridge, sharpness, batch_size, data, got 0.5"),
        ("objective.discriminator=patch", "objective.discriminator.kind: expected 'patch' or 'residual', got 'patch'"),
        ('objective.discriminator={"kind": "patch", "channels": 0}', "objective.discriminator.channels: expected a whole number from 1, got 0"),
        ("objective.perceptual=[1]", r"objective.perceptual: expected one of 'lite0', .* got \[1\]"),
        ("model.channels=1.5", "model.channels: expected a whole number from 1, got 1.5"),
        ("model.grids=[1, 2.5]", r"model.grids: expected a list of: a whole number from 1 or .*, got \[1, 2.5\]"),
        ("model.colour=1", r"model: expected no fields but .*, got \['colour'\]"),
        ("tokenizer=frozen", "preset.tokenizer: expected one of 'spae', 'vqgan', 'rq', 'lqae', 'v2l', got 'frozen'"),
        ("codebook.source=null", "codebook.source: expected text or PathLike, got None"),
        ("codebook.limit=many", "codebook.limit: expected a whole number or null, got 'many'"),
        ("codebook.nothing=1", r"codebook: expected no fields but .*, got \['nothing'\]"),
        ("data=3", "preset.data: expected text or a mapping of names to: Any, got 3"),
        ("data.folder=x", "data: expected exactly one of name, folder"),
        ("train.steps", "override: expected section.name=value, got 'train.steps'"),
    ],
)  # fmt: skip
def test_overrides(override, message):
    with pytest.raises(ValueError, match=message):
        load_preset("emoji64", [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"preset: expected an object of sections in .*x\.json, got \[\]"),
        ("3", r"preset: expected an object of sections in .*x\.json, got 3"),
        ("{", r"preset: expected JSON in .*x\.json"),
        ("[" * 100_000, r"preset: expected JSON in .*x\.json"),
        ("\xff", r"preset: expected JSON in .*x\.json"),
        ("{}", r"preset: expected data, model, train too, got \[\]"),
        (
            '{"data": "mnist", "model": {}, "train": {}, "extra": 1}',
            r"preset: expected no fields but .*, got \['extra'\]",
        ),
        (
            '{"data": "mnist", "model": {}, "train": {}}',
            r"train: expected steps, batch_size too, got \['output_dir'\]",
        ),
    ],
)
def test_files(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        load_preset(tmp_path / "x.json")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def places(node, path=()):
    """Every path to a value in nested dictionaries."""
    for key, value in node.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@given(st.data())
def test_a_preset_with_anything_in_it_loads_or_says_why(data):
    content = copy.deepcopy(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(sorted(places(content))))
        node = content
        for key in path:
            node = node[key]
        if data.draw(st.booleans()):
            last = data.draw(st.text(max_size=5))
        node[last] = data.draw(values)
    content.pop("description", None)
    try:
        preset = Preset.from_dict(content)
    except ValueError as error:
        said = str(error)
    else:
        assert Preset.from_dict(preset.to_dict()) == preset
        return
    assert re.match(r"(preset|data|model|codebook|objective|train)[\w.]*: ", said), said


@given(
    st.sampled_from(["", "data", "train.", "model", "objective.semantic", "codebook."]),
    st.text(max_size=8),
    st.text(max_size=8),
)
def test_overrides_of_any_text(section, key, value):
    with contextlib.suppress(ValueError):
        load_preset("emoji64", [f"{section}{key}={value}"])


@given(values)
def test_files_of_any_json(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("fuzz") / "x.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="preset"):
        load_preset(path)
