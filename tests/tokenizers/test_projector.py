"""A SPAE whose words are looked up through a projector over the frozen table."""

import copy
from dataclasses import replace

import pytest
import torch

from spae import SPAE, Codebook, LQAEConfig, RQConfig, SPAEConfig
from spae.losses import Objective, SemanticLoss
from spae.tokenizers import Autoencoder
from spae_ops import layer_queries, nearest_code

CONFIG = SPAEConfig(
    image_size=(16, 16), grids=(1, 2, 4, 4), channels=8, multipliers=(1, 2, 2), num_res_blocks=1, word_dim=3
)


def book():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(60, 12, generator=generator) * torch.linspace(0.2, 2, 12) + 1
    return Codebook.from_arrays([f" word{i}" for i in range(60)], vectors, name="toy")


def model(**changes):
    torch.manual_seed(0)
    return SPAE(replace(CONFIG, **changes), book())


def projector(spae):
    return spae.get_submodule("projection.words")


def images(count=8, seed=1):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def step(spae, optimizer, seed=1):
    output = spae(images(seed=seed))
    torch.stack(list(output.losses.values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return output


def test_the_projector_begins_with_the_principal_directions_at_the_norm_of_the_table():
    spae = model()
    rows, seen = spae.codebook.vectors.double(), spae.table.vectors.double()
    assert seen.shape == (60, 3)
    assert spae.table.width == 3
    assert len(spae.table) == 60
    assert torch.allclose(seen.mean(0), torch.zeros(3).double(), atol=1e-5)
    norm = (rows - rows.mean(0)).square().sum(1).mean()
    assert torch.allclose(seen.T @ seen / 60, torch.eye(3).double() * norm / 3, atol=1e-4)
    # Each projected channel is a combination of the three directions of most variance, and of no other.
    _, _, directions = torch.linalg.svd(rows - rows.mean(0))
    weight = spae.state_dict()["projection.words.projector.weight"].double()
    assert torch.allclose(weight @ directions[3:].T, torch.zeros(3, 9).double(), atol=1e-5)


def test_words_are_the_nearest_when_projected_and_ids_are_rows_of_the_codebook():
    spae = model().eval()
    tokens = spae.encode(images())
    z = spae.latents(images())
    assert z.shape == (8, 3, 4, 4)
    table = projector(spae)(spae.codebook.vectors).detach()
    for layer in range(4):
        queries = layer_queries(z, tokens.ids, table, spae.pyramid, layer)
        assert torch.equal(nearest_code(queries, table).ids, tokens.layer(layer))
    assert spae.tokens(spae.words(tokens)) == tokens
    assert Autoencoder(spae).config.latent_channels == 3


def test_the_projector_follows_the_latents_and_lookups_follow_the_projector():
    spae = model()
    optimizer = torch.optim.Adam(spae.parameters(), lr=0.05)
    before = spae.table.vectors
    output = step(spae, optimizer)
    queries = [
        layer_queries(output.features, output.tokens.ids, before, spae.pyramid, layer) for layer in range(4)
    ]
    expected = (before[output.tokens.ids] - torch.cat(queries, 1)).square().mean()
    assert torch.allclose(output.losses["codebook"], expected)
    assert not torch.equal(spae.table.vectors, before)
    assert torch.equal(spae.table.index.codes, spae.table.vectors)
    frozen = model(word_projector="frozen")
    output = step(frozen, torch.optim.Adam([p for p in frozen.parameters() if p.requires_grad], lr=0.05))
    assert "codebook" not in output.losses
    assert torch.equal(frozen.table.vectors, before)


def test_the_term_trains_the_projector_alone():
    spae = model()
    spae(images()).losses["codebook"].backward()
    moved = {name for name, value in spae.named_parameters() if value.grad is not None}
    assert moved == {"projection.words.projector.weight", "projection.words.projector.bias"}


def test_a_checkpoint_has_the_projector_and_gives_the_same_words(tmp_path):
    spae = model()
    optimizer = torch.optim.Adam(spae.parameters(), lr=0.02)
    for seed in range(3):
        step(spae, optimizer, seed)
    spae.save_pretrained(tmp_path)
    again = SPAE.from_pretrained(tmp_path, codebook=book())
    tokens = spae.encode(images())
    assert torch.equal(again.encode(images()).ids, tokens.ids)
    assert torch.equal(again.decode(tokens), spae.eval().decode(tokens))
    twin = copy.deepcopy(spae)
    assert torch.equal(twin.encode(images()).ids, tokens.ids)
    assert {name for name in spae.state_dict() if "projection" in name} == {
        "projection.words.projector.weight",
        "projection.words.projector.bias",
    }


def test_guidance_is_among_projected_words():
    spae = model()
    guidance = torch.nn.functional.normalize(torch.randn(8, 5, generator=torch.manual_seed(0)), dim=1)
    features = torch.nn.functional.normalize(torch.randn(60, 5, generator=torch.manual_seed(1)), dim=1)
    objective = Objective(semantic=SemanticLoss(spae.table, features, (1.0,), temperature=0.1))
    total, terms = objective(spae(images()), images(), guidance)
    total.backward()
    assert terms["semantic"] > 0

    assert any(p.grad is not None and p.grad.any() for p in spae.encoder.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"word_dim": 0}, "word_dim: expected"),
        ({"word_dim": None, "word_projector": "frozen"}, "word_dim: expected a number beside word_projector"),
        ({"latent_norm": "unit"}, "latent_norm: expected 'matched' or 'none' beside word_dim, got 'unit'"),
        ({"word_projector": "svd"}, "word_projector: expected"),
    ],
)
def test_configurations_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_a_table_of_too_few_directions_and_other_tokenizers_refuse():
    with pytest.raises(ValueError, match="word_dim: expected at most 12, the table's rank, got 13"):
        model(word_dim=13)
    with pytest.raises(ValueError, match="word_dim: expected None, for a learned codebook"):
        RQConfig(word_dim=4, grids=(16, 16))
    with pytest.raises(ValueError, match="word_dim: expected None, for BERT"):
        LQAEConfig(word_dim=4)
