"""Sources of original images: one function for each data set.

Each function is built from `data.source` and lies in the file of its name: `mnist` in `_mnist.py`; `ring` and `grid`
share `_points.py`. The file's docstring lists the configurations in configs/data that use it.

A source finds its files under `root`, and downloads them if it can. `root` is the set's archive, a folder that holds
the archive, or a folder that holds the unpacked files at any depth. An archive is preferred to unpacked files beside
it, because the unpacking may have been interrupted. A set without categories has the type None for `category`, so that
the builder refuses any other value.
"""

from ganduel.data.sources._afhq import afhq
from ganduel.data.sources._celeba import celeba
from ganduel.data.sources._cifar10 import cifar10
from ganduel.data.sources._digits import digits
from ganduel.data.sources._fashion_mnist import fashion_mnist
from ganduel.data.sources._folder import folder
from ganduel.data.sources._folder_pair import folder_pair
from ganduel.data.sources._lsun import lsun
from ganduel.data.sources._lsun_bedroom_sample import lsun_bedroom_sample
from ganduel.data.sources._mnist import mnist
from ganduel.data.sources._places import places
from ganduel.data.sources._points import grid, ring
from ganduel.data.sources._shared import Originals, Points, Source

__all__ = [
    "Originals",
    "Points",
    "Source",
    "afhq",
    "celeba",
    "cifar10",
    "digits",
    "fashion_mnist",
    "folder",
    "folder_pair",
    "grid",
    "lsun",
    "lsun_bedroom_sample",
    "mnist",
    "places",
    "ring",
]
