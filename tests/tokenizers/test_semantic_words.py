"""Words that are chosen in the scorer's space and stand in the first layers, on a network of random weights."""

import copy

import numpy as np
import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.models.lite0 import Lite0

CONFIG = SPAEConfig(
    image_size=(64, 64),
    grids=(1, 2, 4, 8),
    channels=8,
    multipliers=(1, 1, 1, 1),
    num_res_blocks=1,
    semantic_features="lite0",
    semantic_layers=3,
    semantic_projection="words",
    semantic_rank=6,
)


@pytest.fixture(autouse=True)
def _random_weights(monkeypatch, random_lite0):
    monkeypatch.setattr(Lite0, "load", lambda: copy.deepcopy(random_lite0))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(batch=5, seed=1):
    coarse = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="nearest")


TEXT = torch.nn.functional.normalize(random(60, 6, seed=5), dim=1)
GUIDANCE = torch.nn.functional.normalize(random(16, 6, seed=6), dim=1)


def model(**changes):
    """Fitted to sixteen images; its table has nothing to do with the scorer's space."""
    torch.manual_seed(1)
    book = Codebook.from_arrays([f" word{i}" for i in range(60)], random(60, 12) * 0.3 + 0.1, name="toy")
    spae = SPAE(SPAEConfig(**{**CONFIG.to_dict(), **changes}), book)
    spae.semantic.fit(zip(images(16).split(7), GUIDANCE.split(7), strict=True), TEXT, ridge=0.1)
    return spae.eval()


def reference(spae, x, pools):
    """The words of each position of the three layers, by their definition, of the whole image's features."""
    semantic = spae.semantic
    pooled = semantic.network.embed(images(16), size=128).double().numpy()
    mean, deviation = pooled.mean(0), np.sqrt(pooled.var(0) + 1e-5)
    standard = (pooled - mean) / deviation
    wanted, words = GUIDANCE.double().numpy(), TEXT.double().numpy()
    weights = np.linalg.solve(
        standard.T @ standard + 0.1 * 16 * np.eye(1280), standard.T @ (wanted - wanted.mean(0))
    )
    seen = (semantic.network.embed(x, size=128).double().numpy() - mean) / deviation @ weights + wanted.mean(
        0
    )
    found = []
    for scores in seen @ words.T:
        ranked, words_at = np.argsort(-scores).tolist(), {}
        for layer, pool in enumerate(pools):
            places = [tuple(place) for place in spae.pyramid.positions(layer).tolist()]
            taken = [words_at[place] for place in places if place in words_at]
            for place in places:
                if place not in words_at:
                    words_at[place] = min(ranked[:pool], key=taken.count)
                    taken.append(words_at[place])
            found.append([words_at[place] for place in places])
    layers = range(len(pools))
    return torch.cat([torch.tensor(found[layer :: len(pools)]) for layer in layers], 1)


@pytest.mark.parametrize("pools", [None, (1, 4, 8), (2, 1, 3)])
def test_layers_say_the_words_that_the_scorer_s_space_ranks_first(pools):
    spae, x = model(semantic_pools=pools), images(5, seed=9)
    ids = spae.encode(x).ids
    assert torch.equal(ids[:, :21], reference(spae, x, pools or (1, 4, 16)))
    distinct = [len(set(layer)) for layer in spae.encode(x).layer(2).tolist()]
    assert distinct == [min((pools or (1, 4, 16))[2], 16)] * 5
    assert ids[:, 21:].unique().numel() > 10, "the encoder has a say in the other positions"


def test_a_position_of_several_layers_keeps_its_word():
    spae, x = model(grids=(1, 2, 8, 8)), images(5, seed=9)
    ids = spae.encode(x).ids
    assert torch.equal(ids[:, :69], reference(spae, x, (1, 4, 64)))
    first, place = spae.pyramid.positions(0)[0], spae.pyramid.positions(2)
    (again,) = (place == first).all(1).nonzero()[:, 0].tolist()
    assert torch.equal(ids[:, 5 + again], ids[:, 0])


def test_latents_at_those_positions_are_the_words_vectors_and_others_the_encoder_s():
    spae, x = model(), images()
    z, ids = spae.latents(x), spae.encode(x).ids
    places = CONFIG.pyramid.positions(2)
    vectors = spae.codebook.vectors[ids[:, 5:21]]
    assert torch.equal(z[:, :, places[:, 0], places[:, 1]].mT, vectors)
    plain = spae.latent_norm(spae.encoder(x), inference=True)
    kept = torch.ones(8, 8, dtype=torch.bool)
    for layer in range(3):
        kept[spae.pyramid.positions(layer).unbind(1)] = False
    assert torch.equal(z[:, :, kept], plain[:, :, kept])


