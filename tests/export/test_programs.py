"""Programs of torch.export: they need torch and spae_ops alone, and hold nothing twice."""

import json
import subprocess
import sys

import pytest
import torch

import spae
import spae_ops
from spae.cli import main
from spae.export import TOKENS, about, decoding, encoding, export_torch
from spae_ops import _kept

READER = """
import sys
import torch
import spae_ops

encode, decode = (torch.export.load(f"{name}.pt2").module() for name in ("encode", "decode"))
images = torch.load("images.pt")
ids, latents = encode(images)
torch.save((ids, latents, decode(ids)), "read.pt")
assert "spae" not in sys.modules, "only torch and spae_ops"
"""


kinds = pytest.mark.parametrize("model", ["saq", "vocabularies", "RQ", "LQAE", "video"], indirect=True)


@pytest.fixture(scope="module")
def programs(model):
    return encoding(model), decoding(model)


@kinds
def test_programs_are_the_model(model, programs, toy):
    """Of every class, for another number of images than they were traced with."""
    encode, decode = (program.module() for program in programs)
    for count in (1, 3):
        x = toy.images(model, count)
        ids, latents = encode(x)
        assert torch.equal(ids, model.tokenize(x))
        torch.testing.assert_close(latents, model.latents(x))
        torch.testing.assert_close(decode(ids), model.detokenize(ids))
    assert model.training


def test_a_fresh_process_reads_them_with_spae_ops_alone(tmp_path):
    model = spae.load("mnist")
    model.train()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert main(["export", "torch", "mnist", str(tmp_path), "--layers", "3"]) == 0
    torch.save(images, tmp_path / "images.pt")
    subprocess.run([sys.executable, "-c", READER], cwd=tmp_path, check=True)
    ids, latents, decoded = torch.load(tmp_path / "read.pt")
    assert torch.equal(ids, model.tokenize(images, 3))
    torch.testing.assert_close(latents, model.latents(images))
    torch.testing.assert_close(decoded, model.detokenize(ids))
    said = json.loads((tmp_path / TOKENS).read_text(encoding="utf-8"))
    assert said == about(model, 3)
    assert said["grids"] == [[1, 1], [2, 2], [4, 4]]
    assert [said["words"][i] for i in ids[0, :1]] == model.words(model.encode(images, 3))[0][0]


@kinds
def test_each_holds_the_table_once_and_no_other_part(model, programs):
    table = model.codebook.vectors.numel()
    parts = [(model.encoder, model.semantic, model.latent_norm), (model.decoder,)]
    for program, used in zip(programs, parts, strict=True):
        numbers = table + sum(p.numel() for part in used if part for p in part.parameters())
        held = [*program.state_dict.values(), *program.constants.values()]
        kept = sum(value.numel() for value in held if isinstance(value, torch.Tensor))
        # Beside them statistics and masks, which are fewer than a second table.
        assert numbers <= kept < numbers + 200 + 60 * model.pyramid.num_layers
        assert table > 470


def test_lookups_of_a_program_prepare_the_codebook_once(toy):
    model = toy.made("saq")
    program, images = encoding(model).module(), toy.images(model)
    (codes,) = {
        node.args[1].target
        for node in program.graph.nodes
        if node.target is torch.ops.spae_ops.pyramid_quantize.default
    }
    table = getattr(program, codes)
    program(images)
    made = dict(_kept._MADE[table][1])
    assert made
    program(images)
    assert all(_kept._MADE[table][1][layout] is value for layout, value in made.items())
    table.copy_(table.flip(0).clone())  # another table in its place is seen
    ids, latents = program(images)
    assert torch.equal(ids, spae_ops.pyramid_quantize(latents, table.clone(), model.pyramid).ids)
    table[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"codes: expected finite values, got nan or inf in 1 of 50 rows: 3"):
        program(images)


@pytest.mark.parametrize("strict", [True, False])
def test_a_module_of_ones_own_takes_the_codebook_alone(strict):
    class Nearest(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(8, 8)
            self.index = spae_ops.CodeIndex(torch.randn(300, 8))

        def forward(self, x):
            return spae_ops.nearest_code(self.linear(x), self.index).ids

    torch.manual_seed(0)
    module, x = Nearest(), torch.randn(5, 8)
    shapes = ({0: torch.export.Dim("rows")},)
    program = torch.export.export(module, (x[:3],), dynamic_shapes=shapes, strict=strict)
    tables = [value for value in program.constants.values() if isinstance(value, torch.Tensor)]
    assert [tuple(table.shape) for table in tables] == [(300, 8)]
    assert torch.equal(program.module()(x), module(x))


def test_bad_arguments_are_named(tmp_path, capsys, toy):
    model = toy.made("saq")
    with pytest.raises(TypeError, match=r"model: expected a spae.Tokenizer, got str"):
        encoding("mnist")
    with pytest.raises(ValueError, match=r"num_layers: expected 1\.\.\d, got 9"):
        export_torch(model, tmp_path, num_layers=9)
    assert list(tmp_path.iterdir()) == []
    assert main(["export", "torch", "mnist", str(tmp_path), "--layers", "9"]) == 1
    assert main(["export", "torch", "mnist", str(tmp_path), "--check", "x.png"]) == 1
    assert "check: expected none but for onnx" in capsys.readouterr().err
