"""Code that all sources share: the `Source` type, the search for files under `root`, and images by official part."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ganduel.data.archives import PACKED, Folder, Keep, Tree, open_tree
from ganduel.data.download import Remote, by_hand, obtain
from ganduel.data.formats import Chooser, described, image_suffixes, is_image, why_not
from ganduel.system.errors import UserError
from ganduel.system.files import ARCHIVES
from ganduel.system.terminal import say


@dataclass
class Originals:
    """The images of a source before packing."""

    names: Sequence[str]  # in packing order: part by part, sorted within a part
    read: Callable[[int], bytes | np.ndarray]  # an encoded file, or uint8 pixels (H, W); called from one thread only
    splits: dict[str, int]  # images found in each official part; the first part trains (pairs: trainA and trainB)
    expected: dict[str, int]  # official number of images in each part; {} if unknown
    labels: np.ndarray | None = None  # (N,) int64 classes, or (N, K) uint8 attributes of 0 and 1
    label_names: Sequence[str] = ()  # of the classes or of the attributes
    labels_from: str = ""  # where the labels come from, or why there are none
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)  # reason -> suffix -> number of files
    note: str = ""  # a warning for people who train on these images
    points: "Points | None" = None  # only of a set of points: they are stored unchanged, and `read` is not called


class Points(NamedTuple):
    """Points in the plane, drawn around the centres of modes."""

    positions: np.ndarray  # (N, 2), float32
    centres: np.ndarray  # (K, 2)
    std: float  # standard deviation of x and of y around a centre


@dataclass
class Source:
    """A data set's original files.

    `stamp` is cheap; it changes whenever the files or the choice of files change. `scan` lists the images, which may
    take minutes.
    """

    stamp: str
    scan: Callable[[], Originals]
    width: int | None = None  # data.crop is for images of this width and scales with others; None: it never scales
    plane: bool = False  # whether these are points in the plane, not images


def chooser(other: Callable[[str], str | None] = lambda name: None, also: Keep = lambda name: False) -> Chooser:
    """Chooses the images of a tree and counts everything else.

    `other` gets the name of an image and returns why it is left out, or None if it is wanted. `also` chooses files that
    are no images.
    """

    def reason(name: str) -> str | None:
        if also(name):
            return None
        return other(name) if is_image(name) else why_not(name)

    return Chooser(reason)


def what_is_there(tree: Tree) -> str:
    """The end of an error: the numbers of files in a tree by suffix, and why no image is read; "" if it is empty."""
    seen = chooser(lambda name: "not among the files that this set takes")
    tree.find(seen)
    return f"; there are {'; '.join(described(seen.left_out))}" if seen.counts else ""


def near(top: Path, *patterns: str) -> list[Path]:
    """Files in a folder or in its direct subfolders that match the first pattern, then the second, and so on."""
    found = [p for pattern in patterns for depth in (pattern, f"*/{pattern}") for p in sorted(top.glob(depth))]
    return [p for p in found if p.is_file() and PACKED not in p.relative_to(top).parts]


def open_root(root: str, archives: Sequence[str], keep: Keep, remote: Remote | None) -> Tree:
    """Open what `root` is or holds: the first archive that matches `archives`, else the folder if it has wanted files.

    If there are none, download the data set, or raise a UserError that tells what to do.
    """
    if (found := look(Path(root), archives, keep)) is not None:
        return found
    if remote is None:
        raise _nothing(Path(root))
    if not remote.files[0].urls:
        raise missing(remote, [f.name for f in remote.files], Path(root))
    fetched(remote, Path(root), Path(root))
    return open_tree(Path(root) / remote.files[-1].name)


def home(tree: Tree) -> Path:
    """The tree's folder, or the folder that holds its archive."""
    return tree.path if isinstance(tree, Folder) else tree.path.parent


def look(top: Path, archives: Sequence[str], keep: Keep) -> Tree | None:
    """Like `open_root`, but without a download: None if nothing is found. Raises UserError for a missing archive."""
    if top.is_file():
        return open_tree(top)
    if not top.exists():
        if top.name.lower().endswith(ARCHIVES):  # probably a misspelt archive, so do not download into a folder of it
            raise _nothing(top)
        return None
    if held := [path for path in near(top, *archives) if path.name.lower().endswith(ARCHIVES)]:
        return open_tree(held[0])
    folder = Folder(top)
    return folder if next(folder.walk(keep), None) else None


def _nothing(top: Path) -> UserError:
    if not top.is_dir():
        return UserError(f"data.root: there is no {top}; name the folder or archive of your images with data.root=PATH")
    archives = [str(path) for path in near(top, "*") if path.name.lower().endswith(ARCHIVES)]
    hint = f"; there is an archive, though: data.root={archives[0]}" if archives else ""
    looked = f"looked for {' '.join(image_suffixes())}"
    return UserError(f"data.root: no images in {top} or below it; {looked}{what_is_there(Folder(top))}{hint}")


def fetched(remote: Remote, folder: Path, top: Path) -> None:
    """Download the missing files of a data set into a folder. The error of a failure also says what is in `top`."""
    try:
        obtain(remote, folder)
    except UserError as error:
        raise UserError(f"{error}{what_is_there(Folder(top))}") from error


def missing(remote: Remote, names: Sequence[str], top: Path) -> UserError:
    """The error for a data set that has to be fetched by hand and is not in `top`. It says what is there."""
    error = by_hand(remote, names, top, "has to be fetched by hand")
    return UserError(f"{error}{what_is_there(Folder(top))}") if top.is_dir() else error


def stamp(*parts: str) -> str:
    """Combine several stamps into one."""
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def originals(
    tree: Tree,
    parts: Mapping[str, Sequence[str]],
    expected: dict[str, int],
    labels: np.ndarray | None = None,
    label_names: Sequence[str] = (),
    *,
    labels_from: str = "",
    left_out: dict[str, dict[str, int]] | None = None,
) -> Originals:
    """Originals from the files of a tree; `parts` maps each official part to its file names."""
    if not isinstance(tree, Folder):
        say(f"reading {tree.path}; unpacked files beside it are ignored")
    names = [name for part in parts.values() for name in part]
    splits = {part: len(found) for part, found in parts.items()}
    return Originals(
        names, lambda i: tree.read(names[i]), splits, expected, labels, label_names, labels_from, left_out or {}
    )


def part_of(name: str, parts: Sequence[str]) -> tuple[str, int] | None:
    """The official part of a file: that of its outermost folder with the name of a part, and that folder's depth.

    Capital letters do not matter. None if no folder has such a name.
    """
    known = {part.lower(): part for part in parts}
    folders = (folder.lower() for folder in name.split("/")[:-1])
    return next(((known[folder], depth) for depth, folder in enumerate(folders) if folder in known), None)


def by_folder(tree: Tree, names: Iterable[str], parts: Sequence[str]) -> dict[str, list[str]]:
    """Group images by official part: see `part_of`. The images may lie at any depth below the part's folder.

    Raises UserError if the tree holds more than one data set.
    """
    found: dict[str, list[str]] = {part: [] for part in parts}
    tops = set()
    for name in names:
        if (where := part_of(name, parts)) is not None:
            found[where[0]].append(name)
            tops.add("/".join(name.split("/")[: where[1]]))
    if len(tops) > 1:
        raise UserError(f"data.root: {tree.path} holds more than one such set; name one: {', '.join(sorted(tops))}")
    return {part: names for part, names in found.items() if names}
