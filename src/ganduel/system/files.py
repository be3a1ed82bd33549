"""Files that other processes may be writing too, or that must never be found half written."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ganduel.system.errors import UserError


def make_folder(path: Path, key: str) -> None:
    """Create a folder and its parents. Raises UserError, naming the key that chose it, where that is not allowed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        raise UserError(f"{key}: cannot create {path} ({error.strerror}); choose another with {key}=FOLDER") from error
    if not writable:
        raise UserError(f"{key}: no permission to write into {path}; choose another with {key}=FOLDER")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, to be written. It takes the place of `path` where the block ends without an
    error, so that a reader finds the old file or the new one, whole."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader finds the old one or the new one, whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file of any size."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Make sure that a file, or a folder's list of files, is on the disk, if it exists."""
    if path.exists() and os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold a lock that the system releases when this process ends, however it ends.

    Waits while another process holds it, or raises UserError(busy).
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0 if busy else -1)
    except Timeout:
        raise UserError(busy) from None
    try:
        yield
    finally:
        lock.release()


def kimg(path: Path) -> float:
    """Thousands of images seen, from the name of a file."""
    return float(path.stem.removesuffix("kimg"))
