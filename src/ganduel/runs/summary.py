"""Tables of a game's networks, layer by layer."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from ganduel import randomness, sharing
from ganduel.no_trace import no_trace
from ganduel.trainer import Trainer

DEPTH = 3  # parts of a layer's name; deeper modules count as part of their parent


class LayerRow(NamedTuple):
    """A row of the table. `parameters` and `buffers` are numbers of elements; `shape` is the output's shape for one
    image, or "" if the layer has no output.
    """

    name: str
    parameters: int
    buffers: int
    shape: str


def describe(trainer: Trainer) -> str:
    """A table for each network of a trainer. To find the shapes, this generates two images, or packs. It changes
    nothing."""
    networks = {**trainer.game.generators, **trainer.game.discriminators}
    shapes: dict[str, dict[str, str]] = {name: {} for name in networks}
    hooks = [hook for name, network in networks.items() for hook in _watch(network, shapes[name])]
    count = 2 * trainer.game.pack
    seed = randomness.seeds(0, first=0, count=count, device=trainer.device)
    with no_trace(trainer, evaluated=trainer.game):
        for duel in sharing.duels(trainer.game, {**trainer.images.batch(0, count), "seed": seed}):
            duel.discriminator(duel.fake)
    for hook in hooks:
        hook.remove()
    return "\n\n".join(table(name, layers(network, shapes[name])) for name, network in networks.items())


def _watch(network: nn.Module, shapes: dict[str, str]) -> list[Any]:
    """Register hooks that write the output shape of every module into `shapes`, by module name; return the hooks."""

    def hook(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                shapes[name] = "x".join(map(str, first.shape[1:])) or "1"

        return note

    return [module.register_forward_hook(hook(name)) for name, module in network.named_modules()]


def layers(network: nn.Module, shapes: dict[str, str]) -> list[LayerRow]:
    """The layers of a network that have parameters or buffers, in the order of their definition."""
    counts: dict[str, list[int]] = {}
    for kind, tensors in enumerate((network.named_parameters(), network.named_buffers())):
        for name, tensor in tensors:
            module = name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
            part = ".".join(module.split(".")[:DEPTH])
            if kind == 1 and part not in counts and part.rpartition(".")[0] in counts:
                part = part.rpartition(".")[0]  # a module with buffers only is not a layer of its own
            counts.setdefault(part, [0, 0])[kind] += tensor.numel()
    order = {name: i for i, (name, _) in enumerate(network.named_modules())}
    found = [LayerRow(name, both[0], both[1], shapes.get(name, "")) for name, both in counts.items()]
    return sorted(found, key=lambda layer: order[layer.name])


def table(title: str, rows: list[LayerRow]) -> str:
    """The rows as aligned text, with the totals in the last line."""
    total = sum(row.parameters for row in rows), sum(row.buffers for row in rows)
    cells = [(title, "parameters", "buffers", "output")]
    cells += [(row.name, f"{row.parameters:,}", f"{row.buffers:,}", row.shape) for row in rows]
    cells += [("in all", f"{total[0]:,}", f"{total[1]:,}", "")]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {buffers:>{widths[2]}}  {shape}".rstrip()
        for name, parameters, buffers, shape in cells
    )
