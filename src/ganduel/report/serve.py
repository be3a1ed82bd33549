"""Serve a report to the browsers of this machine while runs go on: `gan-report watch=true`."""

import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ganduel.system.errors import UserError
from ganduel.system.terminal import say

LOOPBACK = "127.0.0.1"


class Page:
    """The newest page. It is made when a browser asks for it, and only if something has changed since the last time."""

    def __init__(self, version: Callable[[], str], make: Callable[[], str]):
        """`version` returns a text that changes with the runs, `make` the page."""
        self.version, self.make = version, make
        self.lock = threading.Lock()
        self.made, self.text = "", b""

    def newest(self) -> bytes:
        with self.lock:
            version = self.version()  # taken before the page is made, so that a later change makes another page
            if version != self.made:
                self.text, self.made = self.make().encode(errors="backslashreplace"), version
            return self.text


class Answers(BaseHTTPRequestHandler):
    """Answers to a browser: "/" is the page, "/version" a text that changes with it. Everything else is refused."""

    def __init__(self, page: Page, *connection: Any):
        self.page = page
        super().__init__(*connection)

    def do_GET(self) -> None:
        try:
            self.answer(*self.found())
        except ConnectionError:  # the browser has gone, or has asked anew
            self.close_connection = True

    def found(self) -> tuple[int, str, bytes]:
        """Status, type and content of the answer."""
        # A foreign site may give its own name this machine's address. Its requests then carry that name.
        name, _, port = self.headers.get("Host", "").rpartition(":")
        if name not in (LOOPBACK, "localhost") or port != str(self.server.server_port):  # type: ignore[attr-defined]
            return 403, "text/plain", b"this report is for browsers on its own machine"
        try:
            if self.path == "/":
                return 200, "text/html", self.page.newest()
            if self.path == "/version":
                return 200, "text/plain", self.page.version().encode()
        except (UserError, OSError, ValueError) as error:  # a folder that is being moved, a line that is being written
            return 503, "text/plain", str(error).encode(errors="backslashreplace")
        return 404, "text/plain", b"there is only /"

    def answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a browser asks every two seconds."""


def server(version: Callable[[], str], make: Callable[[], str], port: int) -> ThreadingHTTPServer:
    """A server on the loopback address, which no other machine reaches. Raises UserError if the port is taken."""
    try:
        made = ThreadingHTTPServer((LOOPBACK, port), partial(Answers, Page(version, make)))
    except OSError as error:
        raise UserError(f"port={port}: {error.strerror}; set port=0 for any free one") from error
    made.daemon_threads = True
    return made


def serve(version: Callable[[], str], make: Callable[[], str], port: int) -> None:
    """Serve a page until Ctrl-C. See `Page` for the arguments. Raises UserError."""
    version()  # raises the error of a wrong folder here, instead of in the browser
    with server(version, make, port) as running:
        say(f"watch  http://{LOOPBACK}:{running.server_port}  (on this machine alone; Ctrl-C writes the file and ends)")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            say("")
