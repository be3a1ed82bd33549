"""gan-sample: pictures from a checkpoint."""

from pathlib import Path
from typing import Any

from ganduel import build
from ganduel.device import choose
from ganduel.errors import UserError
from ganduel.sampling import Sampler


def main(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Make what `mode` says; returns where it lies."""
    device = choose(config["device"])
    seeds = list(range(config["count"])) if config["count"] else parse_seeds(config["seeds"])
    mode = build.part(config["mode"], "mode", config["allow"])
    sampler = Sampler(config["ckpt"], ema=config["ema"], device=str(device), allow=config["allow"])
    out = Path(config["out"]) if config["out"] else beside(sampler.path) / config["mode"]["_target_"].rpartition(".")[2]
    return {"out": str(mode(sampler, seeds, out, config["batch"]))}


def beside(path: Path) -> Path:
    """The run folder of a checkpoint, or the folder that a lone one lies in."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def parse_seeds(value: Any) -> list[int]:
    """ "0-63", 7 or [1, 5, 9] to a list. Raises UserError."""
    try:
        if isinstance(value, list):
            seeds = [int(v) for v in value]
        elif "-" in str(value):
            first, last = str(value).split("-")
            seeds = list(range(int(first), int(last) + 1))
        else:
            seeds = [int(value)]
    except (ValueError, TypeError):
        seeds = []
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**63:
        raise UserError(f"seeds={value} is not allowed; it takes a range like 0-63 or a list like [1,5,9]")
    return seeds


if __name__ == "__main__":
    from ganduel import cli

    cli.sample()
