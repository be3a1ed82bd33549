"""One file, tensors and plain values only, written atomically, with a checksum of its contents.

`torch.load(path, weights_only=True)` opens it, and opening it runs nothing.
"""

import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel.errors import UserError

FORMAT = 1
RUN = ("config", "data", "step", "images_seen", "state")  # what every checkpoint of a run has
NETWORKS = ("game", "ema")  # what a networks-only checkpoint keeps of the trainer's state

State = dict[str, Any]


def save(path: Path, content: State) -> None:
    """Write so that a reader finds the old file or the new one, whole, even if the power goes.

    Raises UserError where it cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    content = {"format": FORMAT, **content}
    content["checksum"] = checksum(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer wraps the former in the latter
        with suppress(OSError):  # nor is there anything to unlink where the folder is a file
            temporary.unlink()
        raise UserError(
            f"cannot write {path} ({_reason(error)}); the checkpoints before it are intact: "
            "make room or give write permission, then run the same command again"
        ) from error


def read(path: Path, what: str = "checkpoint of ganduel") -> Any:
    """Tensors and plain values of a file, running nothing. Raises UserError, saying `what` it should be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever PyTorch has to say of strangers' files, the line below says it
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
        raise UserError(f"{path}: is damaged or no {what}") from error


def load(path: Path, needs: Collection[str] = RUN) -> State:
    """Read and verify a checkpoint. Raises UserError for anything that is not a whole one of this format, with all that
    it `needs`."""
    content = read(path)
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise UserError(f"{path}: is no checkpoint of ganduel")
    if content["format"] > FORMAT:
        raise UserError(
            f"{path}: has format {content['format']}, newer than the {FORMAT} this ganduel reads: upgrade ganduel"
        )
    if not content.keys() >= {*needs}:
        raise UserError(f"{path}: is another file of ganduel's, with no {' and no '.join(needs)}")
    try:
        whole = content.pop("checksum", None) == checksum(content)
    except (TypeError, RuntimeError):  # values and kinds of tensors that we never write
        whole = False
    if not whole:
        raise UserError(f"{path}: is damaged (its checksum does not match)")
    return content


def networks_only(content: State) -> State:
    """What sampling and measuring need: without optimizers, for periodic checkpoints."""
    state = {name: content["state"][name] for name in NETWORKS}
    return {**content, "state": state}


def find(where: str | Path, key: str = "ckpt") -> Path:
    """The checkpoint meant by a file or by a run folder: its best, else its latest."""
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
    """SHA-256 over the structure, the plain values and the bytes of every tensor."""
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
