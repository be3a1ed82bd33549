"""What the tests share: a tiny model on a few digits, trained by the real command."""

import copy
import dataclasses
import functools
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as PyTorch reads it, here and in what tests start
os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's kernels run on the CPU, in tests

import hypothesis
import numpy as np
import pytest
import torch
import yaml
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl as Loader
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, base, flag_override
from omegaconf._utils import get_yaml_loader
from PIL import Image

from ganduel import build, checkpoint, setup
from ganduel.commands import cli
from ganduel.config import compose as composing
from ganduel.config.compose import compose as compose_config
from ganduel.config.schema import Train
from ganduel.data.prepare import prepare
from ganduel.evaluation import digit_classifier
from ganduel.game import Duel
from ganduel.regularizers import r1
from ganduel.trainer import Trainer

# A few examples, always the same; `make test-all` sets GANDUEL_EXAMPLES=all: thousands, and new ones each time.
hypothesis.settings.register_profile("few", max_examples=50, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("all", max_examples=5000, deadline=None, database=None)
hypothesis.settings.load_profile(os.environ.get("GANDUEL_EXAMPLES", "few"))
THOROUGH = os.environ.get("GANDUEL_EXAMPLES") == "all"

TINY = ("batch_size=8", "duration=4 steps", "validation_images=16", "metric.which=[]", "name=tiny")
TINY = (*TINY, "every.sample=4 steps")  # pictures after each step would take as long as all else
PAIR = ("data=folder_pair", "data.root=null", "data.resolution=24")
MODELS = {
    "dcgan": ("model=dcgan", "model.channels=4"),
    "wgan_gp": ("model=wgan_gp", "model.channels=4"),
    "wgan": ("model=wgan", "model.channels=4"),
    "resnet": ("model=resnet", "model.channels=2", "data.resolution=16", "turns=alternating"),
    "stylegan2_ada": (
        "model=stylegan2_ada",
        "data.resolution=16",
        "model.channel_base=64",
        "model.channel_max=8",
        "model.latent=8",
        "model.generator.width=8",
    ),
    "cyclegan": ("model=cyclegan", "model.channels=2", "model.generator.blocks=1", "model.pool_size=10", *PAIR),
    "projected": (
        "model=projected",
        "data.resolution=16",
        "model.latent=8",
        "model.generator.channels=2",
        "model.generator.excitation=4",
        "model.discriminator.input=64",
        "model.discriminator.channel_max=8",
    ),
    "r3gan": (
        "model=r3gan",
        "data.resolution=16",
        "model.channel_base=64",
        "model.channel_max=8",
        "model.group=4",
        "model.latent=8",
    ),
    "vanilla": ("model=vanilla", "model.generator.widths=[16,16]", "model.discriminator.widths=[16]"),
}
NO_BATCH_NORM = ("model.generator.norm=layer", "model.discriminator.norm=layer")

HYDRA = config_loader_impl.create_defaults_list, Loader._compose_config_from_defaults_list  # before the tests' memory


def remember_configurations() -> None:
    """Let Hydra read every file, option and command line of this process once: composing takes a third of a second, and
    most tests do it. What is remembered depends on nothing else, and is only read or copied."""
    hydra_compose, parse_rule = composing.hydra_compose, OverridesParser.parse_rule
    find_options, merge = HYDRA
    options: dict[Any, DefaultsList] = {}
    merged: dict[Any, bytes] = {}  # pickled, because that copies them in a quarter of the time
    loaded: dict[Any, bytes] = {}

    @functools.cache
    def parsed(text: str) -> Any:
        return yaml.load(text, Loader=get_yaml_loader())

    def load(file: Any) -> Any:
        text = file.read() if hasattr(file, "read") else Path(file).read_text(encoding="utf-8")
        plain = parsed(text)
        return OmegaConf.create() if plain is None else OmegaConf.create(plain)

    @functools.cache
    def override(line: str) -> Override:
        return parse_rule(OverridesParser.create(), line, "override")

    def rule(parser: OverridesParser, line: str, name: str) -> Any:
        return copy.copy(override(line)) if name == "override" else parse_rule(parser, line, name)

    def places(repo: Any) -> tuple[str, ...] | None:
        """Where the files are; None if a folder of the user's is among them, for its files may change."""
        sources = repo.get_sources()
        own = {source.provider for source in sources} <= {"hydra", "main", "schema"}
        return tuple(source.path for source in sources) if own else None

    class Remembering:
        """A repository of configurations that reads every file of ours once."""

        def __init__(self, repo: Any) -> None:
            self.repo, self.where = repo, places(repo)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.repo, name)

        def load_config(self, config_path: str) -> ConfigResult | None:
            if self.where is None:
                return self.repo.load_config(config_path)
            if (key := (self.where, config_path)) not in loaded:
                loaded[key] = pickle.dumps(self.repo.load_config(config_path))
            return pickle.loads(loaded[key])

    def chosen(repo: Any, config_name: str, overrides_list: list[Override], **settings: bool) -> DefaultsList:
        """The options of all groups. Only overrides that choose an option decide."""
        values = Overrides(repo, overrides_list).config_overrides
        lines = [o.input_line for o in overrides_list if not any(o is value for value in values)]
        key = places(repo), config_name, tuple(lines), tuple(settings.values())
        found = options.get(key) or find_options(Remembering(repo), config_name, overrides_list, **settings)
        if key[0] is not None:
            options[key] = found
        return dataclasses.replace(found, config_overrides=values)

    def compose_options(loader: Loader, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        """The files of these options as one configuration, before any override of a value.

        Hydra's own files and the main file come first, and are the same for all options. YAML files follow.
        """
        if (where := places(repo)) is None:
            return merge(loader, defaults, repo)
        key = where, tuple(map(dataclasses.astuple, defaults))
        if key not in merged:
            remembering = Remembering(repo)
            main = next(i for i, default in enumerate(defaults, 1) if default.primary)
            if (begun := (where, key[1][:main])) not in merged:
                merged[begun] = pickle.dumps(merge(loader, defaults[:main], remembering))
            config = pickle.loads(merged[begun])
            with flag_override(config, "no_deepcopy_set_nodes", True):
                for default in defaults[main:]:
                    config.merge_with(loader._load_single_config(default, remembering).config)
            merged[key] = pickle.dumps(config)
        return pickle.loads(merged[key])

    @functools.lru_cache(256)
    def composed(folder: Path, command: str, overrides: tuple[str, ...]) -> DictConfig:
        return hydra_compose(command, overrides=list(overrides))

    base.parse = functools.cache(base.parse)  # who visits such a tree only reads it
    ConfigRepository.__deepcopy__ = lambda repo, memo: copy.copy(repo)  # a search path gives a copy other sources
    OmegaConf.load = staticmethod(load)
    OverridesParser.parse_rule = rule
    config_loader_impl.create_defaults_list = chosen
    Loader._compose_config_from_defaults_list = compose_options
    composing.hydra_compose = lambda command, overrides: composed(composing.config_dir(), command, tuple(overrides))


remember_configurations()


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    torch.set_num_threads(1)  # networks this small lose by more


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where all tests share the packed digits, a hastily trained classifier of them, and `pair`."""
    digit_classifier.STEPS, digit_classifier.LONGER, digit_classifier.BATCH = 100, 1, 32
    folder = tmp_path_factory.mktemp("packed")
    root = pair(tmp_path_factory.mktemp("pair"))
    data = compose_config("train", [*PAIR, f"data.root={root}", f"data.packed={folder}"]).data
    prepare(data, 1, build.source(data, []))
    return f"data.packed={folder}"


def pair(root: Path) -> Path:
    """Two domains: discs before dark and before light, one of them grey."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :30]
    for part, count in {"trainA": 12, "trainB": 10, "testA": 5, "testB": 4}.items():
        (root / part).mkdir(parents=True)
        for i in range(count):
            disc = (x - rng.integers(8, 22)) ** 2 + (y - rng.integers(8, 22)) ** 2 < 36
            ground = np.full(3, 40 if part.endswith("A") else 200) + rng.integers(-30, 30, 3)
            pixels = np.where(disc[..., None], rng.integers(0, 256, 3), ground) + rng.normal(0, 20, (30, 30, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            (image.convert("L") if i == 1 else image).save(root / part / f"{i}.png")
    return root


@pytest.fixture
def tiny(packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Arguments of gan-train that make a run of seconds, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return (*TINY, packed, *MODELS["dcgan"])


@pytest.fixture
def train(tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command gan-train, in this process, on a tiny run: `train("seed=1")` returns the exit code."""

    def run(*arguments: str) -> int:
        arguments = (*tiny, *arguments)
        monkeypatch.setattr("sys.argv", ["gan-train", *arguments])
        return cli.command("train", list(arguments))

    return run


@pytest.fixture
def compose(packed: str) -> Callable[..., Train]:
    """The configuration of a tiny run, as training gets it."""
    return lambda *overrides, model="dcgan": compose_config("train", [*TINY, packed, *MODELS[model], *overrides])


@pytest.fixture
def trainer(compose: Callable[..., Train]) -> Callable[..., Trainer]:
    """A trainer of a tiny run: `trainer("loss=minimax", model="vanilla")`."""
    return lambda *overrides, **model: setup.assemble(compose(*overrides, **model), torch.device("cpu"))[0]


def tiny_networks(overrides: Sequence[str]) -> list[str]:
    """Overrides that make the networks of this configuration tiny, layer by layer."""
    model = compose_config("train", list(overrides)).model
    generator, discriminator = model["generator"], model["discriminator"]
    small = ["model.channels=4"] if "channels" in model else []
    small += ["model.channel_base=64", "model.channel_max=8"] if "channel_base" in model else []
    small += ["model.group=4"] if "group" in model else []
    if "network" in discriminator:  # Projected GAN's frozen one
        small += ["model.discriminator.channel_max=8", "model.discriminator.input=64"]
        small += ["model.generator.channels=4"] if "channels" in generator else []
    for player, network in (("generator", generator), ("discriminator", discriminator)):
        for key in ("channels", "widths"):
            if isinstance(listed := network.get(key), list):
                small.append(f"model.{player}.{key}={[4] * len(listed)}".replace(" ", ""))
        if "cycle" in model and "blocks" in network:
            small.append(f"model.{player}.blocks=1")
        if network.get("attention"):
            small.append(f"model.{player}.attention=8")
    return small


def state(run: str | Path, name: str = "latest") -> dict[str, Any]:
    """What a checkpoint of a run holds."""
    return checkpoint.load(Path(run) / "checkpoints" / f"{name}.pt")


def rows(run: str | Path, name: str = "stats.jsonl") -> list[dict[str, Any]]:
    """The lines of a run's statistics, without what a clock or a memory meter said."""
    lines = (Path(run) / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(("speed/", "memory/"))} for line in lines]


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Two nested structures of tensors and plain values are the same, bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for name in a:
            assert_equal(a[name], b[name], f"{where}.{name}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def sizes(network: torch.nn.Module, *inputs: torch.Tensor) -> list[tuple[int, ...]]:
    """(C, H, W) that its convolutions and dense layers give."""
    seen: list[tuple[int, ...]] = []
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)
    for layer in network.modules():
        if isinstance(layer, kinds):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape[1:])))
    network(*inputs)
    return seen


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Over all tensors of two state dicts."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def about(path: Path) -> dict[str, Any]:
    """What the JSON of a packed set says, without the checksum over it."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "checksum"}


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Six images."""
    for i in range(6):
        picture(tmp_path / f"{i}.png", i)
    return tmp_path


def assert_penalty_has_the_right_derivative(
    discriminator: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, weight: torch.Tensor
) -> None:
    """The derivative of R1 along a random direction of a weight, by two passes backward, is the slope that small steps
    find. All in float64."""
    direction, step = torch.randn_like(weight), 1e-8  # so small that no ReLU changes sides
    duel = Duel(
        "",
        discriminator,
        real=images,
        source=images,
        generator=lambda latent, *_: latent,
        seed=torch.arange(len(images)),
    )
    (gradient,) = torch.autograd.grad(r1(duel), weight)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        ends.append(r1(duel).item())
        with torch.no_grad():
            weight -= sign * step * direction
    slope = (gradient * direction).sum().item()
    assert slope != 0
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


def children(pid: int) -> list[int]:
    """The processes that one has started, as Linux knows them."""
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
