"""Build objects from a configuration. Only this module calls Hydra's `instantiate`.

Anyone may have written a configuration. So it can only build classes and functions *defined* in ganduel or
torch.optim, and each group only those of its own modules. The check looks at the object that a path leads to, because a
path can mislead: `torch.optim.optimizer.torch.os.system` is `os.system`. The user can admit other packages with
`allow=package`.
"""

import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

import hydra.utils
import torch
from hydra.errors import InstantiationException
from torch import nn

from ganduel import lazy_regularization
from ganduel.augment import Chain
from ganduel.config.schema import Data
from ganduel.game import Game
from ganduel.regularizers import Regularizer
from ganduel.schedules import Schedule
from ganduel.system.device import as_it_lies
from ganduel.system.errors import UserError, describe_type, suggest

Config = dict[str, Any]

# The modules that define the parts of each group. A configuration cannot call the rest of ganduel.
HOMES = {
    "model": ("ganduel.models", "ganduel.game"),
    "loss": ("ganduel.losses",),
    "regularizer": ("ganduel.regularizers",),
    "augment": ("ganduel.augment",),
    "optimizer": ("torch.optim",),
    "scheduler": ("ganduel.schedules",),
    "schedule": ("ganduel.schedules",),
    "turns": ("ganduel.turns",),
    "data": ("ganduel.data.sources",),
    "data.augment": ("ganduel.augment",),
    "mode": ("ganduel.sampling",),
    "format": ("ganduel.export",),
}


def part(node: Config, key: str, allow: Sequence[str], **given: Any) -> Any:
    """Build the part that `node` describes. `given` are further arguments, from the caller.

    Raises UserError, which names the key, if the target may not be built, if an argument is unknown, missing or of the
    wrong type, or if the target itself raises an exception.
    """
    _check_part(node, key, allow, given)
    try:
        return hydra.utils.instantiate(node, _convert_="all", **given)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):  # its text names the key already
            raise error.__cause__ from None
        inner = str(error).partition("full_key: ")[2]  # Hydra's last line names the part inside this one that failed
        raise UserError(f"{key}{'.' * bool(inner)}{inner}: {error.__cause__ or error}") from error


def _check_part(node: Any, key: str, allow: Sequence[str], given: Iterable[str]) -> None:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{key}={node} is not allowed; it takes a part: a mapping with a _target_")
    check(node, key, allow, given)


def check(node: Any, key: str, allow: Sequence[str], given: Iterable[str] = ()) -> None:
    """Check every target, argument and string of a plain configuration, at every depth, before anything is built.

    Raises UserError, which names the key.
    """
    if isinstance(node, str) and "${" in node:
        raise UserError(f"{key}: the interpolation {node} is not resolved here")
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_arguments(locate(node["_target_"], key, allow), node, key, given)
        for name, value in node.items():
            check(value, f"{key}.{name}", allow)
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            check(value, f"{key}[{i}]", allow)


def locate(path: Any, key: str, allow: Sequence[str]) -> Callable:
    """The class or function that a dotted path names. Raises UserError if it does not exist or may not be built."""
    group, _, rest = key.partition(".")
    roots = (*HOMES.get(f"{group}.{rest.partition('.')[0]}", HOMES[group]), *allow)
    refused = UserError(
        f"{key}: {path} may not be built: allowed are classes and functions defined in {' or '.join(roots)}; "
        "a package of your own is admitted with allow=package"
    )
    if not isinstance(path, str) or not _inside(path, roots):  # do not even import it, because an import runs code
        raise refused
    names = path.split(".")
    found: Any = None
    for i, name in enumerate(names, 1):
        if i > 1 and hasattr(found, name):
            found = getattr(found, name)
            continue
        try:
            found = importlib.import_module(".".join(names[:i]))
        except ImportError as error:
            raise UserError(f"{key}: there is no {path} ({error})") from None
    if not isinstance(found, type | types.FunctionType) or not _inside(found.__module__, roots):
        raise refused
    return found


def _inside(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root + ".") for root in roots)


def _check_arguments(target: Callable, node: Mapping, key: str, given: Iterable[str]) -> None:
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n in node if not n.startswith("_")]
    for name in names:
        if name not in parameters and not open_ended:
            raise UserError(
                f"unknown option '{key}.{name}'. "
                + suggest(f"{key}.{name}", [f"{key}.{p}" for p in parameters if p not in given])
            )
    hints = _hints(target)
    for name in names:
        if name in hints and not _fits(node[name], hints[name]):
            raise UserError(f"{key}.{name}={node[name]} is not allowed; it takes {describe_type(hints[name])}")
    known = {*names, *given, "_args_", "self"}
    missing = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n not in known
    ]
    if missing and not node.get("_partial_") and "_args_" not in node:
        raise UserError(f"{key}: {node['_target_']} needs {', '.join(f'{key}.{n}' for n in missing)}")


