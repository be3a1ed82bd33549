"""Each data set, in every form in which it goes around: the same images, in the same order, by official part."""

import gzip
import importlib
import io
import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_trees import as_folder, as_lmdb, as_tar, as_zip

from ganduel import build
from ganduel.config.compose import compose
from ganduel.config.keys import config_dir
from ganduel.data import download, formats, sources
from ganduel.data.download import Remote
from ganduel.data.sources import Originals, Source, _afhq, _celeba, _places, _shared
from ganduel.system.errors import UserError

Files = dict[str, bytes]


def picture(seed: int, kind: str = "jpeg") -> bytes:
    """An encoded image of noise, 8x8."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def pictures(*names: str) -> Files:
    return {name: picture(i) for i, name in enumerate(names)}


def under(prefix: str, files: Files) -> Files:
    return {prefix + name: content for name, content in files.items()}


def contents(originals: Originals) -> list[bytes]:
    """The bytes of all images in packing order, after checking that the counts agree."""
    assert sum(originals.splits.values()) == len(originals.names)
    return [bytes(originals.read(i)) for i in range(len(originals.names))]


def refusal(make: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        made = make()
        if isinstance(made, Source):
            made.scan()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, path: Path, checksum: str | None) -> None:
        raise download.Failed("no route to host")

    monkeypatch.setattr(download, "fetch", refuse)


# What a configuration says


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_dir() / "data").glob("*.yaml")))
def test_every_set_has_every_key_and_takes_only_its_categories(name: str) -> None:
    text = (config_dir() / "data" / f"{name}.yaml").read_text()
    assert text.startswith("# ") and ("defaults: [" in text) == (name != "folder")
    typed = [f"data={name}", "data.root=somewhere"] + ["data.category=kitchen"] * (name == "places")
    data = compose("data", typed).data
    assert data.source["root"] == "somewhere"
    assert data.source["category"] == data.category
    build.check(data.source, "data.source", [], ["labels"])
    refused = {"lsun_bedroom", "places", "places_corridor", "places_amusement_park"}
    if name not in refused:
        data = compose("data", [*typed, "data.category=bathroom"]).data
        with pytest.raises(
            UserError, match=r"data\.source\.category=bathroom is not allowed; it takes (null|dog, cat)"
        ):
            build.check(data.source, "data.source", [], ["labels"])


def test_places_without_a_category() -> None:
    data = compose("data", ["data=places"]).data
    message = refusal(lambda: build.part(data.source, "data.source", []))
    assert message == "data.category is missing: give one of Places365, as data.category=kitchen"


@pytest.mark.parametrize("value", ["auto", "true", "false"])
def test_on_device(value: str) -> None:
    assert compose("data", [f"data.on_device={value}"]).data.on_device == {
        "true": True,
        "false": False,
    }.get(value, value)
    with pytest.raises(UserError, match=r"data\.on_device=cuda is not allowed; it takes auto, true, false"):
        compose("data", ["data.on_device=cuda"])


# Digits and MNIST

TRAIN, TEST = 300, 60


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def mnist_files(folder: str, suffix: str = "", dash: str = "-") -> Files:
    """A small MNIST."""
    random = np.random.default_rng(0)
    files = {}
    for split, count in {"train": TRAIN, "t10k": TEST}.items():
        files[f"{split}-images{dash}idx3-ubyte"] = idx(random.integers(0, 256, (count, 28, 28)))
        files[f"{split}-labels{dash}idx1-ubyte"] = idx(np.arange(count) % 10)
    return {folder + name + suffix: gzip.compress(raw, 1) if suffix else raw for name, raw in files.items()}


def check_mnist(source: Source) -> None:
    originals = source.scan()
    assert originals.splits == {"train": TRAIN, "test": TEST}
    assert originals.expected == {"train": 60_000, "test": 10_000}
    expected = np.random.default_rng(0).integers(0, 256, (TRAIN, 28, 28))
    assert np.array_equal(originals.read(TRAIN - 1), expected[-1])
    assert originals.labels is not None and originals.labels.dtype == np.int64
    assert originals.labels[[0, 7, TRAIN, TRAIN + 3]].tolist() == [0, 7, 0, 3]
    assert (originals.names[0], originals.names[TRAIN]) == ("train 0", "test 0")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("layout", ["MNIST/raw/", "raw/", "", "a/b/c/"])
def test_mnist_is_found(tmp_path: Path, layout: str, suffix: str) -> None:
    check_mnist(sources.mnist(str(as_folder(tmp_path, mnist_files(layout, suffix))), None))


def test_mnist_that_is_there_twice(tmp_path: Path) -> None:
    """What torchvision unpacked beside the archives is read, and the outermost of copies."""
    root = as_folder(tmp_path, dict.fromkeys(mnist_files("MNIST/a/", ".gz"), b"not read"))
    as_folder(root, dict.fromkeys(mnist_files("MNIST/a/copies/"), b"not read"))
    check_mnist(sources.mnist(str(as_folder(root, mnist_files("MNIST/raw/"))), None))


@pytest.mark.parametrize("other", ["FashionMNIST", "KMNIST", "QMNIST", "fashion-mnist"])
def test_mnist_beside_its_imitators(tmp_path: Path, other: str) -> None:
    """They have files of the same names, and torchvision keeps them in the same folder."""
    root = as_folder(tmp_path, dict.fromkeys(mnist_files(f"{other}/raw/"), b"not read"))
    check_mnist(sources.mnist(str(as_folder(root, mnist_files("MNIST/raw/", ".gz"))), None))


def test_mnist_as_kaggle_has_it(tmp_path: Path) -> None:
    """With dots, beside folders of the same names; the folder or the zip, named or held."""
    files = mnist_files("", dash=".")
    files |= {f"{name.replace('.', '-')}/{name.replace('.', '-')}": raw for name, raw in files.items()}
    check_mnist(sources.mnist(str(as_folder(tmp_path / "folder", files)), None))
    archive = as_zip(tmp_path / "zip" / "archive.zip", files)
    check_mnist(sources.mnist(str(archive), None))
    check_mnist(sources.mnist(str(tmp_path / "zip"), None))


def test_mnist_zip_without_labels(tmp_path: Path) -> None:
    files = {name: raw for name, raw in mnist_files("").items() if "labels" not in name}
    message = refusal(lambda: sources.mnist(str(as_zip(tmp_path / "x.zip", files)), None))
    assert message.startswith(f"data.root: {tmp_path / 'x.zip'} lacks train-labels-idx1-ubyte.gz")


def damage(tmp_path: Path, change: Callable[[bytes], bytes], suffix: str = ".gz") -> tuple[Path, str]:
    """Change one of the files; returns it and what reading it says."""
    file = as_folder(tmp_path, mnist_files("MNIST/raw/", suffix)) / "MNIST" / "raw" / f"t10k-images-idx3-ubyte{suffix}"
    file.write_bytes(change(file.read_bytes()))
    return file, refusal(lambda: sources.mnist(str(tmp_path), None))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:-100],
        lambda raw: raw[:5],
        lambda raw: b"",
        lambda raw: b"no gzip at all",
        lambda raw: raw[:500] + b"\xff" * 64 + raw[564:],
        lambda raw: gzip.compress(b"\x01" + gzip.decompress(raw)[1:]),
        lambda raw: gzip.compress(gzip.decompress(raw)[:-1]),
        lambda raw: gzip.compress(gzip.decompress(raw) + b"0"),
    ],
    ids=["cut", "header only", "empty", "text", "overwritten", "magic", "a byte short", "a byte long"],
)
def test_damaged_mnist(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    file, message = damage(tmp_path, change)
    assert message.startswith(f"data.root: {file} is damaged (") and "delete it and run again" in message


def test_damaged_unpacked_mnist(tmp_path: Path) -> None:
    file, message = damage(tmp_path, lambda raw: b"\x00\x00\x09" + raw[3:], suffix="")
    assert message.startswith(f"data.root: {file} is damaged (it does not begin like an IDX file)")


def test_mnist_labels_that_do_not_fit(tmp_path: Path) -> None:
    as_folder(tmp_path, mnist_files("") | {"t10k-labels-idx1-ubyte": idx(np.zeros(TEST - 1))})
    assert "do not belong together" in refusal(lambda: sources.mnist(str(tmp_path), None))


def test_mnist_without_network(tmp_path: Path) -> None:
    message = refusal(lambda: sources.mnist(str(tmp_path), None))
    raw = tmp_path / "MNIST" / "raw"
    assert message.startswith(f"data.root: MNIST is not in {raw} and cannot be downloaded (no route to host; no route")
    assert "get train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, " in message
    assert f"from https://ossci-datasets.s3.amazonaws.com/mnist/ and put it into {raw}, or name" in message


def test_mnist_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = mnist_files("", ".gz")
    as_folder(tmp_path, {"here/t10k-labels-idx1-ubyte": gzip.decompress(files["t10k-labels-idx1-ubyte.gz"])})
    fetched: list[str] = []

    def fetch(url: str, path: Path, checksum: str | None) -> None:
        assert checksum and len(checksum) == 32 and url.endswith("/" + path.name)
        path.write_bytes(files[path.name])
        fetched.append(path.name)

    monkeypatch.setattr(download, "fetch", fetch)
    check_mnist(sources.mnist(str(tmp_path), None))
    check_mnist(sources.mnist(str(tmp_path), None))
    assert sorted(fetched) == sorted(files.keys() - {"t10k-labels-idx1-ubyte.gz"})


def test_digits() -> None:
    originals = sources.digits("", None).scan()
    assert originals.splits == originals.expected == {"train": 1797}
    assert originals.labels is not None and len(originals.labels) == 1797
    pixels = originals.read(5)
    assert isinstance(pixels, np.ndarray) and pixels.shape == (8, 8) and pixels.dtype == np.uint8
    assert max(originals.read(i).max() for i in range(20)) == 255  # type: ignore[union-attr]


# Fashion-MNIST


@pytest.mark.parametrize("layout", ["FashionMNIST/raw/", "raw/", ""])
def test_fashion_mnist_is_found_beside_mnist(tmp_path: Path, layout: str) -> None:
    root = as_folder(tmp_path, dict.fromkeys(mnist_files("MNIST/raw/", ".gz"), b"not read"))
    as_folder(root, dict.fromkeys(mnist_files("kmnist/"), b"not read"))
    source = sources.fashion_mnist(str(as_folder(root, mnist_files(layout, ".gz"))), None)
    check_mnist(source)
    assert source.scan().label_names[9] == "ankle boot"


def test_fashion_mnist_without_network(tmp_path: Path) -> None:
    message = refusal(lambda: sources.fashion_mnist(str(tmp_path), None))
    raw = tmp_path / "FashionMNIST" / "raw"
    assert message.startswith(f"data.root: Fashion-MNIST is not in {raw} and cannot be downloaded (no route to host)")


# CIFAR-10


class Array:
    """Pickled as Python 2 and NumPy 1 pickled an array of bytes, with a name of NumPy's that has moved since then."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __reduce__(self) -> Any:
        return Reconstruct("numpy.core.multiarray", "_reconstruct"), (np.ndarray, (0,), b"b"), self._state()

    def _state(self) -> Any:
        return 1, self.array.shape, np.dtype("u1"), False, self.array.tobytes()


