"""Fashion-MNIST: fashion_mnist."""

import re

from ganduel.data.download import File, Remote
from ganduel.data.sources._mnist import idx_set
from ganduel.data.sources._shared import Source

BUCKET = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
REMOTE = Remote(
    "Fashion-MNIST",
    "https://github.com/zalandoresearch/fashion-mnist",
    [
        File(f"{name}-ubyte.gz", [f"{BUCKET}/{name}-ubyte.gz"], md5)
        for name, md5 in {
            "train-images-idx3": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1": "bb300cfdad3c16e7a12a480ee83cd310",
        }.items()
    ],
)
FILE = re.compile(  # without the folders in which torchvision keeps MNIST, EMNIST, KMNIST and QMNIST
    r"^(?!(?:.*/)?[ekq]?mnist/)(?:.*/)?(train|t10k)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?$", re.I | re.S
)
CLASSES = "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"


def fashion_mnist(root: str, category: None) -> Source:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of clothes, 28x28 grey, in IDX files.

    Missing files are downloaded into `root`/FashionMNIST/raw, where torchvision also keeps them.
    """
    return idx_set(root, REMOTE, FILE, "FashionMNIST", CLASSES)
