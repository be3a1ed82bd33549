"""What held-out images say: every one of them once, whatever the parts, by a D that meets them as in training."""

import copy
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from by_hand import LOSSES, SEED, D, G, close, duel, image_set, numpy, sigma, weights
from conftest import assert_equal, rows, state
from torch import nn

from ganduel import randomness
from ganduel.runs import recorder
from ganduel.runs.health import Health
from ganduel.system import distributed
from ganduel.trainer import Trainer
from ganduel.validation import portions, validate

RUN = Path("runs/tiny")


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
@pytest.mark.parametrize("held_out", [3, 4, 10, 11])
def test_every_image_counts_once(held_out, micro_batch):
    """Of 11: batches of four, four and three. The values are means over images, not over batches."""
    one = duel(LOSSES["nonsaturating"].loss, images=image_set(0, held_out), micro_batch=micro_batch)
    theta, A = weights(one)
    r = D(theta, one.images.store.pixels[24:].double().flatten(1).numpy() / 127.5 - 1)
    for iteration in range(3):  # other fakes in every one
        one.iteration = iteration
        seeds = randomness.seeds(SEED, "validation", iteration, first=0, count=held_out)
        f = D(theta, G(A, numpy(randomness.normal(seeds, (2,), "latent"))))
        assert validate(one) == close(
            {
                "validation/loss/D": -np.log(sigma(r)).mean() - np.log(1 - sigma(f)).mean(),
                "validation/loss/G": -np.log(sigma(f)).mean(),
                "validation/logits/real": r.mean(),
                "validation/logits/fake": f.mean(),
                "validation/accuracy/real": (r > 0).mean(),
                "validation/accuracy/fake": (f < 0).mean(),
            }
        )


@pytest.mark.parametrize(
    ("held_out", "most", "used"), [(10, 7, 7), (10, 10, 10), (10, 99, 10), (9, None, 8), (10, 5, 4)]
)
def test_the_first_of_their_order_where_not_all_are_wanted(held_out, most, used):
    """One left alone is not looked at: batch normalisation could not normalise by it."""
    one = duel(LOSSES["nonsaturating"].loss, images=image_set(0, held_out))
    r = D(weights(one)[0], numpy(one.images.validation_batch(0, used)["real"]))
    assert validate(one, most)["validation/logits/real"] == close(r.mean())


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_whole_batches_and_all_look_at_the_rest(monkeypatch, rank):
    """Of 11 images, in batches of four. What both see counts half in each."""
    one = duel(LOSSES["nonsaturating"].loss, images=image_set(0, 11))
    asked: list[tuple[int, int, int]] = []
    batch = one.images.validation_batch
    monkeypatch.setattr(one.images, "validation_batch", lambda *numbers: (asked.append(numbers), batch(*numbers))[1])
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "mean", lambda pairs: pairs)
    found = validate(one)
    assert asked == [(rank, 2, 2), (4 + rank, 2, 2), (8, 3, 1)]
    r = D(weights(one)[0], numpy(batch(0, 11)["real"]))
    own = [r[i] for i in (rank, rank + 2, rank + 4, rank + 6)]
    assert found["validation/logits/real"] == close((sum(own) + sum(r[8:]) / 2) / 5.5)


def test_nothing_to_validate():
    assert validate(duel(images=image_set(0, 0))) == {} == validate(duel(images=image_set(0, 1)))


@pytest.mark.parametrize(
    ("images", "batch", "micro", "group", "lengths"),
    [
        (500, 32, 32, 1, [32] * 15 + [20]),
        (500, 32, 8, 1, [32] * 15 + [20]),  # as parts, whatever memory holds
        (64, 32, 32, 1, [32, 32]),
        (33, 32, 32, 1, [32]),  # one alone is left out
        (20, 32, 32, 1, [20]),
        (3, 1, 1, 1, [1, 1, 1]),  # unless batches are of one
        (1, 32, 32, 1, []),
        (0, 32, 32, 1, []),
        (75, 32, 32, 4, [32, 32, 8]),  # whole groups, of the images of which D compares
        (31, 16, 8, 4, [16, 8, 4]),
        (3, 16, 8, 4, []),
    ],
)
def test_portions(images, batch, micro, group, lengths):
    found = portions(images, batch, micro, group)
    assert [len(numbers) for numbers in found] == lengths
    assert [number for numbers in found for number in numbers] == [*range(sum(lengths))]


