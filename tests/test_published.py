"""Published networks of StyleGAN2-ADA: what a file holds comes over, and nothing of it runs."""

import io
import json
import os
import pickle
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MODELS, TINY, assert_equal, state
from torch import nn

from ganduel import build, checkpoint
from ganduel.commands import cli
from ganduel.config.compose import compose
from ganduel.config.schema import plain
from ganduel.importing import r3gan, snapshots, stylegan2_ada
from ganduel.system.errors import UserError

SOURCE = "open('ran', 'w')"  # what the classes of a file carry as their source code
CLASSES = ("model.classes=3", "model.discriminator.mapping=2")
R3GAN = Path(__file__).parents[2] / "shared" / "reference" / "r3gan_res16.npz"


def game(*overrides: str) -> Any:
    composed = compose("train", [*TINY, *MODELS["stylegan2_ada"], "augment=[]", *overrides])
    torch.manual_seed(0)
    return build.game(composed.model, {}, []).eval()


class EasyDict(dict):
    """A dictionary of the published code, with attribute access."""

    __module__, __qualname__ = "dnnlib.util", "EasyDict"


def _reconstruct_persistent_obj(meta: dict) -> None:
    raise AssertionError("this would run the source code")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(nn.Module):
    """A module of the published code: pickled as its state and its source code."""

    def __reduce__(self) -> tuple:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": "Network", "state": self.__dict__}
        return _reconstruct_persistent_obj, (meta,), None


def persistent(network: nn.Module) -> Persistent:
    """A network of ours in the published form and names."""
    top = Persistent()
    top._init_args, top._init_kwargs = (), EasyDict(synthesis_kwargs=EasyDict(channel_base=64))
    buffers = dict(network.named_buffers())
    for name, value in network.state_dict().items():
        *path, last = name.replace("blocks.", "synthesis.", 1).split(".")
        module: nn.Module = top
        for part in path:
            if part not in module._modules:
                module.add_module(part, Persistent())
            module = module._modules[part]  # type: ignore[assignment]
        module.weight_gain = 1 / np.sqrt(7.0)  # type: ignore[assignment]
        if name in buffers:
            module.register_buffer(last, value.clone())
        else:
            module.register_parameter(last, nn.Parameter(value.clone()))
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    for module in list(top.modules()):
        if "noise_const" in module._buffers:
            module.register_buffer("resample_filter", torch.outer(row, row) / 64)
    return top


class Plain(nn.Module):
    """A module of R3GAN's code: pickled by the name of its class."""

    __module__, __qualname__ = "R3GAN.Networks", "Plain"

    DataType = torch.float32


