"""V2L: global words by an image encoder, local words by a projected codebook, and a decoder that sees both."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import spae
import spae.metrics
from spae import Codebook, PyramidTokens, V2LConfig, V2LTokenizer
from spae.models import BackboneConfig
from spae.models.attention import Attention, AttentiveDecoder
from spae.scorers import ConSEScorer, RidgeMap
from spae.tokenizers.projected import ProjectedWords

WIDTH, WORDS = 12, 60
SMALL = {"image_size": (32, 32), "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1}
CONFIG = {**SMALL, "grids": (1, 2, 8), "local_dim": 8, "image_encoder": "custom"}
ROWS = {"global": list(range(20, WORDS)), "local": [*range(30), 31]}


class Encoder:
    """A fixed random map of an image's mean colours."""

    name, checksum = "colours", "0"

    def __init__(self, seed=0):
        self.map = torch.randn(48, WIDTH, generator=torch.Generator().manual_seed(seed))
        self.checksum = str(seed)

    def image_features(self, images):
        pooled = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return nn.functional.normalize(pooled @ self.map.to(images), dim=1)

    def text_features(self, texts):
        raise NotImplementedError


def images(batch=4, seed=1, size=32):
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def codebook():
    vectors = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(2))
    ids = [[100 + row, -1] if row < 40 else [100 + row, 7] for row in range(WORDS)]
    return Codebook.from_arrays(
        [f" w{i}" for i in range(WORDS)], vectors, torch.tensor(ids), name="t"
    ).normalised("unit")


def llm_table():
    vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(3))
    return Codebook.from_arrays(
        [f"<{i}>" for i in range(50)], vectors, torch.arange(50).flip(0) + 100, name="llm"
    )


def model(vocabularies=None, encoder=None, **changes) -> Any:
    torch.manual_seed(0)
    config = V2LConfig(**{**CONFIG, **changes})
    names = set(config.vocabularies or ())
    own = {name: ROWS[name] for name in names} if vocabularies is None else vocabularies
    table = llm_table() if config.local_vectors == "llm" else None
    encoder = (encoder or Encoder()) if config.num_global else None
    return V2LTokenizer(config, codebook(), own, image_encoder=encoder, llm_table=table)


VARIANTS = {
    "hybrid": {},
    "matched": {"latent_norm": "matched"},
    "not attending": {"global_attention": False},
    "local only": {"grids": (8,)},
    "text": {"local_vectors": "text"},
    "text, matched": {"local_vectors": "text", "latent_norm": "matched"},
    "llm": {"local_vectors": "llm"},
}


@pytest.fixture(params=list(VARIANTS))
def variant(request):
    return model(**VARIANTS[request.param])


def test_the_paper_is_the_default():
    config = V2LConfig()
    assert config.image_size == (128, 128)
    assert config.pyramid.shape == (16, 16)
    assert (config.num_global, config.pyramid.num_tokens) == (21, 277)
    assert config.backbone(1).widths == (128, 256, 256, 512)
    assert V2LConfig(grids=(1, 2, 16)).num_global == 5
    assert V2LConfig(grids=(16,)).num_global == 0


def test_words_are_the_nearest_by_definition():
    own = model().eval()
    x = images()
    tokens = own.encode(x)
    assert tokens.ids.shape == (4, 5 + 64)
    table = own.codebook.vectors.double()
    feature = Encoder().image_features(x).double()
    allowed = torch.tensor(ROWS["global"])
    expected = allowed[torch.cdist(feature, table[allowed]).topk(5, largest=False).indices]
    assert tokens.upto(2).ids.tolist() == expected.tolist()
    assert own.encode(x, 1).ids.tolist() == expected[:, :1].tolist()
    with torch.no_grad():
        z = own.encoder(x).flatten(2).transpose(1, 2).double()
        projected = own.local(own.codebook.vectors[ROWS["local"]]).double()
    local = torch.tensor(ROWS["local"])[torch.cdist(z, projected).argmin(-1)]
    assert tokens.layer(2).tolist() == local.tolist()


