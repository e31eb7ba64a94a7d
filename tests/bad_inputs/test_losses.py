"""Bad arguments of losses and scorers."""

import math

import pytest
import torch

from spae.losses import (
    AppearanceConfig,
    FeatureDistance,
    LeCAM,
    Objective,
    ObjectiveConfig,
    SemanticLoss,
    appearance_loss,
    commitment_loss,
    discriminator_loss,
    generator_loss,
    reconstruction_loss,
    relative_scores,
    semantic_loss,
    semantic_pools,
)
from spae.scorers import CaptionScorer, RidgeMap, TextFeatureCache, dataset_features
from spae.scorers.protocol import check_images
from spae.scorers.ridge import fit

NAN, INF = math.nan, math.inf
SCORES = torch.rand(2, 8)


def semantic(g, z=None, ids=None, targets=None, **options):
    z, ids = g.z if z is None else z, g.ids if ids is None else ids
    targets = [g.ids[:, :1], g.ids[:, 1:5]] if targets is None else targets
    return semantic_loss(z, ids, g.codes, g.pyramid, targets, **options)


class Scorer:
    """Gives what it is told to."""

    name, checksum = "scorer", "0" * 64

    def __init__(self, features):
        self.features = features

    def text_features(self, texts):
        return self.features

    image_features = text_features


def cached(features):
    return TextFeatureCache(Scorer(features), progress=False).features(["a", "b"])


def of_images(features, **options):
    images = [torch.zeros(3, 8, 8)] * 2
    return dataset_features(Scorer(features), images, progress=False, **options)


class Captioned(list):
    captions = ("cat", "")


