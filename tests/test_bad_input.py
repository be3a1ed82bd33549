"""Whatever a user may get wrong costs one line that says what to do, and nothing else."""

import json
import os
import pickle
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture
from PIL import Image

from ganduel import build, checkpoint
from ganduel.commands import cli
from ganduel.runs.folder import RunFolder
from ganduel.system.errors import UserError

COMMANDS = ("train", "sample", "fid", "data", "export", "import", "report")
TINY = ("model.channels=4", "batch_size=8", "duration=1 steps", "metric.which=[]", "device=cpu", "name=tiny")
WEIRD = "a b=c,d(e#f'g\"h[i]~{k} \\"  # a folder's name that Hydra's grammar would choke on

Gan = Callable[..., tuple[int, str, str]]
Fails = Callable[..., None]


@pytest.fixture
def gan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gan:
    """A command in this process and an empty folder: `gan("train", "seed=1")` returns exit code, stdout, stderr."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [f"gan-{name}", *arguments])
        capsys.readouterr()
        code = cli.command(name, list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def fails(gan: Gan, packed: str) -> Fails:
    """`fails("train", ["seed=x"], "part of the message", ...)`: one line, exit code 1, no result, no checkpoint."""

    def check(name: str, arguments: list[str], *parts: str, code: int = 1) -> None:
        if name in ("train", "data") and not any("data.packed" in a or "data=" in a for a in arguments):
            arguments = [packed, *arguments]
        got, out, err = gan(name, *arguments)
        lines = [line for line in err.splitlines() if not line.startswith(("digits: ", "  "))]  # the report of packing
        assert got == code, (out, err)
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        assert out == ""
        for part in parts:
            assert part in lines[0], lines[0]
        assert not list(Path().rglob("*.pt")) and not list(Path().rglob("stats.jsonl"))
        assert not Path("outputs").exists() and not list(Path().rglob("*.log"))

    return check


@pytest.fixture(scope="module")
def bad_run(packed: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    runs = tmp_path_factory.mktemp("runs")
    assert cli.command("train", [*TINY, packed, f"runs_dir={runs}"]) == 0
    return runs / "tiny"


@pytest.fixture
def bad_copy(bad_run: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Its checkpoint with a change made to the content, as a whole and valid file."""

    def copy(change: Callable[[dict[str, Any]], Any]) -> Path:
        content = checkpoint.load(bad_run / "checkpoints" / "latest.pt")
        change(content)
        checkpoint.save(tmp_path / "changed.pt", content)
        return tmp_path / "changed.pt"

    return copy


# Misspelt


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("train", "optimizer.D.lrr=1", "unknown option 'optimizer.D.lrr'. Did you mean: optimizer.D.lr"),
        ("train", "+optimizer.D.lrr=1", "unknown option 'optimizer.D.lrr'. Did you mean: optimizer.D.lr"),
        ("train", "~optimizer.D.lrr", "unknown option 'optimizer.D.lrr'. Did you mean: optimizer.D.lr"),
        ("train", "model.generator.nrom=batch", "Did you mean: model.generator.norm"),
        ("train", "modle=dcgan", "unknown option 'modle'. Did you mean: model?"),
        ("train", "model=dcgna", "unknown model 'dcgna'. Did you mean: dcgan? There is: cyclegan, "),
        ("train", "regularizer=[r1,zzz]", "unknown regularizer 'zzz'. There is: "),
        ("train", "scheduler.warmpu=1", "Did you mean: scheduler.warmup"),
        ("train", "loss.smoth_real=0.1", "Did you mean: loss.smooth_real"),
        ("train", "experiment=dmeo", "unknown experiment 'dmeo'. Did you mean: demo?"),
        ("train", "model=null", "model=null is not allowed; it takes cyclegan, "),
        ("train", "regularizer=1", "regularizer=[1] is not allowed; it takes bcr, "),
        ("train", "+sead=1", "unknown option 'sead'"),
        ("train", "+every.lgo=1", "unknown option 'every.lgo'"),
        ("train", "hydra.nothing=1", "hydra.nothing"),
        ("sample", "seedz=3", "unknown option 'seedz'. Did you mean: seeds"),
        ("sample", "mdoe=grid", "unknown option 'mdoe'. Did you mean: mode"),
        ("sample", "mode=gird", "unknown mode 'gird'. Did you mean: grid? There is: compare, grid, "),
        ("sample", "mode.colums=3", "Did you mean: mode.columns"),
        ("fid", "metric.smaples=3", "unknown option 'metric.smaples'. Did you mean: metric.samples"),
        ("fid", "metrik=3", "unknown option 'metrik'. Did you mean: metric"),
        ("data", "data.resolutoin=3", "unknown option 'data.resolutoin'. Did you mean: data.resolution"),
        ("data", "dta=digits", "unknown option 'dta'. Did you mean: data?"),
        ("data", "data=digitz", "unknown data 'digitz'. Did you mean: digits? There is: "),
    ],
)
def test_misspelt(fails: Fails, name: str, argument: str, message: str) -> None:
    fails(name, [*(TINY if name == "train" else []), argument], message)  # quick, should it train


