"""`spae eval`: what its options mean, and what is refused before anything is loaded."""

import argparse

import pytest

from spae import llm
from spae.cli import main
from spae.commands import eval as command
from spae.eval.fewshot import Reading
from spae.eval.run import find, tasks

TASKS = [
    "caption",
    "denoise",
    "digits",
    "fewshot",
    "frames",
    "generate",
    "motion",
    "nextframe",
    "outpaint",
    "reconstruction",
    "semantics",
    "sound",
    "strides",
    "vqa",
    "windows",
]
NO_LLM = {"digits", "frames", "reconstruction", "semantics", "sound"}


def settings(name, *options):
    """What a task makes of its options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    find(name).add(parser)
    return find(name).settings(parser.parse_args(options))


@pytest.fixture
def loaded(monkeypatch):
    """What `llm.load` is asked for; nothing is loaded."""
    asked = []
    monkeypatch.setattr(llm, "load", lambda source, **options: asked.append((source, options)))
    monkeypatch.setattr(command, "load_tokenizer", lambda name: None)
    return asked


def test_these_are_the_tasks():
    assert tasks() == TASKS


@pytest.mark.parametrize("what", TASKS)
def test_help(what, capsys):
    with pytest.raises(SystemExit) as end:
        main(["eval", what, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert f"spae eval {what}" in out
    assert ("--llm-model" in out) == (what not in NO_LLM)


def test_few_shot_settings_follow_ways_and_shots():
    options = ["--data", "emoji", "--layers", "1", "2", "--ways", "5", "--shots", "1", "3", "--episodes", "7"]
    (only,) = settings("fewshot", *options)
    assert (only.data, only.layers, only.episodes) == ("emoji", (1, 2), 7)
    assert {setting.inner_shots for setting in only.settings} == {1, 3}
    assert len(only.settings) == 6
    assert (only.split, only.reading, only.lite0) == ("report", Reading(), True)


def test_how_names_are_ranked_is_reached():
    options = ["--split", "dev", "--calibrate", "--per-token", "--no-lite0"]
    (only,) = settings("fewshot", *options, "--form", "colon", "--data", "garments")
    assert (only.split, only.reading, only.lite0) == ("dev", Reading("colon", True, True), False)
    free = Reading("v2l", True, True, ("\n",), 32)
    assert all(part.reading == free for part in settings("vqa", *options))


@pytest.mark.parametrize("what", ["caption", "vqa"])
def test_where_a_text_ends_is_chosen(what):
    def chosen(*options):
        made = settings(what, *options)
        reading = made if what == "caption" else made[0].reading
        return reading.stop, reading.max_tokens

    assert chosen() == (((".", "\n") if what == "caption" else ("\n",)), 32)
    assert chosen("--stop", ".", "\\n", ";", "--max-tokens", "5") == ((".", "\n", ";"), 5)
    with pytest.raises(ValueError, match="max_tokens: expected at least 1, got 0"):
        chosen("--max-tokens", "0")


@pytest.mark.parametrize("what", ["generate", "denoise", "outpaint"])
def test_modes_of_decoding_are_reached(what):
    # The other scheme has no modes.
    scheme = ("--scheme", "layers") if what == "denoise" else ()
    chosen = settings(
        what, *scheme, "--mode", "par", "--par-layers", "2", "--stride", "1", "--layout", "segments"
    )
    assert (chosen.mode, chosen.par_layers, chosen.stride, chosen.layout) == ("par", 2, 1, "segments")
    assert settings(what, *scheme, "--mode", "pnar", "--shown-words", "3").shown_words == 3
    assert settings(what, *scheme).layout == "examples"
    assert settings(what, *scheme).stride == (2 if what == "denoise" else 1)
    drawn = ["--layers", "2", "--temperature", "0.7", "--top-p", "0.9", "--top-k", "5", "--best-of", "3"]
    chosen = settings(what, *scheme, *drawn)
    assert (chosen.layers, chosen.temperature, chosen.top_p, chosen.top_k, chosen.best_of) == (
        2,
        0.7,
        0.9,
        5,
        3,
    )
    with pytest.raises(ValueError, match="shown_words: expected 0 or more in the layout examples"):
        settings(what, *scheme, "--shown-words", "3", "--layout", "segments")
    with pytest.raises(ValueError, match="best_of: expected 1 or more, and 1 at temperature 0"):
        settings(what, *scheme, "--best-of", "3")
    with pytest.raises(ValueError, match="par_layers: expected 1 or more with mode"):
        settings(what, *scheme, "--mode", "pnar", "--par-layers", "2")


def test_what_digits_are_asked_for():
    chosen = settings("generate", "--captions", "words", "--chain", "--sums", "5", "--plain", "0")
    assert (chosen.captions, chosen.chain, chosen.sums, chosen.plain) == ("words", True, 5, 0)


def test_what_a_study_of_strides_takes():
    options = "--strides 1 whole --modes pnar --layouts segments --plain 3 --layers 2 --captions words"
    chosen = settings("strides", *options.split())
    assert (chosen.strides, chosen.modes, chosen.layouts) == ((1, "whole"), ("pnar",), ("segments",))
    assert (chosen.prompts.plain, chosen.prompts.layers, chosen.prompts.captions) == (3, 2, "words")
    assert settings("strides").strides == (1, 2, 4, 16, "whole")


def test_a_servers_options(loaded, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MY_KEY", "secret")
    monkeypatch.setattr("spae.eval.run.evaluate", lambda task, run: {"rows": [], "llm": "none"})
    url = "http://127.0.0.1:1/v1"
    options = [
        "--llm-model",
        "m",
        "--llm-tokenizer",
        "gemma3",
        "--context-window",
        "4096",
        "--llm-key",
        "MY_KEY",
    ]
    assert main(["eval", "vqa", "--llm", url, *options, "--out", str(tmp_path)]) == 0
    expected = {"model": "m", "tokenizer": "gemma3", "context_window": 4096, "api_key": "secret"}
    assert loaded == [(url, expected)]
    assert main(["eval", "vqa", "--dtype", "bfloat16", "--out", str(tmp_path)]) == 0
    assert loaded[1] == ("smollm2", {"dtype": "bfloat16"})
    assert capsys.readouterr().out.startswith("| data | words |")


@pytest.mark.parametrize("what", [what for what in TASKS if what not in NO_LLM])
@pytest.mark.parametrize("source", ["gemma3", "model.gguf", "some/folder", "https://host/v1"])
def test_every_task_asks_any_language_model(loaded, monkeypatch, tmp_path, what, source):
    monkeypatch.setattr("spae.eval.run.evaluate", lambda task, run: {})
    assert main(["eval", what, "--llm", source, "--json", "--out", str(tmp_path)]) == 0
    assert loaded == [(source, {})]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--llm", "http://127.0.0.1:1/v1", "--dtype", "bfloat16"], "dtype: expected none for a server"),
        (["--llm-model", "m"], "llm: expected a base URL beside a server's options, got 'smollm2'"),
        (["--llm", "http://127.0.0.1:1/v1", "--llm-key", "NO_SUCH"], "llm-key: expected a variable of the"),
        (["--data", "birds"], "data: expected one of digits, garments"),
        (["--shots", "9"], "shots: expected some of 1, 3, 5, got 9"),
    ],
)
def test_bad_options_are_refused_before_anything_is_loaded(loaded, capsys, options, message):
    assert main(["eval", "fewshot", *options]) == 1
    assert message in capsys.readouterr().err
    assert loaded == []
