"""Durations, the clock, and turns."""

import math

import numpy as np
import pytest
import torch
from by_hand import ALTERNATING, RATE_G, D, G, close, duel, latents, slope, weights, with_one
from conftest import largest_difference, rows

from ganduel import schedules
from ganduel.augment import Chain
from ganduel.clock import Clock, Duration
from ganduel.game import AugmentedDiscriminator, Duel
from ganduel.losses import wasserstein
from ganduel.system.errors import UserError
from ganduel.turns import Gate, Turns

UNGATED = {key: value for key, value in ALTERNATING.items() if key not in ("n_critic", "n_generator", "first")}


@pytest.mark.parametrize(
    ("text", "iterations"),
    [
        ("10 steps", 10),
        ("1 step", 1),
        ("1 kimg", 16),
        ("0.5 kimg", 8),
        ("2 epochs", 4),
        ("2.5 epochs", 5),
        ("1e1 steps", 10),
        (".5 kimg", 8),
        ("1. epoch", 2),
        ("0.000000000001 steps", 1),
    ],
)
def test_durations(text, iterations):
    clock = Clock(images_per_iteration=64, steps_per_iteration=1, images_per_epoch=128)
    assert clock.iterations(Duration.parse(text, "duration")) == iterations


def test_a_step_is_a_turn_of_the_generator():
    clock = Clock(images_per_iteration=5 * 64, steps_per_iteration=2, images_per_epoch=320)
    assert clock.iterations(Duration.parse("10 steps", "duration")) == 5
    assert clock.images(Duration.parse("10 steps", "duration")) == 5 * 5 * 64
    assert Clock(5, 2, 320).images(Duration.parse("3 steps", "duration")) == 7.5


def test_a_clock_in_words():
    clock = Clock(images_per_iteration=640, steps_per_iteration=2, images_per_epoch=3200)
    assert clock.describe(8) == "16 steps = 5.1 kimg = 1.6 epochs"
    assert clock.describe(1000) == "2,000 steps = 640.0 kimg = 200.0 epochs"
    assert Clock(16, 1, 1617).describe(3) == "3 steps = 0.048 kimg = 0.03 epochs"  # 48 / 1617 = 0.0297
    assert clock.images(Duration.parse("2.5 kimg", "duration")) == 2500
    assert clock.images(Duration.parse("0.5 epochs", "duration")) == 1600


def test_the_longest_duration():
    assert Duration.parse("999999999999999 kimg", "duration").amount == 999999999999999


@pytest.mark.parametrize(
    ("text", "left", "passed"),
    [
        ("48 steps", 16, 2 / 3),
        ("64 steps", 32, 1 / 2),
        ("32 steps", 0, 1),
        ("30 steps", -2, 32 / 30),
        ("1.28 kimg", 16, 0.8),
        ("1.281 kimg", 17, 1024 / 1281),
        ("2.048 kimg", 64, 1 / 2),
        ("1.01 kimg", 0, 1024 / 1010),  # this long it has lasted, but no whole iteration longer
        ("1 kimg", -1, 1.024),
        ("12.8 epochs", 16, 0.8),
    ],
)
def test_time_goes_on_in_iterations_of_another_size(text, left, passed):
    """After 32 steps of 32 images, with batches of 16 from now on."""
    clock = Clock(16, 1, images_per_epoch=100, steps=32, images_seen=32 * 32)
    duration = Duration.parse(text, "duration")
    assert clock.left(duration) == left and clock.passed(duration) == pytest.approx(passed)


def test_the_clock_counts_turns_and_images():
    clock = Clock(2 * 16, 3, images_per_epoch=100, steps=32, images_seen=32 * 32)
    clock.tick()
    assert (clock.steps, clock.images_seen) == (32 + 3, 32 * 32 + 2 * 16)
    assert clock.describe() == "35 steps = 1.1 kimg = 10.6 epochs"
    assert clock.describe(ahead=10) == "65 steps = 1.4 kimg = 13.8 epochs"
    assert (clock.steps, clock.images_seen) == (35, 1056)
    # What a duration takes from now on is another matter.
    assert clock.iterations(Duration.parse("35 steps", "every.log")) == 12
    assert clock.images(Duration.parse("30 steps", "ema.half_life")) == 320


