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
from ganduel.system.terminal import progress, say

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # from TensorBoard's dependencies
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

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


class Logbook:
    """Writes the logs of one run from `step` on. Entries that an interrupted run wrote after `step` are cut off."""

    def __init__(self, run: RunFolder, step: int, images_seen: int, steps: int):
        self.run = run
        for name in ("stats.jsonl", "metrics.jsonl"):
            run.cut_back(name, step if step else -1)  # at step 0, everything starts again
        # The horizontal axis of all curves is images seen.
        self.board = Board(run.path / "tensorboard", images_seen + 1, self.say)
        self.bar = progress(total=steps, initial=step, unit=" steps", smoothing=0.05)
        self.spoken = time.monotonic()

    def say(self, text: str) -> None:
        """Write a message to the terminal and to train.log."""
        self.run.note(text)

    def numbers(self, row: dict[str, Any], metrics: dict[str, float], status: dict[str, str]) -> None:
        """Log the statistics `row`, which include "step" and "images".

        `metrics`, the latest values, and `status` only appear on the terminal.
        """
        self.run.append("stats.jsonl", row)
        self._scalars({name: value for name, value in row.items() if "/" in name}, row["images"])
        shown = {name.split("/")[1]: f"{value:.3g}" for name, value in row.items() if name.startswith("loss/")}
        shown |= {name: f"{value:.3g}" for name, value in metrics.items()}
        shown |= status
        speed = row["speed/images_per_second"]
        shown["images/s"] = f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"
        self.bar.set_postfix(shown, refresh=False)
        if self.bar.disable and time.monotonic() - self.spoken > PLAIN_SECONDS:
            self.spoken = time.monotonic()
            say(f"step {row['step']:,}/{self.bar.total:,}  " + "  ".join(f"{n} {v}" for n, v in shown.items()))

    def metrics(self, row: dict[str, Any], values: dict[str, float]) -> None:
        self.run.append("metrics.jsonl", row)
        self._scalars({f"metric/{name}": value for name, value in values.items()}, row["images"])

    def picture(self, name: str, image: Tensor, images_seen: int) -> None:
        """`image` is (3, H, W), uint8."""
        self.board.write(lambda writer: writer.add_image(name, image, images_seen))

    def _scalars(self, values: dict[str, float], images_seen: int | None = None) -> None:
        def add(writer: SummaryWriter) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, images_seen)

        self.board.write(add)

    def hyperparameters(self, settings: dict[str, Any], results: dict[str, float]) -> None:
        """Log settings and final results for TensorBoard's table that compares runs."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
        final = {f"final/{name}": value for name, value in results.items()}

        def add(writer: SummaryWriter) -> None:
            for summary in hparams(plain, final):
                writer._get_file_writer().add_summary(summary)

        self.board.write(add)
        self._scalars(final)

    def flush(self) -> None:
        self.board.write(SummaryWriter.flush)

    def close(self) -> None:
        self.bar.close()
        self.board.close()
