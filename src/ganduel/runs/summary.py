"""What the networks of a game are made of, layer by layer, as a table."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from ganduel import randomness, sharing
from ganduel.no_trace import no_trace
from ganduel.trainer import Trainer

DEPTH = 3  # names longer than that are counted with what they are part of


class Layer(NamedTuple):
    """A row: `shape` is that of the output for one image, "" where the layer gives none."""

    name: str
    parameters: int
    buffers: int
    shape: str


def describe(trainer: Trainer) -> str:
    """A table for each network of a trainer. It makes two images, and changes nothing."""
    networks = {**trainer.game.generators, **trainer.game.discriminators}
    shapes: dict[str, dict[str, str]] = {name: {} for name in networks}
    hooks = [hook for name, network in networks.items() for hook in _watch(network, shapes[name])]
    seed = randomness.seeds(0, first=0, count=2, device=trainer.device)
    with no_trace(trainer, evaluated=trainer.game):
        for duel in sharing.duels(trainer.game, {**trainer.images.batch(0, 2), "seed": seed}):
            duel.critic(duel.fake)
    for hook in hooks:
        hook.remove()
    return "\n\n".join(table(name, layers(network, shapes[name])) for name, network in networks.items())


def _watch(network: nn.Module, shapes: dict[str, str]) -> list[Any]:
    """Hooks that write down what comes out of every module."""

    def hook(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                shapes[name] = "x".join(map(str, first.shape[1:])) or "1"

        return note

    return [module.register_forward_hook(hook(name)) for name, module in network.named_modules()]


def layers(network: nn.Module, shapes: dict[str, str]) -> list[Layer]:
    """The parts of a network that have parameters or buffers, in the order in which they are defined."""
    counts: dict[str, list[int]] = {}
    for kind, tensors in enumerate((network.named_parameters(), network.named_buffers())):
        for name, tensor in tensors:
            module = name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
            part = ".".join(module.split(".")[:DEPTH])
            if kind == 1 and part not in counts and part.rpartition(".")[0] in counts:
                part = part.rpartition(".")[0]  # what only has buffers is no layer of its own
            counts.setdefault(part, [0, 0])[kind] += tensor.numel()
    order = {name: i for i, (name, _) in enumerate(network.named_modules())}
    found = [Layer(name, both[0], both[1], shapes.get(name, "")) for name, both in counts.items()]
    return sorted(found, key=lambda layer: order[layer.name])


def table(title: str, rows: list[Layer]) -> str:
    """Aligned text, with the totals below."""
    total = sum(row.parameters for row in rows), sum(row.buffers for row in rows)
    cells = [(title, "parameters", "buffers", "output")]
    cells += [(row.name, f"{row.parameters:,}", f"{row.buffers:,}", row.shape) for row in rows]
    cells += [("in all", f"{total[0]:,}", f"{total[1]:,}", "")]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {buffers:>{widths[2]}}  {shape}".rstrip()
        for name, parameters, buffers, shape in cells
    )