@pytest.mark.parametrize(
    "text",
    [
        "5 parsecs",
        "-1 kimg",
        "0 steps",
        "kimg",
        "5",
        "",
        "1.2.3 kimg",
        "nan epochs",
        "1e15 kimg",
        "1e400 kimg",
        ". steps",
    ],
)
def test_what_is_no_duration(text):
    with pytest.raises(UserError, match=r"every\.log.*kimg, steps or epochs"):
        Duration.parse(text, "every.log")


def test_turns():
    turns = Turns(n_critic=2, n_generator=1, first="D", **UNGATED)
    assert turns.count("D") == 2 and turns.count("G") == 1
    order = turns.order
    assert [(t.player, t.nth, t.reals) for t in order] == [("D", 0, 0), ("D", 1, 1), ("G", 0, 1)]
    order = Turns(n_critic=1, n_generator=2, first="G", **UNGATED).order
    assert [(t.player, t.nth, t.reals) for t in order] == [("G", 0, 0), ("G", 1, 0), ("D", 0, 0)]


def test_d_can_meet_the_same_reals_in_all_of_its_turns(trainer):
    settings = UNGATED | {"repeat": True}
    for reals, of_g in (("same", 0), ("next", 1)):
        turns = Turns(n_critic=3, n_generator=1, first="D", **settings | {"reals": reals})
        assert turns.batches == 1 and turns.count("D") == 3
        assert [(t.player, t.nth, t.reals) for t in turns.order] == [
            ("D", 0, 0),
            ("D", 1, 0),
            ("D", 2, 0),
            ("G", 0, of_g),
        ]
    one = trainer("turns.n_critic=3", "turns.repeat=true")
    first, second = (one.draw(turn) for turn in one.turns.order[:2])
    assert torch.equal(first["real"], second["real"]) and not torch.equal(first["seed"], second["seed"])
    one.iterate()
    assert one.images_seen == one.batch_size  # so an epoch has an iteration for every batch


def test_g_can_meet_the_reals_of_the_next_iteration(trainer):
    settings = UNGATED | {"reals": "next"}
    order = Turns(n_critic=2, n_generator=1, first="D", **settings).order
    assert [(t.player, t.reals) for t in order] == [("D", 0), ("D", 1), ("G", 2)]
    with pytest.raises(ValueError, match="set share=false or reals=same"):
        Turns(1, 1, "D", **settings | {"share": True})
    one = trainer("turns=apart")
    assert torch.equal(one.draw(one.turns.order[1])["real"], one.images.batch(8, 8)["real"])


def test_gate():
    weak = 0.3, 0.8
    assert Gate(0.31, None).closed(*weak) and not Gate(0.29, None).closed(*weak)
    assert Gate(None, 0.79).closed(*weak) and not Gate(None, 0.81).closed(*weak)
    assert Gate(0.29, 0.79).closed(*weak) and Gate(0.31, 0.81).closed(*weak) and not Gate(0.29, 0.81).closed(*weak)
    assert not Gate(0.3, None).closed(*weak) and not Gate(None, 0.8).closed(*weak)  # below and above, not at
    assert Gate(0.31, None).closed(0.3, math.nan) and not Gate(None, 0.5).closed(0.3, math.nan)


