"""The page of gan-report: opened in a browser, offline; all it shows is in it, and it is never too large."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import browser
from conftest import picture
from PIL import Image
from test_report import line, write_run

from ganduel.commands import cli
from ganduel.report import curves, page, runs

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
        nth = heads.index("fid, best")
        assert column(window, "run") == ["0", "1", "2"] and column(window, "fid, best") == ["19.5", "-", "20.25"]
        window.click("#results thead button", nth)
        assert column(window, "run") == ["0", "2", "1"]  # what is empty comes last
        window.click("#results thead button", nth)
        assert column(window, "run") == ["2", "0", "1"]
        assert window.run(f"return document.querySelectorAll('thead th')[{nth}].ariaSort") == "descending"
        loaded = window.run("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
        assert len(loaded) == 3 * (1 + 7) and all(loaded)
        curves = "[...document.querySelectorAll('path.curve')]"
        drawn = f"return {curves}.map(p => p.getTotalLength() > 0 && p.checkVisibility())"
        assert all(shown := window.run(drawn)) and len(shown) >= 3 * 6
        window.click(".legend button", 1)
        assert 0 < sum(window.run(drawn)) < len(shown)
        assert "collapse at step 20: all samples look alike" in window.run(
            "return document.querySelector('#alarms').innerText"
        )
        assert (
            window.run(
                "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
            )
            == 0
        )
        assert window.complaints() == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_by_day_and_by_night(report, tmp_path, dark):
    """Text stands out from what is behind it, 4.5 to 1 (WCAG 2, level AA), and everything has a name."""
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
        const tags = 'h1, h2, h3, p, a, td, th, button, figcaption, caption, code, summary, li, svg text';
        return [...document.querySelectorAll(tags)]
            .map(e => [light(getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color']), light(behind(e))])
            .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));"""
    nameless = """return [...document.querySelectorAll('img:not([alt]), svg:not([aria-label]), button, a, th')]
        .filter(e => !e.matches('button, a, th') || !e.textContent.trim()).length"""
    with browser(tmp_path / "profile", *(["--force-dark-mode"] if dark else [])) as window:
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
    assert "default-src 'none'" in text and "url(" not in text and "@import" not in text
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
    assert 600_000 < len(text) < 1_000_000 and text.count(b"<img") == 2 * 7


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
    chosen = page.pictures(runs.read(run), 8)
    thousands = [int(caption.split()[0].replace(",", "")) / 1000 for caption, _ in chosen]
    assert thousands == [0, 4, 9, 13, 17, 21, 26, 31]
    address, width, height = page.embedded(chosen[1][1], 10_000)
    assert address.startswith("data:image/webp;base64,") and (width, height) == (60, 40)
    assert page.embedded(chosen[-1][1], 10_000) is None
    assert [picture.caption for picture in page.gallery(chosen, 10_000)] == [caption for caption, _ in chosen[:-1]]


def test_what_has_just_begun(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", "seed=1", {"seed": 1})
    assert cli.command("report", [str(tmp_path / "runs" / "a")]) == 0
    text = (tmp_path / "runs" / "a" / "report.html").read_text()
    assert "Nothing has been written down yet." in text and "No pictures yet." in text and "Report of a" in text
    assert cli.command("report", [str(tmp_path / "runs" / "a"), "out=x.pdf"]) == 1
    assert "give a name that ends in .html" in capsys.readouterr().err


def test_curves():
    """What is averaged, or of held-out images, lies with what it is of; ends and ranges are right."""
    rows = [
        {"images": 10 * i, "loss/G": float(i), "loss_ema/G": 2.5, "validation/loss/G": 2.5, "steps": i}
        for i in range(300)
    ]
    rows.append({"images": 3000, "loss/G": float("nan")})
    found = curves.curves(rows, 3, "a", most=50)
    assert list(found) == ["loss/G"] and [curve.kind for curve in found["loss/G"]] == ["faint", "plain", "held"]
    points = found["loss/G"][0].points
    assert len(points) == 50 and points[0] == (50, 2.5) and points[-1] == (2990, 296.5)  # means of six
    assert curves.thinned([(0, 1.0), (1, 2.0), (2, 4.0)], 2) == [(0, 1.0), (2, 3.0)]
    svg = curves.chart("loss/G", found["loss/G"])
    assert svg.count('<path class="curve') == 3 and 'data-run="3"' in svg and "nan" not in svg
    first = re.search(r'class="curve faint c3"[^>]* d="M([\d.]+) ([\d.]+)L[^"]* ([\d.]+)"', svg)
    assert [float(v) for v in first.groups()] == [curves.LEFT, curves.HEIGHT - curves.BOTTOM, curves.TOP]
    assert list(curves.ticks(0, 299)) == [0, 100, 200] and list(curves.ticks(0.1, 0.35)) == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    assert [round(10**v) for v in curves.decades(1.2, 2.4)] == [20, 50, 100, 200]
    assert [round(v) for v in curves.decades(-1, 2.5)] == [-1, 0, 1, 2]
    assert [curves.number(v) for v in (1_250_000, 35_000, 0.0025, -2)] == ["1.25M", "35k", "0.0025", "-2"]


def test_wide_ranges_are_logarithmic():
    def chart(*values: float, name: str = "fid") -> str:
        return curves.chart(name, [curves.Curve(0, "a", "plain", list(zip(range(9), values, strict=False)))])

    assert "logarithmic" not in chart(1, 0.001, name="accuracy/fake")
    assert "logarithmic" in chart(1000, 100, 10) and "logarithmic" not in chart(30, 20, 10)
    middle = re.search(r"L([\d.]+) ([\d.]+)L", chart(1000, 100, 10))
    assert float(middle[2]) == pytest.approx((curves.TOP + curves.HEIGHT - curves.BOTTOM) / 2)
    assert "logarithmic" not in chart(1000, -1) and "nan" not in chart(5, 5) + chart(0, 0) + chart(7)
