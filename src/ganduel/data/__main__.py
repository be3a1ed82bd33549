"""gan-data: find or download a set, check it, pack it, report."""

import json
from typing import Any

import torch

from ganduel.data.loading import ImageSet
from ganduel.data.packing import report
from ganduel.data.prepare import prepare
from ganduel.sampling.grids import save_png, tile
from ganduel.terminal import say

PREVIEW = 64  # images, spread over the whole set


def main(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Returns the doctor's report with the paths of the packed set and its preview."""
    data = config["data"]
    path = prepare(data, config["workers"], config["allow"])
    about = json.loads(path.read_text())
    say(report(about))
    images = ImageSet.configured(path, data, seed=0, device=torch.device("cpu"))
    preview = path.with_suffix(".png")
    save_png(
        tile(images.gather(torch.linspace(0, about["images"] - 1, min(PREVIEW, about["images"])).long())),
        preview,
    )
    say(f"  {len(images.train):,} to train on, {len(images.validation):,} held out; preview {preview}")
    return {"path": str(path), "preview": str(preview), **about}


if __name__ == "__main__":
    from ganduel import cli

    cli.data()
