"""Captions beside the images of a folder, and what reads them."""

from __future__ import annotations

import json

import pytest
import torch

from spae.data.sources import ImageFolder

Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")


@pytest.fixture
def folder(tmp_path):
    """Three images, of which one is in a folder of its own."""
    for name in ("1.png", "2.PNG", "sea_bird/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    return tmp_path


def captions(folder):
    dataset = ImageFolder(folder, 8)
    return dict(zip([file.name for file in dataset.files], dataset.captions, strict=True))


def test_text_files(folder):
    (folder / "1.txt").write_text("\ufeffein  rotes\n\täh\n", encoding="utf-8")
    (folder / "notes.txt").write_text("no image's")
    assert captions(folder) == {"1.png": "ein rotes äh", "2.PNG": "", "3.png": "sea bird"}
    (folder / "sea_bird/3.txt").write_text("a gull")
    assert captions(folder)["3.png"] == "a gull"
    (folder / "1.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"1\.txt: expected text in UTF-8"):
        ImageFolder(folder, 8)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", 'file_name,caption\n1.png,"a, b"\n./sea_bird/3.png,gull\n'),
        ("mine.CSV", 'n,filename,text\n0,1.png,"a,\nb"\n1,sea_bird/3.png,gull\n2,1.png,later\n'),
        ("mine.tsv", "image\tname\n1.png\ta, b\nsea_bird/3.png\tgull\n"),
        (
            "metadata.jsonl",
            '{"file_name": "1.png", "text": ["a, b", "c"]}\n\n{"file_name": "sea_bird/3.png", "text": "gull"}\n{"file_name": "2.PNG", "text": null}',
        ),
        (
            "sea_bird/metadata.jsonl",
            '{"file_name": "3.png", "caption": "gull"}\n{"file_name": "../1.png", "caption": "a, b"}',
        ),
    ],
)
def test_tables(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    (folder / "other.csv").write_text("x,y\n1,2\n")
    (folder / "log.jsonl").write_text("not JSON")
    assert captions(folder) == {"1.png": "a, b", "2.PNG": "", "3.png": "gull"}
    (folder / "1.txt").write_text("nearer")
    assert captions(folder)["1.png"] == "nearer"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "a,caption\n1.png,x\n", r"metadata\.csv: expected a column file_name or .*, got \['a', 'caption'\]"),
        ("x.csv", "file,caption\n1.png,x\n7.png,y\n", r"x\.csv: line 3: expected a file beside the table, got '7\.png'"),
        ("x.csv", "file,caption\n1.png,x\n\"7", r"x\.csv: line 3: expected a row of the table, got unexpected end of data"),
        ("x.csv", "caption,file\nonly\n", r"x\.csv: line 2: file: expected the name of a file, got None"),
        ("metadata.jsonl", "{", r"metadata\.jsonl: line 1: expected JSON, got '\{'"),
        ("metadata.jsonl", "[1]", r"metadata\.jsonl: line 1: expected an object, got '\[1\]'"),
        ("x.jsonl", '{"file": "1.png", "text": 3}', r"x\.jsonl: line 1: text: expected text, got 3"),
        ("x.jsonl", '{"file": "1.png", "text": ""}\nx', r"x\.jsonl: line 2: expected JSON, got 'x'"),
    ],
)  # fmt: skip
def test_damaged_tables_are_named(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        ImageFolder(folder, 8)


def test_guidance_by_names_needs_them(folder, monkeypatch, tmp_path):
    """The whole way: captions guide a run, and images without are an error that says how to give them."""
    pytest.importorskip("accelerate", reason="spae.training needs accelerate")
    from types import SimpleNamespace

    from spae import Codebook, scorers
    from spae.training.guidance import semantic_guidance

    class Lengths(scorers.CaptionScorer):
        def __init__(self):
            super().__init__(lambda texts: torch.tensor([[len(t), 1.0] for t in texts]), checksum="lengths")

    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scorers, "CaptionScorer", Lengths)
    book = Codebook.from_arrays([" a", " bb"], torch.randn(2, 4))
    model = SimpleNamespace(codebook=book, table=book, config=SimpleNamespace(rule="saq"))
    rows = [{"file_name": name, "caption": name} for name in ("1.png", "2.PNG")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows[:1])))
    with pytest.raises(
        ValueError, match=r"a name for each of the 3 images, .* got 2 \(.* item 1\).*1\.txt for 1\.png"
    ):
        semantic_guidance({"scorer": "caption"}, model, ImageFolder(folder, 8))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, guided = semantic_guidance({"scorer": "caption"}, model, ImageFolder(folder, 8))
    expected = torch.nn.functional.normalize(torch.tensor([[5.0, 1], [5, 1], [8, 1]]), dim=1)
    assert torch.equal(guided.features, expected)
