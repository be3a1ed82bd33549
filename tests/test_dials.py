"""Numbers that schedules move: what a step then does, by hand; resumed exactly; recorded; and what is refused."""

import copy
import math

import numpy as np
import pytest
import torch
from by_hand import (
    RATE_D,
    G,
    LinearGenerator,
    close,
    duel,
    gradient_of_D,
    latents,
    numpy,
    reals,
    weights,
)
from conftest import rows
from torch import nn

from ganduel import build, regularizers, schedules
from ganduel.augment import Chain
from ganduel.clock import Clock
from ganduel.config.renamed import current
from ganduel.game import LatentGame
from ganduel.regularizers import Regularizer
from ganduel.system.errors import UserError


def after(images: int) -> Clock:
    return Clock(4, 1, 24, images // 4, images)


@pytest.mark.parametrize(
    ("schedule", "expected"),  # after 0, 2, 4, 6, 8 and 80 kimg, of a number that is 8 itself
    [
        (schedules.cosine("8 kimg", 0.0, None, 0.0, None), [8, 4 + 2 * math.sqrt(2), 4, 4 - 2 * math.sqrt(2), 0, 0]),
        (schedules.cosine("8 kimg", 0.5, 2.0, None, None), [2, 2, 2, 5, 8, 8]),
        (schedules.linear("8 kimg", 0.0, 0.0, None, None), [0, 2, 4, 6, 8, 8]),
        (schedules.linear("8 kimg", 0.5, None, 10.0, None), [8, 8, 8, 9, 10, 10]),
        (schedules.linear("8 kimg", 0.0, 4.0, 4.0, "4 kimg"), [0, 2, 4, 4, 4, 4]),
    ],
)
def test_from_one_number_to_another(schedule, expected):
    found = [schedule(after(1000 * kimg), 8.0) for kimg in (0, 2, 4, 6, 8, 80)]
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_weight_of_a_penalty():
    """The slope of w.x + b is w at every image, so R1 is |w|^2, whose gradient is 2 w. From a weight of 0.4 along a
    line to 0.2, over the images of two iterations."""
    judge = nn.Linear(4, 1)
    nn.init.ones_(judge.weight)
    game = LatentGame(LinearGenerator(), nn.Sequential(nn.Flatten(), judge), Chain())
    moving = {"regularizer.r1.weight": schedules.linear("0.008 kimg", 0.0, None, 0.2, None)}
    one = duel(penalties={"r1": Regularizer(regularizers.r1, "D", 0.4, every=1)}, game=game, schedules=moving)
    w = np.ones(4)
    for iteration, weight in enumerate((0.4, 0.3, 0.2, 0.2)):
        A = numpy(game.generators["G"].A)
        one.stats.reset()
        one.iterate()
        assert one.stats.means()["loss/r1"] == close(weight * w @ w)
        assert one.readings() == {"regularizer/r1/weight": pytest.approx(weight)}
        drift = reals(one, 4 * iteration).mean(0) - G(A, latents("D", 0, iteration)).mean(0)
        w = w + RATE_D * (drift - weight * 2 * w)
        assert numpy(judge.weight)[0] == close(w)


def test_the_betas_of_adam():
    """Adam's two means and their corrections, with the beta2 of each step."""
    moving = {"optimizer.D.beta2": schedules.linear("0.008 kimg", 0.0, None, 0.9, None)}
    adam = {"_target_": "torch.optim.Adam", "betas": [0.5, 0.7], "eps": 1e-8}
    one = duel(schedules=moving, optimizer=adam)
    theta, m, v = weights(one)[0], 0.0, 0.0
    for iteration, beta in enumerate((0.7, 0.8, 0.9)):
        A = weights(one)[1]
        one.iterate()
        gradient = gradient_of_D(reals(one, 4 * iteration), G(A, latents("D", 0, iteration)))
        m, v = 0.5 * m + 0.5 * gradient, beta * v + (1 - beta) * gradient**2
        steps = iteration + 1
        theta = theta - RATE_D * m / (1 - 0.5**steps) / (np.sqrt(v / (1 - beta**steps)) + 1e-8)
        assert weights(one)[0] == close(theta)


def test_the_half_life_of_the_averages():
    """From nothing to 8 images: the first average is the network, the second keeps 2^(-4 / 4) of the first."""
    moving = {"ema.half_life": schedules.linear("0.008 kimg", 0.0, 0.0, None, None)}
    one = duel(schedules=moving, ema=(8.0, None))
    averages = []
    for kept in (0, 0.5, 0.5**0.5):
        one.iterate()
        now = weights(one)[1]
        averages.append(now if not averages else kept * averages[-1] + (1 - kept) * now)
        assert numpy(one.ema.generators["G"].A) == close(averages[-1])


AUGMENTED = (
    "augment=[ada,instance_noise]",
    "augment.ada.target=null",
    "augment.ada.p=0.8",
    "+scheduler@schedule.augment.ada.p=linear",
    "schedule.augment.ada.p.start=0",
    "schedule.augment.ada.p.end=null",
    "+scheduler@schedule.augment.instance_noise.std=linear",
    "duration=4 steps",
)


def test_strengths_of_augmentations(trainer):
    one = trainer(*AUGMENTED)
    ada, noise = one.game.chains[""].parts
    for share in (0, 0.25, 0.5):
        one.iterate()
        assert (float(ada.p), float(noise.std)) == pytest.approx((0.8 * share, 0.1 * (1 - share)))
        assert one.readings()["augment/ada/p"] == pytest.approx(0.8 * share)


def test_a_scheduled_p_suits_a_loss_without_accuracy(trainer):
    one = trainer("loss=relativistic", *AUGMENTED)
    one.iterate()


EVERYTHING = (
    *AUGMENTED[:-1],
    "regularizer=[r1,r2]",
    "+scheduler@schedule.regularizer.r1.weight=cosine",
    "+scheduler@schedule.optimizer.D.beta2=cosine",
    "schedule.optimizer.D.beta2.end=0.9",
    "+scheduler@schedule.optimizer.G.lr=step",
    "schedule.optimizer.G.lr.every=2 steps",
    "+scheduler@schedule.ema.half_life=cosine",
    "schedule.ema.half_life.start=0",
    "schedule.ema.half_life.end=null",
    "ema.ramp=null",
    "scheduler=cosine",
    "duration=6 steps",
)


@pytest.mark.parametrize("model", ["dcgan", "r3gan"])
def test_a_run_goes_on_in_the_middle_of_its_schedules(trainer, model):
    """Bit for bit."""
    whole, rest = (trainer(*EVERYTHING, "batch_size=4", model=model) for _ in range(2))
    for _ in range(3):
        whole.iterate()
    rest.load_state_dict(copy.deepcopy(whole.state_dict()))
    for _ in range(3):
        whole.iterate()
        rest.iterate()
    states = [one.state_dict() for one in (whole, rest)]
    for part in ("game", "ema"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name
    assert whole.scheduled == rest.scheduled and len(whole.scheduled) == 7
    groups = [one.players["D"].optimizer.param_groups[0] for one in (whole, rest)]
    assert groups[0]["betas"] == groups[1]["betas"] != (0.5, 0.999)


def test_scheduled_numbers_are_recorded(train):
    halving = ("+scheduler@schedule.regularizer.r1.weight=linear", "regularizer=[r1]", "regularizer.r1.weight=8")
    assert train(*halving, "every.log=1 step") == 0
    assert [row["regularizer/r1/weight"] for row in rows("runs/tiny")] == pytest.approx([8, 6, 4, 2])


def test_the_own_schedule_of_a_rate_wins(trainer):
    one = trainer("scheduler=linear_decay", "+scheduler@schedule.optimizer.G.lr=constant", "duration=4 steps")
    for _ in range(4):
        one.iterate()
    rates = [one.players[name].optimizer.param_groups[0]["lr"] for name in "DG"]
    assert rates == pytest.approx([1e-4, 2e-4])


def test_a_stored_run_of_before_goes_on():
    """When cosine had a floor, no other number had a schedule, and G always met D's real images."""
    cosine = {"_target_": "ganduel.schedules.cosine", "length": "1 kimg", "warmup": None}
    found = current({"scheduler": {**cosine, "floor": 1e-5}, "turns": {"n_critic": 1}})
    assert found == {
        "scheduler": {**cosine, "hold": 0.0, "start": None, "end": 1e-5},
        "schedule": {},
        "turns": {"n_critic": 1, "reals": "same", "repeat": False, "top": 1.0, "unroll": 0, "unroll_rate": 0.1},
    }
    assert current(found) == found


@pytest.mark.parametrize("where", ["augment", "data.augment"])
def test_a_stored_run_with_fading_noise_goes_on(where):
    noise = {"instance_noise": {"std": 0.1, "fade": "200 kimg"}}
    stored = {"augment": noise} if where == "augment" else {"data": {"augment": noise, "source": {}}}
    found = current({"scheduler": {}, **copy.deepcopy(stored)})
    constant = {"_target_": "ganduel.schedules.constant", "warmup": None}
    schedule = build.schedules(constant, found["schedule"], [])[f"{where}.instance_noise.std"]
    assert [schedule(after(images), 0.1) for images in (0, 100_000, 300_000)] == pytest.approx([0.1, 0.05, 0.0])
    assert "fade" not in str(found)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+scheduler@schedule.model.latent=cosine"],
            r"schedule\.model\.latent cannot be moved\. There is: .*ema\.half",
        ),
        (["+scheduler@schedule.optimizer.D.beta3=cosine"], "Did you mean: optimizer.D.beta"),
        (["+schedule.optimizer.D.lr=3"], r"schedule\.optimizer\.D\.lr=3: there is no schedule .* \+scheduler@schedule"),
        (
            ["+scheduler@schedule.optimizer.D.beta2=linear", "schedule.optimizer.D.beta2.end=1"],
            r"it would be 1 after 0\.0 kimg; optimizer\.D\.beta2 takes 0 to less than 1",
        ),
        (["augment=[ada]", "+scheduler@schedule.augment.ada.p=cosine"], r"p adapts .* augment\.ada\.target=null"),
        (
            ["+scheduler@schedule.optimizer.D.beta2=cosine", "regularizer=[r1]", "regularizer.r1.every=4"],
            r"lazy regularization corrects it; set regularizer\.r1\.every=1",
        ),
    ],
)
def test_what_is_refused(trainer, overrides, message):
    with pytest.raises(UserError, match=message):
        trainer(*overrides)