class Reconstruct:
    """Pickled as a global name."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __reduce__(self) -> str:
        return self.name

    def __call__(self) -> None: ...


class Pickler(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python, so that a name can be written at will
    def save_global(self, value: Any, name: str | None = None) -> None:
        if not isinstance(value, Reconstruct):
            return super().save_global(value, name)
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        return None


def batch(first: int, count: int, **changes: Any) -> bytes:
    """A file of CIFAR-10 with `count` images, whose labels and pixels begin at `first`."""
    pixels = (np.arange(count * 3072).reshape(count, 3072) + first).astype(np.uint8)
    content = {b"data": Array(pixels), b"labels": [(first + i) % 10 for i in range(count)], b"batch_label": b"x"}
    file = io.BytesIO()
    Pickler(file, 2).dump({**content, **{key.encode(): value for key, value in changes.items()}})
    return file.getvalue()


def cifar_files(prefix: str = "") -> Files:
    named = {name: batch(i, 3) for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"])}
    return under(prefix, {**named, "batches.meta": b"not read", "readme.html": b"not read"})


def check_cifar(source: Source) -> None:
    originals = source.scan()
    assert originals.splits == {"train": 15, "test": 3} and originals.expected == {"train": 50_000, "test": 10_000}
    assert originals.labels is not None
    assert originals.labels.tolist() == [(i + j) % 10 for i in range(6) for j in range(3)]
    pixels = originals.read(4)  # the second of the second file
    assert isinstance(pixels, np.ndarray) and pixels.shape == (32, 32, 3)
    red, green, blue = (
        (np.arange(3072) + 3072 + 1).astype(np.uint8).reshape(3, 32, 32)[channel] for channel in range(3)
    )
    assert np.array_equal(pixels, np.stack([red, green, blue], axis=-1))  # stored red first, row by row
    assert originals.label_names[3] == "cat" and originals.note == ""


def test_cifar10_as_it_is_published_and_as_torchvision_unpacks_it(tmp_path: Path) -> None:
    files = cifar_files("cifar-10-batches-py/")
    archive = as_tar(tmp_path / "cifar-10-python.tar.gz", files, "w:gz")
    check_cifar(sources.cifar10(str(archive), None, "auto"))
    check_cifar(sources.cifar10(str(tmp_path), None, "auto"))
    check_cifar(sources.cifar10(str(as_folder(tmp_path / "unpacked", files)), None, "auto"))
    check_cifar(sources.cifar10(str(as_folder(tmp_path / "alone", cifar_files())), None, "none"))


def test_cifar10_as_numpy_pickles_today(tmp_path: Path) -> None:
    files = cifar_files()
    content = {"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 2]}
    for protocol in (2, 4):
        files["test_batch"] = pickle.dumps(content, protocol)
        assert sources.cifar10(str(as_folder(tmp_path, files)), None, "auto").scan().splits["test"] == 3


class Calls:
    """Pickled as a call."""

    def __init__(self, *call: Any):
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (batch(0, 3)[:-50], "is damaged, or is not a batch of CIFAR-10 ("),
        (batch(0, 3, labels=[0, 1]), "it has no bytes of pixels with a label for each image"),
        (batch(0, 3, labels=[0, 1, 10]), "a label is none of the ten classes"),
        (batch(0, 3, data=[1, 2, 3]), "it has no bytes of pixels"),
        (
            pickle.dumps(Calls(os.mkdir, "ran"), 2),
            "asks for posix.mkdir, which no batch of CIFAR-10 does; it was not run",
        ),
    ],
    ids=["cut", "labels", "class", "pixels", "hostile"],
)
def test_bad_batches_of_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    root = as_folder(tmp_path / "root", {**cifar_files(), "data_batch_2": content})
    assert says in refusal(lambda: sources.cifar10(str(root), None, "auto"))
    assert not Path("ran").exists()


def test_cifar10_without_a_batch_or_a_network(tmp_path: Path) -> None:
    files = cifar_files()
    del files["data_batch_4"]
    message = refusal(lambda: sources.cifar10(str(as_folder(tmp_path / "some", files)), None, "auto"))
    assert message.endswith("lacks data_batch_4 of CIFAR-10; download it again")
    message = refusal(lambda: sources.cifar10(str(tmp_path / "none"), None, "auto"))
    assert message.startswith(f"data.root: CIFAR-10 is not in {tmp_path / 'none'} and cannot be downloaded (no route")


def test_jpeg_copies_of_cifar10_are_told(tmp_path: Path) -> None:
    """They are read with their classes, and the doctor says that they are not the official pixels."""
    names = ("airplane/0000.jpg", "airplane/0001.jpg", "cat/0000.jpg")
    archive = as_zip(tmp_path / "cifar10_train_jpeg.zip", pictures(*names))
    for root in (archive, tmp_path, as_folder(tmp_path / "folders", pictures(*names))):
        originals = sources.cifar10(str(root), None, "auto").scan()
        assert originals.labels is not None and originals.labels.tolist() == [0, 0, 1]
        assert originals.expected == {"train": 50_000}
        assert originals.note.startswith("3 images are JPEG copies, not the official pixels of CIFAR-10")
    files = {name.replace("jpg", "png"): picture(i, "png") for i, name in enumerate(names)}
    assert sources.cifar10(str(as_folder(tmp_path / "png", files)), None, "auto").scan().note == ""


# CelebA

FACES = ("000001", "162770", "162771", "182637", "182638", "202599")
ATTRIBUTES = [f"Attribute{i}" for i in range(40)]


def signs(face: str) -> list[int]:
    return [1 if int(face) >> (i % 18) & 1 else -1 for i in range(40)]


OFFICIAL_LIST = f"{len(FACES)}\n{' '.join(ATTRIBUTES)} \n" + "".join(
    f"{face}.jpg {' '.join(f'{sign:2}' for sign in signs(face))}\n" for face in FACES
)
CSV = "\n".join([",".join(["image_id", *ATTRIBUTES]), *(",".join([f"{f}.jpg", *map(str, signs(f))]) for f in FACES)])
CELEBA = pictures(*(f"img_align_celeba/{face}.jpg" for face in FACES))
KAGGLE_CELEBA = {**under("img_align_celeba/", CELEBA), "list_attr_celeba.csv": CSV.encode()}


def celeba_zip(path: Path) -> str:
    as_zip(path / "img_align_celeba.zip", CELEBA)
    (path / "list_attr_celeba.txt").write_text(OFFICIAL_LIST)
    return str(path)


def celeba_unfinished(path: Path) -> str:
    as_folder(path, dict(list(CELEBA.items())[:2]))  # an interrupted unpacking beside the archive
    return celeba_zip(path)


CELEBA_FORMS: dict[str, Callable[[Path], str]] = {
    "zip in a folder": celeba_zip,
    "zip itself": lambda path: celeba_zip(path) + "/img_align_celeba.zip",
    "zip in torchvision's folder": lambda path: str(Path(celeba_zip(path / "celeba")).parent),
    "zip before what is unpacked": celeba_unfinished,
    "unpacked": lambda path: str(as_folder(path, {**CELEBA, "list_attr_celeba.txt": OFFICIAL_LIST.encode()})),
    "Kaggle's folder": lambda path: str(as_folder(path, KAGGLE_CELEBA)),
    "Kaggle's zip": lambda path: str(as_zip(path / "archive.zip", KAGGLE_CELEBA).parent),
    "unpacked twice": lambda path: str(as_folder(path, {**KAGGLE_CELEBA, **CELEBA})),
    "faces in the wild too": lambda path: str(
        as_folder(path, {**KAGGLE_CELEBA, "img_celeba/000005.jpg": b"wild", "packed/img_align_celeba.zip": b"no zip"})
    ),
}


@pytest.mark.parametrize("form", CELEBA_FORMS)
def test_celeba(tmp_path: Path, form: str) -> None:
    (tmp_path / "celeba").mkdir()
    source = sources.celeba(CELEBA_FORMS[form](tmp_path), None)
    originals = source.scan()
    assert source.width == 178
    assert originals.splits == {"train": 2, "valid": 2, "test": 2}
    assert originals.expected == {"train": 162_770, "valid": 19_867, "test": 19_962}
    assert contents(originals) == list(CELEBA.values())
    assert originals.label_names == ATTRIBUTES
    assert originals.labels is not None and originals.labels.dtype == np.uint8
    assert np.array_equal(originals.labels, [[sign > 0 for sign in signs(face)] for face in FACES])


def test_celeba_without_attributes(tmp_path: Path) -> None:
    as_zip(tmp_path / "a" / "img_align_celeba.zip", CELEBA)
    for root in (tmp_path / "a", as_folder(tmp_path / "b", CELEBA)):
        source = sources.celeba(str(root), None)
        assert source.scan().labels is None
        (root / "list_attr_celeba.txt").write_text(OFFICIAL_LIST)
        assert sources.celeba(str(root), None).stamp != source.stamp, "labels that come later count"


@pytest.mark.parametrize(
    "text",
    [OFFICIAL_LIST[:-200], OFFICIAL_LIST.replace(" -1", " 2"), "", CSV.replace("000001", "x"), CSV[:-3]],
    ids=["cut", "no sign", "empty", "no number", "a sign short"],
)
def test_celeba_with_damaged_attributes(tmp_path: Path, text: str) -> None:
    as_folder(tmp_path, {**CELEBA, "list_attr_celeba.txt": text.encode()})
    assert "list_attr_celeba.txt is damaged or cut off" in refusal(lambda: sources.celeba(str(tmp_path), None))


def test_celeba_with_a_stranger(tmp_path: Path) -> None:
    as_folder(tmp_path, {**CELEBA, "202600.jpg": b"x"})
    assert "202600.jpg, but CelebA ends at 202599" in refusal(lambda: sources.celeba(str(tmp_path), None))


def test_celeba_by_hand(tmp_path: Path) -> None:
    message = refusal(lambda: sources.celeba(str(tmp_path / "new"), None))
    assert "CelebA is not in" in message and "list_attr_celeba.txt, img_align_celeba.zip from https://mmlab" in message


# LSUN

KEYS = [f"{i:02x}{'0' * 38}" for i in (5, 1, 3, 200)]
BEDROOMS = {key: picture(i, "webp" if i % 2 else "jpeg") for i, key in enumerate(KEYS)}
SORTED = [BEDROOMS[key] for key in sorted(KEYS)]
NESTED = {f"data0/lsun/bedroom/{'/'.join(key[:3])}/{key}.jpg": content for key, content in BEDROOMS.items()}


def lsun_databases(path: Path) -> Path:
    as_lmdb(path / "bedroom_train_lmdb", BEDROOMS)
    as_lmdb(path / "bedroom_val_lmdb", {"00": b"held out"})
    return path


@pytest.mark.parametrize("form", [".", "bedroom_train_lmdb", ".."])
def test_lsun(tmp_path: Path, form: str) -> None:
    lsun_databases(tmp_path / "lsun")
    originals = sources.lsun(str((tmp_path / "lsun" / form).resolve()), "bedroom").scan()
    assert contents(originals) == [*SORTED, b"held out"]
    assert originals.names == [*sorted(KEYS), "00"]
    assert originals.splits == {"train": 4, "val": 1}
    assert originals.expected == {"train": 3_033_042, "val": 300}


def test_lsun_without_val_and_of_another_category(tmp_path: Path) -> None:
    as_lmdb(tmp_path / "kitchen_train_lmdb", BEDROOMS)
    originals = sources.lsun(str(tmp_path), "kitchen").scan()
    assert (originals.splits, originals.expected) == ({"train": 4}, {})
    assert "LSUN bedroom is not in" in refusal(lambda: sources.lsun(str(tmp_path), "bedroom"))


@pytest.mark.parametrize("form", [".", "bedroom_train_lmdb.zip"])
def test_lsun_zip_is_unpacked_once(tmp_path: Path, form: str) -> None:
    raw = (as_lmdb(tmp_path / "made", BEDROOMS) / "data.mdb").read_bytes()
    root = tmp_path / "root"
    root.mkdir()
    archive = as_zip(root / "bedroom_train_lmdb.zip", {"bedroom_train_lmdb/data.mdb": raw, "x/lock.mdb": b""})
    source = sources.lsun(str(root / form), "bedroom")
    assert contents(source.scan()) == SORTED
    archive.write_bytes(b"not looked at any more")
    if form == ".":
        assert sources.lsun(str(root), "bedroom").stamp == source.stamp


def test_lsun_by_hand(tmp_path: Path) -> None:
    message = refusal(lambda: sources.lsun(str(tmp_path), "bedroom"))
    assert "get bedroom_train_lmdb.zip from https://www.yf.io/p/lsun and put it into" in message


@pytest.mark.parametrize("kind", ["folder", "zip", "sample only"])
def test_lsun_sample(tmp_path: Path, kind: str) -> None:
    files = NESTED | under("sample/", dict(list(NESTED.items())[:2]))
    if kind == "sample only":
        files = under("sample/", NESTED)
    root = as_zip(tmp_path / "archive.zip", files).parent if kind == "zip" else as_folder(tmp_path, files)
    originals = sources.lsun_bedroom_sample(str(root), None).scan()
    assert contents(originals) == SORTED
    assert originals.expected == {"train": 303_125}


def test_lsun_sample_keeps_what_is_no_copy(tmp_path: Path) -> None:
    files = list(NESTED.items())
    as_folder(tmp_path, dict(files[:3]) | under("sample/", dict(files[2:])))
    assert sorted(contents(sources.lsun_bedroom_sample(str(tmp_path), None).scan())) == sorted(SORTED)


# Places

CORRIDORS = pictures("00000001.jpg", "00000002.jpg", "00000010.jpg")
OTHERS = under("a/airfield/", CORRIDORS) | under("c/corridors_of_power/", CORRIDORS)
STANDARD = under("data_256/", under("c/corridor/", CORRIDORS) | OTHERS)
FLAT = under("corridor/", CORRIDORS) | under("airfield/", CORRIDORS)
PLACES_FORMS: dict[str, Callable[[Path], Path]] = {
    "the tar": lambda path: as_tar(path / "train_256_places365standard.tar", STANDARD).parent,
    "the tar itself": lambda path: as_tar(path / "any.tar", STANDARD),
    "a compressed tar": lambda path: as_tar(path / "any.tgz", STANDARD, "w:gz"),
    "a zip": lambda path: as_zip(path / "places365.zip", STANDARD).parent,
    "unpacked": lambda path: as_folder(path, STANDARD),
    "flat": lambda path: as_folder(path, FLAT),
    "the class": lambda path: as_folder(path, FLAT) / "corridor",
    "the class below its letter": lambda path: as_folder(path, STANDARD) / "data_256" / "c" / "corridor",
    "the letter": lambda path: as_folder(path, STANDARD) / "data_256" / "c",
    "a tar of the class": lambda path: as_tar(path / "corridor.tar", CORRIDORS),
}


@pytest.mark.parametrize("form", PLACES_FORMS)
def test_places(tmp_path: Path, form: str) -> None:
    originals = sources.places(str(PLACES_FORMS[form](tmp_path)), "corridor", "standard").scan()
    assert contents(originals) == list(CORRIDORS.values())
    assert (originals.splits, originals.expected) == ({"train": 3}, {"train": 3068})


@pytest.mark.parametrize("typed", ["apartment_building/outdoor", "apartment_building-outdoor"])
@pytest.mark.parametrize("written", ["x/a/apartment_building/outdoor/", "train/apartment_building-outdoor/"])
def test_places_of_two_levels(tmp_path: Path, typed: str, written: str) -> None:
    as_folder(tmp_path, under(written, CORRIDORS) | under(written.replace("outdoor", "indoor"), CORRIDORS))
    assert len(sources.places(str(tmp_path), typed, "standard").scan().names) == 3


def test_half_a_class_is_none(tmp_path: Path) -> None:
    as_folder(tmp_path, under("x/a/apartment_building/outdoor/", CORRIDORS))
    message = refusal(lambda: sources.places(str(tmp_path), "outdoor", "standard"))
    assert message.endswith("Did you mean: apartment_building/outdoor?")


def test_places_train_and_val(tmp_path: Path) -> None:
    as_folder(tmp_path, under("val/corridor/", {"1.jpg": b"held out"}) | under("train/corridor/", CORRIDORS))
    originals = sources.places(str(tmp_path), "corridor", "standard").scan()
    assert originals.splits == {"train": 3, "val": 1} and contents(originals)[-1] == b"held out"


def test_places_counts_by_the_official_list(tmp_path: Path) -> None:
    lines = [f"/c/corridor/{i:08}.jpg 106" for i in range(7)] + ["/c/corridors/1.jpg 1", "/a/x/corridor/1.jpg 2"]
    text = "\n".join(lines).encode()
    as_tar(tmp_path / "any.tar", STANDARD)
    as_folder(tmp_path / "listed", {"places365_train_standard.txt": text, **STANDARD})
    assert sources.places(str(tmp_path / "listed"), "corridor", "standard").scan().expected == {"train": 7}
    as_tar(tmp_path / "filelist_places365-standard.tar", {"places365_train_standard.txt": text, "other.txt": b""})
    assert sources.places(str(tmp_path / "any.tar"), "corridor", "standard").scan().expected == {"train": 7}


def test_places_without_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An incomplete category is told all the same, as report R0 would have needed."""
    root = str(as_folder(tmp_path, FLAT))
    found = {split: sources.places(root, "corridor", split) for split in ("standard", "challenge", "places205")}
    assert {split: source.scan().expected for split, source in found.items()} == {
        "standard": {"train": 3068},
        "challenge": {"train": 18_178},
        "places205": {"train": 5000},
    }
    said = capsys.readouterr().err
    assert "3 training images of corridor; places365_train_standard.txt is not near" in said
    assert "split=standard has 3,068 to 5,000" in said and "split=places205 has 5,000 to 15,000" in said
    assert len({source.stamp for source in found.values()}) == 3
    many = {f"corridor/{i}.jpg": b"" for i in range(5001)}
    assert sources.places(str(as_zip(tmp_path / "many.zip", many)), "corridor", "standard").scan().expected == {}
    assert "so these are of another split: set data.source.split" in capsys.readouterr().err


