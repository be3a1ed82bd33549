"""Files that several processes may write at once, files that must never be found half written, and files that others
may have written or damaged.
"""

import errno
import hashlib
import json
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from ganduel.system.errors import UserError
from ganduel.system.terminal import printable, say

# What readers of a file raise for its content (no number, EINVAL), for a bad sector, and for a folder in its place
OF_THE_FILE = None, errno.EINVAL, errno.EIO, errno.EISDIR
NO_LOCKS = errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL  # of file systems without locks


class Damaged(UserError):
    """A file is damaged or is of another kind, or its content cannot be used."""


@contextmanager
def parsing(path: Path | str, what: str, way_out: str = "") -> Iterator[None]:
    """The boundary around every parser of bytes that we did not just write ourselves.

    A parser may raise any type of exception for damaged or hostile bytes. Here each becomes Damaged, one line: the file
    is damaged or is not `what`, the reason, and the `way_out`. A file that the system refuses to read is a UserError of
    its own, and so is a device or a pipe, which may never end. Warnings of the parser are dropped.
    """
    end = f"; {way_out}" if way_out else ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mode = os.stat(path).st_mode if os.path.exists(path) else stat.S_IFREG
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{path}: cannot be read (it is no regular file)")
            yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file{end}") from None
    except OSError as error:
        if error.errno in OF_THE_FILE:
            raise Damaged(f"{path}: is damaged, or is not {what} ({brief(error)}){end}") from error
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise Damaged(f"{path}: is damaged, or is not {what} ({brief(error)}){end}") from error


def brief(error: BaseException) -> str:
    """The type of an exception and the first sentence of its text, on one line."""
    words = printable(" ".join(str(error)[:1000].split())).partition(". ")[0]
    named = type(error).__name__ + (f": {words}" if words else "")
    return named if len(named) <= 160 else f"{named[:160]}..."


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a UserError that names the file and says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # PyTorch's writer turns an OSError into a RuntimeError
        cause: BaseException = error
        while not isinstance(cause, OSError) and (inner := cause.__cause__ or cause.__context__):
            cause = inner
        reason = getattr(cause, "strerror", None) or brief(cause)
        raise UserError(
            f"cannot write {path} ({reason}): make room or give write permission, then run the same command again; "
            "what was saved before is intact"
        ) from error


class Rows(NamedTuple):
    """The content of a .jsonl file: the rows that can be used with their lines, and the lines that cannot."""

    rows: list[tuple[dict[str, Any], bytes]]
    bad: list[bytes]


def read_configuration(path: Path) -> dict[str, Any]:
    """What a config.yaml says; an empty one says nothing.

    Raises UserError if it is damaged or has aliases. We write none, and a few of them can stand for billions of values.
    """
    with parsing(path, "the configuration of a run"):
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases")
        return dict(OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type]


def read_rows(path: Path) -> Rows:
    """Read a log of ours, a .jsonl file; one that does not exist is empty.

    A row is a JSON object. Its `step` is a number from 0 on, and so is `images` where it is there. Other lines are bad,
    except a last one without its end: a process is writing it, or was killed while it did. That line is left out.
    """
    rows, bad = [], []
    content = path.read_bytes() if path.exists() else b""
    for line in content.split(b"\n")[:-1]:
        try:
            row = json.loads(line.decode("utf-8"))
            if not isinstance(row, dict) or not all(
                type(number) in (int, float) and 0 <= number < 2**63 for number in (row["step"], row.get("images", 0))
            ):
                raise ValueError("not a row")
            rows.append((row, line))
        except (ValueError, KeyError, RecursionError):
            bad.append(line)
    return Rows(rows, bad)


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

    Letters that cannot be encoded, such as bytes of a file name that are no UTF-8, become escapes.
    """
    with writing(path), replacing(path) as temporary:
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

    If another process holds the lock, wait for it or, if `busy` is given, raise UserError(busy). On a file system
    without locks, say so and go on without one.
    """
    lock = FileLock(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock's, which has other means where a file system has no locks
            lock.acquire(timeout=0 if busy else -1)
    except Timeout:
        raise UserError(busy) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        say(f"warning: {path}: this file system has no locks ({brief(error)}); start nothing else that writes there")
    try:
        yield
    finally:
        lock.release()


def numbered(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder that we named after the images seen, such as 000100kimg.png, from the first to the last."""
    named = re.compile(rf"\d+(\.\d+)?kimg{re.escape(suffix)}")
    return sorted((path for path in folder.glob(f"*kimg{suffix}") if named.fullmatch(path.name)), key=kimg)


def kimg(path: Path) -> float:
    """The thousands of images seen, from the name of a file that `numbered` finds."""
    return float(path.stem.removesuffix("kimg"))
