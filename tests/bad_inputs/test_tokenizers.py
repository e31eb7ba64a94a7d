"""Bad arguments of tokens, configurations, codebooks and tokenizers, and damaged checkpoints."""

import math

import numpy as np
import pytest
import torch

import spae
from spae import (
    LQAE,
    RQ,
    SPAE,
    VQGAN,
    Codebook,
    ImageProcessor,
    LearnedCodebook,
    LQAEConfig,
    PyramidTokens,
    RQConfig,
    SPAEConfig,
    VQGANConfig,
)

NAN = math.nan
WORDS, VECTORS = ["a", "b", "c"], torch.eye(3)
TINY = {
    "image_size": (16, 16),
    "grids": (1, 2, 4),
    "channels": 4,
    "multipliers": (1, 1, 1),
    "num_res_blocks": 1,
}
FULL = TINY | {"grids": (4,)}


def ids(*rows):
    return torch.tensor(rows, dtype=torch.int64)


TOKENS = [
    (lambda g: PyramidTokens([[0]], g.pyramid), r"ids: expected int64 \[B, n\], got list"),
    (
        lambda g: PyramidTokens(torch.zeros(1, 1), g.pyramid),
        r"ids: expected int64 \[B, n\], got torch.float32 \[1, 1\]",
    ),
    (lambda g: PyramidTokens(ids(0, 1)[0], g.pyramid), r"ids: expected int64 \[B, n\], got torch.int64 \[\]"),
    (
        lambda g: PyramidTokens(ids([0, 1]), g.pyramid),
        r"ids: expected a whole number of layers, one of \[1, 5, 21\], got 2",
    ),
    (lambda g: PyramidTokens(ids([0]), (1, 2, 4)), r"pyramid: expected a spae_ops.Pyramid, got tuple"),
    (lambda g: g.tokens.layer(3), r"layer: expected 0\.\.2, got 3"),
    (lambda g: g.tokens.layer(-1), r"layer: expected 0\.\.2, got -1"),
    (lambda g: g.tokens.layer(1.0), r"layer: expected 0\.\.2, got 1.0"),
    (lambda g: g.tokens.layer("1"), r"layer: expected 0\.\.2, got '1'"),
    (lambda g: g.tokens.upto(0), r"num_layers: expected 1\.\.3, got 0"),
    (lambda g: g.tokens.upto(1).upto(2), r"num_layers: expected 1\.\.1, got 2"),
    (lambda g: g.tokens.upto(None), r"num_layers: expected 1\.\.3, got None"),
    (lambda g: g.tokens[0], r"images: expected a slice, got int"),
]