LOSSES = [
    (lambda g: relative_scores(SCORES.tolist()), r"scores: expected floating-point \[B, K\] with K >= 1, got list"),
    (lambda g: relative_scores(SCORES[0]), r"scores: expected floating-point \[B, K\] .*, got torch.float32 \[8\]"),
    (lambda g: relative_scores(SCORES.long()), r"scores: expected floating-point .*, got torch.int64"),
    (lambda g: relative_scores(SCORES[:, :0]), r"scores: expected floating-point .* with K >= 1, got torch.float32 \[2, 0\]"),
    (lambda g: semantic_pools(SCORES * NAN), r"scores: expected finite numbers, got nan or inf"),
    (lambda g: semantic_pools(SCORES / 0), r"scores: expected finite numbers, got nan or inf"),
    (lambda g: semantic_pools(SCORES, ()), r"thresholds: expected at least one, all from 0 to 1, got \(\)"),
    (lambda g: semantic_pools(SCORES, (0.9, 1.1)), r"thresholds: expected .*, got \(0.9, 1.1\)"),
    (lambda g: semantic_pools(SCORES, (NAN,)), r"thresholds: expected .*, got \(nan,\)"),
    (lambda g: semantic_pools(SCORES, 0.9), r"thresholds: expected .*, got 0.9"),
    (lambda g: semantic_pools(SCORES, ("0.9",)), r"thresholds: expected .*, got \('0.9',\)"),
    (lambda g: semantic_pools(SCORES).sample(torch.rand(3, 4), 0), r"uniform: expected floating-point \[2, n\] .*, got torch.float32 \[3, 4\]"),
    (lambda g: semantic_pools(SCORES).sample(torch.ones(2, 4) * 1.5, 0), r"uniform: expected numbers in \[0, 1\), got 1.5 to 1.5"),
    (lambda g: semantic_pools(SCORES).sample(torch.ones(2, 4) * -0.5, 0), r"uniform: expected numbers in \[0, 1\), got -0.5 to -0.5"),
    (lambda g: semantic_pools(SCORES).sample(torch.ones(2, 4) * NAN, 0), r"uniform: expected numbers in \[0, 1\), got nan"),
    (lambda g: semantic_pools(SCORES).sample(torch.rand(2, 4), 5), r"layer: expected 0\.\.4, got 5"),
    (lambda g: semantic_pools(SCORES).sample(torch.rand(2, 4), -1), r"layer: expected 0\.\.4, got -1"),
    (lambda g: semantic(g, targets=[]), r"targets: expected 1 to 3 layers, got 0"),
    (lambda g: semantic(g, targets=[g.ids[:, :1]] * 4), r"targets: expected 1 to 3 layers, got 4"),
    (lambda g: semantic(g, targets=[g.ids[:, :2]]), r"targets\[0\]: expected shape \[2, 1\], got \[2, 2\]"),
    (lambda g: semantic(g, targets=[[0, 1]]), r"targets\[0\]: expected int64 \[2, 1\], got list"),
    (lambda g: semantic(g, targets=[g.ids[:, :1].float()]), r"targets\[0\]: expected int64 \[2, 1\], got torch.float32"),
    (lambda g: semantic(g, targets=[g.ids[:, :1] + 8]), r"target: expected ids in 0\.\.7, got"),
    (lambda g: semantic(g, z=g.z[:, :2]), r"z: expected shape \[B, 3, 4, 4\], got \[2, 2, 4, 4\]"),
    (lambda g: semantic(g, z=g.z.tolist()), r"z: expected a torch.Tensor, got list"),
    (lambda g: semantic(g, z=g.z * NAN), r"[xz]: expected finite values, got"),
    (lambda g: semantic(g, ids=g.ids.int()), r"ids: expected dtype int64, got int32"),
    (lambda g: semantic(g, rule="vq"), r"rule: expected one of 'saq', 'rq', got 'vq'"),
    (lambda g: semantic(g, temperature=0), r"temperature: expected a positive finite number .*, got 0"),
    (lambda g: semantic(g, temperature="1"), r"temperature: expected a positive finite number .*, got '1'"),
    (lambda g: SemanticLoss(g.book, torch.rand(39, 4)), r"text_features: expected \[40, E\], one row per word, got \[39, 4\]"),
    (lambda g: SemanticLoss(g.book, torch.rand(40, 4) * NAN), r"text_features: expected finite numbers, got nan or inf"),
    (lambda g: SemanticLoss(g.book, [[0.0]] * 40), r"text_features: expected \[40, E\].*, got list"),
    (lambda g: SemanticLoss(g.book, torch.rand(40, 4), temperature=NAN), r"temperature: expected a finite number above 0, got nan"),
    (lambda g: SemanticLoss(g.book, torch.rand(40, 4), thresholds=[2]), r"thresholds: expected .*, got \(2,\)"),
    (lambda g: SemanticLoss(g.book, torch.rand(40, 4), rule="vq"), r"rule: expected 'saq' or 'rq', got 'vq'"),
    (lambda g: SemanticLoss(g.book, torch.rand(40, 4)).scores(torch.rand(2, 5), 2), r"guidance: expected shape \[2, 4\], got \[2, 5\]"),
    (lambda g: SemanticLoss(g.book, torch.rand(40, 4))(g.model(g.images), torch.rand(2, 4)), r"thresholds: expected at most 3, one for each layer, got 5"),
    (lambda g: appearance_loss(g.images, g.images[:1]), r"reconstruction: expected shape \[2, 3, 16, 16\] like images, got \[1, 3, 16, 16\]"),
    (lambda g: appearance_loss(g.images, g.images[..., :1]), r"reconstruction: expected shape \[2, 3, 16, 16\] like images, got \[2, 3, 16, 1\]"),
    (lambda g: appearance_loss(g.images.tolist(), g.images), r"images: expected a tensor, got list"),
    (lambda g: appearance_loss(g.images, g.images, config={"beta": 1}), r"config: expected an AppearanceConfig or None, got dict"),
    (lambda g: reconstruction_loss(g.images, g.images, kind="l3"), r"kind: expected 'l2' or 'l1', got 'l3'"),
    (lambda g: reconstruction_loss(g.images, None), r"reconstruction: expected a tensor, got NoneType"),
    (lambda g: commitment_loss(g.z, g.ids[:, :4], g.codes, g.pyramid), r"ids: expected a whole number of layers, one of \[1, 5, 21\], got 4"),
    (lambda g: commitment_loss(g.z[:1], g.ids, g.codes, g.pyramid), r"z: expected shape \[2, 3, 4, 4\], of ids and codes, got \[1, 3, 4, 4\]"),
    (lambda g: commitment_loss(g.z[:, :1], g.ids, g.codes, g.pyramid), r"z: expected shape \[2, 3, 4, 4\], of ids and codes, got \[2, 1, 4, 4\]"),
    (lambda g: commitment_loss(g.z, g.ids + 8, g.codes, g.pyramid), r"ids: expected ids in 0\.\.7, got"),
    (lambda g: generator_loss(SCORES, kind="wgan"), r"kind: expected one of hinge, non_saturating, got 'wgan'"),
    (lambda g: discriminator_loss(SCORES, SCORES, kind=None), r"kind: expected one of hinge, non_saturating, got None"),
    (lambda g: LeCAM(1.0), r"decay: expected at least 0 and below 1, got 1.0"),
    (lambda g: LeCAM(NAN), r"decay: expected at least 0 and below 1, got nan"),
    (lambda g: AppearanceConfig(beta=-1), r"objective.beta: expected a number from 0, got -1"),
    (lambda g: AppearanceConfig(reconstruction="l0"), r"objective.reconstruction: expected 'l2' or 'l1', got 'l0'"),
    (lambda g: ObjectiveConfig(alpha=NAN), r"objective.alpha: expected a number from 0, got nan"),
    (lambda g: ObjectiveConfig(alpha="1"), r"objective.alpha: expected a number from 0, got '1'"),
    (lambda g: ObjectiveConfig(discriminator_start=0.5), r"objective.discriminator_start: expected a whole number from 0, got 0.5"),
    (lambda g: ObjectiveConfig(gan="wasserstein"), r"objective.gan: expected 'hinge' or 'non_saturating', got 'wasserstein'"),
    (lambda g: ObjectiveConfig.from_dict({"gamma": 1}), r"objective: expected no fields but .*, got \['gamma'\]"),
    (lambda g: Objective(semantic=len)(g.model(g.images), g.images), r"guidance: expected what the semantic loss looks at, got None"),
    (lambda g: FeatureDistance(lambda images: images, "x")(g.images, g.images), r"network: expected several feature maps, got one tensor"),
]  # fmt: skip

