"""Back ends of one's own, and progressive decoding through every back end alike."""

from types import SimpleNamespace

import pytest
import torch

from spae import Codebook, llm
from spae.incontext import Example, Lexicon, Options, Task, Template, decode, estimate
from spae.incontext.reference import decode_reference
from spae.llm import loading
from spae_ops import Pyramid


class Counter:
    """A language model of bytes that continues with the next allowed id after the last one."""

    name = identity = "counter"
    context_window, start_ids, special_ids = 4096, (), frozenset()

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")

    def check(self, ids):
        pass

    def prefix(self, ids, base=None):
        return SimpleNamespace(ids=(*(base.ids if base else ()), *ids))

    def generate(
        self, prompts, num_tokens, *, prefix=None, allowed=None, sampling=llm.GREEDY, streams=None, stop=()
    ):
        rows = [list(prompt) for prompt in prompts]
        for row in rows:
            for ids in allowed or [torch.arange(256)] * num_tokens:
                row.append(int(ids[(ids <= row[-1]).sum() % len(ids)]))
        return torch.tensor([row[len(row) - num_tokens :] for row in rows])


@pytest.fixture
def counter(monkeypatch):
    monkeypatch.setattr(loading, "_BACKENDS", dict(loading._BACKENDS))
    llm.backend("count://")(lambda source: Counter())
    return llm.load("count://bytes")


def test_a_back_end_of_ones_own_is_loaded_by_its_scheme(counter):
    assert counter.decode(counter.generate([counter.encode("abc")], 3)[0].tolist()) == "def"
    assert isinstance(llm.load("COUNT://"), Counter)
    with pytest.raises(
        ValueError, match=r"source: expected a scheme of http://, https://, count://, got 'conut://'"
    ):
        llm.load("conut://bytes")
    with pytest.raises(ValueError, match="schemes: expected such as"):
        llm.backend("count")


@pytest.fixture
def served(serve, tiny):
    def complete(body):
        ids = torch.tensor([tiny.encode(letter)[0] for letter in "ABCDEFGH"]).sort().values
        sets = [ids] * body["max_tokens"]
        return tiny.decode(tiny.generate([tiny.encode(body["prompt"])], len(sets), allowed=sets)[0].tolist())

    return serve(complete, concurrency=2)[1]


PATHS = {
    "par": ("par", None),
    "pnar": ("pnar", None),
    "one PAR layer": ("par", 1),
    "two PAR layers": ("par", 2),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", ["examples", "segments"])
@pytest.mark.parametrize("backend", ["counter", "served", "tiny"])
def test_every_way_of_decoding_goes_through_every_back_end(request, backend, layout, path):
    model = request.getfixturevalue(backend)
    ids = torch.tensor([model.encode(letter)[0] for letter in "ABCDEFGH"])
    pyramid = Pyramid.square(2, (1, 1, 2))
    lexicon = Lexicon(Codebook.from_arrays(list("ABCDEFGH"), torch.eye(8), ids), pyramid, model)
    answers = [tuple(ids[:6].tolist()), tuple(ids[2:].tolist())]
    task = Task(Template(before="an image of "), tuple(map(Example, "38", answers)))
    mode, par_layers = PATHS[path]
    options = {"mode": mode, "stride": 2, "options": Options(par_layers=par_layers, layout=layout)}
    for queries in ([Example("1+7")], [Example("1+7"), Example("0")]):
        tokens = decode(model, task, queries, lexicon, **options)
        assert torch.equal(tokens.ids, decode_reference(model, task, queries, lexicon, **options).ids)
        assert estimate(model, task, queries, lexicon, **options).completion_tokens == 6 * len(queries)
