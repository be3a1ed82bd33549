"""From a data configuration to a packed set."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganduel import build
from ganduel.data.packing import Recipe, pack
from ganduel.data.sources import PACKED
from ganduel.errors import UserError


def prepare(
    data: dict[str, Any],
    workers: int | None,
    allow: Sequence[str],
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Find or download the originals and pack them where no packed copy is up to date; returns the packed set's JSON.

    `tell` is told of a set that was packed just now.
    """
    source = build.part(data["source"], "data.source", allow)
    recipe = Recipe(*(data[key] for key in ("resolution", "channels", "crop", "resize")))
    folder = Path(data["packed"])
    root, inside = Path(data["root"]).resolve(), folder.resolve()
    if inside.is_relative_to(root) and PACKED not in inside.relative_to(root).parts:
        raise UserError(
            f"data.packed={folder} is among the originals of data.root, where its preview would be taken for one of "
            f"them; choose a folder outside of it, or one named {PACKED}"
        )
    before = set(folder.glob("*.json"))
    path = pack(
        source,
        recipe,
        folder,
        data["name"],
        workers=workers or os.cpu_count() or 1,
        max_rejected=data["max_rejected"],
    )
    if tell and path not in before:
        tell(json.loads(path.read_text()))
    return path
