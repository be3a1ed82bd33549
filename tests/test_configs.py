"""Every YAML file is found, composes, and builds what it says."""

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import HYDRA, MODELS
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal import config_loader_impl
from omegaconf import OmegaConf

from ganduel import build, losses, regularizers, turns
from ganduel.augment import Transform
from ganduel.clock import Clock
from ganduel.config import schema
from ganduel.config.compose import compose, finish
from ganduel.config.keys import config_dir
from ganduel.game import Game, LatentGame
from ganduel.system.errors import UserError

TOP = config_dir()
FILES = sorted(p.relative_to(TOP) for p in TOP.rglob("*.yaml"))
COMMANDS = ("train", "sample", "fid", "data", "export", "import", "report")


def options(group: str) -> list[str]:
    return [p.stem for p in FILES if p.parent == Path(group)]


def test_all_files_are_accounted_for():
    tested = {
        "model",
        "loss",
        "regularizer",
        "optimizer",
        "scheduler",
        "turns",
        "data",
        "experiment",
        "mode",
        "augment",
    }
    tested |= {"format", "hydra/launcher"}  # in test_export.py and test_sweeps.py
    assert {str(p.parent) for p in FILES} - {"."} == tested
    assert {p.stem for p in FILES if p.parent == Path()} == set(COMMANDS)
    for path in FILES:
        assert (TOP / path).read_text().startswith("#"), f"{path} does not say what it is"


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("channels", [1, 3])
def test_models(model, channels):
    # Spectral norm takes 15 steps with each of FastGAN's weights, of which there are millions.
    small = ["model.generator.channels=8"] if model == "projected" else []
    composed = compose("train", [f"model={model}", f"data.channels={channels}", "data.resolution=32", *small])
    game = build.game(composed.model, composed.augment, [])
    assert isinstance(game, Game)
    if isinstance(game.eval(), LatentGame):
        images = game.sample(game.generators, torch.arange(2))
    else:
        images = game.translator(game.generators, "A2B")(torch.zeros(2, channels, 32, 32))
    assert images.shape == ((2, 2, 1, 1) if model == "points" else (2, channels, 32, 32))
    assert composed.name == ("points-ring" if model == "points" else f"{model}-digits")


@pytest.mark.parametrize("loss", options("loss"))
def test_losses(loss):
    composed = compose("train", [f"loss={loss}"])
    built = build.part(composed.loss, "loss", [])
    assert isinstance(built, losses.AdversarialLoss)


def test_what_is_typed_wins_over_the_model():
    composed = compose("train", ["model=vanilla", "loss=least_squares"])
    assert composed.loss["_target_"] == "ganduel.losses.least_squares"
    assert compose("train", ["model=vanilla"]).loss["_target_"] == "ganduel.losses.minimax"


@pytest.mark.parametrize("name", options("regularizer"))
def test_regularizers(name):
    composed = compose("train", [f"regularizer=[{name}]", f"regularizer.{name}.player=G"])
    built = build.parts(composed.regularizer, "regularizer", [])
    assert isinstance(built[name], regularizers.Regularizer | regularizers.Projection) and built[name].player == "G"


@pytest.mark.parametrize("name", options("augment"))
def test_augmentations(name):
    composed = compose("train", [f"augment=[{name}]"])
    (transform,) = build.game(composed.model, composed.augment, []).augment["D"].transforms
    assert isinstance(transform, Transform)


@pytest.mark.parametrize("name", options("optimizer"))
def test_optimizers(name):
    composed = compose("train", [f"optimizer={name}"])
    for player in ("G", "D"):
        node = composed.optimizer[player]
        network = torch.nn.Linear(2, 2)
        for penalties in ({}, {"r1": regularizers.Regularizer(regularizers.r1, "D", 1.0, 16)}):
            built = build.optimizer(node, f"optimizer.{player}", [], network, penalties, torch.device("cpu"))
            assert isinstance(built, torch.optim.Optimizer)
            network(torch.ones(1, 2)).sum().backward()
            for view, parameter in zip(built.param_groups[0]["params"], network.parameters(), strict=True):
                view.grad = parameter.grad  # as the trainer does
            before = network.weight.detach().clone()
            built.step()
            assert not torch.equal(before, network.weight)  # fused or not, it works on a CPU


@pytest.mark.parametrize("name", options("scheduler"))
def test_schedulers(name):
    composed = compose("train", [f"scheduler={name}"])
    schedule = build.part(composed.scheduler, "scheduler", [])
    clock = Clock(images_per_iteration=10, steps_per_iteration=1, images_per_epoch=100)
    assert schedule(clock, 0.1) == pytest.approx(0.1)
    warmed = compose("train", [f"scheduler={name}", "scheduler.warmup=10 steps"]).scheduler
    clock.steps, clock.images_seen = 5, 50
    assert build.part(warmed, "scheduler", [])(clock, 0.1) == pytest.approx(schedule(clock, 0.1) / 2)


@pytest.mark.parametrize("name", options("turns"))
def test_turns(name):
    assert isinstance(build.part(compose("train", [f"turns={name}"]).turns, "turns", []), turns.Turns)


