from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from spae import SPAE, Codebook, SPAEConfig
from spae.tokenizers import LQAE, VQGAN, LQAEConfig, VQGANConfig
from spae.tokenizers.learned import LearnedCodebook
from spae.tokenizers.lqae import bert_codebook

SMALL = {"image_size": (16, 16), "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1}


def images(batch=8, seed=1):
    """Smooth, so that a few steps teach something."""
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear")


def vqgan(**changes):
    torch.manual_seed(0)
    settings = {"grids": (4,), "codebook_size": 40, "codebook_dim": 12, **changes}
    return VQGAN(VQGANConfig(**SMALL, **settings))


def words(size=40, width=16):
    vectors = torch.randn(size, width, generator=torch.Generator().manual_seed(3))
    names = ["[MASK]", *(f"word{i}" for i in range(1, size))]
    return Codebook.from_arrays(names, vectors, name="toy-bert").normalised("unit")


def bert(size=40, width=16):
    transformers = pytest.importorskip("transformers", reason="BERT comes with transformers")
    torch.manual_seed(4)
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def lqae(with_bert=False):
    torch.manual_seed(0)
    config = LQAEConfig(**SMALL, grids=(4,), mask_rate=0.5 if with_bert else None)
    return LQAE(config, words(), bert() if with_bert else None)


ALL = {
    "vqgan-ema": lambda: vqgan(),
    "vqgan-gradient": lambda: vqgan(update="gradient"),
    "rq-vae": lambda: vqgan(grids=(4, 4, 4), rule="rq"),
    "lqae": lambda: lqae(),
    "lqae-bert": lambda: lqae(with_bert=True),
}


@pytest.fixture(params=list(ALL))
def model(request):
    return ALL[request.param]()


def test_words_and_back(model):
    model.eval()
    tokens = model.encode(images())
    assert tokens.ids.shape == (8, 16 * model.pyramid.num_layers)
    names = model.words(tokens)
    assert torch.equal(model.tokens(names).ids, tokens.ids)
    assert torch.equal(model.decode(model.tokens(names)), model.decode(tokens))
    assert model.decode(tokens).shape == (8, 3, 16, 16)
    output = model(images())
    assert torch.equal(output.tokens.ids, tokens.ids)
    assert torch.allclose(output.reconstruction.clamp(-1, 1), model.decode(tokens), atol=1e-5)
    if isinstance(model, VQGAN):
        assert names[0][0][0] == f"<{int(tokens.ids[0, 0])}>"
        with pytest.raises(
            ValueError, match=r"expected words of codebook 'learned-40', got 'dog' at position 0"
        ):
            model.tokens([[["dog"] * 16]])


def test_a_few_steps_reduce_the_loss(model, trained):
    history, _ = trained(model, images, beta=0.25, steps=40)
    assert sum(history[-4:]) < 0.7 * sum(history[:4]), history


def test_save_and_load(model, tmp_path):
    model.train()(images())  # moves a learned codebook
    model.eval().save_pretrained(tmp_path)
    kind = type(model)
    if isinstance(model, VQGAN):
        loaded = VQGAN.from_pretrained(tmp_path)
    elif model.mask_rate is None:
        loaded = LQAE.from_pretrained(tmp_path, codebook=words())
    else:
        return
    assert loaded.config == model.config
    assert isinstance(loaded, kind)
    assert torch.equal(loaded.encode(images()).ids, model.encode(images()).ids)
    assert torch.equal(loaded(images()).reconstruction, model(images()).reconstruction)
    with pytest.raises(ValueError, match=f"expected a SPAE, got .*, which holds a {kind.__name__}"):
        SPAE.from_pretrained(tmp_path)


def test_only_a_learned_codebook_is_in_the_state():
    learned, frozen = vqgan().state_dict(), lqae(with_bert=True).state_dict()
    assert "codebook.vectors" in learned
    assert not any("codebook" in name or "bert" in name for name in frozen)
    assert len(list(lqae(with_bert=True).parameters())) == len(list(lqae().parameters()))
    gradient = dict(vqgan(update="gradient").named_parameters())
    assert "codebook.vectors" in gradient
    assert "codebook.vectors" not in dict(vqgan().named_parameters())


def test_ema_follows_van_den_oord():
    torch.manual_seed(0)
    book = LearnedCodebook(3, 2, decay=0.5, revive_below=0.0)
    queries = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    assert book.learn(queries, torch.tensor([0, 0, 2])) is None
    assert torch.allclose(book.counts, torch.tensor([1.0, 0.0, 0.5]))
    assert torch.allclose(book.vectors[0], torch.tensor([2.0, 0.0]), atol=1e-3)
    assert torch.allclose(book.vectors[2], torch.tensor([0.0, 5.0]), atol=1e-3)
    book.learn(torch.tensor([[6.0, 0.0]]), torch.tensor([0]))
    # Weights 1/4, 1/4 and 1/2.
    assert torch.allclose(book.vectors[0], torch.tensor([1.0 / 4 + 3.0 / 4 + 6.0 / 2, 0.0]), atol=1e-3)
    before = book.vectors.clone()
    book.eval().learn(queries, torch.tensor([0, 0, 2]))
    assert torch.equal(book.vectors, before)


def test_gradient_pulls_only_the_used_codes():
    torch.manual_seed(0)
    book = LearnedCodebook(4, 2, update="gradient", revive_below=0.0)
    queries = torch.randn(5, 2, requires_grad=True)
    loss = book.learn(queries, torch.tensor([1, 1, 3, 3, 3]))
    loss.backward()
    assert queries.grad is None
    assert torch.isclose(loss, (queries - book.vectors[[1, 1, 3, 3, 3]]).square().mean())
    assert book.vectors.grad[[0, 2]].abs().sum() == 0
    assert book.vectors.grad[[1, 3]].abs().sum() > 0


def test_dead_codes_become_queries():
    torch.manual_seed(0)
    book = LearnedCodebook(6, 2, decay=0.5, revive_below=0.4)
    queries = torch.arange(8.0).reshape(4, 2) + 100
    book.learn(queries, torch.tensor([0, 0, 0, 0]))
    rows = {tuple(row) for row in queries.tolist()}
    assert all(tuple(row) in rows for row in book.vectors[1:].tolist())
    assert tuple(book.vectors[0].round().tolist()) not in rows
    book.learn(queries, torch.tensor([1, 1, 1, 1]))
    assert book.counts[2:].tolist() == [0.5] * 4


def test_training_uses_many_codes():
    model = vqgan().train()
    for step in range(20):
        model(images(seed=step))
    used = model.encode(images(16, seed=50)).ids.unique()
    assert len(used) > 20


def test_the_index_follows_the_vectors():
    book = LearnedCodebook(5, 3)
    first = book.index
    assert book.index is first
    with torch.no_grad():
        book.vectors.mul_(2)
    assert torch.equal(book.index.codes, book.vectors)
    assert torch.equal(first.codes * 2, book.vectors), "an index lives on unchanged"


def test_lqae_looks_up_unit_vectors():
    model = lqae().eval()
    output = model(images())
    assert torch.allclose(output.features.norm(dim=1), torch.ones(8, 4, 4), atol=1e-5)
    assert torch.allclose(output.quantized.norm(dim=1), torch.ones(8, 4, 4), atol=1e-5)


def test_bert_reads_its_own_rows_and_masks_in_training():
    model = lqae(with_bert=True).eval()
    tokens = model.encode(images())
    frozen = model._bert.network
    # Rows in the codebook's directions, each of its own length, as a real pair has them.
    table = frozen.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(words().vectors * torch.rand(40, 1) * 3)
    hidden = frozen(input_ids=tokens.ids).last_hidden_state
    expected = model.decoder(hidden.transpose(1, 2).reshape(8, 16, 4, 4)).clamp(-1, 1)
    assert torch.allclose(model.decode(tokens), expected, atol=1e-5)
    model.train()
    first, second = model(images()).reconstruction, model(images()).reconstruction
    assert not torch.equal(first, second)
    loss = model(images()).losses["reconstruction"]
    loss.backward()
    assert all(p.grad is None for p in frozen.parameters())
    assert model.encoder.stem.weight.grad.abs().sum() > 0, "the gradient passes through BERT"


def test_another_bert_is_another_checkpoint():
    assert lqae().codebook_identity()["checksum"] != lqae(with_bert=True).codebook_identity()["checksum"]


def test_bert_codebook_from_a_folder(tmp_path):
    bert().save_pretrained(tmp_path)
    names = ["[PAD]", "[MASK]", *(f"##w{i}" for i in range(2, 40))]
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n")
    book = bert_codebook(tmp_path)
    assert book.words == names[1:], "a new BERT's padding row is zero"
    assert book.llm_ids.tolist() == list(range(1, 40))
    assert book.normalisation == "unit"
    assert torch.allclose(book.vectors.norm(dim=1), torch.ones(39), atol=1e-6)


def _two(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank
    )
    torch.manual_seed(0)
    book = LearnedCodebook(4, 2, decay=0.5, revive_below=0.1)
    book.synchronised = True
    torch.manual_seed(rank)  # the processes draw differently, and must still agree
    queries, ids = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 0, 1, 1, 0, 1])
    book.learn(queries[rank::2], ids[rank::2])
    torch.save(book.state_dict(), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_share_a_learned_codebook(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_two, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = LearnedCodebook(4, 2, decay=0.5, revive_below=0.0)
    alone.learn(torch.arange(12.0).reshape(6, 2), torch.tensor([0, 0, 1, 1, 0, 1]))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert torch.allclose(first["vectors"][:2], alone.vectors[:2])
    assert torch.allclose(first["counts"][:2], alone.counts[:2])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("latent_norm: expected 'none' or 'unit', for a learned codebook follows", lambda: vqgan(latent_norm="matched")),
        ("update: expected 'ema' or 'gradient', got 'kmeans'", lambda: vqgan(update="kmeans")),
        (r"grids: expected one layer, got \(1, 4\)", lambda: LQAEConfig(**SMALL, grids=(1, 4))),
        ("mask_rate: expected a number from 0 to below 1 or null, got 1", lambda: LQAEConfig(**SMALL, grids=(4,), mask_rate=1)),
        ("codebook: expected rows of unit length, got 'centre'", lambda: LQAE(LQAEConfig(**SMALL, grids=(4,)), Codebook.from_arrays(["a", "b"], torch.eye(2)).normalised("centre"))),
        ("latent_norm: expected one of 'matched', 'none', 'unit', got 'batch'", lambda: SPAEConfig(latent_norm="batch")),
    ],
)  # fmt: skip
def test_errors(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_errors_of_bert():
    config = LQAEConfig(**SMALL, grids=(4,), mask_rate=0.1)
    with pytest.raises(ValueError, match=r"bert: expected the codebook's words, .* got a table \[40, 32\]"):
        LQAE(config, words(), bert(width=32))
    with pytest.raises(ValueError, match=r"bert: expected None without config.mask_rate"):
        LQAE(LQAEConfig(**SMALL, grids=(4,)), words(), bert())
