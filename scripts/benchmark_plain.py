"""Compare our speed with textbook training loops of the same networks and losses, timed in turn in one process.

    python scripts/benchmark_plain.py dcgan
    python scripts/benchmark_plain.py cyclegan precision=bf16
    python scripts/benchmark_plain.py wgan_gp --rounds 5
    python scripts/benchmark_plain.py dcgan --bare

The textbook loops use PyTorch's defaults: float32, contiguous memory, plain Adam. They always use the same batch, and
keep no averages. Our loop is the trainer with its defaults and the given overrides: it draws batches, keeps statistics
and averages the generators. For dcgan and cyclegan, an iteration is one step of both players. For wgan_gp, the turns of
the players are timed separately. With --bare, we compare the trainer with only the forward, backward and optimizer
calls of our own networks. This shows the trainer's share of the time.

Ratios above 1 are in our favour. A kernel is the unit of `benchmark_step.py`. Prints the median and the range over the
rounds. On CPUs, our setting of the system's allocator (`device.keep_memory`) helps the textbook loops, too.
"""

import argparse
import copy
import random
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from benchmark_step import assemble, kernel, seconds, spread
from torch import Tensor, nn
from torch.nn.functional import softplus

from ganduel.system.device import label
from ganduel.trainer import Trainer

Loop = dict[str, Callable[[], None]]


def dcgan(images: Tensor, latent: int = 100, width: int = 64) -> Loop:
    """The DCGAN of tutorials at 64x64, with BCE losses. The discriminator sees real and generated images in turn."""
    generator, discriminator = dcgan_generator(latent, width), dcgan_discriminator(width, nn.BatchNorm2d)
    networks = generator.to(images.device), discriminator.to(images.device)
    for network in networks:
        network.apply(_initialise)
    criterion = nn.BCEWithLogitsLoss()
    of_g, of_d = (torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in networks)
    ones = torch.ones(len(images), device=images.device)
    zeros = torch.zeros(len(images), device=images.device)

    def iteration() -> None:
        of_d.zero_grad()
        criterion(discriminator(images).view(-1), ones).backward()
        fake = generator(torch.randn(len(images), latent, 1, 1, device=images.device))
        criterion(discriminator(fake.detach()).view(-1), zeros).backward()
        of_d.step()
        of_g.zero_grad()
        criterion(discriminator(fake).view(-1), ones).backward()
        of_g.step()

    return {"iteration": iteration}


def wgan_gp(images: Tensor, latent: int = 100, width: int = 64) -> Loop:
    """WGAN-GP with DCGAN's networks and LayerNorm in the critic: one turn of the critic, one turn of the generator."""
    generator = dcgan_generator(latent, width).to(images.device)
    critic = dcgan_discriminator(width, lambda channels: nn.GroupNorm(1, channels)).to(images.device)
    for network in (generator, critic):
        network.apply(_initialise)
    of_g, of_d = (torch.optim.Adam(n.parameters(), lr=1e-4, betas=(0.0, 0.9)) for n in (generator, critic))

    def noise() -> Tensor:
        return torch.randn(len(images), latent, 1, 1, device=images.device)

    def critic_turn() -> None:
        of_d.zero_grad()
        fake = generator(noise()).detach()
        share = torch.rand(len(images), 1, 1, 1, device=images.device)
        between = (share * images + (1 - share) * fake).requires_grad_(True)
        logits = critic(between)
        (gradient,) = torch.autograd.grad(
            logits, between, torch.ones_like(logits), create_graph=True, retain_graph=True
        )
        penalty = ((gradient.view(len(images), -1).norm(2, dim=1) - 1) ** 2).mean()
        (critic(fake).mean() - critic(images).mean() + 10 * penalty).backward()
        of_d.step()

    def generator_turn() -> None:
        of_g.zero_grad()
        (-critic(generator(noise())).mean()).backward()
        of_g.step()

    return {"critic turn": critic_turn, "generator turn": generator_turn}


