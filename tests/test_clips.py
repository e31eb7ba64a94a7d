"""Clips: their measures, their words frame by frame and their page."""

from __future__ import annotations

import json

import pytest
import torch

from spae import SPAE, Codebook
from spae.cli import main
from spae.clips import clip_page, frame_words
from spae.eval.features import ImageFeatures
from spae.eval.reconstruction import evaluate_reconstruction, layer_table
from spae.eval.run import Run, evaluate, find
from spae.eval.tasks.reconstruction import Images
from spae.metrics import frechet_distance, psnr, psnr_per_frame, temporal_difference_error
from spae_ops import Pyramid

RECONSTRUCTION = Images("x", lpips="none", features="none")
Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")


@pytest.fixture
def model(clip_config) -> SPAE:
    vectors = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return SPAE(clip_config, Codebook.from_arrays([f" w{i}" for i in range(40)], vectors, name="toy")).eval()


def clips(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 5, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_psnr_of_each_frame():
    video, noise = torch.zeros(2, 3, 3, 4, 4), torch.tensor([0.02, 0.2, 2.0])
    noisy = video + noise.reshape(1, 1, 3, 1, 1)
    assert psnr_per_frame(video, noisy).flatten().tolist() == pytest.approx([40, 20, 0] * 2, abs=1e-4)
    a, b = clips(), clips().flip(0)
    for time in range(5):
        torch.testing.assert_close(psnr_per_frame(a, b)[:, time], psnr(a[:, :, time], b[:, :, time]))


def test_temporal_difference_error_is_of_changes_only():
    video = clips()
    assert temporal_difference_error(video, video + 0.3).max() < 1e-10  # a still error
    flicker = video.clone()
    flicker[:, :, 2] += 0.5  # in two of the four differences
    torch.testing.assert_close(temporal_difference_error(video, flicker), torch.full((3,), 0.125))
    still = video[:, :, :1].expand_as(video)
    expected = torch.stack([(video[:, :, t + 1] - video[:, :, t]).square() for t in range(4)])
    torch.testing.assert_close(temporal_difference_error(video, still), expected.mean((0, 2, 3, 4)))
    for wrong in (video[:2], video[:, :, 0]):
        with pytest.raises(
            ValueError, match=r"reconstruction: expected shape \[3, 3, 5, 8, 8\], that of clips"
        ):
            temporal_difference_error(video, wrong)
    with pytest.raises(ValueError, match="reconstruction: expected shape"):
        psnr_per_frame(video[:, :, 0], video[:, :, 0])
    with pytest.raises(ValueError, match="clips: expected at least 2 frames"):
        temporal_difference_error(video[:, :, :1], video[:, :, :1])


def test_a_report_of_clips_has_their_frames(model):
    spae, video = model, clips()
    report = evaluate_reconstruction(spae, video)
    decoded = spae.decode(spae.encode(video)).detach()
    assert report["frames"]["psnr"] == pytest.approx(psnr_per_frame(video, decoded).mean(0).tolist())
    errors = temporal_difference_error(video, decoded)
    assert report["layers"][2]["temporal_difference_error"] == pytest.approx(errors.mean().item())
    still = temporal_difference_error(video, video[:, :, :1].expand_as(video)).mean().item()
    assert report["frames"]["temporal_difference_error_still"] == pytest.approx(still)
    table = layer_table(report)
    assert "| temporal difference error |" in table.splitlines()[0]
    assert "3 clips; " in table
    assert f"standing still {still:.4f}" in table
    image = evaluate_reconstruction(model.resized((1, 8, 8), ((1, 1, 1),) * 3), video[:, :, :1])
    assert "frames" not in image
    assert "temporal_difference_error" not in image["layers"][0]


@pytest.mark.parametrize(
    ("causal", "frames", "spans"),
    [
        (True, 5, (1, 2, 2)),
        (True, 9, (1, 4, 4)),
        (True, 3, (1, 1, 1)),
        (False, 6, (2, 2, 2)),
        (False, 9, (3, 3, 3)),
    ],
)
def test_words_of_each_frame(causal, frames, spans):
    """Nine frames in three latent ones are 1 + 4 + 4 or 3 + 3 + 3: only the model knows."""
    grids = ((1, 1, 1), (3, 1, 1), (3, 2, 2))
    layers = [[" a"], [" b", " c", " d"], [" x"] * 12]
    said = frame_words(layers, Pyramid((3, 2, 2), grids), frames, causal=causal)
    expected = [f"_a  _{word}" for word, span in zip("bcd", spans, strict=True) for _ in range(span)]
    assert said == expected


def test_words_of_a_single_latent_frame():
    pyramid = Pyramid((1, 2, 2), ((1, 1, 1),))
    for causal, frames in ((True, 1), (False, 1), (False, 4)):
        assert frame_words([[" a"]], pyramid, frames, causal=causal) == ["_a"] * frames


def test_an_animated_page(tmp_path, model):
    spae, video = model, clips(2)
    clip_page(spae, video, spae.encode(video), tmp_path / "a" / "page.gif")
    with Image.open(tmp_path / "a" / "page.gif") as page:
        assert page.n_frames == 5
        assert page.info["duration"] == 120
        assert page.width > 4 * 96  # the original and three numbers of layers
        for time in range(5):
            page.seek(time)
            scale, frame = 96 // 8, page.convert("RGB")
            middle = frame.getpixel((6 + 3 * scale + scale // 2, 14 + 6 + 5 * scale + scale // 2))
            wanted = (video[0, :, time, 5, 3] + 1) * 127.5
            assert max(abs(a - b) for a, b in zip(middle, wanted.tolist(), strict=True)) < 60  # 256 colours


def test_features_over_time_are_of_frames_and_of_their_changes(model):
    def see(images):
        pooled = images.mean((2, 3))
        return pooled, pooled.log_softmax(1)

    seen = ImageFeatures("toy", see).over_time()
    video = clips(40)  # 200 frames, more than go through at once
    features, classes = seen.all_of(video, batch_size=20)
    means = video.mean((3, 4))
    changes = (means[:, :, 1:] - means[:, :, :-1]).abs().mean(2)
    torch.testing.assert_close(features, torch.cat([means.mean(2), changes], 1))
    torch.testing.assert_close(classes.exp(), means.softmax(1).mean(2))
    still = video.mean(2, keepdim=True).expand_as(video)  # as bright on the whole, but nothing moves
    without, _ = seen.all_of(still)
    torch.testing.assert_close(without[:, :3], features[:, :3])
    assert without[:, 3:].abs().max() < 1e-6
    assert frechet_distance(features, without) > 10 * frechet_distance(features[:20], features[20:])
    report = evaluate_reconstruction(model, video, features=seen)
    assert report["layers"][2]["frechet"] > 0
    assert "of the features of toy over time, not I3D; PSNR" in layer_table(report)


def test_the_command_measures_clips(tmp_path, monkeypatch, model, capsys):
    def see(images):
        pooled = images.mean((2, 3))
        return pooled, pooled.log_softmax(1)

    monkeypatch.setattr(ImageFeatures, "lite0", lambda size: ImageFeatures(f"toy at {size}", see))
    monkeypatch.setattr("spae.commands.eval.load_tokenizer", lambda name: model)
    monkeypatch.setattr("spae.eval.tasks.reconstruction.open_data", lambda *_, **__: Coloured(clips(6)))
    command = [
        "eval",
        "reconstruction",
        "--data",
        "x",
        "--lpips",
        "none",
        "--out",
        str(tmp_path / "o"),
        "--json",
    ]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["features"] == "toy at 128 over time"
    assert report["features_width"] == 6
    assert report["layers"][2]["frechet"] > 0
    with Image.open(tmp_path / "o" / "reconstruction.gif") as page:
        assert page.n_frames == 5


@pytest.mark.parametrize(("caption", "named"), [("w3", True), ("3 moving left", False)])
def test_names_count_where_the_first_word_can_be_one(monkeypatch, model, caption, named):
    data = Coloured(clips(4))
    data.captions = [caption] * 4
    monkeypatch.setattr("spae.eval.tasks.reconstruction.open_data", lambda *_, **__: data)
    report = evaluate(find("reconstruction"), Run("r", RECONSTRUCTION, model))
    assert ("named" in report) == named


class Coloured(list):
    captions, labels, keys, classes = None, None, None, ()

    def __getitem__(self, index):
        return super().__getitem__(index), 0
