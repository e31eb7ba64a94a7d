"""Clips restored and continued: the five degradations over frames, and the next frames."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.data import Images
from spae.eval.restoration import Lab
from spae.eval.run import Run, evaluate, find
from spae.eval.tasks.denoise import Denoising
from spae.eval.tasks.nextframe import NextFrame
from spae.incontext.tasks import DEGRADATIONS, later_tokens
from spae.metrics import psnr, ssim, temporal_difference_error

pytest.importorskip("matplotlib", reason="needs the package matplotlib")
NEXT = NextFrame(data="toy", images=2, examples=4, layers=3, window=4)


class Clips:
    """Squares of some brightness on noise, that drift to the right."""

    def __init__(self, count: int, seed: int):
        random = torch.Generator().manual_seed(seed)
        self.clips = torch.rand(count, 3, 5, 8, 8, generator=random) * 0.2 - 1
        for i, (top, left) in enumerate(torch.randint(4, (count, 2), generator=random).tolist()):
            for time in range(5):
                self.clips[i, :, time, top : top + 4, (left + time) % 5 : (left + time) % 5 + 4] = i % 3 / 2

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return self.clips[index], index


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    def opened(name, split, image_size):
        assert (name, image_size) == ("toy", (5, 8, 8))
        return Images(Clips(24, 1) if split == "train" else Clips(6, 2))

    monkeypatch.setattr("spae.eval.restoration.data.open_data", opened)
    monkeypatch.setattr("spae.eval.restoration.check_data", lambda *_: None)


def made(tiny, config) -> SPAE:
    from spae.testing.tiny_llm import tiny_words

    torch.manual_seed(0)
    ids = torch.arange(60) * 3 + 20
    book = Codebook.from_arrays(tiny_words(tiny, ids), torch.randn(60, 6), llm_ids=ids)
    return SPAE(config, book.normalised("centre+scale")).eval()


@pytest.fixture
def model(tiny, clip_config):
    return made(tiny, clip_config)


@pytest.fixture
def pages(monkeypatch):
    pages, measured = [], Lab.measured
    monkeypatch.setattr(Lab, "measured", lambda *page: pages.append(page) or measured(*page))
    return pages


def run(name, model, llm, out, settings):
    return evaluate(find(name), Run(name, settings, model, llm, out))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_clips_are_degraded_frame_by_frame(name):
    clips = Clips(3, 0).clips
    degraded = DEGRADATIONS[name](clips)
    assert not torch.equal(degraded, clips)
    for time in range(5):
        torch.testing.assert_close(degraded[:, :, time], DEGRADATIONS[name](clips[:, :, time]))


def test_clips_are_restored_in_every_task(tmp_path, model, tiny, pages):
    chosen = Denoising(data="toy", images=2, layers=3, stride=8, window=4)
    report = run("denoise", model, tiny, tmp_path, chosen)
    ((lab, rows, page),) = pages
    assert [title.split(":")[0] for title, _ in page] == list(DEGRADATIONS)
    assert (tmp_path / "denoise.png").stat().st_size > 0
    for title, methods in page:
        name = title.split(":")[0]
        assert torch.equal(methods["degraded"].images, DEGRADATIONS[name](lab.originals))
        kept = methods["language model"].tokens.ids == lab.tokens.ids
        # The grid is 3 x 2 x 2: its lower row is hidden at each of three moments, or all of the middle.
        if name == "outpainting":
            assert kept[:, 4:].reshape(2, 3, 2, 2)[:, :, 0].all()
    of = {(row["task"], row["method"]): row for row in rows}
    assert of["rotation", "own words"]["words"]["value"] == 1
    made = dict(page)["rotation:\noriginal"]["language model"].images
    frames = [ssim(lab.originals[:, :, t], made[:, :, t]) for t in range(5)]
    assert of["rotation", "language model"]["ssim"]["value"] == pytest.approx(
        torch.stack(frames).mean().item(), abs=1e-6
    )
    changes = temporal_difference_error(lab.originals, made).mean().item()
    assert of["rotation", "language model"]["temporal_difference_error"]["value"] == pytest.approx(changes)
    assert "| temporal difference error |" in find("denoise").table(report)


def test_only_the_last_moment_is_written_and_measured(tmp_path, model, tiny, pages):
    report = run("nextframe", model, tiny, tmp_path, NEXT)
    ((lab, rows, [(_, methods)], region),) = pages
    hidden = later_tokens(model.pyramid)
    assert hidden.tolist() == [False] + [False, False, True] + [False] * 8 + [True] * 4
    assert (report["frames"], report["hidden"]) == (2, 5)
    for name, (clips, tokens) in methods.items():
        if tokens is not None:
            assert torch.equal(tokens.ids[:, ~hidden], lab.tokens.ids[:, ~hidden]), name
            torch.testing.assert_close(clips[:, :, :3], methods["own words"].images[:, :, :3])
    assert torch.equal(methods["last frame"].images[:, :, :3], lab.originals[:, :, :3])
    assert (methods["last frame"].images[:, :, 3:] == lab.originals[:, :, 2:3]).all()
    assert region(lab.originals).shape[2] == 3  # the last known one is shown, too
    for row in rows:
        clips, tokens = methods[row["method"]]
        quality = psnr(lab.originals[:, :, 3:], clips[:, :, 3:]).mean().item()
        assert row["psnr"]["value"] == pytest.approx(min(quality, 60))
        if tokens is not None:
            same = (tokens.ids == lab.tokens.ids)[:, hidden].double().mean().item()
            assert row["words"]["value"] == pytest.approx(same)
    table = find("nextframe").table(report)
    assert "the last 2 frames, 5 words, after 4 clips, 2 words at a time from the 4 before" in table


def test_the_answer_is_never_in_the_prompt(tmp_path, model, tiny, monkeypatch, pages):
    """Another end of the clips changes nothing that the language model is asked; the control is asked with the
    same queries, and with the examples' ends dealt out."""
    asked, put = [], "spae.eval.tasks.nextframe.restore_windows"
    from spae.incontext.tasks import restore_windows

    def spy(llm, task, query, *arguments, **options):
        asked.append((task, query, restore_windows(llm, task, query, *arguments, **options)))
        return asked[-1][2]

    monkeypatch.setattr(put, spy)
    run("nextframe", model, tiny, tmp_path / "a", NEXT)
    first, plain = list(asked), Clips.__getitem__

    def other_end(self, index):
        clip = plain(self, index)[0].clone()
        if len(self) == 6:  # of the clips that are continued
            clip[:, 3:] = -clip[:, 3:]
        return clip, index

    monkeypatch.setattr(Clips, "__getitem__", other_end)
    asked.clear()
    run("nextframe", model, tiny, tmp_path / "b", NEXT)
    assert not torch.equal(pages[0][0].tokens.ids, pages[1][0].tokens.ids)
    for (task, query, words), (again, other, found) in zip(first, asked, strict=True):
        assert task == again
        assert query == other
        assert words == found
    for (task, query, _), (dealt, same, _) in zip(first[::2], first[1::2], strict=True):
        assert query == same
        assert [e.condition for e in task.examples] == [e.condition for e in dealt.examples]
        assert all(e.condition == e.answer for e in task.examples)
        assert sorted(e.answer for e in task.examples) == sorted(e.answer for e in dealt.examples)
        assert [e.answer for e in task.examples] != [e.answer for e in dealt.examples]


