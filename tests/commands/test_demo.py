import json
import sys
from pathlib import Path

import pytest
import torch

from spae import SPAE, Codebook, assets, demo
from spae.cli import main


def test_its_last_part_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    demo._in_context(None, None, None)
    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "pip install transformers" in out


@pytest.mark.parametrize("count", ["0", "501"])
def test_numbers_of_images(count, capsys):
    assert main(["demo", "--images", count]) == 1
    assert f"spae demo: images: expected 1 to 500, got {count}" in capsys.readouterr().err


def test_needs_are_checked_before_anything_is_done(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert main(["demo"]) == 1
    assert "spae demo needs matplotlib: pip install matplotlib" in capsys.readouterr().err


def test_without_its_language_model_it_names_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    with pytest.raises(assets.AssetNotCached):
        demo.check(6)
    assert main(["demo"]) == 1
    assert "To get it: spae fetch smollm2" in capsys.readouterr().err


@pytest.fixture
def clips(tmp_path, monkeypatch, clip_config):
    """The folder of a tiny model of clips and a folder of frames; the current folder is empty."""
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")
    monkeypatch.setattr(demo, "check", lambda count: None)
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" w{i}" for i in range(40)], torch.randn(40, 4))
    book.save(tmp_path / "book")
    SPAE(clip_config, Codebook.load(tmp_path / "book")).eval().save_pretrained(tmp_path / "run" / "model")
    for clip in range(5):
        split = "test" if clip < 4 else "train"
        folder = tmp_path / "clips" / split / "rising" / f"clip{clip}"
        folder.mkdir(parents=True)
        for frame in range(5):
            Image.new("RGB", (8, 8), (40 * clip + 20 * frame,) * 3).save(folder / f"{frame}.png")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_model_of_clips_shows_its_data_on_an_animated_page(clips, capsys):
    from PIL import Image

    command = ["demo", "--model", str(clips / "run" / "model"), "--images", "2", "--out", "demo/page.png"]
    assert main(command) == 1
    assert "model: expected preset.json beside a model of clips" in capsys.readouterr().err
    (clips / "run" / "preset.json").write_text(json.dumps({"data": {"frames": str(clips / "clips")}}))
    assert main(command) == 0
    out = capsys.readouterr().out
    said = [line for line in out.splitlines() if line.startswith("  rising: _w")]
    assert [line.count("_w") for line in said] == [6, 6]  # the clip's word and the moment's, three times
    assert "temporal difference error" in out
    assert [path.name for path in Path("demo").iterdir()] == ["page.gif"]
    with Image.open("demo/page.gif") as page:
        assert page.n_frames == 5
        page.seek(4)
        # The second of the clips 0 and 2 that were chosen; its last frame.
        assert abs(page.convert("RGB").getpixel((6 + 40, 20 + 116 + 40))[0] - 160) < 20
