"""A user of the command line alone: a folder of whatever cameras and editors write, to words and back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spae.cli import main

SHAPE = (48, 36)  # height and width


def gradient():
    """A picture that says which way up it is: red to the right, green downwards."""
    rows, columns = (np.linspace(0, 255, size).astype(np.uint8) for size in SHAPE)
    red, green = np.broadcast_to(columns[None], SHAPE), np.broadcast_to(rows[:, None], SHAPE)
    return Image.fromarray(np.stack([red, green, np.full(SHAPE, 40, np.uint8)], -1))


def write_folder(folder):
    """The same picture in every dress."""
    folder.mkdir()
    picture = gradient()
    picture.save(folder / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    picture.convert("RGBA").save(folder / "opaque.png")
    hidden = picture.convert("RGBA")
    hidden.putalpha(0)
    hidden.save(folder / "transparent.png")
    Image.new("RGB", picture.size, "white").save(folder / "white.png")
    grey = np.asarray(picture.convert("L"))
    Image.fromarray(grey).save(folder / "grey8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.png")
    picture.convert("CMYK").save(folder / "print.tif")
    (folder / "album").mkdir()
    frames = [picture.convert("P", palette=Image.Palette.ADAPTIVE), Image.new("P", picture.size)]
    frames[0].save(folder / "album/moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "album/palette.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")


def test_a_mixed_folder_to_words_and_back(model, here, capsys):
    model.save_pretrained("model")
    write_folder(Path("photos"))
    assert main(["encode", "photos", "--model", "model", "--out", "words.jsonl"]) == 1
    err = capsys.readouterr().err
    assert "skipped photos/damaged.jpg" in err
    assert "1 of 11 images could not be read" in err
    rows = [json.loads(line) for line in Path("words.jsonl").read_text().splitlines()][1:]
    ids = {Path(row["name"]).name: row["ids"] for row in rows}
    assert ids["turned.png"] == ids["opaque.png"] == ids["plain.png"] == ids["print.tif"]
    assert ids["transparent.png"] == ids["white.png"] != ids["plain.png"]
    assert ids["grey16.png"] == ids["grey8.png"] != ids["plain.png"]
    assert ids["moving.gif"] == ids["palette.png"]
    assert main(["decode", "words.jsonl", "--model", "model", "--out", "back"]) == 0
    names = {row["name"] for row in rows}
    expected = {Path("back", name).with_suffix(".decoded.png") for name in names}
    assert set(Path("back").rglob("*.png")) == expected
    assert all(Image.open(path).size == (32, 32) for path in expected)
    assert main(["encode", "photos", "--model", "model", "--out", "words.jsonl", "--resume"]) == 1
    assert len(Path("words.jsonl").read_text().splitlines()) == 1 + 10
    assert main(["view", "photos/album", "--model", "model", "--out", "page.html"]) == 0
    assert Path("page.html").read_text().count("<article>") == 2


def test_in_a_shell(model, here):
    """As a process: words alone on standard output, bad files on standard error, the status."""
    model.save_pretrained("model")
    gradient().save("a.png")
    environment = {**os.environ, "SPAE_OFFLINE": "1"}
    command = [sys.executable, "-m", "spae", "encode", "-", "--model", "model", "--lines"]
    done = subprocess.run(
        command, input="a.png\nmissing.png\n", capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    head, row = map(json.loads, done.stdout.splitlines())
    assert head["format"] == "spae-tokens-1"
    assert [len(layer) for layer in row["words"]] == [1, 4, 16]
    assert "missing.png: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(
        sign in done.stderr for sign in ("\r", "image/s", "it/s")
    )  # no progress where nobody looks


@pytest.mark.parametrize("form", ["text", "csv", "jsonl"])
def test_a_folder_with_captions(here, form):
    """Captions that lie beside images reach what trains on them."""
    from spae.data import open_data

    captions = {f"{number}.png": f"a picture of {number} things" for number in range(5)}
    Path("set").mkdir()
    for name, caption in captions.items():
        gradient().save(Path("set", name))
        if form == "text":
            Path("set", name).with_suffix(".txt").write_text(f"{caption}\n")
    if form == "csv":
        lines = [f'{name},"{caption}"' for name, caption in captions.items()]
        Path("set/metadata.csv").write_text("\n".join(["file_name,text", *lines]))
    elif form == "jsonl":
        lines = [json.dumps({"file_name": name, "caption": caption}) for name, caption in captions.items()]
        Path("set/metadata.jsonl").write_text("\n".join(lines))
    data = open_data("set", None, image_size=32)
    assert {item.key: item.caption for item in (data[i] for i in range(len(data)))} == captions
