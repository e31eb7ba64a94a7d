"""The tasks with a language model that copies: it answers like the example that shares most words."""

import random
from collections import Counter
from typing import NamedTuple

import pytest
import torch

from spae.codebook import Codebook
from spae.eval.episodes import Episode, FewShotSetting, Shot, sample_episodes
from spae.eval.fewshot import WordImages, evaluate_fewshot, overlap_guess, shuffled
from spae.incontext import Example, Lexicon
from spae.incontext.tasks import (
    DEGRADATIONS,
    RATES,
    Windows,
    answer_text,
    caption_text,
    captioned_images_task,
    captioning_task,
    classification_task,
    classify,
    corrupt,
    denoising_task,
    hidden_tokens,
    image_query,
    majority,
    question_about,
    restore_windows,
    vqa_task,
)
from spae.llm.journal import Journal
from spae.tokenizers import PyramidTokens
from spae_ops import Pyramid

WORDS = 256  # ids from here on are words of images, below are bytes of text
PYRAMID = Pyramid.square(2, (1, 2))


class Prefix(NamedTuple):
    ids: tuple[int, ...]


class Copier:
    """Reads lines "... words ... : answer" and answers like the line with most words in common."""

    name = identity = "copier"
    context_window = 4096
    start_ids: tuple[int, ...] = ()
    special_ids: frozenset[int] = frozenset()

    def __init__(self):
        self.asked: list[tuple[int, ...]] = []

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return "".join(chr(i) if i < WORDS else f"<{i}>" for i in ids)

    def check(self, ids):
        assert ids

    def prefix(self, ids, base=None):
        return Prefix((base.ids if base else ()) + tuple(ids))

    def _answer(self, ids):
        *lines, query = "".join(chr(i) for i in ids).split("\n")
        words = Counter(c for c in query if ord(c) >= WORDS)
        best = max(
            (line for line in lines if any(ord(c) >= WORDS for c in line)),
            key=lambda line: (words & Counter(line)).total(),
        )
        end = "" if best.endswith(".") else "\n"
        return [ord(c) for c in best.rsplit(":", 1)[1] + end]

    def generate(
        self, prompts, num_tokens, *, prefix=None, allowed=None, sampling=None, streams=None, stop=()
    ):
        rows = []
        for ids in prompts:
            ids = (prefix.ids if prefix else ()) + tuple(ids)
            self.asked.append(ids)
            row = self._answer(ids)
            row = row[: next((i for i, token in enumerate(row) if token in stop), len(row))]
            rows.append((row + [-1] * num_tokens)[:num_tokens])
        return torch.tensor(rows)

    def logprobs(self, prompts, continuations, *, prefix=None):
        answers = [self._answer((prefix.ids if prefix else ()) + tuple(ids)) for ids in prompts]
        return [
            torch.tensor([0.0 if i < len(a) and a[i] == t else -5.0 for i, t in enumerate(c)])
            for a, c in zip(answers, continuations, strict=True)
        ]


def words(*numbers):
    return tuple(WORDS + n for n in numbers)


def test_an_episode_as_a_prompt():
    llm = Copier()
    shots = [(words(1, 2), 1), (words(3, 4), 0)]
    task = classification_task(shots, ["cat", "dog"])
    verdict = classify(llm, task, ["cat", "dog"], words(4, 5))
    assert (verdict.generated, verdict.exact, verdict.ranked) == ("cat", 0, 0)
    assert verdict.scores == (0.0, -15.0)
    assert llm.decode(llm.asked[-1]) == (
        'For each of the following input-output pairs, output is one of ["cat", "dog"].\n'
        "Input:<257><258>, output: dog.\nInput:<259><260>, output: cat.\nInput:<260><261>, output:"
    )
    bare = classification_task(shots, ["cat", "dog"], induction=False)
    verdict = classify(llm, bare, ["cat", "dog"], words(1))
    assert (verdict.generated, verdict.exact, verdict.ranked) == ("dog", 1, 1)
    assert llm.decode(llm.asked[-1]).startswith("Input:<257>")
    with pytest.raises(ValueError, match="names: expected different ones"):
        classification_task(shots, ["cat", "cat"])


def test_an_answer_counts_only_whole():
    llm = Copier()
    names = ["dog", "dog house"]
    task = classification_task([(words(1), 1), (words(2), 0)], names)
    assert classify(llm, task, names, words(1)).exact == 1
    assert classify(llm, task, names, words(2)).exact == 0
    other = classification_task([(words(1), 1), (words(2), 0)], ["dog", "kennel"])
    assert classify(llm, other, names, words(1)).exact is None
    for wrong in ("end", ("",), (".", 5)):
        with pytest.raises(ValueError, match="stop: expected texts of at least a character, got"):
            classify(llm, task, names, words(1), stop=wrong)


