"""An engineer puts a tokenizer into a model of their own: frozen, trained around, saved, compiled."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spae import SPAE, Codebook, PyramidTokens, load


class Captioner(nn.Module):
    """Images to what follows them: a frozen tokenizer, an embedding of its ids and a head."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False)
        self.embedding = nn.Embedding(len(tokenizer.codebook), 16)
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        return self.head(self.embedding(self.tokenizer.encode(images).ids).mean(1))


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def trained(parent, images, steps=5):
    """The parent after some steps in training mode, as trainers put it."""
    optimizer = torch.optim.AdamW((p for p in parent.parameters() if p.requires_grad), lr=1e-2)
    parent.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(parent(images), torch.arange(len(images)) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_training_the_parent_changes_no_token(model, images):
    before, state = model.encode(images), copy.deepcopy(model.state_dict())
    pictures = model.decode(before)
    parent = Captioner(model)
    first = trained(parent, images, 1)
    assert trained(parent, images) < first  # what is around it does learn
    assert model.training
    assert model.encode(images) == before
    assert model.decode(before).equal(pictures)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert parent.eval().tokenizer.encode(images) == before


def test_the_parent_s_checkpoints_hold_no_table_and_come_back(model, codebook, images, here):
    parent = Captioner(model)
    trained(parent, images)
    expected = parent.eval()(images)
    state = parent.state_dict()
    assert not any(value.shape == codebook.vectors.shape for value in state.values())
    torch.save(state, "parent.pt")
    save_file(state, "parent.safetensors")
    for saved in (torch.load("parent.pt", weights_only=True), load_file("parent.safetensors")):
        again = Captioner(SPAE(model.config, codebook))
        again.load_state_dict(saved)
        assert again.eval()(images).equal(expected)
    other = Codebook.from_arrays(codebook.words, codebook.vectors + 1, name="others")
    with pytest.raises(ValueError, match="codebook: expected the checkpoint's"):
        Captioner(SPAE(model.config, other)).load_state_dict(state)


def test_the_tokenizer_saved_by_itself_brings_its_words(model, images, here):
    model.save_pretrained("tokenizer")
    again = load("tokenizer")
    tokens = model.encode(images)
    assert again.encode(images) == tokens
    assert again.words(tokens) == model.words(tokens)
    assert again.tokens(again.words(tokens)) == tokens
    assert again.decode(tokens.upto(2)).equal(model.decode(tokens.upto(2)))


def test_compiled_it_gives_the_same(model, images):
    torch._dynamo.reset()
    tokens = model.encode(images)
    Captioner(model).train()
    encode = torch.compile(model.encode, fullgraph=True, dynamic=True, backend="eager")
    for count in (6, 3):
        assert encode(images[:count]) == tokens[:count]
    decode = torch.compile(model.decode, fullgraph=True, backend="eager")
    assert torch.allclose(decode(tokens), model.decode(tokens), atol=1e-5)


def test_gradients_reach_the_encoder_where_they_are_wanted(model, images):
    """Fine-tuning through the words: straight through the frozen table, and nothing into it."""
    output = model.train()(images)
    assert isinstance(output.tokens, PyramidTokens)
    output.losses["reconstruction"].backward()
    norms = [p.grad.norm().item() for p in model.encoder.parameters() if p.grad is not None]
    assert max(norms) > 0
    assert model.codebook.vectors.grad is None
