"""gan-sample: make pictures from a checkpoint."""

from pathlib import Path
from typing import Any

from ganduel import build
from ganduel.config.schema import Sample
from ganduel.sampling.sampler import Sampler, parse_seeds
from ganduel.system.device import choose


def main(config: Sample, overrides: list[str]) -> dict[str, Any]:
    """Make the pictures of `mode`. Returns their path."""
    device = choose(config.device)
    seeds = list(range(config.count)) if config.count else parse_seeds(config.seeds)
    mode = build.part(config.mode, "mode", config.allow)
    how = {key: getattr(config, key) for key in ("ema", "allow", "truncation", "cutoff", "noise", "label")}
    sampler = Sampler(config.ckpt, device=str(device), **how)
    out = Path(config.out) if config.out else beside(sampler.path) / config.mode["_target_"].rpartition(".")[2]
    return {"out": str(mode(sampler, seeds, out, config.batch))}


def beside(path: Path) -> Path:
    """The run folder of a checkpoint. For a checkpoint outside a run, the folder that contains it."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent
