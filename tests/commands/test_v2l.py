"""`spae expand` and `spae tune` from start to end, with a tiny language model."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers", reason="language models on this machine need transformers")
pytest.importorskip("PIL", reason="reading pictures needs pillow")

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.testing.tiny_llm import tiny_llm, tiny_model, tiny_tokenizer, tiny_words
from spae.tokenizers.v2l_words import V2LWords


class Scorer:
    name, checksum = "toy", "toy-1"

    def text_features(self, texts):
        rows = [[1.0 + text.count(letter) for letter in "abcdefgh"] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    def image_features(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)).abs() @ torch.ones(3, 8), dim=1)


class Judge(Scorer):
    name, checksum = "names", "names-1"

    def caption_features(self, captions):
        return self.text_features(captions)


@pytest.fixture
def here(tmp_path, monkeypatch, picture):
    """A folder of named pictures, and a language model in a folder; the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    for number in range(24):
        picture(
            tmp_path / "pictures" / ("train", "test")[number % 3 == 0] / "ab"[number % 2] / f"{number}.png",
            number,
        )
    tiny_model().save_pretrained(tmp_path / "llm")
    tiny_tokenizer().save_pretrained(tmp_path / "llm")
    return tmp_path


def codebook(count=40):
    llm, ids = tiny_llm(), torch.arange(270, 270 + count)
    return Codebook.from_arrays(tiny_words(llm, ids), torch.randn(count, 6), ids)


def test_expand_makes_what_a_preset_loads(here, monkeypatch, capsys):
    monkeypatch.setattr("spae.scorers.ConSEScorer.load", lambda: Scorer())
    codebook().save(here / "book")
    options = ["--llm", "llm", "--codebook", "book", "--words", "all", "--data", "pictures", "--size", "16"]
    assert main(["expand", *options, "--limit", "20", "--keep", "2", "--out", "words"]) == 0
    words = V2LWords.load("words")
    assert len(words.vocabularies["local"]) == 20
    assert len(words.vocabularies["global"]) > 1
    assert words.about["images"] == 16
    assert "words: 20 local words;" in capsys.readouterr().out
    assert not (here / "words/phrases.json").exists()
    monkeypatch.setattr("spae.scorers.CaptionScorer", Judge)
    compared = ["--keep", "2", "--compare", "test", "--images", "4", "--out", "words"]
    assert main(["expand", *options, "--limit", "20", *compared]) == 0
    report = json.loads((here / "words/phrases.json").read_text())
    expected = {"taught": 16, "asked": 4, "split": "test", "judge": "names", "groups": 2}
    assert {name: report["run"][name] for name in expected} == expected
    assert [row["longest"] for row in report["rows"]] == [1, 1, 2, 2, 3, 3]
    assert report["rows"][-1]["phrases"] == sum(V2LWords.load("words").about["expansion"]["counts"])
    table = (here / "words/phrases.md").read_text().split("\n\n")[0]
    assert "| with trigrams |" in table
    assert table in capsys.readouterr().out
    bad = ["expand", *options, "--out", "other"]
    assert main([*bad, "--scorer", "clip"]) == 1
    assert main([*bad, "--scorer", "open_clip:a/b", "--ridge", "map"]) == 1
    assert main([*bad, "--keep", "0"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "scorer: expected caption, conse or open_clip:ARCHITECTURE/CHECKPOINT, got 'clip'" in errors[0]
    assert "ridge: expected none beside open_clip:a/b, got map" in errors[1]
    assert "keep: expected a whole number from 1, got 0" in errors[2]
    assert not (here / "other").exists()


@pytest.mark.parametrize(("task", "measure"), [("restoration", "psnr"), ("classification", "ranked")])
def test_tune_says_before_and_after(here, task, measure, capsys):
    pytest.importorskip("peft", reason="LoRA needs peft (the extra lora)")
    pytest.importorskip("accelerate", reason="spae.training needs accelerate")
    codebook().save(here / "book")
    config = SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    SPAE(config, Codebook.load(here / "book")).eval().save_pretrained(here / "model")
    options = ["--model", "model", "--data", "pictures", "--llm", "llm", "--images", "4", "--steps", "3"]
    assert main(["tune", task, *options, "--batch-size", "4", "--out", "out", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["by"] for row in report["rows"]][-2:] == ["before", "after"]
    assert all(measure in row for row in report["rows"])
    assert len(report["losses"]) == 3
    assert json.loads((here / "out/tuning.json").read_text()) == report
    assert (here / "out/adapter/adapter_model.safetensors").is_file()
    assert "| after" in (here / "out/tuning.md").read_text()


def test_frozen_is_asked_about_the_episodes_of_words(here, capsys):
    """Two pictures differ by their ids alone; the episodes are those of `spae eval fewshot`."""
    pytest.importorskip("accelerate", reason="spae.training needs accelerate")
    from spae.eval.episodes import paper_settings, sample_episodes
    from spae.eval.labelled import labelled_set
    from spae.training.prefixes import PrefixEncoder

    options = ["--data", "pictures", "--llm", "llm", "--size", "16", "--ways", "2", "--shots", "1"]
    options += ["--episodes", "4", "--steps", "2", "--batch-size", "4"]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        from spae.eval import frozen

        ask = frozen.evaluate_fewshot

        def watched(llm, images, setting, episodes, **rest):
            seen.append((llm.vocabulary_size, images, setting, episodes))
            return ask(llm, images, setting, episodes, **rest)

        patch.setattr(frozen, "evaluate_fewshot", watched)
        assert main(["tune", "frozen", *options, "--out", "out", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    settings = [one for one in paper_settings(2) if one.inner_shots == 1]
    assert [row["setting"] for row in report["rows"]] == [one.name for one in settings]
    assert {"exact", "ranked", "shuffled ranked"} <= set(report["rows"][0])
    assert "word overlap" not in report["rows"][0], "an image's ids are its own"
    assert len(report["losses"]) == 2
    labels = labelled_set("pictures", 16, split="report").labels
    drawn = [sample_episodes(labels, one, 4, seed=0) for one in settings]
    assert [(one, of) for *_, one, of in seen] == list(zip(settings, drawn, strict=True))
    size, images, *_ = seen[0]
    used = {shot.item for of in drawn for episode in of for shot in (*episode.shots, episode.query)}
    assert set(images.shown) == used
    ids = [one for pair in images.shown.values() for (one,) in pair]
    assert sorted(ids) == list(range(340, size)), "two of each image, behind the vocabulary"
    assert size == 340 + 2 * len(used)
    assert PrefixEncoder.load(here / "out/encoder").config.steps == 2
    assert "2-way 1-shot x4" in (here / "out/frozen.md").read_text()
    assert main(["tune", "frozen", *options, "--shots", "2", "--out", "other"]) == 1
    assert "shots: expected some of 1, 3, 5, got [2]" in capsys.readouterr().err