def cyclegan(a: Tensor, b: Tensor, width: int = 64, blocks: int = 9, pool: int = 50) -> Loop:
    """CycleGAN with ResNet generators.

    One backward pass of the generators covers the identity, adversarial and cycle losses. One backward pass of each
    discriminator follows. Once the pool is full, half of its generated images are older ones.
    """
    a2b, b2a = (resnet(width, blocks).to(a.device) for _ in range(2))
    judge_a, judge_b = (patch_discriminator(width).to(a.device) for _ in range(2))
    for network in (a2b, b2a, judge_a, judge_b):
        network.apply(_initialise)
    judges = [*judge_a.parameters(), *judge_b.parameters()]
    of_g = torch.optim.Adam(chain(a2b.parameters(), b2a.parameters()), lr=2e-4, betas=(0.5, 0.999))
    of_d = torch.optim.Adam(judges, lr=2e-4, betas=(0.5, 0.999))
    adversarial, distance = nn.MSELoss(), nn.L1Loss()
    pools: dict[str, list[Tensor]] = {"a": [], "b": []}

    def older(name: str, fakes: Tensor) -> Tensor:
        met, kept = [], pools[name]
        for fake in fakes.detach().split(1):
            if len(kept) < pool:
                kept.append(fake)
            elif random.random() < 0.5:
                place = random.randrange(pool)
                kept[place], fake = fake, kept[place]
            met.append(fake)
        return torch.cat(met)

    def to(logits: Tensor, label: float) -> Tensor:
        return adversarial(logits, torch.full_like(logits, label))

    def iteration() -> None:
        for parameter in judges:
            parameter.requires_grad_(False)
        of_g.zero_grad()
        fake_b, fake_a = a2b(a), b2a(b)
        identity = distance(b2a(a), a) + distance(a2b(b), b)
        cycle = distance(b2a(fake_b), a) + distance(a2b(fake_a), b)
        fooled = to(judge_b(fake_b), 1) + to(judge_a(fake_a), 1)
        (fooled + 10 * cycle + 5 * identity).backward()
        of_g.step()
        for parameter in judges:
            parameter.requires_grad_(True)
        of_d.zero_grad()
        for judge, real, fake in ((judge_a, a, older("a", fake_a)), (judge_b, b, older("b", fake_b))):
            (0.5 * (to(judge(real), 1) + to(judge(fake), 0))).backward()
        of_d.step()

    return {"iteration": iteration}


def dcgan_generator(latent: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent, 8 * width, 4, 1, 0, bias=False)]
    for factor in (8, 4, 2):
        layers += [nn.BatchNorm2d(factor * width), nn.ReLU(True)]
        layers += [nn.ConvTranspose2d(factor * width, factor * width // 2, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU(True), nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)


def dcgan_discriminator(width: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for factor in (1, 2, 4):
        layers += [nn.Conv2d(factor * width, 2 * factor * width, 4, 2, 1, bias=False)]
        layers += [norm(2 * factor * width), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def resnet(width: int, blocks: int) -> nn.Sequential:
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU(True)]
    for channels in (width, 2 * width):
        layers += [nn.Conv2d(channels, 2 * channels, 3, 2, 1), nn.InstanceNorm2d(2 * channels), nn.ReLU(True)]
    layers += [ResidualBlock(4 * width) for _ in range(blocks)]
    for channels in (4 * width, 2 * width):
        layers += [nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, 1), nn.InstanceNorm2d(channels // 2)]
        layers += [nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


def patch_discriminator(width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for factor, stride in ((1, 2), (2, 2), (4, 1)):
        layers += [nn.Conv2d(factor * width, 2 * factor * width, 4, stride, 1)]
        layers += [nn.InstanceNorm2d(2 * factor * width), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


# model -> overrides that give our trainer the same work as the textbook loop
SETTINGS = {
    "dcgan": ["batch_size=64"],
    "wgan_gp": ["batch_size=64"],
    "cyclegan": ["data.resolution=128"],
}


TEXTBOOK: dict[str, Callable[..., Loop]] = {"dcgan": dcgan, "wgan_gp": wgan_gp, "cyclegan": cyclegan}


def ours(trainer: Trainer) -> Loop:
    """The parts of our iteration, with the names of the textbook loop."""
    if trainer.turns.n_critic == 1:
        return {"iteration": trainer.iterate}
    turns = {turn.player: turn for turn in reversed(trainer.turns.order)}
    return {
        "critic turn": partial(trainer.take_turn, turns["D"], {}),
        "generator turn": partial(trainer.take_turn, turns["G"], {}),
    }


def plain(model: str, trainer: Trainer, **sizes: int) -> Loop:
    """The textbook loop on a batch of our images. Its networks have the sizes of ours unless `sizes` changes them."""
    batch = trainer.images.batch(0, trainer.batch_size)
    images = [batch[name].contiguous() for name in trainer.game.domains]
    return TEXTBOOK[model](*images, **sizes)


def bare(trainer: Trainer) -> Loop:
    """DCGAN's iteration on copies of our networks, with only forward, backward and optimizer calls."""
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
