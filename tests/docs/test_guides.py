"""The guides are run: their Python, in order; and what else they name is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from spae.cli import main
from spae.commands import commands

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
WITH_PYTHON = [page for page in PAGES if "```python" in (ROOT / "docs" / page).read_text(encoding="utf-8")]


def read(page):
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=str)
def test_python_runs(page, tmp_path, monkeypatch):
    import torch

    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    exec(
        "\n".join(re.findall(r"```python\n(.*?)```", read(page), re.DOTALL)),
        {"__name__": "guide"},
    )


@pytest.mark.parametrize("page", ["../README.md", *PAGES], ids=str)
def test_commands_and_their_options_exist(page, capsys):
    """Each as it is written at a line's start or in code; of several in a row also the later ones."""
    text = read(page).replace("\\\n", " ")
    lines = re.findall(r"^(?:>>> )?(?:spae|accelerate launch -m spae) .*", text, re.MULTILINE)
    spans = [
        " ".join(span.split())
        for span in re.findall(r"`([^`]+)`", re.sub("```.*?```", "", text, flags=re.DOTALL))
    ]
    lines += [span for span in spans if span.startswith("spae ")]
    for command in re.findall(r"spae ([a-z][^#]*?)(?= *#|, spae |$)", "\n".join(lines), re.MULTILINE):
        verb, *rest = command.split()
        if verb == "COMMAND":
            continue
        assert verb in commands(), command
        kind = rest[:1] if verb in ("eval", "bench") and rest and rest[0].isalpha() else []
        with pytest.raises(SystemExit) as left:
            main([verb, *kind, "--help"])
        assert left.value.code == 0, command
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        assert {word for word in rest if word.startswith("--")} <= known, command


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in ("../README.md", *PAGES):
        text = read(page)
        assert set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE)) <= {
            pair for name in targets for pair in ((name, ""), ("", name))
        }


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_exist(page):
    text = read(page)
    for path in re.findall(r"`((?:tests|spae|spae_ops|csrc|examples|benchmarks|results)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_site_builds(tmp_path):
    """Strictly: no link, name or picture leads nowhere."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/pictures/emoji64.png").is_file()
    assert "spae view" in (tmp_path / "site/reference/commands/index.html").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == [str(page) for page in PAGES]


def test_reference_names_exist():
    """Whatever a page of the reference shows can be imported."""
    import importlib

    for page in PAGES:
        for name in re.findall(r"^::: ([\w.]+)", read(page), re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            if not hasattr(importlib.import_module(module), attribute):
                importlib.import_module(name)


# Of the gallery's page; a word that a new page brings is read before it is listed here.
READ = """
antenna avocado baseball beer biology biotechnology bird broccoli cherry despair devotion discomfort
dragon eager eating expansion fee fishing folklore gasoline groundbreaking harvest harvesting herb
ideology knee leaf monitoring monster mortgage motorcycle pay payment poet poetry prophecy
prosperity psychology shellfish singing snake spacecraft spirituality sunflower supernatural
supplying theology tor truck turkey turmoil turtle uncertainty wheelchair wilderness wireless
woodland yoga
"""


def test_the_gallery_shows_words_that_somebody_has_read():
    page = (ROOT / "docs/pyramids.html").read_text(encoding="utf-8")
    words = re.findall("<td>_(.*?)</td>", page)
    assert len(words) == 3 * 341
    assert set(words) == set(READ.split())
