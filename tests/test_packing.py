"""Packing: one file of all images, whatever the originals are like and however often it is interrupted."""

import errno
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import about, picture
from PIL import Image

from ganduel.data import inspection, packing, sources
from ganduel.data.formats import image_suffixes
from ganduel.data.packing import complete, packed_path
from ganduel.data.resize import Recipe, _look, prepare, to_array
from ganduel.data.sources import Originals, Source
from ganduel.data.store import open_store, suffix
from ganduel.data.workers import TASK
from ganduel.system.errors import UserError

RGB = Recipe(resolution=8, channels=3, crop=None, resize="lanczos")
GREY = Recipe(resolution=8, channels=1, crop=None, resize="lanczos")


def pack(source: Source, recipe: Recipe, folder: Path, *, workers: int = 1, max_rejected: float = 0.0) -> Path:
    """Pack as `prepare` does; returns the JSON."""
    recorded = {"stamp": source.stamp, **vars(recipe)}
    path = packed_path(folder, "x", recorded)
    if not complete(path, None):
        settings = {"workers": workers, "max_rejected": max_rejected, "raw_limit_gb": 50}
        packing.pack(source, recipe, path, {"name": "x", "recipe": recorded}, **settings)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.load(path.with_suffix(".npy"))


def pack_folder(root: Path, recipe: Recipe = RGB, max_rejected: float = 0.0) -> Path:
    return pack(sources.folder(str(root), None, "auto"), recipe, root / "packed", max_rejected=max_rejected)


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


def test_stretch_keeps_all_of_an_image(tmp_path: Path) -> None:
    array = np.zeros((16, 32), np.uint8)
    array[:, 16:] = 255  # dark on the left, light on the right: a crop to a square would show less of both
    recipe = Recipe(resolution=8, channels=1, crop=None, resize="stretch")
    assert recipe.changes(Image.fromarray(array)) and not recipe.changes(Image.fromarray(array[:8, :8]))
    packed = one(Image.fromarray(array), tmp_path, recipe)[0]
    assert packed.shape == (8, 8) and (packed[:, :3] < 20).all() and (packed[:, 5:] > 235).all()
    assert np.array_equal(packed, np.repeat(packed[:1], 8, axis=0))  # rows stay alike, columns are squeezed


@pytest.mark.parametrize("resize", ["box", "bicubic", "lanczos"])
def test_resizing_is_antialiased(tmp_path: Path, resize: Any) -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # every other pixel white
    packed = one(Image.fromarray(checks), tmp_path, Recipe(resolution=8, channels=1, crop=None, resize=resize))
    assert np.abs(packed[0, 2:6, 2:6].astype(int) - 127.5).max() < 4


def test_small_images_can_be_framed_in_black_instead_of_enlarged(tmp_path: Path) -> None:
    array = np.arange(1, 26, dtype=np.uint8).reshape(5, 5)
    framed = one(Image.fromarray(array), tmp_path, Recipe(resolution=8, channels=1, crop=None, resize="pad"))[0]
    assert np.array_equal(framed, np.pad(array, (1, 2)))
    large = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    shrunk = [Recipe(resolution=8, channels=1, crop=None, resize=resize) for resize in ("pad", "lanczos")]
    assert np.array_equal(*(one(large, tmp_path, recipe) for recipe in shrunk))


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
    (listed,) = (tmp_path / "packed").glob("*.rejected")
    assert listed.read_text().startswith("5a.jpg: ") and reason in listed.read_text()
    path = pack_folder(tmp_path, max_rejected=0.1)
    assert not listed.exists()
    assert (about(path)["images"], about(path)["found"]) == (9, {"train": 10})
    assert list(about(path)["rejected"]) == ["5a.jpg"] and reason in about(path)["rejected"]["5a.jpg"]
    assert np.array_equal(pixels(path)[6], np.asarray(Image.open(tmp_path / "6.png")).transpose(2, 0, 1))


def test_crop_larger_than_an_image(tmp_path: Path) -> None:
    picture(tmp_path / "x.png", size=(8, 9))
    with pytest.raises(UserError, match=r"x\.png \(8x9 pixels are smaller than the crop of 9\)"):
        pack_folder(tmp_path, Recipe(resolution=8, channels=3, crop=9, resize="box"))


def test_nothing_left(tmp_path: Path) -> None:
    _text(tmp_path / "x.jpg")
    with pytest.raises(UserError, match="1 of 1 images cannot be used"):
        pack_folder(tmp_path, max_rejected=1)