def test_an_interrupted_run_goes_on(model, goes_on):
    goes_on(partial(run, "nextframe", model, settings=NEXT), "nextframe", 5)


def test_errors_name_what_came_and_what_was_expected(tmp_path, model, tiny):
    for options, message in (
        ({"moments": 3}, r"moments: expected 1 or more, and fewer .*, got 3 of \[3, 2, 2\]"),
        ({"examples": 30}, "examples: expected at most 24, got 30"),
        ({"images": 7}, "images: expected at most 6, got 7"),
    ):
        with pytest.raises(ValueError, match=message):
            run("nextframe", model, tiny, tmp_path, NextFrame(**{"data": "toy", "images": 2, **options}))
    for options, message in (
        ({"images": 1}, "images: expected a whole number from 2"),
        ({"stride": 0}, "stride: expected a whole number from 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            NextFrame(data="toy", **options)
    config = SPAEConfig(
        image_size=(4, 8, 8), grids=((1, 1, 1),), channels=4, multipliers=(1, 1), num_res_blocks=1
    )
    with pytest.raises(
        ValueError, match=r"model: expected a causal one of clips, .*, got SPAE of \(4, 8, 8\)"
    ):
        run("nextframe", made(tiny, config), tiny, tmp_path, NEXT)
    with pytest.raises(
        ValueError, match=r"data: expected clips .*, for a model of \(5, 8, 8\), got 'digits'"
    ):
        run("denoise", model, tiny, tmp_path, Denoising(images=2))