CONFIGS = [
    (
        lambda g: SPAEConfig(image_size=128),
        r"config.image_size: expected a list of: a whole number from 1, got 128",
    ),
    (
        lambda g: SPAEConfig(image_size=(128,) * 4),
        r"image_size: expected 1 to 3 sizes, got \(128, 128, 128, 128\)",
    ),
    (
        lambda g: SPAEConfig(image_size=(100, 128)),
        r"image_size: expected sizes divisible by \(8, 8\), got \(100, 128\)",
    ),
    (lambda g: SPAEConfig(image_size=(0, 0)), r"config.image_size: expected .*, got \(0, 0\)"),
    (lambda g: SPAEConfig(image_size=(128.0, 128)), r"config.image_size: expected .*, got \(128.0, 128\)"),
    (lambda g: SPAEConfig(image_size="128x128"), r"config.image_size: expected .*, got '128x128'"),
    (lambda g: SPAEConfig(grids=()), r"grids: expected at least one layer's grid, got \(\)"),
    (
        lambda g: SPAEConfig(grids=(1, 3)),
        r"grids\[1\]: expected a grid that divides shape \(16, 16\), got \(3, 3\)",
    ),
    (lambda g: SPAEConfig(grids=16), r"config.grids: expected .*, got 16"),
    (lambda g: SPAEConfig(grids=(1, "2")), r"config.grids: expected .*, got \(1, '2'\)"),
    (lambda g: SPAEConfig(grids=(1, 2.0)), r"config.grids: expected .*, got \(1, 2.0\)"),
    (lambda g: SPAEConfig(in_channels=0), r"config.in_channels: expected a whole number from 1, got 0"),
    (lambda g: SPAEConfig(channels=-4), r"config.channels: expected a whole number from 1, got -4"),
    (lambda g: SPAEConfig(channels="128"), r"config.channels: expected .*, got '128'"),
    (lambda g: SPAEConfig(channels=True), r"config.channels: expected .*, got True"),
    (lambda g: SPAEConfig(channels=None), r"config.channels: expected .*, got None"),
    (lambda g: SPAEConfig(multipliers=()), r"multipliers: expected at least one, got \(\)"),
    (lambda g: SPAEConfig(multipliers=(1, 0)), r"config.multipliers: expected .*, got \(1, 0\)"),
    (lambda g: SPAEConfig(multipliers=2), r"config.multipliers: expected .*, got 2"),
    (lambda g: SPAEConfig(num_res_blocks=0), r"config.num_res_blocks: expected a whole number from 1, got 0"),
    (lambda g: SPAEConfig(num_res_blocks=1.5), r"config.num_res_blocks: expected .*, got 1.5"),
    (lambda g: SPAEConfig(strides=(2, 2)), r"strides: expected 3 entries .*, got \(2, 2\)"),
    (lambda g: SPAEConfig(strides=0), r"config.strides: expected a whole number from 1 or .*, got 0"),
    (lambda g: SPAEConfig(strides="2"), r"config.strides: expected .*, got '2'"),
    (lambda g: SPAEConfig(rule="vq"), r"config.rule: expected 'saq' or 'rq', got 'vq'"),
    (lambda g: SPAEConfig(rule=["saq"]), r"config.rule: expected .*, got \['saq'\]"),
    (
        lambda g: SPAEConfig(latent_norm="batch"),
        r"config.latent_norm: expected one of 'matched', 'none', 'unit', got 'batch'",
    ),
    (
        lambda g: SPAEConfig(semantic_features="clip"),
        r"config.semantic_features: expected 'none' or 'lite0', got 'clip'",
    ),
    (
        lambda g: SPAEConfig(semantic_features="lite0", in_channels=1),
        r"semantic_features: expected 'none' .*, got 'lite0'",
    ),
    (
        lambda g: SPAEConfig(semantic_features="lite0", semantic_layers=0),
        r"config.semantic_layers: expected a whole number from 1, got 0",
    ),
    (
        lambda g: SPAEConfig(semantic_features="lite0", semantic_layers=7),
        r"semantic_layers: expected 1 to 6, got 7",
    ),
    (
        lambda g: SPAEConfig(semantic_features="lite0", semantic_dropout=1.5),
        r"config.semantic_dropout: expected .*, got 1.5",
    ),
    (
        lambda g: SPAEConfig(semantic_features="lite0", semantic_dropout=NAN),
        r"config.semantic_dropout: expected .*, got nan",
    ),
    (lambda g: SPAEConfig(semantic_dropout="0.1"), r"config.semantic_dropout: expected .*, got '0.1'"),
    (
        lambda g: SPAEConfig.from_dict({"size": 128}),
        r"config: expected no fields but image_size, .*, got \['size'\]",
    ),
    (
        lambda g: SPAEConfig.from_dict([("rule", "rq")]),
        r"config: expected a mapping of .*, got \[\('rule', 'rq'\)\]",
    ),
    (lambda g: SPAEConfig.from_dict({"rule": None}), r"config.rule: expected .*, got None"),
    (
        lambda g: VQGANConfig(latent_norm="matched"),
        r"latent_norm: expected 'none' or 'unit', for .*, got 'matched'",
    ),
    (lambda g: VQGANConfig(codebook_size=0), r"config.codebook_size: expected a whole number from 1, got 0"),
    (lambda g: VQGANConfig(codebook_size=10.5), r"config.codebook_size: expected .*, got 10.5"),
    (lambda g: VQGANConfig(codebook_dim=-1), r"config.codebook_dim: expected a whole number from 1, got -1"),
    (lambda g: VQGANConfig(update="sgd"), r"config.update: expected 'ema' or 'gradient', got 'sgd'"),
    (lambda g: VQGANConfig(decay=1.0), r"config.decay: expected a number from 0 to below 1, got 1.0"),
    (lambda g: VQGANConfig(decay=NAN), r"config.decay: expected a number from 0 to below 1, got nan"),
    (lambda g: VQGANConfig(decay="0.9"), r"config.decay: expected .*, got '0.9'"),
    (lambda g: VQGANConfig(revive_below=-1), r"config.revive_below: expected a number from 0, got -1"),
    (lambda g: LearnedCodebook(0, 4), r"size: expected a whole number from 1, got 0"),
    (lambda g: LearnedCodebook(8, 0), r"width: expected a whole number from 1, got 0"),
    (lambda g: LearnedCodebook(8, 4, update="x"), r"update: expected 'ema' or 'gradient', got 'x'"),
    (lambda g: LearnedCodebook(8, 4, decay=2), r"decay: expected a number from 0 to below 1, got 2"),
    (lambda g: LQAEConfig(grids=(1, 16)), r"grids: expected one layer, got \(1, 16\)"),
    (
        lambda g: LQAEConfig(mask_rate=1),
        r"config.mask_rate: expected a number from 0 to below 1 or null, got 1",
    ),
    (
        lambda g: LQAEConfig(mask_rate=NAN),
        r"config.mask_rate: expected a number from 0 to below 1 or null, got nan",
    ),
    (lambda g: LQAEConfig(mask_rate="0.5"), r"config.mask_rate: expected .*, got '0.5'"),
    (lambda g: RQConfig(rule="saq"), r"rule: expected 'rq', got 'saq'"),
    (lambda g: RQConfig(grids=(8, 16)), r"grids: expected \(16, 16\) in every layer, got \(8, 16\)"),
    (lambda g: ImageProcessor((0, 8)), r"processor.image_size: expected .*, got \(0, 8\)"),
    (lambda g: ImageProcessor(32), r"processor.image_size: expected .*, got 32"),
    (lambda g: ImageProcessor((8.0, 8)), r"processor.image_size: expected .*, got \(8.0, 8\)"),
    (lambda g: ImageProcessor((8, 8), 4), r"processor.channels: expected 1 or 3, got 4"),
    (
        lambda g: ImageProcessor((8, 8), fit="stretch"),
        r"processor.fit: expected 'crop' or 'pad', got 'stretch'",
    ),
    (
        lambda g: ImageProcessor((8, 8), background="no colour"),
        r"background: expected a colour .*, got 'no colour'",
    ),
    (
        lambda g: ImageProcessor.from_dict({"image_size": [8, 8], "crop": 1}),
        r"processor: expected no fields but image_size, .*, got \['crop'\]",
    ),
    (
        lambda g: ImageProcessor.from_dict({"image_processor_type": "Other"}),
        r"image_processor_type: expected 'ImageProcessor', got 'Other'",
    ),
    (lambda g: ImageProcessor.from_dict({}), r"processor: expected image_size too, got \[\]"),
]

