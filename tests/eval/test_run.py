"""Evaluations as one shape: a new one is a new file, and what was committed can still be read."""

import json
from pathlib import Path

import pytest

from spae.cli import main
from spae.eval import tasks
from spae.eval.run import Run, evaluate, find, recall, table_of
from spae.eval.run import tasks as task_names
from spae.eval.table import joined, markdown
from spae.llm.journal import Journal

RESULTS = Path(__file__).parent.parent.parent / "results"

BRIGHTNESS = """
from spae.eval.run import Measured
from spae.eval.table import markdown
import torch

ABOUT = "How bright the picture of given words is."
USES_LLM = False

def add(parser):
    parser.add_argument("--word", type=int, default=0)

def settings(arguments):
    if arguments.word < 0:
        raise ValueError(f"word: expected 0 or more, got {arguments.word}")
    return arguments.word

def measure(run):
    ids = torch.full((1, run.model.pyramid.num_tokens), run.settings)
    tokens = run.model.encode(torch.zeros(1, 3, run.size, run.size))
    image = run.model.decode(type(tokens)(ids, tokens.pyramid))
    return Measured({"brightness": image.mean().item()}, lambda path: path.write_bytes(b"page"))

def table(report):
    return markdown(["brightness"], [[f"{report['brightness']:.3f}"]], "mean of one picture")
"""


@pytest.fixture
def brightness(tmp_path, monkeypatch):
    """A new evaluation: a file in a folder of the registry, and nothing else."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/brightness.py").write_text(BRIGHTNESS)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])


def test_a_new_task_is_a_new_file(brightness, tmp_path, spae, monkeypatch, capsys):
    from spae.commands import eval as command

    monkeypatch.setattr(command, "load_tokenizer", lambda name: spae)
    assert main(["eval", "brightness", "--word", "3", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("| brightness |\n| --- |\n| ")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["brightness.json", "brightness.md", "brightness.png"]
    assert main(["eval", "brightness", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["brightness"] == pytest.approx(0, abs=10)
    assert main(["eval", "brightness", "--word", "-1"]) == 1
    assert "word: expected 0 or more, got -1" in capsys.readouterr().err


def test_a_report_ends_with_its_command(brightness, tmp_path, spae):
    report = evaluate(find("brightness"), Run("brightness", 1, spae, None, tmp_path, "spae eval brightness"))
    assert report["command"] == "spae eval brightness"
    assert set(report["host"]) == {"cpu", "cores", "python", "torch", "spae"}
    assert (tmp_path / "brightness.md").read_text().endswith("\n\n    spae eval brightness\n")


def test_several_models_are_on_one_page(brightness, tmp_path, spae, other_spae, monkeypatch, capsys):
    from spae.commands import eval as command

    models = {"a/one": spae, "two": other_spae}
    monkeypatch.setattr(command, "load_tokenizer", models.get)
    out = tmp_path / "out"
    assert main(["eval", "brightness", "--model", "a/one", "two", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("| model | brightness |")
    alone = {}
    for name, folder in (("a/one", "one"), ("two", "two")):
        assert main(["eval", "brightness", "--model", name, "--json"]) == 0
        alone[folder] = json.loads(capsys.readouterr().out)
    report = json.loads((out / "brightness.json").read_text())
    assert list(report["models"]) == ["one", "two"]
    for name, one in alone.items():
        assert report["models"][name]["brightness"] == one["brightness"]
        assert json.loads((out / name / "brightness.json").read_text()) == report["models"][name]
        assert (out / name / "brightness.png").exists()
    lines = (out / "brightness.md").read_text().splitlines()
    assert lines[:2] == ["| model | brightness |", "| --- | --- |"]
    assert lines[2] == f"| one | {alone['one']['brightness']:.3f} |"
    assert lines[3] == f"| two | {alone['two']['brightness']:.3f} |"
    assert alone["one"]["brightness"] != alone["two"]["brightness"]
    assert main(["eval", "brightness", "--model", "a/one", "b/one"]) == 1
    assert "model: expected names with different last parts, got a/one, b/one" in capsys.readouterr().err


def test_tables_with_other_columns_stand_apart():
    tables = {"a": markdown(["x"], [["1"]], "ten"), "b": markdown(["y"], [["2"]], "six")}
    assert joined(tables, "model") == "**a**\n\n" + tables["a"] + "\n\n**b**\n\n" + tables["b"]
    tables["b"] = markdown(["x"], [["2"]], "six")
    assert joined(tables, "model").endswith("| b | 2 |\n\na: ten\n\nb: six")


def test_what_is_missing_is_named(spae):
    with pytest.raises(ValueError, match=r"name: expected one of caption, denoise, digits, .*, got 'birds'"):
        find("birds")
    with pytest.raises(ValueError, match="llm: expected a language model, which vqa asks, got None"):
        evaluate(find("vqa"), Run("vqa", (), spae))
    with pytest.raises(ValueError, match="out: expected a folder, in which vqa keeps its records, got None"):
        _ = Run("vqa", (), spae).folder


def test_records_are_asked_for_once(tmp_path):
    journal = Journal(tmp_path / "records.jsonl")
    answers = iter([{"right": True}])
    for _ in range(2):
        assert recall(journal, "key", lambda: next(answers)) == {"right": True}
    assert recall(None, "key", lambda: 5) == 5


# Reports of other commands: tests/test_results.py.
OWN = {path.parent.name: path for path in sorted(RESULTS.glob("*/*.json")) if path.stem in task_names()}


@pytest.mark.parametrize("folder", OWN)
def test_committed_results_can_still_be_read(folder):
    file = OWN[folder]
    report = json.loads(file.read_text(encoding="utf-8"))
    text = f"{table_of(find(file.stem), report)}\n\n    {report['command']}\n"
    assert file.with_suffix(".md").read_text(encoding="utf-8") == text
