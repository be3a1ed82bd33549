"""Packing: decode, crop and resize every image of a source once, on all cores, into one file for fast batches.

Small images are stored as pixels in `<name>.npy`, uint8 (N, C, H, W); large images are stored compressed in
`<name>.images`. The labels and `<name>.json` lie beside that file. The JSON holds the recipe, the counts, and every
rejected file with the reason. An interrupted packing resumes where it stopped.
"""

import errno
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ganduel.data import inspection
from ganduel.data.resize import Prepared, Recipe, prepare
from ganduel.data.sources import Originals, Points, Source
from ganduel.data.store import PACKED_SET, FileWriter, described, labels_path, sign, suffix
from ganduel.data.streaming import Place, ShardWriter, chunks
from ganduel.data.workers import prepared, read
from ganduel.system.errors import UserError
from ganduel.system.files import Damaged, file_hash, locked, make_folder, parsing, write_text
from ganduel.system.terminal import printable, progress

FORMAT = 2
LARGE = 128  # pixels a side above which images are stored compressed
TRIED = 64  # sample size for the estimate of the compressed size
RECORD = np.dtype([("bytes", "<i8"), ("digest", "<u8", 2), ("look", "<u8", 4)])  # per image, only during packing


@dataclass
class Done:
    """What has been packed so far. A line of the journal describes a few images; all lines together describe all."""

    end: int = 0
    kept: int = 0
    bytes: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    sums: list[list[int]] = field(default_factory=list)  # per channel: of the pixels, and of their squares

    def add(self, news: "Done") -> None:
        self.end = news.end
        self.kept += news.kept
        self.bytes += news.bytes
        self.rejected |= {int(i): reason for i, reason in news.rejected.items()}
        self.modes.update(news.modes)
        self.sizes.update(news.sizes)
        if news.sums:
            self.sums = np.add(self.sums or 0, news.sums).tolist()

    @classmethod
    def of(cls, first: int, prepared: Sequence[Prepared | str]) -> "Done":
        """The result for the prepared images, which start at index `first` of the originals."""
        kept = [image for image in prepared if not isinstance(image, str)]
        return cls(
            first + len(prepared),
            len(kept),
            sum(len(image.stored) for image in kept),
            {first + i: reason for i, reason in enumerate(prepared) if isinstance(reason, str)},
            Counter(image.mode for image in kept),
            Counter(image.size for image in kept),
            np.sum([image.sums for image in kept], axis=0).tolist() if kept else [],
        )


def pack(
    source: Source,
    recipe: Recipe,
    path: Path,
    about: dict[str, Any],
    *,
    workers: int,
    max_rejected: float,
    raw_limit_gb: float,
    place: Place | None = None,
) -> None:
    """Make a packed copy and its JSON at `path`, unless the copy is already complete.

    `about` is the beginning of the JSON: the set's name and everything that its contents depend on. With a `place`, the
    images go there in shards. Raises UserError if the disk is too small or if more than the share `max_rejected` of the
    images cannot be used.
    """
    make_folder(path.parent, "data.packed")
    lock = path.with_suffix(".lock")
    with locked(lock):
        if not complete(path, place):  # another process may have packed it in the meantime
            originals = source.scan()
            if originals.points is not None:
                pack_points(originals, originals.points, path, about)
                return
            raw = len(originals.names) * recipe.channels * recipe.resolution**2
            compress = recipe.resolution > LARGE or raw > raw_limit_gb * 1e9
            shape = recipe.channels, recipe.resolution, recipe.resolution
            writer = ShardWriter(place) if place else FileWriter(path, len(originals.names), shape, compress)
            packing = Packing(originals, recipe, compress, path, about, writer)
            packing.run(workers)
            packing.finish(max_rejected)
    lock.unlink(missing_ok=True)


