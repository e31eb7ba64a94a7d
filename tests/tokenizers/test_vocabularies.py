"""Which words a layer may take: in lookups, in checkpoints and for a language model."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from spae import SPAE, Codebook, SPAEConfig
from spae.tokenizers.lqae import LQAEConfig
from spae.tokenizers.quantizers import PyramidQuantizer
from spae.tokenizers.vqgan import VQGANConfig
from spae_ops import Pyramid

NAMED = SPAEConfig(
    image_size=(16, 16),
    grids=(1, 2, 4, 4),
    channels=8,
    multipliers=(1, 2, 2),
    num_res_blocks=1,
    vocabularies=("names", "all", "others", "others"),
)
ROWS = {"names": [3, 0, 7], "others": torch.arange(10, 60)}


def book():
    vectors = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    return Codebook.from_arrays([f" word{i}" for i in range(60)], vectors, name="toy")


def named():
    torch.manual_seed(0)
    return SPAE(NAMED, book(), ROWS).eval()


def images(count=4):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_each_layer_takes_words_of_its_vocabulary():
    spae = named()
    assert spae.vocabulary_sizes == [3, 60, 50, 50]
    for tokens in (spae.encode(images()), spae(images()).tokens, spae.encode(images(), num_layers=3)):
        for layer, ids in enumerate(tokens.layers()):
            assert spae.word_masks[layer][ids].all()
    torch.manual_seed(0)
    free = SPAE(replace(NAMED, vocabularies=None), book()).eval()
    assert free.word_masks is None
    assert free.vocabulary_sizes == [60] * 4
    taken = free.encode(images())
    assert not all(spae.word_masks[layer][ids].all() for layer, ids in enumerate(taken.layers()))


def test_checkpoints_bring_the_vocabularies(tmp_path):
    spae = named()
    spae.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["quantizer.masks"].shape == (4, 60)
    again = SPAE.from_pretrained(tmp_path)
    assert again.config == NAMED
    assert torch.equal(again.word_masks, spae.word_masks)
    assert torch.equal(again.encode(images()).ids, spae.encode(images()).ids)
    before = SPAE(replace(NAMED, vocabularies=None), book())
    assert "quantizer.masks" not in before.state_dict()


def test_without_its_vocabularies_a_model_takes_no_word():
    with pytest.raises(ValueError, match="mask: expected at least one True among 60 codes in each layer"):
        SPAE(NAMED, book()).encode(images())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"names": [1]}, r"vocabularies: expected \['names', 'others'\], got \['names'\]"),
        ({**ROWS, "more": [1]}, r"got \['more', 'names', 'others'\]"),
        ({**ROWS, "names": []}, "vocabularies: expected rows 0 to 59 in 'names', at least one"),
        ({**ROWS, "names": [60]}, r"vocabularies: expected rows 0 to 59 in 'names'.* got \[60\]"),
        ({**ROWS, "names": [-1]}, r"vocabularies: expected rows 0 to 59 in 'names'.* got \[-1\]"),
    ],
)
def test_vocabularies_that_do_not_fit_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        SPAE(NAMED, book(), rows)


def test_configs_name_one_for_each_layer():
    with pytest.raises(ValueError, match="vocabularies: expected a name for each of 4 layers"):
        replace(NAMED, vocabularies=("names", "others"))
    with pytest.raises(ValueError, match="layer_dropout: expected a number from 0 to below 1, got 1"):
        replace(NAMED, layer_dropout=1.0)
    for config in (VQGANConfig, LQAEConfig):
        with pytest.raises(ValueError, match=r"vocabularies: expected None"):
            config(vocabularies=("names",))
    assert SPAEConfig.from_dict(NAMED.to_dict() | {"vocabularies": list(NAMED.vocabularies)}) == NAMED


def test_word_noise_is_what_the_decoder_sees_in_training_only():
    pyramid = Pyramid((4, 4), ((1, 1), (2, 2), (4, 4)))
    masks = torch.zeros(3, 40, dtype=torch.bool)
    masks[0, :10] = masks[1, 10:25] = masks[2, 25:] = True
    torch.manual_seed(0)
    table = Codebook.from_arrays([f"w{i}" for i in range(40)], torch.randn(40, 8), name="toy")
    quantizer = PyramidQuantizer(pyramid, masks=masks, word_noise=(0.0, 0.5, 0.9))
    z = torch.randn(64, 8, 4, 4)
    ids = quantizer(z, table).ids
    replaced = quantizer._replace_words(ids, 40)
    first, second, third = (
        (a != b).float().mean()
        for a, b in zip(replaced.split([1, 4, 16], 1), ids.split([1, 4, 16], 1), strict=True)
    )
    assert first == 0
    assert 0.35 < second < 0.6  # a draw may be the word itself
    assert 0.75 < third < 0.95
    for layer, part in enumerate(replaced.split([1, 4, 16], 1)):
        assert masks[layer][part].all()
    whole = PyramidQuantizer(pyramid, masks=masks)(z, table).features
    assert not torch.equal(quantizer(z, table).features, whole)
    assert torch.equal(quantizer.eval()(z, table).features, whole)


def test_word_noise_names_a_share_for_each_layer():
    with pytest.raises(ValueError, match="word_noise: expected a share for each of 4 layers, got"):
        replace(NAMED, word_noise=(0.1, 0.1))
