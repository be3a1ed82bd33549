"""Pairs of domains: folder_pair, horse2zebra and the other sets of the CycleGAN authors."""

from ganduel.data.download import File, Remote
from ganduel.data.sources._shared import Originals, Source, by_folder, is_image, open_root, originals, stamp
from ganduel.system.errors import UserError

PARTS = "trainA", "trainB", "testA", "testB"
ADDRESS = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets/"
AUTHORS_SETS = (
    "apple2orange",
    "cezanne2photo",
    "cityscapes",
    "facades",
    "horse2zebra",
    "iphone2dslr_flower",
    "maps",
    "monet2photo",
    "summer2winter_yosemite",
    "ukiyoe2photo",
    "vangogh2photo",
)
COUNTS = {"horse2zebra": (1067, 1334, 120, 140)}


def folder_pair(root: str, category: None, name: str) -> Source:
    """Two unpaired domains in folders trainA, trainB and, optionally, testA and testB (Zhu et al. 2017).

    If `name` is one of the CycleGAN authors' sets, it is downloaded.
    """

    def keep(path: str) -> bool:
        return is_image(path) and any(part in PARTS for part in path.split("/")[-2:-1])

    remote = Remote(name, ADDRESS, [File(f"{name}.zip", [f"{ADDRESS}{name}.zip"], None)])
    tree = open_root(root, (f"{name}.zip",), is_image, remote if name in AUTHORS_SETS else None)

    def scan() -> Originals:
        parts = by_folder(tree, tree.find(keep), PARTS, depth=1)
        for part in PARTS[:2]:
            if part not in parts:
                raise UserError(
                    f"data.root: {tree.path} has no images in a folder {part}; a pair needs trainA and trainB"
                )
        expected = dict(zip(PARTS, COUNTS[name], strict=True)) if name in COUNTS else {}
        return originals(tree, parts, expected)

    return Source(stamp(tree.stamp(keep)), scan)
