"""Compare StyleGAN2 or R3GAN with numbers of a reference implementation: python scripts/check_reference.py FILE.npz

The file has weights with the published names under G/ and D/, inputs under in/, and the expected results under out/ and
grad_*/. An R3GAN may have a second network, with classes, under cond/. The sizes of the networks are inferred from the
shapes. For each result, prints the largest absolute difference, and the same divided by the largest expected number.
"""

import argparse
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ganduel import build
from ganduel.augment import Chain
from ganduel.config.compose import compose
from ganduel.game import AugmentedDiscriminator, Duel
from ganduel.importing import r3gan, stylegan2_ada
from ganduel.losses import AdversarialLoss
from ganduel.regularizers import path_lengths, r1, squared_gradient

Numbers = dict[str, Tensor]


def compare(reference: Numbers) -> Iterator[tuple[str, Tensor]]:
    """Yield each key of the reference's outputs and gradients with our value for it."""
    if "in/img" in reference:
        yield from compare_stylegan2(reference)
        return
    for prefix in ("", "cond/"):
        own = {key.removeprefix(prefix): value for key, value in reference.items() if key.startswith(prefix)}
        for key, value in compare_r3gan(own) if "in/z" in own else ():
            yield prefix + key, value


def stylegan2(reference: Numbers) -> tuple:
    """Generator and discriminator with the sizes and the weights of the reference."""
    generator, discriminator = (
        {name[2:]: value for name, value in reference.items() if name.startswith(f"{player}/")} for player in "GD"
    )
    found = stylegan2_ada.settings(generator, discriminator)
    composed = compose("train", ["model=stylegan2_ada", *(f"{key}={value}" for key, value in found.items())])
    game = build.game(composed.model, {}, []).eval()
    game.generators["G"].load_state_dict(stylegan2_ada.ours(generator))
    game.discriminators["D"].load_state_dict(stylegan2_ada.ours(discriminator))
    return game.generators["G"], game.discriminators["D"]


def compare_stylegan2(reference: Numbers) -> Iterator[tuple[str, Tensor]]:
    generator, discriminator = stylegan2(reference)
    z, images = reference["in/z"], reference["in/img"]
    w = generator.map_latent(z)
    yield "out/ws", w
    yield "out/ws_trunc0.7", generator.truncate(w, 0.7)
    yield "out/ws_trunc0.5_cutoff2", generator.truncate(w, 0.5, 2)
    for noise in ("none", "constant"):
        generator.set_noise(noise)
        yield f"out/img_noise_{noise[:5]}", generator.synthesis(w)
    yield "out/logits", discriminator(images)[:, None]

    seed = torch.arange(len(z))
    duel = Duel("", discriminator, images, z, generator, seed)
    yield "out/r1_penalty", squared_gradient(duel, images)
    yield from gradients("r1", 0.5 * r1(duel), discriminator, reference)

    lengths = path_lengths(generator.synthesis, w, reference["in/pl_noise"])
    yield "out/pl_lengths", lengths
    yield from gradients("pl", (lengths - 0.3).square().mean(), generator, reference)

    loss: AdversarialLoss = build.part(compose("train", ["loss=nonsaturating"]).loss, "loss", [])
    value = loss.generator(discriminator(generator.synthesis(w)), None)
    yield "out/loss_g", value
    yield from gradients("g", value, generator, reference)


def gradients(kind: str, value: Tensor, network: torch.nn.Module, reference: Numbers) -> Iterator[tuple[str, Tensor]]:
    """Yield the gradients of the scalar `value` by all weights for which the reference has gradients."""
    keys = [key for key in reference if key.startswith(f"grad_{kind}/")]
    weights = [network.get_parameter(stylegan2_ada.our_name(key.partition("/")[2])) for key in keys]
    yield from zip(keys, torch.autograd.grad(value, weights, retain_graph=True), strict=True)


def compare_r3gan(reference: Numbers) -> Iterator[tuple[str, Tensor]]:
    images, z, label = reference["in/real"], reference["in/z"], reference.get("in/label")
    weights = {
        player: {key[2:]: value for key, value in reference.items() if key.startswith(f"{player}/")} for player in "GD"
    }
    settings = r3gan.settings(weights["G"], weights["D"])
    stages = int(math.log2(settings["data.resolution"])) - 1
    composed = compose("train", ["model=r3gan", *(f"{key}={value}" for key, value in settings.items())])
    game = build.game(composed.model, {}, [])
    players: dict[Literal["G", "D"], Any] = {"G": game.generators["G"], "D": game.discriminators["D"]}
    for player, network in players.items():
        network.load_state_dict(r3gan.ours(weights[player]))

    seed = torch.arange(len(z))
    discriminator = AugmentedDiscriminator(players["D"], Chain(), seed, label)
    duel = Duel("", discriminator, images, z, players["G"], seed, label)
    yield "out/fake", duel.fake
    real, fake = discriminator.both(images, duel.fake.detach())
    yield "out/real_logits", real
    yield "out/fake_logits", fake
    loss: AdversarialLoss = build.part(composed.loss, "loss", [])
    of_real, of_fake = squared_gradient(duel, images), squared_gradient(duel, duel.fake.detach())
    yield "out/r1", of_real
    yield "out/r2", of_fake
    # "out/D_loss" is without the penalties, and the gradients are with them.
    yield "out/D_loss", torch.stack([loss.discriminator(r, f, None) for r, f in zip(real, fake, strict=True)])
    total = {"D": loss.discriminator(real, fake, None) + 0.25 * (of_real + of_fake).mean()}
    fake = discriminator(duel.fake)
    yield "out/G_loss", torch.stack([loss.generator(f, r) for r, f in zip(real.detach(), fake, strict=True)])
    total["G"] = loss.generator(fake, real.detach())
    for player, network in players.items():
        keys = [key for key in reference if key.startswith(f"grad_{player}/")]
        owners = [network.get_parameter(r3gan.our_name(key[7:], player, stages)) for key in keys]
        for key, gradient in zip(keys, torch.autograd.grad(total[player], owners, retain_graph=True), strict=True):
            yield key, gradient.T if "EmbeddingLayer" in key else gradient.view(reference[key].shape)


def differences(path: str) -> dict[str, tuple[float, float]]:
    """The largest absolute difference for each key, and the same divided by the largest expected number.

    Raises KeyError if the file has results that are not compared.
    """
    with np.load(path) as file:
        reference = {key: torch.from_numpy(file[key]) for key in file.files}
    found = {}
    for key, value in compare(dict(reference)):
        expected = reference.pop(key)
        largest = (expected - value.detach()).abs().max()
        found[key] = float(largest), float(largest / expected.abs().max())
    if left := [key for key in reference if key.removeprefix("cond/").startswith(("out/", "grad_"))]:
        raise KeyError(f"not compared: {', '.join(left)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    found = differences(parser.parse_args().file)
    print("absolute  relative")
    found["the largest"] = max(a for a, _ in found.values()), max(r for _, r in found.values())
    for key, (absolute, relative) in found.items():
        print(f"{absolute:8.2e}  {relative:8.2e}  {key}")


if __name__ == "__main__":
    main()
