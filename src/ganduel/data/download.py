"""Downloads: they resume after a broken connection, verify checksums, and never leave an incomplete file in place."""

import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ganduel.system.errors import UserError
from ganduel.system.files import file_hash, locked, make_folder, sync
from ganduel.system.terminal import progress, say

TIMEOUT = 30  # seconds without a byte
PAUSES = (1, 5, 20, 60)  # seconds before each new try after a broken connection
BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class File:
    """A file of a data set. `checksum` is its MD5 or SHA-256 in hexadecimal, told apart by length; None if unknown."""

    name: str
    urls: Sequence[str]  # tried in turn
    checksum: str | None


@dataclass(frozen=True)
class Remote:
    """Where a data set comes from: its web page for people, and its files.

    A data set without direct links has no files, or files without URLs.
    """

    title: str
    page: str
    files: Sequence[File]


class Failed(Exception):
    """A download failed, and another try would not help."""


def obtain(remote: Remote, folder: Path) -> None:
    """Download the missing files of a data set into a folder. Raises UserError that tells how to get them by hand."""
    make_folder(folder, "data.root")
    for file in remote.files:
        reasons = []
        for url in file.urls:
            try:
                fetch(url, folder / file.name, file.checksum)
                break
            except Failed as failure:
                reasons.append(str(failure))
        else:
            raise by_hand(
                remote, [f.name for f in remote.files], folder, f"cannot be downloaded ({'; '.join(reasons)})"
            )


def by_hand(remote: Remote, names: Sequence[str], folder: Path, why: str) -> UserError:
    """The error for a data set that must be downloaded by hand; `why` is the reason."""
    return UserError(
        f"data.root: {remote.title} is not in {folder} and {why}; get {', '.join(names)} from {remote.page} and put it "
        f"into {folder}, or name its folder or archive with data.root=PATH"
    )


def fetch(url: str, path: Path, checksum: str | None) -> None:
    """Download a file unless it exists. Raises Failed.

    An incomplete download stays in `<name>.part`; the next call resumes it. A file with a wrong checksum is deleted.
    """
    lock = path.with_name(path.name + ".lock")
    with locked(lock):
        if not path.exists():  # another process may have fetched it in the meantime
            part = path.with_name(path.name + ".part")
            try:
                _fetch(url, part)
            except OSError as error:  # from the disk
                raise Failed(f"{part}: {error.strerror or error}") from error
            _check(part, checksum)
            sync(part)
            part.replace(path)
            _version(part).unlink(missing_ok=True)
    lock.unlink(missing_ok=True)


def _fetch(url: str, part: Path) -> None:
    """Complete `part`, with a new try after each pause in `PAUSES`. Raises Failed."""
    for pause in (*PAUSES, None):
        try:
            return _continue(url, part)
        except urllib.error.HTTPError as error:
            error.close()
            reason, hopeless = f"HTTP {error.code} {error.reason}", error.code < 500
        except urllib.error.URLError as error:  # not connected; at the first try hopeless, unless it timed out
            reason, hopeless = str(error.reason), pause == PAUSES[0] and not isinstance(error.reason, TimeoutError)
        except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
            reason, hopeless = str(error) or type(error).__name__, False
        if hopeless or pause is None:
            raise Failed(f"{url}: {reason}")
        time.sleep(pause)
    return None


def _continue(url: str, part: Path) -> None:
    """Fetch the missing bytes over one connection. If the file on the server has changed, fetch all of it."""
    request = urllib.request.Request(url, headers={"User-Agent": "ganduel"})
    have = part.stat().st_size if part.exists() and _version(part).exists() else 0
    if have:  # If-Range (RFC 9110, 13.1.5): send the rest if the file is unchanged, else the whole file
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", _version(part).read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{have}":  # the part is complete but not yet renamed
            return
        part.unlink()
        raise ConnectionError("the file has changed since its download began") from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise Failed(
                f"{url}: a web page came instead of the file, as from Google Drive when too many have fetched it today"
            )
        total = _total(response, have)
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0
        _receive(response, part, have, total)


def _total(response: http.client.HTTPResponse, have: int) -> int | None:
    """Bytes of the whole file, or None if the server does not say. Raises ConnectionError if the range is wrong."""
    if response.status != http.client.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length")
        return int(length) if length else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != have:
        raise ConnectionError(f"asked for bytes from {have}, got {response.headers.get('Content-Range')}")
    return int(match[2])


def _receive(response: http.client.HTTPResponse, part: Path, have: int, total: int | None) -> None:
    """Append the response to the first `have` bytes of `part`. Raises Failed if the disk is too small."""
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise Failed(
            f"it needs {(total - have) / 1e9:.1f} GB and {part.parent} has {free / 1e9:.1f} GB left; make room, or "
            "choose another folder with data.root=FOLDER"
        )
    name = part.name.removesuffix(".part")
    size = "size unknown" if total is None else f"{total / 1e6:,.1f} MB"
    say(f"downloading {name} ({size}{f', {have / 1e6:,.1f} MB are there' if have else ''}) to {part.parent}")
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    _version(part).unlink(missing_ok=True)
    with open(part, "ab" if have else "wb") as file:
        if version and not version.startswith("W/"):  # a weak ETag does not promise the same bytes
            _version(part).write_text(version, encoding="utf-8")
        with progress(total=total, initial=have, desc=name, unit="B", unit_scale=True) as bar:
            while block := response.read(BLOCK):
                bar.update(file.write(block))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"the connection broke after {part.stat().st_size:,} of {total:,} bytes")


def _check(part: Path, checksum: str | None) -> None:
    """Delete the file and raise Failed if its checksum is wrong."""
    if checksum is None:
        return
    algorithm = {32: "md5", 64: "sha256"}[len(checksum)]
    if (found := file_hash(part, algorithm)) != checksum:
        part.unlink()
        _version(part).unlink(missing_ok=True)
        raise Failed(f"{part.name.removesuffix('.part')}: {algorithm} is {found}, expected {checksum}; deleted")


def _version(part: Path) -> Path:
    """The file that stores the server's version (ETag or date) of `part`. Without it, a download cannot resume."""
    return part.with_name(part.name + ".version")
