"""Kill `spae train` again and again; what it leaves at the end is what an undisturbed run leaves, bit for bit.

    python tests/torture/train_kills.py --kills 100

Trains a tiny preset once undisturbed. Then trains it again, with a SIGKILL at a random moment of every start
(while it starts, steps, or writes a checkpoint, which it does at every other step), and anew after a kill at its
end, until `--kills` are done; each run comes to its end at last. Prints a table; exits 1 if a run failed
otherwise or anything differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from spae import Codebook
from spae.cli import main as spae_command
from spae.training import latest, read_log

ROOT = Path(__file__).parents[2]
TIMINGS = ("seconds", "images_per_second")
STARTING = 0.1  # share of the kills that come in the first STARTUP seconds, before the first step
STARTUP = 0.3
KILLS_A_RUN = 6  # of the others, at the least: each comes within that part of a run's time


@dataclass(frozen=True)
class Kill:
    phase: str
    step: int  # of the checkpoint that the next run goes on from


def write_preset(folder: Path, steps: int) -> Path:
    """Random images and words; every part that a checkpoint holds: two optimizers, averages, LeCAM's memory."""
    generator = np.random.RandomState(0)
    for split in ("train", "test"):
        (folder / "images" / split).mkdir(parents=True)
        for number in range(8):
            pixels = generator.randint(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{number}.png")
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    Codebook.from_arrays([f" w{i}" for i in range(50)], vectors).save(folder / "book")
    model = {"image_size": [16, 16], "grids": [1, 2], "channels": 4, "multipliers": [1, 1, 1, 1]}
    preset = {
        "data": {"folder": str(folder / "images")},
        "codebook": {"source": str(folder / "book")},
        "model": {**model, "num_res_blocks": 1},
        "objective": {"discriminator": {"kind": "patch", "channels": 4, "num_layers": 2}},
        "train": {
            "steps": steps,
            "batch_size": 2,
            "ema_decay": 0.9,
            "log_every": 1,
            "checkpoint_steps": 2,
            "progress": False,
        },
    }
    path = folder / "tiny.json"
    path.write_text(json.dumps(preset))
    return path


def command(preset: Path, out: Path) -> list[str]:
    return ["train", "--preset", str(preset), "--out", str(out)]


def run(preset: Path, out: Path) -> None:
    """`spae train` to its end."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with errors_of(out).open("ab") as errors:
        words = [sys.executable, "-m", "spae", *command(preset, out)]
        done = subprocess.run(words, env=environment, stdout=errors, stderr=errors, check=False)
    if done.returncode:
        raise SystemExit(f"a run ended with {done.returncode}: {errors_of(out).read_text()}")


def fork(preset: Path, out: Path) -> int:
    """The same as a child of this process, which has imported everything: it is at work at once."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with errors_of(out).open("ab") as errors:
            for descriptor in (1, 2):
                os.dup2(errors.fileno(), descriptor)
        code = spae_command(command(preset, out))
    finally:
        os._exit(code)


def end(preset: Path, out: Path) -> None:
    """Let a run come to its end."""
    if wait(fork(preset, out), out):
        raise SystemExit("something else killed a run")


def wait(pid: int, out: Path) -> int:
    """The exit status of a child, 0 or -SIGKILL; any other ends it all."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run ended with {code}: {errors_of(out).read_text()}")
    return code


def errors_of(out: Path) -> Path:
    return out.with_suffix(".err")


def kill(preset: Path, out: Path, moment: float, steps: int) -> Kill | None:
    """Start a run and kill it; None if it ended before."""
    pid = fork(preset, out)
    if random.random() < STARTING:
        time.sleep(random.uniform(0, STARTUP))
    else:
        while not owns(pid, out) and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.005)
        time.sleep(random.uniform(0, moment))
    phase = phase_of(pid, out)
    os.kill(pid, signal.SIGKILL)
    if wait(pid, out) == 0:
        return None
    newest = latest(out / "checkpoints")
    step = 0 if newest is None else int(newest.name.removeprefix("step-"))
    return Kill("finishing" if step == steps else phase, step)


def owns(pid: int, out: Path) -> bool:
    try:
        return json.loads((out / "run.owner.json").read_text())["pid"] == pid
    except (OSError, ValueError):
        return False


def phase_of(pid: int, out: Path) -> str:
    if not owns(pid, out):
        return "starting"
    return "writing a checkpoint" if any(out.glob("checkpoints/*.partial")) else "stepping"


def compare(straight: Path, killed: Path) -> list[str]:
    """What differs, by name."""
    pairs = [(folder / "model/model.safetensors") for folder in (straight, killed)]
    newest = [latest(folder / "checkpoints") for folder in (straight, killed)]
    assert newest[0] is not None
    assert newest[1] is not None
    differing = [] if pairs[0].read_bytes() == pairs[1].read_bytes() else ["model.safetensors"]
    for name in ("state.safetensors", "state.json", "random-0.json"):
        if (newest[0] / name).read_bytes() != (newest[1] / name).read_bytes():
            differing.append(f"{newest[1].name}/{name}")
    logs = [
        [{k: v for k, v in record.items() if k not in TIMINGS} for record in read_log(folder / "log.jsonl")]
        for folder in (straight, killed)
    ]
    return differing if logs[0] == logs[1] else [*differing, "log.jsonl"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    torch.set_num_threads(1)
    importlib.import_module("spae.training.run")  # so that the children need not
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        preset, straight, killed = (
            write_preset(folder, arguments.steps),
            folder / "straight",
            folder / "killed",
        )
        run(preset, straight)
        moment = read_log(straight / "log.jsonl")[-1]["seconds"] / KILLS_A_RUN
        began = time.monotonic()
        kills: list[Kill] = []
        differing: list[str] = []
        runs = 1
        while len(kills) < arguments.kills:
            one = kill(preset, killed, moment, arguments.steps)
            kills += [one] if one else []
            if one is None or one.phase == "finishing":
                end(preset, killed)
                differing += compare(straight, killed)
                shutil.rmtree(killed)
                runs += 1
        seconds = time.monotonic() - began
        run(preset, killed)
        differing += compare(straight, killed)
        said = errors_of(killed).read_text().replace(f"{killed}/model: trained\n", "")
    print(f"{len(kills)} kills of {runs} runs of {arguments.steps} steps in {seconds:.0f} s, while")
    for phase, count in Counter(one.phase for one in kills).most_common():
        print(f"  {count:4d}  {phase}")
    print("went on from the checkpoints of steps", " ".join(str(one.step) for one in kills))
    if said:
        print(f"the runs said: {said}")
    print(f"differs: {', '.join(differing)}" if differing else "equal, bit for bit, to the undisturbed run")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
