"""How much does progressive decoding save by reading what prompts share once?"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import host

COLUMNS = (
    "layout",
    "queries",
    "stride",
    "passes",
    "prompt tokens",
    "reference (s)",
    "decode (s)",
    "a digit (s)",
    "a digit, CPU time (s)",
    "ratio",
    "ratio of CPU time",
    "same",
)


class Decoding:
    """The question of this file, for `python -m benchmarks`."""

    name = "decoding"
    about = "How much does progressive decoding save by reading what prompts share once?"

    def add_all_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--llm", default="smollm2", help="smollm2, gemma3, a GGUF file or a folder (default: smollm2)")
        add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
        add("--device", default="cpu")
        add("--examples", type=int, default=50, help="digits in the prompt (default: 50)")
        add("--queries", type=int, nargs="+", default=[1, 4], help="digits generated in one run")
        add("--stride", type=int, nargs="+", default=[4], help="tokens per segment")
        add("--layers", type=int, help="layers to generate (default: all, 37 tokens)")
        add("--layout", nargs="+", choices=["segments", "examples"], default=["segments", "examples"])
        add("--alone", action="store_true", help="leave the reference out: at stride 1 it takes hours")
        add("--before", default="an image of ", help="what stands before each digit's name")
        add("--threads", type=int, default=host.cores(), help="CPU threads (default: all cores)")
        add("--out", type=Path, help="where to write the record, as JSON")

    def run(self, arguments: argparse.Namespace) -> int:
        """Exit status: 0, or 1 if a result in float32 differs from the reference's."""
        import torch

        from spae import SPAE, llm
        from spae.data.mnist import MNISTDigits
        from spae.incontext import Example, Lexicon, Options, Task, Template, decode, estimate
        from spae.incontext.reference import decode_reference

        torch.set_num_threads(arguments.threads)
        model = llm.load(arguments.llm, dtype=arguments.dtype, device=arguments.device)
        tokenizer = SPAE.from_pretrained("mnist")
        lexicon = Lexicon.of(tokenizer, model)
        digits = MNISTDigits("train")
        chosen = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[: arguments.examples]
        answers = lexicon.llm_ids(tokenizer.encode(digits.images[chosen]))
        names = [str(label) for label in digits.labels[chosen].tolist()]
        task = Task(Template(before=arguments.before), tuple(map(Example, names, answers)))

        rows: list[dict[str, Any]] = []
        print(" | ".join(COLUMNS), file=sys.stderr)
        for stride in arguments.stride:
            for layout in arguments.layout:
                for count in arguments.queries:
                    queries = [Example(f"{i % 10}+{i // 10 + 1}") for i in range(count)]
                    options = Options(layout=layout, num_layers=arguments.layers)
                    cost = estimate(model, task, queries, lexicon, stride=stride, options=options)
                    seconds, cpu, ids = [], [], []
                    for run in (decode,) if arguments.alone else (decode, decode_reference):
                        start, cpu_start = time.perf_counter(), time.process_time()
                        ids.append(run(model, task, queries, lexicon, stride=stride, options=options).ids)
                        seconds.append(time.perf_counter() - start)
                        cpu.append(time.process_time() - cpu_start)
                    values = (
                        layout,
                        count,
                        stride,
                        cost.requests // count,
                        cost.prompt_tokens,
                        None if arguments.alone else round(seconds[1], 1),
                        round(seconds[0], 1),
                        round(seconds[0] / count, 2),
                        round(cpu[0] / count, 2),
                        None if arguments.alone else round(seconds[1] / seconds[0], 1),
                        None if arguments.alone else round(cpu[1] / cpu[0], 1),
                        None if arguments.alone else bool(torch.equal(*ids)),
                    )
                    rows.append(dict(zip(COLUMNS, values, strict=True)))
                    print(" | ".join(map(str, values)), file=sys.stderr, flush=True)
        record = {
            "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "host": host.host("cpu"),
            "threads": arguments.threads,
            "versions": host.versions(),
            "llm": model.name,
            "dtype": arguments.dtype,
            "rows": rows,
        }
        text = json.dumps(record, indent=2)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(text + "\n")
        print(_table(rows))
        return int(arguments.dtype == "float32" and any(row["same"] is False for row in rows))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([str(row[column]) for column in COLUMNS] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
