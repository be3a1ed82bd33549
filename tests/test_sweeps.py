"""Sweeps: which run was best, and what other launchers and sweepers need."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import children, rows, state

MEASURED = ("metric.which=[fid]", "metric.samples=64", "every.metric=2 steps", "every.sample=9 steps")


def needs(plugin: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(f"hydra_plugins.{plugin}") if importlib.util.find_spec("hydra_plugins") else None
    return pytest.mark.skipif(found is None, reason=f"needs {plugin}")


def best(run: str) -> float:
    return min(row["fid"] for row in rows(run, "metrics.jsonl"))


@pytest.mark.slow
def test_a_sweep_names_its_best_run(train, capsys):
    """By the best of each, which need not be the last."""
    assert train("-m", "seed=0,1", *MEASURED) == 0
    fids = {run: best(run) for run in ("runs/tiny/0", "runs/tiny/1")}
    run, fid = min(fids.items(), key=lambda pair: pair[1])
    assert f"best of 2 runs: {fid:.4g}, {run}\n" in capsys.readouterr().err


@pytest.mark.slow
@needs("hydra_optuna_sweeper")
def test_optuna_minimises_the_best_fid(tiny):
    """Three trials; in a process of its own, for Optuna's own warnings are not ours to mend."""
    sweep = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")
    space = ("optimizer.G.lr=interval(0.0001,0.1)", "loss=choice(hinge,nonsaturating)")
    command = [sys.executable, "-m", "ganduel.train", *sweep, *space, *tiny, *MEASURED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    fids = [best(f"runs/tiny/{job}") for job in range(3)]
    winner = fids.index(min(fids))
    found = yaml.safe_load(Path("runs/tiny/optimization_results.yaml").read_text())
    assert found["best_value"] == pytest.approx(min(fids))
    assert found["best_params"]["optimizer.G.lr"] == state(f"runs/tiny/{winner}")["config"]["optimizer"]["G"]["lr"]
    assert f"best of 3 runs: {min(fids):.4g}, runs/tiny/{winner}\n" in done.stderr


@pytest.mark.slow
@needs("hydra_joblib_launcher")
def test_jobs_side_by_side(tiny):
    command = [
        sys.executable,
        "-m",
        "ganduel.train",
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "seed=0,1",
    ]
    done = subprocess.run([*command, *tiny], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [state(f"runs/tiny/{job}")["config"]["seed"] for job in (0, 1)] == [0, 1]


@needs("hydra_submitit_launcher")
def test_jobs_for_slurm_are_queued_again(train, capsys):
    assert train("hydra/launcher=slurm", "hydra.launcher.partition=long", "--cfg", "hydra", "-p", "hydra.launcher") == 0
    launcher = yaml.safe_load(capsys.readouterr().out)
    assert launcher["partition"] == "long" and launcher["max_num_timeout"] > 100
    assert launcher["additional_parameters"] == {"requeue": True} and launcher["_target_"].endswith("SlurmLauncher")


@pytest.mark.slow
@needs("hydra_submitit_launcher")
def test_submitit_runs_the_jobs(tiny):
    """On this machine, as on a cluster: each job pickled and in a process of its own."""
    command = [sys.executable, "-m", "ganduel.train", "-m", "hydra/launcher=submitit_local", "seed=0,1"]
    done = subprocess.run([*command, *tiny], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [state(f"runs/tiny/{job}")["config"]["seed"] for job in (0, 1)] == [0, 1]


@pytest.mark.slow
@needs("hydra_submitit_launcher")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_submitit_queues_again_what_has_saved(tiny):
    """Its signal before the time is up, and its handler, here without Slurm: the job goes on from where it was."""
    long = ("duration=60 steps", "every.log=1 steps", "every.sample=60 steps", "every.checkpoint=60 steps")
    command = [sys.executable, "-m", "ganduel.train", "-m", "hydra/launcher=submitit_local", *tiny, *long]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = Path("runs/tiny/0/stats.jsonl")
    while not log.exists() or len(log.read_text().splitlines()) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    (controller,) = children(process.pid)
    (job,) = children(controller)
    os.kill(job, signal.SIGUSR2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    resumed = re.search(r"resumed at step (\d+)", Path("runs/tiny/0/train.log").read_text())
    assert resumed and int(resumed[1]) >= 5
    assert [row["step"] for row in rows("runs/tiny/0")] == [*range(1, 61)]
