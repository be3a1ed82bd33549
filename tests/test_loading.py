"""Loading: which images a batch holds, and in what order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import about

from ganduel import randomness
from ganduel.augment import Chain, Transform
from ganduel.config.schema import Data, typed
from ganduel.data import packing
from ganduel.data.image_set import Pair, normalise, to_bytes
from ganduel.data.loading import open_images, suited
from ganduel.data.order import permuted
from ganduel.data.resize import Recipe, resize_all
from ganduel.data.sources import Originals, Source
from ganduel.data.store import Raw, suffix
from ganduel.system.errors import UserError


@pytest.fixture(scope="module")
def data_packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 images of 4x4x3, every pixel of image i but the first is i; that one tells left from right."""
    folder = tmp_path_factory.mktemp("hundred")

    return pack(folder)


def pack(
    folder: Path, splits: dict[str, int] | None = None, resolution: int = 4, raw_limit_gb: float = 50, count: int = 100
) -> Path:
    """`count` images, in these official parts."""

    def read(i: int) -> np.ndarray:
        image = np.full((4, 4), i, np.uint8)
        image[0, 0] = 255
        return image

    source = Source("", lambda: Originals([*map(str, range(count))], read, splits or {"train": count}, {}))
    recipe = Recipe(resolution, 3, None, "box")
    path = folder / f"{raw_limit_gb}-{resolution}-{'-'.join(splits or ())}.json"
    about = {"name": "hundred", "recipe": vars(recipe)}
    packing.pack(source, recipe, path, about, workers=1, max_rejected=0, raw_limit_gb=raw_limit_gb)
    return path


def open_set(path: Path, seed: int = 0, mirror: bool = False, augment: Chain | None = None, **settings: Any) -> Any:
    data = {
        "resolution": about(path)["recipe"]["resolution"],
        "limit": None,
        "stack": {"count": None},
        "validation": 0,
        "on_device": "auto",
        "stream": None,
        "cache_gb": 1,
        **settings,
    }
    return open_images(path, typed(Data, data), seed=seed, device=torch.device("cpu"), mirror=mirror, augment=augment)


def numbers(images: torch.Tensor) -> list[int]:
    """Which images of `data_packed` a batch holds."""
    return to_bytes(images)[:, 0, 2, 2].tolist()


@pytest.mark.parametrize(("validation", "held_out"), [(0.1, 10), (0.004, 0), (25, 25), (1, 1), (0, 0), (None, 0)])
def test_validation_split(data_packed: Path, validation: float | None, held_out: int) -> None:
    images = open_set(data_packed, validation=validation)
    assert len(images.validation) == held_out
    assert sorted([*images.train.tolist(), *images.validation.tolist()]) == list(range(100))
    other = open_set(data_packed, validation=validation, seed=5)
    assert torch.equal(images.train, other.train) and torch.equal(images.validation, other.validation)
    assert images.fingerprint == other.fingerprint


def test_validation_is_a_random_choice(data_packed: Path) -> None:
    held_out = open_set(data_packed, validation=25).validation.tolist()
    assert held_out == sorted(held_out) and held_out not in (list(range(25)), list(range(75, 100)))


def test_validation_has_one_order(data_packed: Path) -> None:
    """Shuffled, for the first of them must be like all; the same for all seeds; and it begins again."""
    images = open_set(data_packed, validation=25)
    order = numbers(images.validation_batch(0, 25)["real"])
    assert order != sorted(order) and sorted(order) == images.validation.tolist()
    assert numbers(images.validation_batch(20, 10)["real"]) == [*order[20:], *order[:5]]
    assert numbers(images.validation_batch(1, 4, stride=7)["real"]) == order[1:23:7]
    assert numbers(open_set(data_packed, validation=25, seed=5).validation_batch(0, 25)["real"]) == order


@pytest.mark.parametrize("validation", [100, 1000, 0.999])
def test_validation_that_leaves_nothing(data_packed: Path, validation: float) -> None:
    with pytest.raises(UserError, match=f"data.validation={validation} leaves none of 100 images to train on"):
        open_set(data_packed, validation=validation)


def test_limit(data_packed: Path) -> None:
    whole = open_set(data_packed, validation=10)
    few, fewer = (open_set(data_packed, validation=10, limit=n, seed=n) for n in (20, 10))
    assert len(few.train) == 20 and set(few.train.tolist()) < set(whole.train.tolist())
    assert fewer.train.tolist() == few.train.tolist()[:10]  # nested, and the same for all seeds
    assert few.train.tolist() != whole.train.tolist()[:20]
    assert torch.equal(few.validation, whole.validation)
    assert len({whole.fingerprint, few.fingerprint, fewer.fingerprint}) == 3
    assert len(open_set(data_packed, limit=1000).train) == 100


