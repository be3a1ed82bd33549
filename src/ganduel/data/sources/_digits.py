"""The digits of scikit-learn: digits, stacked_digits. MNIST and CIFAR-10 share `in_memory`."""

from collections.abc import Sequence

import numpy as np

from ganduel.data.sources._shared import Originals, Source, stamp


def digits(root: str | None, category: None) -> Source:
    """The 1,797 handwritten digits of 8x8 pixels that ship inside scikit-learn (Alpaydin and Kaynak 1998)."""

    def scan() -> Originals:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        return in_memory({"train": pixels}, bunch.target, {"train": 1797})

    return Source(stamp("scikit-learn digits"), scan)


def in_memory(
    parts: dict[str, np.ndarray], labels: np.ndarray, expected: dict[str, int], names_of: Sequence[str] = "0123456789"
) -> Originals:
    """Originals from images in memory: uint8 (N, H, W) or (N, H, W, 3) for each part, and labels (N,) for all parts.

    `names_of` are the names of the labels 0, 1, ...
    """
    names = [f"{part} {i}" for part, images in parts.items() for i in range(len(images))]
    pixels = np.concatenate(list(parts.values()))
    splits = {part: len(images) for part, images in parts.items()}
    return Originals(names, lambda i: pixels[i], splits, expected, labels.astype(np.int64), list(names_of))
