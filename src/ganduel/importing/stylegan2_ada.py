"""Read StyleGAN2-ADA networks as they were published.

A published file is a pickle that contains the source code of its classes. The usual way to load it runs this code. This
module runs nothing of a file, and reads only its tensors and plain values.
"""

import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel.system.errors import UserError
from ganduel.system.files import parsing
from ganduel.system.pickles import Inert, Restricted, Unasked

NETWORKS = ("G", "D", "G_ema")
PICKLE = "a pickle of StyleGAN2-ADA"
State = dict[str, Tensor]
FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The networks of a file, G, D and G_ema, as plain attributes by name; modules are nested dictionaries.

    Raises UserError for a file that asks for more than published ones do. Nothing of it has run then.
    """
    try:
        with parsing(path, PICKLE), open(path, "rb") as file:
            content = Restricted(file, "published network", _stand_ins()).load()
    except Unasked as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, Mapping) or not all(_is_module(content.get(name)) for name in NETWORKS):
        raise UserError(f"{path}: is not {PICKLE}, which holds the networks {', '.join(NETWORKS)}")
    return {name: content[name] for name in NETWORKS}


def _is_module(value: Any) -> bool:
    return isinstance(value, dict) and {"_parameters", "_buffers", "_modules"} <= value.keys()


def _stand_ins() -> dict[str, Any]:
    """Stand-ins for all that a published network names. They can do no more than hold data."""

    class Dictionary(dict):
        """For classes that are dictionaries."""

    return {
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
        **{f"numpy.{core}.multiarray.scalar": lambda *_: None for core in ("core", "_core")},
        **{f"torch.{name}": None for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    }


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


def our_name(name: str) -> str:
    """The name in `models.stylegan2` of a parameter or buffer of a published network."""
    return re.sub(r"^synthesis\.", "blocks.", name)


def ours(published: Mapping[str, Tensor]) -> State:
    """A state dict of `models.stylegan2`, from one with the published names.

    Raises UserError for any filter but [1, 3, 3, 1], because ours has no other.
    """
    state = {}
    for name, value in published.items():
        if not name.endswith("resample_filter"):
            state[our_name(name)] = value.float()
        elif value.ndim != 2 or not torch.allclose(value / value.sum(), torch.outer(FILTER, FILTER) / 64, atol=1e-6):
            raise UserError(f"{name} is another filter than [1, 3, 3, 1], which cannot be imported")
    return state


def settings(generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings of model=stylegan2_ada that give networks of these shapes: value by key.

    Both arguments have the published names. Raises UserError for an architecture that model=stylegan2_ada lacks.
    """
    if "synthesis.b8.torgb.weight" not in generator:
        raise UserError("its generator is not of the architecture skip, the only one here")
    if "b8.fromrgb.weight" in discriminator:
        raise UserError("its discriminator is of the architecture skip; here are resnet and orig")
    sizes = sorted(int(name[1:-13]) for name in discriminator if re.fullmatch(r"b\d+\.conv0\.weight", name))
    resolution, channels = sizes[-1], discriminator[f"b{sizes[-1]}.fromrgb.weight"].shape[1]
    width = {size: generator[f"synthesis.b{size}.conv1.weight"].shape[0] for size in (4, *sizes)}
    most = max(width.values())
    outputs, inputs = discriminator["b4.conv.weight"].shape[:2]
    if inputs - outputs not in (0, 1):
        raise UserError("its discriminator has several maps of minibatch deviations; here is one, or none")
    embedding = generator.get("mapping.embed.weight")
    entries = generator["mapping.fc0.weight"].shape[1]
    return {
        "data.resolution": resolution,
        "data.channels": channels,
        "model.latent": entries - (0 if embedding is None else embedding.shape[0]),
        "model.classes": 0 if embedding is None else embedding.shape[1],
        "model.channel_base": max([size * n for size, n in width.items() if n < most], default=resolution * most),
        "model.channel_max": most,
        "model.generator.width": generator["mapping.w_avg"].shape[0],
        "model.generator.mapping": _mapping_layers(generator),
        "model.discriminator.mapping": _mapping_layers(discriminator) or 8,
        "model.discriminator.stddev_group": 4 * (inputs - outputs),
        "model.discriminator.architecture": "resnet" if "b8.skip.weight" in discriminator else "orig",
    }


def _mapping_layers(state: Mapping[str, Tensor]) -> int:
    return sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in state)
