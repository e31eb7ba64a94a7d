"""Clips beside their frames as images."""

from __future__ import annotations

import math

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.eval.run import Run, evaluate
from spae.eval.tasks import frames
from spae.eval.tasks.frames import Frames
from spae.metrics import psnr, temporal_difference_error

CLIPS = torch.rand(6, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Clips(list):
    captions, labels, keys, classes = None, None, None, ()


@pytest.fixture
def models(clip_config, monkeypatch):
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" w{i}" for i in range(40)], torch.randn(40, 4))
    small = {"channels": 4, "multipliers": (1, 1, 1), "num_res_blocks": 1}
    images = SPAE(SPAEConfig((8, 8), (1, 2), **small), book).eval()
    monkeypatch.setattr(frames.Tokenizer, "from_pretrained", lambda name: images)
    monkeypatch.setattr(frames, "open_data", lambda *_, **__: Clips((clip, 0) for clip in CLIPS))
    return SPAE(clip_config, book).eval(), images


def test_rows_are_of_clips_of_every_frame_and_of_key_frames(models, tmp_path):
    video, images = models
    report = evaluate(frames, Run("frames", Frames("x", clips=6, images=("toy",)), video, None, tmp_path))
    rows = {(row["method"], row["layers"]): row for row in report["rows"]}
    assert len(rows) == len(report["rows"]) == 3 + 3 * (2 + 3)

    def check(method, layers, words, again):
        row = rows[method, layers]
        assert (row["words"], row["bits"]) == (words, pytest.approx(words * math.log2(40)))
        assert row["psnr"]["value"] == pytest.approx(psnr(CLIPS, again).mean().item(), rel=1e-4)
        error = temporal_difference_error(CLIPS, again).mean().item()
        assert row["temporal_difference_error"]["value"] == pytest.approx(error, rel=1e-4)

    with torch.no_grad():
        for layers, words in ((1, 1), (2, 4), (3, 16)):
            check("clips", layers, words, video.decode(video.encode(CLIPS).upto(layers)))
        for layers, words in ((1, 1), (2, 5)):
            again = [images.decode(images.encode(CLIPS[:, :, t]).upto(layers)) for t in range(5)]
            check("every frame: toy", layers, 5 * words, torch.stack(again, 2))
            held = [again[place] for place in (0, 0, 2, 2, 4)]  # what is as near to both is the earlier one's
            check("key frames: toy", layers, 3 * words, torch.stack(held, 2))
            mixed = [again[0], (again[0] + again[2]) / 2, again[2], (again[2] + again[4]) / 2, again[4]]
            check("key frames, crossfaded: toy", layers, 3 * words, torch.stack(mixed, 2))
        alone = video.resized((1, 8, 8), ((1, 1, 1), (1, 1, 1), (1, 2, 2)))
        again = [alone.decode(alone.encode(CLIPS[:, :, t : t + 1])) for t in range(5)]
        check("every frame: own weights", 3, 5 * 6, torch.cat(again, 2))
    text = (tmp_path / "frames.md").read_text()
    assert text.startswith("| method | layers | words | bits | PSNR (dB) | temporal difference error |")


def test_other_models_are_refused(models, capsys, monkeypatch):
    video, images = models
    with pytest.raises(ValueError, match=r"model: expected one of clips, got one of \(8, 8\)"):
        evaluate(frames, Run("frames", Frames("x"), images))
    monkeypatch.setattr(frames.Tokenizer, "from_pretrained", lambda name: video)
    with pytest.raises(
        ValueError, match=r"images: expected tokenizers of \(8, 8\), got mnist of \(5, 8, 8\)"
    ):
        evaluate(frames, Run("frames", Frames("x"), video))
    assert main(["eval", "frames", "--data", "x", "--clips", "0"]) == 1
    assert "frames.clips: expected a whole number from 1, got 0" in capsys.readouterr().err
