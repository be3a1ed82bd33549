"""The trainer against updates by hand: what turns do to the weights and to the logged numbers."""

import numpy as np
import pytest
import torch
from by_hand import (
    HELD_OUT,
    LOSSES,
    OPTIMIZERS,
    PENALTIES,
    RATE_D,
    RATE_G,
    Array,
    D,
    G,
    LinearGenerator,
    N,
    close,
    duel,
    expect,
    gradient_of_D,
    gradient_of_G,
    image_set,
    latents,
    numpy,
    penalty,
    reals,
    seeds,
    sigma,
    turn_of_D,
    turn_of_G,
    weights,
)
from torch import Tensor, nn

from ganduel import losses, randomness, regularizers, schedules
from ganduel.augment import Chain
from ganduel.data.image_set import Pair
from ganduel.game import LatentGame
from ganduel.models.cyclegan import CycleGame
from ganduel.regularizers import PathLength, Projection, Regularizer
from ganduel.validation import validate

WEIGHT = 0.3  # of penalties


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_a_turn_of_each(name, micro_batch):
    by = LOSSES[name]
    one = duel(by.loss, micro_batch=micro_batch)
    (theta, A), real = weights(one), reals(one, 0)
    one.iterate()
    fake = G(A, latents("D"))
    r, f = D(theta, real), D(theta, fake)
    loss_D, theta = turn_of_D(by, theta, real, fake)
    loss_G, A = turn_of_G(by, theta, A, real, latents("G"))
    numbers = {"loss/D": loss_D, "loss/G": loss_G, "logits/real": r.mean(), "logits/fake": f.mean()}
    if by.boundary is not None:
        numbers |= {"accuracy/real": (r > by.boundary).mean(), "accuracy/fake": (f < by.boundary).mean()}
    expect(one, theta, A, numbers)


def test_validation_judges_the_held_out_images_by_labels_as_they_are():
    """All ten of them, in batches of four, four and two. Labels are smoothed, not flipped. The generator ignores its
    latents: all fakes are the last column of A."""
    one = duel(LOSSES["flipped"].loss)
    with torch.no_grad():
        one.game.generators["G"].A[:, :2] = 0
    theta, A = weights(one)
    r, f = D(theta, numpy(one.images.validation_batch(0, HELD_OUT)["real"])), D(theta, A[:, 2:].T)
    assert validate(one) == close(
        {
            "validation/loss/D": LOSSES["smoothed"].of_D(r, f)[0].mean(),
            "validation/loss/G": -np.log(sigma(f)).mean(),
            "validation/logits/real": r.mean(),
            "validation/logits/fake": f.mean(),
            "validation/accuracy/real": (r > 0).mean(),
            "validation/accuracy/fake": (f < 0).mean(),
        }
    )


def test_r1_makes_a_linear_discriminator_flatter():
    """The slope of w.x + b is w at every image, so R1 is |w|^2, whose gradient is 2 w. In every 16th turn it is 16
    times as heavy: with a learning rate of 0.1 and a weight of 0.1, w loses 0.1 * 16 * 0.1 * 2 = 0.32 of itself."""
    judge = nn.Linear(4, 1)
    nn.init.ones_(judge.weight)
    game = LatentGame(LinearGenerator(), nn.Sequential(nn.Flatten(), judge), Chain())
    one = duel(penalties={"r1": Regularizer(regularizers.r1, "D", 0.1, every=16)}, game=game)
    w, b, A = np.ones(4), judge.bias.item(), numpy(game.generators["G"].A)
    one.iterate()
    w += 0.1 * (reals(one, 0).mean(0) - G(A, latents("D")).mean(0))
    assert one.stats.means()["loss/r1"] == close(0.1 * w @ w)
    w *= 0.68
    assert numpy(judge.weight)[0] == close(w) and judge.bias.item() == close(b)


@pytest.mark.parametrize("micro_batch", [4, 2])
@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_of_every_turn_joins_the_loss(name, micro_batch):
    one = duel(penalties={name: Regularizer(PENALTIES[name].fn, "D", WEIGHT, every=1)}, micro_batch=micro_batch)
    (theta, A), real = weights(one), reals(one, 0)
    one.iterate()
    fake = G(A, latents("D"))
    value, gradient = penalty(name, theta, real, fake, seeds("D"))
    theta -= RATE_D * (gradient_of_D(real, fake) + WEIGHT * gradient)
    A -= RATE_G * gradient_of_G(theta, A, latents("G"))
    expect(one, theta, A, {f"loss/{name}": WEIGHT * value})