def test_places_counts_of_other_splits(tmp_path: Path) -> None:
    as_folder(
        tmp_path,
        {"train_places205.csv": b"c/corridor/gsun_1.jpg,40\nc/corridor/gsun_2.jpg,40\na/abbey/1.jpg,0", **STANDARD},
    )
    assert sources.places(str(tmp_path), "corridor", "places205").scan().expected == {"train": 2}
    message = refusal(lambda: sources.places(str(tmp_path / "none"), "corridor", "challenge"))
    assert "get train_256_places365challenge.tar from" in message


@pytest.mark.parametrize("form", ["the tar", "unpacked", "flat"])
def test_places_that_are_not_there(tmp_path: Path, form: str) -> None:
    root = str(PLACES_FORMS[form](tmp_path))
    message = refusal(lambda: sources.places(root, "coridor", "standard"))
    assert message.startswith("data.category=coridor is not in ") and "Did you mean: corridor" in message
    assert "There is: " in refusal(lambda: sources.places(root, "q", "standard")) and "airfield" in refusal(
        lambda: sources.places(root, "q", "standard")
    )


def test_categories_have_stamps_of_their_own(tmp_path: Path) -> None:
    as_tar(tmp_path / "train_256_places365standard.tar", STANDARD)
    stamps = {sources.places(str(tmp_path), category, "standard").stamp for category in ("corridor", "airfield")}
    assert len(stamps) == 2