SCORERS = [
    (lambda g: check_images(g.images[0]), r"images: expected float \[B, 3, H, W\], got torch.float32 \[3, 16, 16\]"),
    (lambda g: check_images(g.images[:, :1]), r"images: expected float \[B, 3, H, W\], got torch.float32 \[2, 1, 16, 16\]"),
    (lambda g: check_images(g.images.byte()), r"images: expected float \[B, 3, H, W\], got torch.uint8"),
    (lambda g: check_images(g.images.numpy()), r"images: expected float \[B, 3, H, W\], got ndarray"),
    (lambda g: CaptionScorer(len), r"checksum: expected one for an encoder other than MiniLM, .*, got None"),
    (lambda g: CaptionScorer(len, checksum="0").image_features(g.images), r"images: expected captions instead, got pixels"),
    (lambda g: TextFeatureCache(Scorer(None), chunk=0), r"chunk: expected at least 1, got 0"),
    (lambda g: TextFeatureCache(Scorer(None)).features([]), r"words: expected at least one, got none"),
    (lambda g: cached(torch.rand(3, 4)), r"scorer: expected text_features \[2, E\] for 2 words, got \[3, 4\]"),
    (lambda g: cached([[0.0], [1.0]]), r"scorer: expected text_features \[2, E\] for 2 words, got list"),
    (lambda g: cached(torch.rand(2, 4) * NAN), r"scorer: expected finite features of scorer, got \[nan.* for 'a'"),
    (lambda g: of_images(torch.rand(2, 4) / 0), r"scorer: expected finite features of scorer, got \[inf.* for 0"),
    (lambda g: of_images(torch.rand(2, 4), batch_size=0), r"batch_size: expected a whole number from 1, got 0"),
    (lambda g: dataset_features(CaptionScorer(len, checksum="0"), Captioned([0, 1])), r"dataset: expected a name for each of the 2 images, for caption-minilm reads names, got 1"),
    (lambda g: dataset_features(CaptionScorer(len, checksum="0"), [0, 1]), r"dataset: expected a name for each of the 2 images, for caption-minilm reads names, got 0"),
    (lambda g: fit(torch.rand(1, 3), torch.rand(1, 3)), r"features, texts: expected \[n, F\] and \[n, E\] with n > 1, got \[1, 3\] and \[1, 3\]"),
    (lambda g: fit(torch.rand(4, 3), torch.rand(5, 3)), r"features, texts: expected .*, got \[4, 3\] and \[5, 3\]"),
    (lambda g: fit(torch.rand(4, 3), torch.rand(4, 3), penalty=0), r"penalty: expected a positive number, got 0"),
    (lambda g: fit(torch.rand(4, 3), torch.rand(4, 3), penalty=NAN), r"penalty: expected a positive number, got nan"),
    (lambda g: RidgeMap.load("/no/such/map"), r"path: expected a map .*, got no file '/no/such/map'"),
    (lambda g: RidgeMap.load(__file__), r"path: expected a map of the format 'spae-ridge-1', got "),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), [*LOSSES, *SCORERS])
def test_refused(call, said, good, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    refused(lambda: call(good), (ValueError, TypeError, FileNotFoundError), said)