def pack_points(originals: Originals, points: Points, path: Path, about: dict[str, Any]) -> None:
    """Store points as they are, float32 (N, 2, 1, 1), and write the JSON of their set at `path`.

    So a point is an image of one pixel, whose two channels are x and y.
    """
    file = path.with_suffix(suffix(compressed=False))
    positions = np.ascontiguousarray(points.positions, np.float32)[:, :, None, None]
    np.save(file, positions)
    count = len(positions)
    if originals.labels is not None:
        np.save(labels_path(path), originals.labels)
        about["labelled"] = file_hash(labels_path(path))
    digests = b"".join(hashlib.blake2b(point.tobytes(), digest_size=16).digest() for point in positions)
    about |= {
        "compressed": False,
        "bytes": file.stat().st_size,
        "shards": None,
        "dtype": "float32",
        "images": count,
        "splits": originals.splits,
        "found": originals.splits,
        "expected": originals.expected,
        "rejected": {},
        "modes": {},
        "sizes": {},
        "labels": list(originals.label_names),
        "labels_from": originals.labels_from,
        "left_out": {},
        "mean": positions.mean((0, 2, 3), dtype=float).round(4).tolist(),
        "std": positions.std((0, 2, 3), dtype=float).round(4).tolist(),
        **inspection.identity(np.frombuffer(digests, "<u8").reshape(count, 2)),
        "near_duplicates": None,
        "near_pairs": [],
        "plane": {"centres": points.centres.tolist(), "std": points.std},
    }
    write_description(path, about)


def write_description(path: Path, about: dict[str, Any]) -> None:
    """Write the JSON of a packed set, with a checksum over its content."""
    about = json.loads(json.dumps(about))  # the form in which it is read again, for the checksum
    write_text(path, json.dumps({**about, "checksum": sign(about)}, indent=1))


def packed_path(folder: Path, name: str, recipe: dict[str, Any]) -> Path:
    """The path of a packed set's JSON; `recipe` is the recipe in that JSON. Raises UserError for an unsafe name."""
    if not re.fullmatch(r"[\w+-][\w.+-]*", name):  # the name may come from a stranger's checkpoint
        raise UserError(f"data.name={name} is not allowed; it takes letters, digits and . _ + -")
    identity = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:8]
    return folder / f"{name}-{recipe['resolution']}x{recipe['resolution']}x{recipe['channels']}-{identity}.json"


def complete(path: Path, place: Place | None) -> bool:
    """Whether a packed copy is complete.

    The JSON is written last. It knows the size of the image file; for shards at a `place`, the index there knows the
    sizes of all shards. Raises UserError if the place cannot be reached.
    """
    if not path.exists():
        return False
    try:
        about = described(path)
        with parsing(path, PACKED_SET):
            if "labelled" in about and not labels_path(path).exists():
                return False
            if place is not None:
                return chunks(place, about["shards"]) is not None
            file = path.with_suffix(suffix(about["compressed"]))
            return file.exists() and bool(file.stat().st_size == about["bytes"])
    except Damaged:
        return False


def tidy(path: Path) -> None:
    """Remove the files that a killed process has left beside a complete packed set."""
    for kind in (".journal", ".records", ".part", ".lock", ".json.tmp"):
        path.with_suffix(kind).unlink(missing_ok=True)


