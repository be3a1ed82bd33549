"""gan-export: write the generators of a checkpoint in a format for other programs, with a model card."""

from pathlib import Path
from typing import Any

from ganduel import build
from ganduel.commands.sample import beside
from ganduel.config.schema import Export
from ganduel.export import card
from ganduel.sampling.sampler import Sampler
from ganduel.system.files import make_folder


def main(config: Export, overrides: list[str]) -> dict[str, Any]:
    """Write the files of `format` into a folder. Returns the folder and its files."""
    save = build.part(config.format, "format", config.allow)
    sampler = Sampler(config.ckpt, ema=config.ema, allow=config.allow)
    folder = Path(config.out) if config.out else beside(sampler.path) / "export"
    make_folder(folder, "out")
    exported = save(sampler, folder)
    written = [*exported.files, card.write(sampler, folder, exported, config.ema)]
    return {"out": str(folder), "files": [str(path) for path in written]}
