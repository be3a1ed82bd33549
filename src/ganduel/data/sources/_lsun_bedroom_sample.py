"""Kaggle's 20 % sample of LSUN's bedrooms: lsun_bedroom_sample."""

from collections import Counter
from posixpath import basename

from ganduel.data.download import File, Remote
from ganduel.data.formats import is_image, kind_of
from ganduel.data.sources._shared import Originals, Source, chooser, open_root, originals, stamp

REMOTE = Remote(
    "the LSUN bedroom sample",
    "https://www.kaggle.com/datasets/jhoward/lsun_bedroom",
    [File("archive.zip", [], None)],
)


def lsun_bedroom_sample(root: str, category: None) -> Source:
    """Kaggle's 20 % sample of LSUN's bedrooms: 303,125 JPEGs in nested folders.

    An image under `sample/` is left out if an image outside of it has the same file name.
    """
    tree = open_root(root, ("*bedroom*.zip", "*lsun*.zip", "archive.zip"), is_image, REMOTE)

    def scan() -> Originals:
        chosen = chooser()
        found = tree.find(chosen)
        whole = {basename(name) for name in found if not _in_sample(name)}
        names = [name for name in found if not _in_sample(name) or basename(name) not in whole]
        left_out = chosen.left_out
        if copies := Counter(kind_of(name) for name in found if _in_sample(name) and basename(name) in whole):
            left_out["in sample/, and a copy is outside of it"] = dict(copies)
        return originals(tree, {"train": names}, {"train": 303_125}, left_out=left_out)

    return Source(stamp(tree.stamp(is_image)), scan)


def _in_sample(name: str) -> bool:
    return "sample" in name.split("/")[:-1]