class Prior(Copier):
    """Likes "cat" after anything, by 3, and the name of the line with most words in common, by 2."""

    def logprobs(self, prompts, continuations, *, prefix=None):
        rows = []
        for ids, continuation in zip(prompts, continuations, strict=True):
            ids = (prefix.ids if prefix else ()) + tuple(ids)
            self.asked.append(ids)
            name = self.decode(continuation).strip(" .\n")
            words_shown = any(i >= WORDS for i in ids[len(ids) - 1 - ids[::-1].index(10) :])
            copied = words_shown and name == self.decode(self._answer(ids)).strip(" .\n")
            row = torch.full((len(continuation),), -1.0)
            row[0] += 3 * (name == "cat") + 2 * copied
            rows.append(row)
        return rows


def test_calibration_takes_away_what_a_name_has_without_an_image():
    llm = Prior()
    shots, names = [(words(1, 2), 1), (words(3, 4), 0)], ["cat", "dog"]
    task = classification_task(shots, names)
    plain = classify(llm, task, names, words(1, 2))
    calibrated = classify(llm, task, names, words(1, 2), calibrate=True)
    assert (plain.ranked, calibrated.ranked) == (0, 1)
    assert classify(llm, task, names, words(3, 4), calibrate=True).ranked == 0
    # Zhao et al.: the probability among the names over that of the empty inputs, here all alike.
    free = torch.tensor([3.0, 0.0]).log_softmax(0)
    own = torch.tensor([3.0, 2.0]).log_softmax(0)
    assert calibrated.scores == pytest.approx((own - free).tolist(), abs=1e-6)
    empty = [llm.decode(ids).rsplit("\n", 1)[1] for ids in llm.asked]
    assert {"Input: N/A, output:", "Input:, output:", "Input: [MASK], output:"} <= set(empty)


def test_ranking_per_token_does_not_punish_long_names():
    llm, names = Prior(), ["ox", "dromedary"]
    task = classification_task([(words(1), 0), (words(2), 1)], names)
    assert classify(llm, task, names, words(2)).ranked == 0
    verdict = classify(llm, task, names, words(2), per_token=True)
    assert verdict.ranked == 1
    assert verdict.scores == pytest.approx((-1.0, -1.0 + 2 / len(" dromedary.")))


def test_forms_and_free_generation():
    llm, names = Copier(), ["cat", "dog"]
    shots = [(words(1), 1), (words(2), 0)]
    assert classify(llm, classification_task(shots, names, form="colon"), names, words(1)).exact == 1
    assert llm.decode(llm.asked[-1]).endswith("<257>: dog\n<258>: cat\n<257>:")
    with pytest.raises(ValueError, match="form: expected one of v2l, colon, got 'poem'"):
        classification_task(shots, names, form="poem")
    task = captioning_task([words(1), words(2)], ["a brown dog", "a cat"])
    free = classify(llm, task, names, words(1), stop=("\n",), max_tokens=40)
    assert free.generated == "a brown dog", "not cut at the longest name"
    assert classify(llm, task, names, words(1), stop=("w",), max_tokens=40).generated == "a bro"
    assert classify(llm, task, names, words(1)).generated == "a br"


def test_fewshot_figures_and_controls(tmp_path):
    generator = random.Random(0)
    labels = [i % 6 for i in range(60)]
    # Each class has three words of its own among ten: legible, to a copier, nearly always.
    images = [
        words(*(generator.randrange(200) for _ in range(5)), *(1000 + 3 * label + j for j in range(3)))
        for label in labels
    ]
    data = WordImages(images, images, ["ant", "bee", "cow", "dog", "eel", "fox"])
    setting = FewShotSetting(5, inner_shots=1)
    episodes = sample_episodes(labels, setting, 150, seed=1)
    journal = Journal(tmp_path / "records.jsonl")
    report = evaluate_fewshot(Copier(), data, setting, episodes, journal=journal, key="run")
    assert report["chance"] == 0.2
    assert report["episodes"] == len(journal) == 150
    for name in ("exact", "ranked", "word overlap", "centroid on words"):
        assert report[name]["value"] > 0.95, name
    assert report["exact over shuffled exact"]["low"] > 0.5
    assert report["exact over word overlap"]["low"] <= 0 <= report["exact over word overlap"]["high"] + 0.05
    for name in ("shuffled exact", "shuffled ranked"):
        assert report[name]["low"] <= 0.2 <= report[name]["high"], name
    # What the journal knows is not asked for again, and gives the same report.
    silent = Copier()
    again = Journal(tmp_path / "records.jsonl")
    assert evaluate_fewshot(silent, data, setting, episodes, journal=again, key="run") == report
    assert silent.asked == []