CODEBOOKS = [
    (lambda g: Codebook(WORDS, VECTORS.tolist()), r"vectors: expected \[K, D\] floating-point .*, got list"),
    (
        lambda g: Codebook(WORDS, VECTORS.long()),
        r"vectors: expected \[K, D\] floating-point .*, got \[3, 3\] torch.int64",
    ),
    (lambda g: Codebook(WORDS, VECTORS[0]), r"vectors: expected \[K, D\] floating-point .*, got \[3\]"),
    (
        lambda g: Codebook([], VECTORS[:0]),
        r"vectors: expected \[K, D\] floating-point with K, D >= 1, got \[0, 3\]",
    ),
    (
        lambda g: Codebook(WORDS, VECTORS * NAN),
        r"vectors: expected finite rows, got 'a' \(row 0\) with nan or inf",
    ),
    (
        lambda g: Codebook(WORDS, VECTORS.double() * 1e300),
        r"vectors: expected finite rows, got 'a' \(row 0\) with nan or inf",
    ),
    (lambda g: Codebook(WORDS[:2], VECTORS), r"words: expected one per row of vectors \(3\), got 2"),
    (
        lambda g: Codebook(["a", "b", "a"], VECTORS),
        r"words: expected distinct words, got 'a' at positions 0 and 2",
    ),
    (lambda g: Codebook(["a", "b", 3], VECTORS), r"words: expected strings, got int at position 2"),
    (lambda g: Codebook("abc", VECTORS), r"words: expected a sequence of words, got one string 'abc'"),
    (lambda g: Codebook(None, VECTORS), r"words: expected a sequence of words, got NoneType"),
    (lambda g: Codebook(WORDS, VECTORS, [0, 1, 2]), r"llm_ids: expected torch.int64 \[3\], got list"),
    (
        lambda g: Codebook(WORDS, VECTORS, torch.zeros(3)),
        r"llm_ids: expected torch.int64 \[3\], got torch.float32 \[3\]",
    ),
    (
        lambda g: Codebook(WORDS, VECTORS, ids(0, 1)),
        r"llm_ids: expected torch.int64 \[3\], got torch.int64 \[2\]",
    ),
    (lambda g: Codebook(WORDS, VECTORS, ids(0, -1, 2)), r"llm_ids: expected 0 or more, got -1 at position 1"),
    (
        lambda g: Codebook(WORDS, VECTORS, round_trips=torch.ones(3)),
        r"round_trips: expected torch.bool \[3\], got torch.float32 \[3\]",
    ),
    (
        lambda g: Codebook(WORDS, VECTORS, normalisation="l2"),
        r"normalisation: expected one of none, .*, got 'l2'",
    ),
    (lambda g: Codebook.from_arrays(WORDS, [[1.0], [2.0, 3.0], [1.0]]), r"vectors: expected .*, got list"),
    (lambda g: Codebook.from_arrays(WORDS, np.array(["x", "y", "z"])), r"vectors: expected .*, got ndarray"),
    (
        lambda g: Codebook.from_arrays(WORDS, VECTORS, llm_ids=[0.5, 1.0, 2.0]),
        r"llm_ids: expected torch.int64 \[3\], got torch.float32 \[3\]",
    ),
    (
        lambda g: Codebook.from_arrays(WORDS, VECTORS, llm_ids=["a", "b", "c"]),
        r"llm_ids: expected .*, got list",
    ),
    (lambda g: Codebook.from_arrays(WORDS, VECTORS, name=3), r"name: expected a string, got 3"),
    (lambda g: Codebook.load("no-such"), r"source: expected one of smollm2, .*, got 'no-such'"),
    (lambda g: Codebook.load(None), r"source: expected one of smollm2, .*, got None"),
    (lambda g: Codebook.load(3), r"source: expected one of smollm2, .*, got 3"),
    (
        lambda g: Codebook.load("smollm2", encode=len),
        r"encode: expected None but for 'cl100k', got a text encoder for 'smollm2'",
    ),
    (lambda g: g.book.subset([]), r"ids: expected integers \[n\] or a mask.*, got"),
    (lambda g: g.book.subset([0, 40]), r"ids: expected 0 to 39, got 40"),
    (lambda g: g.book.subset([-1]), r"ids: expected 0 to 39, got -1"),
    (lambda g: g.book.subset([1, 1]), r"ids: expected distinct rows, got 1 more than once"),
    (lambda g: g.book.subset([0.5]), r"ids: expected integers \[n\] or a mask.*, got torch.float32 \[1\]"),
    (
        lambda g: g.book.subset([True, False]),
        r"ids: expected integers \[n\] or a mask, bool \[40\].*, got torch.bool \[2\]",
    ),
    (lambda g: g.book.subset(["w"]), r"ids: expected integers \[n\] or a mask.*, got list"),
    (lambda g: g.book.subset(3), r"ids: expected integers \[n\] or a mask.*, got torch.int64 \[\]"),
    (
        lambda g: g.book.ids_of([" w0", "none"]),
        r"words: expected words of codebook 'custom', got 'none' at position 1",
    ),
    (lambda g: g.book.ids_of(" w0"), r"words: expected a sequence of words, got one string ' w0'"),
    (lambda g: g.book.ids_of([0]), r"words: expected words of codebook 'custom', got 0 at position 0"),
    (
        lambda g: g.book.ids_of([[" w0"]]),
        r"words: expected words of codebook 'custom', got \[' w0'\] at position 0",
    ),
    (lambda g: g.book.ids_of(7), r"words: expected a sequence of words, got int"),
    (lambda g: g.book(torch.tensor([-1])), r"ids: expected 0 to 39, got -1 to -1"),
    (lambda g: g.book(torch.tensor([40])), r"ids: expected 0 to 39, got 40 to 40"),
    (lambda g: g.book(torch.tensor([0.0])), r"ids: expected int64, got torch.float32"),
    (lambda g: g.book.normalised("l2"), r"normalise: expected one of none, .*, got 'l2'"),
    (
        lambda g: g.book.normalised("unit").normalised("centre"),
        r"normalise: expected 'unit', by which .*, or 'none', got 'centre'",
    ),
    (lambda g: Codebook(WORDS, VECTORS * 0).normalised("unit"), r"normalise: expected .*, got .*row 0"),
    (lambda g: Codebook(WORDS, VECTORS * 0).normalised("centre+scale"), r"normalise: expected .*, got"),
    (lambda g: g.book.select("verbs"), r"words: expected one of all, word-like, nouns, got 'verbs'"),
    (
        lambda g: g.book.select("word-like"),
        r"words: expected a kind that codebook 'custom' has words of, got 'word-like'",
    ),
    (
        lambda g: g.book.select("all", 41),
        r"limit: expected 1 to 40 \(all words\) of codebook 'custom', got 41",
    ),
    (lambda g: g.book.select("all", 0), r"limit: expected 1 to 40 .*, got 0"),
    (lambda g: g.book.select("all", 2.5), r"limit: expected 1 to 40 .*, got 2.5"),
    (
        lambda g: Codebook.from_transformers(torch.nn.Linear(2, 2)),
        r"tokenizer: expected the model's tokenizer, got None",
    ),
]

