import json
import math
from types import SimpleNamespace

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.assets import AssetNotCached
from spae.cli import main
from spae.data import open_data
from spae.eval.features import ImageFeatures
from spae.eval.reconstruction import evaluate_reconstruction, layer_table, quality_curves
from spae.eval.tasks import reconstruction
from spae.metrics import class_score, frechet_distance, kernel_distance, ms_ssim, ssim
from spae.models import Lite0
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
    report = evaluate_reconstruction(model, images, distances={"lpips": furthest}, batch_size=2)
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


def absent():
    raise AssetNotCached("not here")


def see(images):
    pooled = images.flatten(1)[:, ::40]
    return pooled, pooled[:, :3].log_softmax(1)


SEEN = ImageFeatures("toy", see)


def test_similarity_and_features_are_those_of_every_number_of_layers():
    model, images = toy(), torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    report = evaluate_reconstruction(model, images, similarity=True, features=SEEN, batch_size=4)
    tokens = encode_all(model, images)
    original = see(images)
    assert report["class_score_originals"] == pytest.approx(class_score(original[1]))
    for number, row in enumerate(report["layers"], 1):
        decoded = decode_all(model, tokens.upto(number))
        assert row["ssim"] == pytest.approx(ssim(images, decoded).mean().item())
        assert row["ms_ssim"] == pytest.approx(ms_ssim(images, decoded).mean().item())
        features, classes = see(decoded)
        value, error = kernel_distance(original[0], features)
        assert row["kernel"] == pytest.approx(
            {"value": value, "low": value - 1.96 * error, "high": value + 1.96 * error}, rel=1e-4
        )
        assert row["frechet"] == pytest.approx(frechet_distance(original[0], features), rel=1e-3)
        assert row["class_score"] == pytest.approx(class_score(classes))
    text = layer_table(report)
    header, _, first, *_ = text.splitlines()
    assert header.split(" | ")[4:9] == ["SSIM", "MS-SSIM", "Fréchet", "kernel x 1,000", "class score"]
    row = report["layers"][0]
    assert first.split(" | ")[6] == f"{row['frechet']:.2f}"
    assert first.split(" | ")[7].startswith(f"{1000 * row['kernel']['value']:.2f} [")
    assert "of the features of toy, not Inception" in text
    assert "MS-SSIM of 1 scales" in text
    assert "are few" not in text  # six images, five features
    assert "6 images are few for the Fréchet distance of 1280" in layer_table(
        report | {"features_width": 1280}
    )


def test_lite0_s_features_are_those_before_its_classes():
    seen = ImageFeatures.lite0()
    images = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features, classes = seen.all_of(images, batch_size=2)
    large = torch.nn.functional.interpolate(images, (224, 224), mode="bilinear", antialias=True)
    assert (features.shape, seen.name) == ((3, 1280), "Lite0")
    assert torch.allclose(classes, Lite0.load()(large).log_softmax(1), atol=1e-4)


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
    monkeypatch.setattr(reconstruction, "DISTSNetwork", SimpleNamespace(load=lambda: furthest))
    monkeypatch.setattr(ImageFeatures, "lite0", lambda: SEEN)
    command = ["eval", "reconstruction", "--data", str(tmp_path / "data"), "--images", "3", "--json"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["lpips_net"]) == (3, "vgg")
    assert report["layers"][2]["lpips"] > 0
    assert "LPIPS 0.1 over vgg" in (tmp_path / "out/reconstruction.md").read_text()
    assert "dists" not in report["layers"][2]
    assert main([*command, "--dists"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][2]["dists"] == report["layers"][2]["lpips"]
    assert main([*command, "--lpips", "alex"]) == 0
    captured = capsys.readouterr()
    assert "lpips" not in json.loads(captured.out)["layers"][0]
    assert json.loads(captured.out)["layers"][0]["frechet"] >= 0
    assert "LPIPS is not measured: not here" in captured.err
    assert main([*command, "--lpips", "none", "--features", "none"]) == 0
    assert "features" not in json.loads(capsys.readouterr().out)
    monkeypatch.setattr(ImageFeatures, "lite0", absent)
    assert main([*command, "--lpips", "none"]) == 0
    captured = capsys.readouterr()
    assert "frechet" not in json.loads(captured.out)["layers"][0]
    assert "the features' distributions are not measured: not here" in captured.err
    assert asked == ["vgg", "vgg", "alex"]
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
    assert (
        main(["eval", "reconstruction", "--data", str(tmp_path), "--lpips", "none", "--features", "none"])
        == 0
    )
    assert "the first word is the image's name for 75.0%" in capsys.readouterr().out


def test_curves_are_of_what_was_measured(tmp_path, monkeypatch):
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    one = evaluate_reconstruction(toy(), images, similarity=True, features=SEEN)
    two = evaluate_reconstruction(toy(), images)
    drawn = {}
    monkeypatch.setattr("spae.eval.reconstruction.curves", lambda panels, path, x: drawn.update(panels))
    quality_curves({"one": one, "two": two}, tmp_path / "page.png")
    assert list(drawn) == ["PSNR (dB)", "SSIM", "MS-SSIM", "Fréchet distance"]
    assert [list(lines) for lines in drawn.values()] == [["one", "two"], ["one"], ["one"], ["one"]]
    line = drawn["PSNR (dB)"]["two"]
    assert line.x == [1, 5, 9]
    assert line.values == [row["psnr"] for row in two["layers"]]
    assert line.low == [row["psnr"] - 1.96 * row["psnr_standard_error"] for row in two["layers"]]
    assert line.high == [row["psnr"] + 1.96 * row["psnr_standard_error"] for row in two["layers"]]
    monkeypatch.undo()
    quality_curves({"one": one}, tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
