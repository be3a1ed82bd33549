"""Checkpoints: one file of tensors and plain values, written atomically, with a checksum of its contents.

`torch.load(path, weights_only=True)` reads it without running any code from the file.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel.system.errors import UserError, installed
from ganduel.system.files import Damaged, parsing, replacing, writing

FORMAT = 1
RUN = ("config", "data", "step", "images_seen", "state")  # keys of every checkpoint of a run
KINDS = {"config": dict, "data": dict, "step": int, "images_seen": int, "state": dict}
EXPORTED = ".safetensors"  # suffix of exported weights
ABOUT = "ganduel"  # metadata key of exported weights; holds the checkpoint's plain values as JSON
SHARED = 4  # how often a file may use the same value, for layers that share weights
MOST_VALUES = 10**7  # tensors, numbers, texts and lists in a file
NETWORKS = ("game", "ema")  # parts of the trainer's state that a networks-only checkpoint keeps

State = dict[str, Any]


def save(path: Path, content: State) -> None:
    """Write a checkpoint atomically: even after a power failure, `path` is the whole old file or the whole new one.

    Raises UserError if the file cannot be written. The old file is then unchanged.
    """
    content = {"format": FORMAT, **content}
    content["checksum"] = checksum(content)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())


def read(path: Path, what: str = "a checkpoint of ganduel") -> Any:
    """Read the tensors and plain values of a file, without running its code.

    Raises UserError for any other file; the message says `what` the file should be.
    """
    with parsing(path, what):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                    raise ValueError("it unpacks to more than its size, which PyTorch's files never do")
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_size(content, path.stat().st_size)
        return content


def _check_size(content: Any, size: int) -> None:
    """Raise ValueError if what a file of `size` bytes describes is out of proportion to it.

    Some bytes may describe a tensor of any shape that repeats one value, or lists that hold each other. Whoever copies
    the one fills the memory, and whoever walks through the others never ends.
    """
    tensors, values, rest = 0, 0, [content]
    while rest:
        value = rest.pop()
        values += 1
        if isinstance(value, dict):
            rest += value.values()
        elif isinstance(value, list | tuple):
            rest += value
        elif isinstance(value, Tensor):
            tensors += value.numel() * value.element_size()
        if tensors > SHARED * size or values > min(size, MOST_VALUES):
            raise ValueError("what it describes is larger than the file")


def load(path: Path, needs: Collection[str] = RUN) -> State:
    """Read a checkpoint and verify its checksum.

    Raises Damaged, a UserError, if the file is damaged or lacks one of the keys that it `needs`, or one of these holds
    another kind of value than ours do. Raises UserError for a newer format.
    """
    content = read(path)
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise Damaged(f"{path}: is not a checkpoint of ganduel")
    if content["format"] > FORMAT:
        raise UserError(
            f"{path}: has format {content['format']}, newer than the {FORMAT} this ganduel reads: upgrade ganduel"
        )
    try:
        whole = content.pop("checksum", None) == checksum(content)
    except (TypeError, RuntimeError, RecursionError):  # types that `save` never writes
        whole = False
    if not whole:
        raise Damaged(f"{path}: is damaged (its checksum does not match)")
    # The checksum is over values. What is no value here, such as the device that a tensor was on, has a CRC alone.
    with parsing(path, "a checkpoint of ganduel"), zipfile.ZipFile(path) as archive:
        archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return _suited(path, content, needs)


def load_exported(path: Path) -> State:
    """Read a safetensors file of gan-export, as a checkpoint without discriminators. Raises UserError for other
    files."""
    safetensors = installed("safetensors", "export", f"reading {path}")
    with parsing(path, "a file of gan-export"), safetensors.safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {})[ABOUT])
        if not isinstance(about, dict):
            raise ValueError("its facts are no object")
        content = {**about, "state": {"ema": {name: file.get_tensor(name) for name in sorted(file.keys())}}}
        signed = content.pop("checksum", None)  # which older files lack
    if signed is not None and signed != checksum(content):
        raise Damaged(f"{path}: is damaged (its checksum does not match)")
    return _suited(path, content, RUN)


def _suited(path: Path, content: State, needs: Collection[str]) -> State:
    """Return the content if it has all that it `needs`, each of the kind that ours have. Raises Damaged."""
    if not content.keys() >= {*needs}:
        raise Damaged(f"{path}: is not a checkpoint of ganduel: it lacks {' and '.join(needs)}")
    for name, kind in KINDS.items():
        if name in needs and type(content[name]) is not kind:
            raise Damaged(f"{path}: is not a checkpoint of ganduel: its {name} is no {kind.__name__}")
    return content


def networks_only(content: State) -> State:
    """The content without optimizers. Sampling and metrics need no more, so periodic checkpoints are these."""
    state = {name: content["state"][name] for name in NETWORKS}
    return {**content, "state": state}


def find(where: str | Path, key: str = "ckpt") -> Path:
    """The checkpoint `where`, or in the run folder `where`: best.pt, else latest.pt, else previous.pt.

    Raises UserError, which names the `key`, if there is none.
    """
    path, hint = Path(where), f"give a .pt file or a run folder, as in {key}=runs/dcgan-digits"
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        for name in ("best.pt", "latest.pt", "previous.pt"):
            if (folder / name).exists():
                return folder / name
        raise UserError(f"{key}: {path} holds no checkpoint; {hint}")
    if not path.exists():
        raise UserError(f"{key}: {path} does not exist; {hint}")
    return path


def checksum(content: Any) -> str:
    """SHA-256 of the structure, the plain values and the bytes of every tensor. Raises TypeError for other values."""
    digest = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            for name, item in value.items():
                digest.update(f"{name!r}:".encode())
                feed(item)
        elif isinstance(value, list | tuple):
            digest.update(f"[{len(value)}".encode())
            for item in value:
                feed(item)
        elif type(value) in (str, int, float, bool, type(None)):
            digest.update(repr(value).encode())
        else:
            raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value)}")

    feed(content)
    return digest.hexdigest()
