"""Preparation: from a data configuration to a packed set."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ganduel.config.schema import Data
from ganduel.data.archives import PACKED
from ganduel.data.packing import FORMAT, complete, pack, packed_path, tidy
from ganduel.data.resize import SMALLEST, Recipe, cores
from ganduel.data.sources import Originals, Source
from ganduel.data.stacks import CHANNELS
from ganduel.data.store import described
from ganduel.data.streaming import place
from ganduel.system.errors import UserError
from ganduel.system.files import ARCHIVES
from ganduel.system.terminal import say


def prepare(
    data: Data,
    workers: int | None,
    source: Callable[[], Source],
    tell: Callable[[dict[str, Any]], None] = lambda about: None,
) -> Path:
    """Find or download the originals, and pack them unless an up-to-date packed copy exists.

    Returns the path of the packed set's JSON. `source` finds the originals and is called only if they are needed.
    `tell` gets the JSON's content after a new packing. If the originals are gone, the packed copy is used as it is.
    With `data.root=null`, a packed copy from any originals is used. Raises UserError.
    """
    folder = packed_folder(data)
    side = data.load_size or data.resolution
    if side < data.resolution:
        raise UserError(
            f"data.load_size={side} is smaller than data.resolution={data.resolution}; give at least that, or null"
        )
    stacked = data.stack.count is not None
    if stacked and data.channels == 1:
        raise UserError(f"data.channels={data.channels} is not allowed with data.stack.count; it takes {CHANNELS}")
    recipe = Recipe(side, 1 if stacked else data.channels, data.crop, data.resize)  # type: ignore[arg-type]  # the schema checks both
    alone = data.root is None or abandoned(data.root)
    if alone and (path := newest(folder, data, recipe)):
        if data.root is not None:
            say(f"data.root={data.root} holds no originals any more: using {path} as it is")
        return path
    found = source()
    check_kind(data, found)
    if data.labels == "none":
        found = replace(found, scan=partial(unlabelled, found.scan))
    recipe = replace(recipe, width=found.width)
    recorded = {"format": FORMAT, "stamp": found.stamp, **origin(data), **asdict(recipe)}
    path = packed_path(folder, data.name, recorded)
    if not complete(path, place(path, data)):
        pack(
            found,
            recipe,
            path,
            {"name": data.name, "root": data.root, "recipe": recorded},
            workers=workers or cores(),
            max_rejected=data.max_rejected,
            raw_limit_gb=data.raw_limit_gb,
            place=place(path, data),
        )
        tell(described(path))
    tidy(path)
    return path


def check_kind(data: Data, found: Source) -> None:
    """Raise UserError if points are asked for as images, or images as points."""
    point = data.resolution == 1 and data.channels == 2
    if found.plane and not (point and data.stack.count is None and data.stream is None and data.load_size is None):
        raise UserError(
            f"data={data.name} are points: leave data.resolution=1 and data.channels=2, and data.stack.count, "
            "data.stream and data.load_size at null"
        )
    if not found.plane and (data.resolution < SMALLEST or data.channels == 2):
        raise UserError(
            f"data.resolution={data.resolution} data.channels={data.channels}: only points (data=ring, data=grid) have "
            f"1 and 2; images have {SMALLEST} pixels or more, and 1 (grey) or 3 (RGB) channels"
        )


def packed_folder(data: Data) -> Path:
    """The folder of the packed copies. Raises UserError if it lies among the originals."""
    folder = Path(data.packed)
    if data.root is None:
        return folder
    root = Path(data.root)
    archive = not root.is_dir() and (root.is_file() or root.name.lower().endswith(ARCHIVES))  # may be deleted already
    if archive and folder == root / PACKED:
        return root.parent / PACKED
    outside = not folder.resolve().is_relative_to(root.resolve())
    if outside or PACKED in folder.resolve().relative_to(root.resolve()).parts:
        return folder
    raise UserError(
        f"data.packed={folder} is among the originals of data.root, where its preview would be taken for one of them; "
        f"choose a folder outside of it, or one named {PACKED}"
    )


def abandoned(root: str | None) -> bool:
    """Whether the originals at `root` are gone: at most packed copies and hidden files are left. False for None."""
    if root is None:
        return False
    if not (top := Path(root)).exists():
        return True
    return top.is_dir() and all(path.name == PACKED or path.name.startswith(".") for path in top.iterdir())


def origin(data: Data) -> dict[str, Any]:
    """The settings that change a packed copy, besides the recipe: those of the source, shards and chosen labels."""
    source = {key: value for key, value in data.source.items() if key != "root"}
    chosen = {} if data.labels == "auto" else {"labels": data.labels}
    return {"source": source, "sharded": data.stream is not None, **chosen}


def unlabelled(scan: Callable[[], Originals]) -> Originals:
    """The originals without their labels."""
    return replace(scan(), labels=None, label_names=(), labels_from="none: data.labels=none")


def newest(folder: Path, data: Data, recipe: Recipe) -> Path | None:
    """The JSON of the newest complete packed copy with this name, recipe and root, or None if there is no copy.

    `data.root=null` accepts any root. Raises UserError if there are copies but none is complete.
    """
    wanted = {**asdict(recipe), "format": FORMAT, "labels": "auto", **origin(data)}
    del wanted["width"]  # only the source knows it, and there may be no source
    paths = sorted(folder.glob(f"{data.name}-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    paths = [path for path in paths if _describes(path, data.name, data.root, wanted)]
    for path in paths:
        if complete(path, place(path, data)):
            return path
    if paths:
        where = f"data.stream={data.stream}" if data.stream else f"data.packed={folder}"
        raise UserError(
            f"{where}: what {paths[0].name} describes is missing there or cut off, and data.root={data.root} holds "
            "no originals to pack it from; set data.root to the originals, or data.packed or data.stream to the "
            "packed copy"
        )
    return None


def _describes(path: Path, name: str, root: str | None, recipe: dict[str, Any]) -> bool:
    """Whether the JSON at `path` describes a packed set of this name, root and recipe."""
    try:
        about = described(path)
        same = root is None or about["root"] == root or Path(about["root"]).resolve() == Path(root).resolve()
        return bool(same and about["name"] == name and recipe.items() <= {"labels": "auto", **about["recipe"]}.items())
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
