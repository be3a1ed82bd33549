"""The recipes of configs/experiment: they train, and their networks are those that the reports describe."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import pair, tiny_networks
from expected_times import jobs, swept
from omegaconf import OmegaConf

from ganduel import build
from ganduel.commands import cli
from ganduel.config.compose import compose
from ganduel.config.keys import config_dir
from ganduel.config.schema import plain
from ganduel.game import Game

NAMES = sorted(p.stem for p in (config_dir() / "experiment").glob("*.yaml"))
MODES = ("ring8_", "grid25_", "stacked_")
OWN = [name for name in NAMES if name.endswith(("_projected", "_r3gan")) or name.startswith(("faces32_", *MODES))]
REPORTED = [name for name in NAMES if name != "demo" and name not in OWN]  # those of the five reports
DATA = ("data=digits",)  # whatever a recipe's own data set is, it may not be here
POINTS = {name for name in NAMES if name.startswith(MODES[:2])}
PAIRS = {name for name in NAMES if name.startswith("horse2zebra")}
SWEEPS = {
    "afhq_dcgan_lr": ("optimizer.D.lr", 4),
    "afhq_dcgan_optimizers": ("optimizer.D._target_", 2),
    "afhq_dcgan_schedulers": ("scheduler._target_", 3),
    "celeba28_dcgan": ("model.discriminator", 6),
    "celeba64_dcgan": ("model.discriminator.norm", 2),
    "mnist_dcgan_tutorial": ("model.discriminator", 6),
    "places_dcgan_search": ("optimizer", 9),
}


def small(name: str) -> list[str]:
    """Overrides that make a recipe's networks tiny, layer by layer."""
    return tiny_networks([f"experiment={name}", *DATA])


BY_COMMAND = ("demo", "horse2zebra_paper")  # quickly enough; slow are the others


