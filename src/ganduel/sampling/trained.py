"""Finds the images that a checkpoint was trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganduel import build
from ganduel.config.schema import Data, Where, typed
from ganduel.data.archives import PACKED
from ganduel.data.image_set import ImageSet, Pair
from ganduel.data.loading import open_images, suited
from ganduel.data.packing import complete, packed_path
from ganduel.data.prepare import prepare
from ganduel.data.streaming import place
from ganduel.sampling.sampler import Sampler
from ganduel.system.errors import UserError


def trained_on(
    sampler: Sampler, where: Where, workers: int | None = None, allow: Sequence[str] = ()
) -> tuple[ImageSet | Pair, Path]:
    """The training images of a checkpoint, and the folder of their packed copy.

    `where` has the keys root, packed and stream. None means the place during training. Only for stream it means none:
    shards are opened only if `where` names their place. Raises UserError if the images are not found or are not the
    same.
    """
    trained = sampler.config["data"]
    data = typed(Data, trained | {"stream": where.stream})
    if trained["stream"] is not None and data.stream is None:
        raise UserError(
            f"data.stream: {sampler.path} was trained on shards in {trained['stream']}; an untrusted checkpoint could "
            "name any place, so name the shards yourself: data.stream=PLACE"
        )
    path = packed_set(sampler.content["data"]["recipe"], data, where, workers, allow)
    images = suited(open_images(path, data, seed=0, device=sampler.device), sampler.game.domains)
    expected = sampler.content["data"]["fingerprint"]
    if images.fingerprint != expected:
        raise UserError(
            f"{path}: these are not the images that {sampler.path} was trained on "
            f"(fingerprint {images.fingerprint}, expected {expected}); name their folder with data.root=FOLDER"
        )
    return images, path.parent


def packed_set(recipe: Any, data: Data, where: Where, workers: int | None, allow: Sequence[str]) -> Path:
    """Path of the JSON of the packed images; `data` is the checkpoint's configuration of its data set.

    An unknown checkpoint may name any folder, so nothing is written to a folder of its configuration. Missing packed
    images are made only in folders that the user names. Raises UserError if the images are not found.
    """
    if recipe is None:
        raise UserError("ckpt: these networks were imported without a data set; import them again with data=...")
    folder = Path(where.packed or (Path(where.root) / PACKED if where.root else data.packed))
    path = packed_path(folder, data.name, recipe)
    if complete(path, place(path, data)):
        return path
    if where.root is None:
        raise UserError(
            f"data.root: the images that this was trained on are not packed in {folder}; name the folder of the "
            "originals with data.root=FOLDER, or where the packed ones are with data.packed=FOLDER"
        )
    if not Path(where.root).exists():
        raise UserError(f"data.root: there is no {where.root}; name the folder or archive of the training images")
    source = {**data.source, "root": where.root}
    data = typed(Data, {**vars(data), **vars(where), "packed": str(folder), "source": source})
    return prepare(data, workers, build.source(data, [*allow]))