MODELS = [
    (lambda g: g.model.encode(g.images.numpy()), r"images: expected a floating-point tensor .*, got ndarray"),
    (
        lambda g: g.model.encode((g.images * 127).byte()),
        r"images: expected a floating-point tensor .*, got torch.uint8",
    ),
    (lambda g: g.model.encode(g.images[0]), r"images: expected shape \[B, 3, 16, 16\], got \[3, 16, 16\]"),
    (
        lambda g: g.model.encode(g.images[:, :1]),
        r"images: expected shape \[B, 3, 16, 16\], got \[2, 1, 16, 16\]",
    ),
    (
        lambda g: g.model.encode(g.images[..., :8]),
        r"images: expected shape \[B, 3, 16, 16\], got \[2, 3, 16, 8\]",
    ),
    (lambda g: g.model.encode(g.images * 255), r"images: expected values in \[-1, 1\], got -25\d.* to 25\d"),
    (lambda g: g.model.encode(g.images * NAN), r"images: expected values in \[-1, 1\], got nan"),
    (lambda g: g.model.encode(g.images, 0), r"num_layers: expected 1\.\.3, got 0"),
    (lambda g: g.model.encode(g.images, 4), r"num_layers: expected 1\.\.3, got 4"),
    (lambda g: g.model.encode(g.images, "all"), r"num_layers: expected 1\.\.3, got 'all'"),
    (lambda g: g.model(g.images[:, :2]), r"images: expected shape \[B, 3, 16, 16\], got \[2, 2, 16, 16\]"),
    (lambda g: g.model.decode(g.tokens.ids), r"tokens: expected PyramidTokens, got Tensor"),
    (lambda g: g.model.decode(None), r"tokens: expected PyramidTokens, got NoneType"),
    (
        lambda g: g.model.decode(PyramidTokens(ids([1]), spae.Pyramid.square(8, (1,)))),
        r"tokens: expected Pyramid\(shape=\(4, 4\).*, got Pyramid\(shape=\(8, 8\)",
    ),
    (
        lambda g: g.model.decode(PyramidTokens(ids([40]), g.pyramid)),
        r"ids: expected ids in 0\.\.39, got 40\.\.40",
    ),
    (
        lambda g: g.model.decode(PyramidTokens(ids([-1]), g.pyramid)),
        r"ids: expected ids in 0\.\.39, got -1\.\.-1",
    ),
    (lambda g: g.model.words(g.tokens.ids), r"tokens: expected PyramidTokens, got Tensor"),
    (
        lambda g: g.model.words(PyramidTokens(ids([-1]), g.pyramid)),
        r"tokens: expected ids 0 to 39, got -1 at position 0 of image 0",
    ),
    (
        lambda g: g.model.words(PyramidTokens(ids([40]), g.pyramid)),
        r"tokens: expected ids 0 to 39, got 40 at position 0 of image 0",
    ),
    (
        lambda g: g.model.tokens([[]]),
        r"words\[0\]: expected the first layers of \(1, 4, 16\) words, got \(\)",
    ),
    (
        lambda g: g.model.tokens([[[" w1", " w2"]]]),
        r"words\[0\]: expected the first layers of \(1, 4, 16\) words, got \(2,\)",
    ),
    (
        lambda g: g.model.tokens([[["none"]]]),
        r"words: expected words of codebook 'custom', got 'none' at position 0",
    ),
    (
        lambda g: g.model.tokens([[[" w1"]], [[" w1"], [" w2"] * 4]]),
        r"words\[1\]: expected 1 layers as in words\[0\], got 2",
    ),
    (lambda g: g.model.tokens([[" w1"]]), r"words\[0\]: expected .*, got"),
    (lambda g: g.model.tokens(" w1"), r"words: expected .*, got ' w1'"),
    (lambda g: g.model.tokens([3]), r"words\[0\]: expected .*, got 3"),
    (lambda g: SPAE({"rule": "rq"}, g.book), r"config: expected a SPAEConfig, got dict"),
    (lambda g: SPAE(g.config, "smollm2"), r"codebook: expected a spae.CodeTable, got str"),
    (lambda g: SPAE(g.config, None), r"codebook: expected a spae.CodeTable, got NoneType"),
    (lambda g: VQGAN(SPAEConfig(**FULL)), r"config: expected a VQGANConfig, got SPAEConfig"),
    (lambda g: RQ(VQGANConfig(**FULL)), r"config: expected a RQConfig, got VQGANConfig"),
    (lambda g: LQAE(LQAEConfig(**FULL), g.book), r"codebook: expected rows of unit length, got 'none'"),
    (
        lambda g: LQAE(LQAEConfig(**FULL), g.book.normalised("unit"), torch.nn.Linear(2, 2)),
        r"bert: expected None without config.mask_rate, got Linear",
    ),
    (lambda g: SPAE.from_pretrained("no-such"), r"name: expected a folder with config.json.*, got 'no-such'"),
    (lambda g: SPAE.from_pretrained(None), r"name: expected a folder with config.json.*, got None"),
    (
        lambda g: SPAE.from_pretrained("no/such/repository"),
        r"name: expected a folder with config.json.*, got 'no/such/repository'",
    ),
    (lambda g: VQGAN.from_pretrained("mnist"), r"name: expected a VQGAN, got 'mnist', which holds a SPAE"),
    (lambda g: spae.load("mnist", codebook=g.book), r"codebook: expected .*, got"),
    (lambda g: spae.load("mnist", device="tpu9"), r"device: expected .*, got 'tpu9'"),
    (
        lambda g: spae.load("mnist", dtype="float16"),
        r"dtype: expected a floating-point torch.dtype or None, got 'float16'",
    ),
    (
        lambda g: spae.load("mnist", dtype=torch.int64),
        r"dtype: expected a floating-point torch.dtype or None, got torch.int64",
    ),
]

