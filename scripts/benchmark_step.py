"""Measure the time of every phase of an iteration, for one configuration or for several in comparison.

    python scripts/benchmark_step.py model=stylegan2_ada batch_size=4
    python scripts/benchmark_step.py model=cyclegan data.resolution=128
    python scripts/benchmark_step.py model=points
    python scripts/benchmark_step.py --compare "model=dcgan" "model=dcgan precision=bf16"

Takes the overrides of gan-train. By default, the images are noise, 64x64 RGB; model=points has the points of data=ring.
A phase is one optimizer step with its forward and backward passes. An iteration is every phase as often as it is due,
the drawing of its batches, and the averages.

Times are in milliseconds and in kernels. A kernel is the time for forward and backward of one 3x3 convolution, measured
before and after each phase: (4, 512, 32, 32) to 512 channels, float32. Milliseconds of different machines, hours and
loads are not comparable; kernels are more comparable. Settings to compare take turns within every round. Prints the
median and the range over the rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import conv2d

from ganduel import build, randomness, setup
from ganduel.config.compose import compose
from ganduel.game import Batch, Duel, Game, PointGame
from ganduel.phases import Phase
from ganduel.system.device import choose, label, memory
from ganduel.trainer import Trainer
from ganduel.turns import Turn

IMAGES = 64  # images of noise; as many as a batch if that is larger


class Part(NamedTuple):
    """A part of an iteration. An iteration does it `times` times on average."""

    name: str
    times: float
    do: Callable[[], object]
    prepare: Callable[[], object] = lambda: None  # runs before `do` and is not timed


class Play:
    """One phase of a turn, to be repeated, with the generated images that `maker` leaves, if there is a `maker`."""

    def __init__(self, trainer: Trainer, turn: Turn, phase: Phase, maker: "Play | None"):
        self.trainer, self.turn, self.phase, self.maker = trainer, turn, phase, maker
        self.batch: Batch = {}

    def prepare(self) -> None:
        if not self.batch or self.maker:  # G needs new fakes of D's turn each time, for their graph
            self.batch = self.trainer.draw(self.turn, self.maker.given() if self.maker else {})

    def __call__(self) -> list[list[Duel]]:
        return self.trainer.run(self.trainer.move(self.turn, self.phase, self.batch))

    def given(self) -> Batch:
        """The fakes that this turn gives to the next."""
        move = self.trainer.move(self.turn, self.phase, self.batch)
        return self.trainer.sharing.give(self.turn, self.trainer.run(move), graph=move.keep)


def noise(folder: Path, size: int, count: int) -> None:
    """Write images of noise for two domains, in the layout of folder_pair. data=folder reads them all as one set."""
    generator = np.random.default_rng(0)
    for kind in ("trainA", "trainB"):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{i}.png")


def assemble(overrides: list[str], folder: Path) -> Trainer:
    """The trainer of a configuration, on images of noise, or on points."""
    composed = compose("train", ["data=folder", "data.root=.", *overrides])
    game: type[Game] = build.locate(composed.model["game"], "model.game", composed.allow)  # type: ignore[assignment]
    if issubclass(game, PointGame):
        own = ["data=ring", f"data.packed={folder}"]
    else:
        count = max(IMAGES, composed.batch_size)
        root = folder / f"{composed.data.resolution}_{count}"
        if not root.exists():
            noise(root, composed.data.resolution, count)
        kind = "folder" if game.domains == ("real",) else "folder_pair"
        own = [f"data={kind}", f"data.root={root}", "data.resolution=64"]
    own += ["data.validation=0", "metric.which=[]"]
    own.append("data.on_device=true")  # because the packed files are deleted before the first step
    torch.manual_seed(0)
    device = choose(composed.device)
    return setup.assemble(compose("train", [*own, *overrides]), device)[0]


def parts(trainer: Trainer) -> list[Part]:
    """The parts of an iteration: its phases, then batches and averages."""
    found: list[Part] = []
    maker: Play | None = None
    for turn in trainer.turns.order:
        plays = [Play(trainer, turn, phase, maker) for phase in trainer.players[turn.player].phases]
        for play in plays:
            play.prepare()
            trainer.stats.reset()
            play()
            found.append(Part(" + ".join(trainer.stats.losses), 1 / play.phase.every, play, play.prepare))
        maker = plays[0] if turn == trainer.sharing.giver else None

    def rest() -> None:
        for turn in trainer.turns.order:
            trainer.draw(turn)
        with torch.no_grad():
            seeds = randomness.seeds(0, first=0, count=trainer.batch_size, device=trainer.device)
            trainer.game.after_iteration(seeds)
        trainer.ema.update(trainer.batch_size, 1)

    merged: dict[str, Part] = {}  # the same phase in several turns
    for part in found:
        times = part.times + (merged[part.name].times if part.name in merged else 0)
        merged[part.name] = part._replace(times=times)
    return [*merged.values(), Part("batches, averages", 1, rest)]


def kernel(device: torch.device) -> Callable[[], object]:
    """A function that takes one unit of time: forward and backward of one 3x3 convolution."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 512, 32, 32, generator=generator).to(device).requires_grad_()
    weight = (torch.randn(512, 512, 3, 3, generator=generator) / 68).to(device).requires_grad_()
    upstream = torch.randn(4, 512, 32, 32, generator=generator).to(device)
    return lambda: torch.autograd.grad(conv2d(images, weight, padding=1), (images, weight), upstream)


