"""Decode, crop and resize every image of a source once, into one uint8 array (N, C, H, W) that batches are gathered
from.

Beside `<name>.npy` lie its labels and `<name>.json`: the recipe, the counts and every rejected file with its reason.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image, ImageOps

from ganduel.data.sources import Source
from ganduel.errors import UserError
from ganduel.files import locked, make_folder, write_text
from ganduel.terminal import progress

FORMAT = 1
CHUNK = 512  # images between two notes of progress
SMALLEST = 4  # pixels a side: anything less is no picture
FILTERS = {
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Recipe:
    """How an original becomes a packed image."""

    resolution: int
    channels: Literal[1, 3]
    crop: int | None  # pixels of the centre square that is kept; null: the largest
    resize: Literal["box", "bicubic", "lanczos"]

    def apply(self, image: Image.Image) -> np.ndarray:
        """One image as uint8 (channels, resolution, resolution). Raises ValueError or OSError for what is no
        picture."""
        image = ImageOps.exif_transpose(image)
        if min(image.size) < SMALLEST:
            raise ValueError(f"only {image.width}x{image.height} pixels")
        side = self.crop or min(image.size)
        if side > min(image.size):
            raise ValueError(f"{image.width}x{image.height} pixels are less than the crop of {side}")
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = in_mode(image, "L" if self.channels == 1 else "RGB").crop((left, top, left + side, top + side))
        if side != self.resolution:
            image = image.resize((self.resolution, self.resolution), FILTERS[self.resize])
        pixels = np.asarray(image, np.uint8)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to "L" or "RGB": 16 bits are scaled, not clipped; what is transparent becomes white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, which say nothing of black and white")
    if image.mode.startswith("I"):  # 16-bit grey, in one of Pillow's spellings
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB").convert(mode)


@dataclass
class Progress:
    """What has been packed: one line of the journal says it of a chunk, all lines together of the whole."""

    end: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        return self.end - len(self.rejected)

    def add(self, news: "Progress") -> None:
        self.end = news.end
        self.rejected |= {int(i): reason for i, reason in news.rejected.items()}
        self.modes.update(news.modes)
        self.sizes.update(news.sizes)

    @classmethod
    def read(cls, journal: Path) -> "Progress":
        """What an interrupted packing had done; nothing, where there is none."""
        done = cls()
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        for line in lines:
            try:
                done.add(cls(**json.loads(line)))
            except ValueError:  # cut off while it was written
                break
        return done


def pack(source: Source, recipe: Recipe, folder: Path, name: str, *, workers: int, max_rejected: float) -> Path:
    """Make sure that the packed copy exists and is up to date; return its JSON. Continues a packing that was
    interrupted."""
    recorded = {"format": FORMAT, "source": source.stamp, **asdict(recipe)}
    path = packed_path(folder, name, recorded)
    if complete(path):
        return path
    make_folder(folder, "data.packed")
    with locked(folder / f"{path.stem}.lock"):
        if not complete(path):  # another process may have packed it meanwhile
            _write(
                source,
                recipe,
                path,
                workers,
                max_rejected,
                {"name": name, "recipe": recorded},
            )
    (folder / f"{path.stem}.lock").unlink(missing_ok=True)
    return path


def packed_path(folder: Path, name: str, recipe: dict[str, Any]) -> Path:
    """Where the JSON of a packed set lies; `recipe` is the one that the JSON holds."""
    if not re.fullmatch(r"[\w+-][\w.+-]*", name):  # it may come from a stranger's checkpoint
        raise UserError(f"data.name={name} is not allowed; it takes letters, digits and . _ + -")
    identity = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:8]
    return folder / f"{name}-{recipe['resolution']}x{recipe['resolution']}x{recipe['channels']}-{identity}.json"


def complete(path: Path) -> bool:
    """Whether the packed copy is whole: its JSON is written last and knows the array's size."""
    try:
        return path.with_suffix(".npy").stat().st_size == json.loads(path.read_text())["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(
    source: Source, recipe: Recipe, path: Path, workers: int, max_rejected: float, about: dict[str, Any]
) -> None:
    row = recipe.channels * recipe.resolution**2
    free = shutil.disk_usage(path.parent).free
    if source.count * row > free:
        raise UserError(
            f"data.packed: the packed copy needs {source.count * row / 1e9:.1f} GB and {path.parent} has "
            f"{free / 1e9:.1f} GB left; make room or choose another with data.packed=FOLDER"
        )
    part, journal = path.with_suffix(".part"), path.with_suffix(".journal")
    shape = (recipe.channels, recipe.resolution, recipe.resolution)
    header = _header(io.BytesIO(), (source.count, *shape))
    done = Progress.read(journal)
    if not part.exists() or part.stat().st_size < header + done.kept * row:  # the journal outlived a loss of power
        done = Progress()
    with (
        open(part, "r+b" if done.end else "wb") as file,
        open(journal, "a" if done.end else "w", encoding="utf-8") as notes,
        progress(total=source.count, initial=done.end, desc=f"packing {about['name']}", unit=" images") as bar,
    ):
        _header(file, (source.count, *shape))
        file.truncate(header + done.kept * row)
        file.seek(0, os.SEEK_END)
        for chunk in _prepared(source, recipe, done.end, workers):
            news = Progress(done.end + len(chunk))
            for i, pixels, mode, size in chunk:
                if isinstance(pixels, str):
                    news.rejected[i] = pixels
                else:
                    file.write(pixels.tobytes())
                    news.modes[mode] += 1
                    news.sizes[size] += 1
            file.flush()
            notes.write(json.dumps(vars(news)) + "\n")
            notes.flush()
            done.add(news)
            bar.update(len(chunk))
        rejected = done.rejected
        kept = np.setdiff1d(np.arange(source.count), list(rejected))
        limit = max_rejected * source.count
        if len(rejected) > limit or not len(kept):
            first = next(iter(rejected))
            raise UserError(
                f"data.max_rejected={max_rejected}: {len(rejected)} of {source.count} images cannot be used, the first "
                f"{source.name(first)} ({rejected[first]}); mend them or allow a larger share, up to 1"
            )
        _header(file, (len(kept), *shape))
    part.replace(path.with_suffix(".npy"))
    if source.labels is not None:
        np.save(path.with_suffix(".labels.npy"), source.labels[kept])
    official = source.official_train
    pixels = np.load(path.with_suffix(".npy"), mmap_mode="r")
    about |= {
        "images": len(kept),
        "found": source.count,
        "expected": source.expected,
        "official_train": None if official is None else int((kept < official).sum()),
        "rejected": {source.name(i): reason for i, reason in rejected.items()},
        "modes": dict(done.modes.most_common()),
        "sizes": dict(done.sizes.most_common(10)),
        "labels": None if source.labels is None else len(np.unique(source.labels)),
        "bytes": path.with_suffix(".npy").stat().st_size,
        **_inspect(pixels),
    }
    write_text(path, json.dumps(about, indent=1))
    journal.unlink()