PICTURES = [
    (lambda g: g.model.preprocess(3), r"images\[0\]: expected a picture .*, got int"),
    (lambda g: g.model.preprocess(None), r"images\[0\]: expected a picture .*, got NoneType"),
    (lambda g: g.model.preprocess({"a": 1}), r"images\[0\]: expected a picture .*, got dict"),
    (
        lambda g: g.model.preprocess([b"no image"]),
        r"images\[0\]: expected an image, got what cannot be read as one",
    ),
    (
        lambda g: g.model.preprocess(np.zeros((5, 4, 2), np.uint8)),
        r"images\[0\]: expected an axis of 1, 3 or 4 channels.*, got \[5, 4, 2\]",
    ),
    (
        lambda g: g.model.preprocess(np.zeros((2, 3, 4, 4, 1), np.uint8)),
        r"images\[0\]: expected \[H, W\].*, got \[2, 3, 4, 4, 1\]",
    ),
    (lambda g: g.model.preprocess(np.zeros(4, np.uint8)), r"images\[0\]: expected \[H, W\].*, got \[4\]"),
    (
        lambda g: g.model.preprocess(np.zeros((0, 4, 3), np.uint8)),
        r"images\[0\]: expected .*, got uint8 \[0, 4, 3\]",
    ),
    (
        lambda g: g.model.preprocess(np.full((4, 4, 3), 2.0)),
        r"images\[0\]: expected floats in \[0, 1\], got 2 to 2",
    ),
    (
        lambda g: g.model.preprocess(np.full((4, 4, 3), NAN)),
        r"images\[0\]: expected floats in \[0, 1\], got nan",
    ),
    (
        lambda g: g.model.preprocess(np.full((4, 4, 3), -1)),
        r"images\[0\]: expected integers in 0\.\.255, got int64 from -1",
    ),
    (lambda g: g.model.preprocess(np.zeros((4, 4, 3), complex)), r"images\[0\]: expected .*, got complex128"),
    (lambda g: g.model.preprocess(np.full((4, 4, 3), "x")), r"images\[0\]: expected .*, got <U1"),
    (
        lambda g: g.model.preprocess(np.zeros((4, 4, 3), np.uint8), layout="nhwc"),
        r"layout: expected 'chw' or 'hwc' or null, got 'nhwc'",
    ),
    (
        lambda g: g.model.preprocess(np.zeros((5, 4, 3), np.uint8), layout="chw"),
        r"images\[0\]: expected an axis of 1, 3 or 4 channels, chw, got \[5, 4, 3\]",
    ),
    (
        lambda g: g.model.postprocess(g.images.numpy()),
        r"images: expected a floating-point tensor \[B, C, H, W\], got ndarray",
    ),
    (
        lambda g: g.model.postprocess(g.images[0]),
        r"images: expected a floating-point tensor \[B, C, H, W\], got torch.float32 \[3, 16, 16\]",
    ),
    (
        lambda g: g.model.postprocess(g.images.long()),
        r"images: expected a floating-point tensor .*, got torch.int64",
    ),
    (
        lambda g: g.model.postprocess(g.images[:, :2]),
        r"images: expected .*1 or 3 channels.*, got .*\[2, 2, 16, 16\]",
    ),
    (lambda g: g.model.postprocess(g.images * NAN), r"images: expected .*, got nan"),
    (
        lambda g: g.model.postprocess(g.images, "png"),
        r"output: expected 'pil', 'numpy' or 'tensor', got 'png'",
    ),
]


@pytest.mark.parametrize(("call", "said"), [*TOKENS, *CONFIGS, *CODEBOOKS, *MODELS, *PICTURES])
def test_refused(call, said, good, refused):
    refused(lambda: call(good), (ValueError, TypeError, FileNotFoundError), said)
