"""Flipped bits and cut files: whatever we read, damage is told in one line, or it changes nothing."""

import functools
import hashlib
import random
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import MODELS, THOROUGH, TINY, picture
from test_published import game, persistent, publish  # noqa: F401
from test_trees import as_tar, as_zip

from ganduel import build, checkpoint
from ganduel.commands import cli
from ganduel.commands.data import undamaged
from ganduel.config.compose import compose as compose_config
from ganduel.data.archives import open_tree
from ganduel.data.loading import open_images
from ganduel.data.prepare import prepare as pack
from ganduel.data.resize import Recipe, prepare
from ganduel.data.store import described
from ganduel.evaluation.digit_classifier import DigitClassifier, load_classifier
from ganduel.export import weights
from ganduel.importing import snapshots, stylegan2_ada
from ganduel.report import page, runs
from ganduel.runs.folder import RunFolder
from ganduel.sampling.sampler import Sampler
from ganduel.system.errors import UserError
from ganduel.system.files import parsing, read_rows

COUNT = 400 if THOROUGH else 16  # disturbed files of each kind


class Kind(NamedTuple):
    """A kind of file. `read` returns what a file says, and raises UserError for one that it finds damaged.

    A `signed` file has a checksum over all that matters, so damage may change nothing that is read. In any other file a
    flip may turn one valid content into another, which nobody can know.
    """

    path: Path
    read: Callable[[], Any]
    signed: bool = True


def disturbed(content: bytes, rng: random.Random) -> bytes:
    """One bit is another, or the end is missing."""
    at = rng.randrange(len(content))
    if rng.random() < 0.75:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    return content[:at]


def tally(kind: Kind, count: int) -> Counter[str]:
    """How often damage is told, harmless, or changes what is read. Any exception but UserError ends this."""
    whole, content = fingerprint(kind.read()), kind.path.read_bytes()
    rng, found = random.Random(zlib.crc32(kind.path.name.encode())), Counter[str]()
    for _ in range(count):
        kind.path.unlink()  # what is memory-mapped lives on
        kind.path.write_bytes(disturbed(content, rng))
        try:
            now = fingerprint(kind.read())
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            found["told"] += 1
        else:
            found["harmless" if now == whole else "changed"] += 1
    kind.path.unlink()
    kind.path.write_bytes(content)
    return found


