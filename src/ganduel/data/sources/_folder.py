"""Any tree of images: folder, zip."""

import json
from collections.abc import Sequence
from posixpath import basename
from typing import Any

import numpy as np

from ganduel.data.archives import Tree
from ganduel.data.sources._shared import IMAGE_SUFFIXES, Originals, Source, is_image, open_root, originals, stamp
from ganduel.system.errors import UserError

PARTS = "train", "val", "valid", "validation", "test"


def folder(root: str, category: None) -> Source:
    """Any folder or archive of images, in the order of their paths.

    If all outermost folders have names from `PARTS` and one is train, they are the official parts. Labels come from a
    `dataset.json`, as StyleGAN's tools write it. Without such labels, the outermost folders (inside the parts) are the
    classes, if there are two or more and they hold all images.
    """
    tree = open_root(root, (), is_image, None)

    def keep(name: str) -> bool:
        return is_image(name) or basename(name) == "dataset.json"

    def scan() -> Originals:
        found = tree.find(keep)
        names = [name for name in found if is_image(name)]
        if not names:
            raise UserError(f"data.root: no images in {tree.path}; looked for {' '.join(IMAGE_SUFFIXES)}")
        classes, depth = _folders(names)
        parts = {"train": names}
        if "train" in classes and set(classes) <= set(PARTS):
            parts = {part: [n for n in names if n.split("/")[depth] == part] for part in PARTS if part in classes}
            names = [name for part in parts.values() for name in part]
            classes, depth = _folders(["/".join(name.split("/")[depth + 1 :]) for name in names], depth + 1)
        lists = [name for name in found if not is_image(name)]
        if lists and (listed := _listed_labels(tree, lists[0], names)):
            return originals(tree, parts, {}, *listed)
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([number[name.split("/")[depth]] for name in names], np.int64) if classes else None
        return originals(tree, parts, {}, labels, classes)

    return Source(stamp(tree.stamp(keep)), scan)


def _folders(names: Sequence[str], above: int = 0) -> tuple[list[str], int]:
    """The names of the outermost folders in which the paths differ, and the depth of these folders.

    There are no names if only the file names differ. `above` is added to the depth.
    """
    paths = [name.split("/") for name in names]
    shortest = min(len(path) for path in paths)
    depth = next((i for i in range(shortest) if any(path[i] != paths[0][i] for path in paths)), shortest)
    return sorted({path[depth] for path in paths}) if depth < shortest - 1 else [], above + depth


def _listed_labels(tree: Tree, name: str, names: Sequence[str]) -> tuple[np.ndarray, list[str]] | None:
    """Labels from `{"labels": [[path, class or list of 0 and 1], ...]}`; None if the list is empty.

    Returns classes, int64 (N,), or attributes, uint8 (N, K), and no names. Raises UserError if an image has no valid
    label.
    """
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
            f"data.root: {tree.path / name} does not label all images ({error!r}); repair it, or delete it to "
            "use no labels"
        ) from error
