"""LSUN in its published form: lsun_bedroom."""

from pathlib import Path

from ganduel.data.archives import Lmdb, Zip, open_tree
from ganduel.data.download import Remote
from ganduel.data.sources._shared import Originals, Source, missing, near, stamp
from ganduel.system.errors import UserError

TRAIN = {"bedroom": 3_033_042}  # images of the official training part, where known
VAL = 300  # images of every validation part


def lsun(root: str, category: str) -> Source:
    """A category of LSUN (Yu et al. 2015) in its published form.

    This form is the database `<category>_train_lmdb` and, optionally, `<category>_val_lmdb`. A zipped database is
    unpacked once, beside its zip, because LMDB needs a real file. LSUN must be downloaded by hand.
    """
    top = Path(root)
    named = (top / "data.mdb").is_file()
    base = top if top.is_dir() and not named else top.parent
    train = Lmdb(top) if named else _part(base, f"{category}_train_lmdb", [top] if top.is_file() else [])
    val = _part(base, f"{category}_val_lmdb", [])
    if train is None:
        remote = Remote(f"LSUN {category}", "https://www.yf.io/p/lsun", [])
        raise missing(remote, [f"{category}_train_lmdb.zip"], top)

    def scan() -> Originals:
        names, held_out = train.find(bool), val.find(bool) if val else []
        count = len(names)
        names += held_out
        expected = {"train": TRAIN[category]} if category in TRAIN else {}
        return Originals(
            names,
            lambda i: train.read(names[i]) if i < count or val is None else val.read(names[i]),
            {"train": count} | ({"val": len(held_out)} if val else {}),
            expected | ({"val": VAL} if val and expected else {}),
        )

    return Source(stamp(category, *(part.stamp(bool) for part in (train, val) if part)), scan)


def _part(base: Path, name: str, archives: list[Path]) -> Lmdb | None:
    """The database `name` in or just below a folder; None if there is none. If only its zip exists, it is unpacked."""
    if found := near(base, f"{name}/data.mdb"):
        return Lmdb(found[0].parent)
    if not (archives := archives or near(base, f"{name}.zip")):
        return None
    archive = open_tree(archives[0])
    if not isinstance(archive, Zip):
        raise UserError(f"data.root: {archives[0]} is no zip of {name}")
    folder = archives[0].parent / name
    archive.unpack(lambda member: member.endswith("data.mdb"), folder / "data.mdb")
    return Lmdb(folder)
