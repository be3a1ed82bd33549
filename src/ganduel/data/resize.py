"""Crop and resize original images for packing, and decode packed ones.

Many processes import this module, so it must not import PyTorch: that takes seconds.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from ganduel.data.formats import animated, opened, turn, upright, without_metadata

T = TypeVar("T")
STORED = ["WEBP", "JPEG"]  # formats of compressed packed images
SMALLEST = 4  # pixels a side: smaller images are rejected
DARK_BITS = 14  # 16-bit images whose largest pixel needs no more bits are reported: they become dark
WIDE = re.compile(r"(RGB|LA)[AaX]*;16[BLN]")  # Pillow's names of pixels that have 16 bits for each of several channels
LOOK = 16  # cells a side of the difference hash
FILTERS = {
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "pad": Image.Resampling.LANCZOS,  # for larger images; smaller ones get a black frame
    "stretch": Image.Resampling.LANCZOS,  # of the whole image, whatever its shape
}


@dataclass(frozen=True)
class Recipe:
    """How an original becomes a packed image: crop a centre square, then resize it to `resolution` pixels a side.

    "stretch" resizes the whole image instead, so that one that is not square changes its proportions.
    """

    resolution: int
    channels: Literal[1, 3]
    crop: int | None  # pixels a side of the centre square; None: the largest square
    resize: Literal["box", "bicubic", "lanczos", "pad", "stretch"]
    width: int | None = None  # `crop` is for images of this width and scales with others; None: it never scales

    @property
    def mode(self) -> str:
        """Pillow's mode of the packed images: "L" or "RGB"."""
        return "L" if self.channels == 1 else "RGB"

    def side(self, image: Image.Image) -> int:
        """Pixels a side of the square to crop from this image. Raises ValueError if the image is too small."""
        if min(image.size) < SMALLEST:
            raise ValueError(f"only {image.width}x{image.height} pixels")
        side = self.crop or min(image.size)
        if self.crop and self.width:
            side = round(side * image.width / self.width)
        if side > min(image.size):
            raise ValueError(f"{image.width}x{image.height} pixels are smaller than the crop of {side}")
        return side

    def apply(self, image: Image.Image) -> Image.Image:
        """Crop and resize an image. Raises ValueError if it is too small or of floats, OSError if it is broken."""
        image = upright(image)
        side = self.side(image)
        if self.resize == "stretch":
            image = in_mode(image, self.mode)
            size = (self.resolution, self.resolution)
            return image if image.size == size else image.resize(size, FILTERS[self.resize])
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
        """Whether `apply` changes an image, apart from turning grey into RGB. Raises ValueError like `side`."""
        fits = image.size == (self.side(image),) * 2 == (self.resolution,) * 2
        return turn(image) is not None or not fits or image.mode not in ("L", self.mode)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to "L" or "RGB". 16-bit pixels are scaled to 8 bits. Transparent pixels become white.

    Raises ValueError for pixels whose range is unknown: floating-point numbers, and integers that 16 bits do not hold.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow has several such modes
        pixels = np.asarray(image)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
            raise ValueError(f"pixels from {pixels.min()} to {pixels.max()}, which are not the 0 to 65535 of 16 bits")
        image = Image.fromarray((pixels // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("RGB", mode):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def to_array(image: Image.Image) -> np.ndarray:
    """Convert an "L" or "RGB" image to an array, uint8 (C, H, W)."""
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def decode(stored: bytes, mode: str) -> np.ndarray:
    """Decode a compressed image to pixels, uint8 (C, H, W). Raises OSError or ValueError if it is damaged."""
    return to_array(in_mode(Image.open(io.BytesIO(stored), formats=STORED), mode))


def decode_all(stored: Iterable[bytes], shape: tuple[int, int, int]) -> np.ndarray:
    """Decode compressed images of one shape (C, H, W) to pixels, uint8 (N, C, H, W), on all cores."""
    mode = "L" if shape[0] == 1 else "RGB"
    images = list(_decoders().map(lambda one: decode(one, mode), stored))
    return np.stack(images) if images else np.empty((0, *shape), np.uint8)


def resize_all(images: np.ndarray, side: int, resize: str) -> np.ndarray:
    """Resize images (N, C, H, W), uint8, to (N, C, side, side) with a recipe's `resize` filter, on all cores."""

    def one(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        return to_array(image.resize((side, side), FILTERS[resize]))

    return np.stack([*_decoders().map(one, images)])


@cache
def _decoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="decode")


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Prepared(NamedTuple):
    """One image as it will be stored, with the facts that the inspection needs."""

    stored: bytes
    mode: str  # Pillow's mode of the original, with " animated" for several frames
    size: str  # WIDTHxHEIGHT of the original
    sums: list[list[int]]  # per channel: of the pixels, and of their squares
    digest: bytes  # 16 bytes, BLAKE2b of `stored`
    look: bytes  # difference hash of 256 bits: images that look alike differ in few bits


def prepare(recipe: Recipe, compress: bool, originals: list[bytes | np.ndarray | str]) -> list[Prepared | str]:
    """Prepare a few originals. Each result is a `Prepared` or, for a bad original, the reason for its rejection.

    An original is an encoded file, pixels or, if it could not be read, already the reason for its rejection.
    """
    return [original if isinstance(original, str) else _prepare(recipe, compress, original) for original in originals]


def _prepare(recipe: Recipe, compress: bool, original: bytes | np.ndarray) -> Prepared | str:
    try:
        if isinstance(original, bytes):
            size, mode, keep, packed = from_file(original, lambda image: _facts(recipe, image))
        else:
            size, mode, keep, packed = _facts(recipe, Image.fromarray(original))
        pixels = to_array(packed)
        if not compress:
            stored = pixels.tobytes()
        elif isinstance(original, bytes) and keep:
            stored = original
        else:
            stored = _compressed(packed)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of exceptions for broken files
        return unusable(error)
    wide = pixels.astype(np.int64)
    sums = [wide.sum((1, 2)).tolist(), np.square(wide).sum((1, 2)).tolist()]
    return Prepared(stored, mode, size, sums, hashlib.blake2b(stored, digest_size=16).digest(), _look(packed))


def _facts(recipe: Recipe, image: Image.Image) -> tuple[str, str, bool, Image.Image]:
    """An original's size, its mode, whether it is a JPEG that may be stored as it is, and the packed image."""
    size, mode = f"{image.width}x{image.height}", image.mode
    mode += " animated" * animated(image)
    if (bits := _bits(image)) is not None and bits <= DARK_BITS:
        mode += f" of {bits} bits"
    packed = recipe.apply(image)
    packed.load()  # it may still be the file, which is about to be closed
    return size, mode, image.format == "JPEG" and not recipe.changes(image), packed


def _bits(image: Image.Image) -> int | None:
    """The bits that the largest pixel of a 16-bit image needs; None for an image of 8 bits.

    Pillow keeps all bits of grey images, and the upper 8 of each channel of others. Transparency does not count.
    """
    if image.mode.startswith("I"):
        return int(np.asarray(image).max(initial=0)).bit_length()
    tiles: list[Any] = getattr(image, "tile", [])
    if not tiles or not WIDE.search(str(tiles[0][3])):  # how the file stores a pixel
        return None
    extrema: Any = image.getextrema()  # a pair for each channel
    largest = max(int(high) for band, (_, high) in zip(image.getbands(), extrema, strict=True) if band != "A")
    return largest.bit_length() + 8


def from_file(file: Path | bytes, use: Callable[[Image.Image], T]) -> T:
    """Open a foreign image, a file or its bytes, and return the result of `use`. Unreadable metadata is left out.

    Raises the exceptions of `opened` and of `use`.
    """
    try:
        with opened(file) as image:
            return use(image)
    except MemoryError:
        raise
    except Exception:
        whole = file if isinstance(file, bytes) else file.read_bytes() if file.is_file() else b""
        if (pixels := without_metadata(whole)) is None:
            raise
        with opened(pixels) as image:
            return use(image)


def unusable(error: Exception) -> str:
    """Why an image cannot be used, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _compressed(image: Image.Image) -> bytes:
    """Encode as lossless WebP: the smallest lossless format, and the fastest to write and to read."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", lossless=True, method=0, quality=75)
    return file.getvalue()


def _look(image: Image.Image) -> bytes:
    """The difference hash, 256 bits: whether each of 16x16 cells is brighter than its right neighbour."""
    grey = np.asarray(image.convert("L").resize((LOOK + 1, LOOK), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] < grey[:, :-1]).tobytes()