def test_gates_are_made_only_where_asked_for():
    assert Turns(1, 1, "D", **UNGATED).gate is None
    assert Turns(1, 1, "D", **UNGATED | {"loss_floor": 0.1}).gate == Gate(0.1, None)
    assert Turns(1, 1, "D", **UNGATED | {"accuracy_ceiling": 0.5}).gate == Gate(None, 0.5)
    for ceiling in (-0.5, 0, 1, 1.5):
        with pytest.raises(ValueError, match=f"accuracy_ceiling={ceiling} must be a share"):
            Turns(
                1,
                1,
                "D",
                loss_floor=None,
                accuracy_ceiling=ceiling,
                share=False,
                reals="same",
                repeat=False,
                top=1.0,
                unroll=0,
                unroll_rate=0.1,
            )


@pytest.mark.parametrize(("n_critic", "n_generator"), [(0, 1), (1, 0), (0, 0)])
def test_both_have_a_turn(n_critic, n_generator):
    with pytest.raises(ValueError, match=f"n_critic={n_critic} and n_generator={n_generator} must be at least 1"):
        Turns(n_critic, n_generator, "D", **UNGATED)


@pytest.mark.slow
def test_a_gate_closes_opens_and_the_run_ends(train):
    """A D that learns far faster than G is held until G has caught up; its turns go on, and so does time."""
    strong = ("turns=gated", "turns.loss_floor=0.9", "optimizer.D.lr=0.002", "optimizer.G.lr=0.01")
    assert train(*strong, "duration=30 steps", "every.log=1 step") == 0
    closed = [row["gate/closed"] for row in rows("runs/tiny")]
    losses = [row["loss/D"] for row in rows("runs/tiny")]
    assert closed == [float(loss < 0.9) for loss in losses]
    assert "01" in (changes := "".join(str(int(c)) for c in closed)) and "10" in changes
    assert rows("runs/tiny")[-1]["step"] == 30


def test_a_gate_that_stays_closed_does_not_hold_up_the_run(train):
    """Accuracy above almost nothing: D never moves, G does, and the duration ends."""
    assert train("turns.accuracy_ceiling=0.000001", "duration=6 steps", "every.log=3 steps") == 0
    assert [row["gate/closed"] for row in rows("runs/tiny")] == [1.0, 1.0]


def test_with_g_first_only_a_turn_each_can_share_fakes():
    for turns in ((2, 1), (1, 2)):
        with pytest.raises(ValueError, match="share=true with G first is for one turn each: set n_critic=1"):
            Turns(*turns, "G", None, None, share=True, reals="same", repeat=False, top=1.0, unroll=0, unroll_rate=0.1)


@pytest.mark.parametrize(
    ("top", "kept"), [(1.0, [0, 1, 2, 3, 4]), (0.8, [1, 2, 3, 4]), (0.6, [1, 3, 4]), (0.61, [1, 2, 3, 4]), (0.01, [3])]
)
def test_the_fakes_that_d_scores_highest(top, kept):
    """With the real images that they meet. Patches of an image count by their mean."""
    turns = Turns(1, 1, "D", **UNGATED | {"top": top})
    fake, real = torch.tensor([-5.0, 1, 0, 7, 3]), torch.arange(5.0)
    best, met = turns.best(fake, real)
    assert sorted(met.tolist()) == kept and fake[met.long()].tolist() == best.tolist()
    patches = torch.stack([fake, fake + 1, fake - 1], dim=1)
    best, none = turns.best(patches, None)
    assert none is None and sorted(best[:, 0].tolist()) == sorted(fake[kept].tolist())


def test_g_learns_from_these_alone():
    """Wasserstein's loss, whose gradient is minus the mean slope of D at the fakes: at the best two of four, and then
    at all four, as the schedule says."""
    one = duel(top=0.5, schedules={"turns.top": schedules.step("0.004 kimg", 2.0, 0.0, None)})
    for iteration, count in enumerate((2, 4)):
        A = weights(one)[1]
        one.iterate()
        theta, moved = weights(one)  # D moved first
        z = latents("G", 0, iteration)
        best = np.argsort(D(theta, G(A, z)))[-count:]
        step = slope(theta, G(A, z[best])).T @ with_one(z[best]) / count
        assert moved == close(A + RATE_G * step)
        assert one.readings()["turns/top"] == count / 4


