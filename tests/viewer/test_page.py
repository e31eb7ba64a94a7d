"""The page as text: what is on it, that nothing on it can act, and that it asks for nothing."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.data.images import to_bytes
from spae.metrics import psnr
from spae.viewer import Shown, write_page

NASTY = [
    "<script>alert(1)</script>",
    "</table></article><img src=x onerror=alert(2)>",
    "\"'><b onmouseover='alert(3)'>&lt;&amp;",
    "</title></style><script>alert(4)</script>",
    "\u202e\x00\x1b[31m\udce9",
    "<!-- -->]]>{{}}${}javascript:alert(5)",
]


class Tree(HTMLParser):
    """Every element of a page with its attributes, and the texts of some."""

    VOID = ("meta", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            if tag in ("td", "h2", "style", "script"):
                self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.texts:
            self.texts[self.open[-1]][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page(model, names, images, **options):
    stream = io.StringIO()
    tokens = model.encode(images, options.get("num_layers"))
    assert write_page(stream, model, [Shown(names, images, tokens)], **options) == len(names)
    return stream.getvalue(), tokens


@pytest.fixture(scope="module")
def nasty():
    """A model whose words are markup, every one of them."""
    torch.manual_seed(0)
    words = [f"{NASTY[i % len(NASTY)]}{i}" for i in range(30)]
    config = SPAEConfig(
        (16, 24), ((1, 1), (2, 3), (4, 6)), channels=4, multipliers=(1, 1, 1), num_res_blocks=1
    )
    return SPAE(config, Codebook.from_arrays(words, torch.randn(30, 6))).eval()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.rand(len(NASTY), 3, 16, 24) * 2 - 1


def test_nothing_but_the_page_s_own_elements(nasty, images):
    text, _ = page(nasty, NASTY, images, title=NASTY[3])
    tree = Tree(text)
    own = "html head meta title style script body header h1 label input output p main article h2 div figure"
    assert {tag for tag, _ in tree.elements} == {*own.split(), "i", "figcaption", "img", "table", "tr", "td"}
    assert len(tree.all("script")) == len(tree.all("style")) == 1
    assert len(tree.all("article")) == len(NASTY)
    for tag, attributes in tree.elements:
        assert not any(name.startswith("on") or name in ("style", "href") for name in attributes), (
            tag,
            attributes,
        )
    assert all(image["src"].startswith("data:image/png;base64,") for image in tree.all("img"))
    text.encode("utf-8")


def test_its_policy_allows_what_it_holds_and_nothing_else(nasty, images):
    text, _ = page(nasty, NASTY, images)
    tree = Tree(text)
    (policy,) = [meta["content"] for meta in tree.all("meta") if "http-equiv" in meta]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert set(allowed) == {"default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"}
    assert (allowed["default-src"], allowed["img-src"]) == ("'none'", "data:")
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(tree.texts[tag][0].encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
        assert not re.search(r"https?:|url\(|@import|import\(|fetch\(", tree.texts[tag][0])


def test_words_lie_on_their_grids(nasty, images):
    text, tokens = page(nasty, NASTY, images)
    tree = Tree(text)
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert [(t.count("<tr>"), t.count("<td>")) for t in tables] == [(1, 1), (2, 6), (4, 24)] * len(NASTY)
    words = [word for image in nasty.words(tokens) for layer in image for word in layer]
    printed = [
        word.replace("\u202e\x00\x1b", r"\u202e\x00\x1b").replace("\udce9", r"\udce9") for word in words
    ]
    assert tree.texts["td"] == printed
    assert tree.texts["h2"] == [*NASTY[:4], r"\u202e\x00\x1b[31m\udce9", NASTY[5]]
    names = [table["aria-label"] for table in tree.all("table")]
    assert names[:4] == [*(f"{NASTY[0]}, layer {n}" for n in (1, 2, 3)), f"{NASTY[1]}, layer 1"]


def test_pictures_are_the_image_and_each_reconstruction(nasty, images):
    text, tokens = page(nasty, NASTY, images)
    found = Tree(text).all("img")
    assert len(found) == 4 * len(NASTY)
    with torch.no_grad():
        expected = [images, *(nasty.decode(tokens.upto(number)) for number in (1, 2, 3))]
    for image in range(len(NASTY)):
        for place, pictures in enumerate(expected):
            entry = found[4 * image + place]
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["src"].split(",")[1]))))
            assert np.array_equal(pixels, to_bytes(pictures[image]))
            if place:
                assert entry["alt"].endswith(f", {psnr(images, pictures)[image]:.1f} dB")


def test_the_dot_lies_where_the_pyramid_looks_up(nasty, images):
    """Each layer's rule, laid over its cells, gives the positions of eq. 1."""
    text, _ = page(nasty, NASTY, images)
    shape = nasty.pyramid.shape
    for layer, grid in enumerate(nasty.pyramid.grids):
        found = re.search(rf"\.layer{layer + 1}{{--shape:([\d.]+);--top:([\d.]+)%;--left:([\d.]+)%}}", text)
        shares = [float(value) / 100 for value in found.groups()[1:]]
        for position, cell in zip(nasty.pyramid.positions(layer).tolist(), np.ndindex(*grid), strict=True):
            where = [(c + s) / g * n for c, s, g, n in zip(cell, shares, grid, shape, strict=True)]
            assert where == pytest.approx([p + 0.5 for p in position], abs=1e-3)
        assert float(found[1]) == pytest.approx((24 / grid[1]) / (16 / grid[0]), rel=1e-3)


