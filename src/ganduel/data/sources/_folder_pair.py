"""Pairs of domains: folder_pair, horse2zebra and the other sets of the CycleGAN authors."""

from ganduel.data.download import File, Remote
from ganduel.data.formats import is_image
from ganduel.data.sources._shared import Originals, Source, by_folder, chooser, open_root, originals, part_of, stamp
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

    The images may lie at any depth below these folders. If `name` is one of the CycleGAN authors' sets, it is
    downloaded.
    """

    def keep(path: str) -> bool:
        return is_image(path) and part_of(path, PARTS) is not None

    remote = Remote(name, ADDRESS, [File(f"{name}.zip", [f"{ADDRESS}{name}.zip"], None)])
    tree = open_root(root, (f"{name}.zip",), is_image, remote if name in AUTHORS_SETS else None)

    def scan() -> Originals:
        chosen = chooser(lambda path: None if part_of(path, PARTS) else f"in none of the folders {', '.join(PARTS)}")
        parts = by_folder(tree, tree.find(chosen), PARTS)
        for part in PARTS[:2]:
            if part not in parts:
                raise UserError(
                    f"data.root: {tree.path} has no images in a folder {part}; a pair needs trainA and trainB"
                )
        expected = dict(zip(PARTS, COUNTS[name], strict=True)) if name in COUNTS else {}
        return originals(tree, parts, expected, left_out=chosen.left_out)

    return Source(stamp("any depth", tree.stamp(keep)), scan)