def wrapped(state: dict[str, torch.Tensor]) -> Plain:
    """A network of R3GAN from its published names: in the module that training uses, and in bfloat16 but for a part."""
    top = Plain()
    top.z_dim = 8  # type: ignore[assignment]
    for name, value in state.items():
        *path, last = ["Model", *name.split(".")]
        module: nn.Module = top
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.ModuleList() if part in ("MainLayers", "Layers") else Plain())
            module = module._modules[part]  # type: ignore[assignment]
            module.DataType = torch.bfloat16  # type: ignore[assignment]
        if last == "Kernel":
            module.register_buffer(last, value.clone())
        else:
            module.register_parameter(last, nn.Parameter(value.clone(), requires_grad=False))
    return top


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes networks, or whatever else, as they are published: `publish(G=..., D=..., G_ema=...)`."""

    def write(**networks: Any) -> Path:
        members = {
            "torch_utils.persistence": _reconstruct_persistent_obj,
            "dnnlib.util": EasyDict,
            "R3GAN.Networks": Plain,
        }
        for name, member in members.items():
            module = types.ModuleType(name)
            setattr(module, member.__name__, member)
            monkeypatch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
            monkeypatch.setitem(sys.modules, name, module)
        path = tmp_path / "network.pkl"
        path.write_bytes(pickle.dumps({"training_set_kwargs": EasyDict(path="x"), **networks}))
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        return path

    return write


@pytest.mark.parametrize("overrides", [(), CLASSES, ("model.discriminator.architecture=orig", "data.channels=1")])
def test_all_weights_come_over(publish, overrides):
    one, other = game(*overrides), game(*overrides)
    generator, discriminator = one.generators["G"], one.discriminators["D"]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    path = publish(G=persistent(other.generators["G"]), D=persistent(discriminator), G_ema=persistent(generator))
    read = {name: snapshots.tensors(module) for name, module in snapshots.read(path).items()}
    for name, network in (("G", other.generators["G"]), ("D", discriminator), ("G_ema", generator)):
        ours = stylegan2_ada.ours(read[name])
        assert_equal(dict(sorted(ours.items())), dict(sorted(network.state_dict().items())))
    found = stylegan2_ada.settings(read["G"], read["D"])
    remade = game(*overrides, *(f"{key}={value}" for key, value in found.items()))
    remade.generators["G"].load_state_dict(stylegan2_ada.ours(read["G_ema"]))
    remade.discriminators["D"].load_state_dict(stylegan2_ada.ours(read["D"]))
    seed = torch.arange(4)
    images = one.sample(one.generators, seed)
    assert torch.equal(images, remade.sample(remade.generators, seed))
    label = one.label(seed)
    assert torch.equal(discriminator(images, label), remade.discriminators["D"](images, label))
    assert not Path("ran").exists()


@pytest.mark.skipif(not R3GAN.is_file(), reason=f"the reference numbers are not in {R3GAN}")
@pytest.mark.parametrize("prefix", ["", "cond/"])
def test_an_import_of_r3gan_gives_the_reference_numbers(publish, capsys, prefix):
    with np.load(R3GAN) as file:
        numbers = {k.removeprefix(prefix): torch.from_numpy(file[k]) for k in file.files if k.startswith(prefix)}
    states = {
        player: {k[2:]: value for k, value in numbers.items() if k.startswith(f"{player}/")} for player in ("G", "D")
    }
    other = {name: value if "Kernel" in name else value + 1 for name, value in states["G"].items()}
    path = publish(G=wrapped(other), D=wrapped(states["D"]), G_ema=wrapped(states["G"]))
    assert cli.command("import", [f"input={path}"]) == 0
    assert re.search(r"gan-train model=r3gan init_from=\S*network\.pt data\.resolution=16 ", capsys.readouterr().out)
    kept = checkpoint.load(path.with_suffix(".pt"))
    game = build.game(kept["config"]["model"], {}, []).eval()
    game.load_state_dict(kept["state"]["game"])
    label = (numbers["in/label"],) if prefix else ()
    assert torch.allclose(game.discriminators["D"](numbers["in/real"], *label), numbers["out/real_logits"], atol=1e-5)
    assert torch.equal(game.generators["G"].basis, states["G"]["MainLayers.0.Layers.0.Basis"] + 1)
    game.generators.load_state_dict(kept["state"]["ema"])
    fake = game.generators["G"](numbers["in/z"], None, *label)
    assert torch.allclose(fake, numbers["out/fake"], rtol=1e-5, atol=1e-5)


def test_an_r3gan_that_is_none_of_ours():
    filters = {"Model.MainLayers.1.Layers.0.Resampler.Kernel": torch.ones(4, 4)}
    with pytest.raises(UserError, match=r"Kernel is another filter than \[1, 3, 3, 1\]"):
        r3gan.ours(filters)
    for name in ("Model.Something.weight", "Model.MainLayers.0.Layers.1.Gate.weight"):
        with pytest.raises(UserError, match="is no parameter of R3GAN"):
            r3gan.ours({name: torch.ones(1)})
    maps = {
        f"Model.MainLayers.{i}.Layers.1.LinearLayer3.Layer.weight": torch.ones(n, 1) for i, n in enumerate((8, 6, 2))
    }
    with pytest.raises(UserError, match=r"its stages have \[8, 6, 2\] feature maps"):
        r3gan.settings(maps, {})


@pytest.mark.slow
def test_an_import_can_be_sampled_measured_and_trained_on(publish, packed, capsys):
    one = game()
    networks = persistent(one.generators["G"]), persistent(one.discriminators["D"])
    path = publish(G=networks[0], D=networks[1], G_ema=networks[0])
    assert cli.command("import", [f"input={path}", "out=some,where.pt", "data=digits", packed]) == 0
    printed = capsys.readouterr().out
    told = r"some,where\.pt\nto start from it: \S*gan-train model=stylegan2_ada init_from=some,where\.pt "
    assert re.match(told, printed)
    kept = checkpoint.load(Path("some,where.pt"))
    assert kept["data"]["name"] == "digits" and kept["data"]["images"] > 1000
    config = compose("train", ["model=stylegan2_ada", "augment=[]", packed, *printed.split(".pt ")[1].split()])
    assert kept["config"] == {key: value for key, value in plain(config).items() if key != "allow"}
    assert cli.command("sample", ["ckpt=some,where.pt", "mode=grid", "count=2", "truncation=0.5"]) == 0
    small = ("metric.samples=20", "metric.features=digits", "device=cpu")
    assert cli.command("fid", ["ckpt=some,where.pt", packed, *small]) == 0
    settings = printed.split(".pt ")[1].split()
    tiny = (*TINY, packed, *MODELS["stylegan2_ada"], *settings, "augment=[]", "duration=1 steps")
    assert cli.command("train", [*tiny, "init_from=some,where.pt"]) == 0
    trained = state("runs/tiny")["state"]["game"]
    start = one.generators["G"].state_dict()["blocks.b16.conv0.noise_const"]
    assert torch.equal(trained["generators.G.blocks.b16.conv0.noise_const"], start)


def test_an_import_without_images_is_not_measured(publish, capsys):
    one = game()
    path = publish(
        **dict.fromkeys(("G", "G_ema"), persistent(one.generators["G"])), D=persistent(one.discriminators["D"])
    )
    assert cli.command("import", [f"input={path}", "json=true"]) == 0  # out: beside the file
    result = json.loads(capsys.readouterr().out)
    assert result["out"] == str(path.with_suffix(".pt")) and "data.resolution=16" in result["settings"]
    assert cli.command("fid", [f"ckpt={result['out']}", "device=cpu"]) == 1
    assert "imported without a data set" in capsys.readouterr().err


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None):
        self.made = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self) -> tuple:
        return self.made


def storage_that_calls() -> bytes:
    with io.BytesIO() as file:
        torch.save(Calls(os.mkdir, "ran"), file, _use_new_zipfile_serialization=False)
        return file.getvalue()


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (Calls(os.mkdir, "ran"), "asks for posix.mkdir"),
        (Calls(eval, "open('ran', 'w')"), "asks for builtins.eval"),
        (Calls(getattr, "", "join"), "asks for builtins.getattr"),
        (Calls(torch.load, "elsewhere"), "asks for torch.serialization.load"),
        (Calls(torch.storage._load_from_bytes, storage_that_calls()), "is damaged, or is not a pickle"),
        (Calls(_reconstruct_persistent_obj, {"state": {}}, state={"__call__": 1}), None),
    ],
    ids=lambda value: None if isinstance(value, Calls) else str(value).split()[-1],
)
def test_hostile_files_are_refused_and_nothing_runs(publish, hostile, message):
    path = publish(G=hostile)
    with pytest.raises(UserError, match=message) as refused:
        snapshots.read(path)
    assert "\n" not in str(refused.value) and not Path("ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "network.pkl: asks for posix.mkdir, which no published network does; it was not run"),
        (["out=out.png"], "out=out.png: a checkpoint needs a name that ends in .pt"),
        (["input=none.pkl"], "none.pkl: there is no such file"),
        (["input="], "input= is empty; give it a path"),
        (["outt=x.pt"], "unknown option 'outt'. Did you mean: out"),
        (["data=digits", "+data.foo=1"], "unknown option 'data.foo'; gan-data --help lists"),
        (["data=digit"], "unknown data 'digit'. Did you mean: digits"),
        (["data.root=x"], "data.root is set but no data is chosen; choose one with data=NAME: afhq_cat, "),
        (["data=folder"], "data.root is missing: give it as data.root=VALUE"),
        (["data=digits", "data.limit=few"], "data.limit=few is not allowed; it takes an integer or null"),
        (["data=digits", "data.resize=best"], "data.resize=best is not allowed; it takes box, "),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_a_refusal_is_one_line(publish, capsys, arguments, message):
    path = publish(G=Calls(os.mkdir, "ran"))
    assert cli.command("import", [f"input={path}", "out=out.pt", *arguments]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err and out == ""
    assert not Path("ran").exists() and not list(Path().rglob("*.pt"))


def test_the_file_is_asked_for(capsys):
    assert cli.command("import", []) == 1
    assert capsys.readouterr().err == "error: input is missing: give it as input=VALUE\n"


def test_a_checkpoint_of_ganduel_needs_no_import(tmp_path, capsys):
    path = tmp_path / "best.pt"
    torch.save({"format": 1}, path)
    assert cli.command("import", [f"input={path}"]) == 1
    assert f"error: {path} is a file of PyTorch, not a pickle of StyleGAN2-ADA or R3GAN;" in capsys.readouterr().err


def test_functions_of_the_reader_cannot_be_changed(tmp_path):
    """A pickle may set attributes of what it is given."""
    path = tmp_path / "network.pkl"
    path.write_bytes(b"\x80\x04ctorch.storage\n_load_from_bytes\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(UserError, match="changes a function"):
        snapshots.read(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps({"G": {}})])
def test_what_is_no_published_network_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "network.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"network.pkl: is (damaged, or is )?not a pickle of StyleGAN2-ADA"):
        snapshots.read(path)
    with pytest.raises(UserError, match="there is no such file"):
        snapshots.read(tmp_path / "none.pkl")


def test_other_filters_and_architectures_are_refused():
    names = OrderedDict(persistent(game().generators["G"]).state_dict())
    with pytest.raises(UserError, match="resample_filter is another filter"):
        stylegan2_ada.ours(names | {"synthesis.b8.resample_filter": torch.ones(4, 4)})
    discriminator = game().discriminators["D"].state_dict()
    with pytest.raises(UserError, match="not of the architecture skip"):
        stylegan2_ada.settings({k: v for k, v in names.items() if "b8.torgb" not in k}, discriminator)
    with pytest.raises(UserError, match="discriminator is of the architecture skip"):
        stylegan2_ada.settings(names, discriminator | {"b8.fromrgb.weight": torch.ones(1)})
