"""Read snapshots of StyleGAN2-ADA and R3GAN as they were published.

A published file is a pickle that names classes, or contains their source code. The usual way to load it runs this code.
This module runs nothing of a file, and reads only its tensors and plain values.
"""

import io
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel.system.errors import UserError
from ganduel.system.files import parsing

NETWORKS = ("G", "D", "G_ema")
PICKLE = "a pickle of StyleGAN2-ADA or R3GAN"
CLASSES = "R3GAN.", "training.networks", "torch.nn.modules."  # of modules that are pickled by their names
State = dict[str, Tensor]
FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The networks of a file, G, D and G_ema, as plain attributes by name; modules are nested dictionaries.

    Raises UserError for a file that asks for more than published ones do. Nothing of it has run then.
    """
    try:
        with parsing(path, PICKLE), open(path, "rb") as file:
            content = _Unpickler(file).load()
    except Unasked as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, Mapping) or not all(_is_module(content.get(name)) for name in NETWORKS):
        raise UserError(f"{path}: is not {PICKLE}, which holds the networks {', '.join(NETWORKS)}")
    return {name: content[name] for name in NETWORKS}


def _is_module(value: Any) -> bool:
    return isinstance(value, dict) and {"_parameters", "_buffers", "_modules"} <= value.keys()


class Unasked(UserError):
    """A file asks for something that no published network needs."""


class _Unpickler(pickle.Unpickler):
    """Puts stand-ins, which can only hold data, in the place of the objects that a file names.

    Every file gets new stand-ins, because a pickle may set their attributes.
    """

    def __init__(self, file: Any):
        super().__init__(file)

        class Dictionary(dict):
            """For classes that are dictionaries."""

        class Module(dict):
            """For classes of modules: their attributes."""

            def __setstate__(self, state: Any) -> None:
                self.update(state)

        self.module = Module
        self.known: dict[str, Any] = {
            "torch_utils.persistence._reconstruct_persistent_obj": _Call(lambda meta: meta["state"]),
            "dnnlib.util.EasyDict": Dictionary,
            "collections.OrderedDict": Dictionary,
            "builtins.set": _Call(lambda items=(): list(items)),
            "torch._utils._rebuild_parameter": _Call(lambda data, *_: data),
            "torch._utils._rebuild_tensor_v2": _Call(_tensor),
            "torch.storage._load_from_bytes": _Call(_storage),
            "torch.Size": _Call(lambda items: list(items)),
            "torch.device": _Call(lambda *_: None),
            "numpy.dtype": _Call(lambda *_: _Inert()),
        }
        for core in ("core", "_core"):
            self.known[f"numpy.{core}.multiarray.scalar"] = _Call(lambda *_: None)

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return None
        if module.startswith(CLASSES):
            return self.module
        if path not in self.known:
            raise Unasked(f"asks for {path}, which no published network does; it was not run")
        return self.known[path]

    def persistent_load(self, pid: Any) -> Any:
        raise Unasked("asks for data outside of it, which no published network does")


class _Call:
    """A function that a pickle may call, and do nothing else with."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Unasked("changes a function, which no published network does")


class _Inert:
    """A stand-in for an object without use here. It accepts any state and keeps none."""

    def __setstate__(self, state: Any) -> None:
        pass


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