def test_word_overlap_counts_multiplicity_and_breaks_ties_evenly():
    data = WordImages([words(1, 1, 2), words(1, 2, 3)], [words(1, 1), words(9)], ["a", "b"])
    shots = (Shot(0, 0), Shot(1, 1))
    assert overlap_guess(data, Episode((0, 1), shots, Shot(0, 0)), random.Random(0)) == 0
    generator = random.Random(0)
    guesses = [overlap_guess(data, Episode((0, 1), shots, Shot(1, 0)), generator) for _ in range(200)]
    assert 70 < sum(guesses) < 130


def test_shuffling_moves_images_and_keeps_labels():
    episode = sample_episodes([0] * 9 + [1] * 9, FewShotSetting(2, 5), 1)[0]
    dealt = shuffled(episode, random.Random(1))
    assert [s.way for s in dealt.shots] == [s.way for s in episode.shots]
    assert sorted(s.item for s in dealt.shots) == sorted(s.item for s in episode.shots)
    assert dealt.shots != episode.shots
    assert dealt.query == episode.query


def test_captions_and_questions():
    llm = Copier()
    task = captioning_task([words(1), words(2)], ["A dog.", "A cat."])
    assert answer_text(llm, task, words(2)) == "A cat."
    assert caption_text(llm, task, words(2)) == "A cat", "V2L's end of a caption"
    assert answer_text(llm, task, words(2), stop=("t", "\n")) == "A ca"
    longer = captioning_task([words(1), words(2)], ["A dog", "A cat"])
    assert caption_text(llm, longer, words(2)) == "A cat", "a line ends it too"
    task = vqa_task([words(1), words(2)], ["what shape?", "what colour?"], ["circle", "red"])
    assert answer_text(llm, task, question_about(words(1), "what shape?")) == "circle"
    assert llm.decode(llm.asked[-1]).endswith("Condition:<257> Question: what shape? Answer:")


def test_captioned_images():
    task = captioned_images_task([words(1, 2), words(3, 4)], ["3", "8"])
    assert task.examples[1] == Example("an image of 8", words(3, 4))
    assert image_query("1+7") == Example("an image of 1+7")
    with pytest.raises(ValueError, match="captions: expected 1, one for each image, got 2"):
        captioned_images_task([words(1)], ["3", "8"])


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degradations_change_what_they_say(name):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    degraded = DEGRADATIONS[name](images)
    assert degraded.shape == images.shape
    assert not torch.equal(degraded, images)
    kept = (degraded == images).all(1).double().mean().item()
    assert kept == pytest.approx({"inpainting": 0.75, "outpainting": 0.5}.get(name, 0.0), abs=0.02)
    undo = {"translation": lambda x: x.roll(-4, -1), "rotation": lambda x: x.rot90(-1, (-2, -1))}
    if name in undo:
        assert torch.equal(undo[name](degraded), images)


def test_denoising_task():
    llm = Copier()
    vocabulary = [llm.decode([WORDS + i]) for i in range(500)]
    book = Codebook.from_arrays(vocabulary, torch.randn(500, 4), torch.arange(500) + WORDS)
    lexicon = Lexicon(book, PYRAMID, _with_vocabulary(llm, WORDS + 500))
    original = PyramidTokens(torch.arange(5).reshape(1, 5), PYRAMID)
    degraded = PyramidTokens(torch.arange(5, 10).reshape(1, 5), PYRAMID)
    task, query = denoising_task(degraded, original, lexicon, condition_layers=1)
    assert len(task.examples) == len(RATES) == 10
    assert query.condition == words(5)
    assert all(len(e.condition) == 1 and len(e.answer) == 5 for e in task.examples)
    assert majority(task) == words(0, 1, 2, 3, 4)
    assert denoising_task(degraded, original, lexicon, condition_layers=1) == (task, query)
    generator = torch.Generator().manual_seed(0)
    for rate in (0.0, 0.2, 0.6):
        changed = (corrupt([original], rate, 10**6, generator)[0].ids != original.ids).sum().item()
        assert changed == round(5 * rate)


def test_condition_and_answer_are_corrupted_alike():
    """The same positions, the same words; those of fewer layers are the first."""
    pyramid = Pyramid.square(8, (1, 2, 8))
    count = pyramid.num_tokens
    original = PyramidTokens(torch.arange(3 * count).reshape(3, count), pyramid)
    degraded = PyramidTokens(original.ids + 10**4, pyramid)
    generator = torch.Generator().manual_seed(0)
    short, whole = corrupt([degraded.upto(2), original], 0.5, 10**9, generator)
    assert short.ids.shape == (3, 5)
    assert short.num_layers == 2
    replaced = whole.ids != original.ids
    assert replaced.sum(1).tolist() == [round(0.5 * count)] * 3
    assert not torch.equal(replaced[0], replaced[1])
    assert torch.equal(short.ids != degraded.ids[:, :5], replaced[:, :5])
    assert torch.equal(short.ids[replaced[:, :5]], whole.ids[:, :5][replaced[:, :5]])
    assert replaced[:, :5].any()