def test_labels_and_official_split_skip_the_rejected(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i}.png", i) for i in range(6)]
    _text(files[1])
    originals = sources.folder(str(tmp_path), None, "auto").scan()
    originals.labels, originals.splits = np.array([0, 1, 2, 3, 4, 5]), {"train": 4, "test": 2}
    path = pack(Source("labelled", lambda: originals), RGB, tmp_path / "packed", max_rejected=0.5)
    assert np.load(path.with_suffix(".labels.npy")).tolist() == [0, 2, 3, 4, 5]
    assert about(path)["splits"] == {"train": 3, "test": 2}


def test_crops_count_pixels_of_a_standard_width(tmp_path: Path) -> None:
    array = np.arange(20 * 12, dtype=np.uint8).reshape(20, 12)
    crop = Recipe(resolution=4, channels=1, crop=8, resize="box", width=24)  # half the standard size, half the crop
    assert np.array_equal(one(Image.fromarray(array), tmp_path, crop)[0], array[8:12, 4:8])


# The packed copy


def test_packed_copy_is_reused(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack_folder(data_folder)
    source = sources.folder(str(data_folder), None, "auto")
    source.scan = lambda: pytest.fail("read again")
    assert pack(source, RGB, data_folder / "packed") == path
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


CHUNK = TASK[0]
COUNT = 20 * CHUNK + 10


def many(stop: int | None = None, reads: list[int] | None = None) -> sources.Source:
    """Tiny images, a few of them rejected; reading number `stop` is interrupted."""

    def read(i: int) -> np.ndarray:
        if i == stop:
            raise KeyboardInterrupt
        if reads is not None:
            reads.append(i)
        return np.full((3, 4) if i % 300 == 7 else (4, 4), i % 256, np.uint8)

    names = [str(i) for i in range(COUNT)]
    return Source("many", lambda: Originals(names, read, {"train": COUNT}, {}, labels=np.arange(COUNT)))


def interrupted(folder: Path, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(many(stop), SMALL, folder, max_rejected=0.1)
    assert not list(folder.glob("*.json")) and not list(folder.glob("*.npy"))


SMALL = Recipe(4, 1, None, "box")


@pytest.mark.parametrize("stops", [(3,), (CHUNK + 5,), (CHUNK, 2 * CHUNK), (COUNT - 1,)])
def test_interrupted_packing_goes_on(tmp_path: Path, stops: tuple[int, ...]) -> None:
    whole = pack(many(), SMALL, tmp_path / "whole", max_rejected=0.1)
    for stop in stops:
        interrupted(tmp_path / "parts", stop)
    reads: list[int] = []
    path = pack(many(reads=reads), SMALL, tmp_path / "parts", max_rejected=0.1)
    assert sorted(reads) == list(range(stops[-1] // CHUNK * CHUNK, COUNT))
    for kind in (".npy", ".json", ".labels.npy"):
        assert path.with_suffix(kind).read_bytes() == whole.with_suffix(kind).read_bytes()
    assert {p.name for p in path.parent.iterdir()} == {p.name for p in whole.parent.iterdir()}


@pytest.mark.parametrize("loss", ["part is short", "part is gone", "journal is cut"])
def test_packing_after_a_loss_of_power(tmp_path: Path, loss: str) -> None:
    whole = pack(many(), SMALL, tmp_path / "whole", max_rejected=0.1)
    interrupted(tmp_path / "parts", 2 * CHUNK + 1)
    (part,), (journal,) = ((tmp_path / "parts").glob(f"*.{kind}") for kind in ("part", "journal"))
    if loss == "part is short":
        part.write_bytes(part.read_bytes()[: 16 * CHUNK])
    elif loss == "part is gone":
        part.unlink()
    else:
        journal.write_text(journal.read_text()[:-40])
    path = pack(many(), SMALL, tmp_path / "parts", max_rejected=0.1)
    assert path.with_suffix(".npy").read_bytes() == whole.with_suffix(".npy").read_bytes()
    assert path.read_bytes() == whole.read_bytes()


def test_workers_do_not_matter(tmp_path: Path) -> None:
    paths = [pack(many(), SMALL, tmp_path / str(n), workers=n, max_rejected=0.1) for n in (1, 3)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].with_suffix(".npy").read_bytes() == paths[1].with_suffix(".npy").read_bytes()


def test_statistics_of_the_whole(tmp_path: Path) -> None:
    for i, value in enumerate([0, 0, 255, 100]):
        Image.new("RGB", (8, 8), (value, 50, 0)).save(tmp_path / f"{i}.png")
    told = about(pack_folder(tmp_path))
    assert told["duplicates"] == 1
    assert told["mean"] == [88.75, 50.0, 0.0] and told["std"] == [round(float(np.std([0, 0, 255, 100])), 2), 0, 0]
    assert told["modes"] == {"RGB": 4} and told["sizes"] == {"8x8": 4}


# Compressed storage


def photo(path: Path, size: tuple[int, int], mode: str = "RGB", **options: Any) -> Path:
    """A smooth picture, as a JPEG file holds it best."""
    across, down = np.meshgrid(np.linspace(0, 200, size[0]), np.linspace(0, 50, size[1]))
    channels = [across + down, 255 - across, down * 2][: 1 if mode == "L" else 3]
    Image.fromarray(np.stack(channels, -1).astype(np.uint8).squeeze()).convert(mode).save(path, **options)
    return path


@pytest.fixture
def data_photos(tmp_path: Path) -> Path:
    """Files of 136x136: JPEGs in colour, grey, turned and CMYK, a PNG, one larger and one broken."""
    photo(tmp_path / "a.jpg", (136, 136), quality=90)
    photo(tmp_path / "b.jpg", (136, 136), "L")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / "c.jpg", (136, 136), exif=exif)
    photo(tmp_path / "d.jpg", (136, 136), "CMYK")
    photo(tmp_path / "e.png", (136, 136))
    photo(tmp_path / "f.jpg", (200, 160))
    (tmp_path / "g.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:500])
    return tmp_path


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_stored_compressed_without_loss(data_photos: Path, channels: Any) -> None:
    recipe = Recipe(136, channels, None, "lanczos")
    path = pack_folder(data_photos, recipe, max_rejected=0.2)
    assert about(path)["compressed"] and not path.with_suffix(".npy").exists()
    store = open_store(path, about(path), None)
    assert (len(store), store.shape) == (6, (channels, 136, 136))
    images = store.gather(torch.tensor([5, 0, 1, 2, 3, 4])).numpy()
    for name, pixels in zip("fabcde", images, strict=True):
        (file,) = data_photos.glob(f"{name}.*")
        with Image.open(file) as image:
            assert np.array_equal(pixels, to_array(recipe.apply(image))), name
    stored = dict(zip("abcdef", store.stored(), strict=True))
    untouched = {name for name in "abcdf" if stored[name] == (data_photos / f"{name}.jpg").read_bytes()}
    assert untouched == ({"a", "b"} if channels == 3 else {"b"})
    assert sum(map(len, stored.values())) + 7 * 8 == about(path)["bytes"]


@pytest.mark.parametrize(
    ("size", "crop"), [((160, 160), None), ((160, 136), None), ((136, 136), 100), ((160, 136), 136)]
)
def test_a_jpeg_that_is_cropped_or_resized_is_not_stored_untouched(tmp_path: Path, size: Any, crop: int | None) -> None:
    file, recipe = photo(tmp_path / "a.jpg", size), Recipe(136, 3, crop, "lanczos")
    path = pack_folder(tmp_path, recipe)
    with Image.open(file) as image:
        packed = open_store(path, about(path), None).gather(torch.tensor([0])).numpy()
        assert np.array_equal(packed[0], to_array(recipe.apply(image)))


def test_many_small_images_are_stored_compressed(tmp_path: Path) -> None:
    recorded = {"name": "x", "recipe": vars(SMALL)}
    paths = [tmp_path / name / "x.json" for name in ("raw", "compressed")]
    for path, limit in zip(paths, (1.0, 1e-6), strict=True):
        packing.pack(many(), SMALL, path, dict(recorded), workers=1, max_rejected=0.1, raw_limit_gb=limit)
    raw, compressed = (open_store(path, about(path), None) for path in paths)
    index = torch.arange(len(raw))
    assert [about(path)["compressed"] for path in paths] == [False, True]
    assert torch.equal(raw.gather(index), compressed.gather(index))
    assert raw.gather(index[:0]).shape == compressed.gather(index[:0]).shape == (0, 1, 4, 4)
    assert about(paths[0])["mean"] == about(paths[1])["mean"] and about(paths[0])["std"] == about(paths[1])["std"]


def test_interrupted_compression_goes_on(tmp_path: Path) -> None:
    settings = {"workers": 1, "max_rejected": 0.1, "raw_limit_gb": 1e-6}
    paths = [tmp_path / name / "x.json" for name in ("whole", "parts")]
    packing.pack(many(), SMALL, paths[0], {"name": "x"}, **settings)
    # Reading number 101 also fails while the size is estimated, from every eleventh image: 101 is none of them.
    with pytest.raises(KeyboardInterrupt):
        packing.pack(many(101), SMALL, paths[1], {"name": "x"}, **settings)
    packing.pack(many(), SMALL, paths[1], {"name": "x"}, **settings)
    for kind in (".images", ".json"):
        assert paths[0].with_suffix(kind).read_bytes() == paths[1].with_suffix(kind).read_bytes()


# What goes wrong


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=9_999))
    with pytest.raises(UserError, match=r"data\.packed: the packed copy needs 0\.0 GB more and .* has 0\.0 GB left"):
        pack(many(), SMALL, tmp_path)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_disk_full_half_way(tmp_path: Path) -> None:
    """A file-size limit stands for a full disk: packing says what to do, and goes on from there."""
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_packing import SMALL, UserError, many, pack
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    pack(many(), SMALL, Path({str(tmp_path / "parts")!r}), max_rejected=0.1)
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"data.packed: no room is left in {tmp_path / 'parts'} (File too large; ")
    packed = int(done.stdout.partition("File too large; ")[2].partition(" of ")[0])
    assert "run again: packing goes on where it stopped" in done.stdout
    reads: list[int] = []
    path = pack(many(reads=reads), SMALL, tmp_path / "parts", max_rejected=0.1)
    assert 0 < min(reads) == packed < COUNT and max(reads) == COUNT - 1
    whole = pack(many(), SMALL, tmp_path / "whole", max_rejected=0.1)
    assert path.with_suffix(".npy").read_bytes() == whole.with_suffix(".npy").read_bytes()


def test_death_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: Any) -> Any:
        raise BrokenProcessPool

    monkeypatch.setattr(packing, "prepared", dying)
    with pytest.raises(UserError, match=r"0 of 650 images are packed\); run again with workers=1"):
        pack(many(), SMALL, tmp_path)


