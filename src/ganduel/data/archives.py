"""Folders and archives of original files, behind one interface.

Archives are read in place and not unpacked into a folder, so no file is lost and no member name can lead out of a
folder. The only exception is a zipped LMDB database: see `Zip.unpack`.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

from ganduel.system.errors import UserError
from ganduel.system.files import ARCHIVES, locked, make_folder
from ganduel.system.terminal import progress, say

Keep = Callable[[str], Any]  # gets a file name relative to the tree, with slashes; true if the file is wanted

PACKED = "packed"  # name of the folder of packed copies inside a root; it is never searched for originals
LARGEST = 256 << 20  # bytes of the largest image
SUSPECT, RATIO = 100 << 20, 1000  # bytes; above these, no image compresses by more than RATIO
RATIO_OF_ALL = 100  # the same for all images together, above a few hundred megabytes
HEADER = 1 << 20  # bytes of the longest header of a member of a tar, its name included
BLOCK = 1 << 20  # bytes read at a time
ELSEWHERE = 2**16 - 1  # so many members at the end of a zip mean: another record holds the number
LINKS = 40  # length of the longest chain of links to follow, as on a disk


class Tree(Protocol):
    """A folder or an archive. It skips hidden files, the extra files that macOS adds to zips, and packed copies."""

    path: Path

    def stamp(self, keep: Keep) -> str:
        """A string that changes whenever the wanted files change. It is cheap, because no file is opened."""

    def find(self, keep: Keep) -> list[str]:
        """The sorted names of the wanted files, relative to the tree and with slashes.

        It asks `keep` once about every file that is not wanted, so that `keep` can count them. Raises UserError if the
        archive is damaged or encrypted, or if a member is implausibly large, has an unsafe name or has the name of
        another member.
        """

    def read(self, name: str) -> bytes:
        """The bytes of a file that `find` listed. Not thread-safe. A damaged member may raise any exception."""


def open_tree(path: Path) -> Tree:
    """Open the folder or archive at a path. The first bytes tell the kind of archive.

    Raises UserError if the file cannot be read, is damaged, or is neither a zip nor a tar archive.
    """
    if path.is_dir():
        return Folder(path)
    with _damage(path), open(path, "rb") as file:
        start = file.read(6)
    if start.startswith(b"PK"):
        return Zip(path)
    if start.startswith(tuple(OPENERS)) or _begins_like_tar(path):
        return Tar(path)
    if path.name.lower().endswith(ARCHIVES):
        raise _damaged(path, "it does not begin like one")
    raise UserError(f"data.root: {path} is neither a folder nor a zip or tar archive; give one with data.root=PATH")


def _begins_like_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except Exception:  # of a header that it cannot parse: `Tar` says what is wrong with it
        return True


class Folder:
    """Files below a folder, including those behind links to folders. Errors name the setting `key`."""

    def __init__(self, path: Path, key: str = "data.root"):
        self.path, self.key = path, key

    def walk(self, keep: Keep) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the name and entry of every wanted file. The order depends only on the names."""
        pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(self.path), "", frozenset())]
        while pending:
            folder, prefix, above = pending.pop()
            with _damage(Path(folder), self.key):
                status = os.stat(folder)
                with os.scandir(folder) as entries:
                    ordered = sorted(entries, key=lambda entry: entry.name)
            identity = status.st_dev, status.st_ino
            if identity in above:  # a link leads back to one of its own parents
                continue
            for entry in ordered:
                name = prefix + entry.name
                if _hidden(entry.name):
                    continue
                if _known(entry.is_dir):
                    if PACKED in name.split("/") and _holds_packed(entry.path):
                        continue
                    pending.append((entry.path, name + "/", above | {identity}))
                elif (_known(entry.is_file) or entry.is_symlink()) and keep(
                    name
                ):  # keep broken links: reading reports them
                    yield name, entry

    def stamp(self, keep: Keep) -> str:
        digest = hashlib.sha256()
        for name, entry in self.walk(keep):
            status = entry.stat(follow_symlinks=_known(entry.is_file))
            digest.update(os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}\n"))
        return digest.hexdigest()

    def find(self, keep: Keep) -> list[str]:
        return sorted(name for name, _ in self.walk(keep))

    def read(self, name: str) -> bytes:
        path = self.path / name
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a link to a device or a pipe, which may never end
            raise ValueError("no regular file")
        if status.st_size > LARGEST:
            raise ValueError(f"{status.st_size:,} bytes are too many for an image")
        return path.read_bytes()


