"""CelebA: celeba, celeba_grey28."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ganduel.data.archives import file_stamp
from ganduel.data.download import File, Remote
from ganduel.data.sources._shared import Originals, Source, chooser, home, near, open_root, originals, stamp
from ganduel.system.errors import UserError
from ganduel.system.terminal import say

DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
REMOTE = Remote(
    "CelebA",
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    [
        File("list_attr_celeba.txt", [DRIVE + "0B7EVK8r0v71pblRyaVFSWGxPY0U"], "75e246fa4810816ffd6ee81facbd244c"),
        File("img_align_celeba.zip", [DRIVE + "0B7EVK8r0v71pZjFTYXZWM3FlRnM"], "00d2c5bc6d35e252742224ab0c1e8fcb"),
    ],
)
PARTS = {"train": range(1, 162_771), "valid": range(162_771, 182_638), "test": range(182_638, 202_600)}
FACE = re.compile(r"(?:^|/)(?<!img_celeba/)(\d{6})\.(?:jpg|png)$")  # without the "in the wild" images in img_celeba/
ATTRIBUTES = re.compile(r"(?:^|/)list_attr_celeba\.(?:txt|csv)$")


def celeba(root: str, category: None) -> Source:
    """CelebA (Liu et al. 2015): 202,599 aligned faces of 178x218 pixels. The file numbers give the official parts.

    The labels are the 40 attributes, if their list is in the tree or near the archive.
    """
    tree = open_root(root, ("img_align_celeba*.zip", "*celeba*.zip", "archive.zip"), FACE.search, REMOTE)
    top = home(tree)
    tops = (top, top.parent) if top.name.lower() == "img" else (top,)  # published as Img/ for images, Anno/ for lists
    lists = [path for one in tops for path in near(one, "list_attr_celeba.txt", "list_attr_celeba.csv")][:1]

    def keep(name: str) -> bool:
        return bool(FACE.search(name) or ATTRIBUTES.search(name))

    def scan() -> Originals:
        chosen = chooser(lambda name: None if FACE.search(name) else "no aligned face of CelebA", ATTRIBUTES.search)
        found = tree.find(chosen)
        faces = {int(match[1]): name for name in reversed(found) if (match := FACE.search(name))}
        parts = {part: [faces[n] for n in numbers if n in faces] for part, numbers in PARTS.items()}
        expected = {part: len(numbers) for part, numbers in PARTS.items()}
        inside = [name for name in found if ATTRIBUTES.search(name)]
        if strangers := sorted(faces.keys() - {n for numbers in PARTS.values() for n in numbers}):
            raise UserError(f"data.root: {tree.path} has {faces[strangers[0]]}, but CelebA ends at 202599")
        if copies := len(found) - len(inside) - len(faces):
            say(f"{copies:,} images of CelebA are there more than once; one of each number is taken")
        if not lists and not inside:
            none = "none: list_attr_celeba.txt is not there"
            return originals(tree, parts, expected, labels_from=none, left_out=chosen.left_out)
        text = lists[0].read_bytes() if lists else tree.read(inside[0])
        path = lists[0] if lists else tree.path / inside[0]
        labels, names = _attributes(text, sorted(faces), path)
        return originals(tree, parts, expected, labels, names, labels_from=path.name, left_out=chosen.left_out)

    return Source(stamp(tree.stamp(keep), *map(file_stamp, lists)), scan, width=178)


def _attributes(text: bytes, numbers: Sequence[int], path: Path) -> tuple[np.ndarray, list[str]]:
    """CelebA's attributes of the images `numbers`, uint8 (N, 40), and the attributes' names.

    `text` is the official list or Kaggle's CSV. Raises UserError if it is damaged.
    """
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
