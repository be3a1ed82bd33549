"""Videos: GIF by Pillow, MP4 by ffmpeg."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from ganduel.system.errors import UserError, installed
from ganduel.system.files import make_folder, replacing

SIDE = 256  # smallest side in pixels of an MP4 by default
QUALITY = 10  # ffmpeg's constant rate factor: 0 is lossless, 18 looks lossless


def save_gif(frames: Iterable[Tensor], out: Path, fps: int, scale: int | None) -> Path:
    """Write frames (3, H, W), uint8, as an endless GIF of at most 256 colours, and return its path.

    `scale` is the size of each pixel in the GIF, 1 by default. Raises UserError if `out` has another suffix.
    """
    path = _path(out, ".gif")
    first, *others = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in _scaled(frames, scale or 1)]
    how: dict[str, Any] = {"save_all": True, "append_images": others, "loop": 0, "optimize": False}
    with replacing(path) as temporary:
        first.save(temporary, format="gif", duration=1000 // fps, **how)
    return path


def save_mp4(frames: Iterable[Tensor], out: Path, fps: int, scale: int | None) -> Path:
    """Write frames (3, H, W), uint8, as H.264, which all players know, and return the path.

    `scale` is the size of each pixel in the film. By default it is the smallest even number that makes at least 256
    pixels a side, or 1 for frames of that size: H.264 stores one colour per 2x2 pixels. Raises UserError if `out` has
    another suffix or imageio-ffmpeg is missing.
    """
    path = _path(out, ".mp4")
    ffmpeg = installed("imageio_ffmpeg", "video", "mode.video=mp4")
    frames = iter(frames)
    first = next(frames)
    if scale is None:
        scale = 1 if min(first.shape[1:]) >= SIDE else 2 * -(-SIDE // (2 * min(first.shape[1:])))
    with replacing(path) as temporary:
        writer = None
        for frame in _scaled(itertools.chain([first], frames), scale):
            frame = pad(frame, (0, frame.shape[2] % 2, 0, frame.shape[1] % 2), value=255)  # H.264 needs even sides
            if writer is None:
                writer = ffmpeg.write_frames(
                    str(temporary),
                    (frame.shape[2], frame.shape[1]),
                    fps=fps,
                    macro_block_size=1,
                    codec="libx264",
                    quality=None,
                    output_params=["-crf", str(QUALITY), "-movflags", "+faststart", "-f", "mp4"],
                )
                writer.send(None)
            writer.send(frame.permute(1, 2, 0).contiguous().numpy().tobytes())
        assert writer is not None
        writer.close()
    return path


def _path(out: Path, suffix: str) -> Path:
    path = out if out.suffix else out.with_suffix(suffix)
    if path.suffix != suffix:
        raise UserError(f"out={out}: mode.video={suffix[1:]} writes a {suffix} file; give a name that ends in {suffix}")
    make_folder(path.parent, "out")
    return path


def _scaled(frames: Iterable[Tensor], scale: int) -> Iterator[Tensor]:
    for frame in frames:
        yield frame.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