def test_misspelt_in_a_selected_part(fails: Fails) -> None:
    arguments = ["regularizer=[weight_clip]", "regularizer.weight_clip.limit=0.1"]
    fails(
        "train",
        [*TINY, *arguments],
        "unknown option 'regularizer.weight_clip.limit'",
        "regularizer.weight_clip.fn.limit",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.D.lrr=1,2"], "unknown option 'optimizer.D.lrr'. Did you mean: optimizer.D.lr"),
        (["modle=dcgan,vanilla"], "unknown option 'modle'. Did you mean: model?"),
        (["model=dcgan,vnailla"], "unknown model 'vnailla'. Did you mean: vanilla?"),
        (["seed=1,2", "batch_size=abc"], "batch_size=abc is not allowed; it takes an integer"),
        (["seed=1,abc"], "seed=abc is not allowed; it takes an integer"),
        (["batch_size=8,0"], "batch_size=0 is not allowed"),
        (["seed=1,2", "data.resolution=16,32,3"], "data.resolution=3 is not allowed"),
        (["seed=range(5,1)"], "seed=range(5,1) has no values to sweep over; give at least one"),
        (["seed=interval(1,5)"], "seed"),
    ],
)
def test_sweep_is_checked_before_its_first_job(fails: Fails, arguments: list[str], message: str) -> None:
    fails("train", ["-m", *TINY, *arguments], message)
    assert not Path("runs").exists()


def test_sweep_without_its_flag(fails: Fails) -> None:
    fails("train", ["seed=1,2"], "seed=1,2 has several values", "Type: gan-train -m data.packed=", "seed=1,2")