def _known(question: Callable[[], bool]) -> bool:
    """The system's answer. An error, such as that of a link to itself, counts as no."""
    try:
        return question()
    except OSError:
        return False


class Zip:
    """Members of a zip archive."""

    def __init__(self, path: Path):
        self.path = path
        self._members: dict[str, zipfile.ZipInfo] = {}

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        with _damage(self.path):
            archive = zipfile.ZipFile(self.path)
            told, found = _count_at_end(self.path), len(archive.infolist())
            if told not in (found % 2**16, ELSEWHERE):  # `zipfile` does not compare them, and would lose files
                raise zipfile.BadZipFile(f"its end tells of {told} members, and its directory has {found}")
            return archive

    def stamp(self, keep: Keep) -> str:
        return file_stamp(self.path)

    def find(self, keep: Keep) -> list[str]:
        total = 0
        for name, member in self.members(keep):
            total += member.file_size
            if _absurd(member.file_size, member.compress_size):
                raise _too_large(self.path, name, member.file_size)
            if total > max(2 * LARGEST, RATIO_OF_ALL * self.path.stat().st_size):
                raise _bomb(self.path, total)
            if self._members.setdefault(name, member) is not member:
                raise _twice(self.path, name)
        return sorted(name for name in self._members if keep(name))

    def members(self, keep: Keep) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        """Yield every wanted member, whatever its size.

        Raises UserError if a name leads out of the archive or a wanted member is encrypted.
        """
        for member in self._archive.infolist():
            name = _checked(member.filename, self.path)
            if member.is_dir() or _hidden(*name.split("/")) or not keep(name):
                continue
            if member.flag_bits & 1:
                raise UserError(f"data.root: {self.path} is encrypted ({name}); unpack it and name the folder")
            yield name, member

    def read(self, name: str) -> bytes:
        member = self._members[name]
        with self._archive.open(member) as file:  # inflates at most the declared size; ZipFile.read would inflate all
            return file.read(member.file_size + 1)  # zipfile compares the checksum only at the end, so one byte more

    def unpack(self, keep: Keep, target: Path) -> None:
        """Copy the only wanted member to a file, completely or not at all. Some formats need a real file.

        Raises UserError if not exactly one member is wanted, if the disk is too small, or if the archive is damaged.
        """
        found = list(self.members(keep))
        if len(found) != 1:
            raise UserError(
                f"data.root: {self.path} holds {len(found)} files {target.name}, not one; unpack it yourself"
            )
        make_folder(target.parent, "data.root")
        lock = target.with_name(target.name + ".lock")
        with locked(lock):
            if not target.exists():  # another process may have unpacked it in the meantime
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


def _count_at_end(path: Path) -> int:
    """The number of members in the last record of a zip archive, modulo 65,536."""
    with open(path, "rb") as file:
        file.seek(-min(path.stat().st_size, 22 + 2**16), os.SEEK_END)  # only a comment may follow the record
        end = file.read()
    return int.from_bytes(end[end.rindex(b"PK\5\6") :][10:12], "little")


class Tar:
    """Members of a tar archive.

    A plain archive is indexed by seeking from header to header. A compressed archive must be read from start to end, so
    its wanted members are copied to an unnamed temporary file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}  # name -> (offset, size), in bytes
        self._links: dict[str, str] = {}  # name -> target; tar stores the second name of a file as a link
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
            most = max(SUSPECT, RATIO_OF_ALL * self.path.stat().st_size)
            for member in _headers(file, self.path):
                name = _checked(member.name, self.path)
                end = member.offset_data + member.size
                if member.isdir() or _hidden(*name.split("/")) or not keep(name):
                    if end > most and file is not raw:
                        raise _bomb(self.path, end)
                    continue
                if name in found:
                    raise _twice(self.path, name)
                found.add(name)
                if member.islnk() or member.issym():
                    folder = posixpath.dirname(name) if member.issym() else ""
                    self._links[name] = posixpath.normpath(posixpath.join(folder, member.linkname))
                elif member.isreg():
                    if _absurd(member.size, member.size):
                        raise _too_large(self.path, name, member.size)
                    if end > most and file is not raw:
                        raise _bomb(self.path, end)
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


def _headers(file: IO[bytes], path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield every member of a tar without keeping them.

    Raises EOFError if the archive is cut off or has a damaged header. `tarfile` alone would take either for the end.
    Raises UserError if another archive follows the end, as after `cat`.
    """
    with tarfile.TarFile(fileobj=_ShortHeaders(file)) as tar:  # type: ignore[arg-type]
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps every member in memory
            yield member
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError(f"no member and no end mark at byte {tar.offset:,}")
    while block := file.read(BLOCK):  # read to the end of the compressed data, because its checksum is there
        if block.strip(b"\0"):
            raise UserError(
                f"data.root: {path} goes on after its end, as if several archives were joined; unpack each into one "
                "folder, and name that folder"
            )


