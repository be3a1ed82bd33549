"""Convert a published network of StyleGAN2-ADA into a checkpoint of ganduel.

    python scripts/import_stylegan2_ada.py ffhq.pkl out=ffhq.pt
    python scripts/import_stylegan2_ada.py dogs.pkl out=dogs.pt data=afhq_dog data.root=afhq

gan-sample ckpt=ffhq.pt generates images with the checkpoint. gan-train model=stylegan2_ada ... init_from=ffhq.pt starts
training from it, with the sizes that this script prints. gan-fid ckpt=dogs.pt measures it against the images of `data`,
which are packed at its resolution. No code in the file is executed: only its tensors are read, and a file that needs
more is refused.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from ganduel import build, checkpoint
from ganduel.config.compose import compose
from ganduel.config.keys import quote
from ganduel.config.schema import Train, plain
from ganduel.data.loading import open_images
from ganduel.data.prepare import prepare
from ganduel.evaluation.evaluate import versions
from ganduel.importing import stylegan2_ada
from ganduel.runs.recorder import ABOUT
from ganduel.system.errors import UserError


def content(networks: dict[str, dict[str, Any]], overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The content of our checkpoint, and the overrides that give networks of the same sizes. Raises UserError."""
    states = {name: stylegan2_ada.tensors(module) for name, module in networks.items()}
    settings = [f"{key}={value}" for key, value in stylegan2_ada.settings(states["G"], states["D"]).items()]
    composed = compose("train", ["model=stylegan2_ada", "augment=[]", *overrides, *settings])
    game = build.game(composed.model, {}, [])
    game.generators["G"].load_state_dict(stylegan2_ada.ours(states["G_ema"]))
    averaged = {name: value.clone() for name, value in game.generators.state_dict().items()}
    game.generators["G"].load_state_dict(stylegan2_ada.ours(states["G"]))
    game.discriminators["D"].load_state_dict(stylegan2_ada.ours(states["D"]))
    return {
        "config": {key: value for key, value in plain(composed).items() if key != "allow"},
        "overrides": overrides,
        "data": images_of(composed) if any(o.startswith("data") for o in overrides) else dict.fromkeys(ABOUT),
        "versions": versions(),
        "step": 0,
        "images_seen": 0,
        "state": {"game": game.state_dict(), "ema": averaged},
    }, settings


def images_of(composed: Train) -> dict[str, Any]:
    """The facts about its images that a checkpoint stores. The images are packed if necessary."""
    path = prepare(composed.data, composed.workers, build.source(composed.data, composed.allow))
    images = open_images(path, composed.data, seed=0, device=torch.device("cpu"))
    return {"fingerprint": images.fingerprint, **{key: images.about[key] for key in ABOUT}}


def main() -> None:
    arguments = [quote(argument) for argument in sys.argv[1:]]
    if len(arguments) < 2 or not arguments[1].startswith("out=") or "--help" in arguments:
        print(__doc__)
        raise SystemExit(0 if "--help" in arguments else 2)
    source, out = Path(sys.argv[1]), Path(sys.argv[2].removeprefix("out="))
    try:
        made, settings = content(stylegan2_ada.read(source), arguments[2:])
        checkpoint.save(out, made)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"{out}\nto start from it: gan-train model=stylegan2_ada init_from={out} {' '.join(settings)}")


if __name__ == "__main__":
    main()
