"""gan-import: a published network of StyleGAN2-ADA or R3GAN as a checkpoint of ganduel."""

from pathlib import Path
from typing import Any, get_type_hints

import torch
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError

from ganduel import build, checkpoint
from ganduel.config.compose import compose
from ganduel.config.schema import Data, Import, plain, typed
from ganduel.data.loading import open_images
from ganduel.data.prepare import prepare
from ganduel.evaluation.evaluate import versions
from ganduel.importing import r3gan, snapshots, stylegan2_ada
from ganduel.runs.recorder import ABOUT
from ganduel.system.errors import UserError, describe_type
from ganduel.system.files import parsing


def main(config: Import, overrides: list[str]) -> dict[str, Any]:
    """Write the checkpoint. Returns its path, and the settings that give networks of its sizes."""
    source = Path(config.input)
    if source.is_dir():
        raise UserError(f"input={source} is a folder; name the file of the published network in it")
    out = Path(config.out) if config.out else source.with_suffix(".pt")
    if out.suffix != ".pt":
        raise UserError(f"out={out}: a checkpoint needs a name that ends in .pt")
    chosen = checked(config.data) if config.data else None
    networks = snapshots.read(source)
    with parsing(source, snapshots.PICKLE):
        states = {name: snapshots.tensors(module) for name, module in networks.items()}
        model = r3gan if r3gan.known(states["G"]) else stylegan2_ada
        sizes = model.settings(states["G"], states["D"])
    settings = [f"{key}={value}" for key, value in sizes.items()]
    run = plain(compose("train", [f"model={model.MODEL}", "augment=[]", *settings]))
    del run["allow"]
    about: dict[str, Any] = dict.fromkeys(ABOUT)
    if chosen:
        data = chosen | {"resolution": sizes["data.resolution"], "channels": sizes["data.channels"]}
        run |= {"data": data, "name": f"{run['model']['name']}-{data['name']}"}
        run["metric"]["features"] = data["features"]
        about = image_facts(typed(Data, data), config.workers, config.allow)
    content = {
        "config": run,
        "overrides": overrides,
        "data": about,
        "versions": versions(),
        "step": 0,
        "images_seen": 0,
    }
    with parsing(source, snapshots.PICKLE):
        content["state"] = weights(run["model"], {name: model.ours(state) for name, state in states.items()})
    checkpoint.save(out, content)
    return {"out": str(out), "settings": [f"model={model.MODEL}", *settings]}


def checked(data: dict[str, Any]) -> dict[str, Any]:
    """The keys of a data set with values of their types, as in gan-train. Raises UserError for others."""
    try:
        return OmegaConf.to_container(OmegaConf.merge(Data, data))  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise UserError(f"unknown option 'data.{error.full_key}'; gan-data --help lists the keys of data") from error
    except ValidationError as error:
        key = str(error.full_key)
        hint: Any = Data
        value: Any = data
        for name in key.split("."):
            hint, value = get_type_hints(hint)[name], value[name]
        raise UserError(f"data.{key}={value} is not allowed; it takes {describe_type(hint)}") from error


def weights(model: dict[str, Any], states: dict[str, snapshots.State]) -> dict[str, Any]:
    """The networks' part of a checkpoint, from the state dicts of G, D and G_ema."""
    game = build.game(model, {}, [])
    generator = game.generators["G"]
    generator.load_state_dict(states["G_ema"])
    averaged = {name: value.clone() for name, value in game.generators.state_dict().items()}
    generator.load_state_dict(states["G"])
    game.discriminators["D"].load_state_dict(states["D"])
    return {"game": game.state_dict(), "ema": averaged}


def image_facts(data: Data, workers: int | None, allow: list[str]) -> dict[str, Any]:
    """The facts about the images that a checkpoint stores. Packs the images if their packed copy is out of date."""
    path = prepare(data, workers, build.source(data, allow))
    packed = open_images(path, data, seed=0, device=torch.device("cpu"))
    return {"fingerprint": packed.fingerprint, **{key: packed.about[key] for key in ABOUT}}