# Wrong values


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("batch_size=abc", "batch_size=abc is not allowed; it takes an integer"),
        ("batch_size=2.5", "batch_size=2.5 is not allowed; it takes an integer"),
        ("batch_size=null", "batch_size=null is not allowed; it takes an integer"),
        ("data.mirror=maybe", "data.mirror=maybe is not allowed; it takes true or false"),
        ("metric.which=[fud]", "metric.which=fud is not allowed; it takes fid, kid, isc, prc"),
        ("optimizer.G.lr=fast", "optimizer.G.lr=fast is not allowed; it takes a number"),
        ("optimizer.G.lr=null", "optimizer.G.lr=None is not allowed; it takes a number"),
        ("optimizer.G.betas=[0.5]", "optimizer.G.betas=[0.5] is not allowed; it takes a list of 2"),
        ("optimizer.G=null", "optimizer.G=None is not allowed"),
        ("model.generator.norm=bath", "model.generator.norm=bath is not allowed; it takes batch, layer, "),
        ("model.generator=null", "model.generator=None is not allowed"),
        ("batch_size=0", "batch_size=0 is not allowed; it takes 1 or more"),
        ("micro_batch=0", "micro_batch=0 is not allowed; it takes 1 or more"),
        ("workers=0", "workers=0 is not allowed; it takes 1 or more"),
        ("data.resolution=3", "data.resolution=3 is not allowed; it takes 4 to 1024"),
        ("data.resolution=8", "resolution=8 is too small"),
        ("data.channels=2", "data.channels=2: only points (data=ring, data=grid) have 1 and 2; images have "),
        ("data.max_rejected=nan", "data.max_rejected=nan is not allowed; it takes 0 to 1"),
        ("data.validation=-1", "data.validation=-1.0 is not allowed; it takes 0 or more"),
        ("data.validation=1797", "data.validation=1797.0 leaves none of 1797 images to train on"),
        ("data.validation=0.9999", "data.validation=0.9999 leaves none of 1797 images to train on"),
        ("model.channels=0", "model.channels=0 is not allowed; it takes 1 or more"),
        ("model.generator.depth=9", "depth=9 does not fit resolution 32"),
        ("optimizer.G.lr=-1", "optimizer.G: Invalid learning rate: -1"),
        ("turns.n_critic=0", "turns: n_critic=0"),
        ("turns.loss_floor=2", "turns.loss_floor=2 is above 1.39, the loss of a D that cannot tell real from fake"),
        ("turns.accuracy_ceiling=80", "accuracy_ceiling=80 must be a share between 0 and 1, or null"),
        ("loss.flip=2", "loss: flip=2 must be 0 to 1"),
        ("loss.smooth_real=1", "loss: smooth_real=1 and smooth_fake=0.0 must be 0 or more and together less than 1"),
        ("loss_ema=2", "loss_ema=2.0 is not allowed; it takes 0 to 1"),
        ("pace=reuse", "pace is called turns now: turns=reuse"),
        (
            "augment.instance_noise.fade=5",
            "augment.instance_noise.fade is called schedule.augment.instance_noise.std now: "
            "+scheduler@schedule.augment.instance_noise.std=linear schedule.augment.instance_noise.std.end=0 "
            "schedule.augment.instance_noise.std.length=5",
        ),
        ("pace.share=true", "pace.share is called turns.share now: turns.share=true"),
        ("data.margin=0.117", "data.margin is called data.load_size now, in pixels"),
        ("model.replay=50", "model.replay is called model.pool_size now: model.pool_size=50"),
        ("data.load_size=8", "data.load_size=8 is smaller than data.resolution=32"),
        ("turns.first=X", "turns.first=X is not allowed; it takes D, G"),
        ("device=tpu", "device=tpu is not allowed; it takes auto, cuda, mps, cpu"),
        ("precision=fp16", "precision=fp16 needs CUDA"),
        ("micro_batch=7", "micro_batch=7 does not divide the 8 images of a process; it takes 1, 2, 4, 8"),
        ("batch_size=1618", "batch_size=1618 is larger than the data set: 1617 training images; set batch_size=1617"),
        ("data.limit=7", "batch_size=8 is larger than the data set: 7 training images"),
        ("loss._target_=os.system", "loss: os.system may not be built: allowed are classes and functions defined in"),
        ("loss._target_=ganduel.losses.nothing", "loss: there is no ganduel.losses.nothing"),
        ("regularizer.r1.weight=3", "regularizer.r1 is tuned but not selected; select it with regularizer=r1"),
        ("+regularizer.r1.weight=3", "regularizer.r1 is tuned but not selected; select it with regularizer=r1"),
        ("init_from=nowhere", "init_from: nowhere does not exist"),
        ("data.root=", "data.root= is empty"),
        ("runs_dir=", "runs_dir= is empty"),
        ("regularizer=[r1] regularizer.r1.weight=-1", "regularizer.r1: weight=-1 must be 0 or more"),
        ("regularizer=[dragan] regularizer.dragan.fn.target=-1", "regularizer.dragan.fn: target=-1 must be 0 or more"),
        ("regularizer=[dragan] regularizer.dragan.fn.spread=-1", "regularizer.dragan.fn: spread=-1 must be 0 or more"),
        (
            "regularizer=[gradient_penalty] regularizer.gradient_penalty.fn.target=-0.5",
            "regularizer.gradient_penalty.fn: target=-0.5 must be 0 or more",
        ),
        ("regularizer=[bcr] regularizer.bcr.fn.shift=-0.1", "regularizer.bcr.fn: shift=-0.1 must be 0 or more"),
        ("data.labels=folders", "data.labels=folders is not allowed; data.name=digits takes auto, none"),
    ],
)
def test_value(fails: Fails, argument: str, message: str) -> None:
    fails("train", [*TINY, *argument.split(" ")], message)


@pytest.mark.parametrize("key", ["duration", "every.log", "ema.half_life", "scheduler.warmup"])
@pytest.mark.parametrize("text", ["5 parsecs", "-1 kimg", "0 steps", "5", "kimg", "1..2 kimg", "nan epochs"])
def test_duration(fails: Fails, key: str, text: str) -> None:
    fails("train", [*TINY, f"{key}={text}"], f'{key}: "{text}" is not a duration; write a positive number and kimg, ')


