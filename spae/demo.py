"""`spae demo`: the first thing a user runs."""

from __future__ import annotations

import json
import random
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch

from spae import assets
from spae.clips import clip_page, frame_words
from spae.data import open_data
from spae.data.mnist import HELD_OUT_PER_CLASS, WORDS, MNISTDigits
from spae.eval.episodes import FewShotSetting, sample_episodes
from spae.eval.images import spread, stack
from spae.eval.reconstruction import evaluate_reconstruction, layer_table
from spae.eval.sums import said_sums, sum_text
from spae.figures import picture_grid, pyramid_text, reconstruction_page, shown
from spae.files import writer
from spae.incontext import Lexicon, Options, decode, seen_masks
from spae.incontext.tasks import classification_task, classify
from spae.incontext.tasks.generation import captioned_images_task, image_query
from spae.llm import FrozenLLM, load
from spae.llm.folders import require_transformers
from spae.optional import needs
from spae.token_files import as_tokens, read_tokens
from spae.tokenizers import Tokenizer
from spae.tokenizers.batches import encode_all
from spae.tokenizers.checkpoints import find
from spae_ops import implementations

EXAMPLES, PRESET = "examples.json", "preset.json"
_SETTING, _SHOWN_LAYERS = FewShotSetting(5, 1), 2
_EXAMPLES, _NUMERAL, _SUM, _DRAWN_LAYERS = 50, "3", (1, 7), 2


def check(num_images: int) -> None:
    """Raise what would stop the demo later on: a wrong number, a missing package, an asset that cannot be
    had."""
    total = len(WORDS) * HELD_OUT_PER_CLASS
    if not 1 <= num_images <= total:
        raise ValueError(f"images: expected 1 to {total}, got {num_images}")
    if find_spec("matplotlib") is None:
        raise ImportError(needs("spae demo", "matplotlib"))
    assets.require("smollm2")


def run(model: Tokenizer, model_name: str, num_images: int, out: Path) -> None:
    """Encode held-out digits, print their words, measure all 500, and draw a page; then have SmolLM2 read one
    digit's words and write those of two others."""
    started = time.perf_counter()
    lookup = next(i.name for i in implementations("nearest_code") if i.available)
    print(f"{model_name}: {sum(p.numel() for p in model.parameters()):,} parameters, {model.codebook}")
    print(f"lookup: {lookup}, {torch.get_num_threads()} threads\n")

    digits = MNISTDigits("test")
    # One of each class in turn: the held-out digits lie class by class.
    order = torch.arange(len(digits)).reshape(-1, HELD_OUT_PER_CLASS).T.flatten()
    chosen = order[:num_images]
    images, labels = digits.images[chosen], digits.labels[chosen]
    tokens = model.encode(images)
    for label, words in zip(labels.tolist(), model.words(tokens), strict=True):
        print(f'a held-out "{label}" in words, layer by layer (_ is a leading space):')
        print(pyramid_text(words, model.pyramid), "\n")

    print(layer_table(evaluate_reconstruction(model, digits.images)))
    reconstruction_page(model, images, tokens, out)
    print(f"\nThe page with all of it: {out}   ({time.perf_counter() - started:.0f} s)")
    _in_context(model, digits, out.with_name(f"{out.stem}-generated.png"))


