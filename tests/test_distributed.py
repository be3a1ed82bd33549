"""Many processes end where one does, on gloo. Two tests start them by torchrun, the others without it."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MODELS, NO_BATCH_NORM, THOROUGH, TINY, assert_equal, children, largest_difference, rows, state
from processes import together

from ganduel.commands import cli

pytestmark = pytest.mark.slow
Done = subprocess.CompletedProcess
SETTINGS = (*NO_BATCH_NORM, "duration=10 steps", "regularizer=[r1]", "regularizer.r1.every=2")
SETTINGS += ("loss.smooth_real=0.1", "loss.flip=0.05", "loss.noise=0.1")
SETTINGS += ("turns=gated", "turns.loss_floor=1.36", "optimizer.D.lr=0.002")  # closed in some turns
SETTINGS += ("augment=[ada]", "augment.ada.interval=3", "augment.ada.speed=0.1", "augment.ada.p=0.5")
SETTINGS += ("every.log=4 steps", "every.metric=5 steps", "metric.which=[fid,kid]", "metric.samples=64")


def torchrun(processes: int, *arguments: str) -> Done:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "ganduel.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=300)


def test_two_processes_equal_one(train, tiny):
    assert train("name=one", *SETTINGS) == 0
    result = torchrun(2, *tiny, "name=two", *SETTINGS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["runs/two"] and result.stderr.count("finished ") == 1  # one of them speaks
    one, two = state("runs/one")["state"], state("runs/two")["state"]
    assert largest_difference(one["game"], two["game"]) < 1e-5
    assert largest_difference(one["ema"], two["ema"]) < 1e-5
    for a, b in zip(rows("runs/one"), rows("runs/two"), strict=True):
        assert a["step"] == b["step"]
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-4), name
    assert any(0 < row["gate/closed"] < 1 for row in rows("runs/two"))
    for a, b in zip(rows("runs/one", "metrics.jsonl"), rows("runs/two", "metrics.jsonl"), strict=True):
        assert a["fid"] == pytest.approx(b["fid"], rel=1e-3) and a["kid"] == pytest.approx(b["kid"], rel=1e-3)
    # The same run may go on in one process.
    assert train("name=two", *SETTINGS, "duration=12 steps") == 0
    assert train("name=one", *SETTINGS, "duration=12 steps") == 0
    assert largest_difference(state("runs/one")["state"]["game"], state("runs/two")["state"]["game"]) < 1e-5


def test_a_measurement_is_shared(tmp_path):
    """Every process looks at a block of the images; the values are those of one process, and the first has them."""
    found = {}
    for world in (1, 2, 3):
        folder = tmp_path / f"{world}"
        done = together(world, str(folder), what=str(Path(__file__).with_name("measuring.py")))
        assert done.returncode == 0, done.stderr
        files = [(folder / f"{rank}.jsonl").read_text().splitlines() for rank in range(world)]
        found[world] = [{(line := json.loads(text))["case"]: line for text in file} for file in files]
    (one,) = found[1]
    assert len(one["new"]["found"]) == 10
    for world, made, read in ((2, [31, 30], [42, 41]), (3, [21, 20, 20], [28, 28, 27])):
        first, *others = ranks = found[world]
        assert [len(rank["new"]["made"]) for rank in ranks] == made
        assert [len(rank["new"]["read"]) for rank in ranks] == read
        assert [n for rank in ranks for n in rank["new"]["made"]] == one["new"]["made"] == [*range(61)]
        assert [rank["cached"]["read"] for rank in ranks] == [[]] * world  # the first has found it
        for case, rounding in (("new", 1e-9), ("cached", 1e-9), ("few", 1e-7)):
            assert first[case]["found"] == pytest.approx(one[case]["found"], rel=rounding, abs=1e-9)
            assert [rank[case]["found"] for rank in others] == [{}] * (world - 1)
        assert first["ppl"]["found"] == pytest.approx(one["ppl"]["found"], rel=1e-12)
        assert [n for rank in ranks for n in rank["ppl"]["made"]] == [*range(21)]
        # What one raises, all raise; the next measurement is none the worse for it.
        says = {"bad": "UserError: no luck", "ended": "Abandoned: ", "first": "OSError: 5"}
        for case, text in {**says, "cannot root": "RuntimeError: no root"}.items():
            assert [rank[case]["found"] for rank in ranks] == [text] * world


def test_gan_fid_on_two_processes(tiny, capsys):
    """The value is that of one process, and that of training: of the first process's BatchNorm statistics, which are
    in the checkpoint. Only one process speaks and writes."""
    measured = ("metric.which=[fid]", "metric.samples=64", "every.metric=12 steps")
    assert together(2, *tiny, *measured, "duration=12 steps", "optimizer.G.lr=0.01").returncode == 0
    done = together(2, "ckpt=runs/tiny/checkpoints/latest.pt", "metric.samples=64", "json=true", what="ganduel.fid")
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)
    assert cli.command("fid", ["ckpt=runs/tiny/checkpoints/latest.pt", "metric.samples=64", "json=true"]) == 0
    one = json.loads(capsys.readouterr().out)
    *_, trained, first, second = rows("runs/tiny", "metrics.jsonl")
    assert [row["by"] for row in (trained, first, second)] == ["gan-train", "gan-fid", "gan-fid"]
    assert two["fid"] == pytest.approx(one["fid"], rel=1e-7) and trained["fid"] == pytest.approx(one["fid"], rel=1e-7)
    done = together(2, "ckpt=nowhere", what="ganduel.fid")
    assert done.returncode != 0 and "error: ckpt: nowhere does not exist" in done.stderr


def test_a_batch_that_cannot_be_shared(tiny):
    result = together(2, *tiny, "batch_size=7")
    assert result.returncode != 0
    assert "error: batch_size=7 cannot be shared by 2 processes; set a multiple of 2" in result.stderr


def test_two_processes_equal_one_in_stylegan2(tiny):
    """With ADA that moves, path lengths of half the batch, mixing, noise and groups of images."""
    dcgan = MODELS["dcgan"]
    base = (*(argument for argument in tiny if argument not in dcgan), *MODELS["stylegan2_ada"], "optimizer=sgd")
    lazy = ("regularizer.r1_stylegan.every=2", "regularizer.path_length.every=2", "duration=6 steps")
    ada = ("augment.ada.p=0.5", "augment.ada.speed=1", "optimizer.G.lr=0.05", "optimizer.D.lr=0.05")
    results = [together(n, *base, *lazy, *ada, f"name={n}") for n in (1, 2)]
    assert [result.returncode for result in results] == [0, 0], results[1].stderr
    one, two = state("runs/1")["state"], state("runs/2")["state"]
    for part in ("game", "ema", "regularizers"):
        assert largest_difference(one[part], two[part]) < 1e-5, part
    assert one["regularizers"]["path_length.mean"] > 0


@pytest.mark.parametrize("model", ["dcgan", "wgan_gp", "stylegan2_ada", "cyclegan"])
def test_four_processes_equal_one(packed, tmp_path, monkeypatch, model):
    """Some with ADA, path lengths, mixing and groups of four images, or with the pool of older fakes."""
    monkeypatch.chdir(tmp_path)
    chosen = {
        "dcgan": (*NO_BATCH_NORM, "regularizer=[r1]", "regularizer.r1.every=2"),
        "wgan_gp": ("model.generator.norm=layer", "turns.n_critic=2"),
        "stylegan2_ada": (
            "batch_size=16",
            "regularizer.r1_stylegan.every=2",
            "regularizer.path_length.every=2",
            "augment.ada.p=0.5",
        ),
        "cyclegan": (),
    }
    # A D with a penalty of weight 10 would magnify rounding fifty times at 0.01.
    rates = {
        "dcgan": (0.003, 0.003),
        "cyclegan": (1e-5, 1e-4),
        "stylegan2_ada": (0.05, 0.05),
        "wgan_gp": (0.01, 0.001),
    }[model]
    plain = ("optimizer=sgd", *(f"optimizer.{p}.lr={rate}" for p, rate in zip("GD", rates, strict=True)))
    arguments = [*TINY, packed, *MODELS[model], *chosen[model], *plain, "data.validation=0", "every.log=2 steps"]
    results = [together(n, *arguments, f"name={n}") for n in (1, 4)]
    assert [result.returncode for result in results] == [0, 0], results[1].stderr
    one, four = state("runs/1")["state"], state("runs/4")["state"]
    for part in ("game", "ema", "regularizers"):
        if one[part]:
            assert largest_difference(one[part], four[part]) < 1e-5, part
    assert one["iteration"] == four["iteration"] == 4
    for a, b in zip(rows("runs/1"), rows("runs/4"), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("processes", [1, 2])
def test_runs_go_on_in_the_middle_of_their_schedules(packed, tmp_path, monkeypatch, processes):
    """R3GAN with all of its schedules: 30 steps, resumed after 13, are 30 undisturbed ones, bit for bit. With
    GANDUEL_EXAMPLES=all, 300 and 130."""
    count = 300 if THOROUGH else 30
    monkeypatch.chdir(tmp_path)
    small = [argument for argument in MODELS["r3gan"] if argument != "model=r3gan"]
    base = [
        "experiment=digits_r3gan",
        *TINY,
        packed,
        *small,
        "model.blocks=1",
        f"scheduler.length={4 * count // 3} steps",
    ]
    steps = {"whole": (count,), "parts": (13 * count // 30, count)}
    for name in steps:
        for end in steps[name]:
            result = together(processes, *base, f"name={name}", f"duration={end} steps")
            assert result.returncode == 0, result.stderr
    whole, parts = state("runs/whole")["state"], state("runs/parts")["state"]
    assert_equal(whole, parts)
    assert whole["steps"] == count
    settings = whole["optimizers"]["D"]["param_groups"][0]
    progress = (1 - math.cos(math.pi * (count - 1) / (4 * count // 3))) / 2
    assert settings["betas"][1] == pytest.approx(0.9 + 0.09 * progress)
    assert settings["lr"] == pytest.approx(2e-4 - 1.5e-4 * progress)


LAYER_NORM = """
from torch import nn
from ganduel.models import fastgan, projected

