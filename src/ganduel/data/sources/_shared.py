"""Code that all sources share: the `Source` type, the search for files under `root`, and images by official part."""

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
    """The images of a source before packing."""

    names: Sequence[str]  # in packing order: part by part, sorted within a part
    read: Callable[[int], bytes | np.ndarray]  # an encoded file, or uint8 pixels (H, W); called from one thread only
    splits: dict[str, int]  # images found in each official part; the first part trains (pairs: trainA and trainB)
    expected: dict[str, int]  # official number of images in each part; {} if unknown
    labels: np.ndarray | None = None  # (N,) int64 classes, or (N, K) uint8 attributes of 0 and 1
    label_names: Sequence[str] = ()  # of the classes or of the attributes


@dataclass
class Source:
    """A data set's original files.

    `stamp` is cheap; it changes whenever the files or the choice of files change. `scan` lists the images, which may
    take minutes.
    """

    stamp: str
    scan: Callable[[], Originals]
    width: int | None = None  # data.crop is for images of this width and scales with others; None: it never scales


def is_image(name: str) -> bool:
    """Whether a file name has the suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


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
        raise by_hand(remote, [f.name for f in remote.files], Path(root), "has to be fetched by hand")
    obtain(remote, Path(root))
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
    return UserError(f"data.root: no images in {top} or below it; looked for {' '.join(IMAGE_SUFFIXES)}{hint}")


def stamp(*parts: str) -> str:
    """Combine several stamps into one."""
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def originals(
    tree: Tree,
    parts: Mapping[str, Sequence[str]],
    expected: dict[str, int],
    labels: np.ndarray | None = None,
    label_names: Sequence[str] = (),
) -> Originals:
    """Originals from the files of a tree; `parts` maps each official part to its file names."""
    if not isinstance(tree, Folder):
        say(f"reading {tree.path}; unpacked files beside it are ignored")
    names = [name for part in parts.values() for name in part]
    splits = {part: len(found) for part, found in parts.items()}
    return Originals(names, lambda i: tree.read(names[i]), splits, expected, labels, label_names)


def by_folder(tree: Tree, names: Iterable[str], parts: Sequence[str], depth: int) -> dict[str, list[str]]:
    """Group images by official part: the name of the folder `depth` levels above the image.

    Raises UserError if the tree holds more than one data set.
    """
    found: dict[str, list[str]] = {part: [] for part in parts}
    tops = set()
    for name in names:
        folders = name.split("/")[:-1]
        found[folders[-depth]].append(name)
        tops.add("/".join(folders[:-depth]))
    if len(tops) > 1:
        raise UserError(f"data.root: {tree.path} holds more than one such set; name one: {', '.join(sorted(tops))}")
    return {part: names for part, names in found.items() if names}
