"""Training loops as textbooks write them, to measure ours against (`scripts/benchmark_plain.py`).

Everything is PyTorch's default: float32, contiguous tensors, Adam with nothing but its rates, one backward
pass for each loss. Networks and losses are those of our configurations of the same name, so the work is the same; it
is given its images for nothing and keeps no averages. Each function returns what an iteration is made of: names and
callables.
"""

import random
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

Loop = dict[str, Callable[[], None]]


def dcgan(images: Tensor, latent: int = 100, width: int = 64) -> Loop:
    """The DCGAN of tutorials at 64x64: both losses by BCE, D's on real and fake images one after another."""
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
    """WGAN-GP with DCGAN's networks and LayerNorm in the critic: a turn of the critic, and one of the generator."""
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
    """CycleGAN with ResNet generators: identity, adversarial and cycle losses in one backward pass of the generators,
    then one backward pass for each discriminator, on older fakes every other time."""
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
