"""Places365: places, places_amusement_park, places_corridor."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ganduel.data.archives import Folder, open_tree
from ganduel.data.download import File, Remote
from ganduel.data.formats import is_image
from ganduel.data.sources._shared import Originals, Source, chooser, home, near, open_root, originals, stamp
from ganduel.system.errors import UserError, suggest

REMOTE = Remote(
    "Places365",
    "http://places2.csail.mit.edu/download.html",
    [
        File(
            "train_256_places365standard.tar",
            ["http://data.csail.mit.edu/places/places365/train_256_places365standard.tar"],
            "53ca1c756c3d1e7809517cc47c5561c5",
        )
    ],
)
ARCHIVES = ("train*places365*.tar*", "places365*easyformat*.tar*", "*[pP]laces*.zip", "archive.zip")


def places(root: str, category: str | None) -> Source:
    """One category of Places365 (Zhou et al. 2017): at most 5,000 training images in the standard set.

    The category's folder may lie in the folder of its first letter, as published, or anywhere else. A category of two
    levels, such as `apartment_building/outdoor`, may also be written with a hyphen. The expected number of images is
    known if the official list, `places365_train_standard.txt`, is near.
    """
    if category is None:
        raise UserError("data.category is missing: give one of Places365, as data.category=kitchen")
    wanted = category.replace("-", "/")
    tree = open_root(root, ARCHIVES, is_image, REMOTE)
    around = tree.path.resolve().parts[-2:] if isinstance(tree, Folder) else (tree.path.name.partition(".")[0],)
    seen: set[str] = set()

    def keep(name: str) -> bool:
        if not is_image(name):
            return False
        classes = _classes(name.split("/")[:-1] or around)
        seen.update(classes)
        return wanted in classes

    def scan() -> Originals:
        chosen = chooser(lambda name: None if keep(name) else "of another category")
        names = tree.find(chosen)
        if not names:
            raise UserError(f"data.category={category} is not in {tree.path}. {suggest(wanted, seen)}")
        parts: dict[str, list[str]] = {"train": [], "val": []}
        for name in names:
            parts["val" if "val" in name.split("/")[:-1] else "train"].append(name)
        expected = _expected(home(tree), wanted)
        used = {part: found for part, found in parts.items() if found}
        return originals(tree, used, expected, left_out=chosen.left_out)

    return Source(stamp(wanted, tree.stamp(keep)), scan)


def _classes(folders: Sequence[str]) -> set[str]:
    """The possible classes of an image, from its folders: those after the letter, else the last one or the last two."""
    for i, (letter, name) in enumerate(pairwise(folders), 1):
        if len(letter) == 1 and name.startswith(letter):
            return {"/".join(folders[i:]).replace("-", "/")}
    return {"/".join(folders[-depth:]).replace("-", "/") for depth in (1, 2)}


def _expected(top: Path, category: str) -> dict[str, int]:
    """The number of training images of a category in the official list; {} without the list."""
    name = "places365_train_standard.txt"
    if lists := near(top, name):
        text = lists[0].read_bytes()
    elif archives := near(top, "filelist_places365-standard.tar"):
        archive = open_tree(archives[0])
        text = archive.read(archive.find(lambda member: member.endswith(name))[0])
    else:
        return {}
    return {"train": len(re.findall(rf"^/\w/{re.escape(category)}/[^/]+$".encode(), text, re.MULTILINE))}