def seconds(do: Callable[[], object], device: torch.device) -> float:
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    start = time.perf_counter()
    do()
    synchronise()
    return time.perf_counter() - start


Times = dict[str, list[tuple[float, float]]]
"""(seconds, kernels) of every part in every round."""


def measure(settings: list[list[Part]], device: torch.device, rounds: int) -> list[Times]:
    """Time every part once a round, each between two kernels. The result has one `Times` per setting."""
    unit = kernel(device)
    for _ in range(2):
        for part in (Part("", 1, unit), *(part for parts in settings for part in parts)):
            part.prepare()
            part.do()
    times: list[Times] = [{part.name: [] for part in parts} for parts in settings]
    for _ in range(rounds):
        for parts, record in zip(settings, times, strict=True):
            for part in parts:
                part.prepare()
                before, taken, after = (seconds(do, device) for do in (unit, part.do, unit))
                record[part.name].append((taken, 2 * taken / (before + after)))
    return times


def iterations(parts: list[Part], times: Times) -> list[tuple[float, float]]:
    """(seconds, kernels) of a whole iteration in every round."""
    rounds = len(times[parts[0].name])
    weighted = [[(p.times * times[p.name][i][0], p.times * times[p.name][i][1]) for p in parts] for i in range(rounds)]
    return [(sum(s for s, _ in row), sum(k for _, k in row)) for row in weighted]


def spread(values: list[float], digits: int) -> str:
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def table(parts: list[Part], times: Times, trainer: Trainer) -> str:
    """A Markdown table of all parts and of the whole iteration, with images per second and peak memory."""
    whole = iterations(parts, times)
    rows = [("phase", "in an iteration", "ms", "kernels"), ("---",) * 4]
    for name, share, both in [*((p.name, f"{p.times:g}", times[p.name]) for p in parts), ("**iteration**", "", whole)]:
        rows.append((name, share, spread([1000 * s for s, _ in both], 1), spread([k for _, k in both], 2)))
    images = trainer.images_per_iteration / statistics.median(s for s, _ in whole)
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{lines}\n\n{images:,.1f} images/s, at most {memory(trainer.device):.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for gan-train; with --compare, one quoted string a setting")
    parser.add_argument("--compare", action="store_true", help="measure several settings in turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all times into this file as well")
    typed = parser.parse_args()
    settings = [text.split() for text in typed.overrides] if typed.compare else [typed.overrides]
    if typed.compare and len(settings) < 2:
        parser.error("--compare needs two settings or more, each in quotes")
    with tempfile.TemporaryDirectory() as folder:
        trainers = [assemble(overrides, Path(folder)) for overrides in settings]
    device = trainers[0].device
    found = [parts(trainer) for trainer in trainers]
    times = measure(found, device, typed.rounds)
    unit = [1000 * s / k for record in times for both in record.values() for s, k in both]
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    print(f"PyTorch {torch.__version__} on {label(device)}{threads}; a kernel is {spread(unit, 1)} ms")
    for overrides, trainer, own, record in zip(settings, trainers, found, times, strict=True):
        print(
            f"\n`{' '.join(overrides)}`: batch {trainer.batch_size}, {trainer.dtype}\n\n{table(own, record, trainer)}"
        )
    first = iterations(found[0], times[0])
    for overrides, own, record in zip(settings[1:], found[1:], times[1:], strict=True):
        ratios = [a / b for (a, _), (b, _) in zip(first, iterations(own, record), strict=True)]
        print(f"\n`{' '.join(overrides)}` is {spread(ratios, 2)} times as fast as the first")
    if typed.json:
        names = [" ".join(overrides) for overrides in settings]
        typed.json.write_text(json.dumps(dict(zip(names, times, strict=True)), indent=1))


if __name__ == "__main__":
    main()