class Scaled(torch.nn.Module):
    """The Dirac-GAN's D: x -> psi x."""

    def __init__(self, psi: float):
        super().__init__()
        self.psi = torch.nn.Parameter(torch.tensor(psi))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.psi * x.flatten()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_g_sees_d_after_its_next_steps(steps):
    """The Dirac-GAN (Mescheder et al. 2018) with Wasserstein's loss: the data are 0, G makes theta, D loses psi theta.

    So k steps lead to psi - k r theta, G loses -(psi - k r theta) theta, and its gradient is 2 k r theta - psi.
    """
    theta, psi, rate = torch.tensor([3.0], requires_grad=True), 0.5, 0.1
    network = Scaled(psi)
    network.requires_grad_(False)  # as in G's turn
    judge = AugmentedDiscriminator(network, Chain(), torch.zeros(1, dtype=torch.int64))
    one = Duel("", judge, torch.zeros(1), theta, lambda source, *_: source, judge.seed)
    turns = Turns(1, 1, "D", **UNGATED | {"unroll": steps, "unroll_rate": rate})
    turns.ahead(one, wasserstein())(one.fake).neg().sum().backward()
    assert theta.grad.item() == pytest.approx(2 * steps * rate * 3.0 - psi)
    assert network.psi.item() == psi and network.psi.grad is None
    with torch.no_grad():  # as in validation
        assert turns.ahead(one, wasserstein()) is judge


def test_the_steps_ahead_leave_no_statistics():
    """BatchNorm in D learns from the batches of D and G, as without the steps."""
    network = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    judge = AugmentedDiscriminator(network, Chain(), torch.zeros(4, dtype=torch.int64))
    source = torch.arange(4.0)[:, None]
    one = Duel("", judge, -source, source, lambda source, *_: source, judge.seed)
    later = Turns(1, 1, "D", **UNGATED | {"unroll": 2}).ahead(one, wasserstein())
    assert network[1].num_batches_tracked == 0 and network[1].track_running_stats
    later(one.fake)
    assert network[1].num_batches_tracked == 1


def test_unrolling_changes_the_way_of_g_alone(trainer):
    """In the first iteration D moves first, so that it does not see the difference."""
    plain, unrolled = trainer(), trainer("turns.unroll=2")
    for one in (plain, unrolled):
        one.iterate()
    for networks in ("discriminators", "generators"):
        apart = [getattr(one.game, networks).state_dict() for one in (plain, unrolled)]
        assert (largest_difference(*apart) > 0) == (networks == "generators")


@pytest.mark.parametrize(("steps", "rate"), [(-1, 0.1), (1, 0.0)])
def test_steps_ahead_that_cannot_be(steps, rate):
    with pytest.raises(ValueError, match=f"unroll={steps} must be 0 or more steps of D, and unroll_rate={rate} above"):
        Turns(1, 1, "D", **UNGATED | {"unroll": steps, "unroll_rate": rate})


@pytest.mark.parametrize("top", [0.0, -0.5, 1.5])
def test_a_share_of_fakes_that_is_none(top):
    with pytest.raises(ValueError, match="must be a share of the fakes, above 0 and at most 1"):
        Turns(1, 1, "D", **UNGATED | {"top": top})


def test_a_d_that_ends_in_a_sigmoid_is_undecided_at_one_half(trainer):
    """Its outputs are all above 0, the boundary of the logits that the loss expects."""
    one = trainer("model.discriminator.output=sigmoid")
    judged = one.judgement(torch.tensor([0.4, 0.9, 0.8]), torch.tensor([0.1, 0.6]))
    assert judged["accuracy/real"].item() == pytest.approx(2 / 3) and judged["accuracy/fake"].item() == 0.5
    assert trainer().loss.boundary == 0.0
    assert trainer("model.discriminator.output=sigmoid", "loss=wasserstein").loss.boundary is None
