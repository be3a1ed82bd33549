"""From a data configuration to a packed set."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganduel import build
from ganduel.data.packing import Recipe, pack


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
