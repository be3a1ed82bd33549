"""How much faster we are than a textbook's loop of the same networks and losses, both timed in turn in one process.

    python scripts/benchmark_plain.py dcgan
    python scripts/benchmark_plain.py cyclegan precision=bf16
    python scripts/benchmark_plain.py wgan_gp --rounds 5
    python scripts/benchmark_plain.py dcgan --bare

The textbook's loops are in `plain_loops.py`: float32, contiguous, Adam as it comes, images for nothing, no averages.
Ours is the trainer with its defaults and the overrides given: batches are drawn, statistics kept, generators averaged.
For dcgan and cyclegan an iteration is one step of both players; for wgan_gp, turns are timed apart. With --bare, we are
compared with the forward, backward and optimizer calls of our own networks, so that the trainer's share shows.

Ratios above 1 are in our favour; a kernel is the unit of `benchmark_step.py`. Medians, and the range over the rounds.
On CPUs both have what we ask of the system's allocator (`device.keep_memory`), which helps the textbook's loop, too.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import plain_loops
import torch
from benchmark_step import assemble, kernel, seconds, spread
from torch.nn.functional import softplus

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
        "critic turn": partial(trainer.take_turn, turns["D"], {}),
        "generator turn": partial(trainer.take_turn, turns["G"], {}),
    }


def plain(model: str, trainer: Trainer) -> plain_loops.Loop:
    """The textbook's loop, on images of the same sizes."""
    batch = trainer.images.batch(0, trainer.batch_size)
    images = [batch[name].contiguous() for name in trainer.game.domains]
    loop: Callable[..., plain_loops.Loop] = getattr(plain_loops, model)
    return loop(*images)


def bare(trainer: Trainer) -> plain_loops.Loop:
    """DCGAN's iteration on copies of our networks: nothing but forward, backward and step."""
    game = copy.deepcopy(trainer.game)
    generator, discriminator = game.generators["G"], game.discriminators["D"]
    players = {
        name: type(player.optimizer)(networks.parameters(), **player.optimizer.defaults)
        for (name, player), networks in zip(trainer.players.items(), (discriminator, generator), strict=True)
    }
    images = trainer.images.batch(0, trainer.batch_size)["real"]
    latent = torch.randn(trainer.batch_size, generator.latent, device=trainer.device)

    def judged(images: torch.Tensor) -> torch.Tensor:
        with trainer.autocast(True):
            return discriminator(images).float()

    def iteration() -> None:
        players["D"].zero_grad()
        with trainer.autocast(True):
            fake = generator(latent)
        (softplus(-judged(images)).mean() + softplus(judged(fake.detach())).mean()).backward()
        players["D"].step()
        players["G"].zero_grad()
        discriminator.requires_grad_(False)
        softplus(-judged(fake)).mean().backward()
        discriminator.requires_grad_(True)
        players["G"].step()

    return {"iteration": iteration}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SETTINGS)
    parser.add_argument("overrides", nargs="*", help="of our side, as for gan-train")
    parser.add_argument("--bare", action="store_true", help="dcgan: against the bare calls of our own networks")
    parser.add_argument("--rounds", type=int, default=7)
    typed = parser.parse_args()
    if typed.bare and typed.model != "dcgan":
        parser.error("--bare is for dcgan")
    with tempfile.TemporaryDirectory() as folder:
        trainer = assemble([f"model={typed.model}", *SETTINGS[typed.model], *typed.overrides], Path(folder))
    loops = bare(trainer) if typed.bare else plain(typed.model, trainer), ours(trainer)
    unit = kernel(trainer.device)
    for do in (unit, *loops[0].values(), *loops[1].values()):
        for _ in range(2):
            do()
    threads = f", {torch.get_num_threads()} threads" if trainer.device.type == "cpu" else ""
    print(f"PyTorch {torch.__version__} on {label(trainer.device)}{threads}\n")
    head = typed.model, f"{'bare' if typed.bare else 'textbook'}, kernels", "ours, kernels", "ours, ms", "ratio"
    print(f"| {' | '.join(head)} |\n{'| --- ' * len(head)}|")
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
        print(f"| {name} | {spread(textbook, 2)} | {spread(own, 2)} | {milliseconds:.0f} | {spread(ratios, 3)} |")


if __name__ == "__main__":
    main()
