"""gan-data: find or download a data set, check it, pack it and report on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel import build
from ganduel.config.schema import Data, Pack
from ganduel.data import inspection
from ganduel.data.image_set import ImageSet, Pair
from ganduel.data.loading import open_images
from ganduel.data.points import PointSet
from ganduel.data.prepare import abandoned, prepare
from ganduel.data.store import Indexed, described, labels_path, open_store
from ganduel.data.streaming import place
from ganduel.evaluation.look_alikes import look_alikes
from ganduel.pictures import save_png, tile
from ganduel.system.errors import UserError
from ganduel.system.files import Damaged, file_hash
from ganduel.system.terminal import printable, say

ALIKE = 32  # pairs in the picture of look-alikes
PREVIEW = 64  # number of images in the preview, spread over the whole set
THUMBNAIL = 128  # largest side of an image in the preview, in pixels


def main(config: Pack, overrides: list[str]) -> dict[str, Any]:
    """Returns the content of the packed set's JSON, with the paths of the JSON and of the preview.

    Raises UserError if the packed set is damaged and its originals are gone.
    """
    data = config.data
    new: list[dict[str, Any]] = []
    path = prepare(data, config.workers, build.source(data, config.allow), tell=new.append)
    about = described(path)
    if not new and not undamaged(path, about, data):
        if data.root is None or abandoned(data.root):
            raise UserError(f"{path}: what it describes is damaged, and there are no originals to pack it from anew")
        path.unlink()
        say(f"warning: the packed images beside {path} are damaged (wrong checksum): packing them again")
        return main(config, overrides)
    store = open_store(path, about, place(path, data))
    say(inspection.report(about))
    images = open_images(path, data, seed=0, device=torch.device("cpu"))
    preview = path.with_suffix(".png")
    save_png(tile(previewed(images, store)), preview)
    if config.look_alikes:
        show_look_alikes(store, config.look_alikes, image_names(config, about), path.with_suffix(".alike.png"))
    say(f"  {images.count:,} to train on, {images.held_out:,} held out; preview {preview}")
    return {"path": str(path), "preview": str(preview), **about}


def previewed(images: ImageSet | Pair, store: Indexed) -> Tensor:
    """Images of the whole packed set for its preview, uint8 (N, C, H, W); a plot for points, stacks for stacks."""
    if isinstance(images, PointSet):
        return images.preview(PREVIEW)
    shown = images.store if isinstance(images, ImageSet) else store
    return thumbnails(shown, torch.linspace(0, len(shown) - 1, min(PREVIEW, len(shown))).long())


def thumbnail(images: Tensor) -> Tensor:
    """Shrink images, uint8 (N, C, H, W), that are larger than `THUMBNAIL` pixels a side to that size."""
    if images.shape[-1] <= THUMBNAIL:
        return images
    small = torch.nn.functional.interpolate(images.float(), THUMBNAIL, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def thumbnails(store: Indexed, chosen: Tensor) -> Tensor:
    """The images with the indices `chosen` (N,), uint8 (N, C, H, W), at most `THUMBNAIL` pixels a side."""
    return torch.cat([thumbnail(store.gather(one)) for one in chosen.split(1)])


def show_look_alikes(store: Indexed, features: str, names: Sequence[str], out: Path) -> None:
    """Print the pairs of images that look most alike, and write a picture with four pairs in each row."""
    found = look_alikes(store, features, ALIKE)
    if not found:
        return
    say(f"  the most similar of different images, by {features}'s features (all {len(found)} pairs in {out}):")
    for distance, image, earlier in found[:3]:
        say(f"    {printable(names[earlier])} and {printable(names[image])}, distance {distance:.2f}")
    chosen = torch.tensor([index for pair in found for index in (pair.earlier, pair.image)])
    save_png(tile(thumbnails(store, chosen), columns=8), out)


def image_names(config: Pack, about: dict[str, Any]) -> Sequence[str]:
    """The names of the packed images; their numbers, if the originals are gone."""
    count = about["images"]
    if config.data.root is not None and not abandoned(config.data.root):
        originals = build.source(config.data, config.allow)().scan().names
        found = [name for name in originals if name not in about["rejected"]]
        if len(found) == count:
            return found
    return [f"image {i}" for i in range(count)]


def undamaged(path: Path, about: dict[str, Any], data: Data) -> bool:
    """Whether a packed set can be opened, and its labels and images have their recorded checksums."""
    try:
        labelled = "labelled" not in about or file_hash(labels_path(path)) == about["labelled"]
        return labelled and inspection.intact(open_store(path, about, place(path, data)), about["content"])
    except (Damaged, OSError, ValueError):
        return False
