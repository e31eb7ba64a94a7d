"""A frozen language model behind an OpenAI-compatible server names images that it sees as words only.

Serve a model, for instance `vllm serve HuggingFaceTB/SmolLM2-135M-Instruct`, and ask it; the key, if it wants
one, is read from OPENAI_API_KEY. Each episode shows one image of each name and asks for another one. Answers
are recorded in --log: a run that was interrupted asks for none of them again.

    python examples/llm_server.py http://127.0.0.1:8000/v1 --data emoji --split new_concept
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import torch

from spae import llm, load
from spae.data import open_data
from spae.incontext import Lexicon
from spae.incontext.tasks.classification import classification_task, classify


def episodes(labels: Sequence[int], ways: int, count: int, seed: int) -> list[tuple[list[int], int]]:
    """(the images shown, one of each of `ways` classes; another image of one of those classes)."""
    generator = torch.Generator().manual_seed(seed)
    members = {label: [i for i, own in enumerate(labels) if own == label] for label in set(labels)}
    usable = sorted(label for label, images in members.items() if len(images) > 1)
    if len(usable) < ways:
        raise ValueError(
            f"ways: expected at most {len(usable)}, the classes of two or more images, got {ways}"
        )
    drawn = []
    for _ in range(count):
        chosen = [usable[i] for i in torch.randperm(len(usable), generator=generator)[:ways].tolist()]
        pairs = [torch.randperm(len(members[label]), generator=generator)[:2].tolist() for label in chosen]
        asked = int(torch.randint(ways, (), generator=generator))
        shown = [members[label][pair[0]] for label, pair in zip(chosen, pairs, strict=True)]
        drawn.append((shown, members[chosen[asked]][pairs[asked][1]]))
    return drawn


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="the server's, up to the version")
    parser.add_argument("--llm-model", help="its name there (default: the only one)")
    parser.add_argument(
        "--llm-tokenizer", default="smollm2", help="a name, GGUF file or folder: the server's own"
    )
    parser.add_argument("--model", default="emoji64", help="the tokenizer of images")
    parser.add_argument("--data", default="emoji", help="what spae.data.open_data takes, with classes")
    parser.add_argument("--split", default="new_concept")
    parser.add_argument("--images", type=int, default=300, help="how many of the split to draw from")
    parser.add_argument("--layers", type=int, default=2, help="of each image's words")
    parser.add_argument("--ways", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--log", help="file of the answers so far")
    arguments = parser.parse_args(argv)

    model = load(arguments.model)
    data = open_data(arguments.data, arguments.split, image_size=model.config.image_size)
    items = [data[number] for number in range(min(arguments.images, len(data)))]
    tokens = model.encode(torch.stack([item.image for item in items]), arguments.layers)

    server = llm.load(
        arguments.url,
        model=arguments.llm_model,
        tokenizer=arguments.llm_tokenizer,
        api_key=os.environ.get("OPENAI_API_KEY"),
        log=arguments.log,
    )
    words = Lexicon(model.codebook, model.pyramid, server).llm_ids(tokens)
    right = {"exact": 0, "ranked": 0}
    drawn = episodes([item.label for item in items], arguments.ways, arguments.episodes, seed=0)
    for shown, asked in drawn:
        names = [items[image].caption for image in shown]
        task = classification_task([(words[image], way) for way, image in enumerate(shown)], names)
        verdict = classify(server, task, names, words[asked])
        answer = [items[image].label for image in shown].index(items[asked].label)
        right["exact"] += verdict.exact == answer
        right["ranked"] += verdict.ranked == answer
        print(f"{names[answer]}: wrote {verdict.generated!r}, ranks {names[verdict.ranked]!r} first")
    written, ranked = right["exact"], right["ranked"]
    print(f"of {len(drawn)}: written {written}, ranked first {ranked}; chance 1 in {arguments.ways}")


if __name__ == "__main__":
    main()