def test_fewer_layers_and_wrong_ones(nasty, images):
    text, tokens = page(nasty, NASTY, images, num_layers=2)
    tree = Tree(text)
    assert len(tree.all("table")) == 2 * len(NASTY)
    (slider,) = tree.all("input")
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "1", "2")
    with pytest.raises(ValueError, match="batches: expected tokens of 3 layers, got 2"):
        write_page(io.StringIO(), nasty, [Shown(NASTY, images, tokens)])
    video = SPAE(SPAEConfig((4, 8, 8), (1,), channels=4, multipliers=(1,), num_res_blocks=1), nasty.codebook)
    with pytest.raises(ValueError, match="model: expected one for images of 1 or 3 channels"):
        write_page(io.StringIO(), video, [])


def test_grey_models(nasty):
    config = SPAEConfig((8, 8), (1, 2), in_channels=1, channels=4, multipliers=(1, 1), num_res_blocks=1)
    model = SPAE(config, nasty.codebook).eval()
    text, _ = page(model, ["grey"], torch.zeros(1, 1, 8, 8))
    assert len(Tree(text).all("img")) == 3


@pytest.fixture
def toy(tmp_path, monkeypatch, nasty):
    nasty.save_pretrained(tmp_path / "model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(tmp_path / "model")


def test_command(toy, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in ("a.png", "<script>alert(1)<", "b.png"):
        Image.fromarray(pixels).save(name, "PNG")
    Path("bad.png").write_text("no picture")
    command = ["view", "a.png", "<script>alert(1)<", "bad.png", "b.png", "--model", toy, "--batch-size", "2"]
    assert main([*command, "--out", "site/page.html"]) == 1
    out = capsys.readouterr()
    assert out.out == "site/page.html\n"
    assert "skipped bad.png" in out.err
    assert Tree(Path("site/page.html").read_text("utf-8")).texts["h2"] == [
        "a.png",
        "<script>alert(1)<",
        "b.png",
    ]
    before = Path("site/page.html").read_bytes()
    assert main(["view", "bad.png", "--model", toy, "--out", "site/page.html"]) == 1
    assert Path("site/page.html").read_bytes() == before  # of no image there is no page
    assert sorted(path.name for path in Path("site").iterdir()) == ["page.html"]