def test_what_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    def read(i: int) -> bytes:
        raise OSError(errno.EIO, "input/output error")

    source = Source("unreadable", lambda: Originals(["x"], read, {"train": 1}, {}))
    with pytest.raises(UserError, match=r"the first x \(\[Errno 5\] input/output error\)"):
        pack(source, SMALL, tmp_path, max_rejected=0.5)


def test_bombs_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "x.png", size=(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UserError, match=r"x\.png \(Image size \(900 pixels\) exceeds limit"):
        pack_folder(tmp_path)


def test_the_guard_against_bombs_does_not_need_warnings_to_be_errors(tmp_path: Path) -> None:
    picture(tmp_path / "x.png", size=(30, 30))
    with warnings.catch_warnings(record=True) as told, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 899)
        assert prepare(RGB, False, [(tmp_path / "x.png").read_bytes()]) == [
            "Image size (900 pixels) exceeds limit of 899 pixels"
        ]
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
        assert not isinstance(prepare(RGB, False, [(tmp_path / "x.png").read_bytes()])[0], str)
    assert not told


def test_no_other_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n")

    def started(*arguments: object, **settings: object) -> None:
        raise AssertionError("Ghostscript")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    assert prepare(RGB, False, [(tmp_path / "x.png").read_bytes()]) == ["not an image"]


