"""AFHQ: afhq_cat, afhq_dog, afhq_wild."""

import re
from typing import Literal

from ganduel.data.download import File, Remote
from ganduel.data.formats import is_image
from ganduel.data.sources._shared import Originals, Source, by_folder, chooser, open_root, originals, stamp
from ganduel.system.errors import UserError

REMOTE = Remote(
    "AFHQ",
    "https://github.com/clovaai/stargan-v2",
    [File("afhq.zip", ["https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1"], None)],
)
TRAIN = {"val": {"cat": 5153, "dog": 4739, "wild": 4738}, "test": {"cat": 5065, "dog": 4678, "wild": 4593}}
HELD_OUT = {"val": {"cat": 500, "dog": 500, "wild": 500}, "test": {"cat": 493, "dog": 491, "wild": 483}}


def afhq(root: str, category: Literal["dog", "cat", "wild"]) -> Source:
    """One category of AFHQ (Choi et al. 2020), 512x512 pixels.

    The version is 1 (JPEG, parts train and val) or 2 (PNG, parts train and test).
    """
    tree = open_root(root, ("afhq*.zip", "archive.zip"), is_image, REMOTE)
    inside = re.compile(rf"(?:^|/)(?:train|val|test)/{category}/")

    def keep(name: str) -> bool:
        return is_image(name) and bool(inside.search(name))

    def scan() -> Originals:
        chosen = chooser(lambda name: None if inside.search(name) else f"in no folder {category} of train, val or test")
        parts = by_folder(tree, tree.find(chosen), ("train", "val", "test"))
        if "train" not in parts:
            raise UserError(f"data.root: {tree.path} has no images in a folder train/{category}; name that of AFHQ")
        held_out = "test" if "test" in parts else "val"  # version 2 or 1
        expected = {"train": TRAIN[held_out][category], held_out: HELD_OUT[held_out][category]}
        return originals(tree, parts, expected, left_out=chosen.left_out)

    return Source(stamp(category, tree.stamp(keep)), scan)
