"""From an original image to a packed one. Runs in many processes, so it must not import PyTorch."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

SMALLEST = 4  # pixels a side: anything less is no picture
LOOK = 16  # a side of the difference hash
FILTERS = {
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "pad": Image.Resampling.LANCZOS,  # of what is larger; what is smaller gets a frame
}


@dataclass(frozen=True)
class Recipe:
    """How an original becomes a packed image."""

    resolution: int
    channels: Literal[1, 3]
    crop: int | None  # pixels of the centre square that is kept; null: the largest
    resize: Literal["box", "bicubic", "lanczos", "pad"]
    width: int | None = None  # the crop counts pixels of images this wide; null: of each as it is

    @property
    def mode(self) -> str:
        """Pillow's name of the packed images' mode."""
        return "L" if self.channels == 1 else "RGB"

    def side(self, image: Image.Image) -> int:
        """Pixels of the square that is cut from this image. Raises ValueError where it has not so many."""
        if min(image.size) < SMALLEST:
            raise ValueError(f"only {image.width}x{image.height} pixels")
        side = self.crop or min(image.size)
        if self.crop and self.width:
            side = round(side * image.width / self.width)
        if side > min(image.size):
            raise ValueError(f"{image.width}x{image.height} pixels are less than the crop of {side}")
        return side

    def apply(self, image: Image.Image) -> Image.Image:
        """One image, cropped and resized. Raises ValueError or OSError for what is no picture."""
        if _turned(image):  # else a copy for nothing, which of a large photograph takes hundreds of megabytes
            image = ImageOps.exif_transpose(image)
        side = self.side(image)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if image.size != (side, side):
            image = image.crop((left, top, left + side, top + side))
        image = in_mode(image, self.mode)
        if self.resize == "pad" and (frame := self.resolution - side) > 0:
            image = ImageOps.expand(image, (frame // 2, frame // 2, frame - frame // 2, frame - frame // 2))
        elif side != self.resolution:
            image = image.resize((self.resolution, self.resolution), FILTERS[self.resize])
        return image

    def changes(self, image: Image.Image) -> bool:
        """Whether applying this makes another image of a file, beyond turning grey into RGB."""
        fits = image.size == (self.side(image),) * 2 == (self.resolution,) * 2
        return _turned(image) or not fits or image.mode not in ("L", self.mode)


def _turned(image: Image.Image) -> bool:
    return bool(image.getexif().get(0x0112, 1) != 1)  # EXIF's orientation


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to "L" or "RGB": 16 bits are scaled, not clipped; what is transparent becomes white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, which say nothing of black and white")
    if image.mode.startswith("I"):  # 16-bit grey, in one of Pillow's spellings
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("RGB", mode):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def to_array(image: Image.Image) -> np.ndarray:
    """An "L" or "RGB" image as uint8 (C, H, W)."""
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def decode(stored: bytes, mode: str) -> np.ndarray:
    """The pixels of an image that was stored compressed: uint8 (C, H, W)."""
    return to_array(in_mode(Image.open(io.BytesIO(stored)), mode))


def decode_all(stored: Iterable[bytes], shape: tuple[int, int, int]) -> np.ndarray:
    """The pixels of images of this shape (C, H, W) that were stored compressed, on all cores: uint8 (N, C, H, W)."""
    mode = "L" if shape[0] == 1 else "RGB"
    images = list(_decoders().map(lambda one: decode(one, mode), stored))
    return np.stack(images) if images else np.empty((0, *shape), np.uint8)


def resize_all(images: np.ndarray, side: int, resize: str) -> np.ndarray:
    """Images (N, C, H, W), uint8, as squares (N, C, side, side), by a recipe's `resize`, on all cores."""

    def one(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        return to_array(image.resize((side, side), FILTERS[resize]))

    return np.stack([*_decoders().map(one, images)])


@cache
def _decoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="decode")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Prepared(NamedTuple):
    """One image as it will be stored, with what the doctor wants to know of it."""

    stored: bytes
    mode: str
    size: str
    sums: list[list[int]]  # of the pixels and of their squares, a channel
    digest: bytes  # 16 bytes that identify what is stored
    look: bytes  # difference hash of 256 bits: near for images that look alike


def prepare(recipe: Recipe, compress: bool, originals: list[bytes | np.ndarray | str]) -> list[Prepared | str]:
    """What becomes of a few originals: encoded files or pixels, or why there are none; of a bad one, why it is
    rejected."""
    return [original if isinstance(original, str) else _prepare(recipe, compress, original) for original in originals]


def _prepare(recipe: Recipe, compress: bool, original: bytes | np.ndarray) -> Prepared | str:
    try:
        with warnings.catch_warnings(), _open(original) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            size, mode = f"{image.width}x{image.height}", image.mode
            mode += " animated" * (getattr(image, "n_frames", 1) > 1)
            packed = recipe.apply(image)
            pixels = to_array(packed)
            if not compress:
                stored = pixels.tobytes()
            elif isinstance(original, bytes) and image.format == "JPEG" and not recipe.changes(image):
                stored = original
            else:
                stored = _compressed(packed)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them to
        return "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    wide = pixels.astype(np.int64)
    sums = [wide.sum((1, 2)).tolist(), np.square(wide).sum((1, 2)).tolist()]
    return Prepared(stored, mode, size, sums, hashlib.blake2b(stored, digest_size=16).digest(), _look(packed))


def _open(original: bytes | np.ndarray) -> Image.Image:
    return Image.open(io.BytesIO(original)) if isinstance(original, bytes) else Image.fromarray(original)


def _compressed(image: Image.Image) -> bytes:
    """Lossless WebP, the fastest of the lossless to write and to read, and the smallest."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", lossless=True, method=0, quality=75)
    return file.getvalue()


def _look(image: Image.Image) -> bytes:
    """Whether each of 16x16 cells is brighter than its right neighbour: 256 bits."""
    grey = np.asarray(image.convert("L").resize((LOOK + 1, LOOK), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] < grey[:, :-1]).tobytes()
