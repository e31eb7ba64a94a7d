import sys

import pytest

from spae import assets, demo
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
