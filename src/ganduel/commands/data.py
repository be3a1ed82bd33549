"""gan-data: find or download a data set, check it, pack it and report on it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel import build
from ganduel.config.schema import Data, Pack
from ganduel.data import inspection
from ganduel.data.loading import open_images
from ganduel.data.prepare import abandoned, prepare
from ganduel.data.store import described, labels_path, open_store
from ganduel.data.streaming import place
from ganduel.pictures import save_png, tile
from ganduel.system.errors import UserError
from ganduel.system.files import Damaged, file_hash
from ganduel.system.terminal import say

PREVIEW = 64  # number of images in the preview, spread over the whole set
THUMBNAIL = 128  # largest side of an image in the preview, in pixels


def main(config: Pack, overrides: list[str]) -> dict[str, Any]:
    """Returns what the packed set's JSON says, with the paths of the JSON and of the preview.

    Raises UserError if the packed set is damaged and its originals are gone.
    """
    data = config.data
    new: list[dict[str, Any]] = []
    path = prepare(data, config.workers, build.source(data, config.allow), tell=new.append)
    about = described(path)
    if not new and not intact(path, about, data):
        if data.root is None or abandoned(data.root):
            raise UserError(f"{path}: what it describes is damaged, and there are no originals to pack it from anew")
        path.unlink()
        say(f"warning: the packed images beside {path} are damaged (wrong checksum): packing them again")
        return main(config, overrides)
    store = open_store(path, about, place(path, data))
    say(inspection.report(about))
    preview = path.with_suffix(".png")
    chosen = torch.linspace(0, len(store) - 1, min(PREVIEW, len(store))).long()
    save_png(tile(torch.cat([thumbnail(store.gather(one)) for one in chosen.split(1)])), preview)
    images = open_images(path, data, seed=0, device=torch.device("cpu"))
    say(f"  {images.count:,} to train on, {images.held_out:,} held out; preview {preview}")
    return {"path": str(path), "preview": str(preview), **about}


def thumbnail(images: Tensor) -> Tensor:
    """Shrink images, uint8 (N, C, H, W), that are larger than `THUMBNAIL` pixels a side to that size."""
    if images.shape[-1] <= THUMBNAIL:
        return images
    small = torch.nn.functional.interpolate(images.float(), THUMBNAIL, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def intact(path: Path, about: dict[str, Any], data: Data) -> bool:
    """Whether a packed set can be opened, and its labels and images have their recorded checksums."""
    try:
        labelled = "labelled" not in about or file_hash(labels_path(path)) == about["labelled"]
        return labelled and inspection.intact(open_store(path, about, place(path, data)), about["content"])
    except (Damaged, OSError, ValueError):
        return False


if __name__ == "__main__":
    from ganduel.commands import cli

    cli.data()
