"""What test_distributed starts on several processes: `measure` on random images, of which each process looks at its
block. Every process writes a line for each case into a file of its own."""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ganduel.evaluation import measure as measuring
from ganduel.evaluation import paths
from ganduel.evaluation.measure import Images, measure
from ganduel.runs.recorder import Abandoned
from ganduel.system import distributed
from ganduel.system.errors import UserError

CPU = torch.device("cpu")
EVERY = ["fid", "kid", "isc", "prc", "dc", "successive"]


class Projected(nn.Module):
    """Ten numbers of the pixels as features, and five of those as logits."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.randn(images[0].numel(), 10, generator=torch.Generator().manual_seed(0))
        features = (images.flatten(1).double() / 255 @ weights.double()).float()
        return features, features[:, :5]


class Stub:
    label, digest, identity, classifies, extractor = "stub", "0", "stub-0", True, Projected()

    @staticmethod
    def named(values: dict[str, float]) -> dict[str, float]:
        return values


def images(asked: list[int], first: int, numbers: range) -> Tensor:
    """An image for each number, whoever asks."""
    asked.extend(numbers)
    seeds = (torch.Generator().manual_seed(first + n) for n in numbers)
    return torch.stack([torch.randint(0, 256, (3, 4, 4), generator=g, dtype=torch.uint8) for g in seeds])


def failing(rank: int, error: Exception, numbers: range) -> Tensor:
    if distributed.rank() == rank:
        raise error
    return images([], 0, numbers)


def walk(asked: list[int], numbers: range, step: float) -> tuple[Tensor, Tensor]:
    asked.extend(numbers)
    near = torch.tensor([float(n % 5) for n in numbers]).reshape(-1, 1, 1, 1)
    return near, near + step


def run(which: list[str], fake: Images, real: Images, cache: Path | None = None) -> dict[str, float] | str:
    """The values, or what was raised."""
    settings = {"reference": "r", "cache": cache, "device": CPU, "batch": 7}
    try:
        with distributed.all_or_none():
            return measure(fake, real, Stub(), which, **settings)  # type: ignore[arg-type]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(folder: Path) -> None:
    distributed.start(CPU)
    folder.mkdir(exist_ok=True)

    def tell(case: str, found: object, **more: object) -> None:
        with open(folder / f"{distributed.rank()}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"case": case, "found": found, **more}) + "\n")

    for case in ("new", "cached"):
        made: list[int] = []
        read: list[int] = []
        found = run(EVERY, Images(partial(images, made, 0), 61), Images(partial(images, read, 1000), 83), folder)
        tell(case, found, made=made, read=read)
    tell("few", run(["fid"], Images(partial(images, [], 0), 2), Images(partial(images, [], 1000), 83)))
    real = Images(partial(images, [], 1000), 20)
    last = distributed.world() - 1
    errors = {"bad": (last, UserError("no luck")), "ended": (last, Abandoned()), "first": (0, OSError(5))}
    for case, (rank, error) in errors.items():
        tell(case, run(["fid"], Images(partial(failing, rank, error), 20), real))
    tell("cannot root", broken(real))
    made = []
    paths.lpips, paths.STEP = Difference, 0.5  # type: ignore[assignment]
    tell("ppl", paths.path_length(partial(walk, made), 21, CPU, 4), made=made)
    distributed.stop()


def broken(real: Images) -> dict[str, float] | str:
    """What the first process does alone, between two passes, fails."""
    before = measuring.reference_from
    measuring.reference_from = partial(failing, 0, RuntimeError("no root"))  # type: ignore[assignment]
    try:
        return run(["fid"], Images(partial(images, [], 0), 20), real)
    finally:
        measuring.reference_from = before


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean((1, 2, 3)) * a.square().mean((1, 2, 3))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