def fingerprint(value: Any) -> str:
    """A hash of nested tensors, arrays and plain values."""
    digest = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = value.detach().contiguous().numpy()
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        elif isinstance(value, dict):
            for key in value:
                feed(key)
                feed(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                feed(item)
        else:
            digest.update(repr(value).encode())

    feed(value)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def trained(packed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, for all tests. They put back what they damage."""
    runs_dir = tmp_path_factory.mktemp("runs")
    settings = (*MODELS["dcgan"], "duration=2 steps", "every.log=1 steps", "forecast=false", f"runs_dir={runs_dir}")
    assert cli.command("train", [*TINY, packed, *settings]) == 0
    return runs_dir / "tiny"


@pytest.fixture
def kinds(
    request: pytest.FixtureRequest,
    packed: str,
    publish: Any,  # noqa: F811
    tmp_path: Path,
) -> Callable[[str], Kind]:
    """A kind of file by its name; the file is made when it is asked for."""

    @functools.cache
    def run() -> Path:
        return request.getfixturevalue("trained")

    def latest() -> Kind:
        path = run() / "checkpoints" / "latest.pt"
        return Kind(path, lambda: checkpoint.load(path))

    def exported() -> Kind:
        pytest.importorskip("safetensors")
        weights.save(Sampler(run()), tmp_path)
        return Kind(path := tmp_path / "generator.safetensors", lambda: checkpoint.load_exported(path))

    def classifier() -> Kind:
        path = next(Path(packed.partition("=")[2]).glob("digit-features-*.pt"), None)
        if path is None:
            path = tmp_path / "classifier.pt"
            checkpoint.save(path, {"classifier": DigitClassifier(10).state_dict(), "accuracy": 1.0})
        own = tmp_path / "own.pt"
        own.write_bytes(path.read_bytes())
        return Kind(own, lambda: load_classifier(own).state_dict())

    def published() -> Kind:
        one = game()
        networks = {"G": one.generators["G"], "D": one.discriminators["D"], "G_ema": one.generators["G"]}
        path = publish(**{name: persistent(network) for name, network in networks.items()})

        def read() -> Any:
            found = snapshots.read(path)
            with parsing(path, snapshots.PICKLE):
                states = {name: snapshots.tensors(module) for name, module in found.items()}
                return stylegan2_ada.settings(states["G"], states["D"]), states

        return Kind(path, read, signed=False)

    def packed_copy(suffix: str) -> Kind:
        root, folder = tmp_path / "originals", tmp_path / "p"
        settings = ["data=folder", f"data.root={root}", f"data.packed={folder}", "data.resolution=8"]
        data = compose_config("train", settings).data
        for i in range(4):
            picture(root / f"c{i % 2}" / f"{i}.png", i)
        path = pack(data, 1, build.source(data, []))
        about = described(path)

        def read() -> Any:
            told = described(path)
            images = open_images(path, data, seed=0, device=torch.device("cpu"))
            if not undamaged(path, about, data):
                raise UserError("gan-data packs it again")
            known = {key: told[key] for key in about}  # a flip in the name of the checksum makes an older set of it
            return known, [images.batch(0, 2)["real"]]

        return Kind(path.with_suffix(suffix), read)

    def log() -> Kind:
        def read() -> Any:
            RunFolder(run()).cut_back("stats.jsonl", 100)
            return read_rows(path).rows, runs.read(run()).stats

        return Kind(path := run() / "stats.jsonl", read, signed=False)

    def configuration() -> Kind:
        return Kind(
            run() / "config.yaml", lambda: (RunFolder(run()).stored_features(), runs.read(run()).config), signed=False
        )

    def typed() -> Kind:
        return Kind(run() / "overrides.txt", lambda: runs.read(run()).typed, signed=False)

    def shown() -> Kind:
        return Kind(
            path := run() / "samples" / "reals.png", lambda: page.embedded.__wrapped__(path, 0, 10_000), signed=False
        )

    def image() -> Kind:
        def read() -> Any:
            (made,) = prepare(Recipe(8, 3, None, "lanczos"), False, [path.read_bytes()])
            if isinstance(made, str):
                raise UserError(made)
            return made.stored

        return Kind(path := picture(tmp_path / "photo.png", 1), read)

    def tree(path: Path, signed: bool) -> Kind:
        def read() -> Any:
            found, left_out = open_tree(path), []
            with parsing(path, "an archive"):  # as the packer does: it rejects a member that cannot be read
                names = found.find(lambda name: name.endswith(".png") or left_out.append(name))
                files = {name: found.read(name) for name in names}
            if left_out:  # a flip in the end of a name
                raise UserError("the report counts what is left out")
            return files

        return Kind(path, read, signed)

    members = {f"a/{i}.png": picture(tmp_path / "m" / f"{i}.png", i).read_bytes() for i in range(3)}
    return lambda name: {
        "latest.pt": latest,
        "safetensors": exported,
        "classifier": classifier,
        "pickle": published,
        "packed.npy": lambda: packed_copy(".npy"),
        "packed.json": lambda: packed_copy(".json"),
        "labels.npy": lambda: packed_copy(".labels.npy"),
        "jsonl": log,
        "yaml": configuration,
        "overrides": typed,
        "shown.png": shown,
        "photo.png": image,
        "zip": lambda: tree(as_zip(tmp_path / "set.zip", members), signed=True),
        "tar.gz": lambda: tree(as_tar(tmp_path / "set.tar.gz", members, "w:gz"), signed=True),
    }[name]()


NAMES = (
    "latest.pt",
    "safetensors",
    "classifier",
    "pickle",
    "packed.npy",
    "packed.json",
    "labels.npy",
    "jsonl",
    "yaml",
    "overrides",
    "shown.png",
    "photo.png",
    "zip",
    "tar.gz",
)


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_told(kinds: Callable[[str], Kind], name: str, record_property: Any) -> None:
    kind = kinds(name)
    found = tally(kind, COUNT)
    record_property("tally", dict(found))
    print(name, dict(found))
    assert not (kind.signed and found["changed"])
    assert not kind.signed or found["told"] > COUNT // 3
