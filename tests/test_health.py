"""What is said of a run that goes wrong, and that nothing is said of one that does not."""

import math
import re

import pytest
import torch
from conftest import assert_equal, rows, state

from ganduel.commands import train
from ganduel.runs import health
from ganduel.runs.health import Health

LIMITS = {
    "spread": 0.1,
    "overfitting": 0.9,
    "accuracy": 0.999,
    "explosion": 1000,
    "vanishing": 1e-8,
    "ada": 0.98,
    "modes": 0.5,
}
LIMITS["lost_modes"] = 0.8
FINE = {"accuracy/real": 0.8, "accuracy/fake": 0.7, "logits/real": 1.0, "logits/fake": -1.0}


def doctor(**limits: float | None) -> Health:
    return Health(**{"checks": 2, "lasting": 20, **LIMITS, **limits})


def collapsed(trainer: train.Trainer) -> None:
    """Make G deaf to its noise."""
    first = next(m for m in trainer.game.generators["G"].modules() if isinstance(m, torch.nn.ConvTranspose2d))
    with torch.no_grad():
        first.weight.zero_()


def test_a_collapsed_generator_is_seen_within_two_checks(trainer):
    """All its images are one; an untrained one's are not."""
    one, checks = trainer("batch_size=16"), doctor()
    one.iterate()
    numbers, alarms = checks.check(one, {})
    assert numbers["health/spread"] > 0.5 and alarms == {}
    collapsed(one)
    before = one.state_dict()
    seen = [checks.check(one, {}) for _ in range(3)]
    assert all(numbers["health/spread"] < 0.01 for numbers, _ in seen)
    assert [list(alarms) for _, alarms in seen] == [[], ["spread"], []]  # once
    assert "same image of everything" in seen[1][1]["spread"] and "; try " in seen[1][1]["spread"]
    assert_equal(before, one.state_dict())


def test_an_alarm_is_told_once_and_stops_where_it_shall(train, capsys, monkeypatch):
    """Told, in the statistics too, saved, with pictures; and a resumed run does not tell it again."""
    from ganduel.runs.recorder import Recorder

    opened = Recorder.open

    def open_collapsed(recorder: Recorder, total: int, apart: int) -> None:
        opened(recorder, total, apart)
        collapsed(recorder.trainer)
        for group in recorder.trainer.players["G"].optimizer.param_groups:
            group["lr"] = 0.0
        recorder.trainer.players["G"].rates = [0.0]

    monkeypatch.setattr(Recorder, "open", open_collapsed)
    settings = ("duration=8 steps", "every.log=1 steps", "every.checkpoint=8 steps", "every.sample=8 steps")
    assert train(*settings, "on_alarm=stop") == 0
    error = capsys.readouterr().err
    assert error.count("alarm (spread) at step 2: G makes nearly the same image") == 1
    assert re.search(r"ended      early: alarm \(spread.*\), and on_alarm=stop", error)
    assert state("runs/tiny")["step"] == 2
    assert ["spread" in row.get("alarms", {}) for row in rows("runs/tiny")] == [False, True]
    assert train(*settings) == 0
    assert "alarm (spread)" not in capsys.readouterr().err
    assert state("runs/tiny")["step"] == 8 and state("runs/tiny")["health"]["raised"].count("spread") == 1


@pytest.mark.slow
def test_a_healthy_run_raises_no_alarm(train, capsys):
    """A small DCGAN on digits, from its first step."""
    settings = ("model.channels=16", "batch_size=32", "duration=60 steps", "every.log=5 steps", "data.validation=200")
    assert train(*settings) == 0
    assert "alarm" not in capsys.readouterr().err
    found = rows("runs/tiny")
    assert len(found) == 12 and not any("alarms" in row for row in found)
    for name in ("spread", "r_t", "gradient/D", "gradient/G", "right"):
        assert math.isfinite(found[-1][f"health/{name}"]), name


def test_spread_is_the_distance_of_pairs_whatever_the_contrast():
    """Of two images that are half one and the same, half their own; and of pale ones."""
    generator = torch.Generator().manual_seed(0)
    real, own, common = (torch.randn(n, 3, 16, 16, generator=generator) for n in (400, 400, 1))
    expected = math.sqrt(0.5)
    for contrast in (1.0, 0.05):
        fake = contrast * (own + common)
        assert float(health.spread(real, fake)) == pytest.approx(expected, rel=0.02)
        pairs = [float((fake[i] - fake[i + 1]).square().mean()) for i in range(0, 400, 2)]
        centred = fake - fake.mean((1, 2, 3), keepdim=True)
        assert float(health.spread(real, fake)) == pytest.approx(
            math.sqrt(sum(pairs) / 200 / 2 / float(centred.square().mean())), rel=0.02
        )
    brightness = torch.randn(400, 1, 1, 1, generator=generator)
    assert float(health.spread(real, common + brightness)) < 0.01
    assert float(health.spread(real, torch.ones(400, 3, 16, 16) + 1e-5 * own)) < 0.01


