"""The words of a V2L tokenizer: made of an expansion and a scorer, kept in a folder, trained by a preset."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from spae import V2LConfig, V2LTokenizer
from spae.codebook.expansion import Expansion
from spae.scorers import ConSEScorer
from spae.tokenizers.v2l_words import V2LWords

WIDTH = 10
IDS = [[5, -1, -1], [6, -1, -1], [7, -1, -1], [5, 8, -1], [6, 8, -1], [5, 8, 9], [7, 9, 9]]
EXPANSION = Expansion([f" w{i}" for i in range(7)], torch.tensor(IDS), {"llm": "toy", "counts": [3, 2, 2]})


def vectors(count=7):
    raw = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(raw, dim=1)


class Scorer:
    name, checksum = "toy", "toy-1"

    def text_features(self, texts):
        return torch.stack([vectors()[int(text[2:])] for text in texts])

    def image_features(self, images):
        return vectors(len(images))


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(
        "spae.tokenizers.v2l_words.TextFeatureCache",
        lambda scorer, progress: SimpleNamespace(features=scorer.text_features),
    )


def test_local_words_have_one_id_and_global_ones_describe_an_image():
    words = V2LWords.of(EXPANSION, Scorer(), vectors()[[3, 6, 3]], keep=1)
    assert words.codebook.words == [" w0", " w1", " w2", " w3", " w6"]
    assert words.vocabularies == {"global": [3, 4], "local": [0, 1, 2]}
    assert torch.equal(words.codebook.vectors, vectors()[[0, 1, 2, 3, 6]])
    assert words.codebook.llm_ids.tolist() == [IDS[i] for i in (0, 1, 2, 3, 6)]
    assert words.about["counts"] == [0, 1, 1]
    assert words.about["scorer_checksum"] == "toy-1"
    assert words.about["expansion"]["checksum"] == EXPANSION.checksum
    assert words.image_encoder is None


def test_saved_and_loaded(tmp_path):
    words = V2LWords.of(EXPANSION, Scorer(), vectors()[[3, 6]], keep=2)
    words.save(tmp_path)
    loaded = V2LWords.load(tmp_path)
    assert loaded.codebook.checksum == words.codebook.checksum
    assert loaded.vocabularies == words.vocabularies
    assert loaded.about == words.about
    other = V2LWords.of(EXPANSION, Scorer(), vectors()[[3]], keep=1)
    other.codebook.save(tmp_path)
    with pytest.raises(ValueError, match=r"v2l\.json: expected the codebook of checksum"):
        V2LWords.load(tmp_path)


def test_a_preset_builds_on_them(tmp_path):
    pytest.importorskip("accelerate", reason="spae.training needs accelerate")
    from spae.models import Lite0
    from spae.training import load_preset

    text = vectors(7)
    scorer = ConSEScorer(
        Lite0.load(progress=False),
        lambda texts: torch.stack([text[int(t[2:]) % 7] for t in texts]),
        [f" w{i}" for i in range(1000)],
    )
    V2LWords.of(EXPANSION, scorer, vectors()[[3, 6]], keep=6).save(tmp_path)
    overrides = [f"codebook.folder={json.dumps(str(tmp_path))}", "model.local_dim=2", "model.channels=8"]
    preset = load_preset("v2l32", overrides)
    model = preset.build()
    assert isinstance(model, V2LTokenizer)
    with pytest.raises(ValueError, match="vocabularies: expected at least 21 words in 'global', got"):
        load_preset("v2l32", [*overrides, "model.grids=[1, 2, 4, 8]"]).build()
    assert model.config.num_global == 5
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert model.global_features is not None
    assert torch.allclose(model.global_features(images), scorer.image_features(images), atol=1e-5)
    assert model.eval().encode(images).ids.shape == (2, 69)
    assert preset.objective == {"beta": 0.3, "lambda_": 0.1, "eta": 1.0, "perceptual": "lite0"}
    with pytest.raises(ValueError, match="codebook: expected no fields but folder"):
        load_preset("v2l32", ["codebook.words=all"])


@pytest.mark.parametrize("local", [[1, 2, 3, 4], [1, 2, 4, 5]], ids=["in a row", "with a gap"])
def test_local_words_are_not_copied_for_every_step_of_the_projector(local, monkeypatch):
    """Whose index is made anew each time: words that stand in a row are seen where they lie."""
    from spae.tokenizers import projected

    config = V2LConfig((8, 8), (2,), channels=8, multipliers=(1, 1, 1), num_res_blocks=1, local_dim=2)
    model = V2LTokenizer(config, EXPANSION.codebook(vectors()), {"local": local})
    images, first = torch.rand(2, 3, 8, 8) * 2 - 1, model.codebook.vectors[1].data_ptr()
    seen, project = [], model.local.forward
    monkeypatch.setattr(model.local, "forward", lambda v: seen.append(v) or project(v))
    monkeypatch.setattr(projected, "CodeIndex", lambda rows: rows)
    monkeypatch.setattr(
        projected, "nearest_code", lambda z, rows: SimpleNamespace(ids=z.sum(-1).long() * 0 + 3)
    )
    assert set(model(images).tokens.ids.flatten().tolist()) == {local[3]}
    assert torch.equal(seen[0], vectors()[local])
    assert (seen[0].data_ptr() == first) == (local[-1] == 4)


def test_the_papers_setting():
    pytest.importorskip("accelerate", reason="spae.training needs accelerate")
    from spae.training import TrainConfig, load_preset

    preset = load_preset("v2l128")
    train = TrainConfig.from_dict({**preset.train, "output_dir": ""})
    assert train.learning_rate == 5e-4
    assert train.schedule == "cosine"
    assert train.warmup_steps / train.steps == 5 / 100
    assert train.steps == 100 * (1_281_167 // train.batch_size)