@pytest.mark.parametrize("name", [n if n in BY_COMMAND else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_recipes_train_two_iterations(name, packed, tmp_path, monkeypatch):
    """In a folder of their own name, by the command that stands in the file."""
    monkeypatch.chdir(tmp_path)
    tiny = ["batch_size=4", "duration=2 steps", "data.resolution=16", "metric.which=[]", packed, *DATA]
    if name in PAIRS:
        tiny = ["duration=2 steps", "data.resolution=32", f"data.root={pair(tmp_path / 'pair')}", "metric.which=[]"]
    if name in POINTS:
        tiny = ["batch_size=8", "duration=2 steps", "metric.which=[]", "data.source.count=100", "data.packed=packed"]
    assert cli.command("train", [f"experiment={name}", *tiny, *small(name)]) == 0
    (run,) = Path("runs").iterdir()
    assert run.name.removesuffix("-digits") == name
    assert (run / "checkpoints" / "latest.pt").exists()


def file(name: str) -> str:
    return (config_dir() / "experiment" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", REPORTED)
def test_headers(name):
    """Whose experiment it is, the command, its data, how long it takes and how that is known, and what was seen."""
    header = " ".join(line[1:].strip() for line in file(name).split("defaults:")[0].splitlines()[1:])
    assert re.match(r"Report R\d: ", header)
    assert re.search(rf"gan-train (-m )?experiment={name}\s", header)
    assert re.search(r"Data: .*(downloaded|fetched) ", header)
    assert re.search(r"Expected: \d.*(minutes|h|days) .*on a T4, from ", header)
    assert re.search("The report (saw|gives no)", header)


@pytest.mark.parametrize("name", OWN)
def test_headers_of_our_own_recipes(name):
    """What it makes, the command, and what was or was not seen of it here."""
    header = " ".join(line[1:].strip() for line in file(name).split("defaults:")[0].splitlines()[1:])
    assert re.search(rf"\. gan-train experiment={name}\s", header)
    assert re.search(r"Here: |Expected: |Not run to its end here", header)


def variants(name: str, *overrides: str) -> list[dict[str, Any]]:
    """The configurations that a sweep stands for."""
    return [plain(compose("train", [f"experiment={name}", *DATA, *overrides, *job])) for job in jobs(name)]


def test_every_sweep_is_listed():
    assert {name for name in NAMES if swept(name)} == SWEEPS.keys()


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_are_of_different_games(name):
    key, count = SWEEPS[name]
    seen = []
    for variant in variants(name):
        with torch.device("meta"):
            assert isinstance(build.game(variant["model"], variant["augment"], []), Game)
        for part in key.split("."):
            variant = variant[part]
        seen.append(str(variant))
    assert len(set(seen)) == count


@pytest.mark.slow
def test_a_sweep_runs_all_of_its_jobs(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "mnist_dcgan_tutorial"
    tiny = ["batch_size=4", "duration=1 steps", "data.resolution=28", "metric.which=[]", packed, *DATA]
    arguments = ["-m", f"experiment={name}", *tiny, "model.generator.channels=[4,4,4]"]
    monkeypatch.setattr("sys.argv", ["gan-train", *arguments])
    assert cli.command("train", arguments) == 0
    runs = [yaml.safe_load(Path(f"runs/{name}-sweep/{i}/config.yaml").read_text()) for i in range(6)]
    knobs = [tuple(run["model"]["discriminator"][key] for key in ("norm", "dropout", "output")) for run in runs]
    assert knobs == [
        ("none", 0.3, "linear"),
        ("batch", 0.0, "linear"),
        ("batch", 0.0, "sigmoid"),
        ("batch", 0.3, "sigmoid"),
        ("batch", 0.3, "linear"),
        ("batch", 0.3, "linear"),
    ]
    assert runs[5]["model"]["discriminator"]["channels"] == [64, 128, 256, 136]


@pytest.mark.parametrize("name", sorted(PAIRS - {"horse2zebra_paper"}))
def test_what_report_r4_changes(name):
    """Of the CycleGAN paper, but for the size, the generator and what it does to the images."""
    recipe, paper = (plain(compose("train", [f"experiment={n}"])) for n in (name, "horse2zebra_paper"))
    assert (paper["data"]["resolution"], paper["data"]["load_size"], paper["data"]["mirror"]) == (
        256,
        286,
        True,
    )
    assert (paper["loss"]["discriminator"], paper["loss"]["generator"], paper["model"]["pool_size"]) == (0.5, 1, 50)
    assert (paper["optimizer"]["G"]["lr"], paper["scheduler"]["hold"], paper["duration"]) == (2e-4, 0.5, "200 epochs")
    assert (recipe["loss"]["discriminator"], recipe["loss"]["generator"], recipe["model"]["pool_size"]) == (5, 1, 0)
    assert (recipe["optimizer"]["G"]["lr"], recipe["optimizer"]["D"]["lr"]) == (1e-4, 2e-4)
    assert recipe["scheduler"]["_target_"] == "ganduel.schedules.constant"
    # G moves first in both; in the report, D meets fakes that G makes after its step.
    assert [(part["turns"]["first"], part["turns"]["share"]) for part in (recipe, paper)] == [("G", False), ("G", True)]
    assert [part["norm_first"] for part in (recipe["model"]["discriminator_A"], paper["model"]["discriminator_A"])] == [
        True,
        False,
    ]
    assert recipe["data"]["augment"].keys() == ({"affine"} if name.endswith("augmented") else set())
    if name.endswith("augmented"):
        affine = {"rotation": 30, "translation": [0.1, 0.3], "scale": [0.8, 1.2], "edges": "black"}
        assert recipe["data"]["augment"]["affine"].items() >= affine.items()
    for key in ("cycle", "identity"):
        assert recipe["model"][key] == paper["model"][key] == {"cycle": 10, "identity": 5}[key]


# Constants of the reports, where they are not those of the model: recipe -> key -> value.
KERAS = {"lr": 2e-4, "betas": [0.5, 0.9]}  # the example that R1's WGAN-GPs follow
CONSTANTS = {
    "bedroom_dcgan": {"duration": "5 epochs", "data.resize": "stretch", "optimizer.G.lr": 2e-4},
    "bedroom_wgan_gp_1": {
        "duration": "15 epochs",
        "data.resize": "stretch",
        "turns.n_critic": 3,
        "turns.repeat": True,
        **{f"optimizer.{player}.{key}": value for player in "GD" for key, value in KERAS.items()},
    },
    "bedroom_wgan_gp_2": {"duration": "10 epochs", "turns.n_critic": 3, "turns.repeat": True, "model.latent": 1024},
    "celeba64_dcgan": {
        "loss.smooth_real": 0.1,
        "optimizer.G.lr": 5e-4,
        "optimizer.D.lr": 1e-4,
        "optimizer.G.betas": [0.9, 0.999],
        "optimizer.D.betas": [0.9, 0.999],
    },
    "places_dcgan": {"data.limit": 15_100, "optimizer.G.lr": 2e-4, "batch_size": 128},
    "places_dcgan_stylegan_loss": {"data.limit": 15_100, "regularizer.path_length.player": "G"},
    "places_wgan_gp": {"data.limit": 15_100, "duration": "97500 steps", "turns.n_critic": 5, "turns.repeat": False},
    "places_resnet_wgan_gp": {"data.limit": 15_100, "duration": "28000 steps"},
    "places_stylegan2_ada": {"data.limit": 15_100, "duration": "5000 kimg"},
    "mnist_dcgan": {"model.discriminator.output": "linear"},
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_of_the_reports(name):
    composed = OmegaConf.create(plain(compose("train", [f"experiment={name}", *DATA])))
    assert {key: OmegaConf.select(composed, key) for key in CONSTANTS[name]} == CONSTANTS[name]


def test_the_step_schedule_stops_where_the_report_says():
    schedules = [variant["scheduler"] for variant in variants("afhq_dcgan_schedulers")]
    assert [schedule.get("floor") for schedule in schedules] == [5e-5, 0.0, None]
    assert [schedule.get("factor") for schedule in schedules] == [0.7, 0.7, None]


AVERAGED = {"places_stylegan2", "places_stylegan2_ada"}  # as their program does


@pytest.mark.parametrize("name", REPORTED)
def test_reports_sample_the_weights_themselves(name):
    assert (plain(compose("train", [f"experiment={name}", *DATA]))["ema"]["half_life"] is None) == (
        name not in AVERAGED
    )


def test_parameters_of_the_six_discriminators():
    """200,000 and 1.9 million, to the digits that the report gives: weights, biases, gains."""
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in build.game(variant["model"], {}, []).discriminators.parameters())
            for variant in variants("mnist_dcgan_tutorial", "data.resolution=28")
        ]
    assert [round(count, -5) for count in counts] == [200_000] * 5 + [1_900_000]
    assert counts[0] == (25 + 1) * 64 + (25 * 64 + 1) * 128 + 7 * 7 * 128 + 1
