"""Where original images come from: one function a data set, built from `data.source`.

Each finds its files under `root`, which is the set's archive, a folder that holds it, or the unpacked tree at any
depth, and downloads them where it can. An archive goes before what lies unpacked beside it, for unpacking may have been
interrupted. A set without categories takes null for `category`, so that building refuses any other.
"""

import gzip
import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ganduel.data.download import File, Remote, by_hand, obtain
from ganduel.data.trees import ARCHIVES, LARGEST, PACKED, Folder, Keep, Lmdb, Tree, Zip, file_stamp, open_tree
from ganduel.errors import UserError, suggest
from ganduel.terminal import say

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass
class Originals:
    """The images of a source, as they are before packing."""

    names: Sequence[str]  # in packing order: part by part, sorted inside
    read: Callable[[int], bytes | np.ndarray]  # an encoded file, or uint8 pixels (H, W); called from one thread only
    splits: dict[
        str, int
    ]  # images found of each official part, in order; the first is trained on (pairs: trainA, trainB)
    expected: dict[str, int]  # how many each part officially has; {} where unknown
    labels: np.ndarray | None = None  # (N,) int64 classes, or (N, K) uint8 attributes of 0 and 1
    label_names: Sequence[str] = ()  # of the classes or of the attributes


@dataclass
class Source:
    """A data set's original files.

    `stamp` is cheap and changes whenever the files, or what is taken of them, do; `scan` lists the images, which may
    take minutes.
    """

    stamp: str
    scan: Callable[[], Originals]
    width: int | None = None  # data.crop counts pixels of images this wide; null: of each image as it is


# What the sets share


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _near(top: Path, *patterns: str) -> list[Path]:
    """Files in a folder, or in a folder of it, that match the first pattern, then the second, ..."""
    found = [p for pattern in patterns for depth in (pattern, f"*/{pattern}") for p in sorted(top.glob(depth))]
    return [p for p in found if p.is_file() and PACKED not in p.relative_to(top).parts]


def _tree(root: str, archives: Sequence[str], keep: Keep, remote: Remote | None) -> Tree:
    """What `root` is or holds: the first archive of these names, else the folder, if it has something to keep.

    Where it has nothing, the set is downloaded, or a UserError says what to do.
    """
    if (found := _look(Path(root), archives, keep)) is not None:
        return found
    if remote is None:
        raise _nothing(Path(root))
    if not remote.files[0].urls:
        raise by_hand(remote, [f.name for f in remote.files], Path(root), "has to be fetched by hand")
    obtain(remote, Path(root))
    return open_tree(Path(root) / remote.files[-1].name)


def _look(top: Path, archives: Sequence[str], keep: Keep) -> Tree | None:
    if top.is_file():
        return open_tree(top)
    if not top.exists():
        if top.name.lower().endswith(ARCHIVES):  # a misspelt archive is no place to download to
            raise _nothing(top)
        return None
    if held := [path for path in _near(top, *archives) if path.name.lower().endswith(ARCHIVES)]:
        return open_tree(held[0])
    folder = Folder(top)
    return folder if next(folder.walk(keep), None) else None


def _nothing(top: Path) -> UserError:
    if not top.is_dir():
        return UserError(f"data.root: there is no {top}; name the folder or archive of your images with data.root=PATH")
    archives = [str(path) for path in _near(top, "*") if path.name.lower().endswith(ARCHIVES)]
    hint = f"; there is an archive, though: data.root={archives[0]}" if archives else ""
    return UserError(f"data.root: no images in {top} or below it; looked for {' '.join(IMAGE_SUFFIXES)}{hint}")


