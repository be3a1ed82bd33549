"""Places365 and Places205: places, places_amusement_park, places_corridor."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from ganduel.data.archives import Folder, open_tree
from ganduel.data.download import File, Remote
from ganduel.data.formats import is_image
from ganduel.data.sources._shared import Originals, Source, chooser, home, near, open_root, originals, stamp
from ganduel.system.errors import UserError, suggest
from ganduel.system.terminal import say

PAGE = "http://places2.csail.mit.edu/download.html"
REMOTE = Remote(
    "Places365",
    PAGE,
    [
        File(
            "train_256_places365standard.tar",
            ["http://data.csail.mit.edu/places/places365/train_256_places365standard.tar"],
            "53ca1c756c3d1e7809517cc47c5561c5",
        )
    ],
)
REMOTES = {  # a set without addresses must be fetched by hand
    "standard": REMOTE,
    "challenge": Remote("Places365-Challenge", PAGE, [File("train_256_places365challenge.tar", [], None)]),
    "places205": Remote(
        "Places205", "http://places.csail.mit.edu/downloadData.html", [File("imagesPlaces205_resize.tar.gz", [], None)]
    ),
}
ARCHIVES = ("train*places365*.tar*", "places365*easyformat*.tar*", "*laces205*.tar*", "*[pP]laces*.zip", "archive.zip")


class Split(NamedTuple):
    """One of the published sets of training images."""

    files: str  # the official list of its training images
    least: int  # fewest training images of a category
    most: int
    known: dict[str, int]  # training images of some categories, where the list is not near


SPLITS = {
    "standard": Split("places365_train_standard.txt", 3068, 5000, {}),
    # report R0 gives the counts of its two categories
    "challenge": Split("places365_train_challenge.txt", 3068, 45_000, {"corridor": 18_178, "amusement_park": 42_286}),
    "places205": Split("train_places205.csv", 5000, 15_000, {}),
}


def places(root: str, category: str | None, split: Literal["standard", "challenge", "places205"]) -> Source:
    """One category of a `split` of Places365 (Zhou et al. 2017), or of Places205 (Zhou et al. 2014).

    The category's folder may lie in the folder of its first letter, as published, or anywhere else. A category of two
    levels, such as `apartment_building/outdoor`, may also be written with a hyphen. The expected number of images is
    known if the split's official list is near. Without it, a message says how many a category has, and fewer than the
    smallest category are reported as missing.
    """
    if category is None:
        raise UserError("data.category is missing: give one of Places365, as data.category=kitchen")
    wanted = category.replace("-", "/")
    tree = open_root(root, ARCHIVES, is_image, REMOTES[split])
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
        used = {part: found for part, found in parts.items() if found}
        expected = _expected(home(tree), wanted, split, len(parts["train"]))
        return originals(tree, used, expected, left_out=chosen.left_out)

    return Source(stamp(wanted, split, tree.stamp(keep)), scan)


def _classes(folders: Sequence[str]) -> set[str]:
    """The possible classes of an image, from its folders: those after the letter, else the last one or the last two."""
    for i, (letter, name) in enumerate(pairwise(folders), 1):
        if len(letter) == 1 and name.startswith(letter):
            return {"/".join(folders[i:]).replace("-", "/")}
    return {"/".join(folders[-depth:]).replace("-", "/") for depth in (1, 2)}


def _expected(top: Path, category: str, split: str, found: int) -> dict[str, int]:
    """The number of training images of a category: from the official list, else from `SPLITS`.

    {} if the number is unknown, and the images that were `found` may be all of them.
    """
    name, least, most, known = SPLITS[split]
    if lists := near(top, name):
        text = lists[0].read_bytes()
    elif archives := near(top, f"filelist_places365-{split}.tar", f"*split*{split}*.tar*"):
        archive = open_tree(archives[0])
        text = archive.read(archive.find(lambda member: member.endswith(name))[0])
    elif category in known:
        return {"train": known[category]}
    else:
        other = ", so these are of another split: set data.source.split" if found > most else ""
        say(
            f"places: {found:,} training images of {category}; {name} is not near, so their number is not checked. A "
            f"category of split={split} has {least:,} to {most:,}{other}"
        )
        return {"train": least} if found < least else {}
    return {"train": len(re.findall(rf"^/?\w/{re.escape(category)}/[^/]+$".encode(), text, re.MULTILINE))}
