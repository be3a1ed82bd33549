"""Checkpoints: one file of tensors and plain values, written atomically, with a checksum of its contents.

`torch.load(path, weights_only=True)` reads it without running any code from the file.
"""

import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel.system.errors import UserError, installed
from ganduel.system.files import replacing

FORMAT = 1
RUN = ("config", "data", "step", "images_seen", "state")  # keys of every checkpoint of a run
EXPORTED = ".safetensors"  # suffix of exported weights
ABOUT = "ganduel"  # metadata key of exported weights; holds the checkpoint's plain values as JSON
NETWORKS = ("game", "ema")  # parts of the trainer's state that a networks-only checkpoint keeps

State = dict[str, Any]


def save(path: Path, content: State) -> None:
    """Write a checkpoint atomically: even after a power failure, `path` is the whole old file or the whole new one.

    Raises UserError if the file cannot be written. The old file is then unchanged.
    """
    content = {"format": FORMAT, **content}
    content["checksum"] = checksum(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # PyTorch's writer turns an OSError into a RuntimeError
        raise UserError(
            f"cannot write {path} ({_reason(error)}); the checkpoints before it are intact: "
            "make room or give write permission, then run the same command again"
        ) from error


def read(path: Path, what: str = "checkpoint of ganduel") -> Any:
    """Read the tensors and plain values of a file, without running its code.

    Raises UserError for any other file; the message says `what` the file should be.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's warnings about other files; the errors below say it better
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from error
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(f"{path}: is damaged, or is not a {what}") from error


def load(path: Path, needs: Collection[str] = RUN) -> State:
    """Read a checkpoint and verify its checksum.

    Raises UserError if the file is damaged, has another format, or lacks one of the keys that it `needs`.
    """
    content = read(path)
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise UserError(f"{path}: is not a checkpoint of ganduel")
    if content["format"] > FORMAT:
        raise UserError(
            f"{path}: has format {content['format']}, newer than the {FORMAT} this ganduel reads: upgrade ganduel"
        )
    if not content.keys() >= {*needs}:
        raise UserError(f"{path}: is not a checkpoint of ganduel: it lacks {' and '.join(needs)}")
    try:
        whole = content.pop("checksum", None) == checksum(content)
    except (TypeError, RuntimeError):  # types that `save` never writes
        whole = False
    if not whole:
        raise UserError(f"{path}: is damaged (its checksum does not match)")
    return content


def load_exported(path: Path) -> dict[str, Any]:
    """Read a safetensors file of gan-export, as a checkpoint without discriminators. Raises UserError for other
    files."""
    safetensors = installed("safetensors", "export", f"reading {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            return {**about, "state": {"ema": {name: file.get_tensor(name) for name in file.keys()}}}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        reason = "not made by gan-export" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{path}: is damaged, or is not a file of gan-export ({reason})") from error


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


def _reason(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