def test_the_face(variant):
    variant.eval()
    x = images()
    tokens = variant.encode(x)
    assert torch.equal(variant.quantize(variant.latents(x)), tokens.ids)
    assert torch.equal(variant.tokens(variant.words(tokens)).ids, tokens.ids)
    output = variant(x)
    assert torch.equal(output.tokens.ids, tokens.ids)
    assert torch.allclose(output.reconstruction.clamp(-1, 1), variant.decode(tokens), atol=1e-5)
    assert output.quantized.shape == output.features.shape == (4, variant.local.dim, 8, 8)
    masks = variant.word_masks
    assert len(masks) == variant.pyramid.num_layers
    for layer in range(variant.pyramid.num_layers):
        assert masks[layer][tokens.layer(layer)].all()
        assert variant.decode(tokens.upto(layer + 1)).shape == x.shape
    assert copy.deepcopy(variant).encode(x) == tokens


def test_saved_and_loaded(variant, tmp_path):
    variant.train()(images())
    variant.eval().save_pretrained(tmp_path)
    own = model(
        **{k: getattr(variant.config, k) for k in (*CONFIG, "local_vectors", "latent_norm")},
        global_attention=variant.config.global_attention,
        vocabularies=None,
    )
    own.load_state_dict(variant.state_dict())
    x = images(seed=5)
    tokens = variant.encode(x)
    assert own.eval().encode(x) == tokens
    assert torch.equal(own.decode(tokens), variant.decode(tokens))
    state = variant.state_dict()
    assert not any("codebook" in name or "table" in name for name in state)
    if variant.config.num_global == 0 and variant.config.local_vectors != "llm":
        loaded = spae.load(tmp_path)
        assert isinstance(loaded, V2LTokenizer)
        assert loaded.encode(x) == tokens
    else:
        with pytest.raises(ValueError, match=r"image_encoder: expected the one|codebook: expected"):
            spae.load(tmp_path)
    if variant.config.num_global:
        with pytest.raises(ValueError, match="codebook: expected the checkpoint's"):
            model(encoder=Encoder(seed=9)).load_state_dict(state)


@pytest.mark.parametrize("name", ["hybrid", "matched", "text", "llm", "local only"])
def test_a_few_steps_reduce_the_loss(name, trained):
    own = model(**VARIANTS[name])
    frozen = own.codebook.vectors.clone()
    history, output = trained(own, images, beta=0.3, steps=30)
    assert sum(history[-4:]) < 0.8 * sum(history[:4]), history
    assert own.codebook.vectors.equal(frozen)
    assert ("codebook" in output.losses) == (name not in ("text", "llm"))
    # Lookups follow the projector: what is found is the nearest of the words as they are now.
    own.eval()
    tokens = own.encode(images())
    fresh = model(**VARIANTS[name]).eval()
    fresh.load_state_dict(own.state_dict())
    assert fresh.encode(images()) == tokens


def test_both_terms_of_the_quantization_loss():
    own = model()
    output = own(images())
    z, chosen = output.features, own._words_at(output.tokens.layer(2).reshape(-1, 8, 8))
    square = (z - chosen).square().mean()
    assert torch.allclose(output.losses["codebook"], square)
    assert torch.allclose(output.losses["commitment"], square)
    weight = own.local.projector.weight
    grads = torch.autograd.grad(
        output.losses["codebook"], [weight, own.encoder.head[2].weight], allow_unused=True, retain_graph=True
    )
    assert grads[0].abs().max() > 0
    assert grads[1] is None
    grads = torch.autograd.grad(
        output.losses["commitment"], [weight, own.encoder.head[2].weight], allow_unused=True
    )
    assert grads[0] is None
    assert grads[1].abs().max() > 0


def test_the_index_is_made_again_only_where_the_projector_moved(monkeypatch):
    from spae.tokenizers import projected

    made = []
    monkeypatch.setattr(projected, "CodeIndex", lambda v: made.append(1) or spae_index(v))
    spae_index = __import__("spae_ops").CodeIndex
    own = model()
    for _ in range(3):
        own(images())
    assert len(made) == 1
    own.local.projector.weight.data[0, 0] += 1.0  # as a fused optimizer writes, unseen by torch's counters
    own(images())
    own.eval().encode(images())
    assert len(made) == 2