class _ShortHeaders:
    """A file from which `tarfile` reads headers. It would read a name of any length into memory.

    Raises ValueError for one above `HEADER` bytes.
    """

    def __init__(self, file: IO[bytes]):
        self.file, self.seek, self.tell, self.close = file, file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        if size > HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        return self.file.read(size)


OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


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
    """An LMDB database as a tree: keys are the names, values the files. LSUN ships its images in this form.

    `path` is the folder of the database. Keys may be any bytes. In names, bytes that are not UTF-8 are escaped as in
    Python's file names. The database is opened on first use, without a lock, and nothing is written beside it. LMDB
    keeps its keys sorted.
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
        if there < size:  # reading a memory map beyond the end of its file would kill the process
            opened.close()
            raise _damaged(self.path, f"{there:,} of {size:,} bytes")
        _OPEN[where] = opened
        return opened

    def stamp(self, keep: Keep) -> str:
        return file_stamp(self.path / "data.mdb")

    def find(self, keep: Keep) -> list[str]:
        with self._environment.begin() as transaction:
            keys = (os.fsdecode(key) for key in transaction.cursor().iternext(keys=True, values=False))
            return sorted(name for name in keys if keep(name))

    def read(self, name: str) -> bytes:
        with self._environment.begin() as transaction:
            return transaction.get(os.fsencode(name))


_OPEN: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # a process may open an LMDB only once


def file_stamp(path: Path) -> str:
    """The name, size (bytes) and modification time (ns) of a file. Raises UserError if it cannot be read."""
    with _damage(path):
        status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _hidden(*parts: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _holds_packed(folder: str) -> bool:
    """Whether a folder named `PACKED`, or one below it, holds our packed copies. If not, it is a category of images."""
    return any(Path(folder).glob("*-*x*x*-*.*"))


def _checked(name: str, archive: Path) -> str:
    """A member's name with slashes and without a leading `./`. Raises UserError if it leads out of the archive."""
    clean = name.replace("\\", "/").removeprefix("./")
    if clean.startswith("/") or clean[1:3] == ":/" or ".." in clean.split("/"):
        raise UserError(
            f"data.root: {archive} has a member {name!r}, which leads out of the archive; download it from a "
            "trusted source"
        )
    return clean


def _absurd(size: int, compressed: int) -> bool:
    return size > LARGEST or (size > SUSPECT and size > RATIO * compressed)


def _too_large(archive: Path, name: str, size: int) -> UserError:
    return UserError(
        f"data.root: {archive} declares {size / 1e6:,.0f} MB for {name}; no image is that large, so the archive "
        "was not read"
    )


def _bomb(archive: Path, size: int) -> UserError:
    return UserError(
        f"data.root: {archive} has {archive.stat().st_size / 1e6:,.1f} MB and unpacks to {size / 1e6:,.0f} MB or more; "
        "images do not compress like that, so it was not read; unpack it yourself and name the folder if you trust it"
    )


def _twice(archive: Path, name: str) -> UserError:
    return UserError(
        f"data.root: {archive} has two members {name!r}; rename one, because only one of them could be read"
    )


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"data.root: {path} is damaged or cut off ({reason}): delete it and download it again")


@contextmanager
def _damage(path: Path, key: str = "data.root") -> Iterator[None]:
    """Turn every exception of archive readers into a UserError of one line that names the setting `key`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{key}: cannot read {path} ({error.strerror})") from error
        raise _damaged(path, error) from error


def _bytes_bar(text: str, total: int) -> Any:
    return progress(total=total, desc=text, unit="B", unit_scale=True)
