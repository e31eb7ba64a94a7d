"""What a package of one's own adds to spae, each in under 40 lines that change no module: a tokenizer, a kernel, a
language model's back end and an evaluation."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import spae
import spae_ops
from spae import llm
from spae.cli import main
from spae.eval import tasks
from spae.incontext import Example, Lexicon, Options, Task, Template, decode
from spae.incontext.reference import decode_reference
from spae.llm import loading
from spae.tokenizers import register, registry
from spae_ops._dispatch import SEARCH
from spae_ops._implementation import NothingPrepared


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """Whatever a test registers is gone after it."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    monkeypatch.setattr(loading, "_BACKENDS", dict(loading._BACKENDS))
    monkeypatch.setattr(SEARCH, "_implementations", dict(SEARCH._implementations))
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))


def test_a_tokenizer(tmp_path):
    @dataclass(frozen=True)
    class MosaicConfig(spae.SPAEConfig):
        gain: float = 1.0

    @register
    class Mosaic(spae.Tokenizer):
        config_class = MosaicConfig

        def latents(self, images):
            return self.config.gain * nn.functional.adaptive_avg_pool2d(images, self.pyramid.shape)

        def quantize(self, latents, num_layers=None):
            found = spae_ops.pyramid_quantize(
                latents, self.codebook.index, self.pyramid, num_layers=num_layers
            )
            return found.ids

        def pixels(self, ids):
            cells = spae_ops.pyramid_dequantize(ids, self.codebook.index, self.pyramid).quantized
            return nn.functional.interpolate(cells / self.config.gain, self.config.image_size)

        def forward(self, images):
            z = self.latents(images)
            tokens = self.encode(images)
            loss = (self.pixels(tokens.ids) - images).abs().mean()
            return spae.SPAEOutput(self.pixels(tokens.ids), tokens, z, z, {"reconstruction": loss})

    colours = spae.Codebook.from_arrays([" red", " green", " blue"], torch.eye(3))
    Mosaic(MosaicConfig((8, 8), (1, 2), multipliers=(1, 1, 1), gain=0.5), colours).save_pretrained(
        tmp_path / "mosaic"
    )
    model = spae.load(tmp_path / "mosaic")
    assert type(model) is Mosaic
    green = torch.tensor([0.0, 1, 0])[:, None, None].expand(1, 3, 8, 8)
    assert model.words(model.encode(green, 1)) == [[[" green"]]]
    assert torch.allclose(model.pixels(torch.tensor([[1]])), green / 0.5)


def test_a_kernel():
    class Backwards:
        """The definition, by a loop over the queries from last to first."""

        LAYOUT, Prepared = "backwards/1", NothingPrepared

        def __init__(self):
            self.calls = 0

        def unavailable(self, device):
            return None if device is None or device.type == "cpu" else "runs on the CPU"

        def prepare(self, codes):
            return NothingPrepared()

        def search(self, x, codes, prepared, mask, k):
            self.calls += 1
            distance = [spae_ops.squared_distance(q.expand_as(codes), codes) for q in reversed(x)]
            sqdist, ids = torch.stack(distance[::-1]).sort(dim=1, stable=True)
            return ids[:, :k], sqdist[:, :k].float()

    kernel = Backwards()
    SEARCH.register("backwards", kernel)
    assert spae_ops.implementations("nearest_code")[0] == ("backwards", True, "")
    x, z, codes = torch.randn(9, 8), torch.randn(2, 8, 4, 4), torch.randn(50, 8)
    pyramid = spae_ops.Pyramid.square(4, (1, 2, 4))
    for table in (codes, spae_ops.CodeIndex(codes), spae_ops.CodeIndex(codes, impl="backwards")):
        calls = kernel.calls
        ours = spae_ops.nearest_code(x, table).ids, spae_ops.pyramid_quantize(z, table, pyramid).ids
        assert kernel.calls > calls + 1, "auto takes it, in every op that looks codes up"
        assert torch.equal(ours[0], spae_ops.nearest_code(x, codes, impl="reference").ids)
        assert torch.equal(ours[1], spae_ops.pyramid_quantize(z, codes, pyramid, impl="reference").ids)


