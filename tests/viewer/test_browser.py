"""The page in headless Chromium: slider, mouse and keys, and that nothing is loaded or runs but its own."""

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.viewer import Shown, write_page

NASTY = "</title></style></script><script>document.title='ran'</script><img src=//x onerror=\"document.title='ran'\">"


@pytest.fixture
def opened(browser, tmp_path):
    torch.manual_seed(0)
    words = [f"{NASTY}{i}" for i in range(40)]
    config = SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    model = SPAE(config, Codebook.from_arrays(words, torch.randn(40, 6))).eval()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    tokens = model.encode(images)
    with (tmp_path / "page.html").open("w", encoding="utf-8") as stream:
        write_page(stream, model, [Shown([NASTY, "second"], images, tokens)], title=NASTY)
    browser.open(tmp_path / "page.html")
    yield browser
    assert browser.messages == []
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)


def state(browser):
    """Of the first image: the layers shown, the picture shown, the words marked and the marked cell in
    percent."""
    return browser.run("""(() => {
        const article = document.querySelector("article"), visible = (e) => e.getClientRects().length > 0;
        const cell = article.querySelector(".made .cell"), box = cell.getBoundingClientRect();
        const all = cell.parentElement.getBoundingClientRect();
        const percent = (a, b) => Math.round((100 * a) / b);
        return {
            layers: [...article.querySelectorAll("table")].filter(visible).length,
            picture: [...article.querySelectorAll(".made img")].map((e, i) => [visible(e), i + 1])
                .filter((e) => e[0]).map((e) => e[1]),
            caption: article.querySelector(".made figcaption").textContent,
            word: article.querySelector(".word").innerText.split("\\n").at(-1),
            on: article.querySelectorAll("td.on").length,
            below: article.querySelectorAll("td.below").length,
            cell: visible(cell) ? [percent(box.x - all.x, all.width), percent(box.y - all.y, all.height),
                percent(box.width, all.width)] : null,
        };
    })()""")


def test_nothing_runs_or_loads_but_its_own(opened):
    assert [url for url in opened.requests if not url.startswith("data:image/png")] == [
        url for url in opened.requests if url.startswith("file:")
    ]
    assert sum(url.startswith("file:") for url in opened.requests) == 1
    assert opened.run("document.title").startswith("</title></style></script><script>")
    assert opened.run("document.scripts.length") == 1
    assert opened.run("document.querySelectorAll('td').length") == 2 * 21
    assert opened.run("document.querySelector('td').textContent").startswith("</title>")
    # Were markup to get in one day, the policy would stop it.
    opened.run(
        """document.body.insertAdjacentHTML("beforeend", "<img src=x:y onerror='document.title=1'>")"""
    )
    opened.run("new Promise((done) => setTimeout(done, 50))")
    assert opened.run("document.title") != "1"
    assert any("violates" in message for message in opened.messages)
    opened.messages.clear()


def test_slider(opened):
    assert opened.run("document.querySelector('#shown').value") == "3 of 3, 21 words"
    before = state(opened)
    assert (before["layers"], before["picture"], before["cell"]) == (3, [3], None)
    assert before["caption"].startswith("from 3 layers, ")
    opened.run("document.querySelector('#layers').focus()")
    opened.press("ArrowLeft")
    after = state(opened)
    assert (after["layers"], after["picture"]) == (2, [2])
    assert opened.run("document.querySelector('#shown').value") == "2 of 3, 5 words"
    opened.press("Home")
    assert state(opened)["caption"].startswith("from 1 layer, ")
    assert opened.run("document.querySelector('#shown').value") == "1 of 3, 1 word"


def test_pointing_at_a_word(opened):
    opened.point("article .layer2 tr:nth-child(2) td:nth-child(1)")
    marked = state(opened)
    assert (marked["layers"], marked["picture"], marked["on"]) == (3, [2], 1)
    assert marked["word"] == "layer 2, row 2, column 1 of 2 x 2"
    assert marked["cell"] == [0, 50, 50]
    assert marked["below"] == 1 + 4  # the word above it and the four below
    opened.point("h1")
    left = state(opened)
    assert (left["picture"], left["on"], left["below"], left["cell"], left["word"]) == ([3], 0, 0, None, "")


def test_keys(opened):
    opened.run("document.querySelector('#layers').focus()")
    opened.press("Tab")
    assert state(opened)["word"] == "layer 1, row 1, column 1 of 1 x 1"
    opened.press("Tab")
    opened.press("Tab")
    assert state(opened)["word"] == "layer 3, row 1, column 1 of 4 x 4"
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "End", "ArrowRight", "ArrowLeft", "ArrowUp"):
        opened.press(key)
    there = state(opened)
    assert there["word"] == "layer 3, row 2, column 3 of 4 x 4"
    assert (there["cell"], there["below"]) == ([50, 25, 25], 2)
    opened.press("Tab")  # the next grid is the second image's
    assert state(opened)["cell"] is None
    assert opened.run("document.activeElement.closest('article').querySelector('h2').textContent") == "second"


def test_dark_and_light(opened):
    seen = {}
    for scheme in ("light", "dark"):
        opened.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        colour = opened.run("getComputedStyle(document.body).backgroundColor")
        seen[scheme] = sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(", ")))
    assert seen["dark"] < 150 < 600 < seen["light"]
