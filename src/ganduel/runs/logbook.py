"""The logs of a run: TensorBoard, JSON lines and train.log, and a progress bar or plain lines on the terminal."""

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ganduel.runs.folder import RunFolder
from ganduel.runs.legend import CHARTS, meaning
from ganduel.system.terminal import Bar, progress, say

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # from TensorBoard's dependencies
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams, scalar

PLAIN_SECONDS = 10  # between two lines of progress if there is no terminal


class Board:
    """TensorBoard's files of a run. They repeat what other files of the run hold: if they cannot be written, as on a
    full disk, the run says so once and goes on without them.
    """

    def __init__(self, folder: Path, purge_step: int, say: Callable[[str], None]):
        """Entries of an earlier process from `purge_step` on are hidden; `say` tells the user."""
        self.say = say
        self.writer: SummaryWriter | None = None
        self.hook, threading.excepthook = threading.excepthook, self._in_thread
        with self._giving_up():
            self.writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, do: Callable[[SummaryWriter], object]) -> None:
        """Call `do` with the writer, if there still is one."""
        if self.writer is not None:
            with self._giving_up():
                do(self.writer)

    def close(self) -> None:
        self.write(SummaryWriter.close)
        threading.excepthook = self.hook

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.writer = None
            self.say(
                f"warning: TensorBoard's files cannot be written ({error.strerror or error}) and end here; the run "
                "goes on, and stats.jsonl and metrics.jsonl hold all numbers"
            )

    def _in_thread(self, failed: threading.ExceptHookArgs) -> None:
        """Keep the traceback of the writer's thread off the terminal: `write` meets the same error and tells it."""
        if not isinstance(failed.exc_value, OSError):
            self.hook(failed)


def short(value: float) -> str:
    """A number of three digits or more, without an exponent up to a million."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


class Logbook:
    """Writes the logs of one run from `step` on. Entries that an interrupted run wrote after `step` are cut off."""

    def __init__(self, run: RunFolder, step: int, images_seen: int, steps: int):
        self.run = run
        for name in ("stats.jsonl", "metrics.jsonl"):
            run.cut_back(name, step if step else -1)  # at step 0, everything starts again
        # The horizontal axis of all curves is images seen. TensorBoard calls a run by the folder of its curves, so they
        # lie in the run's own. Older runs go on where they began.
        older = run.path / "tensorboard"
        self.board = Board(older if older.is_dir() else run.path, images_seen + 1, self.say)
        charts = {title: {name: ["Multiline", [tags]] for name, tags in some.items()} for title, some in CHARTS.items()}
        self.board.write(lambda writer: writer.add_custom_scalars(charts))
        self.described: set[str] = set()  # the curves whose meaning this file has
        self.images_seen = images_seen
        self.bar = progress(Bar, total=steps, initial=step, dynamic_ncols=True, smoothing=0.05)
        self.spoken = time.monotonic()

    def say(self, text: str) -> None:
        """Write a message to the terminal and to train.log."""
        self.run.note(text)

    def numbers(self, row: dict[str, Any], metrics: dict[str, float], status: dict[str, str]) -> None:
        """Log the statistics `row`, which include "step" and "images".

        `metrics`, the latest values, and `status` only appear on the terminal.
        """
        self.run.append("stats.jsonl", row)
        self.images_seen = row["images"]
        for name, value in row.items():
            if "/" in name:
                self.curve(name, value)
        losses = {name.split("/")[1]: short(value) for name, value in row.items() if name.startswith("loss/")}
        values = {name: short(value) for name, value in metrics.items()}
        speed = row["speed/images_per_second"]
        pace = {"img/s": f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"}
        trouble = {"health": status["health"]} if status["health"] != "ok" else {}
        shown = trouble | values | losses | pace | status  # the bar shows what fits, in this order
        notes = "  ".join(f"{value} {name}" if name == "img/s" else f"{name} {value}" for name, value in shown.items())
        self.bar.set_postfix_str(notes)
        if self.bar.disable and time.monotonic() - self.spoken > PLAIN_SECONDS:
            self.spoken = time.monotonic()
            say(f"step {row['step']:,}/{self.bar.total:,}  {notes}")

    def curve(self, name: str, value: float) -> None:
        """Add a point to a curve of TensorBoard, at the number of images seen. The first point also describes the
        curve.
        """
        point = scalar(name, value)
        if name not in self.described:
            point.value[0].metadata.summary_description = meaning(name)
            self.described.add(name)
        self.board.write(lambda writer: writer._get_file_writer().add_summary(point, self.images_seen))

    def metrics(self, row: dict[str, Any], values: dict[str, float]) -> None:
        self.run.append("metrics.jsonl", row)
        self.images_seen = row["images"]
        for name, value in values.items():
            self.curve(f"metric/{name}", value)

    def picture(self, name: str, image: Tensor, images_seen: int) -> None:
        """Add a picture (3, H, W), uint8, to TensorBoard."""
        self.board.write(lambda writer: writer.add_image(name, image, images_seen))

    def hyperparameters(self, settings: dict[str, Any], results: dict[str, float]) -> None:
        """Log settings and final results for TensorBoard's table that compares runs."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
        summaries = hparams(plain, {f"final/{name}": value for name, value in results.items()})
        self.board.write(lambda writer: [writer._get_file_writer().add_summary(one) for one in summaries])
        for name, value in results.items():
            self.curve(f"final/{name}", value)

    def flush(self) -> None:
        self.board.write(SummaryWriter.flush)

    def close(self) -> None:
        self.bar.close()
        self.board.close()
