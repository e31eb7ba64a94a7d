import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.tokenizers import base

COMMANDS = ["fetch", "demo", "encode", "decode", "tokenize", "train", "eval", "bench"]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A tiny model saved with a codebook in a folder, so that the command line can load both."""
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" w{i}" for i in range(40)], torch.randn(40, 6))
    book.save(tmp_path / "book")
    book = Codebook.load(tmp_path / "book")
    config = SPAEConfig(
        image_size=(16, 16), grids=(1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1
    )
    SPAE(config, book).eval().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(base, "_named_codebook", lambda identity, rows: book)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    "what", ["digits", "semantics", "fewshot", "caption", "vqa", "generate", "denoise", "outpaint"]
)
def test_help_of_eval(what, capsys):
    with pytest.raises(SystemExit) as end:
        main(["eval", what, "--help"])
    assert end.value.code == 0
    assert f"spae eval {what}" in capsys.readouterr().out


def test_a_server_chooses_its_own_precision(capsys):
    arguments = ["eval", "fewshot", "--llm", "http://127.0.0.1:1/v1", "--dtype", "bfloat16"]
    assert main(arguments) == 1
    assert "dtype: expected none for a server" in capsys.readouterr().err


def test_few_shot_settings_follow_ways_and_shots(toy, monkeypatch, capsys):
    from spae import llm
    from spae.eval import fewshot_run

    asked = []

    def run(model, llm, runs, out, *, command):
        asked.extend(runs)
        return {"rows": [], "llm": "none", "command": command}

    monkeypatch.setattr(llm, "load", lambda source, **options: None)
    monkeypatch.setattr(fewshot_run, "run_fewshot", run)
    arguments = [
        "--data",
        "emoji",
        "--layers",
        "1",
        "2",
        "--ways",
        "5",
        "--shots",
        "1",
        "3",
        "--episodes",
        "7",
    ]
    assert main(["eval", "fewshot", "--model", str(toy / "model"), *arguments]) == 0
    (only,) = asked
    assert (only.data, only.layers, only.episodes) == ("emoji", (1, 2), 7)
    assert {setting.inner_shots for setting in only.settings} == {1, 3}
    assert len(only.settings) == 6
    assert "| data | words |" in capsys.readouterr().out


def test_the_demo_says_what_its_last_part_needs(monkeypatch, capsys):
    from spae import demo

    monkeypatch.setitem(sys.modules, "transformers", None)
    demo._in_context(None, None, None)
    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "pip install transformers" in out


def test_encode_then_decode(toy, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(toy / "cat.png")
    model = str(toy / "model")
    assert main(["encode", str(toy / "cat.png"), "--model", model, "--out", str(toy / "t.json")]) == 0
    tokens = json.loads((toy / "t.json").read_text())
    assert len(tokens["images"][0]["ids"]) == 21
    assert [len(layer) for layer in tokens["images"][0]["words"]] == [1, 4, 16]
    assert main(["decode", str(toy / "t.json"), "--model", model, "--out", str(toy), "--layers", "2"]) == 0
    decoded = np.asarray(Image.open(toy / "cat.decoded.png"))
    assert decoded.shape == (16, 16, 3)
    capsys.readouterr()
    assert main(["tokenize", str(toy / "cat.png"), "--model", model, "--layers", "2"]) == 0
    assert "_w" in capsys.readouterr().out
    tokens["codebook"]["checksum"] = "0" * 64
    (toy / "t.json").write_text(json.dumps(tokens))
    assert main(["decode", str(toy / "t.json"), "--model", model]) == 1
    assert "tokens: made with the codebook" in capsys.readouterr().err


def test_bad_input_is_one_line_and_a_status(capsys):
    assert main(["encode", "no-such-file.png", "--model", "no-such-model"]) == 1
    assert "no bundled model" in capsys.readouterr().err
    assert main(["fetch", "no-such-asset"]) == 1
    assert "no asset is called 'no-such-asset'" in capsys.readouterr().err
    assert main(["train", "--preset", "no-such-preset"]) == 1
    assert "preset: expected one of" in capsys.readouterr().err


def test_fetch_lists_what_there_is(capsys):
    assert main(["fetch", "--json"]) == 0
    assert {"smollm2", "gemma3", "minilm", "efficientnet-lite0"} <= set(json.loads(capsys.readouterr().out))


def test_imports_stay_light():
    """Importing the packages, or the command line, brings in no optional package."""
    code = (
        "import sys, spae, spae_ops, spae.cli, spae.llm, spae.incontext.tasks; "
        "heavy = {'triton', 'transformers', 'gguf', 'matplotlib', 'accelerate', 'hypothesis', 'mlxtend', 'PIL', 'sklearn', 'httpx'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_everything_works_without_the_extension(tmp_path):
    """No compiler, no Triton, no GPU: the same ids from the reference, and the reason is given."""
    code = """
import sys
sys.modules["spae_ops._C"] = None  # as if it had not been built
import torch
from spae_ops import CodeIndex, Pyramid, implementations, nearest_code, pyramid_quantize
rows = {i.name: i for i in implementations("nearest_code")}
assert rows["reference"].available and not rows["cpu"].available, rows
assert rows["cpu"].reason, rows
torch.manual_seed(0)
index = CodeIndex(torch.randn(500, 8))
assert index.impl == "reference"
print(nearest_code(torch.randn(64, 8), index).ids.tolist())
try:
    nearest_code(torch.zeros(1, 8), index, impl="cpu")
except RuntimeError as error:
    assert "impl: 'cpu' cannot run nearest_code on cpu: " in str(error), error
else:
    raise AssertionError("fell back silently")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    from spae_ops import nearest_code

    codes = torch.randn(500, 8)
    assert json.loads(done.stdout) == nearest_code(torch.randn(64, 8), codes).ids.tolist()


def test_bench_outside_of_a_checkout_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "lookup"]) == 1
    assert "run this in a checkout" in capsys.readouterr().err
