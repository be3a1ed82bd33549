"""Estimate how long every recipe would take on a T4. The networks do not run; only their multiplications are counted.

    python scripts/expected_times.py [RECIPE ...]

Report R0 trained the networks of `places_resnet_wgan_gp` for 28,000 turns of G in 40 h on a T4. That is a rate of
1.5e12 multiplications per second in float32. Its StyleGAN2-ADA took 48 h for 5,000 kimg: 3.0e12 in half precision. We
assume the first rate for all other recipes, and 10 ms more for every turn of a player, which is most of the time of
small networks. These are only estimates: this project has measured nothing on a T4. Metrics and packing take additional
time.
"""

import argparse
import math

import torch
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ganduel import build
from ganduel.clock import Clock, Duration
from ganduel.config.compose import compose
from ganduel.config.keys import config_dir, parse
from ganduel.config.schema import Train
from ganduel.game import Generator
from ganduel.models import winograd  # noqa: F401 - here, because its constants must not become fake tensors

RATE, HALF = 1.5e12, 3.0e12  # multiplications per second: in float32, and for StyleGAN2-ADA in half precision
TURN = 0.01  # additional seconds for every turn
IMAGES = {  # number of training images, or of those of the larger domain
    "mnist": 60_000,
    "digits": 1_617,
    "celeba": 162_770,
    "celeba_grey28": 162_770,
    "afhq_dog": 4_739,
    "lsun_bedroom_sample": 300_093,
    "horse2zebra": 1_334,
    "places_corridor": 4_750,
}


def costs(settings: Train) -> tuple[float, float]:
    """Multiplications per image of a forward pass through the generator, and through the discriminator."""
    with FakeTensorMode(), torch.no_grad():
        game = build.game(settings.model, {}, [])
        images = torch.empty(2, settings.data.channels, *[settings.data.resolution] * 2)
        generator, discriminator = next(iter(game.generators.values())), next(iter(game.discriminators.values()))
        given = torch.empty(2, generator.latent) if isinstance(generator, Generator) else images
        counted = []
        for network, x in ((generator, given), (discriminator, images)):
            with FlopCounterMode(display=False) as counter:
                network(x)
            counted.append(counter.get_total_flops() / 2 / len(x))  # a multiplication and an addition are two flops
    return counted[0], counted[1]


def seconds(settings: Train) -> float:
    """The estimated time of one run.

    A backward pass costs as much as a forward pass for the inputs, and as much again for the weights. The gradient of a
    gradient in a penalty costs as much as four forward passes.
    """
    g, d = costs(settings)
    turns, penalties = settings.turns, settings.regularizer
    if settings.model["game"].endswith("CycleGame"):  # two directions, each with a fake, a cycle, an identity image
        of_g, of_d = 2 * (9 * g + 2 * d), 2 * 6 * d
    else:
        of_g, of_d = 3 * g + 2 * d, g + 6 * d
    of_d += sum(6 * d / r["every"] for r in penalties.values() if r["player"] == "D" and "every" in r)
    of_g += sum(6 * g * r["fn"]["share"] / r["every"] for r in penalties.values() if r["player"] == "G")
    batch = settings.batch_size
    per_iteration = batch * turns["n_critic"]
    clock = Clock(per_iteration, turns["n_generator"], IMAGES[settings.data.name])
    iterations = math.ceil(clock.images(Duration.parse(settings.duration, "duration")) / per_iteration)
    rate = HALF if settings.model["name"] == "stylegan2_ada" else RATE
    work = batch * (turns["n_critic"] * of_d + turns["n_generator"] * of_g) / rate
    return iterations * (work + TURN * (turns["n_critic"] + turns["n_generator"]))


def swept(name: str) -> dict[str, str]:
    """The sweep of a recipe, or of the recipe that it starts from: key -> values."""
    content = yaml.safe_load((config_dir() / "experiment" / f"{name}.yaml").read_text())
    first = content["defaults"][0]
    inherited = swept(first) if isinstance(first, str) else {}
    return content["hydra"]["sweeper"]["params"] if "hydra" in content else inherited


def jobs(name: str) -> list[list[str]]:
    """The overrides of every run of a recipe. Hydra's own sweeper splits the sweep."""
    parsed = parse([f"{key}={value}" for key, value in swept(name).items()])
    return BasicSweeper.split_arguments(parsed, None)[0]


def expected(name: str) -> float:
    """The estimated seconds of all runs of a recipe together."""
    return sum(seconds(compose("train", [f"experiment={name}", *job])) for job in jobs(name))


def readable(time: float) -> str:
    """A time in seconds as text, with two digits, in minutes, hours or days."""
    for unit, size, least in (("days", 86400, 3), ("h", 3600, 1.5)):
        if time >= least * size:
            return f"{float(f'{time / size:.2g}'):g} {unit}"
    return f"{max(1, float(f'{time / 60:.2g}')):.0f} minutes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
    parser.add_argument("recipes", nargs="*", default=everything, help="which (default: all)")
    for name in parser.parse_args().recipes:
        runs = len(jobs(name))
        print(f"{name:32} {readable(expected(name))}" + (f" for {runs} runs" if runs > 1 else ""))


if __name__ == "__main__":
    main()
