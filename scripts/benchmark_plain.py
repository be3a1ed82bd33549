"""How much faster we are than a textbook's loop of the same networks and losses, both timed in turn in one process.

    python scripts/benchmark_plain.py dcgan
    python scripts/benchmark_plain.py cyclegan precision=bf16
    python scripts/benchmark_plain.py wgan_gp --rounds 5

The textbook's loops are in `plain_loops.py`: float32, contiguous, Adam as it comes, images for nothing, no averages. Ours
is the trainer with its defaults and the overrides given: batches are drawn, statistics kept and generators averaged. For
dcgan and cyclegan an iteration is one step of both players; for wgan_gp, turns are timed apart.

Ratios above 1 are in our favour; a kernel is the unit of `benchmark_step.py`. Medians, and the range over the rounds.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import plain_loops
import torch
from benchmark_step import assemble, kernel, seconds, spread
from ganduel.device import label
from ganduel.trainer import Trainer

# model -> (what else our configuration is told, so that the work is the same)
SETTINGS = {
    "dcgan": ["batch_size=64"],
    "wgan_gp": ["batch_size=64"],
    "cyclegan": ["data.resolution=128"],
}


def ours(trainer: Trainer) -> plain_loops.Loop:
    """What our iteration is made of, under the textbook's names."""
    if trainer.pace.n_critic == 1:
        return {"iteration": trainer.step}
    turns = {turn.player: turn for turn in reversed(trainer.pace.turns)}
    return {
        "critic turn": lambda: _turn(trainer, turns["D"]),
        "generator turn": lambda: _turn(trainer, turns["G"]),
    }


def _turn(trainer, turn) -> None:
    trainer.take_turn(turn, {})


def plain(model: str, trainer: Trainer) -> plain_loops.Loop:
    """The textbook's loop, on images of the same sizes."""
    batch = trainer.images.batch(0, trainer.batch_size)
    images = [batch[name].contiguous() for name in trainer.game.domains]
    loop: Callable[..., plain_loops.Loop] = getattr(plain_loops, model)
    return loop(*images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SETTINGS)
    parser.add_argument("overrides", nargs="*", help="of our side, as for gan-train")
    parser.add_argument("--rounds", type=int, default=7)
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer = assemble([f"model={typed.model}", *SETTINGS[typed.model], *typed.overrides], Path(folder))
    loops = plain(typed.model, trainer), ours(trainer)
    unit = kernel(trainer.device)
    for do in (unit, *loops[0].values(), *loops[1].values()):
        for _ in range(2):
            do()
    threads = f", {torch.get_num_threads()} threads" if trainer.device.type == "cpu" else ""
    print(f"PyTorch {torch.__version__} on {label(trainer.device)}{threads}\n")
    print(f"| {typed.model} | textbook, kernels | ours, kernels | ours, ms | ratio |\n| --- | --- | --- | --- | --- |")
    for name in loops[0]:
        rows = []
        for _ in range(typed.rounds):
            one, before, two, after = (
                seconds(do, trainer.device) for do in (loops[0][name], unit, loops[1][name], unit)
            )
            rows.append((one, two, (before + after) / 2))
        textbook, own = ([row[i] / row[2] for row in rows] for i in range(2))
        ratios = [one / two for one, two, _ in rows]
        milliseconds = 1000 * statistics.median(two for _, two, _ in rows)
        print(f"| {name} | {spread(textbook, 2)} | {spread(own, 2)} | {milliseconds:.0f} | {spread(ratios, 2)} |")


if __name__ == "__main__":
    main()
