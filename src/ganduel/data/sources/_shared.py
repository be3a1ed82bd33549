"""What the sources share: what a source is, how `root` leads to its files, and images by official part."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganduel.data.archives import ARCHIVES, PACKED, Folder, Keep, Tree, open_tree
from ganduel.data.download import Remote, by_hand, obtain
from ganduel.system.errors import UserError
from ganduel.system.terminal import say

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass
class Originals:
    """The images of a source, as they are before packing."""

    names: Sequence[str]  # in packing order: part by part, sorted inside
    read: Callable[[int], bytes | np.ndarray]  # an encoded file, or uint8 pixels (H, W); called from one thread only
    splits: dict[str, int]  # images found of each official part; the first is trained on (pairs: trainA, trainB)
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


def is_image(name: str) -> bool:
    """By its suffix."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def near(top: Path, *patterns: str) -> list[Path]:
    """Files in a folder, or in a folder of it, that match the first pattern, then the second, ..."""
    found = [p for pattern in patterns for depth in (pattern, f"*/{pattern}") for p in sorted(top.glob(depth))]
    return [p for p in found if p.is_file() and PACKED not in p.relative_to(top).parts]


def open_root(root: str, archives: Sequence[str], keep: Keep, remote: Remote | None) -> Tree:
    """What `root` is or holds: the first archive of these names, else the folder, if it has something to keep.

    Where it has nothing, the set is downloaded, or a UserError says what to do.
    """
    if (found := look(Path(root), archives, keep)) is not None:
        return found
    if remote is None:
        raise _nothing(Path(root))
    if not remote.files[0].urls:
        raise by_hand(remote, [f.name for f in remote.files], Path(root), "has to be fetched by hand")
    obtain(remote, Path(root))
    return open_tree(Path(root) / remote.files[-1].name)


def home(tree: Tree) -> Path:
    """The folder itself, or the one that the archive lies in."""
    return tree.path if isinstance(tree, Folder) else tree.path.parent


def look(top: Path, archives: Sequence[str], keep: Keep) -> Tree | None:
    """The same, without a download: None where there is nothing. Raises UserError for an archive that is not there."""
    if top.is_file():
        return open_tree(top)
    if not top.exists():
        if top.name.lower().endswith(ARCHIVES):  # a misspelt archive is no place to download to
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
    return UserError(f"data.root: no images in {top} or below it; looked for {' '.join(IMAGE_SUFFIXES)}{hint}")


def stamp(*parts: str) -> str:
    """One stamp of several."""
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def originals(
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


def by_folder(tree: Tree, names: Iterable[str], parts: Sequence[str], depth: int) -> dict[str, list[str]]:
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
