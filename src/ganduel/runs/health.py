"""Early alarms for the common failures of GAN training.

A check runs once a log interval. It uses statistics that exist already, and one small batch. Every kind of alarm has a
limit in the configuration. An alarm is raised once, after several checks in a row have crossed the limit.
"""

import math
import operator
import statistics
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganduel import batches, randomness, sharing
from ganduel.no_trace import no_trace
from ganduel.system import distributed
from ganduel.trainer import Player, Trainer

FEWEST, MOST = 8, 64  # images of a check: the batch size, within these bounds
REMEMBERED = 50  # most earlier gradients that a new one is compared with
FAINT = 0.01  # lower bound for the contrast of generated images, relative to that of real images


class Alarm(NamedTuple):
    """A failure: the measured sign, the test for it, the message, and the advice."""

    sign: str
    wrong: Any  # (value, limit) -> whether the value is wrong
    says: str
    advice: str
    passing: bool = False  # may come and go in a healthy run, so it needs more checks in a row


ALARMS = {
    "spread": Alarm(
        "spread",
        operator.lt,
        "G makes nearly the same image of everything: distances between fakes are {value:.2g} of those between reals",
        "go on from an earlier checkpoint with a lower optimizer.G.lr, or try regularizer=r1, augment=diffaugment "
        "or model=wgan_gp",
    ),
    "lost_modes": Alarm(
        "kept",
        operator.lt,
        "G is losing modes: samples cover {value:.0%} of the modes that they once covered",
        "go on from an earlier checkpoint with a lower optimizer.G.lr, or try regularizer=r1, or loss=relativistic "
        "regularizer=r1,r2",
    ),
    "modes": Alarm(
        "modes",
        operator.lt,
        "samples cover only {value:.1%} of the modes",
        "loss=relativistic regularizer=r1,r2, model.pack=2, model=wgan_gp, or a lower optimizer.G.lr",
        passing=True,
    ),
    "overfitting": Alarm(
        "r_v",
        operator.gt,
        "D overfits: its logits on validation images are {value:.0%} of the way to those on fakes",
        "augment=ada or augment=diffaugment, data.mirror=true, more images, or a smaller D",
        passing=True,
    ),
    "accuracy": Alarm(
        "right",
        operator.gt,
        "D is right about {value:.2%} of the images, so G learns little",
        "a lower optimizer.D.lr, regularizer=r1, turns=gated, or loss=wasserstein with a penalty",
        passing=True,
    ),
    "explosion": Alarm(
        "growth",
        operator.gt,
        "gradients are {value:.0f} times as large as they were",
        "a lower optimizer.D.lr and optimizer.G.lr, regularizer=gradient_penalty, or precision=fp32",
    ),
    "vanishing": Alarm(
        "gradient",
        operator.lt,
        "gradients are only {value:.1g} of the weights, so the network hardly learns",
        "loss=nonsaturating, hinge or wasserstein, or a lower optimizer.D.lr",
    ),
    "ada": Alarm(
        "ada",
        operator.gt,
        "ADA augments as much as it can (p {value:.2f}), and D still overfits",
        "more images, data.mirror=true, or a smaller D; augmentations this strong may show in the samples",
        passing=True,
    ),
}


Signs = dict[str, dict[str, float]]
"""The values that `Alarm`s test: sign -> owner -> value. An owner is the name of a duel, or "/D" or "/G"."""


