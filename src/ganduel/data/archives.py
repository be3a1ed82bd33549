"""Folders and archives of original files, all read the same way and in place: nothing is unpacked, so that nothing is
lost on the way and no name can lead out of a folder.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import shutil
import struct
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

from ganduel.system.errors import UserError
from ganduel.system.files import locked, make_folder
from ganduel.system.terminal import progress, say

Keep = Callable[[str], Any]  # whether a file is wanted, by its name below the tree, with slashes

PACKED = "packed"  # the folder of packed copies inside a root: never searched for originals
LARGEST = 256 << 20  # bytes: no image is larger
SUSPECT, RATIO = 100 << 20, 1000  # no image of so many bytes has been compressed by this factor
BLOCK = 1 << 20
LINKS = 40  # that lead on to another: no more, as on a disk


class Tree(Protocol):
    """A folder or an archive. Hidden files, what macOS adds to zips and packed copies are never found."""

    path: Path

    def stamp(self, keep: Keep) -> str:
        """Changes whenever the wanted files do. Cheap: opens none of them."""

    def find(self, keep: Keep) -> list[str]:
        """The sorted names of the wanted regular files, each below the tree and with slashes.

        Raises UserError for an archive that is damaged, encrypted, or has members that no data set has.
        """

    def read(self, name: str) -> bytes:
        """The bytes of a file that `find` found. Raises whatever a damaged member leads to; not thread-safe."""


def open_tree(path: Path) -> Tree:
    """The folder or archive at a path; an archive's kind is seen in its bytes. Raises UserError."""
    if path.is_dir():
        return Folder(path)
    with _damage(path), open(path, "rb") as file:
        start = file.read(6)
    if start.startswith(b"PK"):
        return Zip(path)
    if start.startswith(tuple(OPENERS)) or tarfile.is_tarfile(path):
        return Tar(path)
    if path.name.lower().endswith(ARCHIVES):
        raise _damaged(path, "it does not begin like one")
    raise UserError(f"data.root: {path} is neither a folder nor a zip or tar archive; give one with data.root=PATH")


