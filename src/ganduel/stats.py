"""Running statistics of training, kept on the device."""

import torch
from torch import Tensor

from ganduel import distributed


class Stats:
    """Running means of named numbers, kept on the device: nothing in a step waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # name -> (sum, count)

    def add(self, numbers: dict[str, Tensor]) -> None:
        self.merge({n: torch.stack([x.detach().float(), torch.ones((), device=x.device)]) for n, x in numbers.items()})

    def merge(self, sums: dict[str, Tensor]) -> None:
        known = [name for name in sums if name in self.sums]
        both = torch._foreach_add([self.sums[n] for n in known], [sums[n] for n in known]) if known else ()
        self.sums |= sums | dict(zip(known, both, strict=True))

    def average(self, batch: dict[str, Tensor], kept: float) -> None:
        """Move the losses' exponential moving averages, "loss_ema/...", towards the sums of one batch; `kept` is what
        remains of their past."""
        for name, pair in batch.items():
            if name.startswith("loss/"):
                mean, average = pair / pair[1], name.replace("loss/", "loss_ema/", 1)
                self.sums[average] = torch.lerp(mean, self.sums.get(average, mean), kept)

    def tensors(self) -> dict[str, Tensor]:
        """Means over all processes, on the device, which nobody waits for."""
        sums = distributed.mean(torch.stack(list(self.sums.values())))
        return dict(zip(self.sums, sums[:, 0] / sums[:, 1], strict=True))

    def reset(self) -> None:
        """Begin new means; the moving averages go on."""
        self.sums = {name: pair for name, pair in self.sums.items() if name.startswith("loss_ema/")}

    def means(self) -> dict[str, float]:
        """Means since the last reset, over all processes, which then hold the same sums: one wait for the device."""
        if not self.sums:
            return {}
        sums = distributed.mean(torch.stack(list(self.sums.values())))
        self.sums = dict(zip(self.sums, sums, strict=True))
        return dict(zip(self.sums, (sums[:, 0] / sums[:, 1]).tolist(), strict=True))
