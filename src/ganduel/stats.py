"""Running means of losses and other statistics, kept on the device."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ganduel.system import distributed
from ganduel.system.errors import UserError

T = TypeVar("T")
Sums = dict[str, Tensor]
"""Name -> (sum, count), float32 (2,)."""


class Stats:
    """Running means of losses and other statistics, and exponential moving averages of the losses.

    All are on the device, so that no step waits for it.
    """

    def __init__(self) -> None:
        self.losses: Sums = {}
        self.statistics: Sums = {}
        self.averages: Sums = {}  # moving averages of the losses, with count 1

    def add(
        self,
        losses: dict[str, Tensor],
        statistics: dict[str, Tensor],
        *,
        weight: float = 1.0,
        finite_only: bool = False,
    ) -> None:
        """Add scalars with a weight. `finite_only` leaves out those that are not finite."""
        self.losses = _sum(self.losses, {name: _pair(x, weight, finite_only) for name, x in losses.items()})
        self.statistics = _sum(self.statistics, {name: _pair(x, weight, finite_only) for name, x in statistics.items()})

    def merge(self, step: "Stats", kept: float) -> None:
        """Add the sums of one step. The moving averages keep the share `kept`; the step's losses give the rest."""
        self.losses, self.statistics = _sum(self.losses, step.losses), _sum(self.statistics, step.statistics)
        for name, pair in step.losses.items():
            mean = pair / pair[1]  # not finite if nothing was counted
            past = self.averages.get(name, mean)
            moved = torch.lerp(mean, torch.where(past.isfinite(), past, mean), kept)
            self.averages[name] = torch.where(mean.isfinite(), moved, past)

    def pool(self) -> None:
        """Replace all sums by their means over the processes, in new memory. Does not wait for the device."""
        if pairs := [pair for part in self.state_dict().values() for pair in part.values()]:
            rows = iter(distributed.mean(torch.stack(pairs)))
            for kind, part in self.state_dict().items():
                setattr(self, kind, {name: next(rows) for name in part})

    def means(self) -> dict[str, float]:
        """Means since the last reset, over all processes. Waits once for the device, and pools the sums.

        A loss is called "loss/NAME", its moving average "loss_ema/NAME".
        """
        self.pool()
        named = merged(
            {f"loss/{name}": pair for name, pair in self.losses.items()},
            self.statistics,
            {f"loss_ema/{name}": pair for name, pair in self.averages.items()},
        )
        values = torch.stack([pair[0] / pair[1] for pair in named.values()]).tolist() if named else []
        return dict(zip(named, values, strict=True))

    def copy(self) -> "Stats":
        """A copy in new memory."""
        other = Stats()
        for kind, part in self.state_dict().items():
            setattr(other, kind, {name: pair.clone() for name, pair in part.items()})
        return other

    def reset(self) -> None:
        """Start new means; the moving averages continue."""
        self.losses, self.statistics = {}, {}

    def state_dict(self) -> dict[str, Sums]:
        return {"losses": self.losses, "statistics": self.statistics, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        if "averages" not in state:  # older checkpoints keep them in one dict
            kinds = {"loss/": "losses", "loss_ema/": "averages", "": "statistics"}
            old, state = state, {kind: {} for kind in kinds.values()}
            for name, pair in old.items():
                prefix = next(prefix for prefix in kinds if name.startswith(prefix))
                state[kinds[prefix]][name.removeprefix(prefix)] = pair
        if any(pair.shape != (2,) for kind in self.state_dict() for pair in state[kind].values()):
            raise ValueError("its running means are not sums with their weights")
        for kind in self.state_dict():
            setattr(self, kind, {name: pair.to(device) for name, pair in state[kind].items()})


def merged(*parts: Mapping[str, T]) -> dict[str, T]:
    """All parts as one dict. Raises UserError if two parts share a name."""
    found: dict[str, T] = {}
    for part in parts:
        if twice := found.keys() & part.keys():
            raise UserError(f"two losses or statistics are called {min(twice)}: rename one of them")
        found |= part
    return found


def _pair(x: Tensor, weight: float, finite_only: bool) -> Tensor:
    pair = weight * torch.stack([x.detach().float(), torch.ones((), device=x.device)])
    return torch.where(pair[0].isfinite(), pair, 0) if finite_only else pair


def _sum(sums: Sums, more: Sums) -> Sums:
    known = [name for name in more if name in sums]
    both = torch._foreach_add([sums[n] for n in known], [more[n] for n in known]) if known else ()
    return sums | more | dict(zip(known, both, strict=True))