def test_names_of_strangers_are_made_printable(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff\x1b[2J\n.png")
    source = Source("x", lambda: Originals([name], lambda i: b"no image", {"train": 1}, {}))
    with pytest.raises(UserError) as caught:
        pack(source, RGB, tmp_path)
    assert r"the first a\udcff\x1b[2J\n.png (not an image)" in str(caught.value)
    (listed,) = tmp_path.glob("*.rejected")
    assert listed.read_text() == "a\\udcff\\x1b[2J\\n.png: not an image\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"eXIf", b"junk that is no EXIF"),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2_000_000))),
    ],
    ids=["ICC", "EXIF", "text"],
)
def test_metadata_does_not_condemn_pixels(metadata: bytes) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(file, "png")
    plain = file.getvalue()
    image = prepare(RGB, False, [plain[:33] + metadata + plain[33:]])[0]  # after the signature and the header
    assert not isinstance(image, str) and image.stored == prepare(RGB, False, [plain])[0].stored  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("junk", [(0x8769, 9, 1, 0xFFFFFFFF), (0x0111, 5, 1, 8)])  # an offset of -1, a size of a text
def test_a_turned_photo_with_junk_in_the_rest_of_its_exif_data(
    tmp_path: Path, kind: str, junk: tuple[int, int, int, int]
) -> None:
    """Its orientation counts, and the rest does not condemn it."""
    stored = np.zeros((8, 8, 3), np.uint8)
    stored[:4] = 255  # the upper half
    entries = [(0x0112, 3, 1, 6), junk]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    exif += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    packed = one(Image.fromarray(stored), tmp_path, exif=exif, kind=kind)
    assert (packed[:, :, 4:] > 200).all() and (packed[:, :, :4] < 50).all()  # turned clockwise


