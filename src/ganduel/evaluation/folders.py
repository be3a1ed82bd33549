"""Folders of images for metrics: the images are used as they are or, with `size`, cropped and resized to one size."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganduel.data.archives import Folder as Tree
from ganduel.data.formats import SIDEWAYS, Chooser, described, image_suffixes, is_image, turn, upright, why_not
from ganduel.data.resize import Recipe, from_file, in_mode, to_array, unusable
from ganduel.evaluation.measure import Images
from ganduel.system.errors import UserError
from ganduel.system.terminal import printable, say


class Folder:
    """The images of a folder, all of one size.

    With a `size` in pixels, the largest centre square of each image is resized to it, as gan-data does. Raises
    UserError if `path` is no folder or has no images, or if images differ in size and no `size` is given.
    """

    def __init__(self, path: str, size: int | None = None):
        if not Path(path).is_dir():
            raise UserError(f"folders: {path} is no folder; give two, as in folders=real,fake")
        self.path, self.recipe = Path(path), Recipe(size, 3, None, "lanczos") if size else None
        self.tree, chosen = Tree(self.path, "folders"), Chooser(lambda name: None if is_image(name) else why_not(name))
        self.names = self.tree.find(chosen)
        for text in described(chosen.left_out):
            say(f"warning: {printable(path)}: left out {text}")
        if not self.names:
            looked = f"looked for {' '.join(image_suffixes())}"
            raise UserError(f"folders: no images in {path} or below it; {looked}")
        self.identity = self.tree.stamp(is_image)[:16]
        if self.recipe is None:
            self.check_sizes()
        self.images = Images(lambda numbers: torch.stack([self.read(i) for i in numbers]), len(self.names))

    def check_sizes(self) -> None:
        """Raise UserError for the first image whose size differs from the first one's. It decodes no image."""
        first: tuple[int, int] | None = None
        for name in self.names:
            size = self.size_of(name)
            first = first or size
            if size != first:
                sizes = " and ".join(f"{width}x{height}" for width, height in (first, size))
                raise UserError(
                    f"folders: {name} differs in size ({sizes}); all images of a folder must be of one, so resize them "
                    f"with size={min(first)}, or another number of pixels"
                )

    def size_of(self, name: str) -> tuple[int, int]:
        """Width and height of an upright image, from its header. Raises UserError if it is damaged."""

        def upright_size(image: Image.Image) -> tuple[int, int]:
            return (image.height, image.width) if turn(image) in SIDEWAYS else image.size

        try:
            return from_file(self.path / name, upright_size)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise many kinds of exceptions for broken files
            raise unread(name, error) from error

    def read(self, number: int) -> Tensor:
        """Image `number`, uint8 (3, H, W), upright. Raises UserError if it is damaged."""
        name = self.names[number]

        def pixels(image: Image.Image) -> np.ndarray:
            return to_array(self.recipe.apply(image) if self.recipe else in_mode(upright(image), "RGB"))

        try:
            return torch.from_numpy(from_file(self.tree.read(name), pixels))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise many kinds of exceptions for broken files
            raise unread(name, error) from error


def unread(name: str, error: Exception) -> UserError:
    return UserError(f"folders: {name} cannot be read ({unusable(error)})")
