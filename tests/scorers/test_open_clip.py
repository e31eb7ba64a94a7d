"""The CLIP scorer on a small random open_clip model."""

from __future__ import annotations

import json

import pytest
import torch

from spae.scorers import ImageTextScorer, OpenCLIPScorer, check_scorer, load_scorer
from spae.scorers.open_clip import import_open_clip

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    try:
        clip = import_open_clip()
    except ImportError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-for-spae.json").write_text(json.dumps(CONFIG))
    clip.add_model_config(folder / "tiny-for-spae.json")
    torch.manual_seed(0)
    torch.save(clip.create_model("tiny-for-spae").state_dict(), folder / "weights.pt")
    return str(folder / "weights.pt")


@pytest.fixture(scope="module")
def scorer(checkpoint) -> OpenCLIPScorer:
    return OpenCLIPScorer.load("tiny-for-spae", checkpoint)


def test_a_word_is_the_mean_of_80_prompts(scorer):
    assert isinstance(scorer, ImageTextScorer)
    clip = import_open_clip()
    assert len(scorer.templates) == 80
    prompts = [template("dog") for template in clip.OPENAI_IMAGENET_TEMPLATES]
    tokens = clip.get_tokenizer("tiny-for-spae")(prompts)
    expected = scorer.model.encode_text(tokens, normalize=True).mean(0)
    features = scorer.text_features([" dog", "zebra", "dog"])
    torch.testing.assert_close(features[0], expected / expected.norm(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features[0], features[2])
    assert (features[0] - features[1]).norm() > 1e-3


def test_images_are_prepared_as_open_clip_prepares_them(scorer, checkpoint):
    clip = import_open_clip()
    image_module = pytest.importorskip("PIL.Image", reason="needs Pillow")
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    _, _, preprocess = clip.create_model_and_transforms("tiny-for-spae", checkpoint)
    prepared = preprocess(image_module.fromarray(pixels.numpy()))[None]
    expected = scorer.model.encode_image(prepared, normalize=True)
    images = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
    torch.testing.assert_close(scorer.image_features(images), expected, atol=1e-5, rtol=1e-4)


def test_features_are_unit_for_any_size_batch_and_precision(scorer, checkpoint):
    images = torch.rand(5, 3, 48, 64) * 2 - 1
    whole = scorer.image_features(images)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(5))
    half = OpenCLIPScorer.load("tiny-for-spae", checkpoint, precision="bf16", batch_size=2)
    features = half.image_features(images)
    assert features.dtype == half.text_features(["dog"]).dtype == torch.float32
    torch.testing.assert_close(features, whole, atol=0.05, rtol=0)
    small = OpenCLIPScorer.load("tiny-for-spae", checkpoint, batch_size=3)
    torch.testing.assert_close(small.image_features(images), whole)
    torch.testing.assert_close(small.text_features(["a", "b"]), scorer.text_features(["a", "b"]))


def test_commands_name_it_by_architecture_and_checkpoint(scorer, checkpoint):
    """The checkpoint is a path here, with slashes of its own."""
    assert load_scorer(f"open_clip:tiny-for-spae/{checkpoint}").checksum == scorer.checksum


@pytest.mark.parametrize("name", ["clip", "open_clip", "open_clip:ViT-B-32", "open_clip:/a", "conse:a"])
def test_unknown_names_are_named_before_anything_is_loaded(name):
    with pytest.raises(
        ValueError, match=f"scorer: expected caption, conse or open_clip:ARCH.*, got '{name}'"
    ):
        check_scorer(name)


def test_the_checksum_sees_weights_templates_and_precision(scorer, checkpoint):
    same = OpenCLIPScorer.load("tiny-for-spae", checkpoint)
    assert same.checksum == scorer.checksum
    plain = OpenCLIPScorer.load("tiny-for-spae", checkpoint, templates=["a {}.".format])
    half = OpenCLIPScorer.load("tiny-for-spae", checkpoint, precision="fp16")
    with torch.no_grad():
        same.model.logit_scale.add_(1)
    same._checksum = None
    assert len({scorer.checksum, plain.checksum, half.checksum, same.checksum}) == 4


def test_bad_arguments_are_named(scorer, checkpoint):
    with pytest.raises(
        ValueError, match=r"images: expected float \[B, 3, H, W\], got torch.float32 \[2, 1, 8, 8\]"
    ):
        scorer.image_features(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="templates: expected at least one"):
        OpenCLIPScorer.load("tiny-for-spae", checkpoint, templates=[])
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        OpenCLIPScorer.load("tiny-for-spae", checkpoint, batch_size=0)
    with pytest.raises(RuntimeError):
        OpenCLIPScorer.load("no-such-model", checkpoint)
