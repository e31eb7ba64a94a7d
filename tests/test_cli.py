import json
import subprocess
import sys

import pytest
import torch

from spae import __version__, commands
from spae.cli import main

COMMANDS = [
    *("ablate", "baselines", "bench", "decode", "demo", "doctor", "encode", "eval", "expand"),
    *("export", "fetch", "tokenize", "train", "tune", "view", "words"),
]


def test_a_new_command_is_a_new_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "greet.py").write_text(
        "ABOUT = 'Greet.'\n"
        "def add(parser):\n    parser.add_argument('name')\n"
        "def run(arguments):\n    print('hello', arguments.name)\n    return 3\n"
    )
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert main(["greet", "you"]) == 3
    assert capsys.readouterr().out == "hello you\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "greet     Greet." in capsys.readouterr().out


def test_these_are_the_commands():
    assert list(commands.commands()) == COMMANDS


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"spae {__version__}\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    code = "import sys; from spae.cli import main; sys.exit(main(['fetch']))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert command in capsys.readouterr().out


def test_bad_input_is_one_line_and_a_status(capsys):
    assert main(["encode", "no-such-file.png", "--model", "no-such-model"]) == 1
    assert "a bundled model" in capsys.readouterr().err
    assert main(["fetch", "no-such-asset"]) == 1
    assert "name: expected one of" in capsys.readouterr().err
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
    """No compiler, no Triton, no GPU: the same ids from plain torch, and the reason is given."""
    code = """
import sys
sys.modules["spae_ops._C"] = None  # as if it had not been built
import torch
from spae_ops import CodeIndex, Pyramid, implementations, nearest_code, pyramid_quantize
rows = {i.name: i for i in implementations("nearest_code")}
assert rows["torch"].available and not rows["cpu"].available, rows
assert rows["cpu"].reason, rows
torch.manual_seed(0)
index = CodeIndex(torch.randn(500, 8))
assert index.impl == "torch"
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
