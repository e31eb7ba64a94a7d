"""LoRA: what it learns, that it leaves the model as it was, and that peft's files bring it back."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers", reason="language models on this machine need transformers")
pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae.testing.tiny_llm import tiny_llm, tiny_model, tiny_tokenizer
from spae.training.tuning import Lesson, LoRATuning, answer_loss, padded, tune

LESSONS = [Lesson((40 + i, 50), (60 + i, 70 + i, 80)) for i in range(8)]
CONFIG = LoRATuning(steps=40, batch_size=4, learning_rate=5e-2, warmup_steps=2)


def logits(llm):
    return torch.cat(llm.logprobs([list(x.context) for x in LESSONS], [list(x.answer) for x in LESSONS]))


def test_answers_alone_are_learnt_from():
    ids, wanted = padded([Lesson((1, 2), (3, 4)), Lesson((5,), (6,))])
    assert ids.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert wanted.tolist() == [[-100, 3, 4], [6, -100, -100]]


def test_the_loss_is_that_of_one_lesson_at_a_time():
    llm = tiny_llm()
    lessons = [Lesson((40, 41, 42), (43, 44)), Lesson((50,), (51, 52, 53, 54))]
    with llm.trainable() as network:
        together = answer_loss(network, lessons, llm.device)
    scores = torch.cat(llm.logprobs([list(x.context) for x in lessons], [list(x.answer) for x in lessons]))
    assert together.item() == pytest.approx(-scores.mean().item(), rel=1e-5)


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="LoRA needs peft (the extra lora)")


def test_it_learns_and_leaves_the_model_as_it_was(peft, tmp_path):
    llm = tiny_llm()
    before, weights = logits(llm), {k: v.clone() for k, v in llm._network._model.state_dict().items()}
    torch.manual_seed(3)
    losses = tune(llm, LESSONS, tmp_path / "adapter", CONFIG)
    assert torch.equal(torch.rand(2), (torch.manual_seed(3), torch.rand(2))[1])
    assert len(losses) == CONFIG.steps
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert torch.equal(logits(llm), before)
    assert {k: v.tolist() for k, v in llm._network._model.state_dict().items()} == {
        k: v.tolist() for k, v in weights.items()
    }
    assert not any(weight.requires_grad for weight in llm._network._model.parameters())
    assert tune(llm, LESSONS, tmp_path / "again", CONFIG) == losses


def test_load_reads_what_peft_saved(peft, tmp_path):
    from spae import llm as llms

    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    base = llms.load(tmp_path / "base")
    losses = tune(base, LESSONS, tmp_path / "adapter", CONFIG, base=str(tmp_path / "base"))
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    about = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (about["r"], about["lora_alpha"], sorted(about["target_modules"])) == (4, 32, ["k_proj", "q_proj"])
    assert about["base_model_name_or_path"] == str(tmp_path / "base")
    tuned = llms.load(tmp_path / "adapter")
    assert tuned.identity.startswith(f"{base.identity.removesuffix('-float32')}-lora-")
    assert -logits(tuned).mean() < 0.9 * losses[0]
    plain = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path / "adapter"))
    with torch.no_grad():
        expected = -answer_loss(plain, LESSONS, torch.device("cpu"))
    assert logits(tuned).mean().item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_cannot_be_tuned(peft, tmp_path):
    llm = tiny_llm()
    with pytest.raises(ValueError, match=r"lessons\[1\]: expected a context and an answer, got"):
        tune(llm, [LESSONS[0], Lesson((), (5,))], tmp_path)
    with pytest.raises(ValueError, match="ids 0 to 339, got 340 at position 1"):
        tune(llm, [Lesson((5,), (340,))], tmp_path)
    with pytest.raises(ValueError, match=r"lora\.rank: expected a whole number from 1, got 0"):
        LoRATuning(rank=0)


def test_no_peft_is_said(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="LoRA needs peft: pip install peft"):
        tune(tiny_llm(), LESSONS, tmp_path)