# AFHQ and pairs

AFHQ = pictures(*(f"{part}/{animal}/{i}.jpg" for part in ("train", "val") for animal in ("cat", "dog") for i in (1, 2)))
DOGS = [content for name, content in AFHQ.items() if "dog" in name]


@pytest.mark.parametrize("prefix", ["", "afhq/", "stargan-v2/data/afhq/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_afhq(tmp_path: Path, kind: str, prefix: str) -> None:
    files = under(prefix, AFHQ)
    root = as_zip(tmp_path / "afhq.zip", files).parent if kind == "zip" else as_folder(tmp_path, files)
    originals = sources.afhq(str(root), "dog").scan()
    assert contents(originals) == DOGS
    assert originals.splits == {"train": 2, "val": 2}
    assert originals.expected == {"train": 4739, "val": 500}


def test_afhq_version_2(tmp_path: Path) -> None:
    as_folder(tmp_path, {name.replace("val/", "test/").replace("jpg", "png"): raw for name, raw in AFHQ.items()})
    originals = sources.afhq(str(tmp_path), "cat").scan()
    assert originals.splits == {"train": 2, "test": 2}
    assert originals.expected == {"train": 5065, "test": 493}


def test_afhq_twice_or_not_at_all(tmp_path: Path) -> None:
    as_folder(tmp_path, under("afhq/", AFHQ) | under("afhq_v2/", AFHQ))
    assert "more than one such set; name one: afhq, afhq_v2" in refusal(lambda: sources.afhq(str(tmp_path), "dog"))
    assert "no images in a folder train/wild" in refusal(lambda: sources.afhq(str(tmp_path), "wild"))


PARTS = ("trainA", "trainB", "testA", "testB")
HORSES = pictures(*(f"{part}/{i}.jpg" for part, count in zip(PARTS, (3, 2, 1, 1), strict=True) for i in range(count)))


@pytest.mark.parametrize("form", ["folder", "zip", "nested"])
def test_folder_pair(tmp_path: Path, form: str) -> None:
    if form == "zip":
        as_zip(tmp_path / "horse2zebra.zip", under("horse2zebra/", HORSES))
    else:
        as_folder(tmp_path, HORSES if form == "folder" else under("a/b/", HORSES))
    originals = sources.folder_pair(str(tmp_path), None, "horse2zebra").scan()
    assert list(originals.splits.items()) == [("trainA", 3), ("trainB", 2), ("testA", 1), ("testB", 1)]
    assert originals.expected == {"trainA": 1067, "trainB": 1334, "testA": 120, "testB": 140}
    assert contents(originals) == list(HORSES.values())


def test_folder_pair_without_test_images_or_without_a_domain(tmp_path: Path) -> None:
    as_folder(tmp_path / "a", {name: raw for name, raw in HORSES.items() if "train" in name})
    assert sources.folder_pair(str(tmp_path / "a"), None, "mine").scan().splits == {"trainA": 3, "trainB": 2}
    as_folder(tmp_path / "b", {name: raw for name, raw in HORSES.items() if "B" in name})
    assert "no images in a folder trainA; a pair needs" in refusal(
        lambda: sources.folder_pair(str(tmp_path / "b"), None, "mine")
    )


def test_cyclegan_sets_come_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = []

    def fetch(url: str, path: Path, checksum: str | None) -> None:
        urls.append(url)
        as_zip(path, under("maps/", HORSES))

    monkeypatch.setattr(download, "fetch", fetch)
    data = compose("data", ["data=folder_pair", "data.name=maps"]).data
    assert data.root == "data/maps"
    root = str(tmp_path / data.root)
    assert sources.folder_pair(root, None, data.source["name"]).scan().splits["trainA"] == 3
    assert urls == ["http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/maps.zip"]
    assert refusal(lambda: sources.folder_pair(str(tmp_path / "x"), None, "mine")).startswith("data.root: there is no ")


# Any images

ANY = pictures("b/c/2.PNG", "a/9.webp", "b/1.bmp")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_any_tree_in_order(tmp_path: Path, kind: str) -> None:
    files = ANY | dict.fromkeys([".hidden.png", "notes.txt"], b"")
    make = {"folder": as_folder, "zip": as_zip, "tar": as_tar}[kind]
    originals = sources.folder(str(make(tmp_path / f"x.{kind}", files)), None, "auto").scan()
    assert originals.names == ["a/9.webp", "b/1.bmp", "b/c/2.PNG"]
    assert contents(originals) == [ANY[name] for name in originals.names]
    assert (originals.splits, originals.expected) == ({"train": 3}, {})
    assert originals.labels is not None and originals.labels.tolist() == [0, 1, 1]
    assert originals.label_names == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["1.png", "2.png"], None),
        (["a/1.png", "a/2.png"], None),
        (["a/1.png", "2.png"], None),
        (["top/a/1.png", "top/b/1.png"], [0, 1]),
        (["top/b/1.png", "top/a/x/1.png", "top/a/y/1.png"], [0, 0, 1]),
    ],
)
def test_folders_are_labels_if_they_hold_all_images(tmp_path: Path, names: list[str], labels: list[int] | None) -> None:
    originals = sources.folder(str(as_folder(tmp_path, pictures(*names))), None, "auto").scan()
    assert labels == (None if originals.labels is None else originals.labels.tolist())


