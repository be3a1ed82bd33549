"""Sweeps: which run was best, and what other launchers and sweepers need."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import rows, state

MEASURED = ("metric.which=[fid]", "metric.samples=64", "every.metric=2 steps", "every.sample=9 steps")


def needs(plugin: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(f"hydra_plugins.{plugin}") if importlib.util.find_spec("hydra_plugins") else None
    return pytest.mark.skipif(found is None, reason=f"needs {plugin}")


def best(run: str) -> float:
    return min(row["fid"] for row in rows(run, "metrics.jsonl"))


def test_a_sweep_names_its_best_run(train, capsys):
    """By the best of each, which need not be the last."""
    assert train("-m", "seed=0,1", *MEASURED) == 0
    fids = {run: best(run) for run in ("runs/tiny/0", "runs/tiny/1")}
    run, fid = min(fids.items(), key=lambda pair: pair[1])
    assert capsys.readouterr().err.endswith(f"best of 2 runs: {fid:.4g}, {run}\n")


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
    assert done.stderr.endswith(f"best of 3 runs: {min(fids):.4g}, runs/tiny/{winner}\n")


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


@needs("hydra_submitit_launcher")
def test_submitit_runs_the_jobs(tiny):
    """On this machine, as on a cluster: each job pickled and in a process of its own."""
    command = [sys.executable, "-m", "ganduel.train", "-m", "hydra/launcher=submitit_local", "seed=0,1"]
    done = subprocess.run([*command, *tiny], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [state(f"runs/tiny/{job}")["config"]["seed"] for job in (0, 1)] == [0, 1]