class Health:
    """The health checks of a run: their limits, and `state`, the memory of earlier checks as plain values that go into
    checkpoints.
    """

    def __init__(self, checks: int, lasting: int, **limits: float | None):
        """An alarm needs `checks` bad checks in a row, or `lasting` if its sign is `passing`.

        `limits` has one limit for each kind of alarm; None switches the alarm off.
        """
        self.checks, self.lasting, self.limits = checks, lasting, limits
        self.state: dict[str, Any] = {"streaks": {}, "raised": [], "gradients": {}, "covered": 0.0}

    def check(self, trainer: Trainer, numbers: dict[str, float]) -> tuple[dict[str, float], dict[str, str]]:
        """Check the networks and a log interval's statistics, `numbers`.

        They may hold "modes", the share of the modes that samples covered in the newest measurement, from 0 to 1.

        Returns further statistics, "health/...", and the new alarms: (kind + owner) -> message. The host waits for the
        device only once.
        """
        duels = trainer.game.duel_names
        looks = {
            **{("spread", name): value for name, value in spreads(trainer).items()},
            **{("gradient", f"/{name}"): gradient(player) for name, player in trainer.players.items()},
        }
        values = distributed.mean(torch.stack([*looks.values()])).tolist()
        signs: Signs = {"spread": {}, "gradient": {}, **judged(numbers, duels), **overfitting(numbers, duels)}
        signs["modes"] = {"": numbers["modes"]} if "modes" in numbers else {}
        for (sign, whose), value in zip(looks, values, strict=True):
            if math.isfinite(value):  # the gradient may be unknown or, in fp16, infinite in a skipped step
                signs[sign][whose] = value
        found = {f"health/{sign}{whose}": value for sign, part in signs.items() for whose, value in part.items()}
        growth, kept = self.growth(signs["gradient"]), self.kept(signs["modes"])
        return found, self.alarms({**signs, "growth": growth, "kept": kept})

    def kept(self, modes: dict[str, float]) -> dict[str, float]:
        """The share of modes that samples cover now, over the largest share in this run."""
        self.state["covered"] = max([self.state["covered"], *modes.values()])
        return {owner: share / self.state["covered"] for owner, share in modes.items() if self.state["covered"]}

    def growth(self, gradients: dict[str, float]) -> dict[str, float]:
        """Each player's gradient as a multiple of the median of its earlier gradients."""
        found = {}
        for player, value in gradients.items():
            past = self.state["gradients"].setdefault(player.removeprefix("/"), [])
            if len(past) >= FEWEST and (median := statistics.median(past)) > 0:
                found[player] = value / median
            past.append(value)
            del past[:-REMEMBERED]
        return found

    def alarms(self, signs: Signs) -> dict[str, str]:
        """The messages of the new alarms: those whose limit has now been crossed in enough checks in a row."""
        before, streaks, new = self.state["streaks"], {}, {}
        for kind, alarm in ALARMS.items():
            limit = self.limits[kind]
            for whose, value in signs.get(alarm.sign, {}).items():
                if limit is None or not alarm.wrong(value, limit):
                    continue
                name = kind + whose
                streaks[name] = before.get(name, 0) + 1
                enough = self.lasting if alarm.passing else self.checks
                if streaks[name] >= enough and name not in self.state["raised"]:
                    self.state["raised"].append(name)
                    new[name] = f"{alarm.says.format(value=value)}; try {alarm.advice}"
        self.state["streaks"] = streaks
        return new

    def status(self, numbers: dict[str, float], duels: list[str]) -> dict[str, str]:
        """A short status for a line of progress.

        "D right" is the discriminator's accuracy on training, generated and validation images. "spread" is the
        diversity of the generated images. "health" lists the alarms whose limit is crossed now, or is "ok".
        """

        def of_all(name: str) -> list[float]:
            return [numbers[f"{name}{duel}"] for duel in duels if f"{name}{duel}" in numbers]

        right = [of_all(name) for name in ("accuracy/real", "accuracy/fake", "validation/accuracy/real")]
        spread = of_all("health/spread")
        words = {"D right": "/".join(f"{statistics.mean(values):.2f}" for values in right if values)}
        words["spread"] = f"{min(spread):.2f}" if spread else ""
        words["health"] = ", ".join(self.state["streaks"]) or "ok"
        return {name: text for name, text in words.items() if text}


