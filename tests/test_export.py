"""gan-export: whatever a generator becomes, it draws what it drew, and its card says what it is."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MODELS, TINY
from torch import Tensor

import ganduel
from ganduel import checkpoint
from ganduel.commands import cli
from ganduel.export import onnx
from ganduel.models.cyclegan import UNetGenerator
from ganduel.system.errors import UserError

TURNED = {  # what else changes a network's layers
    "mapped": (*MODELS["dcgan"], "model.generator.mapping=2", "model.generator.norm=demodulation"),
    "spectral": (*MODELS["dcgan"], "model.generator.spectral_norm=true", "model.generator.norm=adain"),
    "classes": (*MODELS["stylegan2_ada"], "model.classes=10"),
}


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory):
    """The run of a model, trained for two steps, its noise made strong enough to be seen."""
    runs, done = tmp_path_factory.mktemp("runs"), {}

    def run(name: str) -> Path:
        if name not in done:
            arguments = [*TINY, packed, *(MODELS | TURNED)[name], f"runs_dir={runs}", "duration=2 steps"]
            assert cli.command("train", [*arguments, f"name={name}"]) == 0
            done[name] = runs / name
            strengthen(done[name] / "checkpoints" / "latest.pt")
        return done[name]

    return run


def strengthen(path: Path) -> None:
    """Let random numbers and truncation show in a network that has hardly been trained."""
    content = checkpoint.load(path)
    for name, value in content["state"]["ema"].items():
        if name.endswith("noise_strength"):
            value.fill_(0.5)
        if name.endswith("w_avg"):
            value.copy_(torch.linspace(-1, 1, len(value)))
    checkpoint.save(path, {key: value for key, value in content.items() if key != "format"})


def infer(path: Path, **inputs: Tensor) -> Tensor:
    """What onnxruntime makes of a file."""
    runtime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(made)


@pytest.fixture(autouse=True)
def packages() -> None:
    for package in ("safetensors", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra [export] is not installed")


NOISY = [name for name in [*MODELS, *TURNED] if name != "cyclegan"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISY)
def test_onnx_draws_what_we_draw(trained, tmp_path, name):
    run = trained(name)
    assert cli.command("export", [f"ckpt={run}", "format=onnx", f"out={tmp_path}"]) == 0
    styled = MODELS["stylegan2_ada"][0] in (MODELS | TURNED)[name]
    model = ganduel.load(run, noise="constant" if styled else None)
    seeds = list(range(5))
    classes = model.labels(torch.tensor(seeds))
    label = {} if classes is None else {"label": classes}
    made = infer(tmp_path / "generator.onnx", latent=model.latents(seeds), **label)
    ours = model.sample(5)
    assert made.shape == ours.shape and (made - ours).abs().max() < 1e-4
    assert ours.std() > 1e-4 and (not styled or (ours - ganduel.load(run).sample(5)).abs().max() > 1e-3)
    if styled:
        arguments = ["format.truncation=0.5", "format.cutoff=2", "format.noise=none"]
        assert cli.command("export", [f"ckpt={run}", "format=onnx", f"out={tmp_path}", *arguments]) == 0
        near = ganduel.load(run, noise="none", truncation=0.5, cutoff=2).sample(5)
        made = infer(tmp_path / "generator.onnx", latent=model.latents(seeds), **label)
        assert (made - near).abs().max() < 1e-4 < 1e-3 < (near - ours).abs().max()


@pytest.mark.slow
def test_onnx_translates_as_we_do(trained, tmp_path):
    """In both directions, and images of other sizes and numbers than those that it was made with."""
    run = trained("cyclegan")
    assert cli.command("export", [f"ckpt={run}", "format=onnx", f"out={tmp_path}"]) == 0
    model = ganduel.load(run)
    for shape in ((1, 3, 24, 24), (4, 3, 32, 48)):
        images = torch.rand(*shape) * 2 - 1
        both = [infer(tmp_path / f"generator_{way}.onnx", images=images) for way in ("A2B", "B2A")]
        for made, way in zip(both, ("A2B", "B2A"), strict=True):
            assert (made - model.translate(images, way)).abs().max() < 1e-4
        assert (both[0] - both[1]).abs().max() > 1e-3


@pytest.mark.slow
def test_onnx_of_a_u_net(tmp_path):
    network = UNetGenerator(resolution=16, image_channels=1, channels=4, norm="instance", dropout=0.5)
    network.eval().requires_grad_(False)
    onnx.write(network, {"images": torch.zeros(2, 1, 16, 16)}, tmp_path / "u.onnx", 18)
    for shape in ((1, 1, 16, 16), (3, 1, 32, 48)):
        images = torch.rand(*shape)
        assert (infer(tmp_path / "u.onnx", images=images) - network(images)).abs().max() < 1e-4


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("spectral", "classes", "cyclegan")]


@pytest.mark.parametrize("name", ["dcgan", *SLOW])
def test_weights_are_taken_wherever_a_checkpoint_is(trained, tmp_path, capsys, name):
    run = trained(name)
    assert cli.command("export", [f"ckpt={run}", "json=true", f"out={tmp_path}"]) == 0
    path, card = json.loads(capsys.readouterr().out.splitlines()[-1])["files"]
    assert [Path(path).name, Path(card).name] == ["generator.safetensors", "README.md"]
    ours, theirs = ganduel.load(run), ganduel.load(path)
    if name == "cyclegan":
        images = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8)
        assert torch.equal(ours.translate(images, "B2A"), theirs.translate(images, "B2A"))
        return
    assert torch.equal(ours.sample(4), theirs.sample(4))
    assert theirs.config == ours.config and theirs.images_seen == ours.images_seen > 0
    assert not any(name.startswith("D") for name in theirs.content["state"]["ema"])
    assert cli.command("sample", [f"ckpt={path}", "count=4"]) == 0
    assert (tmp_path / "grid.png").exists()
    assert cli.command("export", [f"ckpt={run}", "ema=false", f"out={tmp_path}"]) == 0
    assert torch.equal(ganduel.load(run, ema=False).sample(4), ganduel.load(path).sample(4))


def test_the_card_says_what_it_is(trained, tmp_path, capsys):
    run = trained("dcgan")
    log = run / "metrics.jsonl"
    row = {"by": "gan-fid", "step": 2, "fid": 12.5, "generated": 100, "real": 50, "data": "digits", "features": "f-1"}
    row |= {"note": None, "ema": True, "seed": 0, "versions": {"torch": "9"}}
    log.write_text("".join(json.dumps(r) + "\n" for r in ({**row, "step": 1, "fid": 77.0}, row)))
    assert cli.command("export", [f"ckpt={run}"]) == 0
    files = capsys.readouterr().out.splitlines()
    assert files == [str(run / "export" / "generator.safetensors"), str(run / "export" / "README.md")]
    text = Path(files[1]).read_text()
    model = ganduel.load(run)
    for words in (
        "draws grey images of 32x32 pixels from noise",
        "averaged over training (EMA)",
        f"after {model.images_seen:,} real images (2 steps",
        f"fingerprint `{model.content['data']['fingerprint']}`",
        "fid 12.5: 100 generated against 50 real images",
        "| `model.channels` | `4` |",
        "model=dcgan model.channels=4",
        'load("generator.safetensors")',
    ):
        assert words in text
    assert "77" not in text
    assert str(run.parent) not in text and "data.packed" not in text  # where things lie is nobody's business


@pytest.mark.slow
def test_the_card_of_a_network_that_is_not_measured(trained, tmp_path):
    assert cli.command("export", [f"ckpt={trained('vanilla')}", "format=onnx", "ema=false", f"out={tmp_path}"]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "Not measured" in text and "as trained, not averaged" in text
    assert "`latent` (N, 100), float32, normal noise" in text and '"latent": np.random.randn(16, 100)' in text


@pytest.mark.slow
def test_the_card_of_a_translation(trained, tmp_path):
    assert cli.command("export", [f"ckpt={trained('cyclegan')}", "format=onnx", f"out={tmp_path}"]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "translates colour images between two domains" in text
    assert "H and W are multiples of 4, from 8 on" in text and "`generator_B2A.onnx` was tested" in text


def test_the_card_takes_texts_as_they_are(trained, tmp_path, monkeypatch):
    """Markdown needs no escapes, and what looks like a template is none."""
    load = checkpoint.load

    def hostile(path: Path, *arguments: Any) -> dict:
        content = load(path, *arguments)
        content["config"]["name"] = "a<b> & 'c' {{ 7 * 191 }}{% raw %}"
        return content

    monkeypatch.setattr(checkpoint, "load", hostile)
    assert cli.command("export", [f"ckpt={trained('dcgan')}", f"out={tmp_path}"]) == 0
    assert (tmp_path / "README.md").read_text().startswith("# a<b> & 'c' {{ 7 * 191 }}{% raw %}\n\nA `dcgan` generator")


@pytest.mark.slow
def test_code_of_the_card_runs(trained, tmp_path, monkeypatch):
    """As it stands."""
    for form in ("onnx", "safetensors"):
        assert cli.command("export", [f"ckpt={trained('classes')}", f"format={form}", f"out={tmp_path}"]) == 0
        code = (tmp_path / "README.md").read_text().split("```python\n")[1].partition("```")[0]
        monkeypatch.chdir(tmp_path)
        names: dict = {}
        exec(code, names)
        made = names["pixels"] if form == "onnx" else names["images"].numpy()
        assert made.shape == (16, 1, 16, 16) and made.dtype == (np.uint8 if form == "onnx" else np.float32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["format=onx"], "unknown format 'onx'"),
        (["format=onnx", "format.noise=random"], "draws no random numbers"),
        (["format=onnx", "format.truncation=0.5"], "needs a model that keeps an average of w"),
        (["truncation=0.5"], "unknown option 'truncation'"),
    ],
)
def test_what_is_refused(trained, capsys, arguments, words):
    assert cli.command("export", [f"ckpt={trained('dcgan')}", *arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("opset", [1, 999])
def test_an_opset_that_pytorch_does_not_write(tmp_path, capsys, opset):
    """It would write 18, with a traceback on the terminal that nothing follows from."""
    network = torch.nn.Conv2d(1, 2, 3)
    with pytest.raises(UserError, match=f"format.opset={opset} is not allowed: this PyTorch writes 18 instead"):
        onnx.write(network, {"images": torch.rand(3, 1, 8, 8)}, tmp_path / "x.onnx", opset)
    assert capsys.readouterr() == ("", "") and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_differs_is_not_left_behind(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx, "exportable", lambda network: torch.nn.Sequential(network, torch.nn.Hardtanh(0.5, 1.0)))
    assert cli.command("export", [f"ckpt={trained('dcgan')}", "format=onnx", f"out={tmp_path}"]) == 1
    assert "; the limit is 0.0001" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_what_is_not_installed(trained, tmp_path, monkeypatch, capsys):
    """Says which package, and how to get it."""
    for package in ("onnxscript", "safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, package, None)
    run = trained("dcgan")
    for form, package in (("onnx", "onnxscript"), ("safetensors", "safetensors")):
        assert cli.command("export", [f"ckpt={run}", f"format={form}", f"out={tmp_path}"]) == 1
        assert f"needs the package {package}: pip install 'ganduel[export]'" in capsys.readouterr().err


def test_damaged_weights(trained, tmp_path, capsys):
    from safetensors.torch import save_file

    broken, other = tmp_path / "broken.safetensors", tmp_path / "other.safetensors"
    broken.write_bytes(b"no tensors")
    save_file({"x": torch.zeros(2)}, other)
    for path in (broken, other):
        assert cli.command("sample", [f"ckpt={path}"]) == 1
        assert f"{path}: is damaged, or is not a file of gan-export" in capsys.readouterr().err
