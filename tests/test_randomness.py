"""Randomness is a function of (seed, stream), image by image."""

import math

import pytest
import torch

from ganduel import randomness


def test_numbers_do_not_depend_on_the_batch():
    seeds = randomness.seeds(7, "turn", first=0, count=16)
    whole = randomness.normal(seeds, (3, 5), "latent")
    parts = [randomness.normal(part, (3, 5), "latent") for part in seeds.split([1, 4, 11])]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(seeds[10:], randomness.seeds(7, "turn", first=10, count=6))


def test_the_hash_is_splitmix64(monkeypatch):
    """Its published first numbers from 1234567 on, as 64-bit integers with a sign."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423 - 2**64,
        4593380528125082431,
        16408922859458223821 - 2**64,
    ]
    monkeypatch.setattr(randomness, "key", lambda *parts: 1234567)
    assert randomness.seeds(first=1, count=5).tolist() == published
    assert randomness.seeds(first=2, count=2, stride=3).tolist() == [published[1], published[4]]


@pytest.mark.parametrize(("lower", "rel"), [(2**20 + 3, 1e-6), (2**21 + 1, 0.3)])
def test_normal_numbers_are_box_and_mullers(monkeypatch, lower, rel):
    """The radius is made from the hash's upper 23 bits, the angle from the second to the 24th; at a quarter turn the
    number is small, and shows the last of them."""
    upper = 2**22 + 7
    monkeypatch.setattr(randomness, "_bits", lambda *_: torch.tensor([[(upper - 2**23) << 41 | lower << 1]]))
    radius, angle = math.sqrt(-2 * math.log((upper + 0.5) / 2**23)), 2 * math.pi * (lower + 0.5) / 2**23
    number = randomness.normal(torch.tensor([0]), (1,), "n").item()
    assert number == pytest.approx(radius * math.cos(angle), rel=rel)


def test_streams_seeds_and_keys_differ():
    a = randomness.seeds(7, "turn", 0, first=0, count=100)
    b = randomness.seeds(7, "turn", 1, first=0, count=100)
    assert len(torch.cat([a, b]).unique()) == 200
    numbers = [randomness.uniform(a, (50,), "x"), randomness.uniform(a, (50,), "y"), randomness.uniform(b, (50,), "x")]
    for i, x in enumerate(numbers):
        for y in numbers[i + 1 :]:
            assert abs(float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1])) < 0.05


def test_distributions():
    seeds = torch.arange(1000)  # the plainest seeds there are: those that users type
    u = randomness.uniform(seeds, (100,), "u").double()
    assert u.min() > 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.001
    n = randomness.normal(seeds, (100,), "n").double()
    moments = [float((n**k).mean()) for k in (1, 2, 3, 4)]
    for moment, expected, tolerance in zip(moments, (0, 1, 0, 3), (0.015, 0.02, 0.05, 0.1), strict=True):
        assert abs(moment - expected) < tolerance
    for first, second in ((n[:, :-1], n[:, 1:]), (n[:-1], n[1:])):  # neighbours in an image, and neighbouring seeds
        assert abs(float((first * second).mean())) < 0.015


def test_uniform_numbers_are_never_0_or_1():
    """The ends of what can be hashed stay as far from them as the others from their neighbours."""
    ends = randomness._unit(torch.tensor([0, 1, 2**23 - 2, 2**23 - 1])).double() * 2**23
    assert ends.tolist() == [0.5, 1.5, 2**23 - 1.5, 2**23 - 0.5]


def test_all_uniform_numbers_come_from_23_bits(monkeypatch):
    """Whatever is hashed; 24 would round to 1."""
    monkeypatch.setattr(randomness, "_bits", lambda seed, shape, stream: torch.full((1, *shape), -1))
    assert randomness.uniform(torch.tensor([0]), (1,), "u").item() == 1 - 2**-24
    assert randomness.normal(torch.tensor([0]), (1,), "n").isfinite()


def test_values_are_forever():
    """A change here would change every run and every `gan-sample seeds=`."""
    assert randomness.key(0, "turn", 3) == 3736808663900028972
    expected = torch.tensor([0.9819, -1.2006, 1.0590])
    assert torch.allclose(randomness.normal(torch.tensor([5]), (3,), "latent")[0], expected, atol=1e-4)