class Packing:
    """A packing in progress: images go to a writer, a record of each to `.records`, and the progress to `.journal`."""

    def __init__(
        self,
        originals: Originals,
        recipe: Recipe,
        compress: bool,
        path: Path,
        about: dict[str, Any],
        writer: FileWriter | ShardWriter,
    ):
        self.originals, self.recipe, self.compress, self.path, self.about = originals, recipe, compress, path, about
        self.writer, self.count = writer, len(originals.names)
        self.records, self.journal = path.with_suffix(".records"), path.with_suffix(".journal")
        self.done = self.resumable()

    def resumable(self) -> Done:
        """The finished part of an interrupted packing; an empty `Done` if it cannot resume."""
        done = Done()
        try:
            for line in self.journal.read_text(encoding="utf-8").splitlines():
                done.add(Done(**json.loads(line)))
        except FileNotFoundError:
            return done
        except (ValueError, TypeError, AttributeError, RecursionError):  # the last line is incomplete, or damaged
            pass
        recorded = self.records.stat().st_size if self.records.exists() else 0
        if self.writer.size < done.bytes or recorded < done.kept * RECORD.itemsize:
            return Done()  # a power failure lost data but not the journal; or shards, which cannot resume
        return done

    def run(self, workers: int) -> None:
        """Prepare and write the remaining images. Raises UserError if the disk is full or a process dies."""
        done, mode = self.done, "r+b" if self.done.end else "wb"
        self.check_room()
        write_text(self.journal, json.dumps(vars(done)) + "\n")  # drops an incomplete last line
        with (
            self.explaining(),
            self.writer.opened(done.bytes) as images,
            open(self.records, mode) as records,
            open(self.journal, "a", encoding="utf-8") as journal,
            progress(
                total=self.count, initial=done.end, desc=f"packing {self.about['name']}", unit=" images", smoothing=0.1
            ) as bar,
        ):
            records.truncate(done.kept * RECORD.itemsize)
            records.seek(0, os.SEEK_END)
            for task in prepared(self.originals, self.recipe, self.compress, done.end, workers):
                for image in task:
                    if not isinstance(image, str):
                        images.write(image.stored)
                        records.write(len(image.stored).to_bytes(8, "little") + image.digest + image.look)
                images.flush()
                records.flush()
                news = Done.of(done.end, task)
                journal.write(json.dumps(vars(news)) + "\n")  # last, because it vouches for the images and records
                journal.flush()
                done.add(news)
                bar.update(len(task))

    def finish(self, max_rejected: float) -> None:
        """Make a packed copy of the files written so far. Raises UserError if too many images were rejected."""
        done, originals = self.done, self.originals
        listed = self.path.with_suffix(".rejected")
        rejected = {originals.names[i]: reason for i, reason in done.rejected.items()}
        if len(done.rejected) > max_rejected * self.count or not done.kept:
            reasons = [(printable(name), printable(reason)) for name, reason in rejected.items()]
            write_text(listed, "".join(f"{name}: {reason}\n" for name, reason in reasons))
            first = "{} ({})".format(*reasons[0])
            raise UserError(
                f"data.max_rejected={max_rejected}: {len(done.rejected):,} of {self.count:,} images cannot be used, "
                f"the first {first}, all in {listed}; repair "
                "them, or raise data.max_rejected (at most 1)"
            )
        records = np.memmap(self.records, RECORD, "r", shape=(done.kept,))
        with self.explaining():
            self.about |= {"compressed": self.compress, **self.writer.finish(records["bytes"])}
        kept = np.ones(self.count, bool)
        kept[list(done.rejected)] = False
        if originals.labels is not None:
            np.save(labels_path(self.path), originals.labels[kept])
            self.about["labelled"] = file_hash(labels_path(self.path))
        self.about |= {
            "images": done.kept,
            "splits": _parts(kept, originals.splits),
            "found": originals.splits,
            "expected": originals.expected,
            "rejected": rejected,
            "modes": dict(done.modes.most_common()),
            "sizes": dict(done.sizes.most_common(10)),
            "labels": list(originals.label_names),
            "labels_from": originals.labels_from,
            "left_out": originals.left_out,
            "note": originals.note,
            **inspection.statistics(done.sums, done.kept * self.recipe.resolution**2),
            **inspection.identity(records["digest"]),
            **inspection.near_duplicates(
                records["look"],
                [name for name, keep in zip(originals.names, kept, strict=True) if keep],
                self.recipe.resolution,
            ),
        }
        write_description(self.path, self.about)
        listed.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)
        self.records.unlink(missing_ok=True)

    @property
    def progress(self) -> str:
        return f"{self.done.end:,} of {self.count:,} images are packed"

    def check_room(self) -> None:
        """Raise UserError before the first image if there is not enough room for all."""
        if self.compress:
            some = range(0, self.count, math.ceil(self.count / TRIED))
            tried = prepare(self.recipe, True, [read(self.originals, i) for i in some])
            sizes = [len(image.stored) for image in tried if not isinstance(image, str)] or [0]
            each = sum(sizes) / len(sizes)
        else:
            each = self.recipe.channels * self.recipe.resolution**2
        needed, free = each * self.count - self.done.bytes, self.writer.free()
        if needed > free:
            raise UserError(
                f"{self.writer.key}: the packed copy needs {needed / 1e9:.1f} GB more and {self.writer.where} has "
                f"{free / 1e9:.1f} GB left; make room or choose another folder with {self.writer.key}=FOLDER"
            )

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn a full disk or a dead process into a UserError that tells what to do."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise UserError(
                f"{self.writer.key}: no room is left in {self.writer.where} ({error.strerror}; {self.progress}); make "
                f"room and run again: {self.writer.again}"
            ) from error
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that packs images has died, perhaps for lack of memory ({self.progress}); run again with "
                f"workers=1: {self.writer.again}"
            ) from error


def _parts(kept: np.ndarray, splits: dict[str, int]) -> dict[str, int]:
    """The number of kept images of each official part."""
    ends = np.cumsum(list(splits.values()))
    return {name: int(part.sum()) for name, part in zip(splits, np.split(kept, ends[:-1]), strict=True)}