def test_random_words_are_of_their_layer():
    pyramid = Pyramid.square(4, (1, 2, 4))
    original = PyramidTokens(torch.full((200, 21), 40), pyramid)
    masks = torch.zeros(3, 50, dtype=torch.bool)
    masks[0, 7] = masks[1, 10:13] = masks[2, 20:40] = True
    (changed,) = corrupt([original], 0.5, 50, torch.Generator().manual_seed(0), masks)
    assert ((changed.ids != 40).sum(1) == 10).all()
    found = [set(layer.unique().tolist()) - {40} for layer in changed.layers()]
    assert found == [{7}, {10, 11, 12}, set(range(20, 40))]


def test_hidden_tokens_are_those_of_the_grey_region():
    """V2L's: the middle 8 x 8 of 16 x 16, the lower 8 x 16; nothing where the whole image is degraded."""
    pyramid = Pyramid.square(16, (1, 16))
    middle = hidden_tokens("inpainting", pyramid)
    assert middle[0]  # the first layer's only token stands in the middle
    assert middle[1:].reshape(16, 16)[4:12, 4:12].all()
    assert middle.sum() == 1 + 64
    local = hidden_tokens("inpainting", pyramid, local=True)
    assert not local[0]
    assert torch.equal(local[1:], middle[1:])
    lower = hidden_tokens("outpainting", pyramid)[1:].reshape(16, 16)
    assert lower[8:].all()
    assert not lower[:8].any()
    assert [hidden_tokens(name, pyramid) for name in ("deblurring", "translation", "rotation")] == [None] * 3


@pytest.mark.parametrize("is_hidden", [True, False])
def test_windows_of_ten_copies(is_hidden, tmp_path):
    """m words at a time: from the n before them, or from those and their own of the degraded image."""
    llm = Copier()
    vocabulary = [llm.decode([WORDS + i]) for i in range(500)]
    book = Codebook.from_arrays(vocabulary, torch.randn(500, 4), torch.arange(500) + WORDS)
    lexicon = Lexicon(book, PYRAMID, llm)
    original = PyramidTokens(torch.arange(5).reshape(1, 5), PYRAMID)
    degraded = PyramidTokens(torch.arange(5, 10).reshape(1, 5), PYRAMID)
    shown = original if is_hidden else degraded
    task, query = denoising_task(shown, original, lexicon, condition_layers=2)
    hidden = torch.tensor([False, True, True, True, False]) if is_hidden else None
    windows, log = Windows(predicted=2, before=1), tmp_path / "log.jsonl"
    restored = restore_windows(llm, task, query, lexicon, hidden, windows=windows, log=log)
    lines = [llm.decode(ids).rsplit("\n", 1)[1] for ids in llm.asked]
    if is_hidden:
        assert (restored[0], restored[4]) == words(0, 4)
        assert lines[0] == "Input:<256>, output:"
        assert lines[1] == f"Input:<{restored[2]}>, output:", "from what was predicted before"
    else:
        inputs = ["<261><262>", "<262><263><264>", "<264><265>"]
        assert lines == [f"Input:{part}, output:" for part in inputs]
    prompt = llm.decode(llm.asked[0]).split("\n")
    assert prompt[0] == "Learn a new language and predict 2 tokens following the examples."
    assert len(prompt) == 1 + 10 + 1
    start = 1 if is_hidden else 0
    for line, example in zip(prompt[1:], task.examples, strict=False):
        assert line.endswith(f", output:{llm.decode(example.answer[start : start + 2])}.")
    # What is kept is not asked for again; other windows are another run.
    asked = len(llm.asked)
    assert restore_windows(llm, task, query, lexicon, hidden, windows=windows, log=log) == restored
    assert len(llm.asked) == asked
    restore_windows(llm, task, query, lexicon, hidden, windows=Windows(1, 1), log=log)
    assert len(llm.asked) > asked
    short = denoising_task(shown if is_hidden else degraded, original, lexicon, condition_layers=1)
    with pytest.raises(ValueError, match="task: expected 5 words in each condition"):
        restore_windows(llm, *short, lexicon, hidden)
    with pytest.raises(ValueError, match="predicted: expected 1 or more, got 0"):
        Windows(0)


def _with_vocabulary(llm, size):
    llm.vocab_size = size
    return llm