@pytest.mark.parametrize("name", PENALTIES)
def test_a_lazy_penalty_takes_its_own_steps_as_heavy_as_they_are_rare(name):
    """D's turns 0 to 5, two an iteration: it is due in turns 0 and 3, from where the loss has moved D to."""
    lazy = Regularizer(PENALTIES[name].fn, "D", WEIGHT, every=3)
    one = duel(penalties={name: lazy}, n_critic=2, micro_batch=2)
    theta, A = weights(one)
    values = []
    for iteration in range(3):
        one.iterate()
        for nth in range(2):
            real, fake = reals(one, 8 * iteration + 4 * nth), G(A, latents("D", nth, iteration))
            theta -= RATE_D * gradient_of_D(real, fake)
            if (iteration, nth) in [(0, 0), (1, 1)]:
                value, gradient = penalty(name, theta, real, fake, seeds("D", nth, iteration))
                theta -= RATE_D * 3 * WEIGHT * gradient
                values.append(WEIGHT * value)
        A -= RATE_G * gradient_of_G(theta, A, latents("G", 0, iteration))
        expect(one, theta, A, {f"loss/{name}": np.mean(values)})


@pytest.mark.parametrize("micro_batch", [4, 2])
@pytest.mark.parametrize("every", [1, 3])
def test_path_length(every, micro_batch):
    """The Jacobian of G(z) = A (z, 1) by z is J, the first two columns of A. Of l = |J'y| the penalty is (l - a)^2, its
    gradient by J 2 (l - a) y (J'y)' / l, over the first half of the batch; a goes a quarter of the way to the mean l
    after every step. G's turns are 0 to 3, two an iteration."""
    path = Regularizer(PathLength(decay=0.25, share=0.5), "G", WEIGHT, every)
    one = duel(penalties={"path": path}, micro_batch=micro_batch, n_generator=2)
    (theta, A), a, values = weights(one), 0.0, []
    for iteration in range(2):
        one.iterate()
        theta -= RATE_D * gradient_of_D(reals(one, 4 * iteration), G(A, latents("D", 0, iteration)))
        for nth in range(2):
            main = gradient_of_G(theta, A, latents("G", nth, iteration))
            if every == 3:
                A -= RATE_G * main
                main = np.zeros_like(A)
            if (2 * iteration + nth) % every == 0:
                J, y = A[:, :2], numpy(randomness.normal(seeds("G", nth, iteration)[:2], (4,), "path length")) / 2
                length = np.linalg.norm(y @ J, axis=1)
                main[:, :2] += every * WEIGHT * (2 * (length - a) / length * y.T) @ (y @ J) / 2
                values.append(WEIGHT * ((length - a) ** 2).mean())
                a += 0.25 * (length.mean() - a)
            A -= RATE_G * main
        expect(one, theta, A, {"loss/path": np.mean(values)})
        assert one.regularizers["path"].mean.item() == close(a)


def test_weights_of_the_player_are_clipped_after_each_of_its_steps():
    """After the lazy penalty's too, which starts from clipped weights."""
    clip = Projection(regularizers.clip(0.7), "D")
    one = duel(penalties={"r1": Regularizer(regularizers.r1, "D", WEIGHT, every=2), "clip": clip})
    (theta, A), real = weights(one), reals(one, 0)
    one.iterate()
    theta = np.clip(theta - RATE_D * gradient_of_D(real, G(A, latents("D"))), -0.7, 0.7)
    assert abs(theta).max() == 0.7
    theta = np.clip(theta - RATE_D * 2 * WEIGHT * penalty("r1", theta, real, real, seeds("D"))[1], -0.7, 0.7)
    A -= RATE_G * gradient_of_G(theta, A, latents("G"))
    assert abs(A).max() > 0.7
    expect(one, theta, A)


