"""Forecast the time and memory of a run from a few steps before it begins. The steps are undone."""

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
    seconds: float  # per iteration, on average: a lazy phase counts 1 / `every` of its time
    gigabytes: float  # the peak of memory

    def describe(self, iterations: int) -> str:
        """The forecast for a number of iterations, as text."""
        return (
            f"{_duration(self.seconds * iterations)}, {self.seconds:.3g} s for each of {iterations:,} iterations, "
            f"pictures and metrics not counted; {self.gigabytes:.1f} GB of memory"
        )


def forecast(trainer: Trainer) -> Forecast:
    """Run a few iterations in which all phases are due. The last one is timed; those before it fill caches."""
    executor = trainer.executor
    with no_trace(trainer, steps=True):
        for _ in range(executor.warm_up):
            full_iteration(trainer)
        trainer.executor = timed = Timed(executor)
        try:
            start = _now(trainer.device)
            full_iteration(trainer)
            seconds = _now(trainer.device) - start - timed.spared
        finally:
            trainer.executor = executor
    return Forecast(seconds, memory(trainer.device))


class Timed(Executor):
    """Runs phases through another executor, and measures them.

    `spared` is the difference, in seconds, between an iteration with all phases and an average iteration.
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
    """The largest number of images that one process can hold in memory at once.

    This tries larger and larger numbers. It assumes that all memory in use grows in proportion to the number, and stops
    when the next number would need more than is free. Raises UserError if the smallest number does not fit, or if there
    are several processes.
    """
    if distributed.world() > 1:
        raise UserError("micro_batch=auto is for one process; find the number with one, and set it for all")
    before, fits = trainer.micro_batch, None
    sizes = batches.sizes(trainer.game, dict(trainer.regularizers.items()), trainer.batch_size, world=1)
    numbers = [n for n in sizes if n > 1] or sizes  # batch normalisation needs more than one image
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
    """Whether the warm-up iterations fit in memory. They also capture all phases, and a capture keeps its memory."""
    try:
        for _ in range(trainer.executor.warm_up):
            full_iteration(trainer)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True


def full_iteration(trainer: Trainer) -> None:
    """One iteration in which all phases are due. It uses the number of the last such iteration."""
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
    """A duration as text, such as "2 days 3 h", "1 h 5 min" or "40 s"."""
    for unit, smaller, size, ratio in (("days", "h", 86400, 24), ("h", "min", 3600, 60), ("min", "s", 60, 60)):
        if seconds >= size:
            whole, rest = divmod(round(seconds / size * ratio), ratio)
            return f"{whole} {unit} {rest} {smaller}"
    return f"{seconds:.0f} s"
