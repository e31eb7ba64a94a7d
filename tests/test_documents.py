"""What the papers beside the code say of it: versions, commands, targets, files."""

import re
from pathlib import Path

import pytest

from spae import __version__
from spae.commands import commands

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_versions_agree():
    assert re.search(rf"^version: {re.escape(__version__)}$", read("CITATION.cff"), re.MULTILINE)
    assert re.findall(r"^## ([\d.]+)", read("CHANGELOG.md"), re.MULTILINE)[0] == __version__


def test_the_changelog_lists_the_commands():
    (line,) = re.findall(r"^- Commands (.*?)\.$", read("CHANGELOG.md"), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", line)) == set(commands())


def test_citation_is_yaml_with_what_its_format_asks_for():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    content = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(content)
    for reference in content["references"]:
        assert {"type", "title", "authors", "year", "url"} <= set(reference)
        assert all(set(author) == {"family-names", "given-names"} for author in reference["authors"])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_and_files_exist(name):
    text, makefile = read(name), read("Makefile")
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE) + re.findall(r"`make (\w+)`", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text) + re.findall(
        r"`((?:tests|spae|csrc)/[\w/.]+)`", text
    ):
        assert (ROOT / path).exists(), path