@pytest.mark.parametrize(("intervals", "c"), [((2,), 2 / 3), ((2, 4), 4 / 7)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lazy_penalties_correct_the_optimizer_of_their_player(name, intervals, c):
    """A penalty of every second turn makes three steps of two turns: c is 2/3. One of every second and one of every
    fourth make seven steps of four turns: c is 4/7."""
    _, settings, corrected = OPTIMIZERS[name]
    one = duel(
        penalties={f"r{every}": Regularizer(regularizers.r1, "D", WEIGHT, every) for every in intervals},
        optimizer={"_target_": f"torch.optim.{name}", **settings},
    )
    for player, expected in (("D", corrected(c)), ("G", settings)):
        group = one.players[player].optimizer.param_groups[0]
        for setting, value in expected.items():
            assert group[setting] == pytest.approx(value, rel=1e-12), (player, setting)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_in_two_turns(name):
    """The loss's and the penalty's in the first, the loss's in the second, by one optimizer with its memory."""
    optimizer, settings, corrected = OPTIMIZERS[name]
    one = duel(
        penalties={"r1": Regularizer(regularizers.r1, "D", WEIGHT, every=2)},
        optimizer={"_target_": f"torch.optim.{name}", **settings},
    )
    step, (theta, A) = optimizer(**corrected(2 / 3)), weights(one)
    for iteration in range(2):
        one.iterate()
        real = reals(one, 4 * iteration)
        theta = step(theta, gradient_of_D(real, G(A, latents("D", 0, iteration))))
        if iteration == 0:
            theta = step(theta, 2 * WEIGHT * penalty("r1", theta, real, real, seeds("D"))[1])
        A = weights(one)[1]
        assert weights(one)[0] == close(theta)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (schedules.constant(warmup="0.032 kimg"), (0, 0.25, 0.5)),  # at 0, 8 and 16 images
        (schedules.step(every="0.016 kimg", factor=0.1, floor=0.0, warmup=None), (1, 1, 0.1)),
        (schedules.linear_decay(length="4 steps", hold=0.5, warmup=None), (1, 1, 1, 0.5)),
    ],
)
def test_the_schedule_follows_the_images_seen(schedule, factors):
    """Two turns of D an iteration, at one learning rate, see eight images."""
    one = duel(schedule=schedule, n_critic=2)
    theta, A = weights(one)
    for iteration, factor in enumerate(factors):
        one.iterate()
        for nth in range(2):
            fake = G(A, latents("D", nth, iteration))
            theta -= factor * RATE_D * gradient_of_D(reals(one, 8 * iteration + 4 * nth), fake)
        A -= factor * RATE_G * gradient_of_G(theta, A, latents("G", 0, iteration))
        expect(one, theta, A)


