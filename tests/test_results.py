"""RESULTS.md is what its command makes of the committed JSON."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the package matplotlib")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tools_results", ROOT / "tools/results.py")
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "tools_results", module)
        spec.loader.exec_module(module)
        yield module


def test_the_page_is_up_to_date(tool):
    """If this fails, run `make results`."""
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == tool.text(tool.results())


def test_every_committed_report_and_picture_is_there(tool):
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    for file in (ROOT / "results").glob("*/*.json"):
        report = json.loads(file.read_text(encoding="utf-8"))
        assert f"\n### {file.parent.name}\n" in text
        assert f"    {report['command']}\n" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures
    for path in pictures:
        assert (ROOT / path).exists(), path


def test_published_figures_are_in_columns_that_say_so(tool):
    """They never share a column with ours."""
    text = tool.text(tool.results())
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        header, _, *rows = (line.strip("|\n").split(" | ") for line in table.strip().splitlines())
        published = [i for i, name in enumerate(header) if "published" in name]
        ours = [i for i, name in enumerate(header) if name.strip().endswith(", ours")]
        for row in rows if published else ():
            filled = {i for i, cell in enumerate(row) if cell.strip()}
            is_ours = "(ours)" in row[0]
            assert not filled & set(published if is_ours else ours), row
            assert filled & set(ours if is_ours else published), row


def test_a_new_result_comes_in_by_itself(tool, tmp_path):
    """Of several models on one page, too."""
    one = json.loads((ROOT / "spae/bundled/mnist/report.json").read_text(encoding="utf-8"))
    command = "spae eval reconstruction --model a b --data mnist"
    host = {"cpu": "A processor", "cores": 3, "torch": "9.9"}
    both = {name: {**one, "command": command, "host": host} for name in ("a", "b")}
    new = tool.Result("two-models", "reconstruction", {"command": command, "models": both})
    found = [result for result in tool.results() if result.task != "reconstruction"]
    text = tool.text([*found, new])
    assert "### two-models\n\n| model | layers |" in text
    assert "Host: A processor, 3 cores, torch 9.9." in text
    assert "| **a, two-models** (ours) | 500 of" in text
    tool.draw([new], tmp_path)  # such a page has a plot of its own
    assert not (tmp_path / "reconstruction.png").exists()
    tool.draw([new, tool.Result("alone", "reconstruction", both["a"])], tmp_path)
    assert (tmp_path / "reconstruction.png").stat().st_size > 5000
    nothing = tool.text([new])
    assert "No run is committed yet; `spae eval fewshot` makes one." in nothing
    assert "No run is committed yet; `spae tune frozen` makes one." in nothing


def test_repeats_and_words_become_lines(tool):
    def row(words, repeats, value):
        share = {"value": value, "low": value - 0.1, "high": value + 0.2}
        of = {"ways": 2, "inner_shots": 1, "induction": True, "setting": f"2-way x{repeats + 1}"}
        return {**of, "words": words, "repeats": repeats, "exact": share, "episodes": 10}

    by_words = tool._by_words({"rows": [row(5, 0, 0.5), row(1, 0, 0.4), row(1, 1, 0.7)]})
    assert by_words == {
        "2-way x1": ([1, 5], [0.4, 0.5], [pytest.approx(0.3), 0.4], [pytest.approx(0.6), 0.7])
    }
    by_repeats = tool._by_repeats({"rows": [row(1, 3, 0.5), row(1, 0, 0.4)]})
    assert by_repeats["2-way, exact"].x == [1, 4]
    assert tool._averaged([row(1, 0, 0.4), row(1, 0, 0.6)]) == "0.500 (0.40 to 0.60)"


def test_tables_of_other_commands_can_still_be_made(tool):
    """Those of `spae eval`: tests/eval/test_run.py."""
    from spae.eval import ablation
    from spae.eval.run import tasks

    tables = {name: table for name, (_, table) in tool.OTHERS.items()} | {"ablation": ablation.table}
    files = [file for file in (ROOT / "results").glob("*/*.json") if file.stem not in tasks()]
    assert {file.stem for file in files} >= {"ablation", "frozen", "phrases"}
    for file in files:
        report = json.loads(file.read_text(encoding="utf-8"))
        text = file.with_suffix(".md").read_text(encoding="utf-8")
        assert text == f"{tables[file.stem](report)}\n\n    {report['command']}\n", file
