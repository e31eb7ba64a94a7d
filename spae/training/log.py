"""The training log: one JSON object a line, and its picture."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from spae.optional import needs
from spae.training.config import TrainConfig
from spae.training.disk import replace_text


class RunLog:
    """The log of a run while it trains: `log.jsonl`, its picture, and TensorBoard if wanted.

    A context; entering it forgets what was logged after `step`, from where the run goes on. Only the main
    process writes.

    Raises ImportError where TensorBoard is wanted and missing.
    """

    def __init__(self, file: Path, step: int, config: TrainConfig, main: bool):
        self.file, self.step, self.main = file, step, main
        self.wants_tensorboard = config.tensorboard
        self._board: Any = None

    def __enter__(self) -> RunLog:
        if self.main:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            truncate_log(self.file, self.step)
            if self.wants_tensorboard:
                self._board = _summary_writer(self.file.parent / "tensorboard", self.step + 1)
        return self

    def append(self, record: dict[str, Any]) -> None:
        """Add a record, with its "step"."""
        if self.main:
            append_log(self.file, record)
        if self._board is not None:
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()

    def plot(self) -> None:
        """Draw it, where there is matplotlib to do so."""
        if self.main and self.file.exists() and importlib.util.find_spec("matplotlib"):
            plot_log(self.file, self.file.with_suffix(".png"))


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(needs("tensorboard=True", "tensorboard")) from error
    return SummaryWriter(str(folder), purge_step=step)


def append_log(file: str | Path, record: dict[str, Any]) -> None:
    """Add one line. Raises OSError, which names the file, if it cannot be written, for a full disk, say."""
    try:
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def read_log(file: str | Path) -> list[dict[str, Any]]:
    """All records, in order; a last line that a killed process left unfinished is not one.

    Raises ValueError, which names the line, for one that is no JSON object with a step.
    """
    lines = Path(file).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [_record(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)]


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if isinstance(record["step"], int):
            return record
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{place}: expected a JSON object with a step, got {line[:80]!r}")


def truncate_log(file: str | Path, step: int) -> None:
    """Forget what was logged after `step`, since a run that resumes there logs it again."""
    file = Path(file)
    if not file.exists():
        return
    kept = [record for record in read_log(file) if record["step"] <= step]
    replace_text(file, "".join(json.dumps(record) + "\n" for record in kept))


def plot_log(jsonl: str | Path, png: str | Path) -> None:
    """Draw a log over the steps: a panel for the loss terms, and one for each kind of held-out figure.

    Held-out figures are the entries `eval/KIND_REST`; those of one kind share a panel.

    Raises ImportError if matplotlib is missing and ValueError if the log is empty.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(needs("plot_log", "matplotlib")) from error
    records = read_log(jsonl)
    if not records:
        raise ValueError(f"{jsonl}: expected at least one complete line, got none")
    names = sorted({name for record in records for name in record})
    terms = [name for name in names if name.startswith("loss")]
    panels = {"loss terms, unweighted": terms}
    if game := [name for name in names if name.startswith("discriminator/loss")]:
        panels["discriminator"] = [*game, "discriminator/logits_real", "discriminator/logits_fake"]
    for name in names:
        if name.startswith("eval/"):
            kind = name.removeprefix("eval/").split("_")[0]
            title = "held-out PSNR (dB)" if kind == "psnr" else f"held-out {kind}"
            panels.setdefault(title, []).append(name)

    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, panel) in zip(row, panels.items(), strict=True):
        axes.set_title(title)
        for name in panel:
            points = [(record["step"], record[name]) for record in records if name in record]
            steps, values = zip(*points, strict=True)
            if panel is not terms:
                axes.plot(
                    steps,
                    values,
                    marker="o",
                    markersize=3,
                    label=name.removeprefix("eval/").replace("_", " "),
                )
                continue
            style = {"color": "black", "linestyle": "--"} if name == "loss" else {}
            label = "weighted total" if name == "loss" else name.removeprefix("loss/")
            (line,) = axes.plot(steps, _smooth(values), label=label, zorder=3, **style)
            axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8)
        if panel is terms and all(r[name] > 0 for r in records for name in terms if name in r):
            axes.set_yscale("log")
        axes.set_xlabel("step")
        # Below the panel, where no curve can pass.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False, fontsize=9)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(png, dpi=150)


def _smooth(values: tuple[float, ...]) -> list[float]:
    """Mean over a centred window of about a twenty-fifth of the log, which does not lag."""
    half = len(values) // 50
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
