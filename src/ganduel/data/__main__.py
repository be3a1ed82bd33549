"""gan-data: find or download a set, check it, pack it, report."""

import json
from pathlib import Path
from typing import Any

import torch

from ganduel.data import doctor
from ganduel.data.loading import open_images
from ganduel.data.prepare import prepare
from ganduel.data.store import open_store
from ganduel.data.streaming import place
from ganduel.sampling.grids import save_png, tile
from ganduel.terminal import say

PREVIEW = 64  # images, spread over the whole set


def main(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Returns the doctor's report with the paths of the packed set and its preview."""
    data = config["data"]
    new: list[dict[str, Any]] = []
    path = prepare(data, config["workers"], config["allow"], tell=new.append)
    about = json.loads(path.read_text())
    if not new and not intact(path, about, data):
        path.unlink()
        say(f"warning: the packed images beside {path} are damaged (their checksum is another): packing anew")
        return main(config, overrides)
    store = open_store(path, about, place(path, data))
    say(doctor.report(about))
    preview = path.with_suffix(".png")
    save_png(tile(store.gather(torch.linspace(0, len(store) - 1, min(PREVIEW, len(store))).long())), preview)
    images = open_images(path, data, seed=0, device=torch.device("cpu"))
    say(f"  {images.count:,} to train on, {images.held_out:,} held out; preview {preview}")
    return {"path": str(path), "preview": str(preview), **about}


def intact(path: Path, about: dict[str, Any], data: dict[str, Any]) -> bool:
    """Whether a packed set can be opened and holds what was written."""
    try:
        return doctor.intact(open_store(path, about, place(path, data)), about["content"])
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    from ganduel import cli

    cli.data()
