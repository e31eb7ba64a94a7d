import json
import math

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.assets import AssetNotCached
from spae.cli import main
from spae.data import open_data
from spae.eval.reconstruction import evaluate_reconstruction, layer_table
from spae.eval.tasks import reconstruction
from spae.tokenizers.batches import decode_all, encode_all

CONFIG = SPAEConfig(
    image_size=(8, 8), grids=(1, 2, 2), channels=4, multipliers=(1, 1, 1), vocabularies=("few", "few", "all")
)


def toy():
    vectors = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    book = Codebook.from_arrays([f" word{i}" for i in range(40)], vectors, name="toy")
    torch.manual_seed(0)
    return SPAE(CONFIG, book, {"few": range(8)}).eval()


def test_bits_are_those_of_what_each_layer_may_take():
    model = toy()
    report = evaluate_reconstruction(model, torch.rand(3, 3, 8, 8) * 2 - 1)
    assert [row["vocabulary"] for row in report["layers"]] == [8, 8, 40]
    assert report["bits_per_image"] == pytest.approx((1 + 4) * 3 + 4 * math.log2(40))
    lines = layer_table(report).splitlines()
    assert lines[0].startswith("| layers | words | bits |")
    assert [line.split(" | ")[2] for line in lines[2:5]] == ["3", "15", "36"]
    for old in (report, *report["layers"]):
        old.pop("bits_per_image", None)
        old.pop("vocabulary", None)
    assert "bits" not in layer_table(report)


def furthest(images, others):
    return (images - others).abs().amax((1, 2, 3))


def test_a_distance_is_measured_from_every_number_of_layers():
    model, images = toy(), torch.rand(5, 3, 8, 8) * 2 - 1
    report = evaluate_reconstruction(model, images, lpips=furthest, batch_size=2)
    tokens = encode_all(model, images)
    for number, row in enumerate(report["layers"], 1):
        values = furthest(images, decode_all(model, tokens.upto(number)))
        assert row["lpips"] == pytest.approx(values.mean().item())
        assert row["lpips_standard_error"] == pytest.approx(values.std().item() / 5**0.5)
    header, _, first, *_ = layer_table(report).splitlines()
    place = header.split(" | ").index("LPIPS")
    assert first.split(" | ")[place] == f"{report['layers'][0]['lpips']:.3f} ± " + (
        f"{report['layers'][0]['lpips_standard_error']:.3f}"
    )
    assert "LPIPS" not in layer_table(evaluate_reconstruction(model, images))


def test_the_command_measures_any_folder(tmp_path, monkeypatch, capsys):
    from PIL import Image

    for number in range(7):
        (tmp_path / "data/test").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/train").mkdir(exist_ok=True)
        Image.new("RGB", (9, 8), (30 * number, 90, 200)).save(tmp_path / f"data/test/{number}.png")
    monkeypatch.setattr("spae.commands.eval.load_tokenizer", lambda name: toy())
    asked = []

    class Network:
        @staticmethod
        def load(net):
            asked.append(net)
            if net == "alex":
                raise AssetNotCached("not here")
            return furthest

    monkeypatch.setattr(reconstruction, "LPIPSNetwork", Network)
    command = ["eval", "reconstruction", "--data", str(tmp_path / "data"), "--images", "3", "--json"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["lpips_net"]) == (3, "vgg")
    assert report["layers"][2]["lpips"] > 0
    assert "LPIPS 0.1 over vgg" in (tmp_path / "out/reconstruction.md").read_text()
    assert main([*command, "--lpips", "alex"]) == 0
    captured = capsys.readouterr()
    assert "lpips" not in json.loads(captured.out)["layers"][0]
    assert "LPIPS is not measured: not here" in captured.err
    assert main([*command, "--lpips", "none"]) == 0
    assert asked == ["vgg", "alex"]
    assert main([*command, "--images", "1"]) != 0
    assert "images: expected at least 2, for figures with intervals, got 1 of 7" in capsys.readouterr().err
    assert main([*command, "--images", "0"]) != 0
    assert "reconstruction.images: expected a whole number from 1" in capsys.readouterr().err


def test_the_share_whose_first_word_is_the_name(tmp_path, monkeypatch, capsys):
    from PIL import Image

    model = toy()
    for number in range(4):
        for split in ("train", "test"):
            (tmp_path / split).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (80 * number, 90, 200)).save(tmp_path / split / f"{number}.png")
    images = torch.stack([item.image for item in open_data(tmp_path, "test", image_size=8)])
    first = [image[0][0] for image in model.words(model.encode(images).upto(1))]
    for number, word in enumerate(first):
        (tmp_path / "test" / f"{number}.txt").write_text(word.strip() if number else "no word of it")
    monkeypatch.setattr("spae.commands.eval.load_tokenizer", lambda name: model)
    assert main(["eval", "reconstruction", "--data", str(tmp_path), "--lpips", "none"]) == 0
    assert "the first word is the image's name for 75.0%" in capsys.readouterr().out