def test_signs_of_overfitting():
    """Karras et al. 2020, equation 1: r_v is 0 where held-out images look like training images, 1 where like fakes."""
    numbers = {"accuracy/real": 0.9, "accuracy/fake": 0.8, "logits/real": 2.0, "logits/fake": -2.0}
    for held_out, expected in ((2.0, 0.0), (0.0, 0.5), (-2.0, 1.0)):
        found = health.overfitting(numbers | {"validation/logits/real": held_out}, [""])
        assert found == {"r_t": pytest.approx({"": 0.8}), "r_v": pytest.approx({"": expected})}
    found = health.overfitting(FINE | {"accuracy/real": 0.6, "validation/logits/real": 0.0}, [""])
    assert found == {"r_t": pytest.approx({"": 0.2}), "r_v": {}}
    numbers = {"logits/real_A": 3.0, "logits/fake_A": 1.0, "validation/logits/real_A": 2.0}
    assert health.overfitting(numbers, ["_A", "_B"]) == {"r_t": {}, "r_v": {"_A": 0.5}}


@pytest.mark.parametrize(
    ("name", "fine", "ill"),
    [
        ("spread_B", {"spread": {"_A": 0.2, "_B": 0.2}}, {"spread": {"_A": 0.2, "_B": 0.05}}),
        ("overfitting", {"r_v": {"": 0.8}}, {"r_v": {"": 0.95}}),
        ("accuracy", {"right": {"": 0.99}}, {"right": {"": 1.0}}),
        ("explosion/G", {"growth": {"/G": 500.0}}, {"growth": {"/G": 5000.0}}),
        ("vanishing/D", {"gradient": {"/D": 1e-6}}, {"gradient": {"/D": 1e-9}}),
        ("ada", {"ada": {"": 0.9}}, {"ada": {"": 1.0}}),
    ],
)
def test_limits(name, fine, ill):
    """An alarm takes its limit broken in as many checks in a row as are set; null means never."""
    kind = name.split("/")[0].split("_")[0]
    passing = kind in ("overfitting", "accuracy", "ada")
    checks = doctor(checks=99, lasting=3) if passing else doctor(checks=3, lasting=99)
    raised = [bool(checks.alarms(numbers)) for numbers in (ill, ill, fine, ill, ill, ill, ill)]
    assert raised == [False, False, False, False, False, True, False]
    assert checks.state["raised"] == [name]
    assert not any(doctor(checks=1, lasting=1, **{kind: None}).alarms(ill) for _ in range(5))


def test_growth_of_gradients():
    """Against the median of those before, once there are enough."""
    checks = doctor()
    values = [1.0, 3.0, 2.0, 2.0, 2.0, 900.0, 2.0, 2.0, 4.0]
    found = [checks.growth({"/G": value}) for value in values]
    assert found[:8] == [{}] * 8 and found[8] == {"/G": 2.0}


def test_gradients_are_those_of_the_last_step(trainer):
    one = trainer("optimizer.G.lr=0", "optimizer.D.lr=0")
    one.iterate()
    numbers, _ = doctor().check(one, {})
    for name, networks in (("D", one.game.discriminators), ("G", one.game.generators)):
        squares = [
            sum(float(t.detach().square().sum()) for t in tensors)
            for tensors in zip(*[(p.grad, p) for p in networks.parameters()], strict=True)
        ]
        assert numbers[f"health/gradient/{name}"] == pytest.approx(math.sqrt(squares[0] / squares[1]), rel=1e-4)


def test_an_ada_of_fixed_strength_is_not_called_saturated():
    assert health.judged({"ada/p": 1.0}, [""]) == {"right": {}, "ada": {}}
    assert health.judged({"ada/p_A": 1.0, "ada/r_A": 0.7}, ["_A"]) == {"right": {}, "ada": {"_A": 1.0}}


@pytest.mark.parametrize("model", ["wgan_gp", "stylegan2_ada", "cyclegan", "vanilla"])
def test_every_game_is_looked_at_without_a_trace(trainer, model, packed, tmp_path):
    """The numbers of each duel are there; the next step is the one that would have been."""
    from conftest import pair

    more = (f"data.root={pair(tmp_path / 'pair')}", "batch_size=1") if model == "cyclegan" else ()
    one, other = trainer(*more, model=model), trainer(*more, model=model)
    for each in (one, other):
        each.iterate()
    numbers, _ = doctor().check(one, one.stats.means() | one.readings())
    names = ("_A", "_B") if model == "cyclegan" else ("",)
    for name in names:
        assert 0.1 < numbers[f"health/spread{name}"] < 10
    for each in (one, other):
        each.iterate()
    assert_equal(one.state_dict(), other.state_dict())


def test_one_status_line(train, capsys, monkeypatch):
    """Where there is no terminal: losses, what D gets right of reals, fakes and held-out reals, spread, health."""
    from ganduel.runs import logbook

    monkeypatch.setattr(logbook, "PLAIN_SECONDS", 0)
    assert train("every.log=4 steps", "data.validation=20") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step 4/4")]
    assert re.search(r"  [\d.]+ img/s  D right (\d\.\d\d/){2}\d\.\d\d  spread \d\.\d\d  health ok$", line), line
