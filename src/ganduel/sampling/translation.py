"""The mode `translate` of gan-sample: translates image files of any size and format to the other domain."""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from ganduel.data.formats import image_suffixes, is_image, upright
from ganduel.data.resize import SMALLEST, from_file, in_mode, to_array, unusable
from ganduel.pictures import save_png
from ganduel.sampling.sampler import Sampler
from ganduel.system.device import out_of_memory
from ganduel.system.errors import UserError
from ganduel.system.files import make_folder
from ganduel.system.terminal import printable, progress, say


def translate(sampler: Sampler, seeds: list[int], out: Path, batch: int, input: str | None, direction: str) -> Path:
    """Write one PNG per image of `input`, and return `out`.

    `input` is a file, a folder, or "-" for a list of files on stdin, one per line. A PNG has the size and the name of
    its original, and the same place below the folder `out`. For a single file `out` may be a PNG. Unreadable files are
    reported and left out. Raises UserError if nothing can be translated or an original would be overwritten.
    """
    sampler.game.translator(sampler.game.generators, direction)  # raises early if there is none
    if input is None:
        raise UserError(
            "input is missing: name a photo, a folder, or - for a list of files on stdin, as in input=photos"
        )
    root, names = listed(input, out)
    targets = placed(names, out)
    if input != "-" and not Path(input).is_dir() and out.suffix == ".png":
        targets = [out]
    elif is_image(out.name):
        raise UserError(f"out={out}: translations are PNGs in a folder; give a name without {out.suffix}")
    for name, target in zip(names, targets, strict=True):
        if target.resolve() == (root / name).resolve():
            raise UserError(f"out={out} would overwrite {root / name}; choose another folder")
    mode = "L" if sampler.config["data"]["channels"] == 1 else "RGB"
    done = 0
    with progress(total=len(names), unit=" images") as bar:
        for name, target in zip(names, targets, strict=True):
            try:
                made = sampler.translate(read(root / name, mode)[None], direction)[0]
            except UserError:
                raise
            except Exception as error:  # a broken file can raise anything in a decoder
                short = "memory is too short for it; make it smaller" if out_of_memory(error) else unusable(error)
                say(f"warning: {printable(str(root / name))} is left out: {short}")
            else:
                make_folder(target.parent, "out")
                save_png(made, target)
                done += 1
            bar.update()
    if not done:
        raise UserError(f"input={input}: none of {len(names)} files can be translated; the lines above say why")
    return out


def listed(input: str, out: Path) -> tuple[Path, list[str]]:
    """The folder of all input images, and their paths relative to it. Raises UserError if there are none."""
    path = Path(input)
    if input == "-":
        paths = [os.path.abspath(line.strip()) for line in sys.stdin if line.strip()]
        if not paths:
            raise UserError("input=-: nothing came on stdin; give it the names of files, one a line")
        root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
        return root, [os.path.relpath(path, root) for path in paths]
    if not path.exists():
        raise UserError(f"input={input} does not exist; name a photo or a folder of photos")
    if not path.is_dir():
        return path.parent, [path.name]
    own = out.resolve()  # may hold earlier translations, which are not originals
    folders = [Path(folder) for folder, _, _ in os.walk(path) if not Path(folder).resolve().is_relative_to(own)]
    files = sorted(file for folder in folders for file in folder.iterdir() if file.is_file() and is_image(file.name))
    if not files:
        raise UserError(f"input={input} holds no images; looked for {' '.join(image_suffixes())}")
    return path, [str(file.relative_to(path)) for file in files]


def placed(names: list[str], out: Path) -> list[Path]:
    """Output paths: .png replaces the suffixes, or follows them if two paths would become equal."""
    paths = [out / name for name in names]
    replaced = [path.with_suffix(".png") for path in paths]
    return replaced if len({*replaced}) == len({*paths}) else [path.with_name(f"{path.name}.png") for path in paths]


def read(path: Path, mode: str) -> Tensor:
    """The pixels of an image file, uint8 (C, H, W), rotated as its EXIF data says.

    Raises ValueError for images that are too small, and any error of the decoder.
    """
    pixels = from_file(path, lambda image: to_array(in_mode(upright(image), mode)))
    _, height, width = pixels.shape
    if min(height, width) < SMALLEST:
        raise ValueError(f"only {width}x{height} pixels")
    return torch.from_numpy(pixels.copy())
