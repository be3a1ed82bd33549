"""Networks of StyleGAN2-ADA in the names that they were published with."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganduel.importing.snapshots import State, plain_filter
from ganduel.system.errors import UserError

MODEL = "stylegan2_ada"


def known(generator: Mapping[str, Tensor]) -> bool:
    """Whether a generator is of this model, by its published names."""
    return "mapping.fc0.weight" in generator


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
        elif not plain_filter(value):
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
