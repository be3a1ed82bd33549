"""Read snapshots of StyleGAN2-ADA and R3GAN as they were published.

A published file is a pickle that names classes, or contains their source code. The usual way to load it runs this code.
This module runs nothing of a file, and reads only its tensors and plain values.
"""

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel.system.errors import UserError
from ganduel.system.files import parsing
from ganduel.system.pickles import Inert, Restricted, Unasked

NETWORKS = ("G", "D", "G_ema")
PICKLE = "a pickle of StyleGAN2-ADA or R3GAN"
CLASSES = "R3GAN.", "training.networks", "torch.nn.modules."  # of modules that are pickled by their names
State = dict[str, Tensor]
FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The networks of a file, G, D and G_ema, as plain attributes by name; modules are nested dictionaries.

    Raises UserError for a file that asks for more than published ones do. Nothing of it has run then.
    """
    if zipfile.is_zipfile(path):
        raise UserError(f"{path} is a file of PyTorch, not {PICKLE}; ganduel's own need no import: give them as ckpt=")
    try:
        with parsing(path, PICKLE), open(path, "rb") as file:
            content = _Snapshot(file).load()
    except Unasked as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, Mapping) or not all(_is_module(content.get(name)) for name in NETWORKS):
        raise UserError(f"{path}: is not {PICKLE}, which holds the networks {', '.join(NETWORKS)}")
    return {name: content[name] for name in NETWORKS}


def _is_module(value: Any) -> bool:
    return isinstance(value, dict) and {"_parameters", "_buffers", "_modules"} <= value.keys()


class _Snapshot(Restricted):
    """Reads modules as dictionaries of their attributes."""

    def __init__(self, file: Any):
        class Dictionary(dict):
            """For classes that are dictionaries."""

        class Module(dict):
            """For classes of modules: their attributes."""

            def __setstate__(self, state: Any) -> None:
                self.update(state)

        self.module = Module
        known = {
            "torch_utils.persistence._reconstruct_persistent_obj": lambda meta: meta["state"],
            "dnnlib.util.EasyDict": Dictionary,
            "collections.OrderedDict": Dictionary,
            "builtins.set": lambda items=(): list(items),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch.storage._load_from_bytes": _storage,
            "torch.Size": lambda items: list(items),
            "torch.device": lambda *_: None,
            "numpy.dtype": lambda *_: Inert(),
            "numpy.core.multiarray.scalar": lambda *_: None,
            "numpy._core.multiarray.scalar": lambda *_: None,
        }
        super().__init__(file, "published network", known)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return None
        return self.module if module.startswith(CLASSES) else super().find_class(module, name)


def _storage(content: bytes) -> tuple[torch.UntypedStorage, torch.dtype]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old format
        storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return storage.untyped(), storage.dtype


def _tensor(storage: tuple[torch.UntypedStorage, torch.dtype], offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    content, dtype = storage
    return torch.empty(0, dtype=dtype).set_(content, offset, tuple(size), tuple(stride)).clone()


def tensors(module: Mapping[str, Any], prefix: str = "") -> State:
    """All parameters and buffers of a module that was read, by their published names."""
    own = {**module["_parameters"], **module["_buffers"]}
    found = {prefix + name: value for name, value in own.items() if isinstance(value, Tensor)}
    for name, child in module["_modules"].items():
        if _is_module(child):
            found |= tensors(child, f"{prefix}{name}.")
    return found


def plain_filter(value: Tensor) -> bool:
    """Whether a resampling filter is [1, 3, 3, 1] along both axes, the only one here."""
    return value.shape == (4, 4) and torch.allclose(value / value.sum(), torch.outer(FILTER, FILTER) / 64, atol=1e-6)