@pytest.mark.parametrize("name", ["a b", "..", "../x", "x/../y", "/etc/x", "x/", "", "-x", ".x", "a:b", "a*b"])
def test_name(fails: Fails, tmp_path: Path, name: str) -> None:
    fails("train", [*TINY, f"name='{name}'"], f"name={name} is not allowed; it takes letters, digits and")
    assert not any((tmp_path / "cwd").iterdir())


@pytest.mark.parametrize("folder", [".", ".."])
def test_a_folder_is_no_published_network(fails: Fails, folder: str) -> None:
    fails("import", [f"input={folder}"], f"input={folder} is a folder; name the file")


@pytest.mark.parametrize("name", ["x/checkpoints", "x/samples/y"])
def test_no_run_lies_in_the_files_of_another(fails: Fails, name: str) -> None:
    """Whoever starts the outer one anew would move the inner one away, or leave its own checkpoints behind."""
    folder = name.split("/")[1]
    fails("train", [*TINY, f"name={name}"], f"name={name} is not allowed; {folder} is a folder of the run")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("sample", [], "ckpt is missing: give it as ckpt=VALUE"),
        ("sample", ["ckpt="], "ckpt= is empty"),
        ("sample", ["ckpt=x", "batch=abc"], "batch=abc is not allowed; it takes an integer"),
        ("sample", ["ckpt=x", "count=0"], "count=0 is not allowed; it takes 1 to 10000000"),
        ("sample", ["ckpt=x", "seeds=5-3"], "seeds=5-3 is not allowed; it takes a range like 0-63"),
        ("sample", ["ckpt=x", "seeds=some"], "seeds=some is not allowed; it takes a range like 0-63"),
        ("fid", [], "give either ckpt=RUN_OR_FILE or folders=real,fake"),
        ("fid", ["ckpt=x", "folders=[a,b]"], "give either ckpt=RUN_OR_FILE or folders=real,fake"),
        ("fid", ["ckpt=x", "metric.which=[]"], "metric.which=[] is not allowed; it takes one or more of fid, kid"),
        ("fid", ["folders=[a]"], "folders=['a'] is not allowed; it takes two"),
        ("fid", ["folders=a"], "folders=['a'] is not allowed; it takes two"),
        ("fid", ["ckpt=x", "metric.samples=1"], "metric.samples=1 is not allowed; it takes 2 or more"),
        ("data", ["data=folder"], "data.root is missing: give it as data.root=VALUE"),
        ("data", ["data=folder", "data.root=nowhere"], "data.root: there is no nowhere; name the folder or archive"),
    ],
)
def test_other_commands(fails: Fails, name: str, arguments: list[str], message: str) -> None:
    fails(name, arguments, f"error: {message}")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("argument", ["json=[1,", "json=(", "--nonsense", "--cfg", "--cfg=all-of-it"])
def test_command_line_that_cannot_be_read(fails: Fails, name: str, argument: str) -> None:
    fails(name, [argument], code=2)


def test_a_key_without_a_value(fails: Fails) -> None:
    for name in COMMANDS[:-1]:
        fails(name, ["batch_size"], code=2)
    fails("report", ["batch_size"], "runs=batch_size is no run folder")  # to which folders are given like this


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_device_that_is_absent(fails: Fails) -> None:
    fails("train", [*TINY, "device=cuda"], "device=cuda: this machine or this PyTorch has none", "device=cpu")


# Paths


