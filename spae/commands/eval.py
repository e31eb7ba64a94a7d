"""`spae eval`: what a tokenizer's words are worth, alone and to a frozen language model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spae.commands import add_model, command, own_command


def add_eval(commands: Any) -> None:
    parser = commands.add_parser("eval", help="Measure a tokenizer.", description="Measure a tokenizer.")
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    digits = command(
        kinds, "digits", _digits, "PSNR, usage and legibility of 500 held-out digits, layer by layer."
    )
    add_model(digits)
    digits.add_argument("--json", action="store_true", help="print JSON")
    semantics = command(
        kinds, "semantics", _semantics, "How well each layer's words fit the emoji, for the four splits."
    )
    add_model(semantics)
    semantics.add_argument("--json", action="store_true", help="print JSON")
    semantics.add_argument("--page", type=Path, help="also draw 12 images and their words (PNG)")
    for add in (_add_fewshot, _add_caption, _add_vqa, _add_generate, _add_denoise, _add_outpaint):
        add(kinds)


def _digits(arguments: argparse.Namespace) -> None:
    from spae.eval.digits import evaluate_digits
    from spae.eval.report import layer_table
    from spae.tokenizers import SPAE

    _print(arguments, evaluate_digits(SPAE.from_pretrained(arguments.model)), layer_table)


def _semantics(arguments: argparse.Namespace) -> None:
    from spae.eval.report import semantics_table
    from spae.eval.semantics import draw_emoji, evaluate_emoji
    from spae.tokenizers import SPAE

    model = SPAE.from_pretrained(arguments.model)
    _print(arguments, evaluate_emoji(model), semantics_table)
    if arguments.page is not None:
        draw_emoji(model, arguments.page)


def _in_context(
    kinds: Any, name: str, run: Callable[[argparse.Namespace], None], about: str
) -> argparse.ArgumentParser:
    """A verb with what all runs of a tokenizer and a language model take."""
    parser = command(kinds, name, run, about)
    add_model(parser)
    parser.add_argument(
        "--llm",
        default="smollm2",
        help="smollm2, gemma3, a GGUF file, a folder, or an OpenAI-compatible base URL (default: smollm2)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of a local model's weights (default: float32; bfloat16 reads prompts several times faster on "
        "processors with AMX or AVX-512 BF16)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("out") / name, help=f"folder of the run (default: out/{name})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    from spae import llm
    from spae.tokenizers import SPAE

    if arguments.dtype is not None and "://" in arguments.llm:
        raise ValueError(f"dtype: expected none for a server, which chooses its own, got {arguments.dtype}")
    options = {} if arguments.dtype is None else {"dtype": arguments.dtype}
    return SPAE.from_pretrained(arguments.model), llm.load(arguments.llm, **options)


def _print(arguments: argparse.Namespace, report: dict[str, Any], table: Callable[[Any], str]) -> None:
    print(json.dumps(report, indent=2) if arguments.json else table(report))


def _add_fewshot(kinds: Any) -> None:
    parser = _in_context(
        kinds, "fewshot", _fewshot, "Few-shot classification of images' words by a frozen language model."
    )
    parser.add_argument(
        "--data",
        default="digits",
        help="digits (default); emoji: held-out concepts by a held-out vendor, at most 3 shots; "
        "emoji-groups: their kinds, such as bird and tool",
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[3], help="layers shown (default: 3)")
    parser.add_argument("--ways", type=int, nargs="+", default=[2, 5], help="classes (default: 2 5)")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[1, 3, 5], help="inner shots of the settings (default: 1 3 5)"
    )
    parser.add_argument("--episodes", type=int, default=200, help="per setting (default: 200)")


def _fewshot(arguments: argparse.Namespace) -> None:
    from spae.eval.episodes import paper_settings
    from spae.eval.fewshot_run import FewShotRun, fewshot_table, run_fewshot

    settings = tuple(
        setting
        for ways in arguments.ways
        for setting in paper_settings(ways)
        if setting.inner_shots in arguments.shots
    )
    run = FewShotRun(arguments.data, tuple(arguments.layers), settings, arguments.episodes, arguments.seed)
    report = run_fewshot(*_load(arguments), [run], arguments.out, command=own_command())
    _print(arguments, report, fewshot_table)


def _add_vqa(kinds: Any) -> None:
    parser = _in_context(
        kinds, "vqa", _vqa, "Questions about easy-VQA's pictures: 10-way 1-shot, and 2-way with inner shots."
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[3], help="layers shown (default: 3)")
    parser.add_argument(
        "--shots",
        type=int,
        nargs="+",
        default=[1, 3, 5],
        help="inner shots between 2 colors (default: 1 3 5)",
    )
    parser.add_argument("--episodes", type=int, default=200, help="per setting (default: 200)")


def _vqa(arguments: argparse.Namespace) -> None:
    from spae.eval.episodes import FewShotSetting
    from spae.eval.fewshot_run import FewShotRun, fewshot_table, run_fewshot

    colors = tuple(FewShotSetting(2, shots) for shots in arguments.shots)
    common = (tuple(arguments.layers), arguments.episodes, arguments.seed)
    runs = [
        FewShotRun(data, common[0], settings, *common[1:])
        for data, settings in (("easy-vqa", (FewShotSetting(10),)), ("easy-vqa-colors", colors))
    ]
    report = run_fewshot(*_load(arguments), runs, arguments.out, command=own_command(), name="vqa")
    _print(arguments, report, fewshot_table)


def _add_caption(kinds: Any) -> None:
    parser = _in_context(
        kinds, "caption", _caption, "Names of held-out emoji, from ten examples of captioned pictures."
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[3], help="layers shown (default: 3)")
    parser.add_argument("--queries", type=int, default=100, help="pictures asked about (default: 100)")
    parser.add_argument("--examples", type=int, default=10, help="in a prompt (default: 10)")


def _caption(arguments: argparse.Namespace) -> None:
    from spae.eval.captioning import CaptionRun, caption_table, run_captioning

    run = CaptionRun(tuple(arguments.layers), arguments.queries, arguments.examples, seed=arguments.seed)
    report = run_captioning(*_load(arguments), run, arguments.out, command=own_command())
    _print(arguments, report, caption_table)


def _add_generate(kinds: Any) -> None:
    parser = _in_context(
        kinds, "generate", _generate, "Digits drawn from captions by a frozen language model."
    )
    parser.add_argument("--contexts", type=int, default=10, help="how often examples are drawn (default: 10)")
    parser.add_argument("--examples", type=int, default=50, help="digits a context shows (default: 50)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")


def _generate(arguments: argparse.Namespace) -> None:
    from spae.eval.generation import DigitPrompts, generation_table, run_generation

    prompts = DigitPrompts(
        contexts=arguments.contexts,
        examples=arguments.examples,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    report = run_generation(*_load(arguments), prompts, arguments.out, command=own_command())
    _print(arguments, report, generation_table)


def _add_restoration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="digits", help="digits (default) or emoji")
    parser.add_argument("--images", type=int, default=20, help="how many are restored (default: 20)")
    parser.add_argument("--layers", type=int, help="layers generated (default: all)")
    parser.add_argument(
        "--condition-layers", type=int, default=2, help="layers of the degraded image shown (default: 2)"
    )
    parser.add_argument("--stride", type=int, default=4, help="tokens of a pass (default: 4)")
    parser.add_argument(
        "--layout",
        choices=("segments", "examples"),
        default="examples",
        help="examples (default) shows the words so far in each example's line; segments reads nothing twice",
    )


def _restoration(arguments: argparse.Namespace, **options: Any) -> Any:
    from spae.eval.restoration import RestorationRun

    return RestorationRun(
        data=arguments.data,
        images=arguments.images,
        layers=arguments.layers,
        condition_layers=arguments.condition_layers,
        stride=arguments.stride,
        layout=arguments.layout,
        seed=arguments.seed,
        **options,
    )


def _add_denoise(kinds: Any) -> None:
    parser = _in_context(
        kinds, "denoise", _denoise, "Degraded images restored after ten copies, corrupted less and less."
    )
    _add_restoration(parser)
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="some of inpainting, outpainting, deblurring, translation, rotation (default: all)",
    )


def _denoise(arguments: argparse.Namespace) -> None:
    from spae.eval.restoration import restoration_table, run_denoising

    tasks = {} if arguments.tasks is None else {"tasks": tuple(arguments.tasks)}
    run = _restoration(arguments, contexts=1, **tasks)
    report = run_denoising(*_load(arguments), run, arguments.out, command=own_command())
    _print(arguments, report, restoration_table)


def _add_outpaint(kinds: Any) -> None:
    parser = _in_context(
        kinds, "outpaint", _outpaint, "Lower halves of images drawn after examples of other images."
    )
    _add_restoration(parser)
    parser.add_argument("--examples", type=int, default=20, help="images a context shows (default: 20)")
    parser.add_argument("--contexts", type=int, default=2, help="how often examples are drawn (default: 2)")


def _outpaint(arguments: argparse.Namespace) -> None:
    from spae.eval.restoration import restoration_table, run_outpainting

    run = _restoration(arguments, examples=arguments.examples, contexts=arguments.contexts)
    report = run_outpainting(*_load(arguments), run, arguments.out, command=own_command())
    _print(arguments, report, restoration_table)
