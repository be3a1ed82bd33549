"""Folders of images for metrics: the images are used as they are, without crop or resize."""

from pathlib import Path

import torch
from torch import Tensor

from ganduel.data.sources import folder as find_images
from ganduel.data.transform import decode
from ganduel.evaluation.measure import Images
from ganduel.system.errors import UserError


class Folder:
    """The images of a folder, all of one size. Raises UserError if `path` is no folder."""

    def __init__(self, path: str):
        if not Path(path).is_dir():
            raise UserError(f"folders: {path} is no folder; give two, as in folders=[real,fake]")
        source = find_images(path, None)
        self.identity = source.stamp[:16]
        self.originals = source.scan()
        self.shape: tuple[int, ...] = ()
        self.images = Images(lambda numbers: torch.stack([self.read(i) for i in numbers]), len(self.originals.names))

    def read(self, number: int) -> Tensor:
        """Image `number`, uint8 (3, H, W). Raises UserError if it is damaged or differs in size from the others."""
        name = self.originals.names[number]
        try:
            encoded = self.originals.read(number)
            assert isinstance(encoded, bytes)
            pixels = decode(encoded, "RGB")
        except MemoryError:
            raise
        except Exception as error:  # decoders raise many kinds of exceptions for broken files
            raise UserError(f"folders: {name} cannot be read ({error})") from error
        self.shape = self.shape or pixels.shape
        if pixels.shape != self.shape:
            sizes = " and ".join(f"{width}x{height}" for _, height, width in (self.shape, pixels.shape))
            raise UserError(f"folders: {name} differs in size ({sizes}); all images of a folder must be of one")
        return torch.from_numpy(pixels)
