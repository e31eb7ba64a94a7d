"""All evaluations by one command; what cannot run is named, and the rest goes on."""

import json

import pytest

from spae.cli import main
from spae.commands import eval as command
from spae.eval import suite
from spae.eval.run import find, tasks


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("data", ["mnist", "fashion", "emoji", "some/folder"])
def test_every_task_takes_its_options(quick, data):
    for name in tasks():
        if not (name == "fewshot" and data == "some/folder"):
            suite.settings(name, data, quick=quick, seed=3)
    assert set(tasks()) - set(suite.without_llm()) <= set(suite.QUICK) <= set(tasks())
    assert suite.settings("reconstruction", data, quick=True, seed=0).data == data
    assert suite.settings("generate", data, quick=True, seed=3).seed == 3


def test_one_page_of_what_can_run(tmp_path, spae, other_spae, tiny, toy_data, monkeypatch, capsys):
    models = {"one": spae, "two": other_spae}
    loads = []
    monkeypatch.setattr(command, "load_tokenizer", models.__getitem__)
    monkeypatch.setattr(command, "_load_llm", lambda arguments: loads.append(1) or tiny)

    def absent(run):
        raise ValueError("data: none here")

    monkeypatch.setattr(find("reconstruction"), "measure", absent)
    chosen = ["--tasks", "fewshot", "reconstruction", "caption", "--data", "mnist"]
    options = ["--quick", "--model", "one", "two", "--out", str(tmp_path / "out")]
    assert main(["eval", "all", *chosen, *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("## fewshot\n\n| model | data |")
    assert "## reconstruction\n\nnot measured: data: none here" in printed
    report = json.loads((tmp_path / "out/all.json").read_text())
    assert list(report["tasks"]) == ["fewshot", "caption"]
    assert list(report["tasks"]["caption"]["models"]) == ["one", "two"]
    assert len(report["tasks"]["fewshot"]["models"]["one"]["rows"]) == 5
    assert loads == [1]
    assert (tmp_path / "out/caption/two/caption.md").exists()
    assert (tmp_path / "out/all.md").read_text().startswith(printed.strip())
    assert main(["eval", "all", "--no-llm", *chosen, *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not measured"] == {"reconstruction": "data: none here"}
