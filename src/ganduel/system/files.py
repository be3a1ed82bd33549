"""Files that other processes may be writing too, or that must never be found half written."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ganduel.system.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, nothing keeps two processes apart
    fcntl = None  # type: ignore[assignment]


def make_folder(path: Path, key: str) -> None:
    """Create a folder and its parents. Raises UserError, naming the key that chose it, where that is not allowed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        raise UserError(f"{key}: cannot create {path} ({error.strerror}); choose another with {key}=FOLDER") from error
    if not writable:
        raise UserError(f"{key}: no permission to write into {path}; choose another with {key}=FOLDER")


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader finds the old one or the new one, whole."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
def locked(path: Path, busy: str | None = None) -> Iterator[IO[str]]:
    """Hold a lock that the system releases when this process ends, however it ends.

    Waits while another process holds it, or raises UserError(busy).
    """
    with open(path, "a", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError:
                raise UserError(busy) from None
        yield file


def kimg(path: Path) -> float:
    """Thousands of images seen, from the name of a file."""
    return float(path.stem.removesuffix("kimg"))