def test_a_cell_s_own_features_tell_it_from_the_others():
    """With all of the share local, equal cells of an image take equal words, and the image's word comes first."""
    x = images(3)
    whole = model(semantic_pools=(1, 1, 1)).encode(x)
    assert all(len(set(row)) == 1 for row in whole.upto(3).ids.tolist())
    local = model(semantic_pools=(1, 1, 1), semantic_local=1.0)
    assert torch.equal(local.encode(x).layer(0), whole.layer(0))
    assert min(len(set(row)) for row in local.encode(x).layer(2).tolist()) > 1
    seen = local.semantic.network.head(local.semantic.maps(x)[32])
    cell = local.semantic.scores(seen[:, :, 3, 2]).argmax(1)
    assert torch.equal(local.encode(x).layer(2)[:, 14], cell)


def test_training_asks_once_and_gives_what_inference_gives(monkeypatch):
    spae, x = model().train(), images(2)
    asked = []
    choose = type(spae.semantic).choose
    monkeypatch.setattr(
        type(spae.semantic), "choose", lambda self, seen: asked.append(len(seen)) or choose(self, seen)
    )
    first = spae(x)
    assert torch.equal(spae(x).tokens.ids[:, :21], first.tokens.ids[:, :21])
    assert asked == [1, 1]
    assert torch.equal(spae.encode(x).ids[:, :21], first.tokens.ids[:, :21])
    spae.semantic._seen.clear()
    more = images(16, seed=7)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = spae(more).tokens.ids[:, :21]
    assert torch.equal(mixed, spae.encode(more).ids[:, :21]), (
        "words are those of inference in mixed precision"
    )
    sum(first.losses.values()).backward()
    assert all(p.grad is not None for p in spae.parameters())
    assert not list(spae.semantic.parameters())


def test_saved_and_loaded(tmp_path):
    spae, x = model(semantic_pools=(1, 4, 8)), images()
    spae.save_pretrained(tmp_path)
    loaded = SPAE.from_pretrained(tmp_path, codebook=spae.codebook)
    assert torch.equal(loaded.encode(x).ids, spae.encode(x).ids)
    twin = copy.deepcopy(spae)
    assert torch.equal(twin.encode(x).ids, spae.encode(x).ids)
    assert twin.semantic._table[0] is twin.codebook


@torch.no_grad()
def test_compile_fullgraph():
    torch._dynamo.reset()
    spae, x = model(), images(2)
    compiled = torch.compile(spae, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x).tokens.ids, spae(x).tokens.ids)


@torch.no_grad()
def test_exported_as_a_program():
    from spae.export.programs import encoding

    spae, x = model(semantic_pools=(1, 4, 8), semantic_local=0.5), images(3)
    ids = encoding(spae, None).module()(x)[0]
    assert torch.equal(ids, spae.encode(x).ids)


@torch.no_grad()
def test_words_are_the_same_where_a_frozen_projector_looks_them_up():
    options = {"semantic_pools": (1, 4, 8), "semantic_local": 0.5}
    plain, few, x = model(**options), model(word_dim=4, word_projector="frozen", **options), images()
    assert few.latents(x).shape[1] == 4
    said, wanted = few.encode(x), plain.encode(x)
    assert torch.equal(said.upto(3).ids, wanted.upto(3).ids)
    # Below they are the encoder's, but for the positions that the first layers took.
    places = plain.semantic.places
    assert torch.equal(said.layer(3)[:, places], wanted.layer(3)[:, places])
    assert not torch.equal(said.layer(3), wanted.layer(3))


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("semantic_rank: expected a number beside semantic_projection 'words', got None", {"semantic_rank": None}),
        ("rule: expected 'saq' beside semantic_projection 'words', got 'rq'", {"rule": "rq"}),
        ("vocabularies: expected null beside", {"vocabularies": ("all",) * 4}),
        ("word_projector: expected 'frozen' or no word_dim beside semantic_projection 'words', got 'learned'", {"word_dim": 4}),
        (r"semantic_pools: expected null or one for each of 3 layers beside .*, got \(1, 2\)", {"semantic_pools": (1, 2)}),
        ("semantic_local: expected .*, got 1.5", {"semantic_local": 1.5}),
    ],
)  # fmt: skip
def test_errors_name_the_field(message, changes):
    with pytest.raises(ValueError, match=message):
        SPAEConfig(**{**CONFIG.to_dict(), **changes})