def _hints(target: Callable) -> dict[str, Any]:
    """The types of the target's parameters; {} if its annotations cannot be resolved."""
    try:
        return typing.get_type_hints(vars(target).get("__init__", target) if isinstance(target, type) else target)
    except (NameError, TypeError):
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value suits a parameter of type `hint`.

    A mapping always does, because it describes a part. Generic types other than Literal, unions, lists and tuples are
    not checked.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) or hint is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin in (Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if origin is not tuple or Ellipsis in arguments:
            arguments = arguments[:1] * len(value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, types.NoneType):
        return isinstance(value, hint)
    return origin is not None or not isinstance(value, str | int | float | bool | None)


def game(model: Config, augment: Config, allow: Sequence[str], judged: bool = True) -> Game:
    """Build the game that `model.game` names. It takes the parts and settings of `model` that its parameters name.

    A game that is not `judged` has generators alone: `Absent` stands in the places of its discriminators. Raises
    UserError if `model.game` is no game, or if a key is missing or wrong.
    """
    kind = locate(model["game"], "model.game", allow)
    if not isinstance(kind, type) or not issubclass(kind, Game):
        raise UserError(f"model.game={model['game']} is not a game; try ganduel.game.LatentGame")
    parameters = inspect.signature(kind).parameters
    wanted = [name for name, p in parameters.items() if name != "augment" and (name in model or p.default is p.empty)]
    missing = [name for name in wanted if name not in model]
    if missing:
        raise UserError(f"model.{missing[0]} is missing: {model['game']} needs {', '.join(wanted)}")
    absent = [name for name in wanted if name.startswith("discriminator") and not judged]
    built: dict[str, Any] = {
        name: Absent() if name in absent else _value(model[name], f"model.{name}", allow) for name in wanted
    }
    hints = _hints(kind)
    for name, value in built.items():
        if name in hints and not _fits(value, hints[name]):
            raise UserError(f"model.{name}={value} is not allowed; it takes {describe_type(hints[name])}")
    transforms = parts(augment if judged else {}, "augment", allow)
    chain = Chain(*transforms.values(), names=[*transforms])
    try:
        return kind(**built, augment=chain)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


class Absent(nn.Module):
    """Stands in the place of a discriminator that nobody asks: the logits (N,) of all images are NaN."""

    group_size = 1

    def forward(self, images: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return images.new_full(images.shape[:1], math.nan)


def _value(node: Any, key: str, allow: Sequence[str]) -> Any:
    return part(node, key, allow) if isinstance(node, dict) and "_target_" in node else node


def source(data: Data, allow: Sequence[str]) -> Callable[[], Any]:
    """A function that finds the originals of a data set when it is called.

    A source with a parameter `labels` gets `data.labels`. Others bring labels of their own or have none. Raises
    UserError if `data.labels` asks for another kind.
    """
    target = locate(data.source.get("_target_"), "data.source", allow)
    if "labels" in inspect.signature(target).parameters:
        return partial(part, data.source, "data.source", allow, labels=data.labels)
    if data.labels not in ("auto", "none"):
        raise UserError(f"data.labels={data.labels} is not allowed; data.name={data.name} takes auto, none")
    return partial(part, data.source, "data.source", allow)


def parts(nodes: Config, key: str, allow: Sequence[str]) -> dict[str, Any]:
    """Build the selected options of a group that allows several. Raises UserError if one is tuned but not selected."""
    for name, node in nodes.items():
        if isinstance(node, Mapping) and "_target_" not in node:
            raise UserError(f"{key}.{name} is tuned but not selected; select it with {key}={name}")
    return {name: part(node, f"{key}.{name}", allow) for name, node in nodes.items()}


def schedules(scheduler: Config, nodes: Config, allow: Sequence[str]) -> dict[str, Schedule]:
    """The schedules of numbers, by the numbers' keys. `scheduler` is that of both learning rates.

    `nodes` has the structure of the whole configuration, with a schedule in the place of a number. Raises UserError.
    """
    rates = part(scheduler, "scheduler", allow)
    return {"optimizer.D.lr": rates, "optimizer.G.lr": rates, **dict(_scheduled(nodes, "", allow))}


def _scheduled(node: Any, prefix: str, allow: Sequence[str]) -> Iterator[tuple[str, Schedule]]:
    for name, inner in node.items():
        key = f"{prefix}{name}"
        if isinstance(inner, Mapping) and "_target_" not in inner:
            yield from _scheduled(inner, f"{key}.", allow)
        elif isinstance(inner, Mapping):
            yield key, part(dict(inner), f"schedule.{key}", allow)
        else:
            raise UserError(
                f"schedule.{key}={inner}: there is no schedule to set this of; select one first, as in "
                f"+scheduler@schedule.{prefix.rstrip('.') or 'KEY'}=cosine"
            )


def optimizer(
    node: Config,
    key: str,
    allow: Sequence[str],
    networks: nn.Module,
    penalties: dict[str, Regularizer],
    device: torch.device,
) -> torch.optim.Optimizer:
    """Build a player's optimizer. `penalties` maps names to that player's penalties.

    If penalties are lazy, `lazy_regularization` corrects the settings for their extra steps. The optimizer updates the
    parameters through the views of `as_it_lies`; the trainer gives these views their gradients. Raises UserError.
    """
    _check_part(node, key, allow, ("params",))
    if every := {name: r.every for name, r in penalties.items() if r.every > 1}:
        node = {**node, **lazy_regularization.correct(locate(node["_target_"], key, allow), node, every)}
    if device.type not in ("cpu", "cuda"):
        node = {name: value for name, value in node.items() if name != "fused"}
    if isinstance(betas := node.get("betas"), list | tuple):  # PyTorch refuses (0, 0.9), which mixes types
        node = {**node, "betas": [float(beta) if type(beta) is int else beta for beta in betas]}
    return part(node, key, allow, params=[as_it_lies(p.detach(), p) for p in networks.parameters()])