def test_the_projector_begins_with_words_of_unit_variance():
    own = model()
    projected = own.local(own.codebook.vectors[ROWS["local"]]).detach()
    assert projected.mean(0).abs().max() < 1e-5
    covariance = projected.T @ projected / len(projected)
    assert torch.allclose(covariance, torch.eye(8), atol=1e-4)
    with pytest.raises(ValueError, match="local_dim: expected at most 12, the table's rank, got 13"):
        model(local_dim=13)
    words = ProjectedWords(4, None)
    rows = torch.randn(3, 4)
    assert words(rows) is rows


def test_words_of_the_presets_width_are_near_to_latents():
    """Whatever the table: of words that are further from a latent than their mean, training uses a handful."""
    widths = {V2LConfig().local_dim}
    for name in ("v2l32", "v2l128"):
        preset = json.loads((Path(spae.__file__).parent / "presets" / f"{name}.json").read_text())
        widths.add(V2LConfig.from_dict(preset["model"]).local_dim)
    vectors = torch.randn(1024, 64, generator=torch.Generator().manual_seed(4))
    z = torch.randn(4, 64, 8, 8, generator=torch.Generator().manual_seed(5))
    rows = torch.arange(1024)

    def distance(width):
        words = ProjectedWords(64, width)
        words.start(vectors)
        found = words.lookup(z[:, :width], rows, lambda rows: vectors[rows])
        return nn.functional.mse_loss(words(vectors[found]).movedim(-1, 1), z[:, :width]).item()

    assert distance(64) > 0.9  # of the latents' variance, 1
    assert max(map(distance, widths)) < 0.5


def test_the_decoder_sees_the_global_words():
    own = model().eval()
    tokens = own.encode(images())
    other = tokens.ids.clone()
    other[:, :5] = other[:, :5].flip(0)
    assert not torch.allclose(own.decode(tokens), own.decode(PyramidTokens(other, own.pyramid)), atol=1e-4)
    blind = model(global_attention=False).eval()
    assert torch.equal(blind.decode(tokens), blind.decode(PyramidTokens(other, own.pyramid)))
    # A set, not a sequence: the order of global words says nothing.
    turned = torch.cat([tokens.ids[:, :5].flip(1), tokens.ids[:, 5:]], 1)
    assert torch.allclose(own.decode(tokens), own.decode(PyramidTokens(turned, own.pyramid)), atol=1e-5)


def test_attention_by_its_definition():
    torch.manual_seed(0)
    config = BackboneConfig(latent_dim=3, channels=8, multipliers=(1,), num_res_blocks=1)
    layer = Attention(8, config, memory_dim=5)
    x, memory = torch.randn(2, 8, 3, 3), torch.randn(2, 4, 5)
    q = layer.query(layer.norm(x)).flatten(2).transpose(1, 2)
    k, v = layer.key_value(memory).chunk(2, -1)
    read = torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v
    expected = x + layer.out(read.transpose(1, 2).reshape(x.shape))
    assert torch.allclose(layer(x, memory), expected, atol=1e-5)
    decoder = AttentiveDecoder(config, 5)
    with pytest.raises(ValueError, match=r"memory: expected \[B, n, 5\], got none"):
        decoder(torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"memory: expected \[2, n, 5\], got \[2, 4, 6\]"):
        decoder(torch.randn(2, 3, 4, 4), torch.randn(2, 4, 6))
    with pytest.raises(ValueError, match="memory: expected none"):
        AttentiveDecoder(config)(torch.randn(2, 3, 4, 4), memory)


