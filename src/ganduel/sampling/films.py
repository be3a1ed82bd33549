"""Videos: GIF by Pillow, MP4 by ffmpeg."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from ganduel.pictures import chosen
from ganduel.system.errors import installed
from ganduel.system.files import replacing

SIDE = 256  # smallest side of a film by default, in pixels
QUALITY = 10  # ffmpeg's constant rate factor: 0 is lossless, 18 looks lossless


def save_gif(frames: Iterable[Tensor], out: Path, fps: int, scale: int | None) -> Path:
    """Write frames (3, H, W), uint8, as an endless GIF of at most 256 colours, and return its path.

    `scale` is the size of each pixel in the film. By default it is the smallest one that makes at least 256 pixels a
    side. Raises UserError if `out` has another suffix.
    """
    path = chosen(out, ".gif", "mode.video=gif writes a .gif file")
    first, *others = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in _scaled(frames, scale, 1)]
    how: dict[str, Any] = {"save_all": True, "append_images": others, "loop": 0, "optimize": False}
    with replacing(path) as temporary:
        first.save(temporary, format="gif", duration=1000 // fps, **how)
    return path


def save_mp4(frames: Iterable[Tensor], out: Path, fps: int, scale: int | None) -> Path:
    """Write frames (3, H, W), uint8, as an MP4 and return its path. It is in H.264, which all players know.

    `scale` is as in `save_gif`, but the default is 1 or even: H.264 stores one colour per 2x2 pixels. Raises UserError
    if `out` has another suffix or imageio-ffmpeg is missing.
    """
    path = chosen(out, ".mp4", "mode.video=mp4 writes a .mp4 file")
    ffmpeg = installed("imageio_ffmpeg", "video", "mode.video=mp4")
    with replacing(path) as temporary:
        writer = None
        for frame in _scaled(frames, scale, 2):
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


def _scaled(frames: Iterable[Tensor], scale: int | None, multiple: int) -> Iterator[Tensor]:
    """The frames, each pixel as a square of `scale` pixels. By default, `scale` is a multiple of `multiple`, or 1."""
    for frame in frames:
        if scale is None:  # chosen for the first frame
            side = min(frame.shape[1:])
            scale = 1 if side >= SIDE else multiple * math.ceil(SIDE / (multiple * side))
        yield frame.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
