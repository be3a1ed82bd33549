"""Compare ADA's transforms with images of the reference implementation: python scripts/check_augment.py FILE.npz

The key `aug/<transform>@<percentile>` holds the transformed images of `in/aug_img`. For these, every random quantity is
at the given percentile, and every optional step happens. `aug_gray/...` holds the same for `in/img_gray`. A pipe may
stand in place of a transform.
"""

import argparse
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ganduel import build
from ganduel.augment.ada import ADA
from ganduel.augment.pipeline import Draws
from ganduel.config.compose import compose

NAMES = {  # name of the reference -> our group and transform
    "xflip": ("blit", "x_flip"),
    "rotate90": ("blit", "rotate_90"),
    "xint": ("blit", "translate_pixels"),
    "scale": ("geom", "scale"),
    "rotate": ("geom", "rotate"),
    "aniso": ("geom", "stretch"),
    "xfrac": ("geom", "translate"),
    "brightness": ("color", "brightness"),
    "contrast": ("color", "contrast"),
    "lumaflip": ("color", "luma_flip"),
    "hue": ("color", "hue"),
    "saturation": ("color", "saturation"),
    "imgfilter": ("filter", "octaves"),
    "cutout": ("cutout", "cutout"),
}


class Percentile(Draws):
    """Draws in which everything happens (p = 1), and every quantity is at one percentile: `share`, from 0 to 1."""

    def __init__(self, images: int, share: float):
        self.p, self.share, self.images = torch.tensor(1.0), share, images

    def uniform(self) -> Tensor:
        return torch.full((self.images,), self.share)

    def normal(self) -> Tensor:
        # The reference leaves out the factor of sqrt(2) that would make this the normal distribution's quantile.
        return torch.erfinv(2 * self.uniform() - 1)


def check_augment(npz: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest absolute difference from the reference for each of its keys."""
    node, differences = compose("train", ["augment=[ada]"]).augment["ada"], {}
    for key in npz:
        kind, _, rest = key.partition("/")
        if kind in ("aug", "aug_gray"):
            name, _, share = rest.rpartition("@")
            images = torch.from_numpy(npz["in/aug_img" if kind == "aug" else "in/img_gray"])
            ours = only(name, node).augment(images, Percentile(len(images), float(share)))
            differences[key] = float((ours - torch.from_numpy(npz[key])).abs().max())
    return differences


def only(name: str, node: build.Config) -> ADA:
    """ADA with one transform, or one pipe, of the reference. Here, its pipes leave out the second rotation."""
    if name in NAMES:
        group, transform = NAMES[name]
        node = node | {"pipe": group, group: {transform: node[group][transform]}}
    else:
        node = node | {"pipe": name, "geom": {n: t for n, t in node["geom"].items() if n != "rotate_again"}}
    return build.part(node, "augment.ada", [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", help="the file of the reference")
    for key, difference in check_augment(np.load(parser.parse_args().npz)).items():
        print(f"{key:24} {difference:.1e}")


if __name__ == "__main__":
    main()
