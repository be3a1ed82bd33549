"""What goes wrong with GANs, seen early: once a log interval, from numbers that are there already and one small batch.

Every kind of alarm has a limit in the configuration, and is raised once, when the limit is broken in a few checks in a
row.
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

FEWEST, MOST = 8, 64  # images that a check looks at; in between, a batch
REMEMBERED = 50  # gradients that a new one is held against, at most
FAINT = 0.01  # a contrast below this share of the reals' is none


class Alarm(NamedTuple):
    """A sign that something is wrong, and what to try."""

    sign: str
    wrong: Any  # (number, limit) -> whether it is
    says: str
    advice: str
    passing: bool = False  # may come and go in a run that is well: takes longer to count


ALARMS = {
    "spread": Alarm(
        "spread",
        operator.lt,
        "G makes nearly the same image of everything: distances between fakes are {value:.2g} of those between reals",
        "go on from an earlier checkpoint with a lower optimizer.G.lr, or try regularizer=[r1], augment=[diffaugment] "
        "or model=wgan_gp",
    ),
    "overfitting": Alarm(
        "r_v",
        operator.gt,
        "D knows its training images by heart: held-out ones are {value:.0%} of the way to fakes",
        "augment=[ada] or augment=[diffaugment], data.mirror=true, more images, or a smaller D",
        passing=True,
    ),
    "accuracy": Alarm(
        "right",
        operator.gt,
        "D is right about {value:.2%} of the images, so G learns little",
        "a lower optimizer.D.lr, regularizer=[r1], pace=gated, or loss=wasserstein with a penalty",
        passing=True,
    ),
    "explosion": Alarm(
        "growth",
        operator.gt,
        "gradients are {value:.0f} times as large as they were",
        "a lower optimizer.D.lr and optimizer.G.lr, regularizer=[gradient_penalty], or precision=fp32",
    ),
    "vanishing": Alarm(
        "gradient",
        operator.lt,
        "gradients are {value:.1g} of the weights, so nothing is learnt",
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
"""What `Alarm`s look at: by sign, and by whose it is: the name of a duel, or "/D" and "/G"."""


class Health:
    """The limits of a run, and what it remembers of its checks: `state`, plain values for checkpoints."""

    def __init__(self, checks: int, lasting: int, **limits: float | None):
        """An alarm takes `checks` in a row, `lasting` of what passes by itself in other runs."""
        self.checks, self.lasting, self.limits = checks, lasting, limits
        self.state: dict[str, Any] = {"streaks": {}, "raised": [], "gradients": {}}

    def check(self, trainer: Trainer, numbers: dict[str, float]) -> tuple[dict[str, float], dict[str, str]]:
        """A log interval's `numbers` and a look at the networks, as further numbers, "health/...", and the alarms that
        are new, by kind and by whose they are. One wait for the device."""
        duels = trainer.game.duel_names
        looks = {
            **{("spread", name): value for name, value in spreads(trainer).items()},
            **{("gradient", f"/{name}"): gradient(player) for name, player in trainer.players.items()},
        }
        values = distributed.mean(torch.stack([*looks.values()])).tolist()
        signs: Signs = {"spread": {}, "gradient": {}, **judged(numbers, duels), **overfitting(numbers, duels)}
        for (sign, whose), value in zip(looks, values, strict=True):
            if math.isfinite(value):  # fp16 may skip a step
                signs[sign][whose] = value
        found = {f"health/{sign}{whose}": value for sign, part in signs.items() for whose, value in part.items()}
        return found, self.alarms({**signs, "growth": self.growth(signs["gradient"])})

    def growth(self, gradients: dict[str, float]) -> dict[str, float]:
        """Each player's gradient as a multiple of the median of those before."""
        found = {}
        for player, value in gradients.items():
            past = self.state["gradients"].setdefault(player.removeprefix("/"), [])
            if len(past) >= FEWEST and (median := statistics.median(past)) > 0:
                found[player] = value / median
            past.append(value)
            del past[:-REMEMBERED]
        return found

    def alarms(self, signs: Signs) -> dict[str, str]:
        """What to say of the limits that have now been broken often enough, and have not been before."""
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
        """All of it in a few words, for a line: what D gets right of reals, fakes and held-out reals, how alike fakes
        are, and what is wrong right now."""

        def of_all(name: str) -> list[float]:
            return [numbers[f"{name}{duel}"] for duel in duels if f"{name}{duel}" in numbers]

        right = [of_all(name) for name in ("accuracy/real", "accuracy/fake", "validation/accuracy/real")]
        spread = of_all("health/spread")
        words = {"D right": "/".join(f"{statistics.mean(values):.2f}" for values in right if values)}
        words["spread"] = f"{min(spread):.2f}" if spread else ""
        words["health"] = ", ".join(self.state["streaks"]) or "ok"
        return {name: text for name, text in words.items() if text}


def judged(numbers: dict[str, float], duels: list[str]) -> Signs:
    """How often D is right about the reals or the fakes, whichever is less; and the p of an ADA that adapts."""
    right, ada = {}, {}
    for duel in duels:
        if f"accuracy/real{duel}" in numbers:
            right[duel] = min(numbers[f"accuracy/real{duel}"], numbers[f"accuracy/fake{duel}"])
        if f"ada/r{duel}" in numbers:
            ada[duel] = numbers[f"ada/p{duel}"]
    return {"right": right, "ada": ada}


def overfitting(numbers: dict[str, float], duels: list[str]) -> Signs:
    """The signs of overfitting of ADA's authors (Karras et al. 2020b, equation 1): r_t, the mean sign of D's logits of
    training images, and r_v, how far those of held-out images have gone from there towards those of fakes.

    r_v says nothing while D can hardly tell training images from fakes, and is left out.
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
    """For every duel, the distance between two fakes over that between two reals; changes nothing.

    Brightness and contrast are taken out first, so that the pale images of a young G do not pass for collapsed.
    """
    images = trainer.images
    count = max(FEWEST, min(MOST, trainer.batch_size))
    seed = randomness.seeds(trainer.seed, "health", trainer.iteration, first=0, count=count, device=trainer.device)
    held_out = images.held_out >= count
    # Held-out images are not read ahead, which would be in the way of the next batch.
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
    """The distance between two fakes over that between two reals, each as a share of what it would be if the images had
    nothing in common; images (N, C, H, W).

    The mean squared distance of pairs is twice the sum of all pixels' variances.
    """
    (real_variance, real_contrast), (fake_variance, fake_contrast) = (_contrast(images) for images in (real, fake))
    fake_contrast = torch.maximum(fake_contrast, FAINT**2 * real_contrast)
    return (fake_variance / fake_contrast).sqrt() / (real_variance / real_contrast).sqrt()


def _contrast(images: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the variances of all pixels, and the mean squared deviation of an image from its own mean, summed."""
    flat = images.float().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat.var(0).sum(), flat.square().sum(1).mean()


def gradient(player: Player) -> Tensor:
    """The length of the gradients that a player's last step has left, over that of its weights; not a number where it
    is not known."""
    left = [(p.grad, p.detach()) for p in player.networks.parameters() if p.grad is not None]
    gate_may_leave_them_scaled = player.phases[0].gate is not None and player.scaler.is_enabled()
    if not left or gate_may_leave_them_scaled:
        return torch.full((), math.nan, device=next(player.networks.parameters()).device)
    gradients, weights = (torch.nn.utils.get_total_norm(part) for part in zip(*left, strict=True))
    return gradients / weights
