"""A headless Chromium, driven by chromedriver: the WebDriver protocol (W3C) over the standard library alone."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1300,1000",
)


class Browser:
    """One window."""

    def __init__(self, address: str):
        self.address = address

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        body = None if method == "GET" else json.dumps(content or {}).encode()
        request = urllib.request.Request(
            f"{self.address}{path}", body, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path | str) -> None:
        self.ask("POST", "/url", {"url": page if isinstance(page, str) else page.resolve().as_uri()})

    def look(self, width: int, height: int = 1000, dark: bool = False) -> None:
        """See pages as a screen of this size does, by day or by night."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for command, how in (("setDeviceMetricsOverride", size), ("setEmulatedMedia", {"features": scheme})):
            self.ask("POST", "/goog/cdp/execute", {"cmd": f"Emulation.{command}", "params": how})

    def run(self, script: str) -> Any:
        """What a script returns in the page."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def click(self, selector: str, nth: int = 0) -> None:
        """As a person would: it must be there to be seen, and nothing in front of it."""
        found = self.ask("POST", "/elements", {"using": "css selector", "value": selector})
        (element,) = found[nth].values()
        self.ask("POST", f"/element/{element}/click")

    def complaints(self) -> list[str]:
        """What the console has said since the last time."""
        return [line["message"] for line in self.ask("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))


@contextmanager
def browser(profile: Path, *flags: str) -> Iterator[Browser]:
    """Chromium with a fresh profile. Skips the test where it, or its driver, is not installed."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    with subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = next(
                found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line))
            )
            address = f"http://127.0.0.1:{port}/session"
            options = {"binary": chromium, "args": [*FLAGS, *flags, f"--user-data-dir={profile}"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            session = Browser(address).ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            opened = Browser(f"{address}/{session}")
            try:
                yield opened
            finally:
                opened.ask("DELETE", "")
        finally:
            process.terminate()
