"""Bad arguments of language models, lexicons, prompts and progressive decoding."""

import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers")

from spae import Codebook, LearnedCodebook, PyramidTokens, llm
from spae.incontext import (
    Example,
    Lexicon,
    Options,
    Task,
    Template,
    decode,
    estimate,
    prompt,
    seen_masks,
    segments,
)
from spae.incontext.prompts import Writer
from spae.incontext.tasks import (
    captioned_images_task,
    captioning_task,
    classification_task,
    paired_task,
    vqa_task,
)
from spae.llm import Sampling, text_of
from spae.llm.client import Patience
from spae.llm.http import HTTPLLM, Server
from spae.testing.tiny_llm import tiny_llm, tiny_words
from spae_ops import Pyramid

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A tiny language model, a lexicon of its words, and a task."""
    model = tiny_llm(context=200)
    ids = torch.arange(260, 300)
    book = Codebook.from_arrays(tiny_words(model, ids), torch.randn(40, 4), llm_ids=ids)
    lexicon = Lexicon(book, Pyramid.square(2, (1, 2)), model)
    examples = tuple(Example(f"an image of {i}", tuple(range(260 + i, 265 + i))) for i in range(3))
    empty = tmp_path_factory.mktemp("llm")
    (empty / "config.json").write_text("{}")
    return SimpleNamespace(
        model=model,
        book=book,
        lexicon=lexicon,
        tokens=PyramidTokens(torch.arange(5)[None], lexicon.pyramid),
        task=Task(Template(), examples),
        query=[Example("an image of 4")],
        folder=empty,
    )


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def generate(a, prompts=((5, 6),), count=2, **options):
    return a.model.generate(prompts, count, **options)


def drawn(a, **options):
    mode, stride = options.pop("mode", "par"), options.pop("stride", 4)
    return decode(a.model, a.task, a.query, a.lexicon, mode=mode, stride=stride, options=Options(**options))


def lexicon(a, book=None, masks=None):
    return Lexicon(book or a.book, a.lexicon.pyramid, a.model, masks)


def no_words(a):
    return [torch.ones(40, dtype=torch.bool), torch.zeros(40, dtype=torch.bool)]


MODELS = [
    (lambda a: llm.load("no-such"), r"source: expected one of smollm2, .*, got 'no-such'"),
    (lambda a: llm.load(None), r"source: expected one of smollm2, .*, got None"),
    (lambda a: llm.load("mine://x"), r"source: expected a scheme of .*, got 'mine://'"),
    (lambda a: llm.load(a.folder), r"source: expected weights \(.*\) in .*, got none"),
    (lambda a: llm.load("smollm2", dtype="int8"), r"dtype: expected one of float32, bfloat16, float16, got 'int8'"),
    (lambda a: llm.load("smollm2", dtype=None), r"dtype: expected one of .*, got None"),
    (lambda a: llm.load("smollm2", pack_tokens=0), r"pack_tokens: expected a whole number from 1, got 0"),
    (lambda a: llm.load("smollm2", device="tpu9"), r"device: expected one of torch's, got 'tpu9'"),
    (lambda a: llm.load("smollm2", colour=1), r"options: expected no fields but device, .*, got \['colour'\]"),
    (lambda a: llm.load("http://localhost:1/v1", colour=1), r"options: expected no fields but model, .*, got \['colour'\]"),
    (lambda a: llm.backend("mine"), r"schemes: expected such as \"mine://\", got 'mine'"),
    (lambda a: llm.backend(3), r"schemes: expected such as \"mine://\", got 3"),
    (lambda a: Sampling(temperature=-1), r"sampling.temperature: expected a number from 0, got -1"),
    (lambda a: Sampling(temperature=NAN), r"sampling.temperature: expected a number from 0, got nan"),
    (lambda a: Sampling(temperature="1"), r"sampling.temperature: expected a number from 0, got '1'"),
    (lambda a: Sampling(top_k=0), r"sampling.top_k: expected a whole number from 1 or null, got 0"),
    (lambda a: Sampling(top_k=2.5), r"sampling.top_k: expected a whole number from 1 or null, got 2.5"),
    (lambda a: Sampling(top_p=0), r"sampling.top_p: expected a number above 0 to 1 or null, got 0"),
    (lambda a: Sampling(top_p=1.5), r"sampling.top_p: expected a number above 0 to 1 or null, got 1.5"),
    (lambda a: Sampling(seed=0.5), r"sampling.seed: expected a whole number, got 0.5"),
    (lambda a: generate(a, count=-1), r"num_tokens: expected 0 or more, got -1"),
    (lambda a: generate(a, count=1.5), r"num_tokens: expected 0 or more, got 1.5"),
    (lambda a: generate(a, [[]]), r"prompts\[0\]: expected at least one id after the prefix, got none"),
    (lambda a: generate(a, [[5], [340]]), r"prompts\[1\]: expected ids 0 to 339, got 340 at position 0"),
    (lambda a: generate(a, [[-1]]), r"prompts\[0\]: expected ids 0 to 339, got -1 at position 0"),
    (lambda a: generate(a, [["a"]]), r"prompts\[0\]: expected ids 0 to 339, got 'a' at position 0"),
    (lambda a: generate(a, [[5.0]]), r"prompts\[0\]: expected ids 0 to 339, got 5.0 at position 0"),
    (lambda a: generate(a, [5]), r"prompts\[0\]: expected a sequence of ids, got 5"),
    (lambda a: generate(a, ["ab"]), r"prompts\[0\]: expected .*, got 'a'"),
    (lambda a: generate(a, [[5] * 199]), r"prompts: expected at most 200 tokens, tiny's context window, got 199 and 2 to follow"),
    (lambda a: generate(a, allowed=[ids(5)]), r"allowed: expected one set per token \(2\), got 1"),
    (lambda a: generate(a, allowed=[ids(5), ids()]), r"allowed\[1\]: expected int64 \[m\] with m >= 1, got torch.int64 \[0\]"),
    (lambda a: generate(a, allowed=[[5], [6]]), r"allowed\[0\]: expected int64 \[m\] with m >= 1, got list"),
    (lambda a: generate(a, allowed=[ids(5), ids(340)]), r"allowed\[1\]: expected ids 0 to 339, got 340"),
    (lambda a: generate(a, allowed=[ids(5), ids(-1)]), r"allowed\[1\]: expected ids 0 to 339, got -1"),
    (lambda a: generate(a, streams=[1, 2]), r"streams: expected one per prompt \(1\), got 2"),
    (lambda a: generate(a, prefix=(5, 6)), r"prefix: expected what this model's prefix\(\) returned, got tuple"),
    (lambda a: a.model.prefix([340]), r"ids: expected ids 0 to 339, got 340 at position 0"),
    (lambda a: a.model.prefix([5] * 201), r"prompts: expected at most 200 tokens, .*, got 201 and 0 to follow"),
    (lambda a: a.model.check([400]), r"prompt: expected ids 0 to 339, got 400 at position 0"),
    (lambda a: a.model.logprobs([[5]], []), r"continuations: expected one per prompt \(1\), got 0"),
    (lambda a: a.model.logprobs([[5]], [[]]), r"continuations\[0\]: expected at least one id, got none"),
    (lambda a: a.model.logprobs([[5]], [[340]]), r"continuations\[0\]: expected ids 0 to 339, got 340 at position 0"),
    (lambda a: text_of(a.model, [5, 0]), r"prompt: expected no control token, .*, got id 0 .* at position 1"),
    (lambda a: Server("http://x/v1", endpoint="edits"), r"endpoint: expected completions or chat, got 'edits'"),
    (lambda a: Server("http://x/v1", allowed_ids="never"), r"allowed_ids: expected retry or server, got 'never'"),
    (lambda a: Server("http://x/v1", attempts=0), r"attempts: expected a whole number from 1, got 0"),
    (lambda a: Server("http://x/v1", concurrency="4"), r"concurrency: expected a whole number from 1, got '4'"),
    (lambda a: Server("http://x/v1", context_window=0), r"context_window: expected a whole number from 1, got 0"),
    (lambda a: HTTPLLM(Server("localhost:8000")), r"url: expected http\(s\)://host.*, got 'localhost:8000'"),
    (lambda a: HTTPLLM(Server("http://x/v1?key=secret")), r"url: expected http\(s\)://host.* without a query, got 'http://x/v1'"),
    (lambda a: HTTPLLM(Server(None)), r"url: expected http\(s\)://host.*, got NoneType"),
    (lambda a: HTTPLLM(Server("http://x/v1", api_key="a b")), r"api_key: expected printable ASCII without spaces, got something else"),
    (lambda a: HTTPLLM(Server("http://u:p@x/v1", api_key="k")), r"api_key: expected none beside the credentials .*, got one"),
    (lambda a: Patience(timeout=0), r"patience.timeout: expected a number above 0, got 0"),
    (lambda a: Patience(timeout=INF), r"patience.timeout: expected a number above 0, got inf"),
    (lambda a: Patience(timeout="1"), r"patience.timeout: expected a number above 0, got '1'"),
    (lambda a: Patience(retries=-1), r"patience.retries: expected a whole number from 0, got -1"),
    (lambda a: Patience(retries=1.5), r"patience.retries: expected a whole number from 0, got 1.5"),
    (lambda a: Patience(backoff=NAN), r"patience.backoff: expected a number from 0, got nan"),
]  # fmt: skip

INCONTEXT = [
    (lambda a: segments(-1, 4), r"num_tokens: expected 0 or more, got -1"),
    (lambda a: segments(10, 0), r"stride: expected 1 or more, got 0"),
    (lambda a: segments(10, 2.5), r"stride: expected 1 or more, got 2.5"),
    (lambda a: segments("10", 2), r"num_tokens: expected 0 or more, got '10'"),
    (lambda a: drawn(a, stride=0), r"stride: expected 1 or more, got 0"),
    (lambda a: drawn(a, mode="nar"), r"mode: expected \"par\" or \"pnar\", got 'nar'"),
    (lambda a: drawn(a, layout="lines"), r"layout: expected \"examples\" or \"segments\", got 'lines'"),
    (lambda a: drawn(a, num_layers=0), r"num_layers: expected 1 to 2 or None, got 0"),
    (lambda a: drawn(a, num_layers=3), r"num_layers: expected 1 to 2 or None, got 3"),
    (lambda a: drawn(a, num_layers="1"), r"num_layers: expected 1 to 2 or None, got '1'"),
    (lambda a: drawn(a, par_layers=0), r"par_layers: expected 1 to 2 .*, got 0"),
    (lambda a: drawn(a, par_layers=1, mode="pnar"), r"par_layers: expected .*, got 1 with mode 'pnar'"),
    (lambda a: drawn(a, window=-1, layout="examples"), r"window: expected 0 or more .*, got -1"),
    (lambda a: drawn(a, best_of=0), r"best_of: expected 1 to 256, got 0"),
    (lambda a: drawn(a, best_of=2.5), r"best_of: expected 1 to 256, got 2.5"),
    (lambda a: drawn(a, best_of=2), r"best_of: expected 1 at temperature 0, got 2"),
    (lambda a: drawn(a, window=4, layout="segments"), r"window: expected .*, got 4 in 'segments'"),
    (lambda a: decode(a.model, a.task, [Example("x", (1,))], a.lexicon), r"queries\[0\]: expected no answer, got \(1,\)"),
    (lambda a: decode(a.model, Task(Template(), (Example("x"),)), a.query, a.lexicon), r"task: expected answers in all examples, got none in examples\[0\]"),
    (lambda a: decode(a.model, Task(Template(), (Example("x", (1, 2)),)), a.query, a.lexicon), r"answer: expected at least 4 ids .*, got \(1, 2\)"),
    (lambda a: decode(a.model, Task(Template(), (Example("x", "text"),)), a.query, a.lexicon), r"answer: expected at least 4 ids .*, got 'text'"),
    (lambda a: decode(a.model, a.task, [Example("x " * 100)], a.lexicon), r"prompt: expected at most 200 tokens, tiny's context window, got \d+: 3 examples"),
    (lambda a: prompt(a.model, a.task, a.query[0], 10**6), r"prompt: expected at most 200 tokens, .*, got \d+: .*; 0 examples would fit"),
    (lambda a: estimate(a.model, a.task, a.query, a.lexicon, stride=-1), r"stride: expected 1 or more, got -1"),
    (lambda a: Writer(a.model, Task(Template(), (Example("x"),))), r"task: expected answers in all examples, got none in examples\[0\]"),
    (lambda a: lexicon(a, LearnedCodebook(8, 4)), r"codebook: expected one with llm_ids, got 'learned-8'"),
    (lambda a: lexicon(a, Codebook.from_arrays(["a", "b"], torch.eye(2), llm_ids=[5, 5])), r"codebook: expected distinct llm_ids, got 'custom', which repeats some"),
    (lambda a: lexicon(a, Codebook.from_arrays(["zebra", "b"], torch.eye(2), llm_ids=[5, 6])), r"codebook: expected the words of tiny, where id 5 is .*, got 'zebra' in 'custom'"),
    (lambda a: lexicon(a, Codebook.from_arrays(["zebra", "b"], torch.eye(2), llm_ids=[5, 10**6])), r"codebook: expected .*, got"),
    (lambda a: lexicon(a, masks=torch.ones(39, dtype=torch.bool)), r"masks\[0\]: expected bool \[40\], got torch.bool \[39\]"),
    (lambda a: lexicon(a, masks=torch.ones(40)), r"masks\[0\]: expected bool \[40\], got torch.float32 \[40\]"),
    (lambda a: lexicon(a, masks=[torch.ones(40, dtype=torch.bool)]), r"masks: expected one per layer \(2\), got 1"),
    (lambda a: lexicon(a, masks=[[True] * 40] * 2), r"masks\[0\]: expected bool \[40\], got list"),
    (lambda a: lexicon(a, masks=no_words(a)), r"masks: expected a word that may be generated in each layer, got none in layer 1"),
    (lambda a: a.lexicon.llm_ids(PyramidTokens(ids([40]), a.lexicon.pyramid)), r"tokens: expected ids 0 to 39, got 40 at position 0 of image 0"),
    (lambda a: a.lexicon.llm_ids(PyramidTokens(ids([-1]), a.lexicon.pyramid)), r"tokens: expected ids 0 to 39, got -1 at position 0 of image 0"),
    (lambda a: a.lexicon.llm_ids(PyramidTokens(ids([0]), Pyramid.square(2, (1,)))), r"tokens: expected Pyramid.*, got Pyramid"),
    (lambda a: a.lexicon.tokens([[5]]), r"llm_ids\[0\]: expected ids of words of codebook 'custom', got 5 at position 0"),
    (lambda a: a.lexicon.tokens([[260, 261]]), r"ids: expected a whole number of layers, one of \[1, 5\], got 2"),
    (lambda a: a.lexicon.tokens([[260], [260] * 5]), r"llm_ids\[1\]: expected 1 ids as in llm_ids\[0\], got 5"),
    (lambda a: a.lexicon.allowed(5), r"position: expected 0\.\.4, got 5"),
    (lambda a: a.lexicon.allowed(-1), r"position: expected 0\.\.4, got -1"),
    (lambda a: a.lexicon.word(5), r"llm_id: expected that of a word of codebook 'custom', got 5"),
    (lambda a: seen_masks(a.tokens, 3), r"tokens: expected ids 0 to 2, got 3 at position 3 of image 0"),
    (lambda a: classification_task([((1,), 0)], ["a", "a"]), r"names: expected different ones, got \['a', 'a'\]"),
    (lambda a: classification_task([((1,), 2)], ["a", "b"]), r"shots\[0\]: expected the number of a name, 0\.\.1, got 2"),
    (lambda a: classification_task([((1,), -1)], ["a", "b"]), r"shots\[0\]: expected the number of a name, 0\.\.1, got -1"),
    (lambda a: captioned_images_task([(1,)], []), r"captions: expected 1, one for each image, got 0"),
    (lambda a: captioning_task([(1,)], ["a", "b"]), r"captions: expected 1, one for each image, got 2"),
    (lambda a: vqa_task([(1,)], ["q"], []), r"answers: expected 1, one for each image, got 0"),
    (lambda a: vqa_task([(1,)], [], ["a"]), r"questions: expected 1, one for each image, got 0"),
    (lambda a: paired_task(a.tokens, a.tokens[:0], a.tokens, a.lexicon, condition_layers=1), r"original: expected 1, one for each degraded, got 0"),
    (lambda a: paired_task(a.tokens, a.tokens, a.tokens, a.lexicon, condition_layers=3), r"num_layers: expected 1\.\.2, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), [*MODELS, *INCONTEXT])
def test_refused(call, said, asked, refused):
    refused(lambda: call(asked), (ValueError, TypeError, FileNotFoundError), said)