@pytest.mark.parametrize("micro_batch", [4, 2])
@pytest.mark.parametrize(
    ("settings", "turns"),
    [
        # Who moves; where its reals begin, counted from the images seen; the turn that its fakes were drawn in.
        ({}, [("D", 0, ("D", 0)), ("G", 0, ("G", 0))]),
        ({"first": "G"}, [("G", 0, ("G", 0)), ("D", 0, ("D", 0))]),
        (
            {"n_critic": 2, "n_generator": 2},
            [("D", 0, ("D", 0)), ("D", 4, ("D", 1)), ("G", 4, ("G", 0)), ("G", 4, ("G", 1))],
        ),
        (
            {"n_critic": 2, "n_generator": 2, "first": "G"},
            [("G", 0, ("G", 0)), ("G", 0, ("G", 1)), ("D", 0, ("D", 0)), ("D", 4, ("D", 1))],
        ),
        (
            {"n_critic": 2, "n_generator": 2, "share": True},
            [("D", 0, ("D", 0)), ("D", 4, ("D", 1)), ("G", 4, ("D", 1)), ("G", 4, ("G", 1))],
        ),
        ({"first": "G", "share": True}, [("G", 0, ("G", 0)), ("D", 0, ("G", 0))]),
    ],
)
def test_turns_meet_what_they_should(settings, turns, micro_batch):
    """With a loss for which both players' reals and fakes matter. Shared fakes were made before G's step."""
    by = LOSSES["relativistic"]
    one = duel(by.loss, micro_batch=micro_batch, **settings)
    theta, A = weights(one)
    seen = 0
    for iteration in range(2):
        one.stats.reset()
        one.iterate()
        made, values = {}, {"D": [], "G": []}
        for player, begin, drawn in turns:
            real, z = reals(one, seen + begin), latents(*drawn, iteration)
            fake = made.setdefault(drawn, G(A, z))
            if player == "D":
                value, theta = turn_of_D(by, theta, real, fake)
            else:
                value, A = turn_of_G(by, theta, A, real, z)
            values[player].append(value)
        expect(one, theta, A, {f"loss/{player}": np.mean(values[player]) for player in "DG"})
        seen += 4 * settings.get("n_critic", 1)
        assert one.images_seen == seen


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("limit", ["loss_floor", "accuracy_ceiling"])
def test_a_gate_opens_by_the_whole_batch(limit, closed, micro_batch):
    """On both sides of the limit. Closed, it keeps D's penalty from moving too, and G moves all the same."""
    by = LOSSES["least_squares"]
    theta, A = weights(duel())
    real, fake = reals(duel(), 0), G(A, latents("D"))
    loss, stepped = turn_of_D(by, theta, real, fake)
    right = D(theta, real) > by.boundary, D(theta, fake) < by.boundary
    accuracy = (right[0].mean() + right[1].mean()) / 2
    assert right[0].mean() != accuracy
    value = {"loss_floor": loss + (0.001 if closed else -0.001), "accuracy_ceiling": accuracy - 0.001 * closed}[limit]
    lazy = Regularizer(regularizers.r1, "D", WEIGHT, every=2)
    one = duel(by.loss, {"r1": lazy}, micro_batch=micro_batch, **{limit: value})
    one.iterate()
    if not closed:
        theta = stepped
        theta -= RATE_D * 2 * WEIGHT * penalty("r1", theta, real, real, seeds("D"))[1]
    _, A = turn_of_G(by, theta, A, real, latents("G"))
    expect(one, theta, A, {"loss/D": loss, "gate/closed": float(closed)})
    assert ("loss/r1" in one.stats.means()) == (not closed)


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_averaged_losses(micro_batch):
    """Of what has gone into an average, half remains after as many images as half of those seen: 4, 8 and 12 at the
    ends of three iterations. A turn of D covers 4 images, one of G 8, and a penalty of every second turn of D 8."""
    lazy = Regularizer(regularizers.r1, "D", WEIGHT, every=2)
    one = duel(penalties={"r1": lazy}, n_critic=2, loss_ema=0.5, micro_batch=micro_batch)
    theta, A = weights(one)
    averages: dict[str, float] = {}

    def average(name: str, value: float, kept: float) -> None:
        averages[name] = kept * averages.get(name, value) + (1 - kept) * value

    for iteration, half_life in enumerate((4, 8, 12)):
        one.stats.reset()
        one.iterate()
        for nth in range(2):
            real, fake = reals(one, 8 * iteration + 4 * nth), G(A, latents("D", nth, iteration))
            average("loss_ema/D", D(theta, fake).mean() - D(theta, real).mean(), kept=0.5 ** (4 / half_life))
            theta -= RATE_D * gradient_of_D(real, fake)
            if nth == 0:
                value, gradient = penalty("r1", theta, real, fake, seeds("D", nth, iteration))
                average("loss_ema/r1", WEIGHT * value, kept=0.5 ** (8 / half_life))
                theta -= RATE_D * 2 * WEIGHT * gradient
        z = latents("G", 0, iteration)
        average("loss_ema/G", -D(theta, G(A, z)).mean(), kept=0.5 ** (8 / half_life))
        A -= RATE_G * gradient_of_G(theta, A, z)
        means = one.stats.means()
        assert {name: means[name] for name in averages} == close(averages)


@pytest.mark.parametrize(
    ("ramp", "kept"),
    [
        (None, (0.5**0.5, 0.5**0.5, 0.5**0.5)),  # 8 images an iteration, at a half-life of 16
        (0.5, (0.25, 0.5, 0.5 ** (2 / 3), 0.5**0.5, 0.5**0.5)),  # at half-lives of 4, 8, 12, 16, 16
    ],
)
def test_averaged_weights(ramp, kept):
    one = duel(ema=(16, ramp), n_critic=2)
    average = weights(one)[1]
    for share in kept:
        one.iterate()
        average = share * average + (1 - share) * weights(one)[1]
        assert numpy(one.ema.generators["G"].A) == close(average)


