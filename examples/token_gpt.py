"""A small GPT that writes images as words: trained on a collection of tokens, by default of the digits.

The pyramid's order, coarse to fine, is the order of writing. A digit's class comes first, so that the model
can be asked for one.

    spae tokenize mnist tokens --split train
    python examples/token_gpt.py tokens --steps 3000 --out digits.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spae import PyramidTokens, load
from spae.data import TokenDataset
from spae.files import save_image
from spae.tokenizers.batches import decode_all


class GPT(nn.Module):
    """Next-token logits: int64 [B, n] -> [B, n, vocabulary]."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 32), 4 * width, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(n, device=ids.device)
        x = self.tokens(ids) + self.positions.weight[:n]
        return self.head(self.blocks(x, mask=causal, is_causal=True))


def train(model: GPT, sequences: Tensor, steps: int, batch_size: int) -> None:
    """sequences: int64 [N, 1 + n], a class and then words."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    model.train()
    for step in range(steps):
        batch = sequences[torch.randint(len(sequences), (batch_size,))]
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item():.3f} nats a word")


@torch.no_grad()
def sample(model: GPT, start: Tensor, length: int, allowed: int) -> Tensor:
    """Continue int64 [B, 1] by `length` words, each of the first `allowed` ids: int64 [B, length]."""
    model.eval()
    ids = start
    for _ in range(length):
        logits = model(ids)[:, -1, :allowed]
        ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], 1)
    return ids[:, 1:]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("collection", help="what `spae tokenize` wrote of data with classes")
    parser.add_argument("--model", help="the tokenizer (default: that of the collection)")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("digits.png"))
    arguments = parser.parse_args(argv)

    torch.manual_seed(0)
    data = TokenDataset(arguments.collection)
    tokenizer = load(arguments.model or data.about["model"])
    data.check(tokenizer)
    items = [data[number] for number in range(len(data))]

    # Few of the codebook's words are in use; the GPT knows those, and after them the classes.
    rows, ids = torch.stack([item.ids for item in items]).unique(return_inverse=True)
    labels = torch.tensor([item.label for item in items])
    classes, words = int(labels.max()) + 1, len(rows)
    sequences = torch.cat([words + labels[:, None], ids], 1)
    gpt = GPT(words + classes, sequences.shape[1], arguments.width, arguments.depth)
    print(f"{len(items)} images of {ids.shape[1]} words, {words} different ones; {classes} classes")
    train(gpt, sequences, arguments.steps, arguments.batch_size)

    asked = words + torch.arange(classes)[:, None]
    written = rows[sample(gpt, asked, ids.shape[1], words)]
    images = decode_all(tokenizer, PyramidTokens(written, tokenizer.pyramid))
    save_image(torch.cat(list(images), -1), arguments.out)
    print(f"{arguments.out}: one image of each class")


if __name__ == "__main__":
    main()