@pytest.mark.parametrize("key", ["runs_dir", "data.packed"])
def test_folder_that_cannot_be_made(fails: Fails, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "below"
    fails("train", [*TINY, f"{key}={where}"], f"{key}: cannot create {where}", f"choose another with {key}=FOLDER")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
@pytest.mark.parametrize("key", ["runs_dir", "data.packed"])
def test_folder_without_permission(fails: Fails, tmp_path: Path, key: str) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    fails("train", [*TINY, f"{key}={tmp_path / 'mine'}"], f"{key}: ", f"choose another with {key}=FOLDER")


def test_out_that_cannot_be_made(fails: Fails, bad_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fails("sample", [f"ckpt={bad_run}", "device=cpu", f"out={tmp_path}/file/x.png"], "out: cannot create", "out=FOLDER")


def test_run_that_another_process_holds(fails: Fails) -> None:
    with RunFolder(Path("runs/tiny")).held():
        fails("train", TINY, "name: runs/tiny is in use by another process", "name=...")  # type: ignore[arg-type]


def test_packed_among_the_originals(fails: Fails, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    fails(
        "data",
        ["data=folder", f"data.root={tmp_path}", f"data.packed={tmp_path}/cache"],
        "data.packed=",
        "choose a folder outside of it, or one named packed",
    )


def test_paths_may_hold_anything(gan: Gan, bad_run: Path, tmp_path: Path) -> None:
    weird = tmp_path / WEIRD
    weird.mkdir()
    for i in range(20):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(weird / f"{i}.png")
    folder = ("data=folder", "data.resolution=16", f"data.root={weird}")
    code, out, err = gan("data", *folder)
    assert code == 0 and Path(out.strip()).parent == weird / "packed", err
    code, out, err = gan("train", *TINY, *folder, f"runs_dir={weird / 'runs'}", f"init_from={bad_run}")
    assert code == 1 and "init_from=" in err and "its networks are not those of this run" in err  # other shapes
    code, out, err = gan("train", *TINY, *folder, f"runs_dir={weird / 'runs'}")
    assert code == 0 and out.strip() == str(weird / "runs" / "tiny"), err
    typed = (weird / "runs" / "tiny" / "overrides.txt").read_text().splitlines()
    assert typed == [*TINY, *folder, f"runs_dir={weird / 'runs'}"]
    png = weird / "grid of,8=.png"
    code, out, err = gan("sample", f"ckpt={weird / 'runs' / 'tiny'}", "count=8", f"out={png}", "device=cpu")
    assert code == 0 and out.strip() == str(png) and png.is_file(), err


def test_home_and_quotes_in_paths(gan: Gan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    for root in ("~", f"'{tmp_path}'", f'"{tmp_path}"'):
        code, out, err = gan("data", "data=folder", "data.resolution=8", f"data.root={root}")
        assert code == 0 and Path(out.strip()).parent == tmp_path / "packed", err


# Files that are no checkpoints, and checkpoints that must not be obeyed


class Code:
    """Unpickled by a trusting reader, it makes a file `canary`."""

    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


def _newer(path: Path) -> None:
    checkpoint.save(path, {"format": 99})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("not a checkpoint\n"), "is damaged, or is not a checkpoint of ganduel"),
        (lambda path: path.write_bytes(b""), "is damaged, or is not a checkpoint of ganduel"),
        (lambda path: path.write_bytes(bytes(range(256)) * 64), "is damaged, or is not a checkpoint of ganduel"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(1000)), "is damaged, or is not a checkpoint of ganduel"),
        (lambda path: torch.save({"weights": torch.ones(2)}, path), "is not a checkpoint of ganduel"),
        (lambda path: torch.save([1, 2], path), "is not a checkpoint of ganduel"),
        (lambda path: path.write_bytes(pickle.dumps(Code())), "is damaged, or is not a checkpoint of ganduel"),
        (lambda path: torch.save({"format": 1, "x": Code()}, path), "is damaged, or is not a checkpoint of ganduel"),
        (_newer, "has format 99, newer than the 1 this ganduel reads: upgrade ganduel"),
    ],
    ids=["text", "empty", "bytes", "zip", "dict", "list", "pickle", "code", "newer"],
)
@pytest.mark.parametrize("name", ["sample", "fid"])
def test_no_checkpoint(
    gan: Gan, tmp_path: Path, name: str, write: Callable[[Path], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    write(path)
    code, out, err = gan(name, f"ckpt={path}", "device=cpu")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: {path}: {message}")
    assert not Path("canary").exists()


@pytest.mark.parametrize("name", ["sample", "fid"])
def test_checkpoint_that_is_absent(fails: Fails, tmp_path: Path, name: str) -> None:
    fails(name, [f"ckpt={tmp_path}/none.pt"], f"ckpt: {tmp_path}/none.pt does not exist; give a .pt file or a run")
    fails(name, [f"ckpt={tmp_path}"], f"ckpt: {tmp_path} holds no checkpoint; give a .pt file or a run folder")


def test_weights_that_are_no_numbers(gan: Gan, bad_copy: Callable[..., Path]) -> None:
    def spoil(content: dict[str, Any]) -> None:
        for tensor in content["state"]["ema"].values():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))

    for name in ("sample", "fid"):
        code, out, err = gan(name, f"ckpt={bad_copy(spoil)}", "device=cpu")
        assert code == 1 and out == "" and err.count("\n") == 1, err
        assert "holds NaN or infinity: the run has diverged; take an earlier checkpoint" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mode.columns=0"], "mode.columns=0 is not allowed; it takes 1 or more, or null"),
        (["mode=neighbours", "data.root=misspelt"], "data.root: there is no misspelt; name the folder or archive of"),
        (["seeds=1.5"], "seeds=1.5 is not allowed; it takes a range like 0-63, a list like 1,5,9"),
        (
            ["seeds=0-99999999999999"],
            "seeds=0-99999999999999 are 100,000,000,000,000 seeds; it takes 10,000,000 at most",
        ),
    ],
)
def test_samples_that_cannot_be(gan: Gan, bad_run: Path, arguments: list[str], message: str) -> None:
    code, out, err = gan("sample", f"ckpt={bad_run}", "device=cpu", *arguments)
    assert (code, out) == (1, "") and err.startswith(f"error: {message}") and err.count("\n") == 1, err
    assert not Path("misspelt").exists()