def listed(labels: Any) -> Files:
    return {
        **under("00000/", pictures("img0.png", "img1.png")),
        "dataset.json": json.dumps({"labels": labels}).encode(),
    }


@pytest.mark.parametrize(
    ("labels", "expected", "dtype"),
    [
        ([["00000/img1.png", 7], ["00000/img0.png", 3]], [3, 7], np.int64),
        ([["00000/img0.png", [0, 1, 1]], ["00000/img1.png", [1, 0, 0]]], [[0, 1, 1], [1, 0, 0]], np.uint8),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("prefix", ["", "top/"])
def test_labels_of_stylegan(tmp_path: Path, labels: Any, expected: Any, dtype: Any, prefix: str) -> None:
    originals = sources.folder(str(as_zip(tmp_path / "x.zip", under(prefix, listed(labels)))), None, "auto").scan()
    assert len(originals.names) == 2
    if expected is None:
        assert originals.labels is None
    else:
        assert originals.labels is not None
        assert originals.labels.tolist() == expected and originals.labels.dtype == dtype


@pytest.mark.parametrize(
    "labels",
    [
        [["00000/img0.png", 3]],
        [["00000/img0.png", 3], ["00000/img1.png", -1]],
        [["00000/img0.png", 3], ["00000/img1.png", "x"]],
        [["00000/img0.png", [0, 2]], ["00000/img1.png", [0, 1]]],
        [["00000/img0.png", [0]], ["00000/img1.png", [0, 1]]],
        [["00000/img0.png", [[0]]], ["00000/img1.png", [[1]]]],
        5,
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: Any) -> None:
    path = as_zip(tmp_path / "x.zip", listed(labels))
    message = refusal(lambda: sources.folder(str(path), None, "auto"))
    assert message.startswith(f"data.root: {path}/dataset.json does not label all images (")


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    message = refusal(lambda: sources.folder(str(tmp_path), None, "auto"))
    assert re.match(r"data\.root: no images in .* or below it; looked for \.jpg ", message)
    archive = as_zip(tmp_path / "photos.zip", {"notes.txt": b""})
    assert refusal(lambda: sources.folder(str(tmp_path), None, "auto")).endswith(
        f"there is an archive, though: data.root={archive}"
    )
    assert "no images in" in refusal(lambda: sources.folder(str(archive), None, "auto"))
    assert "there is no " in refusal(lambda: sources.folder(str(tmp_path / "x"), None, "auto"))
    assert "is neither a folder nor" in refusal(lambda: sources.folder(str(tmp_path / "notes.txt"), None, "auto"))


@pytest.mark.parametrize("source", [partial(sources.folder, labels="auto"), sources.mnist, sources.celeba])
def test_an_archive_that_is_not_there_is_not_downloaded_into(tmp_path: Path, source: Any) -> None:
    assert refusal(lambda: source(str(tmp_path / "x.zip"), None)).startswith("data.root: there is no ")
    assert not list(tmp_path.iterdir())


# The same images as an LMDB, a tar, a zip and a folder


def test_all_forms_of_the_same_images_agree(tmp_path: Path) -> None:
    as_lmdb(tmp_path / "bedroom_train_lmdb", BEDROOMS)
    forms = [
        sources.lsun(str(tmp_path), "bedroom"),
        sources.lsun_bedroom_sample(str(as_zip(tmp_path / "x.zip", NESTED)), None),
        sources.lsun_bedroom_sample(str(as_tar(tmp_path / "x.tar.gz", NESTED, "w:gz")), None),
        sources.folder(str(as_tar(tmp_path / "y.tar", NESTED)), None, "auto"),
        sources.folder(str(as_folder(tmp_path / "tree", NESTED)), None, "auto"),
    ]
    assert [contents(source.scan()) for source in forms] == [SORTED] * len(forms)
    assert len({source.stamp for source in forms}) == len(forms)


@pytest.mark.parametrize(
    ("build_source", "remote", "served"),
    [
        (sources.celeba, _celeba.REMOTE, (OFFICIAL_LIST.encode(), CELEBA)),
        (sources.places, _places.REMOTE, (STANDARD,)),
        (sources.afhq, _afhq.REMOTE, (AFHQ,)),
    ],
)
def test_what_is_downloaded_is_read_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build_source: Any, remote: Remote, served: tuple[Any, ...]
) -> None:
    fetched = []

    def fetch(url: str, path: Path, checksum: str | None) -> None:
        (content,) = [
            c for file, c in zip(remote.files, served, strict=True) if url in file.urls and file.name == path.name
        ]
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            (as_tar if path.suffix == ".tar" else as_zip)(path, content)
        fetched.append(path.name)

    monkeypatch.setattr(download, "fetch", fetch)
    category = {sources.places: "corridor", sources.afhq: "dog"}.get(build_source)
    more = ("standard",) if build_source is sources.places else ()
    images = [contents(build_source(str(tmp_path / "new"), category, *more).scan()) for _ in range(2)]
    assert images[0] == images[1] and len(images[0]) > 2
    assert fetched == [file.name for file in remote.files]


def test_folders_may_be_official_parts(tmp_path: Path) -> None:
    names = ["x/val/dog/1.png", "x/train/dog/2.png", "x/train/cat/3.png", "x/val/cat/4.png"]
    originals = sources.folder(str(as_folder(tmp_path, pictures(*names))), None, "auto").scan()
    assert originals.splits == {"train": 2, "val": 2} and list(originals.label_names) == ["cat", "dog"]
    assert list(originals.names) == ["x/train/cat/3.png", "x/train/dog/2.png", "x/val/cat/4.png", "x/val/dog/1.png"]
    assert originals.labels is not None and originals.labels.tolist() == [0, 1, 0, 1]
    as_folder(tmp_path, pictures("x/more/5.png"))  # now they are folders like any others
    assert sources.folder(str(tmp_path), None, "auto").scan().splits == {"train": 5}


@pytest.mark.parametrize("name", sorted(path.stem for path in config_dir().glob("data/*.yaml")))
def test_every_set_is_found_in_the_file_of_its_function(name: str) -> None:
    target = compose("data", [f"data={name}", "data.root=x"]).data.source["_target_"]
    function = target.removeprefix("ganduel.data.sources.")
    assert function in vars(sources), "saved configurations resume by this path"
    file = "points" if function in ("ring", "grid") else function
    module = importlib.import_module(f"ganduel.data.sources._{file}")
    assert build.locate(target, "data.source", ()) is getattr(module, function)
    assert re.search(rf"\b{name}\b", module.__doc__ or "")


# What is left out


@pytest.mark.parametrize("make", [as_folder, as_zip, as_tar])
def test_pairs_at_any_depth_and_what_is_left_out(tmp_path: Path, make: Any) -> None:
    files = pictures("x/TrainA/1.png", "x/TrainA/day1/deep/2.jfif", "x/trainb/3.jpe", "x/testA/4.png", "x/other/5.png")
    files |= {"x/TrainA/notes.TXT": b"", "x/README": b"", "x/odd.a\x1b[1m": b""}
    originals = sources.folder_pair(str(make(tmp_path / "pair.x", files)), None, "mine").scan()
    assert originals.names == ["x/TrainA/1.png", "x/TrainA/day1/deep/2.jfif", "x/trainb/3.jpe", "x/testA/4.png"]
    assert originals.splits == {"trainA": 2, "trainB": 1, "testA": 1}
    assert originals.left_out == {
        "in none of the folders trainA, trainB, testA, testB": {".png": 1},
        "no image": {"without suffix": 2, ".txt": 1},
    }


def test_parts_of_any_capitals(tmp_path: Path) -> None:
    names = ["Train/dog/2.png", "TRAIN/cat/3.png", "Testing/dog/1.png"]
    originals = sources.folder(str(as_folder(tmp_path, pictures(*names))), None, "auto").scan()
    assert originals.splits == {"train": 2, "test": 1} and list(originals.label_names) == ["cat", "dog"]
    assert list(originals.names) == ["TRAIN/cat/3.png", "Train/dog/2.png", "Testing/dog/1.png"]
    assert originals.labels is not None and originals.labels.tolist() == [0, 1, 1]


def test_formats_that_are_not_installed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "image_suffixes", lambda: (".jpg", ".png"))
    monkeypatch.setattr(_shared, "image_suffixes", lambda: (".jpg", ".png"))
    as_folder(tmp_path, {"a.HEIC": b"", "b.avif": b"", "c.avif": b"", "notes.txt": b""})
    message = refusal(lambda: sources.folder(str(tmp_path), None, "auto"))
    assert message == (
        f"data.root: no images in {tmp_path} or below it; looked for .jpg .png; there are 1 .heic (unreadable here; "
        "install pillow-heif: pip install 'ganduel[heic]'); 2 .avif (unreadable here; install a newer Pillow: "
        "pip install 'pillow>=11.3'); 1 .txt (no image)"
    )


def test_mnist_says_what_is_there_instead(tmp_path: Path) -> None:
    as_folder(tmp_path, {"train.csv": b"label,pixel0", "test.csv": b"pixel0"})
    assert refusal(lambda: sources.mnist(str(tmp_path), None)).endswith("; there are 2 .csv (no image)")
    as_zip(tmp_path / "mnist.zip", {"train.csv": b"label,pixel0"})
    message = refusal(lambda: sources.mnist(str(tmp_path / "mnist.zip"), None))
    assert "lacks train-images-idx3-ubyte.gz" in message and message.endswith("; there are 1 .csv (no image)")


@pytest.mark.parametrize(
    ("labels", "origin"),
    [
        (None, "none: dataset.json says so"),
        ([], "none: dataset.json says so"),
        (
            [[f"0000{i}/img0.png", [0.5, 1.0]] for i in range(2)],
            "none: dataset.json has continuous ones, 2 numbers an image, which no model takes",
        ),
        (
            [[f"0000{i}/img0.png", 0.5] for i in range(2)],
            "none: dataset.json has continuous ones, a number an image, which no model takes",
        ),
    ],
)
def test_folders_of_an_unlabelled_set_are_no_classes(tmp_path: Path, labels: Any, origin: str) -> None:
    files = pictures("00000/img0.png", "00001/img0.png") | {"dataset.json": json.dumps({"labels": labels}).encode()}
    originals = sources.folder(str(as_zip(tmp_path / "x.zip", files)), None, "auto").scan()
    assert originals.labels is None and list(originals.label_names) == [] and originals.labels_from == origin


def test_a_dataset_json_of_another_kind_changes_nothing(tmp_path: Path) -> None:
    as_folder(tmp_path, pictures("a/1.png", "b/2.png") | {"dataset.json": b"[1, 2]"})
    originals = sources.folder(str(tmp_path), None, "auto").scan()
    assert originals.labels is not None and originals.labels.tolist() == [0, 1]
    assert originals.labels_from == "folders"


def test_one_hot_labels_may_be_written_as_floats(tmp_path: Path) -> None:
    labels = [["00000/img0.png", [0.0, 1.0]], ["00000/img1.png", [1.0, 0.0]]]
    originals = sources.folder(str(as_zip(tmp_path / "x.zip", listed(labels))), None, "auto").scan()
    assert originals.labels is not None and originals.labels.tolist() == [[0, 1], [1, 0]]


def test_celeba_as_the_drive_has_it(tmp_path: Path) -> None:
    as_zip(tmp_path / "CelebA" / "Img" / "img_align_celeba.zip", CELEBA)
    as_folder(tmp_path / "CelebA" / "Anno", {"list_attr_celeba.txt": OFFICIAL_LIST.encode()})
    for root in (tmp_path / "CelebA", tmp_path / "CelebA" / "Img" / "img_align_celeba.zip"):
        assert sources.celeba(str(root), None).scan().label_names == ATTRIBUTES


@pytest.mark.parametrize(
    ("kind", "labels", "origin"),
    [
        ("auto", [1, 0], "dataset.json"),
        ("json", [1, 0], "dataset.json"),
        ("folders", [0, 1], "folders"),
        ("none", None, "none"),
    ],
)
def test_labels_that_are_chosen(tmp_path: Path, kind: Any, labels: Any, origin: str) -> None:
    listed = json.dumps({"labels": [["a/1.png", 1], ["b/2.png", 0]]}).encode()
    as_folder(tmp_path, pictures("a/1.png", "b/2.png") | {"dataset.json": listed})
    originals = sources.folder(str(tmp_path), None, kind).scan()
    assert originals.labels_from == origin
    assert labels == (None if originals.labels is None else originals.labels.tolist())


def test_a_damaged_list_of_labels_does_not_matter_where_it_is_not_wanted(tmp_path: Path) -> None:
    as_folder(tmp_path, pictures("a/1.png", "b/2.png") | {"dataset.json": b'{"labels": [["a/1.png", 1]]}'})
    for kind in ("auto", "json"):
        assert "does not label all images" in refusal(lambda: sources.folder(str(tmp_path), None, kind).scan())  # noqa: B023
    for kind in ("folders", "none"):
        assert sources.folder(str(tmp_path), None, kind).scan().splits == {"train": 2}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "files", "message"),
    [
        ("json", {}, "data.labels=json: .* has no labels in a dataset.json; set data.labels=auto or none"),
        ("json", {"dataset.json": b'{"labels": null}'}, "no labels in a dataset.json .none: dataset.json says so"),
        ("folders", {}, "data.labels=folders: .* has no folders of classes; set data.labels=auto or none"),
    ],
)
def test_labels_that_are_not_there(tmp_path: Path, kind: Any, files: Files, message: str) -> None:
    as_folder(tmp_path, pictures("1.png", "2.png") | files)
    with pytest.raises(UserError, match=message):
        sources.folder(str(tmp_path), None, kind).scan()