@pytest.mark.parametrize(("largest", "mode"), [(4095, "I;16 of 12 bits"), (65535, "I;16")])
def test_sixteen_bits_that_are_hardly_used_are_told(largest: int, mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), largest, np.uint16)).save(file, "png")
    image = prepare(RGB, False, [file.getvalue()])[0]
    assert not isinstance(image, str) and image.mode == mode


@pytest.mark.parametrize("colour", [4, 2, 6], ids=["grey and alpha", "RGB", "RGBA"])
@pytest.mark.parametrize(("largest", "bits"), [(4095, " of 12 bits"), (65535, "")])
def test_sixteen_bits_of_a_channel_that_are_hardly_used_are_told(largest: int, bits: str, colour: int) -> None:
    """Pillow cannot write such a PNG, so this is one by hand, 8x8."""
    pixel = struct.pack(">H", largest) * {4: 1, 2: 3, 6: 3}[colour] + b"\xff\xff" * (colour > 2)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0))
    file += chunk(b"IDAT", zlib.compress((b"\0" + pixel * 8) * 8)) + chunk(b"IEND", b"")
    image = prepare(RGB, False, [file])[0]
    assert not isinstance(image, str) and image.mode == ("RGB" if colour == 2 else "RGBA") + bits


@pytest.mark.parametrize("value", [-1, 70000])
def test_integers_that_16_bits_do_not_hold_are_rejected(value: int) -> None:
    """They would become black or white without a word."""
    pixels = np.full((8, 8), 7, np.int32)
    pixels[2, 3] = value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "tiff")
    (reason,) = prepare(RGB, False, [file.getvalue()])
    assert isinstance(reason, str) and str(value) in reason and "16 bits" in reason


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif", ".jp2", ".tga", ".qoi", ".ico", ".pbm"])
def test_whatever_pillow_reads_is_packed(tmp_path: Path, suffix: str) -> None:
    if suffix not in image_suffixes():
        pytest.skip("Pillow was built without it")
    picture(tmp_path / "0.png")
    image = Image.fromarray(np.full((16, 16), 255, np.uint8)).convert("1" if suffix == ".pbm" else "RGB")
    image.save(tmp_path / f"1{suffix}", {".jfif": "JPEG", ".jpe": "JPEG", ".pbm": "PPM"}.get(suffix))
    (tmp_path / "notes.txt").write_text("no image")
    path = pack_folder(tmp_path)
    assert about(path)["images"] == 2 and about(path)["left_out"] == {"no image": {".txt": 1}}
    assert pixels(path)[1].min() >= 250


# The doctor


def test_near_duplicates(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (16, 17), np.uint8) for _ in range(200)]
    faint = np.clip(arrays[3].astype(int) + random.integers(-1, 2, (16, 17)), 0, 255).astype(np.uint8)
    arrays += [faint, arrays[7], arrays[9][:, ::-1]]
    names = [str(i) for i in range(len(arrays))]
    looks = np.frombuffer(b"".join(_look(Image.fromarray(a)) for a in arrays), "<u8").reshape(-1, 4)
    found = inspection.near_duplicates(looks, names, 64)
    assert found == {"near_duplicates": 2, "near_pairs": [["3", "200"], ["7", "201"]]}
    assert inspection.near_duplicates(looks, names, 32)["near_duplicates"] is None
    assert int(np.unpackbits((looks[3] ^ looks[200]).view(np.uint8)).sum()) > 0  # alike, not equal


def test_checksum(data_folder: Path) -> None:
    for recipe in (RGB, Recipe(136, 3, None, "lanczos")):
        path = pack_folder(data_folder, recipe)
        file = path.with_suffix(suffix(about(path)["compressed"]))
        assert inspection.intact(open_store(path, about(path), None), about(path)["content"])
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        file.write_bytes(raw)
        assert complete(path, None) and not inspection.intact(
            open_store(path, about(path), None), about(path)["content"]
        )
