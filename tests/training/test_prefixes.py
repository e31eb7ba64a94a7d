"""Frozen: an encoder learns to write images as embeddings of a model that does not change."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models on this machine need transformers")
pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae.incontext.tasks import classification_task, classify
from spae.testing.tiny_llm import tiny_llm
from spae.training.prefixes import PrefixConfig, PrefixEncoder, caption_loss, images_as_ids, train_prefixes

CONFIG = PrefixConfig(
    width=32, channels=8, multipliers=(1, 1), steps=60, batch_size=8, learning_rate=1e-2, warmup_steps=2
)
CAPTIONS = ["red fox", "blue bird"] * 8


def pictures():
    colours = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]]).repeat(8, 1)
    noise = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return [(image,) for image in colours[:, :, None, None] + 0.1 * noise]


def test_ids_of_images_are_read_as_their_embeddings():
    llm = tiny_llm()
    table = llm._network._model.get_input_embeddings().weight
    words = torch.tensor([[45, 67], [80, 81]])
    prompts, answers = [[50, *pair, 51] for pair in words.tolist()], [[60, 61]] * 2
    expected = torch.cat(llm.logprobs(prompts, answers))
    with images_as_ids(llm, table[words]) as ids:
        assert ids == [(340, 341), (342, 343)]
        assert torch.equal(torch.cat(llm.logprobs([[50, *pair, 51] for pair in ids], answers)), expected)
        assert (llm.generate([[50, *ids[0]]], 8) < 340).all()
    with pytest.raises(ValueError, match="expected ids 0 to 339, got 340"):
        llm.logprobs([[50, 340]], [[60]])
    assert torch.equal(torch.cat(llm.logprobs(prompts, answers)), expected)


def test_the_loss_is_that_of_the_ids():
    llm = tiny_llm()
    texts = [[60, 61, 62], [70]]
    prefixes = torch.randn(2, 2, 32) * 0.3
    with llm.trainable() as network:
        loss = caption_loss(network, prefixes, texts)
    with images_as_ids(llm, prefixes) as ids:
        scores = torch.cat(llm.logprobs([list(pair) for pair in ids], texts))
    assert loss.item() == pytest.approx(-scores.mean().item(), rel=1e-5)


def test_it_learns_what_images_show(tmp_path):
    llm, images = tiny_llm(), pictures()
    before = {name: value.clone() for name, value in llm._network._model.state_dict().items()}
    encoder, losses = train_prefixes(llm, images, CAPTIONS, CONFIG)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(torch.equal(before[name], value) for name, value in llm._network._model.state_dict().items())
    encoder.save(tmp_path)
    loaded = PrefixEncoder.load(tmp_path)
    with torch.no_grad():
        prefixes = encoder(torch.stack([image for (image,) in images]))
        assert torch.equal(loaded(torch.stack([image for (image,) in images])), prefixes)
    texts = [llm.encode(f" {caption}") for caption in CAPTIONS[:2]]
    with images_as_ids(llm, prefixes) as ids:
        for number in range(4):
            scores = [one.sum() for one in llm.logprobs([list(ids[number])] * 2, texts)]
            assert int(scores[1] > scores[0]) == number % 2
        task = classification_task([(ids[0], 0), (ids[1], 1)], CAPTIONS[:2])
        assert len(classify(llm, task, CAPTIONS[:2], ids[2]).scores) == 2


def test_another_width_is_refused():
    config = PrefixConfig(width=16, channels=8, multipliers=(1, 1))
    with pytest.raises(ValueError, match="width: expected 32, tiny's, got 16"):
        train_prefixes(tiny_llm(), pictures(), CAPTIONS, config)