class Line(nn.Module):
    """gain x + bias at every pixel: a translation of images, or a map of logits."""

    def __init__(self, gain: float, bias: float):
        super().__init__()
        self.line = nn.Parameter(torch.tensor([gain, bias]))

    def forward(self, images: Tensor) -> Tensor:
        return self.line[0] * images + self.line[1]


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
@pytest.mark.parametrize("replay", [0, 50])  # a pool that never fills gives what it is given
def test_cyclegan(replay, micro_batch):
    """Each side adds up its losses of both domains; the cycle's weight is 10, the identity's 5. G moves first, and D
    meets the same fakes."""
    line = {"A2B": (0.8, 0.1), "B2A": (1.3, -0.2), "D_A": (0.7, 0.3), "D_B": (-0.6, 0.2)}
    game = CycleGame(
        *(Line(*numbers) for numbers in line.values()),
        cycle=10.0,
        identity=5.0,
        pool_size=replay,
        resolution=2,
        image_channels=1,
        augment=Chain(),
    )
    squares = losses.least_squares(a=0.0, b=1.0, c=1.0, discriminator=0.5, generator=1.0, flip=0.0, noise=0.0)
    images = Pair(image_set(0), image_set(1))
    one = duel(squares, game=game, images=images, first="G", share=True, micro_batch=micro_batch)
    real = {domain: numpy(x).ravel() for domain, x in images.batch(0, N).items()}
    one.iterate()

    def through(name: str, x: Array) -> Array:
        gain, bias = line[name]
        return gain * x + bias

    def by_line(s: Array, x: Array) -> Array:
        """The derivative of sum s (gain x + bias) by (gain, bias)."""
        return np.array([s @ x, s.sum()])

    gradients, numbers, n = {name: np.zeros(2) for name in line}, {}, real["A"].size
    for domain, other, maker, back in (("A", "B", "B2A", "A2B"), ("B", "A", "A2B", "B2A")):
        x, judge = real[domain], f"D_{domain}"
        fake, there = through(maker, real[other]), through(back, x)
        again, same = through(maker, there), through(maker, x)
        r, f = through(judge, x), through(judge, fake)
        numbers |= {
            f"loss/G_{domain}": ((f - 1) ** 2).mean(),
            f"loss/cycle_{domain}": 10 * abs(again - x).mean(),
            f"loss/identity_{domain}": 5 * abs(same - x).mean(),
            f"loss/D_{domain}": 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),
        }
        gradients[maker] += by_line(2 * (f - 1) / n * line[judge][0], real[other])
        gradients[maker] += by_line(10 * np.sign(again - x) / n, there)
        gradients[back] += by_line(10 * np.sign(again - x) / n * line[maker][0], x)
        gradients[maker] += by_line(5 * np.sign(same - x) / n, x)
        gradients[judge] += by_line((r - 1) / n, x) + by_line(f / n, fake)
    of_G = [value for name, value in numbers.items() if "/D" not in name]
    means, networks = one.stats.means(), {**game.generators, **game.discriminators}
    assert {name: means[name] for name in (*numbers, "total/G")} == close({**numbers, "total/G": sum(of_G)})
    for name, gradient in gradients.items():
        rate = RATE_D if name.startswith("D_") else RATE_G
        assert numpy(networks[name].line)[:, 0] == close(line[name] - rate * gradient), name


@pytest.mark.parametrize("closed", [False, True])
def test_a_gate_asks_for_the_mean_of_both_discriminators(closed):
    """The logits of D_A are 0.2 and those of D_B 0.7 everywhere; squares' losses are 0.5 (0.64 + 0.04) = 0.34 and
    0.5 (0.09 + 0.49) = 0.29, on average 0.315."""
    networks = Line(1.0, 0.0), Line(1.0, 0.0), Line(0.0, 0.2), Line(0.0, 0.7)
    settings = {"cycle": 10.0, "identity": 5.0, "pool_size": 0, "resolution": 2, "image_channels": 1}
    game = CycleGame(*networks, **settings, augment=Chain())
    squares = losses.least_squares(a=0.0, b=1.0, c=1.0, discriminator=0.5, generator=1.0, flip=0.0, noise=0.0)
    one = duel(squares, game=game, images=Pair(image_set(0), image_set(1)), loss_floor=0.316 if closed else 0.314)
    one.iterate()
    means = one.stats.means()
    assert (means["loss/D_A"], means["loss/D_B"], means["gate/closed"]) == close((0.34, 0.29, float(closed)))
    assert (networks[2].line[0].item() == 0.0) == closed
