"""One reader of pictures, whatever they are."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="needs Pillow (the extra data)")
from PIL import Image, features

from spae.data.images import fit_image, open_image, read_image, to_bytes, to_tensor


def encoded(image, kind="PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


RAMP = np.linspace(0, 255, 12, dtype=np.uint8).reshape(3, 4)
GREY = np.repeat(RAMP[..., None], 3, axis=2)
COLOUR = np.random.RandomState(0).randint(0, 256, (6, 9, 3), np.uint8)


def test_paths_bytes_streams_and_pillow_images_are_one(tmp_path):
    file = encoded(Image.fromarray(COLOUR))
    (tmp_path / "a.png").write_bytes(file)
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        file,
        io.BytesIO(file),
        Image.fromarray(COLOUR),
    ):
        assert np.array_equal(pixels(open_image(source)), COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture(kind, orientation):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:8, :8] = 255  # white at the upper left, as the sensor saw it
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = pixels(open_image(encoded(Image.fromarray(picture), kind, exif=exif)))
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert seen.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))
    row, column = corners[orientation]
    found = seen[row, column].mean()
    others = [seen[r, c].mean() for r in (0, -1) for c in (0, -1) if (r, c) != (row, column)]
    assert found > 200
    assert max(others) < 50


def test_unreadable_exif_turns_nothing():
    file = encoded(Image.fromarray(COLOUR), exif=b"Exif\0\0" + b"nonsense" * 4)
    assert np.array_equal(pixels(open_image(file)), COLOUR)


def test_what_is_transparent_shows_the_background():
    alpha = np.array([[0, 255], [128, 255]], np.uint8)
    rgba = Image.fromarray(np.dstack([np.full((2, 2, 3), 10, np.uint8), alpha]), "RGBA")
    for image in (rgba, Image.open(io.BytesIO(encoded(rgba)))):
        seen = pixels(open_image(image))
        assert seen[0, 0].tolist() == [255] * 3
        assert seen[0, 1].tolist() == [10] * 3
        assert abs(int(seen[1, 0, 0]) - 132) <= 1
    assert pixels(open_image(rgba, background="black"))[0, 0].tolist() == [0] * 3
    grey = Image.merge("LA", (Image.new("L", (2, 2), 10), Image.fromarray(alpha)))
    assert pixels(open_image(grey))[..., 0].tolist()[0] == [255, 10]
    premultiplied = [rgba.convert("RGBa"), grey.convert("La")]
    for image in premultiplied:
        assert pixels(open_image(image))[0].tolist() == [[255] * 3, [10] * 3]


def test_palettes_with_and_without_transparency():
    image = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    plain = pixels(open_image(encoded(image)))
    assert plain[0].tolist() == [[255, 0, 0], [0, 255, 0]]
    for transparency in (0, bytes([0, 255, 255])):
        seen = pixels(open_image(encoded(image, transparency=transparency)))
        assert seen[0].tolist() == [[255] * 3, [0, 255, 0]]
        assert seen[1].tolist() == [[0, 255, 0], [0, 0, 255]]


def test_one_colour_may_be_transparent():
    file = encoded(Image.fromarray(GREY), transparency=(0, 0, 0))
    seen = pixels(open_image(file))
    assert seen[0, 0].tolist() == [255] * 3
    assert np.array_equal(seen[1:], GREY[1:])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_range(kind):
    deep = RAMP.astype(np.uint16) * 257
    assert np.array_equal(pixels(open_image(encoded(Image.fromarray(deep), kind))), GREY)
    wide = Image.fromarray(deep.astype(np.int32))
    assert wide.mode == "I"
    assert np.array_equal(pixels(open_image(wide)), GREY)
    with pytest.raises(ValueError, match=r"deep: expected integers from 0 to 65535 .* got -1 to 65535"):
        open_image(Image.fromarray(np.array([[-1, 65535]], np.int32)), "deep")


def test_sixteen_bits_with_a_transparent_value():
    deep = RAMP.astype(np.uint16) * 257
    seen = pixels(open_image(encoded(Image.fromarray(deep), transparency=int(deep[0, 1]))))
    assert seen[0, 1].tolist() == [255] * 3
    seen = seen.copy()
    seen[0, 1] = GREY[0, 1]
    assert np.array_equal(seen, GREY)


def test_float_tiff_is_zero_to_one():
    file = encoded(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF")
    assert np.array_equal(pixels(open_image(file)), GREY)
    for wrong in (RAMP.astype(np.float32), np.full((2, 2), np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"x\.tiff: expected floats from 0 to 1 .* got (0.0 to 255|nan)"):
            open_image(encoded(Image.fromarray(wrong), "TIFF"), "x.tiff")


def test_cmyk_and_other_modes():
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = pixels(open_image(encoded(cmyk, "TIFF")))[0, 0].astype(int)
    assert red[0] > 240
    assert red[1:].max() < 20
    for mode in ("1", "L", "YCbCr", "HSV"):
        seen = pixels(open_image(Image.fromarray(GREY).convert(mode)))
        assert seen.shape == GREY.shape
        assert seen[0, 0].max() <= 1
        assert seen[-1, -1].min() >= 254


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(open_image(file))[4, 4].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_damaged_files_are_named():
    whole = encoded(Image.fromarray(np.random.RandomState(1).randint(0, 256, (64, 64, 3), np.uint8)))
    jpeg = encoded(Image.fromarray(COLOUR).resize((64, 64)), "JPEG")
    tiff = encoded(Image.fromarray(COLOUR), "TIFF")
    for damaged in (
        b"",
        b"no image",
        whole[:40],
        whole[: len(whole) // 2],
        jpeg[: len(jpeg) // 2],
        tiff[:60],
    ):
        with pytest.raises(ValueError, match=r"cat\.png: expected an image, got what cannot be read"):
            open_image(damaged, "cat.png")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        open_image(tmp_path / "no.png")


def test_too_many_pixels_are_refused_before_they_are_unpacked(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    file = encoded(Image.fromarray(COLOUR))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ValueError, match=r"big\.png: expected at most 50 pixels .*, got 9 x 6"),
    ):
        open_image(file, "big.png")
    # A PNG of a kilobyte that claims 30,000 x 30,000: Pillow itself refuses what is over twice its limit.
    header = bytearray(file)
    header[16:24] = struct.pack(">II", 30000, 30000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    with pytest.raises(
        ValueError,
        match=r"bomb\.png: expected at most 50 pixels .*PIL\.Image\.MAX_IMAGE_PIXELS.*got .*900000000 pixels",
    ):
        open_image(bytes(header), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert np.array_equal(pixels(open_image(file)), COLOUR)


def test_proportions_are_kept():
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 200
    cropped = pixels(fit_image(Image.fromarray(wide), (8, 8), "crop"))
    assert (cropped[:, 1:-1] > 180).all()
    padded = pixels(fit_image(Image.fromarray(wide), (8, 8), "pad"))
    assert (padded[:2] == 255).all()
    assert (padded[-2:] == 255).all()
    assert (padded[2:-2, 0] == 0).all()
    assert fit_image(Image.fromarray(wide), (8, 24)).size == (24, 8)


def test_to_tensor_and_back():
    tensor = to_tensor(Image.fromarray(COLOUR))
    assert tensor.shape == (3, 6, 9)
    assert tensor.dtype == torch.float32
    assert np.array_equal(to_bytes(tensor), COLOUR)
    assert np.array_equal(to_bytes(tensor[None].double())[0], COLOUR)
    assert to_tensor(Image.fromarray(RAMP)).shape == (1, 3, 4)
    square = np.ascontiguousarray(np.tile(COLOUR, (2, 1, 1))[:8, :8])
    assert torch.equal(read_image(Image.fromarray(square), 8), to_tensor(Image.fromarray(square)))