def replace(network):
    for layer in network.modules():
        for name, child in layer.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(layer, name, nn.GroupNorm(1, child.num_features))
    return network

class Generator(fastgan.Generator):
    def __init__(self, **settings):
        super().__init__(**settings)
        replace(self)

class Discriminator(projected.Discriminator):
    def __init__(self, **settings):
        super().__init__(**settings)
        replace(self.judges)
"""


def test_two_processes_equal_one_in_projected_gan(packed, tmp_path, monkeypatch):
    """Everything but batch normalisation, which on CPUs is that of each process, and which layer norm replaces here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("layer_norm.py").write_text(LAYER_NORM)
    own = [f"model.{player.lower()}._target_=layer_norm.{player}" for player in ("Generator", "Discriminator")]
    arguments = [*TINY, packed, *MODELS["projected"], "allow=[layer_norm]", *own, "optimizer=sgd"]
    arguments += ["optimizer.G.lr=1e-5", "optimizer.D.lr=0.001"]  # spectral norm makes small weights' gradients large
    results = [together(n, *arguments, f"name={n}") for n in (1, 2)]
    assert [result.returncode for result in results] == [0, 0], results[1].stderr
    assert together(1, *arguments, "name=start", "duration=1 steps").returncode == 0
    start, one, two = (state(f"runs/{name}")["state"] for name in ("start", "1", "2"))
    for part in ("game", "ema"):
        assert largest_difference(one[part], two[part]) < 1e-5, part
        assert largest_difference(one[part], start[part]) > 1e-3, part


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_one_of_two_processes_is_killed(train, tiny):
    """torchrun starts both again, they go on from latest.pt, and the end is that of an undisturbed run."""
    common = (*NO_BATCH_NORM, "duration=150 steps", "every.log=10 steps", "every.checkpoint=10 steps")
    common += (
        "every.sample=150 steps",
        "forecast=false",
        "optimizer=sgd",
        "optimizer.G.lr=0.001",
        "optimizer.D.lr=0.001",
    )
    assert together(2, *tiny, "name=whole", *common).returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    process = subprocess.Popen(
        [*command, "-m", "ganduel.train", *tiny, "name=killed", *common],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    latest = Path("runs/killed/checkpoints/latest.pt")
    while process.poll() is None and not (latest.exists() and state("runs/killed")["step"] >= 10):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    workers = [pid for pid in children(process.pid) if "RANK=1" in Path(f"/proc/{pid}/environ").read_text().split("\0")]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "(resumed at step" in errors
    assert_equal(state("runs/whole")["state"], state("runs/killed")["state"])
    assert rows("runs/whole") == rows("runs/killed")
