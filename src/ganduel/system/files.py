"""Files that several processes may write at once, and files that must never be found half written."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ganduel.system.errors import UserError

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")  # the ends of archives' names, in small letters


def make_folder(path: Path, key: str) -> None:
    """Create a folder and its parents. Raises UserError, which names the setting `key`, if this is not allowed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        raise UserError(f"{key}: cannot create {path} ({error.strerror}); choose another with {key}=FOLDER") from error
    if not writable:
        raise UserError(f"{key}: no permission to write into {path}; choose another with {key}=FOLDER")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to. It replaces `path` if the block ends without an error.

    So a reader always finds a complete file: the old one or the new one.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file with `replacing`, so that a reader always finds a complete file.

    What cannot be encoded, such as bytes of a file name that are no UTF-8, is written as an escape.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file of any size."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of files, to the disk if it exists. Does nothing on Windows."""
    if path.exists() and os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold a lock file. The system releases the lock when this process ends, even after a crash.

    If another process holds the lock, wait for it or, if `busy` is given, raise UserError(busy).
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
    """The thousands of images seen, from a file name that ends with "kimg" before its suffix."""
    return float(path.stem.removesuffix("kimg"))