def test_every_epoch_is_a_permutation(data_packed: Path) -> None:
    images = open_set(data_packed)
    epochs = [numbers(images.batch(100 * e, 100)["real"]) for e in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(100)) and numbers(open_set(data_packed, seed=1).batch(0, 100)["real"]) != epochs[0]


def test_order_is_a_function_of_position(data_packed: Path) -> None:
    images = open_set(data_packed, mirror=True)
    whole = images.batch(0, 300)["real"]
    again = open_set(data_packed, mirror=True)
    for position, count in [(250, 50), (0, 7), (90, 20), (99, 201)]:  # in any order, across the ends of epochs
        assert torch.equal(again.batch(position, count)["real"], whole[position : position + count])


def test_processes_divide_one_order(data_packed: Path) -> None:
    """Of k processes, each takes every k-th image of the same batch, across the end of an epoch, too."""
    images = open_set(data_packed)
    whole = numbers(images.batch(88, 24)["real"])
    for world in (2, 3, 4):
        parts = [numbers(images.batch(88 + rank, 24 // world, world)["real"]) for rank in range(world)]
        assert [parts[i % world][i // world] for i in range(24)] == whole
    assert (
        images.order(torch.arange(100)).tolist()
        == permuted(np.arange(100), 100, randomness.key(0, "order", 0)).tolist()
    )


def test_mirror(data_packed: Path) -> None:
    plain, mirrored = (open_set(data_packed, mirror=mirror).batch(0, 1000)["real"] for mirror in (False, True))
    flipped = (mirrored[:, 0, 0, 3] == 1) & (plain[:, 0, 0, 0] == 1)
    assert torch.equal(mirrored[flipped], plain[flipped].flip(3))
    assert torch.equal(mirrored[~flipped], plain[~flipped])
    assert 430 < int(flipped.sum()) < 570  # five standard deviations
    assert not torch.equal(flipped[:100], flipped[100:200])  # a new coin each epoch


def test_margin(data_packed: Path) -> None:
    """Random squares of what is trained on, everywhere; the middle of what is shown and measured."""
    whole = open_set(data_packed)
    images = open_set(data_packed, resolution=2)
    assert images.shape == (3, 2, 2)
    full, squares = whole.batch(0, 900)["real"], images.batch(0, 900)["real"]
    places = torch.zeros(3, 3)
    for image, square in zip(full, squares, strict=True):
        where = [(y, x) for y in range(3) for x in range(3) if torch.equal(image[:, y : y + 2, x : x + 2], square)]
        assert where
        places[where[0]] += len(where) == 1  # with the corner that differs from the rest, or one of many
    assert 60 < places[0, 0] < 140  # of 900, a ninth: four standard deviations
    again = open_set(data_packed, resolution=2)
    assert torch.equal(again.batch(450, 9, stride=3)["real"], squares[450:477:3])
    assert not torch.equal(squares[:100].sort(0)[0], squares[100:200].sort(0)[0])  # others in every epoch
    held_out = torch.arange(20)
    assert torch.equal(images.gather(held_out), whole.gather(held_out)[:, :, 1:3, 1:3])
    assert images.fingerprint != whole.fingerprint


def test_whole_images_are_others(data_packed: Path) -> None:
    """What is known of the middle squares is not taken for what is known of whole images; nothing changes where these
    are the same."""
    images, plain = open_set(data_packed, resolution=2), open_set(data_packed)
    assert images.wholes().identity(images.train) != images.identity(images.train) == images.fingerprint
    assert plain.wholes().identity(plain.train) == plain.fingerprint
    assert torch.equal(plain.wholes().gather(plain.train), plain.gather(plain.train))
    assert images.wholes().gather(torch.tensor([7]))[0, 0, 1, 1] == 7 and not images.whole


def test_resizing_by_box_is_the_mean() -> None:
    for channels in (1, 3):
        images = np.random.default_rng(0).integers(0, 256, (5, channels, 6, 6), np.uint8)
        means = images.reshape(5, channels, 3, 2, 3, 2).mean((3, 5))
        assert np.abs(resize_all(images, 3, "box") - means).max() <= 1


class Darken(Transform):
    """Takes from every image what its seed says."""

    def forward(self, images: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        return images - randomness.uniform(seed, (1, 1, 1), "darken")


def test_augmented_images(data_packed: Path) -> None:
    """Those trained on, each by its own seed; neither those held out nor those shown."""
    plain = open_set(data_packed, validation=10)
    augmented = open_set(data_packed, validation=10, augment=Chain(Darken()))
    change = (plain.batch(0, 180)["real"] - augmented.batch(0, 180)["real"])[:, 0, 1, 1]
    assert 0 < change.min() < 0.1 and 0.9 < change.max() < 1 and not torch.allclose(change[:90], change[90:])
    part = (plain.batch(31, 5, stride=7)["real"] - augmented.batch(31, 5, stride=7)["real"])[:, 0, 1, 1]
    assert torch.allclose(part, change[31:66:7], atol=1e-6)
    assert torch.equal(plain.validation_batch(0, 10)["real"], augmented.validation_batch(0, 10)["real"])
    assert torch.equal(plain.preview(9), augmented.preview(9))


def test_normalise_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = normalise(values)
    assert floats.dtype == torch.float32 and (float(floats.min()), float(floats.max())) == (-1, 1)
    assert torch.equal(to_bytes(floats), values)
    assert to_bytes(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_the_file_is_mapped_not_read(tmp_path: Path) -> None:
    """A sparse file larger than the memory: nothing is reserved for it."""
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (2**18, 3, 512, 512))
    store = Raw.open(path, (2**18, 3, 512, 512))
    assert store.gather(torch.tensor([2**18 - 1, 0])).sum() == 0 and store.pixels.numel() > 2e11


# Official parts, pairs, compressed sets


def test_official_parts(tmp_path: Path) -> None:
    path = pack(tmp_path, {"train": 60, "valid": 30, "test": 10})
    images = open_set(path, validation=None)
    assert images.train.tolist() == list(range(60)) and images.validation.tolist() == list(range(60, 90))
    images = open_set(path, validation=0.5)  # of the training images: the official parts stay out of it
    assert sorted([*images.train.tolist(), *images.validation.tolist()]) == list(range(60))


def test_pairs_are_shuffled_apart(tmp_path: Path) -> None:
    path = pack(tmp_path, {"trainA": 50, "trainB": 30, "testA": 12, "testB": 8})
    images = open_set(path, validation=None)
    assert isinstance(images, Pair) and (images.count, images.held_out) == (50, 12)
    batch = images.batch(0, 150)
    a, b = numbers(batch["A"]), numbers(batch["B"])
    assert sorted(a[:50]) == list(range(50)) and sorted(b[30:60]) == list(range(50, 80))
    assert [i - 50 for i in b[:30]] != [i for i in a[:50] if i < 30]  # two orders, not one
    again = open_set(path, validation=None)
    assert all(torch.equal(again.batch(70, 20)[side], batch[side][70:90]) for side in "AB")
    a, b = (numbers(images.validation_batch(0, 12)[side]) for side in "AB")
    assert sorted(a) == [*range(80, 92)] and sorted(b[:8]) == [*range(92, 100)] and b[8:] == b[:4]
    assert len({images.fingerprint, images.sides["A"].fingerprint, images.sides["B"].fingerprint}) == 3
    assert open_set(path, limit=10).count == 10
    with pytest.raises(UserError, match=r"has two domains, A and B"):
        suited(images, ("real",))


def test_compressed_sets_are_read_ahead(tmp_path: Path) -> None:
    raw, compressed = open_set(pack(tmp_path), mirror=True), open_set(pack(tmp_path, raw_limit_gb=1e-9), mirror=True)
    assert compressed.store.decodes and not raw.store.decodes
    # Strides of two processes, a jump back, and the same again: what was begun in vain is never taken for another.
    for position, count in [(0, 8), (16, 8), (32, 8), (48, 8), (0, 8), (8, 4), (8, 4), (12, 4), (96, 8), (112, 8)]:
        assert torch.equal(compressed.batch(position, count)["real"], raw.batch(position, count)["real"])
        assert len(compressed.ahead) <= 1
    assert (128, 8) in compressed.ahead
    assert torch.equal(compressed.gather(torch.tensor([3, 1])), raw.gather(torch.tensor([3, 1])))


@pytest.mark.parametrize("raw_limit_gb", [50, 1e-9])
def test_a_set_may_live_on_the_device(tmp_path: Path, raw_limit_gb: float) -> None:
    path = pack(tmp_path, raw_limit_gb=raw_limit_gb)
    resident = open_set(path, on_device=True)
    assert isinstance(resident.store, Raw) and not resident.store.decodes
    path.with_suffix(suffix(about(path)["compressed"])).write_bytes(b"")  # nothing is read from there any more
    assert numbers(resident.batch(0, 100)["real"]) == resident.order(torch.arange(100)).tolist()