class Folder:
    """Files below a folder, in links to folders too."""

    def __init__(self, path: Path):
        self.path = path

    def walk(self, keep: Keep) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Name and entry of every wanted file, in an order that depends on the names alone."""
        pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(self.path), "", frozenset())]
        while pending:
            folder, prefix, above = pending.pop()
            with _damage(Path(folder)):
                status = os.stat(folder)
                with os.scandir(folder) as entries:
                    ordered = sorted(entries, key=lambda entry: entry.name)
            identity = status.st_dev, status.st_ino
            if identity in above:  # a link leads back to where it lies
                continue
            for entry in ordered:
                name = prefix + entry.name
                if _hidden(entry.name):
                    continue
                if entry.is_dir():
                    if entry.name == PACKED and _holds_packed(entry.path):
                        continue
                    pending.append((entry.path, name + "/", above | {identity}))
                elif (entry.is_file() or entry.is_symlink()) and keep(name):  # a broken link is a lost image: reported
                    yield name, entry

    def stamp(self, keep: Keep) -> str:
        digest = hashlib.sha256()
        for name, entry in self.walk(keep):
            status = entry.stat(follow_symlinks=entry.is_file())
            digest.update(os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}\n"))
        return digest.hexdigest()

    def find(self, keep: Keep) -> list[str]:
        return sorted(name for name, _ in self.walk(keep))

    def read(self, name: str) -> bytes:
        path = self.path / name
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"{size:,} bytes are too many for an image")
        return path.read_bytes()


class Zip:
    """Members of a zip archive."""

    def __init__(self, path: Path):
        self.path = path
        self._members: dict[str, zipfile.ZipInfo] = {}

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        with _damage(self.path):
            return zipfile.ZipFile(self.path)

    def stamp(self, keep: Keep) -> str:
        return file_stamp(self.path)

    def find(self, keep: Keep) -> list[str]:
        for name, member in self.members(keep):
            if _absurd(member.file_size, member.compress_size):
                raise _too_large(self.path, name, member.file_size)
            if self._members.setdefault(name, member) is not member:
                raise _twice(self.path, name)
        return sorted(name for name in self._members if keep(name))

    def members(self, keep: Keep) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        """Every wanted member, whatever its size. Raises UserError for a name that leads out, and for encryption."""
        for member in self._archive.infolist():
            name = _checked(member.filename, self.path)
            if member.is_dir() or _hidden(*name.split("/")) or not keep(name):
                continue
            if member.flag_bits & 1:
                raise UserError(f"data.root: {self.path} is encrypted ({name}); unpack it and name the folder")
            yield name, member

    def read(self, name: str) -> bytes:
        member = self._members[name]
        with self._archive.open(member) as file:  # no more than is declared is inflated, which ZipFile.read would do
            return file.read(member.file_size)

    def unpack(self, keep: Keep, target: Path) -> None:
        """Copy the one wanted member to a file, whole or not at all: for what can only be read as a file."""
        found = list(self.members(keep))
        if len(found) != 1:
            raise UserError(
                f"data.root: {self.path} holds {len(found)} files {target.name}, not one; unpack it yourself"
            )
        make_folder(target.parent, "data.root")
        lock = target.with_name(target.name + ".lock")
        with locked(lock):
            if not target.exists():  # another process may have unpacked it meanwhile
                self._copy(found[0][1], target)
        lock.unlink(missing_ok=True)

    def _copy(self, member: zipfile.ZipInfo, target: Path) -> None:
        free = shutil.disk_usage(target.parent).free
        if member.file_size > free:
            raise UserError(
                f"data.root: unpacking {self.path} needs {member.file_size / 1e9:.1f} GB and {target.parent} has "
                f"{free / 1e9:.1f} GB left; make room"
            )
        part = target.with_name(target.name + ".part")
        say(f"unpacking {member.file_size / 1e9:.1f} GB of {self.path}, once")
        try:
            with (
                _damage(self.path),
                self._archive.open(member) as source,
                open(part, "wb") as file,
                _bytes_bar(f"unpacking {self.path.name}", member.file_size) as bar,
            ):
                while block := source.read(BLOCK):
                    bar.update(file.write(block))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


class Tar:
    """Members of a tar archive. A plain one is indexed by seeking from header to header; of a compressed one, which has
    to be read through, the wanted members are kept in a temporary file without a name."""

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}  # where the bytes of a member begin, and how many there are
        self._links: dict[str, str] = {}  # tar stores a file with two names once, and the second name as a link
        self._spool: IO[bytes] | None = None

    def stamp(self, keep: Keep) -> str:
        return file_stamp(self.path)

    def find(self, keep: Keep) -> list[str]:
        with (
            _damage(self.path),
            open(self.path, "rb") as raw,
            _uncompressed(raw) as file,
            _bytes_bar(f"reading {self.path.name}", self.path.stat().st_size) as bar,
        ):
            if file is not raw and self._spool is None:
                self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
                weakref.finalize(self, self._spool.close)
            found: set[str] = set()
            for member in _headers(file):
                name = _checked(member.name, self.path)
                if _hidden(*name.split("/")) or not keep(name):
                    continue
                if name in found and not member.isdir():
                    raise _twice(self.path, name)
                found.add(name)
                if member.islnk() or member.issym():
                    folder = posixpath.dirname(name) if member.issym() else ""
                    self._links[name] = posixpath.normpath(posixpath.join(folder, member.linkname))
                elif member.isreg():
                    if _absurd(member.size, member.size):
                        raise _too_large(self.path, name, member.size)
                    self._places[name] = self._place(file, member), member.size
                bar.update(raw.tell() - bar.n)
        return sorted(name for name in {*self._places, *self._links} if keep(name))

    def _place(self, file: IO[bytes], member: tarfile.TarInfo) -> int:
        if self._spool is None:
            return member.offset_data
        start = self._spool.seek(0, os.SEEK_END)
        file.seek(member.offset_data)
        if self._spool.write(file.read(member.size)) < member.size:
            raise EOFError(f"it ends inside {member.name}")
        return start

    def read(self, name: str) -> bytes:
        for _ in range(LINKS):
            name = self._links.get(name, name)
        if name not in self._places:
            raise ValueError(f"a link to {name}, which is not among the wanted files of this archive")
        start, size = self._places[name]
        if self._spool is not None:
            self._spool.seek(start)
            return self._spool.read(size)
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(size)


def _headers(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Every member of a tar, without keeping any. Raises EOFError where it is cut off or has a damaged header, which
    `tarfile` alone takes for its end."""
    with tarfile.TarFile(fileobj=file) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps a million of them
            yield member
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError(f"no member and no end mark at byte {tar.offset:,}")
    while file.read(BLOCK):  # to the end of the compressed data, where its checksum is
        pass


OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


@contextmanager
def _uncompressed(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    start = raw.read(6)
    raw.seek(0)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        yield raw
    else:
        with opener(raw) as file:
            yield file


class Lmdb:
    """Values of an LMDB database by their keys, which it keeps in order: how LSUN ships its images.

    `path` is its folder. It is opened when first read, without a lock, and nothing is written beside it.
    """

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def _environment(self) -> Any:
        try:
            import lmdb
        except ImportError:
            raise UserError(
                f"data.root: reading {self.path} needs the package lmdb: pip install 'ganduel[lsun]'"
            ) from None
        where = str(self.path.resolve())
        if (opened := _OPEN.get(where)) is not None:
            return opened
        try:
            opened = lmdb.open(where, readonly=True, lock=False, create=False, readahead=False)
            size = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        except lmdb.Error as error:
            raise _damaged(self.path, error) from error
        there = (self.path / "data.mdb").stat().st_size
        if there < size:  # reading what a map does not have would kill the process
            opened.close()
            raise _damaged(self.path, f"{there:,} of {size:,} bytes")
        _OPEN[where] = opened
        return opened

    def stamp(self, keep: Keep) -> str:
        return file_stamp(self.path / "data.mdb")

    def find(self, keep: Keep) -> list[str]:
        with self._environment.begin() as transaction:
            keys = (key.decode() for key in transaction.cursor().iternext(keys=True, values=False))
            return sorted(name for name in keys if keep(name))

    def read(self, name: str) -> bytes:
        with self._environment.begin() as transaction:
            return transaction.get(name.encode())


_OPEN: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # LMDB opens a file once a process


def file_stamp(path: Path) -> str:
    """Name, size and time of a file."""
    with _damage(path):
        status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _hidden(*parts: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _holds_packed(folder: str) -> bool:
    """Whether a folder of that name is ours, and not somebody's category."""
    return any(Path(folder).glob("*-*x*x*-*.*"))


def _checked(name: str, archive: Path) -> str:
    """A member's name, spelt with slashes and without a leading `./`. Raises UserError for one that leads out."""
    clean = name.replace("\\", "/").removeprefix("./")
    if clean.startswith("/") or clean[1:3] == ":/" or ".." in clean.split("/"):
        raise UserError(
            f"data.root: {archive} has a member {name!r} that leads out of it; get it from where it is safe"
        )
    return clean


def _absurd(size: int, compressed: int) -> bool:
    return size > LARGEST or (size > SUSPECT and size > RATIO * compressed)


def _too_large(archive: Path, name: str, size: int) -> UserError:
    return UserError(f"data.root: {archive} declares {size / 1e6:,.0f} MB for {name}, which no image has; not unpacked")


def _twice(archive: Path, name: str) -> UserError:
    return UserError(f"data.root: {archive} has two members {name!r}; rename one, lest an image be lost")


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"data.root: {path} is damaged or cut off ({reason}): delete it and download it again")


DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,  # zipfile, of a version or a compression that it does not know
    OverflowError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what readers of archives raise into one line."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"data.root: cannot read {path} ({error.strerror})") from error
        raise _damaged(path, error) from error


def _bytes_bar(text: str, total: int) -> Any:
    return progress(total=total, desc=text, unit="B", unit_scale=True)
