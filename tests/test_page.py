"""The page of gan-report: opened in a browser, offline; all it shows is in it, and it is never too large."""

import base64
import hashlib
import http.client
import io
import json
import re
import socket
import struct
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import browser
from conftest import picture
from PIL import Image
from test_report import line, write_run

from ganduel.commands import cli
from ganduel.commands.report import read_runs
from ganduel.report import curves, page, runs, serve
from ganduel.system.errors import UserError

RATES = 0.0001, 0.00001, 0.5
EVIL = '<img src=x onerror="alert(1)">'


def sweep(folder: Path, count: int = 3) -> Path:
    """Runs with all that a report shows, one of them with alarms; one has measured nothing."""
    for i in range(count):
        stats = [
            {
                **line(step, 0.5, 0.6, 2.0 / step, 50.0 + i),
                "loss/G": 3.0 / step,
                "loss_ema/G": 2.5 / step,
                "loss/D": 0.7,
            }
            for step in range(1, 40)
        ]
        if i == 2:
            stats[19]["alarms"] = {"collapse": f"all samples look alike {EVIL}"}
        fids = (
            []
            if i == 1
            else [{"by": "gan-train", "step": s, "images": 10 * s, "fid": (9.5, 0, 10.25)[i] + s} for s in (10, 20)]
        )
        typed = f"rate={RATES[i % 3]} seed={i} model=dcgan loss={EVIL.replace(' ', '')}"
        run = write_run(folder / str(i), typed, {"seed": i, "rate": RATES[i % 3], "model": {"name": EVIL}}, stats, fids)
        picture(run / "samples" / "reals.png", size=(64, 64))
        for kimg in range(12):
            picture(run / "samples" / f"{kimg:06d}kimg.png", kimg, size=(64, 64))
    return folder


@pytest.fixture
def report(tmp_path) -> Path:
    assert cli.command("report", [str(sweep(tmp_path / "runs"))]) == 0
    return tmp_path / "runs" / "report.html"


def column(window, name: str) -> list[str]:
    """What the table shows below a head, from above to below."""
    return window.run(
        "const heads = [...document.querySelectorAll('#results thead th')].map(th => th.textContent);"
        f"const i = heads.indexOf({json.dumps(name)});"
        "return [...document.querySelectorAll('#results tbody tr')].map(row => row.cells[i].textContent);"
    )


