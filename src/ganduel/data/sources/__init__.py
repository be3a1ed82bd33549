"""Where original images come from: one function a data set, built from `data.source`, each in the file of its name
(`mnist` in `_mnist.py`), which begins with the configurations in configs/data that use it.

Each finds its files under `root`, which is the set's archive, a folder that holds it, or the unpacked tree at any
depth, and downloads them where it can. An archive goes before what lies unpacked beside it, for unpacking may have been
interrupted. A set without categories takes null for `category`, so that building refuses any other.
"""

from ganduel.data.sources._afhq import afhq
from ganduel.data.sources._celeba import celeba
from ganduel.data.sources._digits import digits
from ganduel.data.sources._folder import folder
from ganduel.data.sources._folder_pair import folder_pair
from ganduel.data.sources._lsun import lsun
from ganduel.data.sources._lsun_bedroom_sample import lsun_bedroom_sample
from ganduel.data.sources._mnist import mnist
from ganduel.data.sources._places import places
from ganduel.data.sources._shared import IMAGE_SUFFIXES, Originals, Source, is_image

__all__ = [
    "IMAGE_SUFFIXES",
    "Originals",
    "Source",
    "afhq",
    "celeba",
    "digits",
    "folder",
    "folder_pair",
    "is_image",
    "lsun",
    "lsun_bedroom_sample",
    "mnist",
    "places",
]
