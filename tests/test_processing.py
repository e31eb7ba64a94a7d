"""Pictures to images and back, and what is said to images that are none."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="needs Pillow (the extra data)")

from PIL import Image

from spae import SPAE, Codebook, ImageProcessor, SPAEConfig
from spae.data.images import read_image
from spae.data.sources import ImageFolder
from spae.files import load_images
from spae.processing import check_images

SMALL = SPAEConfig(image_size=(16, 16), grids=(1, 2, 4), channels=8, multipliers=(1, 2, 2), num_res_blocks=1)
PICTURE = np.random.RandomState(0).randint(0, 256, (20, 30, 3), np.uint8)
PROCESSOR = ImageProcessor((16, 16))


def spae(config=SMALL):
    torch.manual_seed(0)
    vectors = torch.randn(40, 12) * 0.3
    return SPAE(config, Codebook.from_arrays([f" w{i}" for i in range(40)], vectors, name="toy")).eval()


def bright(batch=8, seed=0):
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_every_kind_of_picture_gives_the_same_image(tmp_path):
    expected = PROCESSOR.preprocess(PICTURE)
    assert expected.shape == (1, 3, 16, 16)
    assert torch.equal(expected[0], read_image(Image.fromarray(PICTURE), 16))
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    tensor = torch.from_numpy(PICTURE)
    kinds = {
        "path": tmp_path / "a.png",
        "string": str(tmp_path / "a.png"),
        "bytes": stream.getvalue(),
        "Pillow": Image.fromarray(PICTURE),
        "HWC tensor": tensor,
        "CHW array": np.ascontiguousarray(PICTURE.transpose(2, 0, 1)),
        "CHW tensor": tensor.permute(2, 0, 1),
        "floats": PICTURE / 255,
        "float32 tensor": tensor.permute(2, 0, 1) / 255,
        "int64": tensor.long(),
        "uint16": PICTURE.astype(np.uint16) * 257,
        "opaque": np.dstack([PICTURE, np.full((20, 30), 255, np.uint8)]),
    }
    for kind, picture in kinds.items():
        assert torch.equal(PROCESSOR.preprocess(picture), expected), kind
    many = PROCESSOR(list(kinds.values()))
    assert torch.equal(many, expected.expand(len(kinds), -1, -1, -1))
    assert torch.equal(PROCESSOR(np.stack([PICTURE, PICTURE])), many[:2])
    assert PROCESSOR([]).shape == (0, 3, 16, 16)


def test_grey_alpha_and_masks():
    grey = PICTURE[..., 0]
    expected = PROCESSOR(np.repeat(grey[..., None], 3, axis=2))
    for picture in (grey, grey[..., None], grey[None], torch.from_numpy(grey)):
        assert torch.equal(PROCESSOR(picture), expected)
    mask = PROCESSOR(np.eye(16, dtype=bool))
    assert torch.equal(mask[0, 0], 2 * torch.eye(16) - 1)
    clear = np.dstack([PICTURE, np.zeros((20, 30), np.uint8)])
    assert (PROCESSOR(clear) == 1).all()
    assert (ImageProcessor((16, 16), background="black")(clear) == -1).all()
    one = ImageProcessor((16, 16), channels=1)
    assert torch.equal(one(grey), expected[:, :1])
    assert one.postprocess(one(grey))[0].mode == "L"


def test_which_axis_holds_the_channels():
    square = np.random.RandomState(1).randint(0, 256, (3, 5, 3), np.uint8)
    by_last, by_first = (PROCESSOR(square, layout=layout) for layout in ("hwc", "chw"))
    assert not torch.equal(by_last, by_first)
    assert torch.equal(PROCESSOR(square), by_last)
    assert torch.equal(PROCESSOR(torch.from_numpy(square)), by_first)


def test_any_size_with_its_proportions_kept():
    for size in ((16, 16), (1, 1), (100, 7), (7, 100)):
        assert PROCESSOR(np.zeros((*size, 3), np.uint8)).shape == (1, 3, 16, 16)
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :8] = wide[:, 24:] = 255
    assert (PROCESSOR(wide) == -1).all(), "the middle is kept"
    padded = ImageProcessor((16, 16), fit="pad", background="red")(wide)
    assert padded[0, :, 0, 0].tolist() == [1, -1, -1]
    assert padded[0, :, 8, 1].tolist() == [1, 1, 1]
    assert ImageProcessor((8, 24))(wide).shape == (1, 3, 8, 24)


def test_commands_read_as_training_does(tmp_path):
    alpha = np.full((20, 30), 255, np.uint8)
    alpha[:, :10] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "things").mkdir()
    Image.fromarray(np.dstack([PICTURE, alpha])).save(tmp_path / "things" / "a.png")
    Image.fromarray(PICTURE).save(tmp_path / "things" / "b.jpg", exif=exif)
    trained = torch.stack([image for image, _ in (ImageFolder(tmp_path, 16)[i] for i in range(2))])
    files = sorted((tmp_path / "things").iterdir())
    assert torch.equal(load_images(files, SMALL), trained)
    assert torch.equal(spae().preprocess(files), trained)


def test_postprocess_is_the_way_back():
    square = PICTURE[:16, :16]
    images = PROCESSOR([square, square[::-1].copy()])
    (first, second) = PROCESSOR.postprocess(images)
    assert np.array_equal(np.asarray(first), square)
    assert np.array_equal(np.asarray(second), square[::-1])
    assert np.array_equal(PROCESSOR.postprocess(images, "numpy")[0], square)
    assert torch.equal(PROCESSOR.postprocess(images, "tensor")[0], torch.from_numpy(square).permute(2, 0, 1))
    wild = PROCESSOR.postprocess(
        torch.tensor([-9.0, 9.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2).bfloat16(), "numpy"
    )
    assert wild[0, 0, :, 0].tolist() == [0, 255]


def test_the_processor_is_saved_with_the_model(tmp_path):
    model = spae()
    model.processor = ImageProcessor((16, 16), fit="pad", background="grey")
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "ImageProcessor"
    loaded = SPAE.from_pretrained(tmp_path, codebook=model.codebook)
    assert loaded.processor == model.processor
    assert torch.equal(loaded.preprocess(PICTURE), model.preprocess(PICTURE))
    (tmp_path / "preprocessor_config.json").unlink()
    assert SPAE.from_pretrained(tmp_path, codebook=model.codebook).processor == PROCESSOR
    words = model.words(model.encode(model.preprocess([PICTURE, PICTURE])))
    assert len(words) == 2
    (picture, _) = model.postprocess(model.decode(model.tokens(words)))
    assert picture.size == (16, 16)


def test_models_of_video_have_none(tmp_path):
    config = SPAEConfig(
        image_size=(2, 8, 8),
        grids=((2, 2, 2),),
        channels=4,
        multipliers=(1, 1, 1),
        num_res_blocks=1,
        strides=((1, 2, 2), (1, 2, 2)),
    )
    model = spae(config)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    with pytest.raises(ValueError, match=r"processor: expected a model of images, got one of \(2, 8, 8\)"):
        model.preprocess(PICTURE)


@pytest.mark.parametrize("face", ["encode", "latents", "__call__"])
def test_images_of_another_range_are_refused(face):
    call = getattr(spae(), face)
    for wrong, got in (
        (bright() * 255, r"0\.0\d+ to 25\d"),
        ((bright() - 0.45) / 0.22, r"-2\.04\d to 2\.4\d+"),
        (bright().masked_fill(bright() > 0.99, torch.nan), "nan"),
        (bright() - 5, "-5 to -4"),
    ):
        with pytest.raises(
            ValueError, match=rf"images: expected values in \[-1, 1\], got {got}.*`preprocess`"
        ):
            call(wrong)
    with pytest.raises(TypeError, match=r"got torch.uint8; `preprocess` makes one"):
        call(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    call(bright() * 2.4 - 1.2)  # an overshoot of resampling


def test_zero_to_one_is_warned_of_where_it_is_sure():
    shape = (3, 16, 16)
    with pytest.warns(UserWarning, match=r"8 images lie in .*look like \[0, 1\].*`preprocess`"):
        check_images(bright(8), shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        white, mid_grey = torch.ones(8, *shape), torch.zeros(8, *shape)
        for sound in (
            bright(7),
            bright(8) * 2 - 1,
            white,
            mid_grey,
            bright(8) * 0.6 + 0.4,
            torch.empty(0, *shape),
        ):
            check_images(sound, shape)


def test_values_are_not_looked_at_where_there_are_none():
    from torch._subclasses import FakeTensorMode

    shape = (3, 16, 16)
    check_images(torch.empty(2, *shape, device="meta"), shape)
    with FakeTensorMode():
        check_images(torch.empty(2, *shape), shape)
    seen = []
    torch.func.vmap(lambda image: (check_images(image[None], shape), seen.append(image), image)[2])(bright())
    assert len(seen) == 1
    torch.func.grad(lambda image: (check_images(image[None], shape), image.sum())[1])(bright()[0])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"images\[0\]: expected floats in \[0, 1\], got -1 to 1; images in \[-1, 1\] are the model's own", lambda: PROCESSOR(np.array([[-1.0, 1.0]]))),
        (ValueError, r"images\[1\]: expected floats in \[0, 1\], got 0 to 255; .* go as uint8", lambda: PROCESSOR([PICTURE, np.array([[0.0, 255.0]])])),
        (ValueError, r"images\[0\]: expected integers in 0..255, got int64 from 0 to 256", lambda: PROCESSOR(np.array([[0, 256]]))),
        (ValueError, r"images\[0\]: expected an axis of 1, 3 or 4 channels, first or last, got \[5, 6, 7\]", lambda: PROCESSOR(np.zeros((5, 6, 7), np.uint8))),
        (ValueError, r"images\[0\]: expected an axis of 1, 3 or 4 channels, chw, got \[20, 30, 3\]", lambda: PROCESSOR(PICTURE, layout="chw")),
        (ValueError, r"images\[0\]: expected \[H, W\], \[H, W, C\] or \[C, H, W\], got \[5\]", lambda: PROCESSOR(np.zeros(5, np.uint8))),
        (FileNotFoundError, r"no\.png", lambda: PROCESSOR("no.png")),
        (TypeError, r"images\[0\]: expected a picture .*, got int", lambda: PROCESSOR(5)),
        (ValueError, r"images: expected a floating-point tensor \[B, C, H, W\], got torch.uint8 \[2\]", lambda: PROCESSOR.postprocess(torch.zeros(2, dtype=torch.uint8))),
        (ValueError, r"output: expected 'pil', 'numpy' or 'tensor', got 'jpg'", lambda: PROCESSOR.postprocess(torch.zeros(1, 3, 4, 4), "jpg")),
        (ValueError, r"image_size: expected \(a whole number from 1, .*\), got \(2, 3, 4\)", lambda: ImageProcessor((2, 3, 4))),
        (ValueError, r"channels: expected 1 or 3, got 2", lambda: ImageProcessor((8, 8), 2)),
        (ValueError, r"fit: expected 'crop' or 'pad', got 'squash'", lambda: ImageProcessor((8, 8), fit="squash")),
        (ValueError, r"processor: expected no fields but .*, got \['mean'\]", lambda: ImageProcessor.from_dict({"image_size": [8, 8], "mean": 0})),
        (ValueError, r"image_processor_type: expected 'ImageProcessor', got 'CLIPImageProcessor'", lambda: ImageProcessor.from_dict({"image_processor_type": "CLIPImageProcessor"})),
    ],
)  # fmt: skip
def test_errors_name_the_argument(error, message, call):
    with pytest.raises(error, match=message):
        call()
