"""As much of S3 as is needed to write shards to it and to read them again, in memory, in a thread of the tests."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
PAGE = 5  # names that a listing gives at once


class Store(ThreadingHTTPServer):
    """One bucket. `objects` are its contents by key, `requests` what was asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    def environment(self) -> dict[str, str]:
        """With which clients find it, and nothing else."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }


@contextmanager
def serve() -> Iterator[Store]:
    with Store() as store:
        thread = threading.Thread(target=store.serve_forever)
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """Path-style requests: /bucket/key."""

    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self.close_connection = True  # so that no idle connection outlives a test

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        parts = urlsplit(self.path)
        _, self.bucket, *rest = unquote(parts.path).split("/", 2)
        self.key, self.query = "".join(rest), parse_qs(parts.query)
        self.server.requests.append((self.command, self.key))
        return True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "ETag": '"etag"', "Connection": "close", **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, code: str) -> None:
        self.answer(
            404, f"<Error><Code>{code}</Code><Message>The specified one does not exist</Message></Error>".encode()
        )

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = unchunked(body)
        if self.bucket != BUCKET:
            return self.fail("NoSuchBucket")
        self.server.objects[self.key] = body
        return self.answer(200)

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self.answer(204)

    def do_GET(self) -> None:
        if self.bucket != BUCKET:
            return self.fail("NoSuchBucket")
        if not self.key:
            return self.list()
        if self.key not in self.server.objects:
            return self.fail("NoSuchKey")
        body = self.server.objects[self.key]
        modified = {"Last_Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or len(body)), len(body) - 1)
            content = {"Content_Range": f"bytes {start}-{end}/{len(body)}", **modified}
            return self.answer(206, body[start : end + 1], **content)
        return self.answer(200, body, **modified)

    do_HEAD = do_GET

    def list(self) -> None:
        """ListObjectsV2: the token to go on with is the last name."""
        prefix, after = (self.query.get(name, [""])[0] for name in ("prefix", "continuation-token"))
        names = [name for name in sorted(self.server.objects) if name.startswith(prefix) and name > after]
        items = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.server.objects[name])}</Size></Contents>"
            for name in names[:PAGE]
        )
        more = f"<NextContinuationToken>{escape(names[PAGE - 1])}</NextContinuationToken>" if len(names) > PAGE else ""
        cut = str(len(names) > PAGE).lower()
        xml = f"<ListBucketResult><IsTruncated>{cut}</IsTruncated>{more}{items}</ListBucketResult>"
        self.answer(200, xml.encode())


def unchunked(body: bytes) -> bytes:
    """What was sent in pieces, each after a line with its length."""
    content = b""
    while True:
        line, _, body = body.partition(b"\r\n")
        if not (size := int(line.partition(b";")[0], 16)):
            return content
        content, body = content + body[:size], body[size + 2 :]
