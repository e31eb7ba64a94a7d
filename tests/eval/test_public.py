"""Published episodes, from small files of their forms, and prompts for other harnesses."""

import json

import pytest

from spae.cli import main
from spae.eval.episodes import FewShotSetting
from spae.eval.public import PublicImages, PublicShot, read_names, read_public
from spae.eval.published import Published
from spae.eval.run import Run, evaluate, find
from spae.eval.tasks import fewshot
from spae.eval.tasks.caption import Captions
from spae.eval.tasks.fewshot import FewShot
from spae.llm import text_of

image = pytest.importorskip("PIL.Image", reason="needs the package pillow")
pytestmark = pytest.mark.usefixtures("toy_data")


def draw(folder, *paths):
    """Pictures of 8 x 8; a file's first letter is its colour."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        colour = (23 * ord(path.rpartition("/")[2][0]) % 256, 90, len(path))
        image.new("RGB", (8, 8), colour).save(folder / path)


def frozen_row(number, captions, question, answer):
    row = {"question_id": number, "question": question, "answer": answer}
    for i, (path, caption) in enumerate(captions, start=1):
        row |= {f"image_{i}": path, f"caption_{i}": caption}
    return row | {"question_image": "pictures/d9.png"}


NAMING = "Q: What is this? A: This is a"
DAX = [("pictures/d1.png", "This is a golden dax."), ("pictures/b1.png", "This is a golden blicket.")]


@pytest.fixture
def frozen(tmp_path):
    rows = [
        frozen_row(7, DAX, NAMING, "golden dax."),
        frozen_row(8, DAX * 2, NAMING, "This is a golden blicket."),
        frozen_row(9, DAX, "Q: What is the dax on? A:", "table"),
        frozen_row(10, DAX, "Q: What colour is the dax? A:", "red."),
    ]
    draw(tmp_path, "pictures/d1.png", "pictures/b1.png", "pictures/d9.png")
    (tmp_path / "open_ended_mi.json").write_text(json.dumps(rows))
    return tmp_path / "open_ended_mi.json"


@pytest.fixture
def v2l(tmp_path):
    rows = [
        "n01/x1.png,n02/y1.png,n01/x2.png,n02/y2.png,n02/y3.png",
        "n02/y1.png, n01/x1.png, n01/x3.png",
        "",
    ]
    (tmp_path / "2_way_2_shot.csv").write_text("\n".join(rows))
    draw(tmp_path / "imagenet", *[f"n0{n}/{c}{i}.png" for n, c in ((1, "x"), (2, "y")) for i in (1, 2, 3)])
    (tmp_path / "names.json").write_text('{"n01": "ox"}')
    return tmp_path / "2_way_2_shot.csv"


@pytest.fixture
def vl_icl(tmp_path):
    support = {name: {"images": [f"{name}{i}.png" for i in (1, 2)]} for name in ("dax", "wug")}
    row = {"classes": ["dax", "wug"], "support": support, "image": ["w9.png"], "answer": "wug"}
    draw(tmp_path, "dax1.png", "dax2.png", "wug1.png", "wug2.png", "w9.png")
    (tmp_path / "query.json").write_text(json.dumps([row, row | {"image": "dax1.png", "answer": "dax"}]))
    return tmp_path / "query.json"


def test_frozen_episodes(frozen):
    first, repeated, on, colour = read_public(frozen, "frozen")
    shots = (PublicShot("pictures/d1.png", "golden dax"), PublicShot("pictures/b1.png", "golden blicket"))
    assert (first.name, first.shots, first.image) == ("7", shots, "pictures/d9.png")
    assert (first.answer, first.choices, first.question) == (
        "golden dax",
        ("golden dax", "golden blicket"),
        "",
    )
    assert (repeated.shots, repeated.answer) == (shots * 2, "golden blicket")
    assert (on.question, on.answer, on.choices) == ("What is the dax on?", "table", ())
    assert on.shots[0].answer == "This is a golden dax"
    assert (colour.question, colour.answer) == ("What colour is the dax?", "red")


def test_v2l_episodes(v2l):
    first, second = read_public(v2l, "v2l", {"n01": "ox"})
    assert [shot.answer for shot in first.shots] == ["ox", "n02", "ox", "n02"]
    assert (first.image, first.answer, first.choices) == ("n02/y3.png", "n02", ("ox", "n02"))
    assert (second.image, second.answer, second.choices) == ("n01/x3.png", "ox", ("n02", "ox"))


def test_vl_icl_episodes(vl_icl):
    first, second = read_public(vl_icl, "vl-icl")
    assert [shot.image for shot in first.shots] == ["dax1.png", "wug1.png", "dax2.png", "wug2.png"]
    assert [shot.answer for shot in first.shots] == ["dax", "wug"] * 2
    assert (first.image, first.answer, first.choices) == ("w9.png", "wug", ("dax", "wug"))
    assert (second.image, second.answer) == ("dax1.png", "dax")


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("frozen", "{", r"episodes: expected JSON, got .*file"),
        ("frozen", "3", r"episodes: expected a list of episodes, got int in .*file"),
        ("frozen", "[]", r"episodes: expected at least one, got none in .*file"),
        ("frozen", "[{}]", r"format 'frozen', got .*file, episode 0: expected image_1 and caption_1"),
        ("frozen", '[{"image_1": "a", "caption_1": "b"}]', r"episode 0: no 'question_image'"),
        ("frozen", '[{"image_1": 3, "caption_1": "b"}]', r"episode 0: expected a text, got 3"),
        (
            "frozen",
            json.dumps([frozen_row(1, DAX[:1], NAMING, "golden dax.")]),
            r"episode 0: expected examples of 2 classes or more, got 1",
        ),
        ("v2l", "n1/a,n2/b,n3/c", r"episode 0: expected an answer among n1, n2, got 'n3'"),
        ("v2l", "n1/a,n1/b,n1/c", r"episode 0: expected examples of 2 classes or more, got 1"),
        ("v2l", "n1/a,b,n1/c", r"episode 0: expected WNID/FILE, got 'b'"),
        ("v2l", "n1/a,n1/c", r"episode 0: expected examples and a query, got 2 images"),
        ("vl-icl", '[{"classes": ["a", "b"], "support": {}}]', r"format 'vl-icl', .*, episode 0: no 'a'"),
        ("coco", "", r"format: expected one of frozen, v2l, vl-icl, got 'coco'"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, form, text, message):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_public(tmp_path / "file", form)


def test_missing_files_are_named(frozen, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"episodes: expected a file, got 'none.json'"):
        read_public(type(frozen)("none.json"), "frozen")
    with pytest.raises(FileNotFoundError, match=r"images: expected .*d1.png', which an episode names"):
        PublicImages(read_public(frozen, "frozen"), tmp_path / "elsewhere", 8)


def test_a_run_over_a_published_file(frozen, spae, tiny, tmp_path, interrupted):
    """Naming goes by setting, repeats apart; what may be answered by any text is scored as text."""
    llm = interrupted(tiny)
    part = Published(str(frozen), "frozen", (1,), export=True)
    run = Run("fewshot", (part,), spae, llm, tmp_path / "out")
    report = evaluate(fewshot, run)
    assert [row["setting"] for row in report["rows"]] == ["2-way 1-shot", "2-way 1-shot x2", "open answers"]
    assert [row["episodes"] for row in report["rows"]] == [1, 1, 2]
    assert report["rows"][0]["centroid on pixels"]["value"] == 1, "the dax is of the dax's colour"
    assert report["rows"][1]["centroid on pixels"]["value"] == 0
    assert set(report["rows"][2]) >= {"exact", "shuffled exact", "similarity", "shuffled similarity"}
    assert "ranked" not in report["rows"][2]
    table = fewshot.table(report)
    assert "| open_ended_mi.json (frozen) | 1 | open answers | 2 | 0.00 |" in table
    asked = llm.calls
    assert evaluate(fewshot, run) == report
    assert llm.calls == asked == 2 * 4
    names = sorted(path.name for path in (tmp_path / "out/prompts").iterdir())
    assert names[0] == "open_ended_mi-2-way-1-shot-1-words.jsonl"


def test_the_other_formats_run_from_the_command(v2l, vl_icl, spae, tiny, tmp_path, monkeypatch, capsys):
    from spae.commands import eval as command

    monkeypatch.setattr(command, "load_tokenizer", lambda name: spae)
    monkeypatch.setattr("spae.llm.load", lambda *arguments, **options: tiny)
    common = ["eval", "fewshot", "--layers", "1", "--json", "--out", str(tmp_path / "out"), "--episodes"]
    places = ["--images", str(tmp_path / "imagenet"), "--names", str(tmp_path / "names.json")]
    assert main([*common, str(v2l), "--format", "v2l", *places]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["setting"], row["episodes"]) for row in rows] == [("2-way 2-shot", 1), ("2-way 1-shot", 1)]
    assert main([*common, str(vl_icl), "--format", "vl-icl"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["setting"], row["episodes"], row["data"]) == ("2-way 2-shot", 2, "query.json (vl-icl)")
    assert main([*common, "many"]) == 1
    assert "episodes: expected a number, got 'many'" in capsys.readouterr().err
    assert main([*common, "no.json", "--format", "v2l"]) == 1
    assert "episodes: expected a number or a file, got 'no.json'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--episodes 3 --names {0}/names.json", "names: expected the default, None, for only a file"),
        ("--episodes 3 --images {0}", "images: expected the default, None, for only a file"),
        (
            "--episodes {0}/e.csv --format v2l --split dev",
            "split: expected the default, report, for the file",
        ),
        ("--episodes {0}/e.csv --format v2l --ways 2", "ways: expected the default, [2, 5], for the file"),
        ("--episodes {0}/e.csv --format frozen --names {0}/n.json", "names: expected None but for v2l, got"),
        ("--shots 1 2", "shots: expected some of 1, 3, 5, got 2"),
        ("--repeats 0 2", "repeats: expected some of 0, 1, 3, 5, got 2"),
        ("--shots 3 --repeats 1", "settings: expected at least one, got none"),
    ],
)
def test_options_that_nothing_reads_are_refused(tmp_path, capsys, options, message):
    (tmp_path / "e.csv").write_text("n1/a,n2/b,n1/c")
    assert main(["eval", "fewshot", *options.format(tmp_path).split()]) == 1
    assert message in capsys.readouterr().err


def test_names_are_texts_by_folder(tmp_path):
    file = tmp_path / "names.json"
    with pytest.raises(FileNotFoundError, match=r"names: expected a file, got '.*names.json'"):
        read_names(file)
    for text, message in (
        ("{", r"names: expected JSON, got .*names.json"),
        ('["ox"]', r"names in .*, got \['ox'\]"),
        ('{"n1": 3}', r"names in .*, got \{'n1': 3\}"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_names(file)
    file.write_text('{"n1": "ox"}')
    assert read_names(file) == {"n1": "ox"}


def test_prompts_are_exported_as_they_are_asked(spae, tiny, tmp_path, monkeypatch):
    seen = []
    generate = type(tiny).generate

    def spy(llm, prompts, *arguments, prefix=None, **options):
        seen.append((*prefix.ids, *prompts[0]))
        return generate(llm, prompts, *arguments, prefix=prefix, **options)

    monkeypatch.setattr(type(tiny), "generate", spy)
    asked = FewShot("digits", (1,), (FewShotSetting(2),), 3, export=True)
    evaluate(fewshot, Run("fewshot", (asked,), spae, tiny, tmp_path))
    lines = (tmp_path / "prompts/digits-2-way-1-shot-1-words.jsonl").read_text().splitlines()
    assert len(lines) == 3
    for number, (line, ids) in enumerate(zip(map(json.loads, lines), seen[::2], strict=True)):
        assert line["id"] == f"digits-2-way-1-shot-1-words-{number}"
        assert line["prompt"] == tiny.decode(ids[len(tiny.start_ids) :])
        assert line["answer"] in line["choices"]
        assert len(line["choices"]) == 2
        assert [len(words) for words in line["images"]] == [1, 1, 1]
        assert all(words[0] in line["prompt"] for words in line["images"])
        if line["reads_back"]:
            assert text_of(tiny, ids) == line["prompt"]


def test_captions_and_questions_are_exported_too(spae, tiny, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the package matplotlib")
    asked = Captions((1,), 3, 4, 3, split=None, export=True)
    evaluate(find("caption"), Run("caption", asked, spae, tiny, tmp_path / "captions"))
    lines = (tmp_path / "captions/prompts/caption-1-words.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"caption-1-words-{i}" for i in range(3)]
    assert all(json.loads(line)["prompt"].endswith("Output:") for line in lines)
    asked = FewShot("easy-vqa-colors", (1,), (FewShotSetting(2),), 2, split=None, export=True)
    evaluate(find("vqa"), Run("vqa", (asked,), spae, tiny, tmp_path / "questions"))
    (file,) = (tmp_path / "questions/prompts").iterdir()
    assert all("what colour" in json.loads(line)["prompt"] for line in file.read_text().splitlines())
