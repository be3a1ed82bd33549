"""The source of `triton_kernels`. Only machines with Triton can import it.

Feature maps are matrices here: one row for each pixel of each image, one column for each channel. A program computes
`HIGH` rows and `WIDE` columns. Names in capitals are constants of the compiler.
"""

import triton.language as tl
from triton import jit

SIZES = ["height", "width", "rows", "columns", "before", "total"]  # one kernel for all of them, as each takes a second


@jit(do_not_specialize=SIZES)
def low_pass(
    x, y, taps, channels, height, width, rows, columns, before, total,
    UP: tl.constexpr, DOWN: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y[n, i, j] = sum of taps[a, b] * x[n, (i DOWN + a - before) / UP, (j DOWN + b - before) / UP], where that is a
    pixel."""
    pixel = tl.program_id(0).to(tl.int64) * HIGH + tl.arange(0, HIGH)
    channel = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    column, row, image = pixel % columns, pixel // columns % rows, pixel // (columns * rows)
    known, inside = (channel < channels)[None, :], pixel < total
    found = tl.zeros((HIGH, WIDE), tl.float32)
    for a in tl.static_range(4):
        i = row * DOWN + a - before
        in_rows = inside & (i >= 0) & (i % UP == 0) & (i // UP < height)
        for b in tl.static_range(4):
            j = column * DOWN + b - before
            wanted = in_rows & (j >= 0) & (j % UP == 0) & (j // UP < width)
            at = ((image * height + i // UP) * width + j // UP) * channels
            value = tl.load(x + at[:, None] + channel[None, :], mask=wanted[:, None] & known, other=0.0)
            found += value.to(tl.float32) * tl.load(taps + 4 * a + b).to(tl.float32)
    at = (pixel * channels)[:, None] + channel[None, :]
    tl.store(y + at, found.to(y.dtype.element_ty), mask=inside[:, None] & known)


@jit(do_not_specialize=["total"])
def activate(
    x, bias, channels, total, slope, limit, BIAS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """x = leaky ReLU of x + bias, but at most `limit` from 0. What is not a number stays so."""
    row = tl.program_id(0).to(tl.int64) * HIGH + tl.arange(0, HIGH)
    channel = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    at, inside = (row * channels)[:, None] + channel[None, :], (row < total)[:, None] & (channel < channels)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    value = tl.where(value < 0, value * slope, value)
    value = tl.where(value > limit, limit, tl.where(value < -limit, -limit, value))
    tl.store(x + at, value.to(x.dtype.element_ty), mask=inside)


@jit(do_not_specialize=["total"])
def activate_backward(
    gradient, y, result, channels, total, slope, limit, HIGH: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """result = gradient, times `slope` where y <= 0, and 0 where y reached the limit."""
    row = tl.program_id(0).to(tl.int64) * HIGH + tl.arange(0, HIGH)
    channel = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    at, inside = (row * channels)[:, None] + channel[None, :], (row < total)[:, None] & (channel < channels)[None, :]
    output = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(output > 0, value, value * slope)
    value = tl.where((output >= limit) | (output <= -limit), 0.0, value)
    tl.store(result + at, value.to(result.dtype.element_ty), mask=inside)
