"""What a run is going to take, measured before it begins by steps that leave no trace."""

import math
import time
from typing import NamedTuple

import torch

from ganduel import batches
from ganduel.no_trace import no_trace
from ganduel.system import distributed
from ganduel.system.device import available, memory, out_of_memory, synchronise
from ganduel.system.errors import UserError
from ganduel.trainer import Executor, Move, Outcome, Trainer


class Forecast(NamedTuple):
    seconds: float  # an iteration, to which lazy phases add their share
    gigabytes: float  # at the peak

    def describe(self, iterations: int) -> str:
        """For so many iterations to come."""
        return (
            f"{_duration(self.seconds * iterations)}, {self.seconds:.3g} s for each of {iterations:,} iterations, "
            f"pictures and metrics not counted; {self.gigabytes:.1f} GB of memory"
        )


def forecast(trainer: Trainer) -> Forecast:
    """From a few steps in which all phases are due: those that fill the caches, and one by the clock."""
    executor = trainer.executor
    with no_trace(trainer, steps=True):
        for _ in range(executor.warm_up):
            _step(trainer)
        trainer.executor = timed = Timed(executor)
        try:
            start = _now(trainer.device)
            _step(trainer)
            seconds = _now(trainer.device) - start - timed.spared
        finally:
            trainer.executor = executor
    return Forecast(seconds, memory(trainer.device))


class Timed(Executor):
    """Runs phases through the executor that it is given, and times them.

    `spared`: so many seconds less does an average iteration take than one in which all phases are due.
    """

    def __init__(self, executor: Executor):
        super().__init__(executor.trainer)
        self.inner, self.separate = executor, executor.separate
        self.spared = 0.0

    def advance(self, move: Move) -> Outcome:
        start = _now(self.trainer.device)
        outcome = self.inner.advance(move)
        self.spared += (1 - 1 / move.phase.every) * (_now(self.trainer.device) - start)
        return outcome


def largest_micro_batch(trainer: Trainer) -> int:
    """The most images at once that fit, by trying more and more of them: for as long as there is room for what the next
    number would take, if all that is in use grew with the number. Raises UserError where not even the fewest fit."""
    if distributed.world() > 1:
        raise UserError("micro_batch=auto is for one process; find the number with one, and set it for all")
    before, fits = trainer.micro_batch, None
    sizes = batches.sizes(trainer.game, dict(trainer.regularizers.items()), trainer.batch_size, world=1)
    numbers = [n for n in sizes if n > 1] or sizes  # one image is little to normalise by
    try:
        for number in numbers:
            growth = 0.0 if fits is None else memory(trainer.device) * (number / fits - 1)
            if growth > available(trainer.device):
                break
            trainer.micro_batch = number
            with no_trace(trainer, steps=True):
                if not _enough_memory(trainer):
                    break
            fits = number
    finally:
        trainer.micro_batch = before
    if fits is None:
        raise UserError(
            f"micro_batch=auto: there is no memory for {numbers[0]} images at once; train a smaller model, or with "
            "precision=bf16"
        )
    return fits


def _enough_memory(trainer: Trainer) -> bool:
    """Whether iterations can be played, until all phases that can be captured are: each capture keeps its memory."""
    try:
        for _ in range(trainer.executor.warm_up):
            _step(trainer)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True


def _step(trainer: Trainer) -> None:
    """One iteration with all phases: the last that was, or would have been, one."""
    every = [phase.every for player in trainer.players.values() for phase in player.phases]
    iteration = trainer.iteration
    trainer.iteration -= iteration % math.lcm(*every)
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
    trainer.iterate()
    trainer.iteration = iteration


def _now(device: torch.device) -> float:
    synchronise(device)
    return time.perf_counter()


def _duration(seconds: float) -> str:
    """As people say it: "2 days 3 h", "1 h 5 min", "40 s"."""
    for unit, smaller, size, ratio in (("days", "h", 86400, 24), ("h", "min", 3600, 60), ("min", "s", 60, 60)):
        if seconds >= size:
            whole, rest = divmod(round(seconds / size * ratio), ratio)
            return f"{whole} {unit} {rest} {smaller}"
    return f"{seconds:.0f} s"
