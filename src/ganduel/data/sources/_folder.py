"""Any tree of images: folder, zip."""

import json
from collections.abc import Sequence
from posixpath import basename
from typing import Any, Literal, NamedTuple

import numpy as np

from ganduel.data.archives import Tree
from ganduel.data.formats import image_suffixes, is_image
from ganduel.data.sources._shared import (
    Originals,
    Source,
    chooser,
    open_root,
    originals,
    stamp,
    what_is_there,
)
from ganduel.system.errors import UserError

# Names of folders of official parts, in lower case, in the order of packing -> the part's name
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "valid",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


class Labels(NamedTuple):
    """The labels of all images, or None, with their names and a text on their origin, or on why there are none."""

    values: np.ndarray | None
    names: Sequence[str]
    origin: str


Kind = Literal["auto", "folders", "json", "none"]


def folder(root: str, category: None, labels: Kind) -> Source:
    """Any folder or archive of images, in the order of their paths.

    If all outermost folders have names from `PARTS` and one is train, they are the official parts; capital letters do
    not matter. Labels "json" come from a `dataset.json`, as StyleGAN's tools write it. Labels "folders" are the
    outermost folders (inside the parts), if there are two or more and they hold all images. "auto" takes the
    `dataset.json` if there is one: if it says that there are no labels, or has continuous ones, the set has none.
    Otherwise it takes the folders. The scan raises UserError if the labels that `labels` asks for are not there.
    """
    tree = open_root(root, (), is_image, None)

    def keep(name: str) -> bool:
        return is_image(name) or _lists_labels(name)

    def scan() -> Originals:
        chosen = chooser(also=_lists_labels)
        found = tree.find(chosen)
        names = [name for name in found if is_image(name)]
        if not names:
            looked = f"looked for {' '.join(image_suffixes())}"
            raise UserError(f"data.root: no images in {tree.path}; {looked}{what_is_there(tree)}")
        classes, depth = _folders(names)
        parts = {"train": names}
        known = [PARTS.get(name.lower(), "") for name in classes]
        if "train" in known and all(known):
            parts = {part: [] for part in dict.fromkeys(PARTS.values()) if part in known}
            for name in names:
                parts[PARTS[name.split("/")[depth].lower()]].append(name)
            names = [name for part in parts.values() for name in part]
            classes, depth = _folders(["/".join(name.split("/")[depth + 1 :]) for name in names], depth + 1)
        lists = [name for name in found if not is_image(name)]
        made = _labels(labels, tree, lists, names, _classes(names, classes, depth))
        return originals(tree, parts, {}, made.values, made.names, labels_from=made.origin, left_out=chosen.left_out)

    return Source(stamp("formats and labels 2", tree.stamp(keep)), scan)


def _lists_labels(name: str) -> bool:
    return basename(name) == "dataset.json"


def _labels(kind: Kind, tree: Tree, lists: Sequence[str], names: Sequence[str], folders: Labels) -> Labels:
    """The labels that `kind` asks for; `folders` are those of the folders. Raises UserError if they are not there."""
    if kind == "none":
        return Labels(None, [], "none")
    listed = _listed_labels(tree, lists[0], names) if lists and kind != "folders" else None
    if kind == "auto":
        return listed or folders
    found, what = (folders, "folders of classes") if kind == "folders" else (listed, "labels in a dataset.json")
    if found is None or found.values is None:
        reason = f" ({found.origin})" if found and found.origin != "none" else ""
        raise UserError(f"data.labels={kind}: {tree.path} has no {what}{reason}; set data.labels=auto or none")
    return found


def _classes(names: Sequence[str], classes: Sequence[str], depth: int) -> Labels:
    """The folders `classes` at this depth of the paths as labels, int64 (N,)."""
    if not classes:
        return Labels(None, [], "none")
    number = {name: i for i, name in enumerate(classes)}
    return Labels(np.array([number[name.split("/")[depth]] for name in names], np.int64), classes, "folders")


def _folders(names: Sequence[str], above: int = 0) -> tuple[list[str], int]:
    """The names of the outermost folders in which the paths differ, and the depth of these folders.

    There are no names if only the file names differ. `above` is added to the depth.
    """
    paths = [name.split("/") for name in names]
    shortest = min(len(path) for path in paths)
    depth = next((i for i in range(shortest) if any(path[i] != paths[0][i] for path in paths)), shortest)
    return sorted({path[depth] for path in paths}) if depth < shortest - 1 else [], above + depth


def _listed_labels(tree: Tree, name: str, names: Sequence[str]) -> Labels | None:
    """Labels from StyleGAN's `{"labels": [[path, class or list of 0 and 1], ...]}`; None if it is another file.

    They are classes, int64 (N,), or attributes, uint8 (N, K), without names. An empty list or null says that there are
    no labels. Other numbers, such as camera poses, are left out. Raises UserError if an image has no valid label.
    """
    try:
        content: Any = json.loads(tree.read(name))
        if not isinstance(content, dict) or "labels" not in content:
            return None
        pairs = content["labels"]
        if pairs is None or pairs == []:
            return Labels(None, [], f"none: {basename(name)} says so")
        table = {name.removesuffix("dataset.json") + path: label for path, label in pairs}
        labels = np.array([table[path] for path in names])
        if labels.dtype.kind == "f":
            whole = np.isin(labels, (0, 1)).all() and labels.ndim == 2  # 0.0 and 1.0
            if not whole:
                length = "a number" if labels.ndim == 1 else f"{labels.shape[-1]} numbers"
                return Labels(
                    None, [], f"none: {basename(name)} has continuous ones, {length} an image, which no model takes"
                )
            labels = labels.astype(np.int64)
        kind, largest = (np.int64, None) if labels.ndim == 1 else (np.uint8, 1)
        if labels.dtype.kind != "i" or labels.ndim > 2 or labels.min() < 0 or (largest and labels.max() > largest):
            raise ValueError("labels are classes from 0 or lists of 0 and 1")
        return Labels(labels.astype(kind), [], basename(name))
    except MemoryError:
        raise
    except Exception as error:  # a stranger's file can hold anything
        reason = " ".join(repr(error).split())
        raise UserError(
            f"data.root: {tree.path / name} does not label all images ({reason}); repair it, or delete it to "
            "use no labels"
        ) from error