def run_sound(model: Tokenizer, model_name: str, num_sounds: int, out: Path) -> None:
    """Make sounds of a model's own examples (`EXAMPLES` beside it, from `spae encode`): print the words of
    each, write a WAV file of it from 1..L layers, and draw a page of their spectrograms."""
    file = find(model_name) / EXAMPLES
    if not file.is_file():
        raise ValueError(
            f"model: expected {EXAMPLES} beside a model of sound, which `spae encode` writes, got none in "
            f"{file.parent}"
        )
    print(f"{model_name}: {sum(p.numel() for p in model.parameters()):,} parameters, {model.codebook}\n")
    rows = list(islice(read_tokens(file, model), num_sounds))
    tokens = as_tokens(rows, model)
    _, save = writer(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    total = model.pyramid.num_layers
    by_layers = [model.decode(tokens.upto(number)).detach() for number in range(1, total + 1)]
    for i, (row, words) in enumerate(zip(rows, model.words(tokens), strict=True)):
        name = Path(row.name).stem
        print(f"{name} in words, layer by layer (_ is a leading space):")
        print(pyramid_text(words, model.pyramid))
        files = [out.with_name(f"{out.stem}-{name}-{number}.wav") for number in range(1, total + 1)]
        for images, path in zip(by_layers, files, strict=True):
            save(images[i], path)
        print(f"  as sound, from 1 to {total} layers: {', '.join(map(str, files))}\n")
    counts = [model.pyramid.num_tokens_upto(number) for number in range(1, total + 1)]
    pictures = torch.stack(by_layers, 1).flatten(0, 1)
    titles = [f"{Path(row.name).stem}: {count}" for row in rows for count in counts]
    picture_grid(pictures, titles, out, columns=total, width=1.6)
    print(f"Their spectrograms, by number of words: {out}")


def run_clips(model: Tokenizer, model_name: str, num_clips: int, out: Path) -> None:
    """Encode held-out clips of the data that a model of clips was trained on (the `PRESET` of its run, beside
    it or one folder up, says which), print their words, measure them, and draw an animated page."""
    folder = find(model_name)
    file = next((f / PRESET for f in (folder, folder.parent) if (f / PRESET).is_file()), None)
    if file is None:
        raise ValueError(
            f"model: expected {PRESET} beside a model of clips, which says what they are of, got none in "
            f"{folder}"
        )
    print(f"{model_name}: {sum(p.numel() for p in model.parameters()):,} parameters, {model.codebook}\n")
    spec = json.loads(file.read_text(encoding="utf-8"))["data"]
    clips = spread(open_data(spec, "test", image_size=model.config.image_size), num_clips)
    videos = stack(clips, range(len(clips)))
    tokens = encode_all(model, videos)
    print("held-out clips, the words of theirs that stand for a moment or for all (_ is a leading space):")
    for caption, words in zip(clips.captions, model.words(tokens), strict=True):
        moments = frame_words(words, model.pyramid, model.pyramid.shape[0], causal=False)  # of latent frames
        print(f"  {caption or 'a clip'}: {', '.join(moments)}")
    print()
    print(layer_table(evaluate_reconstruction(model, videos, tokens=tokens)))
    page = out.with_suffix(".gif")
    clip_page(model, videos, tokens, page)
    print(f"\nThe clips beside what their words make of them, from 1 layer to all, animated: {page}")


def _in_context(model: Tokenizer, held_out: MNISTDigits, out: Path) -> None:
    """One few-shot classification and two generated digits, if there is a language model to run."""
    started = time.perf_counter()
    try:
        require_transformers()
        llm = load("smollm2", progress=True)
    except ImportError as error:
        print(f"\nNo language model reads and writes these words here: {error}")
        return
    print(f"\n{llm.name} has never seen an image. It gets words in a prompt, and nothing of it trains.\n")
    _classify(model, llm, held_out)
    _generate(model, llm, out)
    print(
        f"\nOne of each proves little, and {llm.name} is small. Measured, with controls: `spae eval fewshot`,"
        f"\n`spae eval generate`.   ({time.perf_counter() - started:.0f} s)"
    )


def _classify(model: Tokenizer, llm: FrozenLLM, digits: MNISTDigits) -> None:
    (episode,) = sample_episodes(digits.labels.tolist(), _SETTING, 1)
    names = [WORDS[label] for label in episode.classes]
    items = [shot.item for shot in (*episode.shots, episode.query)]
    tokens = encode_all(model, digits.images[items]).upto(_SHOWN_LAYERS)
    lexicon = Lexicon.of(model, llm)
    *shots, query = lexicon.llm_ids(tokens)
    pairs = [(words, shot.way) for words, shot in zip(shots, episode.shots, strict=True)]
    verdict = classify(llm, classification_task(pairs, names), names, query)
    first, last = (" ".join(shown(lexicon.word(i)) for i in ids) for ids in (query[:3], query[-2:]))
    print(
        f"Reading, {_SETTING.name}: {len(pairs)} digits of {len(query)} words with their names, then one "
        "without:"
    )
    print(f"  Input: {first} .. {last}, output:")
    print(
        f'  {llm.name} writes "{verdict.generated}" and finds "{names[verdict.ranked]}" the likelier; '
        f'it is "{names[episode.query.way]}" (chance {_SETTING.chance:.0%}).'
    )


def _generate(model: Tokenizer, llm: FrozenLLM, out: Path) -> None:
    train = MNISTDigits("train")
    generator = random.Random(0)
    by_class = [(train.labels == digit).nonzero().flatten().tolist() for digit in range(10)]
    chosen = [generator.choice(by_class[i % 10]) for i in range(_EXAMPLES)]
    generator.shuffle(chosen)
    tokens = encode_all(model, train.images[chosen])
    lexicon = Lexicon.of(model, llm, seen_masks(tokens, len(model.codebook)))
    captions = [str(int(train.labels[i])) for i in chosen]
    task = captioned_images_task(lexicon.llm_ids(tokens), captions)
    # A small model keeps to what it was asked where each word sees the name alone, not all words before it.
    options = Options(par_layers=1, num_layers=_DRAWN_LAYERS, progress=True)
    total = sum_text(*_SUM, "digits")
    (said,) = said_sums(llm, [_SUM], "digits", "demo")
    queries = [image_query(asked) for asked in (_NUMERAL, total, said)]
    drawn = decode(llm, task, queries, lexicon, stride=1, options=options)
    count = drawn.ids.shape[1]
    print(
        f'\nWriting: {_EXAMPLES} digits as "an image of {captions[0]}: ..", {count} words each, then '
        f'"an image of {_NUMERAL}:",\n"an image of {total}:", and that again as what {llm.name} says in text '
        f'that it is, "{said}".\n'
        f"  It writes the first word, the name, and the others from it; for {_NUMERAL}:"
    )
    print(pyramid_text(model.words(drawn)[0], model.pyramid))
    pictures = torch.cat([train.images[chosen[:5]], model.decode(drawn).detach()])
    titles = [*captions[:5], *(f"{asked} (written)" for asked in (_NUMERAL, total)), f"{said} for {total}"]
    picture_grid(pictures, titles, out, columns=8, width=1.2)
    print(f"  As pictures, beside five of the examples: {out}")
