"""Sources of original images: one function for each data set.

Each function is built from `data.source` and lies in the file of its name: `mnist` in `_mnist.py`; `ring` and `grid`
share `_points.py`. The file's docstring lists the configurations in configs/data that use it.

A source finds its files under `root`, and downloads them if it can. `root` is the set's archive, a folder that holds
the archive, or a folder that holds the unpacked files at any depth. An archive is preferred to unpacked files beside
it, because the unpacking may have been interrupted. A set without categories has the type None for `category`, so that
the builder refuses any other value.
"""

from ganduel.data.sources._afhq import afhq as afhq
from ganduel.data.sources._celeba import celeba as celeba
from ganduel.data.sources._cifar10 import cifar10 as cifar10
from ganduel.data.sources._digits import digits as digits
from ganduel.data.sources._fashion_mnist import fashion_mnist as fashion_mnist
from ganduel.data.sources._folder import folder as folder
from ganduel.data.sources._folder_pair import folder_pair as folder_pair
from ganduel.data.sources._lsun import lsun as lsun
from ganduel.data.sources._lsun_bedroom_sample import lsun_bedroom_sample as lsun_bedroom_sample
from ganduel.data.sources._mnist import mnist as mnist
from ganduel.data.sources._places import places as places
from ganduel.data.sources._points import grid as grid
from ganduel.data.sources._points import ring as ring
from ganduel.data.sources._shared import Originals as Originals
from ganduel.data.sources._shared import Points as Points
from ganduel.data.sources._shared import Source as Source