def test_a_back_end():
    class Parrot:
        """Bytes; goes on as the prompt did when it last read the same three, or as few as it takes."""

        name = identity = "parrot"
        context_window, start_ids, special_ids = 4096, (), frozenset()
        check = staticmethod(lambda ids: None)
        encode = staticmethod(lambda text: list(text.encode()))
        decode = staticmethod(lambda ids: bytes(ids).decode())

        def prefix(self, ids, base=None):
            return SimpleNamespace(ids=(*(base.ids if base else ()), *ids))

        def generate(self, prompts, num_tokens, *, prefix=None, allowed, **options):
            rows = [[*(prefix.ids if prefix else ()), *prompt] for prompt in prompts]
            for row in rows:
                for ids in allowed:
                    text, known = bytes(row), bytes(ids.tolist())
                    after = [text.rfind(text[-n:], 0, -1) + n for n in (3, 2, 1) if text[-n:] in text[:-1]]
                    row.append(next((text[i] for i in after if text[i] in known), known[0]))
            return torch.tensor([row[-num_tokens:] for row in rows])

        def logprobs(self, prompts, continuations, *, prefix=None):
            return [torch.zeros(len(ids)) for ids in continuations]

    llm.backend("parrot://")(lambda source, **options: Parrot(**options))
    model = llm.load("parrot://grey")
    book = spae.Codebook.from_arrays(list("ABCDEFGH"), torch.eye(8), torch.arange(65, 73))
    lexicon = Lexicon(book, spae_ops.Pyramid.square(2, (1, 2)), model)
    answers = lexicon.llm_ids(
        spae.PyramidTokens(torch.tensor([[0, 2, 1, 4, 3], [7, 6, 5, 0, 1]]), lexicon.pyramid)
    )
    task = Task(Template(before=">"), tuple(map(Example, "38", answers)))
    queries, layouts = [Example("8"), Example("3")], [Options(), Options(layout="segments")]
    for options in layouts:
        tokens = decode(model, task, queries, lexicon, stride=5, options=options)
        assert tokens.ids.tolist() == [[7, 6, 5, 0, 1], [0, 2, 1, 4, 3]]
    expected = decode_reference(model, task, queries, lexicon, stride=2)
    assert torch.equal(decode(model, task, queries, lexicon, stride=2).ids, expected.ids)


def test_an_evaluation(tmp_path, capsys):
    (tmp_path / "contrast.py").write_text("""
from spae.eval.run import Measured
import torch

ABOUT = "How far apart the pictures of two words are."
USES_LLM = False

def add(parser):
    parser.add_argument("--words", nargs=2, required=True)

def settings(arguments):
    return arguments.words

def measure(run):
    ids = run.model.codebook.ids_of(run.settings)
    tokens = run.model.encode(torch.zeros(2, 3, run.size, run.size))
    pictures = run.model.pixels(torch.as_tensor(ids)[:, None].expand_as(tokens.ids))
    return Measured({"contrast": (pictures[0] - pictures[1]).abs().mean().item()})

def table(report):
    return f"| contrast |\\n| --- |\\n| {report['contrast']:.3f} |"
""")
    tasks.__path__.append(str(tmp_path))  # as if the file lay in spae/eval/tasks
    torch.manual_seed(0)
    book = spae.Codebook.from_arrays([" red", " green", " blue"], torch.randn(3, 4))
    config = spae.SPAEConfig((8, 8), (1, 2), channels=8, multipliers=(1, 1))
    spae.SPAE(config, book).save_pretrained(tmp_path / "model")
    command = ["eval", "contrast", "--model", str(tmp_path / "model"), "--out", str(tmp_path), "--words"]
    assert main([*command, " red", " blue"]) == 0
    assert json.loads((tmp_path / "contrast.json").read_text())["contrast"] > 0
    assert main([*command, " red", " red"]) == 0
    assert capsys.readouterr().out.endswith("| contrast |\n| --- |\n| 0.000 |\n")


def test_each_in_under_40_lines():
    added = (test_a_tokenizer, test_a_kernel, test_a_back_end, test_an_evaluation)
    assert max(len(inspect.getsource(test).splitlines()) for test in added) < 40
