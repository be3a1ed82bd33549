"""What a run is going to take, measured before it begins by steps that leave no trace."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganduel import batches
from ganduel.system import distributed
from ganduel.system.device import available, memory, out_of_memory, synchronise
from ganduel.system.errors import UserError
from ganduel.trainer import Move, Trainer, assign_rate


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
    saved = 0.0  # by lazy phases, in an iteration where they are not due

    def run(move: Move) -> Any:
        nonlocal saved
        start = _now(trainer.device)
        try:
            return Trainer.run(trainer, move)
        finally:
            saved += (1 - 1 / move.phase.every) * (_now(trainer.device) - start)

    with unchanged(trainer):
        for _ in range(trainer.warm_up):
            _step(trainer)
        vars(trainer)["run"] = run  # in place of the method
        try:
            start = _now(trainer.device)
            _step(trainer)
            seconds = _now(trainer.device) - start - saved
        finally:
            del vars(trainer)["run"]
    return Forecast(seconds, memory(trainer.device))


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
            with unchanged(trainer):
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
    """Whether iterations can be played, until all phases that can be recorded are: each recording keeps its memory."""
    try:
        for _ in range(trainer.warm_up):
            _step(trainer)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True


@contextmanager
def unchanged(trainer: Trainer) -> Iterator[None]:
    """Put everything back that steps change: the state, on the host meanwhile, and PyTorch's generators."""
    cuda = trainer.device.type == "cuda"
    state = _copy(trainer.state_dict())
    groups = [group for player in trainer.players.values() for group in player.optimizer.param_groups]
    rates = [float(group["lr"]) for group in groups]
    with torch.random.fork_rng(devices=[trainer.device] if cuda else []):
        try:
            yield
        finally:
            trainer.game.zero_grad(set_to_none=True)
            for group, rate in zip(groups, rates, strict=True):  # which a state brings, but a trainer does not take
                assign_rate(group, rate)
            trainer.load_state_dict(state)
            if cuda:  # what was tried is not what will be needed
                torch.cuda.empty_cache()


def _step(trainer: Trainer) -> None:
    """One iteration with all phases: the last that was, or would have been, one."""
    every = [phase.every for player in trainer.players.values() for phase in player.phases]
    iteration = trainer.iteration
    trainer.iteration -= iteration % math.lcm(*every)
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
    trainer.step()
    trainer.iteration = iteration


def _now(device: torch.device) -> float:
    synchronise(device)
    return time.perf_counter()


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _duration(seconds: float) -> str:
    """As people say it: "2 days 3 h", "1 h 5 min", "40 s"."""
    for unit, smaller, size, ratio in (("days", "h", 86400, 24), ("h", "min", 3600, 60), ("min", "s", 60, 60)):
        if seconds >= size:
            whole, rest = divmod(round(seconds / size * ratio), ratio)
            return f"{whole} {unit} {rest} {smaller}"
    return f"{seconds:.0f} s"
