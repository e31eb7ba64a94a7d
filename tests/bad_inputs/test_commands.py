"""Bad command lines: status 1 and one line that names what is wrong (2 and the usage where argparse does), no
traceback, and nothing is written."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from spae import VQGAN, VQGANConfig
from spae.cli import main


def changed(folder, source, **entries):
    """A model's folder with other entries in its config.json (None removes one)."""
    shutil.copytree(source, folder)
    about = json.loads((folder / "config.json").read_text())
    about = {key: value for key, value in (about | entries).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Models, images and tokens, most of them damaged in one way."""
    root = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    config = VQGANConfig(
        (16, 16),
        (2, 4),
        channels=4,
        multipliers=(1, 1, 1),
        num_res_blocks=1,
        codebook_size=16,
        codebook_dim=4,
    )
    VQGAN(config).eval().save_pretrained(root / "m")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(root / "a.png")
    (root / "bad.png").write_bytes(b"no image")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:40])
    (root / "none").mkdir()
    assert (
        main(["encode", str(root / "a.png"), "--model", str(root / "m"), "--out", str(root / "t.json")]) == 0
    )
    assert (
        main(["encode", str(root / "a.png"), "--model", str(root / "m"), "--out", str(root / "t.jsonl")]) == 0
    )
    tokens(root, json.loads((root / "t.json").read_text()))
    models(root, config)
    return root


def models(root, config):
    model = root / "m"
    (root / "m-empty").mkdir()
    for name, content in {
        "text": b"not json",
        "list": b"[]",
        "bytes": b"\xff\xfe",
        "deep": b"[" * 100_000,
    }.items():
        shutil.copytree(model, root / f"m-{name}")
        (root / f"m-{name}" / "config.json").write_bytes(content)
    about = config.to_dict()
    changed(root / "m-no-class", model, **{"class": None})
    changed(root / "m-class", model, **{"class": "Other"})
    changed(root / "m-class-list", model, **{"class": ["VQGAN"]})
    changed(root / "m-no-config", model, config=None)
    changed(root / "m-config-list", model, config=[1])
    changed(root / "m-field", model, config=about | {"colour": 1})
    changed(root / "m-type", model, config=about | {"channels": "4"})
    changed(root / "m-shape", model, config=about | {"channels": 8})
    changed(root / "m-grid", model, config=about | {"grids": [2, 3]})
    changed(root / "m-no-codebook", model, codebook=None)
    changed(root / "m-codebook", model, codebook={"name": "x", "checksum": "0"})
    for name in ("no-weights", "weights", "cut", "missing", "extra-state", "processor", "processor-type"):
        shutil.copytree(model, root / f"m-{name}")
    (root / "m-no-weights" / "model.safetensors").unlink()
    (root / "m-weights" / "model.safetensors").write_bytes(b"garbage" * 10)
    whole = (model / "model.safetensors").read_bytes()
    (root / "m-cut" / "model.safetensors").write_bytes(whole[:-100])
    weights = load_file(model / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), root / "m-missing" / "model.safetensors")
    save_file({**weights, "_extra_state": torch.zeros(3)}, root / "m-extra-state" / "model.safetensors")
    (root / "m-processor" / "preprocessor_config.json").write_text("{")
    (root / "m-processor-type" / "preprocessor_config.json").write_text(
        '{"image_size": [16, 16], "channels": 4}'
    )


def tokens(root, document):
    image = document["images"][0]
    for name, values in {
        "list": [],
        "number": 3,
        "empty": document | {"images": []},
        "format": document | {"format": "other"},
        "no-codebook": {k: v for k, v in document.items() if k != "codebook"},
        "codebook": document | {"codebook": {"checksum": "0"}},
        "no-images": {k: v for k, v in document.items() if k != "images"},
        "no-ids": document | {"images": [{"name": "a.png"}]},
        "no-name": document | {"images": [{"ids": image["ids"]}]},
        "string": document | {"images": [image | {"ids": ["1"] * 20}]},
        "float": document | {"images": [image | {"ids": [1.5] * 20}]},
        "large": document | {"images": [image | {"ids": [16] * 20}]},
        "huge": document | {"images": [image | {"ids": [10**30] * 20}]},
        "negative": document | {"images": [image | {"ids": [-1] * 20}]},
        "ragged": document | {"images": [image, image | {"ids": image["ids"][:4]}]},
        "short": document | {"images": [image | {"ids": image["ids"][:5]}]},
    }.items():
        (root / f"t-{name}.json").write_text(json.dumps(values))
    (root / "t-text.json").write_text("no json")
    (root / "t-bytes.json").write_bytes(b"\xff\xff")
    (root / "t-cut.json").write_text(json.dumps(document)[:-20])
    (root / "t-nothing.json").write_text("")


# (arguments, what is said after "spae COMMAND: "); {} stands for the folder
ONE_LINE = [
    ("encode {}/a.png --model no-such", r"name: expected a folder with config.json, .*, got 'no-such'"),
    ("encode {}/a.png --model {}/m-empty", r"name: expected a folder with config.json, .*, got '.*m-empty'"),
    ("encode {}/a.png --model {}/m-text", r".*config.json: expected a tokenizer's configuration in JSON, got"),
    ("encode {}/a.png --model {}/m-list", r".*config.json: expected a tokenizer's configuration, an object, got \[\]"),
    ("encode {}/a.png --model {}/m-bytes", r".*config.json: expected a tokenizer's configuration in JSON, got"),
    ("encode {}/a.png --model {}/m-deep", r".*config.json: expected a tokenizer's configuration in JSON, got"),
    ("encode {}/a.png --model {}/m-no-class", r".*config.json: class: expected one of .*, got ''"),
    ("encode {}/a.png --model {}/m-class", r".*config.json: class: expected one of .*, got 'Other'"),
    ("encode {}/a.png --model {}/m-class-list", r".*config.json: class: expected one of .*, got \['VQGAN'\]"),
    ("encode {}/a.png --model {}/m-no-config", r".*config.json: config: expected a mapping of .*, got None"),
    ("encode {}/a.png --model {}/m-config-list", r".*config.json: config: expected a mapping of .*, got \[1\]"),
    ("encode {}/a.png --model {}/m-field", r".*config.json: config: expected no fields but .*, got \['colour'\]"),
    ("encode {}/a.png --model {}/m-type", r".*config.json: config.channels: expected a whole number from 1, got '4'"),
    ("encode {}/a.png --model {}/m-grid", r".*config.json: grids\[1\]: expected a grid that divides .*, got \(3, 3\)"),
    ("encode {}/a.png --model {}/m-shape", r".*model.safetensors: expected the weights of the VQGAN that config.json describes, got others"),
    ("encode {}/a.png --model {}/m-no-codebook", r".*config.json: codebook: expected an object with a checksum, got None"),
    ("encode {}/a.png --model {}/m-codebook", r"codebook: expected the checkpoint's, .*, got"),
    ("encode {}/a.png --model {}/m-no-weights", r".*model.safetensors: expected a tokenizer's weights, got no such file"),
    ("encode {}/a.png --model {}/m-weights", r".*model.safetensors: expected a tokenizer's weights, got what is none"),
    ("encode {}/a.png --model {}/m-cut", r".*model.safetensors: expected a tokenizer's weights, got what is none"),
    ("encode {}/a.png --model {}/m-missing", r".*model.safetensors: expected the weights of the VQGAN .*, got others .*Missing key"),
    ("encode {}/a.png --model {}/m-extra-state", r"codebook: expected what a checkpoint says of it, got tensor"),
    ("encode {}/a.png --model {}/m-processor", r".*preprocessor_config.json: expected an image processor in JSON, got"),
    ("encode {}/a.png --model {}/m-processor-type", r".*preprocessor_config.json: processor.channels: expected 1 or 3, got 4"),
    ("encode {}/a.png --model {}/m --device tpu9", r"device: expected one .*, got 'tpu9'"),
    ("encode {}/a.png --model {}/m --layers 0", r"layers: expected 1 to 2, got 0"),
    ("encode {}/a.png --model {}/m --layers 3", r"layers: expected 1 to 2, got 3"),
    ("encode {}/a.png --model {}/m --batch-size 0", r"batch-size: expected 1 or more, got 0"),
    ("encode {}/a.png --model {}/m --resume", r"resume: expected JSON lines in --out, got standard output"),
    ("encode {}/a.png --model {}/m --resume --out {}/new.json", r"resume: expected JSON lines in --out, got .*new.json"),
    ("encode {}/a.png --model {}/m --resume --layers 1 --out {}/t.jsonl", r"resume: expected images of 4 ids in .*t.jsonl, got 20"),
    ("encode {}/a.png --model {}/m --resume --lines --out {}/t-list.json", r".*t-list.json: expected JSON lines from `spae encode`, got '\[\]'"),
    ("encode {}/a.png --model {}/m --out {}", r"out: expected a file, got .*, a folder"),
    ("encode {}/a.png --model {}/m --out {}/a.png/t.json", r".*a.png: "),
    ("encode {}/none --model {}/m --out {}/new.json", r"images: expected files that end in .*, got none in .*none"),
    ("encode {}/*.gif --model {}/m --out {}/new.json", r"images: expected files that end in .*, got none in .*gif"),
    ("words {}/none --model {}/m", r"images: expected files that end in .*, got none in .*none"),
    ("words {}/a.png --model {}/m --layers -1", r"layers: expected 1 to 2, got -1"),
    ("tokenize {}/none {}/new --model {}/m", r"root: expected files that end in .*, got none under .*none"),
    ("tokenize mnist {}/new --model {}/m", r"split: expected one of those that mnist has, got None"),
    ("tokenize mnist {}/new --model {}/m --form csv", r"tokenize.form: expected .*, got 'csv'"),
    ("tokenize mnist {}/new --model {}/m --shard-size 0", r"tokenize.shard_size: expected .*, got 0"),
    ("view {}/none --model {}/m --out {}/new.html", r"images: expected files that end in .*, got none in .*none"),
    ("view {}/a.png --model {}/m --out {}/new.html --layers 9", r"layers: expected 1 to 2, got 9"),
    ("view {}/a.png --model {}/m --out {}", r"out: expected a file, got .*, a folder"),
    ("view {}/a.png --model no-such --out {}/new.html", r"name: expected a folder with config.json, .*, got 'no-such'"),
    ("decode {}/none.json --model {}/m", r".*none.json: expected a file that `spae encode` wrote, got no such file"),
    ("decode {}/none --model {}/m", r".*none: expected a file that `spae encode` wrote, got no such file"),
    ("decode {}/t-text.json --model {}/m", r".*t-text.json: expected JSON from `spae encode`, got"),
    ("decode {}/t-bytes.json --model {}/m", r".*t-bytes.json: expected JSON in UTF-8, got the byte 0xff"),
    ("decode {}/t-cut.json --model {}/m", r".*t-cut.json: expected JSON from `spae encode`, got"),
    ("decode {}/t-nothing.json --model {}/m", r".*t-nothing.json: expected JSON from `spae encode`, got"),
    ("decode {}/t-list.json --model {}/m", r".*t-list.json: expected an object with format, codebook and images, got list"),
    ("decode {}/t-number.json --model {}/m", r".*t-number.json: expected an object with format, codebook and images, got int"),
    ("decode {}/t-empty.json --model {}/m", r".*t-empty.json: expected at least one image, got none"),
    ("decode {}/t-format.json --model {}/m", r".*t-format.json: format: expected 'spae-tokens-1', got 'other'"),
    ("decode {}/t-no-codebook.json --model {}/m", r".*t-no-codebook.json: codebook: expected an object with a checksum, got nothing"),
    ("decode {}/t-codebook.json --model {}/m", r".*t-codebook.json: codebook: expected the model's, .*, got None 0"),
    ("decode {}/t-no-images.json --model {}/m", r".*t-no-images.json: expected at least one image, got none"),
    ("decode {}/t-no-ids.json --model {}/m", r".*images\[0\]: ids: expected a list of integers, got nothing"),
    ("decode {}/t-no-name.json --model {}/m", r".*images\[0\]: name: expected a file's name, got nothing"),
    ("decode {}/t-string.json --model {}/m", r".*images\[0\]: ids\[0\]: expected an integer, got '1'"),
    ("decode {}/t-float.json --model {}/m", r".*images\[0\]: ids\[0\]: expected an integer, got 1.5"),
    ("decode {}/t-large.json --model {}/m", r".*images\[0\]: ids\[0\]: expected 0 to 15, got 16"),
    ("decode {}/t-huge.json --model {}/m", r".*images\[0\]: ids\[0\]: expected 0 to 15, got an integer of 100 bits"),
    ("decode {}/t-negative.json --model {}/m", r".*images\[0\]: ids\[0\]: expected 0 to 15, got -1"),
    ("decode {}/t-ragged.json --model {}/m", r".*images\[1\]: ids: expected 20 as in the first image, got 4"),
    ("decode {}/t-short.json --model {}/m", r".*images\[0\]: ids: expected whole layers \(4, 20 ids\), got 5"),
    ("decode {}/t.json --model {}/m --layers 3", r"layers: expected 1 to 2, got 3"),
    ("decode {}/t.json --model {}/m --layers 0", r"layers: expected 1 to 2, got 0"),
    ("decode {}/t.json --model {}/m --batch-size -1", r"batch-size: expected 1 or more, got -1"),
    ("decode {}/t.json --model {}/m --out {}/a.png", r".*a.png"),
    ("decode {}/t.json --model {}/m --device cuda:99", r"device: expected one .*, got 'cuda:99'"),
    ("train --preset no-such", r"preset: expected one of .*, got 'no-such'"),
    ("train --preset {}/none.json", r"preset: expected one of .* or a JSON file, got '.*none.json'"),
    ("train --preset {}/t-list.json", r"preset: expected an object of sections in .*, got \[\]"),
    ("train --preset {}/t-text.json", r"preset: expected JSON in .*, got what is none"),
    ("train --preset {}/t.json", r"preset: expected no fields but .*, got \['format', 'images'\]"),
    ("train --set train.steps=abc", r"train.steps: expected a whole number from 1, got 'abc'"),
    ("train --set train.steps=null", r"train.steps: expected a whole number from 1, got None"),
    ("train --set train.steps=1.5", r"train.steps: expected a whole number from 1, got 1.5"),
    ("train --set train.clip_norm=-1", r"train.clip_norm: expected a number above 0 or null, got -1"),
    ("train --set nothing", r"override: expected section.name=value, got 'nothing'"),
    ("train --set model.channels=[]", r"model.channels: expected a whole number from 1, got \[\]"),
    ("train --set data.folder=x --set data.name=y", r"data: expected exactly one of .*, got"),
    ("train --preset mnist-semantic --data no-such-set", r"data: expected one of .*, got 'no-such-set'"),
    ("train --preset mnist-semantic --data {}/none --out {}/run", r"root: expected files that end in .*, got none under .*none"),
    ("eval digits --model no-such", r"name: expected a folder with config.json, .*, got 'no-such'"),
    ("eval fewshot --data no-such", r"data: expected one of .*, got 'no-such'"),
    ("eval fewshot --episodes 0", r"episodes: expected at least 1, got 0"),
    ("eval fewshot --shots 4", r"shots: expected some of 1, 3, 5, got 4"),
    ("eval fewshot --ways 1", r"ways: expected at least 2, got 1"),
    ("eval fewshot --layers 0", r"layers: expected at least 1, got 0"),
    ("eval vqa --shots 0", r"inner_shots: expected at least 1, got 0"),
    ("eval caption --queries 0", r"queries: expected at least 2, got 0"),
    ("eval caption --examples 1", r"examples: expected at least 2, got 1"),
    ("eval generate --examples 15", r"examples: expected a multiple of 10, got 15"),
    ("eval generate --contexts 0", r"contexts: expected 1 or more, got 0"),
    ("eval generate --stride 0", r"stride: expected 1 or more, got 0"),
    ("eval generate --temperature -1", r"temperature: expected a number from 0, got -1"),
    ("eval generate --temperature nan", r"temperature: expected a number from 0, got nan"),
    ("eval generate --mode pnar --par-layers 1", r"par_layers: expected .*, got 1 with mode 'pnar'"),
    ("eval denoise --tasks blurring", r"tasks: expected some of .*, got 'blurring'"),
    ("eval denoise --images 1", r"images: expected at least 2, got 1"),
    ("eval denoise --data letters", r"data: expected one of .*, got 'letters'"),
    ("eval denoise --condition-layers 0", r"condition_layers: expected at least 1, got 0"),
    ("eval denoise --layers 0", r"layers: expected at least 1, got 0"),
    ("eval outpaint --images 3 --contexts 2", r"images: expected as many in each of 2 contexts, got 3"),
    ("eval outpaint --examples 0", r"examples: expected at least 1, got 0"),
    ("eval fewshot --llm no-such", r"source: expected one of smollm2, .*, got 'no-such'"),
    ("eval fewshot --llm mine://x", r"source: expected a scheme of .*, got 'mine://'"),
    ("eval fewshot --llm-model gpt", r"llm: expected a base URL beside a server's options, got 'smollm2'"),
    ("eval fewshot --llm http://127.0.0.1:1/v1 --dtype float16", r"dtype: expected none for a server, .*, got float16"),
    ("eval fewshot --llm http://127.0.0.1:1/v1 --llm-key NO_SUCH_VARIABLE", r"llm-key: expected a variable of the environment, got 'NO_SUCH_VARIABLE'"),
    ("eval fewshot --llm http://127.0.0.1:1/v1 --context-window 0", r"context_window: expected a whole number from 1, got 0"),
    ("fetch no-such", r"name: expected one of .*, got 'no-such'"),
    ("fetch mnist no-such", r"name: expected one of .*, got 'no-such'"),
    ("fetch mnist --from {}/nowhere", r"from: expected a folder of packages, got '.*nowhere'"),
    ("demo --images 0", r"images: expected 1 to 500, got 0"),
    ("demo --images 501", r"images: expected 1 to 500, got 501"),
    ("bench lookup", r"benchmarks: expected the repository's folder of that name, got none here"),
]  # fmt: skip

USAGE = [
    ("", r"the following arguments are required: COMMAND"),
    ("paint", r"argument COMMAND: invalid choice: 'paint'"),
    ("encode", r"the following arguments are required: IMAGE"),
    ("encode a.png --layers two", r"argument --layers: invalid int value: 'two'"),
    ("encode a.png --batch-size 1.5", r"argument --batch-size: invalid int value: '1.5'"),
    ("encode a.png --colour", r"unrecognized arguments: --colour"),
    ("decode", r"the following arguments are required: tokens"),
    ("decode a.json b.json", r"unrecognized arguments: b.json"),
    ("words", r"the following arguments are required: IMAGE"),
    ("tokenize photos", r"the following arguments are required: OUT"),
    ("view a.png", r"the following arguments are required: --out"),
    ("train now", r"unrecognized arguments: now"),
    ("eval", r"the following arguments are required: WHAT"),
    ("eval everything", r"argument WHAT: invalid choice: 'everything'"),
    ("eval generate --layout rows", r"argument --layout: invalid choice: 'rows'"),
    ("eval generate --mode nar", r"argument --mode: invalid choice: 'nar'"),
    ("eval fewshot --dtype int8", r"argument --dtype: invalid choice: 'int8'"),
    ("eval fewshot --seed x", r"argument --seed: invalid int value: 'x'"),
    ("fetch --colour", r"unrecognized arguments: --colour"),
    ("demo --images many", r"argument --images: invalid int value: 'many'"),
    ("doctor now", r"unrecognized arguments: now"),
]  # fmt: skip


def listed(*folders):
    return {
        path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, in which nothing is to appear."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize(("line", "said"), ONE_LINE)
def test_one_line_and_nothing_written(line, said, there, here, capsys, matches):
    arguments = [word.replace("{}", str(there)) for word in line.split()]
    before = listed(there, here)
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1, output.err
    matches(rf"spae {arguments[0]}: {said}", output.err)
    assert listed(there, here) == before


@pytest.mark.parametrize(("line", "said"), USAGE)
def test_usage(line, said, here, capsys, matches):
    with pytest.raises(SystemExit) as end:
        main(line.split())
    output = capsys.readouterr()
    assert (end.value.code, output.out) == (2, "")
    matches(rf"(usage: spae.*\n)(\s.*\n)*spae.*: error: {said}", output.err)
    assert not list(here.iterdir())


@pytest.mark.parametrize("verb", ["encode", "words"])
@pytest.mark.parametrize("name", ["bad.png", "cut.png", "missing.png", "t.json"])
def test_an_image_that_cannot_be_read_is_skipped_by_name(verb, name, there, here, capsys):
    """Others are still read; the status is 1."""
    assert main([verb, f"{there}/{name}", f"{there}/a.png", "--model", f"{there}/m"]) == 1
    output = capsys.readouterr()
    skipped, summary = output.err.splitlines()
    assert skipped.startswith(f"skipped {there}/{name}: ")
    assert summary == f"spae {verb}: 1 of 2 images could not be read"
    assert "a.png" in output.out
