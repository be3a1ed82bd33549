"""Networks of R3GAN in the names that they were published with."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from ganduel.importing.snapshots import State, plain_filter
from ganduel.system.errors import UserError

MODEL = "r3gan"
WRAPPED = "Model."  # a snapshot has the networks inside another module
OUTER = {"ExtractionLayer.Layer": "input", "AggregationLayer.Layer": "output", "EmbeddingLayer": "embedding"}


def known(generator: Mapping[str, Tensor]) -> bool:
    """Whether a generator is of this model, by its published names."""
    return f"{WRAPPED}MainLayers.0.Layers.0.Basis" in generator


def our_name(name: str, player: Literal["G", "D"], stages: int) -> str:
    """The name in `models.r3gan` of a parameter of a published network with so many stages."""
    if (outer := name.removesuffix(".weight")) in OUTER:
        return f"{OUTER[outer]}.weight"
    match = re.fullmatch(r"MainLayers\.(\d+)\.Layers\.(\d+)\.(.*)", name)
    if not match:
        raise UserError(f"{name} is no parameter of R3GAN")
    stage, layer, rest = int(match[1]), int(match[2]), match[3]
    size = 4 << (stage if player == "G" else stages - 1 - stage)
    if rest.startswith("Basis"):
        return "basis"
    if rest == "LinearLayer.weight":
        return "dense.weight"
    if rest == "LinearLayer.Layer.weight":
        return f"up.{size}.0.weight" if player == "G" else f"down.{size}.1.weight"
    found = re.fullmatch(r"(Linear|NonLinear)\w*?(\d)\..*", rest)
    if not found:
        raise UserError(f"{name} is no parameter of R3GAN")
    index = 2 * int(found[2]) - (2 if found[1] == "Linear" else 1)
    part = "weight" if found[1] == "Linear" else "bias"
    return f"stages.{size}.{layer - (player == 'G')}.layers.{index}.{part}"


def our_shape(name: str, value: Tensor) -> Tensor:
    """A published tensor in the shape of ours."""
    return value.T if name.endswith("EmbeddingLayer.weight") else value[:, 0] if "Basis.weight" in name else value


def ours(published: Mapping[str, Tensor]) -> State:
    """A state dict of `models.r3gan`, from one with the published names.

    Raises UserError for any filter but [1, 3, 3, 1], and for a name that no network of R3GAN has.
    """
    state = {}
    for name, value in unwrapped(published).items():
        if not name.endswith("Resampler.Kernel"):
            player, stages = _whose(published)
            state[our_name(name, player, stages)] = our_shape(name, value).float()
        elif not plain_filter(value):
            raise UserError(f"{name} is another filter than [1, 3, 3, 1], which cannot be imported")
    return state


def unwrapped(published: Mapping[str, Tensor]) -> State:
    """The tensors by their names inside the network."""
    return {name.removeprefix(WRAPPED): value for name, value in published.items()}


def _whose(published: Mapping[str, Tensor]) -> tuple[Literal["G", "D"], int]:
    """Whose network it is, and its number of stages."""
    names = unwrapped(published)
    stages = {name.split(".")[1] for name in names if name.startswith("MainLayers.")}
    return ("D" if "ExtractionLayer.Layer.weight" in names else "G"), len(stages)


def settings(generator: Mapping[str, Tensor], discriminator: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings of model=r3gan that give networks of these shapes: value by key.

    Both arguments have the published names. Raises UserError for sizes that model=r3gan lacks.
    """
    g, d = unwrapped(generator), unwrapped(discriminator)
    stages = _whose(generator)[1]
    maps = [len(g[f"MainLayers.{i}.Layers.1.LinearLayer3.Layer.weight"]) for i in range(stages)]
    resolution = 4 << (stages - 1)
    base = maps[-1] * resolution
    if maps != [min(base // (4 << i), maps[0]) for i in range(stages)]:
        raise UserError(f"its stages have {maps} feature maps; here, they halve with each size from some size on")
    grouped = {value.shape[1] for name, value in g.items() if ".LinearLayer2." in name}
    blocks = {sum(bool(re.match(rf"MainLayers\.{i}\..*LinearLayer3", name)) for name in g) for i in range(stages)}
    if len(grouped) != 1 or len(blocks) != 1:
        raise UserError("its stages differ in their groups or in their number of blocks; here, all are alike")
    embedding = g.get("EmbeddingLayer.weight")
    inputs = g["MainLayers.0.Layers.0.LinearLayer.weight"].shape[1]
    return {
        "data.resolution": resolution,
        "data.channels": d["ExtractionLayer.Layer.weight"].shape[1],
        "model.latent": inputs - (0 if embedding is None else embedding.shape[0]),
        "model.classes": 0 if embedding is None else embedding.shape[1],
        "model.channel_base": base,
        "model.channel_max": maps[0],
        "model.group": grouped.pop(),
        "model.blocks": blocks.pop(),
    }
