import pytest

pytest.importorskip("transformers")

from spae.incontext import Example, Task, Template, prompt
from spae.incontext.passes import Options, plan
from spae.incontext.prompts import Writer
from spae.llm import ContextOverflow
from spae.testing.tiny_llm import tiny_llm
from spae_ops import Pyramid

PYRAMID = Pyramid.square(2, (1, 2))  # 1 and 4 tokens
TEMPLATE = Template(preamble="Digits.\n", before="an image of ")


@pytest.fixture(scope="module")
def tiny():
    return tiny_llm(context=200)


def letters(llm, text):
    ids = llm.encode(text)
    assert len(ids) == len(text)
    return tuple(ids)


@pytest.fixture(scope="module")
def task(tiny):
    return Task(TEMPLATE, tuple(Example(k, letters(tiny, v)) for k, v in (("3", "ABCDE"), ("8", "JKLMN"))))


def written(llm, task, **options):
    """Every pass's prompt as text, for a query that answers PQRST."""
    mode, stride = options.pop("mode", "par"), options.pop("stride", 2)
    options.setdefault("layout", "examples")
    spans = [span for group in plan(PYRAMID, mode, stride, Options(**options)) for span in group]
    writer = Writer(llm, task)
    answer = letters(llm, "PQRST")
    texts = []
    for span in spans:
        ids = [token for section in writer.shared(span) for token in section]
        ids += writer.query(Example("1+7"), span, answer[: span.tokens.start])
        texts.append(llm.decode(ids))
    return texts


def test_the_whole_prompt_is_preamble_examples_query(tiny, task):
    built = prompt(tiny, task, Example("1+7"), 5)
    examples = "Digits.\nan image of 3:ABCDE\nan image of 8:JKLMN\n"
    assert built.text(tiny) == examples + "an image of 1+7:"
    assert tiny.decode(built.ids[: built.num_shared]) == examples


def test_par_examples_are_cut_to_the_span_and_show_what_precedes(tiny, task):
    assert written(tiny, task) == [
        "Digits.\nan image of 3:AB\nan image of 8:JK\nan image of 1+7:",
        "Digits.\nan image of 3AB:CD\nan image of 8JK:LM\nan image of 1+7PQ:",
        "Digits.\nan image of 3ABCD:E\nan image of 8JKLM:N\nan image of 1+7PQRS:",
    ]


def test_par_in_segments_continues_the_prompt_before(tiny, task):
    first = "Digits.\nan image of 3:AB\nan image of 8:JK\n"
    second = first + "an image of 3:CD\nan image of 8:LM\n"
    third = second + "an image of 3:E\nan image of 8:N\n"
    assert written(tiny, task, layout="segments") == [
        first + "an image of 1+7:",
        second + "an image of 1+7:PQ\nan image of 1+7:",
        third + "an image of 1+7:PQ\nan image of 1+7:RS\nan image of 1+7:",
    ]


def test_pnar_shows_no_preceding_segment(tiny, task):
    assert written(tiny, task, mode="pnar") == [
        "Digits.\nan image of 3:A\nan image of 8:J\nan image of 1+7:",
        "Digits.\nan image of 3:BC\nan image of 8:KL\nan image of 1+7:",
        "Digits.\nan image of 3:DE\nan image of 8:MN\nan image of 1+7:",
    ]


def test_pnar_after_par_refines_the_layers_before_whatever_the_task(tiny, task):
    assert written(tiny, task, par_layers=1)[1:] == [
        "Digits.\nan image of A:BC\nan image of J:KL\nan image of P:",
        "Digits.\nan image of A:DE\nan image of J:MN\nan image of P:",
    ]
    first = "Digits.\nan image of 3:A\nan image of 8:J\n"
    assert written(tiny, task, par_layers=1, layout="segments")[1:] == [
        first + "an image of 3:BC\nan image of 8:KL\nan image of 1+7:P\nan image of 1+7:",
        first + "an image of 3:DE\nan image of 8:MN\nan image of 1+7:P\nan image of 1+7:",
    ]


def test_a_window_and_aligned_tokens_give_v2ls_prompts(tiny):
    template = Template("Learn a new language.\n", "Input: ", ", output: ", "\n")
    inpainting = Task(template, (Example(answer=letters(tiny, "ABCDE")),))
    writer = Writer(tiny, inpainting)
    (span,) = [
        span
        for (span,) in plan(PYRAMID, "par", 1, Options(window=2, layout="examples"))
        if span.tokens.start == 3
    ]
    assert tiny.decode(writer.shared(span)[1]) == "Input: BC, output: D\n"
    deblurring = Task(template, (Example(answer=letters(tiny, "ABCDE"), aligned=letters(tiny, "abcde")),))
    writer = Writer(tiny, deblurring)
    assert tiny.decode(writer.shared(span)[1]) == "Input: bcd, output: D\n"
    query = writer.query(Example(aligned=letters(tiny, "uvwxy")), span, letters(tiny, "UVW"))
    assert tiny.decode(query) == "Input: vwx, output: "


def test_images_and_text_mix_in_a_condition(tiny):
    image = letters(tiny, "ABCDE")
    template = Template("", "Condition:", " Answer:", "\n")
    task = Task(template, (Example((image, " Question: what?"), "red"),))
    built = prompt(tiny, task, Example((image, " Question: who?")), 1)
    assert tiny.decode(built.ids) == (
        "Condition:ABCDE Question: what? Answer:red\nCondition:ABCDE Question: who? Answer:"
    )
    assert tuple(built.ids[10:15]) == image or image[0] in built.ids


def test_overflow_says_how_many_examples_would_fit(tiny, task):
    many = Task(task.template, task.examples * 10)
    with pytest.raises(ContextOverflow) as error:
        prompt(tiny, many, Example("1+7"), 5)
    message = str(error.value)
    assert "20 examples" in message
    assert "at most 200 tokens, tiny's context window" in message
    fit = int(message.rsplit("; ", 1)[1].split()[0])
    assert 0 < fit < 20
    prompt(tiny, Task(many.template, many.examples[:fit]), Example("1+7"), 5)
    with pytest.raises(ContextOverflow):
        prompt(tiny, Task(many.template, many.examples[: fit + 1]), Example("1+7"), 5)


def test_an_example_without_an_answer_is_an_error(tiny):
    with pytest.raises(
        ValueError, match=r"task: expected answers in all examples, got none in examples\[1\]"
    ):
        prompt(tiny, Task(TEMPLATE, (Example("3", (5,)), Example("8"))), Example("1"), 1)


def test_an_answer_shorter_than_the_span_is_an_error(tiny):
    short = Task(TEMPLATE, (Example("3", letters(tiny, "AB")),))
    with pytest.raises(ValueError, match="answer: expected at least 4 ids"):
        written(tiny, short)
