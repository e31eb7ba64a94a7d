"""Commands take whatever tokenizer was saved, whatever its class and code table."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.tokenizers import LQAE, RQ, VQGAN, LQAEConfig, RQConfig, VQGANConfig

SMALL = {"image_size": (32, 32), "channels": 4, "multipliers": (1, 1, 1), "num_res_blocks": 1}


def book():
    words = ["[MASK]", *(f" w{i}" for i in range(1, 40))]
    return Codebook.from_arrays(words, torch.randn(40, 6, generator=torch.Generator().manual_seed(1)))


TOKENIZERS = {
    "spae": lambda: SPAE(SPAEConfig(**SMALL, grids=(1, 2, 8)), book()),
    "rq": lambda: RQ(RQConfig(**SMALL, grids=(8, 8), codebook_size=40, codebook_dim=6)),
    "vqgan": lambda: VQGAN(VQGANConfig(**SMALL, grids=(8,), codebook_size=40, codebook_dim=6)),
    "lqae": lambda: LQAE(LQAEConfig(**SMALL, grids=(8,), latent_norm="unit"), book().normalised("unit")),
}


@pytest.fixture(params=TOKENIZERS)
def saved(request, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = TOKENIZERS[request.param]().eval()
    model.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return type(model)


def test_images_to_tokens_and_back(saved, capsys):
    for number in range(3):
        Image.new("RGB", (40, 30), (20 * number, 90, 200)).save(f"{number}.png")
    assert main(["encode", ".", "--model", "model", "--out", "t.jsonl", "--batch-size", "2"]) == 0
    assert main(["decode", "t.jsonl", "--model", "model", "--out", "out"]) == 0
    assert sorted(p.name for p in Path("out").iterdir()) == [f"{i}.decoded.png" for i in range(3)]
    capsys.readouterr()
    assert main(["words", "0.png", "--model", "model", "--json"]) == 0
    row = json.loads(Path("t.jsonl").read_text().splitlines()[1])
    assert json.loads(capsys.readouterr().out)["words"] == row["words"]


def test_evaluations(saved, capsys, monkeypatch):
    pytest.importorskip("sklearn", reason="needs the package scikit-learn")
    from spae.eval import classifier
    from spae.eval.tasks import digits

    class Digits:
        """60 noisy pictures in place of MNIST's."""

        def __init__(self, split):
            self.labels = torch.arange(60) % 10
            self.captions = [str(label) for label in self.labels.tolist()]
            noise = torch.rand(60, 3, 32, 32, generator=torch.Generator().manual_seed(len(split)))
            self.images = (noise + (self.labels / 10).reshape(-1, 1, 1, 1) - 1).clamp(-1, 1)

    monkeypatch.setattr(digits, "MNISTDigits", Digits)
    monkeypatch.setattr(classifier, "MNISTDigits", Digits)
    assert main(["eval", "digits", "--model", "model", "--out", "out"]) == 0
    assert "60 images; " in capsys.readouterr().out
    report = json.loads(Path("out/digits.json").read_text())
    assert len(report["layers"]) == report["layers"][-1]["layer"]
