"""What must be the same when a run goes on, and that a refused run writes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.training import TrainConfig
from spae.training.checkpoints import newest_whole
from spae.training.presets import load_preset
from spae.training.run import train
from spae.training.settings import MAY_CHANGE, check_same_run, differences, flatten


def test_differences_in_words():
    was = flatten({"model": {"rule": "saq", "grids": [1, 2]}, "threads": 1, "train": {"steps": 5}})
    now = flatten({"model": {"rule": "rq", "grids": [2, 1]}, "device": "cpu", "train": {"steps": 9}})
    assert differences(was, was) == []
    assert differences(was, now) == [
        "device was absent, is 'cpu'",
        "model.grids was [1, 2], is [2, 1]",
        "model.rule was 'saq', is 'rq'",
        "threads was 1, is absent",
    ]
    assert differences({str(i): 0 for i in range(20)}, {})[-1] == "and 8 more"


def test_runs_of_before_an_entry_of_the_model_go_on_with_its_default():
    book = Codebook.from_arrays(["a", "b", "c", "d"], torch.eye(4))
    config = SPAEConfig((16, 16), (1, 2), channels=8, multipliers=(1, 1, 1))
    parts = {"train": TrainConfig(1, 1, "").to_json(), "model": config.to_dict()}
    was = json.loads(json.dumps(flatten(parts)))
    before = {name: value for name, value in was.items() if name != "model.word_projector"}
    model = SPAE(config, book)
    check_same_run(Path("run"), before, was, model)
    now = {**was, "model.word_projector": "frozen"}
    with pytest.raises(ValueError, match="word_projector was 'learned', is 'frozen'"):
        check_same_run(Path("run"), before, now, model)


def test_what_may_change_is_what_the_configuration_s_documentation_marks():
    """So the docstring stays the list; and each of them is a field."""
    assert TrainConfig.__doc__ is not None
    marked = re.findall(r"^ +([\w, ]+): \*", TrainConfig.__doc__, re.MULTILINE)
    names = {f"train.{name}" for line in marked for name in line.split(", ")} | {"train.output_dir"}
    assert names == {name for name in MAY_CHANGE if name.startswith("train.")}
    assert names <= flatten({"train": TrainConfig(1, 1, "x").to_json()}).keys()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With images, two codebooks, a preset and its run of two steps."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    root = tmp_path_factory.mktemp("settings")
    for kind in ("images", "others"):
        for split in ("train", "test"):
            (root / kind / split).mkdir(parents=True)
            for number in range(4):
                shade = np.full((16, 16, 3), 40 * number + (kind == "others"), np.uint8)
                image.fromarray(shade).save(root / kind / split / f"{number}.png")
    for name in ("book", "book2"):
        vectors = torch.randn(30, 8, generator=torch.Generator().manual_seed(len(name)))
        Codebook.from_arrays([f" w{i}" for i in range(30)], vectors).save(root / name)
    preset = {
        "data": {"folder": str(root / "images")},
        "codebook": {"source": str(root / "book")},
        "model": {
            "image_size": [16, 16],
            "grids": [1, 2, 2],
            "channels": 4,
            "multipliers": [1, 1, 1, 1],
            "num_res_blocks": 1,
        },
        "objective": {"discriminator": {"kind": "patch", "channels": 4, "num_layers": 2}},
        "train": {"steps": 2, "batch_size": 2, "progress": False},
    }
    (root / "toy.json").write_text(json.dumps(preset))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spae.training.log.plot_log", lambda *_: None)
        patch.setattr("spae.training.run._Progress._page", lambda *_: None)
        assert train(load_preset(root / "toy.json"), root / "run")
    return root


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.rule=rq"], r"model\.rule was 'saq', is 'rq'\)"),
        (["model.grids=[2,1,2]"], r"model\.grids was .*1.*2.*2.*, is .*2.*1.*2"),
        (["tokenizer=vqgan", "codebook={}", "model.grids=[2]"], r"tokenizer was 'SPAE', is 'VQGAN'"),
        (["codebook.source=ROOT/book2"], r"codebook\.sha256 was '\w{64}', is '\w{64}'"),
        (["codebook.normalise=centre"], r"codebook\.sha256 was"),
        (["data.folder=ROOT/others"], r"data\.sha256 was '\w{64}', is '\w{64}'\)"),
        (["data.views.count=2"], r"data\.samples was 4, is 8; .*data\.views\.count was absent, is 2"),
        (["data.train=test"], r"data\.train was absent, is 'test'"),
        (["objective.eta=0.5"], r"objective\.eta was 0\.1, is 0\.5\)"),
        (["objective.discriminator.channels=5"], r"objective\.discriminator\.channels was 4, is 5\)"),
        (["objective=null"], r"objective\.alpha was 1\.0, is absent"),
        (["train.seed=1"], r"train\.seed was 0, is 1\)"),
        (["train.batch_size=4", "train.steps=9"], r"train\.batch_size was 2, is 4\)"),
    ],
)
def test_another_preset_is_refused_and_nothing_written(folder, capsys, overrides, message):
    before = tree(folder / "run")
    sets = [part for text in overrides for part in ("--set", text.replace("ROOT", str(folder)))]
    assert main(["train", "--preset", str(folder / "toy.json"), "--out", str(folder / "run"), *sets]) == 1
    assert re.search(
        rf"step-00000002: expected the run that is in it, got another \(.*{message}", capsys.readouterr().err
    )
    after = tree(folder / "run")
    changed = {
        Path(name).name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    }
    assert changed <= {"run.lock", "run.owner.json"}


@pytest.mark.parametrize(
    "overrides", [["model.rule=saq"], ["objective.eta=0.1"], ["objective.perceptual=null"]]
)
def test_a_default_that_is_written_out_is_no_difference(folder, overrides):
    assert train(load_preset(folder / "toy.json", overrides), folder / "run")


def test_other_threads_are_refused(folder):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ValueError, match=rf"\(threads was {threads}, is {threads + 1}\)"):
            train(load_preset(folder / "toy.json"), folder / "run")
    finally:
        torch.set_num_threads(threads)


def test_what_may_change_may_change(folder, monkeypatch):
    """A longer run, over the same images at another place."""
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)
    monkeypatch.setattr("spae.training.run._Progress._page", lambda *_: None)
    (folder / "images").rename(folder / "moved")
    overrides = [f"data.folder={folder / 'moved'}", "train.steps=3", "train.log_every=1"]
    assert train(load_preset(folder / "toy.json", overrides), folder / "run")
    found = newest_whole(folder / "run/checkpoints")
    assert found is not None
    assert found.manifest["step"] == 3
    settings = found.manifest["settings"]
    assert settings["data.folder"] == str(folder / "moved")
    assert settings["model.rule"] == "saq"
    assert (settings["processes"], settings["threads"]) == (1, torch.get_num_threads())