def test_memory_that_runs_out_is_one_line(gan: Gan, bad_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("ganduel.sampling.sampler.Sampler.paint", short)
    code, out, err = gan("sample", f"ckpt={bad_run}", "device=cpu")
    assert (code, out) == (1, "")
    assert err == "error: memory ran out; take fewer seeds or a smaller batch, or use a machine with more memory\n"


def test_checkpoint_cut_short(gan: Gan, bad_run: Path, tmp_path: Path) -> None:
    whole = (bad_run / "checkpoints" / "latest.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    code, _, err = gan("sample", f"ckpt={tmp_path}/cut.pt", "device=cpu")
    assert code == 1 and "is damaged" in err and err.count("\n") == 1


TOUCH = {"_args_": ["touch canary"]}
COPY = {"_target_": "shutil.copyfile", "_args_": [os.devnull, "canary"]}  # unlike os.system, Hydra itself allows it
HOSTILE: dict[str, dict[str, Any]] = {
    "plain": {"generator": {"_target_": "os.system", **TOUCH}},
    "through a library": {"generator": {"_target_": "torch.optim.optimizer.torch.os.system", **TOUCH}},
    "through ganduel": {"generator": {"_target_": "ganduel.game.torch.os.system", **TOUCH}},
    "a function": {"generator": {**COPY, "_target_": "ganduel.game.torch.hub.shutil.copyfile"}},
    "a builtin": {"generator": {"_target_": "builtins.eval", "_args_": ["open('canary', 'w')"]}},
    "as the game": {"game": "ganduel.game.torch.os.system"},
    "import": {"generator": {"_target_": "antigravity.x"}},
}
DEEP: dict[str, tuple[Any, str]] = {
    "in a value": (COPY, "shutil.copyfile may not be built"),
    "in a list": ([1, {"x": [COPY]}], "shutil.copyfile may not be built"),
    "interpolation": ("${oc.env:HOME}", "the interpolation ${oc.env:HOME} is not resolved"),
    "hidden interpolation": ([["x ${oc.env:HOME}"]], "the interpolation x ${oc.env:HOME} is not resolved"),
}


@pytest.mark.parametrize("model", HOSTILE.values(), ids=HOSTILE)
def test_checkpoint_that_names_foreign_code(
    gan: Gan, bad_copy: Callable[..., Path], bad_run: Path, model: dict[str, Any]
) -> None:
    path = bad_copy(lambda content: content["config"]["model"].update(model))
    for name in ("sample", "fid"):
        code, out, err = gan(name, f"ckpt={path}", "device=cpu", "count=1" if name == "sample" else "batch=1")
        assert code == 1 and out == "" and err.count("\n") == 1, err
        assert err.startswith("error: model.") and "may not be built: allowed are classes and functions" in err
        assert not Path("canary").exists() and "antigravity" not in sys.modules


@pytest.mark.parametrize(("value", "message"), DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("where", ["lr", "betas", "_args_"])
def test_hidden_deep_in_a_part(gan: Gan, value: Any, message: str, where: str) -> None:
    node = {"_target_": "torch.optim.Adam", where: [value] if where == "_args_" else value}
    wrong_type = "" if where == "_args_" else "|is not allowed; it takes"  # an interpolation may be refused as that
    with pytest.raises(UserError, match=re.escape(message) + wrong_type):
        build.part(node, "optimizer.G", [], params=[torch.ones(1)])
    assert not Path("canary").exists()


@pytest.mark.parametrize(("value", "message"), DEEP.values(), ids=DEEP)
def test_checkpoint_that_hides_it(gan: Gan, bad_copy: Callable[..., Path], value: Any, message: str) -> None:
    path = bad_copy(lambda content: content["config"]["model"]["generator"].update(_args_=[value]))
    code, out, err = gan("sample", f"ckpt={path}", "count=1", "device=cpu")
    assert code == 1 and out == "" and err.count("\n") == 1, err
    assert err.startswith("error: model.generator._args_[0]") and message in err
    assert not Path("canary").exists()


def test_checkpoint_whose_data_source_is_foreign(gan: Gan, bad_copy: Callable[..., Path]) -> None:
    source = {"_target_": "ganduel.data.sources.os.system", **TOUCH}
    path = bad_copy(lambda content: content["config"]["data"].update(source=source))
    Path("mine").mkdir()
    code, out, err = gan("fid", f"ckpt={path}", "device=cpu", "data.root=mine")
    assert code == 1 and out == "" and err.startswith("error: data.source: ") and err.count("\n") == 1, err
    assert not Path("canary").exists()


def test_checkpoint_that_names_shards(gan: Gan, bad_copy: Callable[..., Path], tmp_path: Path) -> None:
    """Reading a stranger's shards may run code, and packing would write over what lies there."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "index.json").write_text("precious")
    picture(tmp_path / "mine" / "x.png")
    path = bad_copy(lambda content: content["config"]["data"].update(stream=str(victim)))
    for arguments in ([], [f"data.root={tmp_path / 'mine'}"]):
        code, out, err = gan("fid", f"ckpt={path}", "device=cpu", *arguments)
        assert code == 1 and out == "" and err.startswith("error: data.stream: ") and err.count("\n") == 1, err
        assert [file.read_text() for file in victim.iterdir()] == ["precious"]


def nested(depth: int) -> list[Any]:
    """Lists that hold each list twice: 2 ** depth numbers in a few bytes."""
    found: list[Any] = [0]
    for _ in range(depth):
        found = [found, found]
    return found


LARGER: dict[str, Callable[[dict[str, Any]], Any]] = {
    "wide": lambda content: content["config"]["model"]["generator"].update(channels=10**6),
    "deep noise": lambda content: content["config"]["model"]["generator"].update(latent=10**10),
    "many layers": lambda content: content["config"]["model"]["generator"].update(blocks=10**9),
    "one value": lambda content: content["state"]["ema"].update(more=torch.zeros(1).expand(10**7)),
    "one row": lambda content: content["state"]["ema"].update(more=torch.zeros(9, 1, 2).expand(9, 10**6, 2)),
    "lists of lists": lambda content: content.update(more=nested(18)),
}


@pytest.mark.parametrize("grow", LARGER.values(), ids=LARGER)
def test_checkpoint_that_asks_for_more_than_it_holds(
    gan: Gan, bad_copy: Callable[..., Path], grow: Callable[[dict[str, Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks of 100 GB are never built: only their shapes are compared with what is stored."""
    path = bad_copy(grow)
    assert path.stat().st_size < 10**6
    normal = torch.nn.init.normal_

    def small(tensor: torch.Tensor, *arguments: Any, **settings: Any) -> torch.Tensor:
        assert tensor.is_meta or tensor.numel() < 10**7
        return normal(tensor, *arguments, **settings)

    monkeypatch.setattr(torch.nn.init, "normal_", small)
    code, out, err = gan("sample", f"ckpt={path}", "count=1", "device=cpu")
    assert code == 1 and out == "" and err.count("\n") == 1, err
    assert "is damaged, or is not a checkpoint" in err or "unknown option 'model.generator." in err


def test_discriminators_are_built_only_where_they_are_asked(
    gan: Gan, bad_copy: Callable[..., Path], packed: str
) -> None:
    """So whoever samples needs no frozen network of its D, nor a package of that network's author."""
    path = bad_copy(lambda content: content["config"]["model"]["discriminator"].update(_target_="absent.Network"))
    assert gan("sample", f"ckpt={path}", "count=1", "device=cpu", "out=x.png")[0] == 0
    code, _, err = gan("sample", f"ckpt={path}", "mode=histograms", "count=2", "device=cpu", packed)
    assert code == 1 and err.startswith("error: model.discriminator: absent.Network may not be built")


def test_the_copies_above_work_when_unchanged(gan: Gan, bad_copy: Callable[..., Path]) -> None:
    """Else all of the refusals might have another reason."""
    code, out, _ = gan("sample", f"ckpt={bad_copy(lambda content: None)}", "count=1", "device=cpu", "out=x.png")
    assert code == 0 and Path(out.strip()).is_file()


def test_nothing_is_lost_by_a_refused_resume(gan: Gan, packed: str) -> None:
    assert gan("train", *TINY, packed)[0] == 0
    before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}
    code, _, err = gan("train", *TINY, packed, "optimizer.G.lr=0.5")
    assert code == 1 and "optimizer.G.lr: 0.0002 -> 0.5" in err and "accept_changes=true" in err
    assert {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()} == before


# Asking


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_questions_leave_no_files(gan: Gan, name: str) -> None:
    for question, answer in {
        "--help": f"gan-{name}: ",
        "-h": f"gan-{name}: ",
        "--version": "ganduel ",
        "--cfg job": "json: false",
        "--cfg=job": "json: false",
        "-c job --resolve" if name in ("train", "data") else "-c job": "json: false",
        "json=true --cfg job": "json: true",
    }.items():
        code, out, err = gan(name, *question.split())
        assert (code, err) == (0, ""), (question, err)
        assert answer in out, question
    assert not any(Path().iterdir())


def test_questions_about_misspelt_options(fails: Fails) -> None:
    fails("train", ["--cfg", "job", "optimizer.D.lrr=1"], "Did you mean: optimizer.D.lr")
    fails("train", ["--cfg", "job", "model=dcgna"], "Did you mean: dcgan?")
    fails("train", ["--cfg", "job", "loss=null"], "loss=null is not allowed; it takes hinge, ")
    fails("train", ["--help", "model=dcgna"], "Did you mean: dcgan?")


def test_sweep_of_samples_leaves_no_record(gan: Gan, bad_run: Path, tmp_path: Path) -> None:
    code, out, err = gan("sample", "-m", f"ckpt={bad_run}", "count=1,2", "device=cpu", f"out={tmp_path}/x.png")
    assert code == 0 and out == f"{tmp_path}/x.png\n" * 2, err
    assert not any(Path().iterdir())


def test_own_folder_of_configurations(gan: Gan, packed: str, tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    arguments = ("--config-dir", str(tmp_path / "own"), *TINY[:-1], packed, "experiment=mine", "json=true")
    code, out, err = gan("train", *arguments)
    assert code == 0 and json.loads(out)["run"] == "runs/mine", err
    resume = next(line for line in err.splitlines() if line.startswith("resume"))
    assert f"gan-train --config-dir={tmp_path / 'own'} " in resume, "what is typed to resume finds it, too"


# The real commands


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "code", "message"),
    [
        ("train", ["optimizer.D.lrr=1"], 1, "error: unknown option 'optimizer.D.lrr'. Did you mean: optimizer.D.lr"),
        ("sample", ["ckpt=no where"], 1, "error: ckpt: no where does not exist"),
        ("data", ["data"], 2, "error: "),
        ("fid", ["--version"], 0, ""),
    ],
)
def test_real_command(tmp_path: Path, name: str, arguments: list[str], code: int, message: str) -> None:
    script = Path(sysconfig.get_path("scripts")) / f"gan-{name}"
    done = subprocess.run([script, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(message) and done.stderr.count("\n") == bool(message)
    assert bool(done.stdout) == (code == 0)
    assert not any(tmp_path.iterdir())


def test_misspellings_are_found_without_pytorch(tmp_path: Path) -> None:
    code = (
        "import sys; from ganduel.commands import cli; cli.command('train', ['modle=x']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n" and "Did you mean: model?" in done.stderr