def judged(numbers: dict[str, float], duels: list[str]) -> Signs:
    """The signs "right" and "ada": the discriminator's accuracy on real or on generated images, whichever is lower; and
    ADA's p, if it adapts.
    """
    right, ada = {}, {}
    for duel in duels:
        if f"accuracy/real{duel}" in numbers:
            right[duel] = min(numbers[f"accuracy/real{duel}"], numbers[f"accuracy/fake{duel}"])
        if f"ada/r{duel}" in numbers:
            ada[duel] = numbers[f"ada/p{duel}"]
    return {"right": right, "ada": ada}


def overfitting(numbers: dict[str, float], duels: list[str]) -> Signs:
    """ADA's signs of overfitting (Karras et al. 2020b, equation 1): r_t and r_v.

    r_t is the mean sign of the discriminator's logits for training images, from -1 to 1. r_v tells where the mean logit
    of validation images lies between those of training images (0) and of generated images (1). While the discriminator
    can hardly tell training images from generated ones, r_v means nothing and is left out.
    """
    r_t, r_v = {}, {}
    for duel in duels:
        accuracy = numbers.get(f"accuracy/real{duel}")
        if accuracy is not None:
            r_t[duel] = 2 * accuracy - 1
        real, fake = numbers.get(f"logits/real{duel}", math.nan), numbers.get(f"logits/fake{duel}", math.nan)
        held_out = numbers.get(f"validation/logits/real{duel}")
        if held_out is not None and real > fake and (accuracy is None or accuracy > 0.75):
            r_v[duel] = (real - held_out) / (real - fake)
    return {"r_t": r_t, "r_v": r_v}


def spreads(trainer: Trainer) -> dict[str, Tensor]:
    """The `spread` of every duel on one small batch; changes nothing.

    Brightness and contrast are removed first, so that the pale images of a young generator do not look collapsed.
    """
    images = trainer.images
    count = max(FEWEST, min(MOST, trainer.batch_size))
    seed = randomness.seeds(trainer.seed, "health", trainer.iteration, first=0, count=count, device=trainer.device)
    held_out = images.held_out >= count
    # Validation images are preferred, because reading them does not disturb the read-ahead of training batches.
    batch = (images.validation_batch if held_out else images.batch)(trainer.images_seen, count)
    real: dict[str, list[Tensor]] = {}
    fake: dict[str, list[Tensor]] = {}
    with no_trace(trainer), trainer.autocast(True):
        for part in batches.split({**batch, "seed": seed}, min(trainer.micro_batch, count)):
            for duel in sharing.duels(trainer.game, part):
                real.setdefault(duel.name, []).append(duel.real)
                fake.setdefault(duel.name, []).append(duel.fake)
    return {name: spread(torch.cat(real[name]), torch.cat(fake[name])) for name in real}


def spread(real: Tensor, fake: Tensor) -> Tensor:
    """The distance between two generated images, divided by the distance between two real images: 0 is a collapse.

    Each distance is relative to its value for images that have nothing in common. `real` and `fake` are (N, C, H, W).
    The mean squared distance of pairs is twice the sum of all pixels' variances.
    """
    (real_variance, real_contrast), (fake_variance, fake_contrast) = (_contrast(images) for images in (real, fake))
    fake_contrast = torch.maximum(fake_contrast, FAINT**2 * real_contrast)
    return (fake_variance / fake_contrast).sqrt() / (real_variance / real_contrast).sqrt()


def _contrast(images: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the variances of all pixels over the images, and the squared deviation of an image from its own mean,
    summed over its pixels and averaged over the images.
    """
    flat = images.float().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat.var(0).sum(), flat.square().sum(1).mean()


def gradient(player: Player) -> Tensor:
    """The norm of a player's gradients after its last step, divided by the norm of its weights; NaN if unknown."""
    left = [(p.grad, p.detach()) for p in player.networks.parameters() if p.grad is not None]
    gate_may_leave_them_scaled = player.phases[0].gate is not None and player.scaler.is_enabled()
    if not left or gate_may_leave_them_scaled:
        return torch.full((), math.nan, device=next(player.networks.parameters()).device)
    gradients, weights = (torch.nn.utils.get_total_norm(part) for part in zip(*left, strict=True))
    return gradients / weights