@pytest.mark.parametrize("ridge", [False, True], ids=["conse", "ridge"])
def test_lite0_is_saved_with_what_takes_it_to_the_words(ridge, tmp_path):
    from spae.models import Lite0

    network = Lite0.load(progress=False)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1280, WIDTH, generator=generator)
    given = RidgeMap(vectors, torch.zeros(1280), torch.ones(1280), torch.zeros(WIDTH)) if ridge else None
    scorer = ConSEScorer(network, lambda texts: vectors[: len(texts)], ["name"] * 1000, ridge=given)
    kind = "ridge" if ridge else "conse"
    own = model(image_encoder=kind, encoder=scorer).eval()
    assert torch.allclose(own.global_features(images()), scorer.image_features(images()), atol=1e-5)
    own.save_pretrained(tmp_path)
    loaded: Any = spae.load(tmp_path)
    assert loaded.encode(images()) == own.encode(images())
    assert loaded.get_image_tokens(images()).shape[0] == 4
    assert not any(
        "frozen" in name or "stem.conv" in name for name in loaded.state_dict() if "global" in name
    )
    with pytest.raises(
        ValueError, match=f"image_encoder: expected a ConSEScorer .* for '{kind}', got 'colours'"
    ):
        model(image_encoder=kind)
    half: Any = spae.load(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.local.projector.weight.dtype == torch.float32
    assert half.encode(images()).upto(2) == own.encode(images()).upto(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": (1, 2, 4)}, r"grids: expected the whole grid \(8, 8\) last, got \(4, 4\)"),
        ({"layer_dropout": 0.1}, "layer_dropout: expected 0.0 for V2L, got 0.1"),
        ({"rule": "rq"}, "rule: expected 'saq' for V2L"),
        ({"image_encoder": "clip"}, "image_encoder: expected 'ridge', 'conse', 'custom' or"),
        (
            {"vocabularies": ("all", "all", "local")},
            r"vocabularies: expected \('global', 'global', 'local'\)",
        ),
        ({"latent_norm": "unit"}, "latent_norm: expected 'matched' or 'none'"),
    ],
)
def test_what_is_no_v2l_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        V2LConfig(**{**CONFIG, **changes})


def test_local_words_of_several_ids_have_no_vector_in_the_language_models_table():
    with pytest.raises(ValueError, match="local: expected words of llm, of one id each, got ' w45'"):
        model({**ROWS, "local": [1, 45]}, local_vectors="llm")


class Counted(Encoder):
    """Counts the images that it looks at."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def image_features(self, images):
        self.batches.append(len(images))
        return super().image_features(images)


def test_training_asks_about_each_image_once():
    encoder = Counted()
    tokenizer = model(encoder=encoder).train()
    first, both = images(3, seed=1), torch.cat([images(3, seed=1), images(2, seed=2)])
    ids = [tokenizer(batch).tokens.ids for batch in (first, both, both)]
    assert encoder.batches == [1] * 5
    assert torch.equal(ids[1], ids[2])
    expected = tokenizer.eval()(both).tokens
    assert torch.equal(ids[2][:, :5], expected.ids[:, :5])
    assert encoder.batches[5:] == [5]  # evaluation remembers nothing


def test_images_are_asked_about_anew_after_other_weights():
    encoder = Counted()
    tokenizer = model(encoder=encoder).train()
    tokenizer(images(2))
    tokenizer.load_state_dict(tokenizer.state_dict())
    copy.deepcopy(tokenizer)(images(2))
    assert encoder.batches == [1] * 4


def test_what_does_not_fit_is_asked_about_again():
    from spae.models.seen_images import SeenImages

    asked, seen = [], SeenImages(most=2)

    def ask(batch):
        asked.append(len(batch))
        return torch.stack([batch[:, 0, 0, 0].long(), batch[:, 1, 0, 0].long()], 1)

    batch = torch.arange(6.0)[:, None, None, None].expand(6, 3, 2, 2).clone()
    for expected in (6, 10):
        assert seen.ids(batch, ask).tolist() == [[n, n] for n in range(6)]
        assert len(asked) == expected
    assert len(seen) == 2


def test_the_bundled_model_is_whole_and_keeps_its_promises():
    import spae.data

    folder = Path(spae.__file__).parent / "bundled/v2l"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 20e6
    tokenizer = V2LTokenizer.from_pretrained("v2l").eval()
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [layer["vocabulary"] for layer in report["layers"]] == tokenizer.masks.sum(1).tolist()
    asked = spae.data.load("emoji", "new_concept", size=32)
    pictures = torch.stack([asked[i * len(asked) // 16][0] for i in range(16)])
    tokens = tokenizer.encode(pictures)
    quality = spae.metrics.psnr(pictures, tokenizer.decode(tokens)).mean().item()
    layer = report["layers"][-1]
    assert abs(quality - layer["psnr"]) < 4 * layer["psnr_standard_error"] * (150 / 16) ** 0.5
    phrases = [word for image in tokenizer.words(tokens.upto(2)) for layer in image for word in layer]
    assert max(len(phrase.split()) for phrase in phrases) > 1