def _stamp(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def _originals(
    tree: Tree,
    parts: Mapping[str, Sequence[str]],
    expected: dict[str, int],
    labels: np.ndarray | None = None,
    label_names: Sequence[str] = (),
) -> Originals:
    """Images of a tree, by official part."""
    if not isinstance(tree, Folder):
        say(f"reading {tree.path}; what may lie unpacked beside it is not looked at")
    names = [name for part in parts.values() for name in part]
    splits = {part: len(found) for part, found in parts.items()}
    return Originals(names, lambda i: tree.read(names[i]), splits, expected, labels, label_names)


def _by_folder(tree: Tree, names: Iterable[str], parts: Sequence[str], depth: int) -> dict[str, list[str]]:
    """Images by the official part that names the folder `depth` above them. Raises UserError for two sets in a tree."""
    found: dict[str, list[str]] = {part: [] for part in parts}
    tops = set()
    for name in names:
        folders = name.split("/")[:-1]
        found[folders[-depth]].append(name)
        tops.add("/".join(folders[:-depth]))
    if len(tops) > 1:
        raise UserError(f"data.root: {tree.path} holds more than one such set; name one: {', '.join(sorted(tops))}")
    return {part: names for part, names in found.items() if names}


# Digits and MNIST


def digits(root: str | None, category: None) -> Source:
    """The 1,797 handwritten digits of 8x8 pixels that ship inside scikit-learn (Alpaydin and Kaynak 1998)."""

    def scan() -> Originals:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        return _arrays({"train": pixels}, bunch.target, {"train": 1797})

    return Source(_stamp("scikit-learn digits"), scan)


MNIST = Remote(
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    [
        File(
            f"{name}-ubyte.gz",
            [
                f"{mirror}/{name}-ubyte.gz"
                for mirror in ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
            ],
            md5,
        )
        for name, md5 in {
            "train-images-idx3": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1": "ec29112dd5afa0611ce80d1b7f02629c",
        }.items()
    ],
)
MNIST_FILE = re.compile(  # not those of its imitators, which torchvision keeps beside it under the same names
    r"^(?!.*(?:fashion|[ekq])[-_]?mnist/)(?:.*/)?(train|t10k)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?$", re.I | re.S
)


def mnist(root: str, category: None) -> Source:
    """MNIST (LeCun et al. 1998): 60,000 training and 10,000 test digits of 28x28 pixels, in IDX files, gzipped or not.

    Downloads what is absent into `root`/MNIST/raw, where torchvision has it too.
    """
    tree = _look(Path(root), ("*mnist*.zip", "*MNIST*.zip", "archive.zip"), MNIST_FILE.search) or Folder(Path(root))
    files = _mnist_files(tree) if tree.path.exists() else {}
    if missing := [f for f in MNIST.files if _mnist_kind(f.name) not in files]:
        if not isinstance(tree, Folder):
            raise UserError(
                f"data.root: {tree.path} lacks {missing[0].name}; give the folder of the four files of MNIST"
            )
        obtain(replace(MNIST, files=missing), tree.path / "MNIST" / "raw")
        files = _mnist_files(tree)

    def scan() -> Originals:
        images, labels = (
            {part: _idx(tree, files[part, kind]) for part in ("train", "t10k")} for kind in ("images", "labels")
        )
        for part, pixels in images.items():
            if pixels.ndim != 3 or labels[part].shape != pixels.shape[:1]:
                raise UserError(
                    f"data.root: the MNIST files in {tree.path} do not belong together: "
                    f"{pixels.shape}, {labels[part].shape}"
                )
        parts = {"train": images["train"], "test": images["t10k"]}
        return _arrays(parts, np.concatenate(list(labels.values())), {"train": 60_000, "test": 10_000})

    return Source(_stamp(tree.stamp(MNIST_FILE.search)), scan)


def _mnist_files(tree: Tree) -> dict[tuple[str, str], str]:
    """Where each file of MNIST is; unpacked before gzipped, the outermost of copies."""
    found = sorted(tree.find(MNIST_FILE.search), key=lambda name: (name.endswith(".gz"), name.count("/"), name))
    return {_mnist_kind(name): name for name in reversed(found)}


def _mnist_kind(name: str) -> tuple[str, str]:
    match = MNIST_FILE.search(name)
    assert match, name
    return match[1], match[2]


def _idx(tree: Tree, name: str) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format: two zeros, type 8, dimensions, big-endian sizes, data."""
    try:
        raw = tree.read(name)
        if name.endswith(".gz"):
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(LARGEST)
        zeros, kind, dimensions = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dimensions}I", raw, 4)
        if (zeros, kind) != (0, 8):
            raise ValueError("it does not begin like an IDX file")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise UserError(
            f"data.root: {tree.path / name} is damaged ({error}); delete it and run again to download it anew"
        ) from error


def _arrays(parts: dict[str, np.ndarray], labels: np.ndarray, expected: dict[str, int]) -> Originals:
    """Images that are in memory already: uint8 (N, H, W) a part, and a digit each."""
    names = [f"{part} {i}" for part, images in parts.items() for i in range(len(images))]
    pixels = np.concatenate(list(parts.values()))
    splits = {part: len(images) for part, images in parts.items()}
    return Originals(names, lambda i: pixels[i], splits, expected, labels.astype(np.int64), list("0123456789"))


# CelebA

DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
CELEBA = Remote(
    "CelebA",
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    [
        File(
            "list_attr_celeba.txt",
            [DRIVE + "0B7EVK8r0v71pblRyaVFSWGxPY0U"],
            "75e246fa4810816ffd6ee81facbd244c",
        ),
        File(
            "img_align_celeba.zip",
            [DRIVE + "0B7EVK8r0v71pZjFTYXZWM3FlRnM"],
            "00d2c5bc6d35e252742224ab0c1e8fcb",
        ),
    ],
)
CELEBA_PARTS = {"train": range(1, 162_771), "valid": range(162_771, 182_638), "test": range(182_638, 202_600)}
CELEBA_FACE = re.compile(r"(?:^|/)(?<!img_celeba/)(\d{6})\.(?:jpg|png)$")  # not those "in the wild"
CELEBA_ATTRIBUTES = re.compile(r"(?:^|/)list_attr_celeba\.(?:txt|csv)$")


def celeba(root: str, category: None) -> Source:
    """CelebA (Liu et al. 2015): 202,599 aligned faces of 178x218 pixels, in official parts by number.

    The 40 attributes are the labels, where their list is in the tree or near the archive.
    """
    tree = _tree(root, ("img_align_celeba*.zip", "*celeba*.zip", "archive.zip"), CELEBA_FACE.search, CELEBA)
    top = tree.path if isinstance(tree, Folder) else tree.path.parent
    lists = _near(top, "list_attr_celeba.txt", "list_attr_celeba.csv")[:1]

    def keep(name: str) -> bool:
        return bool(CELEBA_FACE.search(name) or CELEBA_ATTRIBUTES.search(name))

    def scan() -> Originals:
        found = tree.find(keep)
        faces = {int(match[1]): name for name in reversed(found) if (match := CELEBA_FACE.search(name))}
        parts = {part: [faces[n] for n in numbers if n in faces] for part, numbers in CELEBA_PARTS.items()}
        expected = {part: len(numbers) for part, numbers in CELEBA_PARTS.items()}
        inside = [name for name in found if CELEBA_ATTRIBUTES.search(name)]
        if strangers := sorted(faces.keys() - {n for numbers in CELEBA_PARTS.values() for n in numbers}):
            raise UserError(f"data.root: {tree.path} has {faces[strangers[0]]}, but CelebA ends at 202599")
        if copies := len(found) - len(inside) - len(faces):
            say(f"{copies:,} images of CelebA are there more than once; one of each number is taken")
        if not lists and not inside:
            return _originals(tree, parts, expected)
        text = lists[0].read_bytes() if lists else tree.read(inside[0])
        labels, names = _attributes(text, sorted(faces), lists[0] if lists else tree.path / inside[0])
        return _originals(tree, parts, expected, labels, names)

    return Source(_stamp(tree.stamp(keep), *map(file_stamp, lists)), scan, width=178)


def _attributes(text: bytes, numbers: Sequence[int], path: Path) -> tuple[np.ndarray, list[str]]:
    """CelebA's attributes of these images, uint8 (N, 40), and their names; from the official list or from the CSV."""
    header: list[str] = []
    table: dict[int, bytes] = {}
    try:
        for line in text.decode().splitlines():
            cells = line.replace(",", " ").split()
            if header and cells:
                table[int(cells[0][:6])] = bytes({"-1": 0, "0": 0, "1": 1}[cell] for cell in cells[1:])
            elif len(cells) > 1:  # the official list begins with a count
                header = cells[-40:]
        labels = np.frombuffer(b"".join(table[n] for n in numbers), np.uint8)
        return labels.reshape(len(numbers), len(header)), header
    except (ValueError, KeyError) as error:
        raise UserError(
            f"data.root: {path} is damaged or cut off ({error!r}); download it again, or delete it to go without labels"
        ) from error


# LSUN

LSUN_TRAIN = {"bedroom": 3_033_042}  # counts of official parts, where they are known
LSUN_VAL = 300


def lsun(root: str, category: str) -> Source:
    """A category of LSUN (Yu et al. 2015) as it is published: databases `<category>_train_lmdb` and, where it is there,
    `<category>_val_lmdb`. A zip of one is unpacked beside it, once: LMDB reads only files."""
    top = Path(root)
    named = (top / "data.mdb").is_file()
    base = top if top.is_dir() and not named else top.parent
    train = Lmdb(top) if named else _lsun_part(base, f"{category}_train_lmdb", [top] if top.is_file() else [])
    val = _lsun_part(base, f"{category}_val_lmdb", [])
    if train is None:
        remote = Remote(f"LSUN {category}", "https://www.yf.io/p/lsun", [])
        raise by_hand(remote, [f"{category}_train_lmdb.zip"], top, "has to be fetched by hand")

    def scan() -> Originals:
        names, held_out = train.find(bool), val.find(bool) if val else []
        count = len(names)
        names += held_out
        expected = {"train": LSUN_TRAIN[category]} if category in LSUN_TRAIN else {}
        return Originals(
            names,
            lambda i: train.read(names[i]) if i < count or val is None else val.read(names[i]),
            {"train": count} | ({"val": len(held_out)} if val else {}),
            expected | ({"val": LSUN_VAL} if val and expected else {}),
        )

    return Source(_stamp(category, *(part.stamp(bool) for part in (train, val) if part)), scan)


def _lsun_part(base: Path, name: str, archives: list[Path]) -> Lmdb | None:
    """The database of this name in or below a folder, unpacked where only its zip is there."""
    if found := _near(base, f"{name}/data.mdb"):
        return Lmdb(found[0].parent)
    if not (archives := archives or _near(base, f"{name}.zip")):
        return None
    archive = open_tree(archives[0])
    if not isinstance(archive, Zip):
        raise UserError(f"data.root: {archives[0]} is no zip of {name}")
    folder = archives[0].parent / name
    archive.unpack(lambda member: member.endswith("data.mdb"), folder / "data.mdb")
    return Lmdb(folder)


LSUN_SAMPLE = Remote(
    "the LSUN bedroom sample",
    "https://www.kaggle.com/datasets/jhoward/lsun_bedroom",
    [File("archive.zip", [], None)],
)


def lsun_bedroom_sample(root: str, category: None) -> Source:
    """A fifth of LSUN's bedrooms as JPEGs in nested folders: 303,125 images. Those under `sample/` are left out where
    they are copies of others."""
    tree = _tree(root, ("*bedroom*.zip", "*lsun*.zip", "archive.zip"), is_image, LSUN_SAMPLE)

    def scan() -> Originals:
        found = tree.find(is_image)
        whole = {_base(name) for name in found if not _in_sample(name)}
        names = [name for name in found if not _in_sample(name) or _base(name) not in whole]
        return _originals(tree, {"train": names}, {"train": 303_125})

    return Source(_stamp(tree.stamp(is_image)), scan)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _in_sample(name: str) -> bool:
    return "sample" in name.split("/")[:-1]


# Places

PLACES = Remote(
    "Places365",
    "http://places2.csail.mit.edu/download.html",
    [
        File(
            "train_256_places365standard.tar",
            ["http://data.csail.mit.edu/places/places365/train_256_places365standard.tar"],
            "53ca1c756c3d1e7809517cc47c5561c5",
        )
    ],
)
PLACES_ARCHIVES = ("train*places365*.tar*", "places365*easyformat*.tar*", "*[pP]laces*.zip", "archive.zip")


def places(root: str, category: str | None) -> Source:
    """One category of Places365 (Zhou et al. 2017): at most 5,000 images in the standard set.

    The category's folder is found under its letter, as published, or alone; one of two levels, as
    `apartment_building/outdoor`, also where it is spelt with a hyphen. How many there should be is
    known where the official list, `places365_train_standard.txt`, is near.
    """
    if category is None:
        raise UserError("data.category is missing: give one of Places365, as data.category=kitchen")
    wanted = category.replace("-", "/")
    tree = _tree(root, PLACES_ARCHIVES, is_image, PLACES)
    around = tree.path.resolve().parts[-2:] if isinstance(tree, Folder) else (tree.path.name.partition(".")[0],)
    seen: set[str] = set()

    def keep(name: str) -> bool:
        if not is_image(name):
            return False
        classes = _place_classes(name.split("/")[:-1] or around)
        seen.update(classes)
        return wanted in classes

    def scan() -> Originals:
        names = tree.find(keep)
        if not names:
            raise UserError(f"data.category={category} is not in {tree.path}. {suggest(wanted, seen)}")
        parts: dict[str, list[str]] = {"train": [], "val": []}
        for name in names:
            parts["val" if "val" in name.split("/")[:-1] else "train"].append(name)
        top = tree.path if isinstance(tree, Folder) else tree.path.parent
        expected = _places_expected(top, wanted)
        return _originals(tree, {part: found for part, found in parts.items() if found}, expected)

    return Source(_stamp(wanted, tree.stamp(keep)), scan)


def _place_classes(folders: Sequence[str]) -> set[str]:
    """The classes that the folders around an image may mean: what follows its letter, else the last one or two."""
    for i, (letter, name) in enumerate(pairwise(folders), 1):
        if len(letter) == 1 and name.startswith(letter):
            return {"/".join(folders[i:]).replace("-", "/")}
    return {"/".join(folders[-depth:]).replace("-", "/") for depth in (1, 2)}


def _places_expected(top: Path, category: str) -> dict[str, int]:
    """How many training images the official list gives a category; {} without the list."""
    name = "places365_train_standard.txt"
    if lists := _near(top, name):
        text = lists[0].read_bytes()
    elif archives := _near(top, "filelist_places365-standard.tar"):
        archive = open_tree(archives[0])
        text = archive.read(archive.find(lambda member: member.endswith(name))[0])
    else:
        return {}
    return {"train": len(re.findall(rf"^/\w/{re.escape(category)}/[^/]+$".encode(), text, re.MULTILINE))}


# AFHQ

AFHQ = Remote(
    "AFHQ",
    "https://github.com/clovaai/stargan-v2",
    [File("afhq.zip", ["https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1"], None)],
)
AFHQ_TRAIN = {"val": {"cat": 5153, "dog": 4739, "wild": 4738}, "test": {"cat": 5065, "dog": 4678, "wild": 4593}}
AFHQ_HELD_OUT = {"val": {"cat": 500, "dog": 500, "wild": 500}, "test": {"cat": 493, "dog": 491, "wild": 483}}


def afhq(root: str, category: Literal["dog", "cat", "wild"]) -> Source:
    """One animal of AFHQ (Choi et al. 2020), 512x512: version 1 (JPEG, train and val) or 2 (PNG, train and test)."""
    tree = _tree(root, ("afhq*.zip", "archive.zip"), is_image, AFHQ)
    inside = re.compile(rf"(?:^|/)(?:train|val|test)/{category}/[^/]+$")

    def keep(name: str) -> bool:
        return is_image(name) and bool(inside.search(name))

    def scan() -> Originals:
        parts = _by_folder(tree, tree.find(keep), ("train", "val", "test"), depth=2)
        if "train" not in parts:
            raise UserError(f"data.root: {tree.path} has no images in a folder train/{category}; name that of AFHQ")
        held_out = "test" if "test" in parts else "val"  # which tells the versions apart
        expected = {"train": AFHQ_TRAIN[held_out][category], held_out: AFHQ_HELD_OUT[held_out][category]}
        return _originals(tree, parts, expected)

    return Source(_stamp(category, tree.stamp(keep)), scan)


# Pairs of domains

PAIR_PARTS = "trainA", "trainB", "testA", "testB"
CYCLEGAN = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/"
CYCLEGAN_SETS = (
    "apple2orange",
    "cezanne2photo",
    "cityscapes",
    "facades",
    "horse2zebra",
    "iphone2dslr_flower",
    "maps",
    "monet2photo",
    "summer2winter_yosemite",
    "ukiyoe2photo",
    "vangogh2photo",
)
PAIR_COUNTS = {"horse2zebra": (1067, 1334, 120, 140)}


def folder_pair(root: str, category: None, name: str) -> Source:
    """Two domains without correspondence, in folders trainA, trainB and perhaps testA, testB (Zhu et al. 2017).

    `name`d like one of the CycleGAN authors' sets, it is downloaded.
    """

    def keep(path: str) -> bool:
        return is_image(path) and any(part in PAIR_PARTS for part in path.split("/")[-2:-1])

    remote = Remote(name, CYCLEGAN, [File(f"{name}.zip", [f"{CYCLEGAN}{name}.zip"], None)])
    tree = _tree(root, (f"{name}.zip",), is_image, remote if name in CYCLEGAN_SETS else None)

    def scan() -> Originals:
        parts = _by_folder(tree, tree.find(keep), PAIR_PARTS, depth=1)
        for part in PAIR_PARTS[:2]:
            if part not in parts:
                raise UserError(
                    f"data.root: {tree.path} has no images in a folder {part}; a pair needs trainA and trainB"
                )
        expected = dict(zip(PAIR_PARTS, PAIR_COUNTS[name], strict=True)) if name in PAIR_COUNTS else {}
        return _originals(tree, parts, expected)

    return Source(_stamp(tree.stamp(keep)), scan)


# Anything else


def folder(root: str, category: None) -> Source:
    """Any tree of images, a folder or an archive, in the order of their paths.

    Outermost folders train and, perhaps, val or test are official parts. Labels are those of a `dataset.json` as
    StyleGAN's tools write it, else the outermost folders (inside the parts), if all images are in two or more of them.
    """
    tree = _tree(root, (), is_image, None)

    def keep(name: str) -> bool:
        return is_image(name) or _base(name) == "dataset.json"

    def scan() -> Originals:
        found = tree.find(keep)
        names = [name for name in found if is_image(name)]
        if not names:
            raise UserError(f"data.root: no images in {tree.path}; looked for {' '.join(IMAGE_SUFFIXES)}")
        classes, depth = _folders(names)
        parts = {"train": names}
        if "train" in classes and set(classes) <= set(FOLDER_PARTS):
            parts = {
                part: [n for n in names if n.split("/")[depth] == part] for part in FOLDER_PARTS if part in classes
            }
            names = [name for part in parts.values() for name in part]
            classes, depth = _folders(["/".join(name.split("/")[depth + 1 :]) for name in names], depth + 1)
        lists = [name for name in found if not is_image(name)]
        if lists and (listed := _listed_labels(tree, lists[0], names)):
            return _originals(tree, parts, {}, *listed)
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([number[name.split("/")[depth]] for name in names], np.int64) if classes else None
        return _originals(tree, parts, {}, labels, classes)

    return Source(_stamp(tree.stamp(keep)), scan)


FOLDER_PARTS = "train", "val", "valid", "validation", "test"


def _folders(names: Sequence[str], above: int = 0) -> tuple[list[str], int]:
    """The outermost folders in which the paths differ, and how deep they are; none where only the files' names do."""
    paths = [name.split("/") for name in names]
    shortest = min(len(path) for path in paths)
    depth = next((i for i in range(shortest) if any(path[i] != paths[0][i] for path in paths)), shortest)
    return sorted({path[depth] for path in paths}) if depth < shortest - 1 else [], above + depth


def _listed_labels(tree: Tree, name: str, names: Sequence[str]) -> tuple[np.ndarray, list[str]] | None:
    """Labels from `{"labels": [[path, class or list of 0 and 1], ...]}`; None where there are none."""
    try:
        pairs: Any = json.loads(tree.read(name))["labels"]
        if not pairs:
            return None
        table = {name.removesuffix("dataset.json") + path: label for path, label in pairs}
        labels = np.array([table[path] for path in names])
        kind, largest = (np.int64, None) if labels.ndim == 1 else (np.uint8, 1)
        if labels.dtype.kind != "i" or labels.min() < 0 or (largest and labels.max() > largest):
            raise ValueError("labels are classes from 0 or lists of 0 and 1")
        return labels.astype(kind), []
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"data.root: {tree.path / name} does not label all images ({error!r}); mend it, or delete it to go without"
        ) from error
