"""Every example runs, at a tiny scale, and does what it says."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from spae import Codebook, load
from spae.cli import main
from spae.testing import strategies

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_is_short_tested_here_and_says_how_to_run_it():
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    own = Path(__file__).read_text(encoding="utf-8")
    assert names == sorted(set(re.findall(r'example\("(\w+)"\)', own)))
    for name in names:
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) < 120
        assert re.search(rf"^    (python|pytest) examples/{name}\.py", text.split('"""')[1], re.MULTILINE)


def test_own_codebook(photos, tmp_path, capsys):
    module = example("own_codebook")
    codebook = module.colours()
    red, white = codebook.vectors[codebook.ids_of(["red", "white"])].tolist()
    assert (red, white) == ([1, -1, -1], [1, 1, 1])
    Image.new("RGB", (30, 20), "tomato").save(tmp_path / "plain.png")
    module.main([str(tmp_path / "plain.png"), "--steps", "30", "--out", str(tmp_path / "colours")])
    out = capsys.readouterr().out
    assert out.count("tomato") == 1 + 4 + 16 + 64
    assert "mean squared error 0.0000" in out
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", out)]
    assert losses[-1] < losses[0] / 2
    assert load(tmp_path / "colours").codebook.words == codebook.words


def test_own_folder(photos, book, tmp_path, capsys):
    out = tmp_path / "run"
    command = [str(photos), "--size", "32", "--channels", "8", "--batch-size", "4", "--codebook", str(book)]
    example("own_folder").main([*command, "--steps", "3", "--out", str(out)])
    printed = capsys.readouterr().out
    assert load(out / "model").config.image_size == (32, 32)
    held_out = int(re.search(r"(\d+) images; \d+ of 60 words in use", printed)[1])
    assert 0 < held_out < 12
    assert f"--model {out / 'model'}" in printed
    assert json.loads((out / "preset.json").read_text())["data"] == str(photos)


def test_token_gpt(photos, book, tiny_tokenizer_of, tmp_path, capsys):
    model = tiny_tokenizer_of(Codebook.load(book), tmp_path / "model")
    collection = str(tmp_path / "tokens")
    assert main(["tokenize", str(photos), collection, "--model", str(model), "--loaders", "0"]) == 0
    command = [collection, "--width", "32", "--depth", "1", "--batch-size", "8"]
    example("token_gpt").main([*command, "--steps", "60", "--out", str(tmp_path / "written.png")])
    printed = capsys.readouterr().out
    first, last = (float(value) for value in re.findall(r"([\d.]+) nats", printed))
    assert last < first
    assert np.asarray(Image.open(tmp_path / "written.png")).shape == (32, 2 * 32, 3)


def test_token_gpt_sees_nothing_of_what_follows():
    torch.manual_seed(0)
    gpt = example("token_gpt").GPT(vocabulary=9, length=6, width=32, depth=2).eval()
    ids = torch.randint(9, (2, 6))
    other = ids.clone()
    other[:, 3:] = (other[:, 3:] + 1) % 9
    assert torch.allclose(gpt(ids)[:, :3], gpt(other)[:, :3], atol=1e-6)
    assert not torch.allclose(gpt(ids)[:, 3:], gpt(other)[:, 3:], atol=1e-6)


def test_own_quantizer():
    module = example("own_quantizer")
    for name in [name for name in vars(module) if name.startswith("test_")]:
        getattr(module, name)()

    @settings(deadline=None, database=None, report_multiple_bugs=False)
    @given(strategies.lookups())
    def usual(problem):
        module.check_nearest(module.fast_lookup, problem)

    with pytest.raises(AssertionError):
        usual()


def test_llm_server(photos, tiny_tokenizer_of, tiny_server, tmp_path, monkeypatch, capsys):
    from spae.testing.tiny_llm import tiny_model

    read = {token: tiny_server.tokenizer.decode([token]) for token in range(257, len(tiny_server.tokenizer))}
    words = {token: word for token, word in read.items() if re.fullmatch(" [a-z]+", word)}
    codebook = Codebook.from_arrays(list(words.values()), torch.randn(len(words), 8), list(words))
    model = tiny_tokenizer_of(codebook, tmp_path / "model")
    tiny_server.tokenizer.save_pretrained(tmp_path / "llm")
    tiny_model().save_pretrained(tmp_path / "llm")
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    command = [tiny_server.url, "--llm-tokenizer", str(tmp_path / "llm"), "--model", str(model)]
    command += [
        "--data",
        str(photos),
        "--split",
        "train",
        "--episodes",
        "3",
        "--log",
        str(tmp_path / "log.jsonl"),
    ]
    example("llm_server").main(command)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert len(lines) == 4
    written = sum(re.match(r"(.*): wrote '\1',", line) is not None for line in lines[:3])
    ranked = sum(re.match(r"(.*): .* ranks '\1' first", line) is not None for line in lines[:3])
    assert lines[3] == f"of 3: written {written}, ranked first {ranked}; chance 1 in 2"
    assert set(tiny_server.keys) == {"Bearer secret-key"}
    assert "dark things" in tiny_server.asked[0]["prompt"]
    asked = len(tiny_server.asked)
    assert asked == 3 * (1 + 2)
    example("llm_server").main(command)  # everything is in the log
    assert capsys.readouterr().out == printed
    assert len(tiny_server.asked) == asked


def test_episodes_of_the_server_ask_for_what_was_not_shown():
    draw = example("llm_server").episodes
    labels = [0, 0, 1, 1, 2, 2, 3]
    for shown, asked in draw(labels, 3, 20, seed=0):
        assert sorted(labels[image] for image in shown) == [0, 1, 2]
        assert asked not in shown
    with pytest.raises(ValueError, match="ways: expected at most 3"):
        draw(labels, 4, 1, seed=0)
