"""The image formats that we read, and the one function that opens a foreign image.

The list of formats is explicit. Pillow would otherwise choose any of its decoders by the content of a file, and one of
them starts Ghostscript. Many processes import this, so it must not import PyTorch.
"""

import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from PIL import Image, features

# Pillow's name of a format -> the suffixes of its files. Left out are formats without pixels, formats that Pillow
# recognises and cannot read, and those that it hands to other programs (EPS, WMF).
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".heics", ".heifs", ".hif"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "QOI": (".qoi",),
    "PCX": (".pcx",),
    "PSD": (".psd",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
    "DDS": (".dds",),
    "ICO": (".ico",),
    "ICNS": (".icns",),
}
CHECKED = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}  # formats that need a library -> Pillow's check
INSTALL = {  # formats that are not always installed -> what to do
    "HEIF": "install pillow-heif: pip install 'ganduel[heic]'",
    "AVIF": "install a newer Pillow: pip install 'pillow>=11.3'",
}
ORIENTATION = 0x0112  # tag of EXIF data, 1 to 8
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}
NO_IMAGE = "no image"  # why a file without a suffix of `FORMATS` is left out
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT")  # all other chunks are metadata


@cache
def readable() -> tuple[str, ...]:
    """The formats of `FORMATS` that this installation reads. Pillow gets HEIF from the package pillow-heif."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN and (name not in CHECKED or _has(CHECKED[name])))


def _has(library: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older Pillow warns of names that it does not know
        return bool(features.check(library))


@cache
def image_suffixes() -> tuple[str, ...]:
    """The suffixes of the formats that this installation reads, in lower case."""
    return tuple(suffix for name in readable() for suffix in FORMATS[name])


def is_image(name: str) -> bool:
    """Whether a file name has the suffix of an image that can be read here."""
    return name.lower().endswith(image_suffixes())


def why_not(name: str) -> str:
    """Why `is_image` refuses a file name: it is no image, or its format is not installed."""
    for kind, suffixes in FORMATS.items():
        if name.lower().endswith(suffixes):
            return f"unreadable here; {INSTALL.get(kind, 'install a Pillow that reads ' + kind)}"
    return NO_IMAGE


def kind_of(name: str) -> str:
    """The suffix of a file name in lower case, for counts. It is printable, whatever the name is."""
    found = re.search(r"[^/](\.[a-z0-9_-]{1,12})$", name.lower())
    return found[1] if found else "without suffix"


class Chooser:
    """A `Keep` that counts the files that it leaves out. It serves one search of one tree.

    `reason` gets a name and returns why the file is left out, or None if it is wanted.
    """

    def __init__(self, reason: Callable[[str], str | None]):
        self.reason = reason
        self.counts: dict[str, Counter[str]] = {}

    def __call__(self, name: str) -> bool:
        if (reason := self.reason(name)) is None:
            return True
        self.counts.setdefault(reason, Counter())[kind_of(name)] += 1
        return False

    @property
    def left_out(self) -> dict[str, dict[str, int]]:
        """The number of files for each reason and suffix, the most frequent first."""
        return {reason: dict(kinds.most_common()) for reason, kinds in self.counts.items()}


def described(left_out: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """One text for each reason: the numbers of files by suffix, and why."""
    for reason, kinds in left_out.items():
        yield ", ".join(f"{n:,} {kind}" for kind, n in list(kinds.items())[:20]) + f" ({reason})"


@contextmanager
def opened(file: Path | bytes) -> Iterator[Image.Image]:
    """Open a foreign image: a file, or the bytes of one.

    Only the formats of `readable` are tried. Raises UnidentifiedImageError for any other content. Raises ValueError
    before decoding an image of more pixels than Pillow's limit, and for the bytes of a PNG if the checksum of its
    pixels is wrong. Warnings of decoders are not shown.
    """
    if isinstance(file, bytes):
        _check_png(file)
    elif file.exists() and not file.is_file():  # a device or a pipe, which may never end
        raise OSError("no regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow's own check of the size, too: the check below is stricter
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=readable()) as image:
            limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
            if limit is not None and pixels > limit:
                raise ValueError(f"Image size ({pixels} pixels) exceeds limit of {limit} pixels")
            yield image


def turn(image: Image.Image) -> Image.Transpose | None:
    """The turn that makes an image upright, according to its EXIF data. None if there is none, or if it is damaged."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # the parser of EXIF data raises many kinds of exceptions
        return None


def upright(image: Image.Image) -> Image.Image:
    """The image in the orientation that its EXIF data asks for. An upright image is returned itself, not copied.

    Pillow's own function also rewrites the EXIF data, and fails if other parts of it are damaged.
    """
    how = turn(image)
    return image if how is None else image.transpose(how)


def animated(image: Image.Image) -> bool:
    """Whether a file has several frames. Only the first is used, so damage in the others does not count."""
    try:
        return getattr(image, "n_frames", 1) > 1
    except MemoryError:
        raise
    except Exception:  # decoders raise many kinds of exceptions for broken frames
        image.seek(0)
        return True


def _check_png(file: bytes) -> None:
    """Raise ValueError if the checksum of a chunk of pixels is wrong. Pillow ignores these checksums."""
    for start, end in _pixel_chunks(file):
        content = memoryview(file)[start + 4 : end - 4]
        if end <= len(file) and zlib.crc32(content) != int.from_bytes(file[end - 4 : end], "big"):
            raise ValueError("the checksum of its pixels does not match")


def without_metadata(file: bytes) -> bytes | None:
    """A PNG without its metadata, such as ICC profiles. None for other files, and if there is no metadata.

    Pillow refuses a PNG if a profile or a text in it is damaged or large.
    """
    stripped = PNG_START + b"".join(file[start:end] for start, end in _pixel_chunks(file))
    return stripped if file.startswith(PNG_START) and len(stripped) < len(file) else None


def _pixel_chunks(file: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of every chunk of a PNG that holds pixels. The last one may be cut off."""
    start = len(PNG_START)
    while file.startswith(PNG_START) and start + 12 <= len(file):
        end = start + 12 + int.from_bytes(file[start : start + 4], "big")
        if file[start + 4 : start + 8] in PNG_PIXELS:
            yield start, end
        start = end