def test_d_compares_as_many_images_as_in_training(trainer):
    """StyleGAN2's D, groups of four. Of 23 held-out images, three are too few for one."""
    one = trainer("batch_size=8", "micro_batch=4", "data.validation=23", model="stylegan2_ada")
    met: list[int] = []
    one.game.discriminators["D"].register_forward_hook(lambda _, inputs, __: met.append(len(inputs[0])))
    validate(one)
    assert met == [8, 4] * 5  # reals and fakes, then G's fakes


def test_one_image_of_a_pair_at_a_time(trainer):
    """Five images of A and four of B, in batches of one: all of them, and so one of B twice."""
    one = trainer("batch_size=1", model="cyclegan")
    met: dict[str, list[torch.Tensor]] = {"A": [], "B": []}
    for side, discriminator in (("A", "D_A"), ("B", "D_B")):
        judge = one.game.discriminators[discriminator]
        judge.register_forward_hook(lambda _, inputs, __, side=side: met[side].append(inputs[0]))
    assert {f"validation/logits/real_{side}" for side in "AB"} < validate(one).keys()
    for side, times in (("A", [1, 1, 1, 1, 1]), ("B", [1, 1, 1, 2])):
        images = one.images.sides[side]
        held_out = images.validation_batch(0, images.held_out)["real"]
        judged = torch.cat(met[side])
        assert sorted(int((judged == image).all((1, 2, 3)).sum()) for image in held_out) == times


def test_validation_leaves_no_trace(trainer):
    """Nor does anything else leave one in it, dropout in G included: it follows from the seed and the iteration."""
    one = trainer("data.validation=21", model="vanilla")  # with BatchNorm in both, dropout in D
    one.game.generators["G"].register_forward_hook(lambda module, _, images: nn.functional.dropout(images, 0.5))
    one.iterate()
    before, drawn = copy.deepcopy(one.state_dict()), torch.get_rng_state()
    first = validate(one)
    assert_equal(one.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.rand(5)
    assert validate(one) == first
    one.iteration += 1
    assert validate(one) != first


@pytest.mark.slow
def test_validation_has_a_time_of_its_own(train, monkeypatch, capsys):
    """It is told in a line of the log, and alarms go by it until the next one, in a resumed run too."""
    asked: list[int | None] = []
    known: list[float | None] = []
    check = Health.check

    def spied(one: Trainer, most: int | None = None) -> dict[str, float]:
        asked.append(most)
        return validate(one, most)

    def checked(self: Health, one: Trainer, numbers: dict[str, float]) -> tuple[dict[str, float], dict[str, str]]:
        known.append(numbers.get("validation/logits/real"))
        return check(self, one, numbers)

    monkeypatch.setattr(recorder, "validate", spied)
    monkeypatch.setattr(Health, "check", checked)
    often = ("every.log=2 steps", "every.validation=5 steps", "every.checkpoint=2 steps", "validation_images=40")
    assert train(*often, "duration=14 steps", "name=whole") == 0
    assert "log 2, validation 6, " in capsys.readouterr().err  # in every third line
    whole = rows("runs/whole")
    told = {row["step"]: row["validation/logits/real"] for row in whole if "validation/logits/real" in row}
    assert [row["step"] for row in whole] == [2, 4, 6, 8, 10, 12, 14] and [*told] == [6, 12, 14]
    assert asked == [40] * 3
    expected = [None, None, told[6], told[6], told[6], told[12], told[14]]
    assert known == expected
    known.clear()
    iterate = Trainer.iterate

    def interrupted(self: Trainer) -> None:
        iterate(self)
        if self.iteration == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "iterate", interrupted)
        assert train(*often, "duration=14 steps") == 143
    assert train(*often, "duration=14 steps") == 0
    assert known == expected and rows(RUN) == whole
    assert_equal(state(RUN)["state"], state("runs/whole")["state"])