def test_what_old_networks_and_augmentations_did_without_a_key():
    """Their checkpoints still load: the key of today has the value of what they did."""
    found = current(
        {
            "model": {"generator": {"_target_": "ganduel.models.mlp.Generator"}},
            "data": {"augment": {"affine": {"_target_": "ganduel.augment.affine.Affine"}}},
        }
    )
    assert found["model"]["generator"]["norm_last"] is False
    assert found["data"]["augment"]["affine"]["edges"] == "mirror"
    dcgan = current({"model": {"generator": {"_target_": "ganduel.models.dcgan.Generator"}}})
    assert dcgan["model"]["generator"]["output_norm"] is False
    places = {"source": {"_target_": "ganduel.data.sources.places"}}
    assert current({"data": places})["data"]["source"]["split"] == "standard"


def test_penalties_that_were_functions_are_classes():
    """Without `_partial_`, with which a class would never be made."""
    old = {"_target_": "ganduel.regularizers.dragan", "_partial_": True, "target": 2.0, "spread": 0.5}
    r1 = {"fn": {"_target_": "ganduel.regularizers.r1", "_partial_": True}}
    found = current({"regularizer": {"dragan": {"fn": old}, "r1": r1}})["regularizer"]
    assert build.part(found["dragan"]["fn"], "regularizer", []) == regularizers.DRAGAN(target=2.0, spread=0.5)
    assert found["r1"] == r1
