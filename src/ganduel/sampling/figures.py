"""Figures of images and of histograms, drawn with Pillow."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ganduel.pictures import tile
from ganduel.plane import COLOURS

PANEL = 320  # approximate pixels a side of a panel
MARGIN, LINE = 16, 22
INK, SOFT, PAPER = (27, 31, 36), (110, 118, 126), (255, 255, 255)
BINS = 40


class Panel(NamedTuple):
    """A picture under a title."""

    title: str
    picture: Image.Image


def grid(title: str, images: Tensor, columns: int | None = None, times: int | None = None) -> Panel:
    """A panel with a grid of images (N, C, H, W), uint8. Each pixel is repeated `times` in both directions, by default
    until a side has about PANEL pixels."""
    picture = Image.fromarray(tile(images.cpu(), columns).permute(1, 2, 0).contiguous().numpy())
    times = times or max(1, round(PANEL / max(picture.size)))
    return Panel(title, picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST))


def plot(title: str, values: dict[str, Tensor], span: tuple[float, float] | None, mark: float | None) -> Panel:
    """A panel of overlaid histograms, one per name, of values (N,), as shares of N.

    `span` is the range of the axis, None for all values. `mark` is the position of a vertical line.
    """
    arrays = {name: value.cpu().double().numpy() for name, value in values.items()}
    low, high = span or _span(np.concatenate(list(arrays.values())), mark)
    shares = {name: np.histogram(array, BINS, (low, high))[0] / len(array) for name, array in arrays.items()}
    most = max(float(share.max()) for share in shares.values()) or 1.0
    width, height = PANEL + 120, PANEL
    picture = Image.new("RGB", (width, height), PAPER)
    left, bottom, top = 44, height - 26, LINE + 6
    step = (width - left - 10) // BINS
    right = left + step * BINS
    for name, share in shares.items():  # half transparent, so that both are visible
        layer = Image.new("RGB", picture.size, COLOURS[name])
        mask = Image.new("L", picture.size)
        draw = ImageDraw.Draw(mask)
        for i, part in enumerate(share):
            if part:
                high_up = bottom - part / most * (bottom - top)
                draw.rectangle((left + i * step, high_up, left + (i + 1) * step - 1, bottom), fill=150)
        picture = Image.composite(layer, picture, mask)
    draw = ImageDraw.Draw(picture)
    draw.line((left, bottom, right, bottom), fill=INK)
    draw.line((left, top, left, bottom), fill=INK)
    for part in (0.0, 0.5, 1.0):
        draw.text((left - 5, bottom - part * (bottom - top)), f"{part * most:.0%}", SOFT, _font(11), anchor="rm")
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + part * (right - left)
        draw.text((x, bottom + 5), f"{low + part * (high - low):.3g}", SOFT, _font(11), anchor="mt")
    if mark is not None and low <= mark <= high:
        x = left + (mark - low) / (high - low) * (right - left)
        for y in range(top, bottom, 8):
            draw.line((x, y, x, y + 4), fill=SOFT)
    x = right
    for name, array in reversed(arrays.items()):
        text = f"{name}, mean {array.mean():.3g}"
        draw.text((x, 2), text, COLOURS[name], _font(13), anchor="rt")
        x -= round(draw.textlength(text, _font(13))) + 16
    return Panel(title, picture)


def _span(values: np.ndarray, mark: float | None) -> tuple[float, float]:
    """The range of all finite values and the mark."""
    values = values[np.isfinite(values)]
    ends = [*(values if len(values) else [0.0]), *([] if mark is None else [mark])]
    low, high = float(min(ends)), float(max(ends))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def arrange(rows: Sequence[Sequence[Panel]]) -> Tensor:
    """One picture (3, height, width), uint8, of rows of panels."""
    font = _font(15)
    widths = [[max(panel.picture.width, round(font.getlength(panel.title))) + MARGIN for panel in row] for row in rows]
    heights = [max(panel.picture.height for panel in row) + LINE + MARGIN for row in rows]
    figure = Image.new("RGB", (max(map(sum, widths)) + MARGIN, sum(heights) + MARGIN), PAPER)
    draw, y = ImageDraw.Draw(figure), MARGIN // 2
    for row, own, height in zip(rows, widths, heights, strict=True):
        x = MARGIN
        for panel, width in zip(row, own, strict=True):
            draw.text((x, y), panel.title, INK, font)
            figure.paste(panel.picture, (x, y + LINE))
            x += width
        y += height
    return torch.from_numpy(np.array(figure)).permute(2, 0, 1)
