"""Downloads from a server on this machine that misbehaves as servers do."""

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ganduel.data import download
from ganduel.data.download import Failed, File, Remote, fetch, obtain
from ganduel.system.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file at every path; attributes say how badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.version, self.kind = CONTENT, '"1"', "application/zip"
        self.drops = 0  # connections to break halfway through what they owe
        self.hangs = 0  # connections that stop answering there
        self.ranges = True
        self.errors: list[int] = []  # statuses of the next answers
        self.asked: list[str | None] = []  # the Range of every request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        if server.errors:
            return self.send_error(server.errors.pop(0))
        start = int(asked[len("bytes=") : -1]) if asked and server.ranges else 0
        if self.headers["If-Range"] not in (None, server.version):
            start = 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", server.kind)
        if server.version:
            self.send_header("ETag", server.version)
        self.end_headers()
        broken = server.drops + server.hangs > 0
        self.wfile.write(body[: len(body) // 2] if broken else body)
        if server.drops:
            server.drops -= 1
        elif server.hangs:
            server.hangs -= 1
            self.wfile.flush()
            time.sleep(4 * download.TIMEOUT)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("checksum", [MD5, SHA256, None])
def test_a_file_comes_whole(server: Server, tmp_path: Path, checksum: str | None) -> None:
    fetch(server.url, tmp_path / "set.zip", checksum)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]
    fetch(server.url, tmp_path / "set.zip", checksum)
    assert server.asked == [None], "what is there is not fetched again"


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.drops = 2
    fetch(server.url, tmp_path / "set.zip", MD5)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1500000-", "bytes=2250000-"]


def test_silence_is_a_broken_connection(server: Server, tmp_path: Path) -> None:
    server.hangs = 1
    fetch(server.url, tmp_path / "set.zip", MD5)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_another_process_goes_on(server: Server, tmp_path: Path) -> None:
    server.drops = 3
    with pytest.raises(Failed, match="the connection broke after 2,625,000 of 3,000,000 bytes"):
        fetch(server.url, tmp_path / "set.zip", MD5)
    assert not (tmp_path / "set.zip").exists()
    assert (tmp_path / "set.zip.part").read_bytes() == CONTENT[:2_625_000]
    fetch(server.url, tmp_path / "set.zip", MD5)
    assert server.asked[-1] == "bytes=2625000-"
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_whole_but_not_renamed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    (tmp_path / "set.zip.part.version").write_text('"1"')
    fetch(server.url, tmp_path / "set.zip", MD5)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.asked == ["bytes=3000000-"]


@pytest.mark.parametrize(
    ("ranges", "version"),
    [(False, '"1"'), (True, '"2"'), (True, ""), (True, 'W/"1"')],
    ids=["ranges ignored", "another file by now", "no version", "a weak version"],
)
def test_begins_anew_where_it_cannot_resume(server: Server, tmp_path: Path, ranges: bool, version: str) -> None:
    server.drops = 3
    server.version = version if version != '"2"' else '"1"'
    with pytest.raises(Failed):
        fetch(server.url, tmp_path / "set.zip", None)
    server.ranges, server.version, server.content = ranges, version, CONTENT[::-1]
    fetch(server.url, tmp_path / "set.zip", None)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT[::-1], "never half of one and half of the other"


def test_a_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT + b"more")
    (tmp_path / "set.zip.part.version").write_text('"1"')
    fetch(server.url, tmp_path / "set.zip", None)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", ["0" * 32, "0" * 64])
def test_what_fails_its_checksum_is_deleted(server: Server, tmp_path: Path, checksum: str) -> None:
    with pytest.raises(Failed, match=f"expected {checksum}; deleted"):
        fetch(server.url, tmp_path / "set.zip", checksum)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip.lock"]


def test_server_errors_are_tried_again_and_refusals_not(server: Server, tmp_path: Path) -> None:
    server.errors = [503, 500]
    fetch(server.url, tmp_path / "set.zip", MD5)
    assert len(server.asked) == 3
    server.errors = [404]
    with pytest.raises(Failed, match="HTTP 404"):
        fetch(server.url, tmp_path / "other.zip", MD5)
    assert len(server.asked) == 4


def test_a_web_page_is_no_file(server: Server, tmp_path: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(Failed, match="a web page came instead of the file"):
        fetch(server.url, tmp_path / "set.zip", None)
    assert not list(tmp_path.glob("set.zip*[!k]")) and len(server.asked) == 1


def test_a_full_disk_is_seen_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2_999_999}))
    with pytest.raises(Failed, match=r"it needs 0\.0 GB and .* has 0\.0 GB left; make room"):
        fetch(server.url, tmp_path / "set.zip", None)
    assert not (tmp_path / "set.zip.part").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3_000_000}))
    fetch(server.url, tmp_path / "set.zip", MD5)


def test_processes_at_the_same_time_fetch_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(server.url, tmp_path / "set.zip", MD5)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "set.zip").read_bytes() == CONTENT and server.asked == [None]


def test_mirrors_are_tried_in_turn(server: Server, tmp_path: Path) -> None:
    server.errors = [404]
    obtain(Remote("Set", "https://page", [File("set.zip", [server.url, server.url], MD5)]), tmp_path / "new")
    assert (tmp_path / "new" / "set.zip").read_bytes() == CONTENT


def test_without_network_it_is_said_how_to_do_it_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as closed:
        url = closed.url
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("a machine without network waits for nothing"))
    with pytest.raises(UserError) as caught:
        obtain(Remote("Set", "https://page", [File("a.zip", [url], None), File("b.zip", [url], None)]), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"data.root: Set is not in {tmp_path} and cannot be downloaded ({url}: ")
    assert message.endswith(
        f"get a.zip, b.zip from https://page and put it into {tmp_path}, "
        "or name its folder or archive with data.root=PATH"
    )
