"""What a run is going to take, told before it begins, and told without a trace."""

import re
from functools import partial
from weakref import WeakSet

import pytest
import torch
from conftest import assert_equal, rows, state

from ganduel.speed import forecast, graphs
from ganduel.system.device import available
from ganduel.system.errors import UserError
from ganduel.trainer import Executor

LAZY = ("regularizer=[r1]", "regularizer.r1.every=4", "augment=[ada]", "augment.ada.p=0.5", "augment.ada.speed=1")


@pytest.mark.parametrize("model", ["dcgan", "stylegan2_ada", "cyclegan", "vanilla"])
def test_a_forecast_leaves_no_trace(trainer, model):
    """Weights, running statistics, ADA, pools, moments, PyTorch's generator; before the first step and later."""
    one, other = (trainer(*(LAZY if model == "dcgan" else ()), model=model) for _ in range(2))
    for steps in (0, 3):
        for each in (one, other):
            for _ in range(steps):
                each.iterate()
        drawn = torch.get_rng_state()
        assert forecast.forecast(one).seconds > 0
        assert torch.equal(torch.get_rng_state(), drawn)
        assert one.iteration == steps and type(one.executor) is Executor and "run" not in vars(one)
        assert_equal(one.state_dict(), other.state_dict())
    for each in (one, other):
        each.iterate()
    assert_equal(one.state_dict(), other.state_dict())


def test_lazy_phases_count_by_their_share(trainer, monkeypatch):
    """A clock that only the optimizer steps move: D and G take one second each, R1 in every fourth turn another."""
    one = trainer(*LAZY)
    ticks = 0.0

    class Slow(Executor):
        def advance(self, move):
            nonlocal ticks
            ticks += 1
            return super().advance(move)

    one.executor = Slow(one)
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: ticks)
    assert forecast.forecast(one).seconds == pytest.approx(1 + 1 + 1 / 4)
    assert ticks == 6  # in both steps all phases were due


@pytest.mark.slow
def test_the_banner_tells(train, capsys):
    assert train("duration=60 steps", "every.log=30 steps", "name=told") == 0
    said = capsys.readouterr().err
    found = re.search(r"forecast   (\d+ s|.* min .*), (\S+) s for each of 60 iterations, .*; (\d+\.\d) GB", said)
    assert found and 0 < float(found[2]) < 60 and 0 < float(found[3]) < 100
    assert train("duration=60 steps", "every.log=30 steps", "name=untold", "forecast=false") == 0
    assert "\nforecast " not in capsys.readouterr().err
    assert_equal(state("runs/told")["state"], state("runs/untold")["state"])
    assert rows("runs/told") == rows("runs/untold")


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (3900, "1 h 5 min"), (185000, "2 days 3 h"), (3599.9, "60 min 0 s")]
)
def test_durations_in_words(seconds, words):
    assert forecast.Forecast(seconds, 1.0).describe(1).startswith(words)


def test_as_many_images_at_once_as_fit(trainer, monkeypatch):
    """Two, four, eight ... while there is room for what the next would take; lack of memory ends the search too."""
    one, other = trainer("batch_size=16"), trainer("batch_size=16")
    monkeypatch.setattr(forecast, "memory", lambda device: 0.5 * one.micro_batch)
    for room, fits in ((0.1, 2), (1.0, 4), (3.9, 8), (4.0, 16)):
        monkeypatch.setattr(forecast, "available", lambda device, room=room: room)
        assert forecast.largest_micro_batch(one) == fits
    iterate = one.iterate

    def limited():
        iterate()
        if one.micro_batch > 4:
            raise RuntimeError("can't allocate memory")

    one.iterate = limited
    assert forecast.largest_micro_batch(one) == 4 and one.micro_batch == 16
    assert_equal(one.state_dict(), other.state_dict())


class Pool:
    """Memory that a capture keeps."""

    def __init__(self, images):
        self.images = images


def test_auto_counts_the_memory_of_captures(trainer, monkeypatch):
    """Each of the three phases keeps a gigabyte an image, until the next number is tried."""
    one, other = (trainer(*LAZY) for _ in range(2))
    pools: WeakSet[Pool] = WeakSet()
    most: dict[int, int] = {}

    def capture(do):
        pool = Pool(one.micro_batch)
        pools.add(pool)
        assert {each.images for each in pools} == {one.micro_batch}  # those of the last try are free
        most[one.micro_batch] = len(pools)
        return partial(str, pool), do()  # the replay holds the memory

    one.executor = captured = graphs.Captured(one.executor, capture, required=True)
    monkeypatch.setattr(forecast, "memory", lambda device: float(one.micro_batch * most.get(one.micro_batch, 0)))
    monkeypatch.setattr(forecast, "available", lambda device: 11.0)
    assert forecast.largest_micro_batch(one) == 4  # 8 would take 12 more than the 12 that 4 take
    assert most == {2: 3, 4: 3}
    assert not captured.graphs and not pools
    assert_equal(one.game.state_dict(), other.game.state_dict())


def test_not_even_the_fewest_fit(trainer, monkeypatch):
    """None of the numbers that may be tried: of StyleGAN2's groups of four, fewer than four are not."""

    def fail(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    one = trainer(model="stylegan2_ada")
    monkeypatch.setattr(forecast.Trainer, "iterate", fail)
    with pytest.raises(UserError, match="micro_batch=auto: there is no memory for 4 images at once; train a smaller"):
        forecast.largest_micro_batch(one)
    assert one.micro_batch == 8


def test_auto_trains_with_what_fits(train, capsys, monkeypatch):
    monkeypatch.setattr(forecast, "available", lambda device: 0.0)
    assert train("micro_batch=auto", "duration=2 steps") == 0
    assert "batch 8 in parts of 2, each with BatchNorm statistics of its own\n" in capsys.readouterr().err
    assert train("micro_batch=null", "duration=3 steps") == 0
    assert "in parts" not in capsys.readouterr().err


@pytest.mark.parametrize("value", ["some", "true", "2.5"])
def test_micro_batches_are_numbers_auto_or_null(train, capsys, value):
    assert train(f"micro_batch={value}") == 1
    assert "is not allowed; it takes a number, auto or null" in capsys.readouterr().err


def test_auto_is_for_one_process(trainer, monkeypatch):
    one = trainer()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="micro_batch=auto is for one process"):
        forecast.largest_micro_batch(one)


def test_what_is_free():
    assert 0 < available(torch.device("cpu")) < 10_000
