"""Data: sources find files, packing makes one array of them, loading serves it; whatever the files are like."""

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganduel import cli
from ganduel.data import sources
from ganduel.data.loading import ImageSet, normalise, to_bytes
from ganduel.data.packing import CHUNK, Recipe, pack
from ganduel.errors import UserError

RGB = Recipe(resolution=8, channels=3, crop=None, resize="lanczos")
GREY = Recipe(resolution=8, channels=1, crop=None, resize="lanczos")


def about(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def pixels(path: Path) -> np.ndarray:
    return np.load(path.with_suffix(".npy"))


def pack_folder(root: Path, recipe: Recipe = RGB, max_rejected: float = 0.0) -> Path:
    return pack(sources.folder(str(root)), recipe, root / "packed", "x", workers=1, max_rejected=max_rejected)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


# MNIST

TRAIN, TEST = 300, 60


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def data_mnist(tmp_path: Path) -> Callable[..., Path]:
    """A small MNIST; returns its root."""

    def write(layout: str = "MNIST/raw", packed: bool = True) -> Path:
        folder = tmp_path / layout
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for split, count in {"train": TRAIN, "t10k": TEST}.items():
            arrays = {
                "images-idx3": random.integers(0, 256, (count, 28, 28)),
                "labels-idx1": np.arange(count) % 10,
            }
            for kind, array in arrays.items():
                raw = idx(array)
                name = f"{split}-{kind}-ubyte"
                (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(raw, 1) if packed else raw)
        return tmp_path

    return write


def test_mnist_split_is_the_official_one(data_mnist: Callable[..., Path], tmp_path: Path) -> None:
    recipe = Recipe(resolution=28, channels=1, crop=None, resize="bicubic")
    root = str(data_mnist())
    path = pack(sources.mnist(root), recipe, tmp_path / "packed", "mnist", workers=1, max_rejected=0)
    images = open_set(path, validation=None)
    assert images.train.tolist() == list(range(TRAIN))
    assert images.validation.tolist() == list(range(TRAIN, TRAIN + TEST))
    share = open_set(path, validation=0.1)  # of the training images; the test images are for neither
    assert sorted([*share.train.tolist(), *share.validation.tolist()]) == list(range(TRAIN))
    assert images.labels is not None and images.labels[:3].tolist() == [0, 1, 2]
    assert about(path)["expected"] == 70_000 and about(path)["images"] == TRAIN + TEST


# Digits


def test_digits(tmp_path: Path) -> None:
    source = sources.digits("")
    assert source.count == source.expected == 1797
    path = pack(source, GREY, tmp_path, "digits", workers=1, max_rejected=0)
    array = pixels(path)
    assert array.shape == (1797, 1, 8, 8) and array.dtype == np.uint8
    assert np.array_equal(array[5, 0], np.asarray(source.read(5)))  # its own size: untouched
    assert array.min() == 0 and array.max() == 255
    assert source.labels is not None and np.array_equal(np.load(path.with_suffix(".labels.npy")), source.labels)
    assert about(path)["labels"] == 10 and about(path)["sizes"] == {"8x8": 1797}


# Kinds of images. Each is packed at its own size, so pixels come out as they went in.


def one(image: Image.Image, tmp_path: Path, recipe: Recipe = RGB, kind: str = "png", **options: Any) -> np.ndarray:
    """The packed pixels (C, H, W) of one image that is written as a file."""
    image.save(tmp_path / f"x.{kind}", **options)
    return pixels(pack_folder(tmp_path, recipe))[0]


def test_16_bits_are_scaled(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    packed = one(Image.fromarray(levels), tmp_path, GREY)[0].astype(int)
    assert np.abs(packed - levels / 257).max() <= 1
    assert packed.min() == 0 and packed.max() == 255 and len(np.unique(packed)) == 64


def test_palette(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 2), 1)
    packed = one(image, tmp_path)
    assert packed[:, 2, 3].tolist() == [200, 100, 50] and packed[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (8, 8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 2), 1)
    packed = one(image, tmp_path, transparency=transparency)
    assert packed[:, 2, 3].tolist() == [200, 100, 50] and packed[:, 0, 0].tolist() == [255, 255, 255]


def test_transparent_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    packed = one(image, tmp_path)
    assert packed[:, 0, 0].tolist() == [255, 255, 255]
    assert packed[:, 0, 1].tolist() == [10, 20, 30]
    assert packed[:, 0, 2].tolist() == [127, 127, 127]


def test_grey_with_transparency(tmp_path: Path) -> None:
    image = Image.new("LA", (8, 8), (0, 0))
    image.putpixel((1, 0), (40, 255))
    assert one(image, tmp_path, GREY)[0, 0, :2].tolist() == [255, 40]


def test_cmyk(tmp_path: Path) -> None:
    packed = one(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path, kind="jpg", quality=100)
    assert np.abs(packed.reshape(3, -1).mean(1) - [255, 0, 0]).max() < 6  # no cyan, no key: red


def test_grey_into_colour_and_back(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    packed = one(Image.fromarray(grey), tmp_path)
    assert all(np.array_equal(channel, grey) for channel in packed)
    assert one(Image.new("RGB", (8, 8), (255, 0, 0)), tmp_path, GREY)[0, 0, 0] == 76  # ITU-R 601: 0.299 red


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    packed = one(frames[0], tmp_path, kind="gif", save_all=True, append_images=frames[1:])
    assert packed[:, 4, 4].tolist() == [255, 0, 0]
    (path,) = (tmp_path / "packed").glob("*.json")
    assert list(about(path)["modes"]) in (["P animated"], ["RGB animated"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[0, :4] = 255  # left half of the top row: no two orientations look alike
    turn = {  # what a camera stores that is to be turned so
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn(upright)))
    assert np.array_equal(one(stored, tmp_path, exif=exif), upright.transpose(2, 0, 1))


def test_crop(tmp_path: Path) -> None:
    array = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
    crop = Recipe(resolution=4, channels=1, crop=4, resize="box")
    assert np.array_equal(one(Image.fromarray(array), tmp_path, crop)[0], array[4:8, 8:12])
    largest = Recipe(resolution=6, channels=1, crop=None, resize="box")  # the middle 12x12, halved
    mean = array[:, 4:16].reshape(6, 2, 6, 2).mean((1, 3))
    assert np.abs(one(Image.fromarray(array), tmp_path, largest)[0] - mean).max() <= 0.5


@pytest.mark.parametrize("resize", ["box", "bicubic", "lanczos"])
def test_resizing_is_antialiased(tmp_path: Path, resize: Any) -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # every other pixel white
    packed = one(Image.fromarray(checks), tmp_path, Recipe(resolution=8, channels=1, crop=None, resize=resize))
    assert np.abs(packed[0, 2:6, 2:6].astype(int) - 127.5).max() < 4


# Rejected files


def _text(path: Path) -> None:
    path.write_text("not an image")


def _truncated(path: Path) -> None:
    picture(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[:700])


def _pixel(path: Path) -> None:
    picture(path, size=(1, 1))


def _thin(path: Path) -> None:
    picture(path, size=(400, 3))


def _float(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)).save(path, format="tiff")


def _empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_text, "not an image"),
        (_empty, "not an image"),
        (_truncated, "truncated"),
        (_pixel, "only 1x1 pixels"),
        (_thin, "only 400x3 pixels"),
        (_float, "floating-point pixels"),
    ],
)
def test_rejected(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    for i in range(9):
        picture(tmp_path / f"{i}.png", i)
    write(tmp_path / "5a.jpg")
    with pytest.raises(UserError) as caught:
        pack_folder(tmp_path, max_rejected=0.09)
    message = str(caught.value)
    assert message.startswith("data.max_rejected=0.09: 1 of 10 images cannot be used, the first 5a.jpg (")
    assert reason in message
    assert not list((tmp_path / "packed").glob("*.json"))
    path = pack_folder(tmp_path, max_rejected=0.1)
    assert (about(path)["images"], about(path)["found"]) == (9, 10)
    assert list(about(path)["rejected"]) == ["5a.jpg"] and reason in about(path)["rejected"]["5a.jpg"]
    assert np.array_equal(pixels(path)[6], np.asarray(Image.open(tmp_path / "6.png")).transpose(2, 0, 1))


def test_crop_larger_than_an_image(tmp_path: Path) -> None:
    picture(tmp_path / "x.png", size=(8, 9))
    with pytest.raises(UserError, match=r"x\.png \(8x9 pixels are less than the crop of 9\)"):
        pack_folder(tmp_path, Recipe(resolution=8, channels=3, crop=9, resize="box"))


def test_nothing_left(tmp_path: Path) -> None:
    _text(tmp_path / "x.jpg")
    with pytest.raises(UserError, match="1 of 1 images cannot be used"):
        pack_folder(tmp_path, max_rejected=1)


def test_labels_and_official_split_skip_the_rejected(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i}.png", i) for i in range(6)]
    _text(files[1])
    source = sources.folder(str(tmp_path))
    source.labels, source.official_train = np.array([0, 1, 2, 3, 4, 5]), 4
    path = pack(source, RGB, tmp_path / "packed", "x", workers=2, max_rejected=0.5)
    assert np.load(path.with_suffix(".labels.npy")).tolist() == [0, 2, 3, 4, 5]
    assert about(path)["official_train"] == 3


# The packed copy


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Six images."""
    for i in range(6):
        picture(tmp_path / f"{i}.png", i)
    return tmp_path


def test_packed_copy_is_reused(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack_folder(data_folder)
    source = sources.folder(str(data_folder))
    source.read = lambda i: pytest.fail("read again")
    assert pack(source, RGB, data_folder / "packed", "x", workers=1, max_rejected=0) == path
    assert {p.suffix for p in path.parent.iterdir()} == {".json", ".npy"}


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed"])
def test_packed_copy_follows_the_files(data_folder: Path, change: str) -> None:
    before = pack_folder(data_folder)
    if change == "content":
        picture(data_folder / "3.png", 99)
        os.utime(data_folder / "3.png", ns=(1, 1))
    elif change == "added":
        picture(data_folder / "9.png", 9)
    elif change == "removed":
        (data_folder / "3.png").unlink()
    else:
        (data_folder / "3.png").rename(data_folder / "9.png")
    after = pack_folder(data_folder)
    assert after != before and about(after)["content"] != about(before)["content"]
    assert len(pixels(after)) == {"added": 7, "removed": 5}.get(change, 6)


@pytest.mark.parametrize(
    "recipe",
    [
        GREY,
        Recipe(resolution=4, channels=3, crop=None, resize="lanczos"),
        Recipe(resolution=8, channels=3, crop=6, resize="lanczos"),
        Recipe(resolution=8, channels=3, crop=None, resize="box"),
    ],
)
def test_packed_copy_follows_the_recipe(data_folder: Path, recipe: Recipe) -> None:
    assert pack_folder(data_folder, recipe) != pack_folder(data_folder)


@pytest.mark.parametrize("cut", [1, 100, 10**6])
def test_truncated_packed_copy_is_made_again(data_folder: Path, cut: int) -> None:
    path = pack_folder(data_folder)
    whole = path.with_suffix(".npy").read_bytes()
    path.with_suffix(".npy").write_bytes(whole[: max(len(whole) - cut, 0)])
    assert pack_folder(data_folder) == path
    assert path.with_suffix(".npy").read_bytes() == whole


@pytest.mark.parametrize("damage", ["", "{", "{}", "[]"])
def test_damaged_description_is_made_again(data_folder: Path, damage: str) -> None:
    path = pack_folder(data_folder)
    before = path.read_text()
    path.write_text(damage)
    assert pack_folder(data_folder) == path and path.read_text() == before


COUNT = 2 * CHUNK + 100


def many(stop: int | None = None, reads: list[int] | None = None) -> sources.Source:
    """Tiny images, a few of them rejected; reading number `stop` is interrupted."""

    def read(i: int) -> Image.Image:
        if i == stop:
            raise KeyboardInterrupt
        if reads is not None:
            reads.append(i)
        return Image.new("L", (4, 3) if i % 300 == 7 else (4, 4), i % 256)

    return sources.Source(COUNT, read, str, stamp="many", labels=np.arange(COUNT))


def interrupted(folder: Path, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(many(stop), Recipe(4, 1, None, "box"), folder, "many", workers=2, max_rejected=0.1)
    assert not list(folder.glob("*.json")) and not list(folder.glob("*.npy"))


@pytest.mark.parametrize("stops", [(3,), (CHUNK + 50,), (CHUNK, 2 * CHUNK), (2 * CHUNK + 99,)])
def test_interrupted_packing_goes_on(tmp_path: Path, stops: tuple[int, ...]) -> None:
    recipe = Recipe(4, 1, None, "box")
    whole = pack(many(), recipe, tmp_path / "whole", "many", workers=1, max_rejected=0.1)
    for stop in stops:
        interrupted(tmp_path / "parts", stop)
    reads: list[int] = []
    path = pack(many(reads=reads), recipe, tmp_path / "parts", "many", workers=1, max_rejected=0.1)
    assert sorted(reads) == list(range(stops[-1] // CHUNK * CHUNK, COUNT))
    for suffix in (".npy", ".json", ".labels.npy"):
        assert path.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()
    assert {p.name for p in path.parent.iterdir()} == {p.name for p in whole.parent.iterdir()}


@pytest.mark.parametrize("loss", ["part is short", "part is gone", "journal is cut"])
def test_packing_after_a_loss_of_power(tmp_path: Path, loss: str) -> None:
    recipe = Recipe(4, 1, None, "box")
    whole = pack(many(), recipe, tmp_path / "whole", "many", workers=1, max_rejected=0.1)
    interrupted(tmp_path / "parts", 2 * CHUNK + 1)
    (part,), (journal,) = ((tmp_path / "parts").glob(f"*.{kind}") for kind in ("part", "journal"))
    if loss == "part is short":
        part.write_bytes(part.read_bytes()[: 20 * CHUNK])
    elif loss == "part is gone":
        part.unlink()
    else:
        journal.write_text(journal.read_text()[:-40])
    path = pack(many(), recipe, tmp_path / "parts", "many", workers=1, max_rejected=0.1)
    assert path.with_suffix(".npy").read_bytes() == whole.with_suffix(".npy").read_bytes()
    assert path.read_bytes() == whole.read_bytes()


def test_workers_do_not_matter(tmp_path: Path) -> None:
    recipe = Recipe(4, 1, None, "box")
    paths = [pack(many(), recipe, tmp_path / str(n), "many", workers=n, max_rejected=0.1) for n in (1, 4)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].with_suffix(".npy").read_bytes() == paths[1].with_suffix(".npy").read_bytes()


def test_statistics_of_the_whole(tmp_path: Path) -> None:
    for i, value in enumerate([0, 0, 255, 100]):
        Image.new("RGB", (8, 8), (value, 50, 0)).save(tmp_path / f"{i}.png")
    told = about(pack_folder(tmp_path))
    assert told["duplicates"] == 1
    assert told["mean"] == [88.75, 50.0, 0.0] and told["std"] == [round(float(np.std([0, 0, 255, 100])), 2), 0, 0]
    assert told["modes"] == {"RGB": 4} and told["sizes"] == {"8x8": 4}


# Loading


@pytest.fixture(scope="module")
def data_packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 images of 4x4x3, every pixel of image i but the first is i; that one tells left from right."""
    folder = tmp_path_factory.mktemp("hundred")

    def read(i: int) -> Image.Image:
        image = Image.new("RGB", (4, 4), (i, i, i))
        image.putpixel((0, 0), (255, 255, 255))
        return image

    source = sources.Source(100, read, str, stamp="hundred")
    return pack(source, Recipe(4, 3, None, "box"), folder, "hundred", workers=1, max_rejected=0)


def open_set(
    path: Path, limit: int | None = None, validation: float | None = 0, mirror: bool = False, seed: int = 0
) -> ImageSet:
    return ImageSet(path, limit=limit, validation=validation, mirror=mirror, seed=seed, device=torch.device("cpu"))


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
    assert numbers(open_set(data_packed, validation=25).validation_batch(20, 10)) == [*held_out[20:], *held_out[:5]]


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
    epochs = [numbers(images.batch(100 * e, 100)) for e in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(100)) and numbers(open_set(data_packed, seed=1).batch(0, 100)) != epochs[0]


def test_order_is_a_function_of_position(data_packed: Path) -> None:
    images = open_set(data_packed, mirror=True)
    whole = images.batch(0, 300)
    again = open_set(data_packed, mirror=True)
    for position, count in [(250, 50), (0, 7), (90, 20), (99, 201)]:  # in any order, across the ends of epochs
        assert torch.equal(again.batch(position, count), whole[position : position + count])


def test_mirror(data_packed: Path) -> None:
    plain, mirrored = (open_set(data_packed, mirror=mirror).batch(0, 1000) for mirror in (False, True))
    flipped = (mirrored[:, 0, 0, 3] == 1) & (plain[:, 0, 0, 0] == 1)
    assert torch.equal(mirrored[flipped], plain[flipped].flip(3))
    assert torch.equal(mirrored[~flipped], plain[~flipped])
    assert 430 < int(flipped.sum()) < 570  # five standard deviations
    assert not torch.equal(flipped[:100], flipped[100:200])  # a new coin each epoch


def test_normalise_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = normalise(values)
    assert floats.dtype == torch.float32 and (float(floats.min()), float(floats.max())) == (-1, 1)
    assert torch.equal(to_bytes(floats), values)
    assert to_bytes(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_batches_do_not_change_the_file(data_packed: Path) -> None:
    before = data_packed.with_suffix(".npy").read_bytes()
    images = open_set(data_packed)
    images.pixels.zero_()
    assert data_packed.with_suffix(".npy").read_bytes() == before


# gan-data


def test_report(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data_folder / "0.png").rename(data_folder / "6.png")  # the same picture twice, and one file that is none
    (data_folder / "0.png").write_bytes((data_folder / "6.png").read_bytes())
    _text(data_folder / "7.jpg")
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=8", "data.validation=2"]
    assert cli.command("data", arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: data.max_rejected=0.01: 1 of 8 images cannot be used, the first 7.jpg")
    arguments.append("data.max_rejected=0.2")
    assert cli.command("data", arguments) == 0
    out, err = capsys.readouterr()
    path = Path(out.removesuffix("\n"))
    assert path.parent == data_folder / "packed" and about(path)["images"] == 7
    for text in [
        "folder: 7 images of 8x8x3",
        "found 8",
        "modes RGB 7",
        "sizes 8x8 7",
        "1 exact duplicates",
        "warning: 1 rejected",
        "7.jpg: not an image",
        "5 to train on, 2 held out",
    ]:
        assert text in err
    with Image.open(path.with_suffix(".png")) as preview:
        assert preview.size == (32, 32)  # three by three, with margins
        assert np.array_equal(np.asarray(preview)[2:10, 2:10].transpose(2, 0, 1), pixels(path)[0])


def test_json_alone_on_stdout(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=8", "json=true"]
    for _ in range(2):  # packing, and finding it packed
        assert cli.command("data", arguments) == 0
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert about(Path(told["path"])).items() <= told.items() and Path(told["preview"]).is_file()
        assert told["recipe"]["resolution"] == 8 and told["images"] == 6 and told["rejected"] == {}
        assert "folder: 6 images of 8x8x3" in err


def test_missing_images_are_told(data_mnist: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.command("data", ["data=mnist", f"data.root={data_mnist()}"]) == 0
    out, err = capsys.readouterr()
    assert f"found {TRAIN + TEST}, expected 70,000" in err and "warning: 69,640 images are missing" in err
    assert f"{TRAIN} to train on, {TEST} held out" in err and Path(out.strip()).is_file()