@pytest.mark.slow
def test_a_browser_opens_it(report, tmp_path):
    with browser(tmp_path / "profile") as window:
        window.open(report)
        heads = window.run("return [...document.querySelectorAll('#results thead th')].map(th => th.textContent)")
        assert heads[0] == "run" and "seed" in heads and "alarms" in heads
        window.click("#results thead button", heads.index("rate"))
        assert column(window, "run") == ["1", "0", "2"]  # 1e-05 before 0.0001
        window.click("#results thead button")
        nth = heads.index("FID, best")
        assert column(window, "run") == ["0", "1", "2"] and column(window, "FID, best") == ["19.5", "-", "20.25"]
        window.click("#results thead button", nth)
        assert column(window, "run") == ["0", "2", "1"]  # what is empty comes last
        window.click("#results thead button", nth)
        assert column(window, "run") == ["2", "0", "1"]
        assert window.run(f"return document.querySelectorAll('thead th')[{nth}].ariaSort") == "descending"
        loaded = window.run("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
        assert len(loaded) == 1 + 3 * 12 and all(loaded)  # the real images are the same, and are there once
        window.click("#alarms summary")
        assert "collapse at step 20: all samples look alike" in window.run(
            "return document.querySelector('#alarms').innerText"
        )
        assert window.run(REQUESTS) == 0
        assert window.complaints() == []


REQUESTS = """return performance.getEntriesByType('resource')
    .filter(e => !e.name.startsWith('data:') && new URL(e.name).origin !== location.origin).length"""
SHOWN = """return [...document.querySelectorAll('.card[data-run]')].map(
    card => [...card.querySelectorAll('img')].filter(i => !i.hidden).map(i => +i.dataset.images))"""


@pytest.mark.slow
def test_the_slider_moves_all_runs_to_the_same_time(tmp_path):
    """Each shows its last samples of at most so many images: one is sampled every 1,000 images, one every 2,000."""
    for name, every in (("a", 1), ("b", 2)):
        run = write_run(tmp_path / "runs" / name, f"name={name}", {"name": name})
        for kimg in range(0, 6, every):
            picture(run / "samples" / f"{kimg:06d}kimg.png", kimg, size=(20, 20))
    assert cli.command("report", [str(tmp_path / "runs")]) == 0
    with browser(tmp_path / "profile") as window:
        window.open(tmp_path / "runs" / "report.html")
        assert window.run(SHOWN) == [[5000], [4000]]
        set_slider = "const s = document.getElementById('moment'); s.value = 3; s.dispatchEvent(new Event('input'));"
        window.run(set_slider)
        assert window.run(SHOWN) == [[3000], [2000]]
        assert window.run("return document.getElementById('seen').value") == "3,000 images"
        assert window.run("return document.querySelectorAll('.card .when')[1].textContent") == "2,000 images"


@pytest.mark.slow
def test_curves_tell_their_values_hide_and_enlarge(report, tmp_path):
    """The values are those that were logged, at the place of the pointer."""
    values = "[...document.querySelectorAll('figure[data-chart] .values')]"
    told = f"return {values}.map(v => v.innerText.replaceAll('(', ' ('))"
    with browser(tmp_path / "profile") as window:
        window.look(1400, 4000)
        window.open(report)
        titles = window.run(
            "return [...document.querySelectorAll('figure[data-chart] figcaption')].map(f => f.firstChild.data.trim())"
        )
        fid, loss, accuracy = (titles.index(name) for name in ("FID", "Loss of G", "Accuracy of D, real"))
        assert window.run("return document.querySelectorAll('canvas').length") >= 5  # those that are in sight
        assert window.run(told)[fid].split() == ["29.5", "30.25"]
        assert window.run(told)[loss].split() == 3 * ["0.0641", "(0.05128)"]  # 2.5 / 39 and, held-out, 2 / 39
        # In the middle of the plot is step 20 of 1 to 39, for which each run has a value of its own.
        over = f"document.querySelectorAll('figure[data-chart]')[{loss}].querySelector('.u-over')"
        window.run(
            f"const over = {over}, box = over.getBoundingClientRect();"
            "for (const kind of ['mouseenter', 'mousemove']) over.dispatchEvent(new MouseEvent(kind,"
            " {bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + 50}));"
        )
        value, held, *_ = window.run(told)[loss].split()
        assert float(value) == pytest.approx(2.5 / 20, rel=1e-3) and held == "(0.1)"
        assert window.run(told)[accuracy].split() == 3 * ["(0.5)"]  # all charts tell of the same time
        assert "200 images" in window.run("return document.querySelector('#curves').innerText")
        window.click(".legend button", 0)
        assert window.run(told)[fid].split() == ["30.25"]
        assert not window.run("return document.querySelector('.card[data-run=\"0\"]').checkVisibility()")
        assert window.complaints() == []


@pytest.mark.slow
def test_a_page_renews_itself_while_a_run_goes_on(tmp_path):
    """It asks its own server alone, and keeps what the reader has set."""
    folder = sweep(tmp_path / "runs")
    running = serve.server(lambda: runs.version([folder]), lambda: page.page(*read_runs([folder]), live=True), 0)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    with browser(tmp_path / "profile") as window:
        window.open(f"http://127.0.0.1:{running.server_port}/")
        window.click("#alarms summary")
        assert window.run(SHOWN)[0] == [11000]
        time.sleep(3)  # it must have asked once
        picture(folder / "0" / "samples" / "000012kimg.png", 12, size=(64, 64))
        deadline = time.monotonic() + 120
        while window.run(SHOWN)[0] != [12000] and time.monotonic() < deadline:
            time.sleep(0.5)
        assert window.run(SHOWN) == [[12000], [11000], [11000]]
        assert window.run("return document.getElementById('alarms').open")
        assert window.run("return document.querySelector('#live').textContent") == "live"
        assert window.run(REQUESTS) == 0 and window.complaints() == []
        running.shutdown()
        running.server_close()


def test_only_browsers_of_this_machine_are_answered():
    """Nothing listens on another address, and a site whose name leads here reads nothing (DNS rebinding)."""
    made = []
    running = serve.server(lambda: "1", lambda: made.append(1) or "<p>page", 0)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    port = running.server_port

    def ask(path: str, host: str, method: str = "GET") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()

    try:
        assert running.server_address[0] == "127.0.0.1"
        for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
            assert ask("/", host) == (200, b"<p>page") and ask("/version", host) == (200, b"1")
        assert made == [1]  # nothing has changed, so it was made once
        for host in (f"evil.example:{port}", "evil.example", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
            assert ask("/", host)[0] == 403
        assert ask("/../config.yaml", f"127.0.0.1:{port}")[0] == 404
        assert ask("/", f"127.0.0.1:{port}", "POST")[0] == 501
        with pytest.raises(UserError, match=f"port={port}: .*set port=0"):
            serve.server(lambda: "", lambda: "", port)
    finally:
        running.shutdown()
        running.server_close()


def test_a_browser_that_goes_away_is_no_trouble(capfd):
    """A page that nobody reads any more, because its tab was closed, leaves no traceback in the terminal."""
    making, gone = threading.Event(), threading.Event()

    def page() -> str:
        making.set()
        gone.wait(10)
        return "x" * 30_000_000  # more than a socket keeps

    running = serve.server(lambda: "1", page, 0)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    port = running.server_port
    with socket.create_connection(("127.0.0.1", port)) as browser:
        browser.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert making.wait(10)
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by a reset
    gone.set()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/version", headers={"Host": f"127.0.0.1:{port}"})
    assert connection.getresponse().read() == b"1"
    running.shutdown()
    running.daemon_threads, running.block_on_close = False, True
    running.server_close()
    time.sleep(0.2)  # the thread of the first answer has failed by now
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_by_day_and_by_night(report, tmp_path, dark, width):
    """Also on small screens: text stands out from what is behind it, 4.5 to 1 (WCAG 2, level AA), everything has a
    name, and nothing is wider than the screen."""
    contrast = """
        const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const light = colour => {
            canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
                .map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
        };
        const behind = element => {
            for (; element; element = element.parentElement) {
                const colour = getComputedStyle(element).backgroundColor;
                if (colour !== 'rgba(0, 0, 0, 0)') return colour;
            }
            return 'white';
        };
        const tags = 'h1, h2, h3, p, a, td, th, button, figcaption, caption, code, summary, li, small, output, .when';
        return [...document.querySelectorAll(tags)]
            .map(e => [light(getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color']), light(behind(e))])
            .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));"""
    nameless = """return [...document.querySelectorAll('img:not([alt]), svg:not([aria-label]), button, a, th')]
        .filter(e => !e.matches('button, a, th') || !(e.textContent.trim() || e.ariaLabel)).length"""
    with browser(tmp_path / "profile") as window:
        window.look(width, dark=dark)
        window.open(report)
        assert window.run("return matchMedia('(prefers-color-scheme: dark)').matches") == dark
        ratios = window.run(contrast)
        assert len(ratios) > 100 and min(ratios) >= 4.5
        assert window.run(nameless) == 0
        assert window.run("return document.documentElement.lang") == "en"
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")


def test_it_refers_to_nothing_else(report):
    text, addresses = report.read_text(), []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            addresses.extend(value for name, value in attributes if name in ("src", "href", "srcset", "action"))
            assert not any(name.startswith("on") for name, _ in attributes)

    Reader().feed(text)
    assert len(addresses) > 30 and all(address.startswith(("#", "data:")) for address in addresses)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    assert "connect-src 'none'" in policy and "url(" not in text and "@import" not in text
    for kind, body in re.findall(r"<(style|script)>(.*?)</", text, re.S):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert EVIL not in text and "&lt;img" in text


HOSTILE = (
    EVIL,
    "</title></pre></svg><script>alert(1)</script>",
    "\" onclick='alert(1)' x=\"",
    "' onload=alert(1) x='",
    "{{ 7 * 191 }}{% raw %}{# ",
    "&lt;script&gt;",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_a_tag_an_attribute_or_a_template(tmp_path, text):
    """Wherever it stands: in the name of the folder, of a key, of a quantity, of an alarm, and in their values."""
    alarms = {"alarms": {text: text}}
    stats = [{**line(step, 0.5, 0.5, 1.0, 1.0), f"loss/{text}": 1.0 / step, **alarms} for step in range(1, 4)]
    for name in ("a", text.replace("/", "")):
        run = write_run(tmp_path / "runs" / name, "", {text: text, "name": f"{name}{text}"}, stats)
        (run / "overrides.txt").write_text(f"{text}={name}\n")
    picture(run / "samples" / "reals.png", size=(16, 16))
    assert cli.command("report", [str(tmp_path / "runs"), f"out={tmp_path}/page.html"]) == 0
    tags, read = set(), []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.add((tag, *(name for name, _ in attributes)))
            read.extend(value for _, value in attributes if value)

        def handle_data(self, data):
            read.append(data)

    Reader().feed((tmp_path / "page.html").read_text())
    plain = write_run(tmp_path / "plain" / "a", "x=1", {"x": "y"}, [{**stats[0], "alarms": {"a": "b"}}, *stats[1:]])
    write_run(tmp_path / "plain" / "b", "x=2", {"x": "z"}, stats)
    picture(plain / "samples" / "reals.png", size=(16, 16))
    hostile = set(tags)
    tags.clear()
    assert cli.command("report", [str(tmp_path / "plain")]) == 0
    Reader().feed((tmp_path / "plain" / "report.html").read_text())
    assert hostile <= tags  # no tag and no attribute that harmless texts do not have
    assert sum(text in words for words in read) >= 10 and not any("1337" in words for words in read)


@pytest.mark.slow
def test_large_pictures_are_made_to_fit(tmp_path, monkeypatch):
    """Noise does not compress: as they are, these would take twice as much."""
    assert page.LIMIT == 5_000_000
    monkeypatch.setattr(page, "LIMIT", 1_000_000)
    for i in range(2):
        run = write_run(tmp_path / "runs" / str(i), f"seed={i}", {"seed": i})
        for kimg in range(9):
            picture(run / "samples" / f"{kimg:06d}kimg.png", kimg, size=(330, 330))
    assert cli.command("report", [str(tmp_path / "runs")]) == 0
    text = (tmp_path / "runs" / "report.html").read_bytes()
    assert 600_000 < len(text) < 1_000_000 and text.count(b"<img") == 2 * 9


@pytest.mark.slow
def test_many_runs_fit(tmp_path, monkeypatch):
    """Their curves have fewer points, and leave room for pictures."""
    monkeypatch.setattr(page, "LIMIT", 1_000_000)
    monkeypatch.setattr(page, "CURVES", 300_000)
    for i in range(12):
        stats = [{"step": s, "images": s, **{f"loss/{k}": float(s * k) for k in range(30)}} for s in range(300)]
        run = write_run(tmp_path / "runs" / str(i), f"seed={i}", {"seed": i}, [line(1, 0, 0, 0, 1) | s for s in stats])
        for kimg in range(3):
            picture(run / "samples" / f"{kimg:06d}kimg.png", kimg, size=(100, 100))
    assert cli.command("report", [str(tmp_path / "runs"), f"out={tmp_path}/all.html"]) == 0
    text = (tmp_path / "all.html").read_bytes()
    assert 300_000 < len(text) < 1_000_000 and text.count(b"<img") == 12 * 3


def test_pictures_are_what_they_were(tmp_path):
    """Evenly chosen from the first to the last."""
    run = write_run(tmp_path / "run", "", {})
    for kimg in range(30):
        flat = np.full((40, 60, 3), 8 * kimg, np.uint8)
        (run / "samples").mkdir(exist_ok=True)
        Image.fromarray(flat).save(run / "samples" / f"{kimg:06d}kimg.png")
    (run / "samples" / "000031kimg.png").write_bytes(b"half")
    reals, grids, judged = page.pictures(runs.read(run), 8)
    assert reals is judged is None and [int(path.stem[:6]) for path in grids] == [0, 4, 9, 13, 17, 21, 26, 31]
    address, width, height = page.embedded(grids[1], 0, 10_000)
    assert address.startswith("data:image/webp;base64,") and (width, height) == (9 * 60, 9 * 40)  # 512 and more
    assert page.embedded(grids[-1], 0, 10_000) is None
    frames = page.gallery(reals, grids, judged, 10_000).frames
    assert [picture.images for picture in frames] == [0, 4000, 9000, 13000, 17000, 21000, 26000]


def test_a_small_picture_is_enlarged_without_blur(tmp_path):
    """Every pixel becomes a square; if there is no room for it, the picture stays as it is."""
    board = np.kron(np.indices((8, 8)).sum(0) % 2 * 255, np.ones((8, 8))).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    address, width, height = page.embedded(tmp_path / "board.png", 0, 100_000)
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        shown = np.array(image.convert("L")).astype(int)
    assert (width, height) == shown.shape == (512, 512)
    assert np.abs(shown - np.kron(board, np.ones((8, 8)))).max() < 16  # WebP is nearly exact
    assert page.embedded(picture(tmp_path / "noise.png", size=(64, 64)), 0, 12_000)[1:] == (64, 64)


def test_what_has_just_begun(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", "seed=1", {"seed": 1})
    assert cli.command("report", [str(tmp_path / "runs" / "a")]) == 0
    text = (tmp_path / "runs" / "a" / "report.html").read_text()
    assert "Nothing has been written down yet." in text and "No pictures yet." in text and "Report of a" in text
    assert cli.command("report", [str(tmp_path / "runs" / "a"), "out=x.pdf"]) == 1
    assert "give a name that ends in .html" in capsys.readouterr().err


def test_curves():
    """What is averaged, or of held-out images, lies with what it is of; means are right."""
    rows = [
        {"images": 10 * i, "loss/G": float(i), "loss_ema/G": 2.5, "validation/loss/G": 2.5, "steps": i}
        for i in range(300)
    ]
    rows.append({"images": 3000, "loss/G": float("nan")})
    found = curves.curves(rows, 3, most=50)
    assert list(found) == ["loss/G"] and [curve.kind for curve in found["loss/G"]] == ["faint", "plain", "held"]
    points = found["loss/G"][0].points
    assert len(points) == 50 and points[0] == (50, 2.5) and points[-1] == (2990, 296.5)  # means of six
    assert curves.thinned([(0, 1.0), (1, 2.0), (2, 4.0)], 2) == [(0, 1.0), (2, 3.0)]
    data = curves.chart("loss/G", [curves.Curve(3, "held", [(0, 1 / 3), (10, 2.0)])]).data
    assert data == {
        "title": "Loss of G",
        "log": False,
        "lines": [{"run": 3, "kind": "held", "x": [0, 10], "y": [0.33333, 2.0]}],
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fid", "FID"),
        ("fid_A", "FID A"),
        ("fid_efficientnet_lite2_160", "FID (efficientnet_lite2_160)"),
        ("kid_std_clip", "KID std clip"),
        ("recall, best", "Recall, best"),
        ("successive_fid, last", "FID to the samples before, last"),
        ("loss/D", "Loss of D"),
        ("accuracy/fake", "Accuracy of D, fake"),
        ("health/gradient/G", "Gradient norm of G"),
        ("own/thing_of_mine", "Own, thing of mine"),
    ],
)
def test_names_read(name, words):
    assert curves.title(name) == words


def test_charts_lie_in_sections():
    names = ("speed/seconds", "loss/G", "fid", "accuracy/real", "health/spread", "precision_clip", "kid")
    some = [curves.chart(name, [curves.Curve(0, "plain", [(0, 1.0)])]) for name in names]
    assert {section: [one.name for one in charts] for section, charts in curves.sections(some).items()} == {
        "Quality": ["fid", "kid", "precision_clip"],
        "Losses": ["loss/G"],
        "Discriminator": ["accuracy/real"],
        "Health": ["health/spread"],
        "Speed and settings": ["speed/seconds"],
    }


def test_wide_ranges_are_logarithmic():
    def logarithmic(*values: float, name: str = "fid") -> bool:
        points = list(zip(range(9), values, strict=False))
        return curves.chart(name, [curves.Curve(0, "plain", points)]).logarithmic

    assert logarithmic(1000, 100, 10) and not logarithmic(30, 20, 10) and not logarithmic(1000, -1)
    assert not logarithmic(1, 0.001, name="accuracy/fake") and not logarithmic(7)


def test_a_caption_names_the_first_of_many_settings(tmp_path):
    for i in range(2):
        typed = " ".join(f"{key}={i}" for key in "abcdefg")
        write_run(tmp_path / str(i), typed, dict.fromkeys("abcdefg", i), [line(1, 0.5, 0.5, 1, 1)])
    assert "1: a=1, b=1, c=1, 4 more</h3>" in page.page(*read_runs([tmp_path]))


def test_repeated_seeds_have_a_mean_and_a_deviation(tmp_path):
    """By hand: 10, 12 and 17 have the mean 13 and the standard deviation sqrt((9 + 1 + 16) / 2)."""
    for i, (rate, fid) in enumerate([(0.1, 10.0), (0.1, 12.0), (0.1, 17.0), (0.2, 30.0)]):
        measured = [{"by": "gan-train", "step": 1, "images": 10, "fid": fid}]
        typed = f"rate={rate} seed={i}"
        write_run(tmp_path / str(i), typed, {"rate": rate, "seed": i}, [line(1, 0.5, 0.5, 1, 1)], measured)
    found, rows = read_runs([tmp_path])
    (metric,) = page.repeats(found, rows, ["rate", "seed"])
    assert metric.title == "FID" and metric.groups == [
        ("rate=0.1", [(0, 10.0), (1, 12.0), (2, 17.0)], 13.0, pytest.approx(13**0.5)),
        ("rate=0.2", [(3, 30.0)], 30.0, 0.0),
    ]
    assert metric.place(13 - 13**0.5) == "5.00%" and metric.place(30.0) == "95.00%"
    assert "13 ± 3.6" in page.page(found, rows) and page.repeats(found[2:], rows[2:], ["rate", "seed"]) == []
