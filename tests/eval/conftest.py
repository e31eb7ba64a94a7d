"""Toy tokenizers over the tiny language model's vocabulary, and toy data in place of what is fetched."""

import pytest
import torch
from torch.utils.data import Dataset

from spae import SPAE, Codebook, SPAEConfig
from spae.eval.labelled import GROUPS

SIZE = 8


class Pictures(Dataset):
    """Noisy pictures of a few classes, with what every packaged set has."""

    def __init__(self, classes, each, seed):
        generator = torch.Generator().manual_seed(seed)
        means = torch.rand(classes, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7)) * 2 - 1
        self.labels = torch.arange(classes * each) % classes
        noise = torch.randn(len(self.labels), 3, SIZE, SIZE, generator=generator)
        self.images = (means[self.labels] + 0.1 * noise).clamp(-1, 1)
        self.concepts = (10 + self.labels).tolist()
        self.captions = [f"thing {'abcdefghijklmnopqrstuvwxyz'[label]}" for label in self.labels]
        self.subcategories = [list(GROUPS)[label // 3 % len(GROUPS)] for label in self.labels.tolist()]
        self.answers = ("blue", "circle", "green", "no", "red", "yes")
        self.questions = [
            [(f"what colour {i}?", self.answers[(i % 3) * 2]), ("a circle?", "no" if i % 2 else "yes")]
            for i in range(len(self.labels))
        ]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])


class Letters:
    """Texts are alike that have the same letters."""

    def text_features(self, texts):
        rows = [[1.0 + text.casefold().count(letter) for letter in "abcdefghijklmno"] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


class NearestMean:
    """Reads a picture as the class whose mean is nearest."""

    def __init__(self, pictures):
        classes = range(int(pictures.labels.max()) + 1)
        self.means = torch.stack([pictures.images[pictures.labels == c].mean(0).flatten() for c in classes])

    def predict(self, images):
        return torch.cdist(images.flatten(1), self.means).argmin(1)


class FirstPixel:
    """Reads a class off an image's first pixel."""

    def __init__(self, images, labels):
        assert len(images) == len(labels)

    def predict(self, images):
        return images[:, 0, 0, 0].round().long()


SETS = {
    ("mnist", "train"): (10, 30, 1),
    ("mnist", "test"): (10, 9, 2),
    ("fashion", "train"): (10, 30, 9),
    ("fashion", "test"): (10, 6, 8),
    ("emoji", "train"): (20, 12, 3),
    ("emoji", "new_concept"): (22, 3, 4),
    ("emoji", "new_both"): (22, 1, 5),
    ("easy-vqa", "test"): (6, 5, 6),
}


@pytest.fixture
def toy_data(monkeypatch):
    def load(name, split, size):
        assert size == SIZE
        return Pictures(*SETS[name, split])

    def lite0_features(images):
        return {item: image.mean((1, 2)) for item, image in images.items()}

    monkeypatch.setattr("spae.data.load", load)
    monkeypatch.setattr("spae.eval.similarity.CaptionScorer", Letters)
    monkeypatch.setattr("spae.eval.restoration.DigitClassifier", lambda: NearestMean(Pictures(10, 30, 1)))
    monkeypatch.setattr("spae.eval.tasks.fewshot.lite0_features", lite0_features)


@pytest.fixture
def toy_drawable(monkeypatch, toy_data):
    """What is drawn is read off its first pixel."""
    monkeypatch.setattr("spae.eval.drawable.PixelClassifier", FirstPixel)


def tokenizer(llm, seed):
    """Another seed is another tokenizer: other weights, and other words of the language model."""
    from spae.testing.tiny_llm import tiny_words

    torch.manual_seed(seed)
    config = SPAEConfig((SIZE, SIZE), (1, 2, 2), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    ids = torch.arange(60) * 3 + 20 + seed
    book = Codebook.from_arrays(tiny_words(llm, ids), torch.randn(60, 6), llm_ids=ids)
    return SPAE(config, book).eval()


@pytest.fixture(scope="session")
def spae(tiny):
    return tokenizer(tiny, 0)


@pytest.fixture(scope="session")
def other_spae(tiny):
    return tokenizer(tiny, 1)


class Stopped(Exception):
    """As if the process had been killed."""


class Interrupted:
    """A language model that stops after some calls; `calls` counts them."""

    Stopped = Stopped

    def __init__(self, llm, calls_left=None):
        self._llm, self.calls_left, self.calls = llm, calls_left, 0

    def __getattr__(self, name):
        return getattr(self._llm, name)

    def generate(self, *arguments, **options):
        self.calls += 1
        if self.calls_left is not None and self.calls > self.calls_left:
            raise Stopped
        return self._llm.generate(*arguments, **options)


@pytest.fixture(scope="session")
def tiny():
    pytest.importorskip("transformers", reason="needs the package transformers")
    from spae.testing.tiny_llm import tiny_llm

    return tiny_llm()


@pytest.fixture(scope="session")
def interrupted():
    return Interrupted


@pytest.fixture
def goes_on(tmp_path, tiny):
    """Checks that a run, stopped after some calls, goes on to the same files without asking anything twice.

    run: of a language model and a folder, to its report. name: of its files. Returns the report.
    """

    def check(run, name, calls_left):
        counted = Interrupted(tiny)
        whole = run(counted, tmp_path / "whole")
        with pytest.raises(Stopped):
            run(Interrupted(tiny, calls_left), tmp_path / "parts")
        resumed = Interrupted(tiny)
        assert run(resumed, tmp_path / "parts") == whole
        assert resumed.calls == counted.calls - calls_left
        for suffix in ("json", "md", "png"):
            files = [tmp_path / part / f"{name}.{suffix}" for part in ("whole", "parts")]
            assert files[0].read_bytes() == files[1].read_bytes()
        return whole

    return check
