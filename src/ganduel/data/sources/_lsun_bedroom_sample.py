"""Kaggle's 20 % sample of LSUN's bedrooms: lsun_bedroom_sample."""

from posixpath import basename

from ganduel.data.download import File, Remote
from ganduel.data.sources._shared import Originals, Source, is_image, open_root, originals, stamp

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
        found = tree.find(is_image)
        whole = {basename(name) for name in found if not _in_sample(name)}
        names = [name for name in found if not _in_sample(name) or basename(name) not in whole]
        return originals(tree, {"train": names}, {"train": 303_125})

    return Source(stamp(tree.stamp(is_image)), scan)


def _in_sample(name: str) -> bool:
    return "sample" in name.split("/")[:-1]