@pytest.mark.parametrize("name", options("data"))
def test_data(name):
    composed = compose("data", [f"data={name}", "data.root=somewhere"])
    build.check(composed.data.source, "data.source", [], ["labels"])
    without_files = {"digits": "digits", "stacked_digits": "digits", "ring": "ring", "grid": "grid"}
    assert composed.data.packed == (
        f"data/{without_files[name]}/packed" if name in without_files else "somewhere/packed"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_is_explained(command):
    """A comment stands beside every key of the four main files and of every option."""
    lines = (TOP / f"{command}.yaml").read_text().split("hydra:\n")[0].splitlines()
    keys = [line for line in lines if re.match(r" *\w+: *[^{ ]", line) and not line.lstrip().startswith(("-", "#"))]
    obvious = ("seed:", "log:", "sample:", "checkpoint:", "metric:", "batch:", "runs_dir:")
    unexplained = [line for line in keys if "#" not in line and not line.lstrip().startswith(obvious)]
    assert not unexplained


def test_schema_has_no_defaults_of_its_own():
    for path in COMMANDS:
        written = yaml.safe_load((TOP / f"{path}.yaml").read_text())
        assert f"{path}_schema" in written["defaults"]
    with pytest.raises(TypeError):
        schema.Train()  # every field must come from a file


def instead(rules: Mapping[str, Any]) -> tuple[Any, str]:
    """A value that these rules forbid, and what the error says."""
    if "path" in rules:
        return "", "is empty; give it a path, or leave it out"
    if "limits" in rules:
        low, high = rules["limits"]
        return low - 1, f"is not allowed; it takes {low} {'or more' if high is None else f'to {high}'}"
    choices = (str(a).lower() if isinstance(a, bool) else str(a) for a in rules["choices"] if a is not None)
    return (16 if 1 in rules["choices"] else "nonsense"), f"is not allowed; it takes {', '.join(choices)}"


NEEDED = {"sample": ["ckpt=x"], "export": ["ckpt=x"], "import": ["input=x", "data=digits"], "report": ["runs=[x]"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_rules_hold_in_every_command(command):
    with initialize_config_dir(str(TOP), version_base="1.3"):
        usual = hydra_compose(command, overrides=NEEDED.get(command, []))
    for key, rules in schema.rules_of(schema.SCHEMAS[command]):
        if not {"path", "limits", "choices"} & set(rules):
            continue
        value, says = instead(rules)
        changed = copy.deepcopy(usual)
        OmegaConf.update(changed, key, [value] if key in ("metric.which", "folders", "runs") else value)
        if (command, key) == ("train", "data.features"):
            changed.metric.features = "inception"  # which follows data.features otherwise
        with pytest.raises(UserError) as error:
            finish(changed)
        named, _, found = str(error.value).partition("=")
        assert named == key and found.endswith(says)


EXTRAS = ("seed=3", "regularizer=[r1]", "augment=[ada]", "+model.more=1")


@pytest.mark.parametrize(("model", "extra"), [*zip(MODELS, itertools.cycle(EXTRAS), strict=False)])
def test_what_the_tests_remember_is_what_hydra_composes(monkeypatch, model, extra):
    """Every composition of these tests, Hydra's own notes included, is that of Hydra without a memory."""

    def composed() -> Any:
        with initialize_config_dir(str(TOP), version_base="1.3"):
            found = hydra_compose("train", overrides=[*MODELS[model], extra], return_hydra_config=True)
        return yaml.safe_dump(OmegaConf.to_container(found), sort_keys=False)

    composed()
    remembered = composed()
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", HYDRA[0])
    monkeypatch.setattr(config_loader_impl.ConfigLoaderImpl, "_compose_config_from_defaults_list", HYDRA[1])
    assert composed() == remembered


def test_marks_name_keys():
    assert {"metric", "data.root", "data.source.root", "keep"} <= set(schema.marked("free", schema.Train))
    assert set(schema.marked("aside", schema.Train)) < set(schema.marked("free", schema.Train))
    assert {"ckpt", "input", "metric.weights", "data.stream"} <= set(schema.PATHS)


@pytest.mark.parametrize("command", COMMANDS)
def test_plain_and_typed_are_inverse(command):
    composed = compose(command, NEEDED.get(command, []))
    kind = schema.SCHEMAS[command]
    plain = schema.plain(composed)
    assert isinstance(composed, kind) and list(plain) == [f.name for f in fields(kind)]
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain  # nothing but mappings, lists and values
    assert schema.typed(kind, plain) == composed


def test_parts_stay_mappings():
    composed = compose("sample", ["ckpt=x", "mode=neighbours"])
    assert isinstance(composed.data, schema.Where)
    assert composed.mode["data"] == {"root": None, "packed": None, "stream": None}


def test_a_stored_configuration_of_another_version():
    """It has one key too many, and lacks one. Only who reads what is missing fails."""
    stored = schema.plain(compose("train", []))
    stored["unheard_of"] = stored["data"]["unheard_of"] = 1
    del stored["seed"], stored["data"]["crop"]
    found = schema.typed(schema.Train, stored)
    assert found.batch_size == stored["batch_size"] and found.data.resolution == stored["data"]["resolution"]
    assert not hasattr(found, "unheard_of") and not hasattr(found.data, "unheard_of")
    with pytest.raises(AttributeError, match="seed"):
        _ = found.seed
    with pytest.raises(AttributeError, match="crop"):
        _ = found.data.crop


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["data=folder", "data.root=/x/My photos/"], "dcgan-My_photos"),
        (["data=zip", "data.root=cats.ZIP"], "dcgan-cats"),
        (["data=folder", "data.root=cats.tar.gz"], "dcgan-cats"),
        (["data=folder", "data.root=/"], "dcgan-folder"),
        (["data=folder", "data.root=null", "data.packed=x"], "dcgan-folder"),
        (["data=celeba", "data.root=downloads/archive.zip"], "dcgan-celeba"),
        (["model=cyclegan", "data=folder_pair", "data.root=data/ellipses"], "cyclegan-ellipses"),
        (["experiment=photos_projected", "data.root=cats"], "photos_projected-cats"),
    ],
)
def test_a_run_is_named_after_ones_own_images(overrides, name):
    """So a second folder gets a run of its own."""
    assert compose("train", overrides).name == name