Prepared = tuple[int, np.ndarray | str, str, str]  # index, pixels or why not, mode, size


def _prepared(source: Source, recipe: Recipe, start: int, workers: int) -> Iterator[list[Prepared]]:
    """Chunks of prepared images, in order. Threads, for Pillow decodes and resizes without Python's lock."""

    def prepare(i: int) -> Prepared:
        try:
            with source.read(i) as image:
                mode = image.mode + (" animated" if getattr(image, "n_frames", 1) > 1 else "")
                return i, recipe.apply(image), mode, f"{image.width}x{image.height}"
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever a broken file leads them to
            kind = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
            return i, kind, "", ""

    with ThreadPoolExecutor(workers) as pool:
        for first in range(start, source.count, CHUNK):
            yield list(pool.map(prepare, range(first, min(first + CHUNK, source.count))))


def _header(file: IO[bytes], shape: tuple[int, ...]) -> int:
    """Write NumPy's header at the start of the file; its length does not depend on the number of rows."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _inspect(pixels: np.ndarray) -> dict[str, Any]:
    """What can only be said of the whole: content hash, mean and standard deviation a channel (0 to 255), exact
    duplicates."""
    content, seen, sums = hashlib.sha256(), Counter[bytes](), np.zeros((2, pixels.shape[1]))
    for first in range(0, len(pixels), CHUNK):
        chunk = np.ascontiguousarray(pixels[first : first + CHUNK])
        content.update(chunk.data)
        seen.update(hashlib.blake2b(row, digest_size=16).digest() for row in chunk)
        sums += [(chunk.astype(np.float64) ** power).sum(axis=(0, 2, 3)) for power in (1, 2)]
    mean, square = sums / (pixels.size / pixels.shape[1])
    return {
        "content": content.hexdigest(),
        "duplicates": sum(n - 1 for n in seen.values()),
        "mean": mean.round(2).tolist(),
        "std": np.sqrt((square - mean**2).clip(0)).round(2).tolist(),
    }


def report(about: dict[str, Any]) -> str:
    """The doctor's report on a packed set, for people."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stderr.isatty() else ("", "")
    recipe = about["recipe"]
    shape = f"{recipe['resolution']}x{recipe['resolution']}x{recipe['channels']}"
    lines = [
        f"{about['name']}: {about['images']:,} images of {shape}"
        + (f", {about['labels']} classes" if about["labels"] else ""),
        f"  found {about['found']:,}" + (f", expected {about['expected']:,}" if about["expected"] else ""),
        "  modes " + ", ".join(f"{mode} {n:,}" for mode, n in about["modes"].items()),
        "  sizes " + ", ".join(f"{size} {n:,}" for size, n in about["sizes"].items()),
        f"  mean {about['mean']}, std {about['std']} of 0 to 255; {about['duplicates']:,} exact duplicates",
    ]
    missing = (about["expected"] or 0) - about["found"]
    if missing > 0:
        lines.append(f"  {bold}warning: {missing:,} images are missing{plain}")
    if about["rejected"]:
        lines.append(f"  {bold}warning: {len(about['rejected']):,} rejected{plain}")
        lines += [f"    {name}: {reason}" for name, reason in list(about["rejected"].items())[:20]]
    return "\n".join(lines)
