"""The scripts run as their first lines say."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ganduel import checkpoint, config
from ganduel.evaluation.features import DigitClassifier

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str, *arguments: str) -> str:
    """What it prints."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_benchmark_step_counts_every_phase(tmp_path):
    """Five turns of the critic, one of them in four with R1; two settings in turns."""
    tiny = "model=wgan_gp model.channels=4 data.resolution=16 batch_size=4 regularizer=[r1] regularizer.r1.every=4"
    kept = tmp_path / "times.json"
    printed = script("benchmark_step", "--rounds=2", f"--json={kept}", "--compare", tiny, f"{tiny} precision=bf16")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert [row[:2] for row in rows[:7]] == [
        ["phase", "in an iteration"],
        ["---", "---"],
        ["D", "5"],
        ["r1", "1.25"],
        ["G", "1"],
        ["batches, averages", "1"],
        ["**iteration**", ""],
    ]
    times = json.loads(kept.read_text())
    assert list(times) == [tiny, f"{tiny} precision=bf16"]
    for record in times.values():
        seconds, kernels = map(sum, zip(*[both[0] for both in record.values()], strict=True))
        assert seconds > 0 and kernels > 0 and all(len(rounds) == 2 for rounds in record.values())
    first = next(iter(times.values()))
    weights = {"D": 5, "r1": 1.25, "G": 1, "batches, averages": 1}
    totals = [sum(w * first[name][i][0] for name, w in weights.items()) for i in range(2)]
    assert f"({1000 * min(totals):.1f} to {1000 * max(totals):.1f})" in rows[6][2]
    assert "times as fast as the first" in printed


def test_benchmark_fid_times_every_part(tmp_path):
    """Of a measurement of so many images, and what the real ones cost once."""
    tiny = ("model=dcgan", "model.channels=4", "data.resolution=16", "batch_size=4")
    kept = tmp_path / "times.json"
    weights = tmp_path / "digits.pt"
    checkpoint.save(weights, {"classifier": DigitClassifier(10).state_dict()})
    settings = ("--features=digits", f"--weights={weights}", "--samples=100", "--batch=10", "--rounds=2")
    printed = script("benchmark_fid", *settings, f"--json={kept}", *tiny)
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert [row[:2] for row in found[2:]] == [
        ["making images", "10"],
        ["features", "10"],
        ["statistics", "10"],
        ["distance", "1"],
        ["reading reals", "6"],
        ["root of the reals' covariance", "1"],
    ]
    times = json.loads(kept.read_text())
    assert all(len(rounds) == 2 and min(map(min, rounds)) > 0 for rounds in times.values())
    assert "a measurement takes " in printed and "the real images, once: " in printed


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_scripts_explain_themselves(name):
    assert f"scripts/{name}.py" in script(name, "--help")


def test_mnist_table_trains_six_models_alike(monkeypatch):
    """Every row is a command that gan-train takes, for as many turns of G on batches of the same size."""
    spec = importlib.util.spec_from_file_location("mnist_table", SCRIPTS / "mnist_table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    commands = []
    monkeypatch.setattr(table.subprocess, "run", lambda command, **how: commands.append(command[2:]))
    monkeypatch.setattr(sys, "argv", ["mnist_table.py", "--turns=7", "--root=digits", "--runs=out"])
    table.main()
    rows = [config.compose("train", overrides) for module, *overrides in commands if module == "ganduel.train"]
    assert [row["name"] for row in rows] == [
        f"mnist_table/{name}" for name in ("vanilla", "dcgan", "lsgan", "wgan", "wgan_gp", "resnet")
    ]
    assert {(row["duration"], row["batch_size"], row["data"]["resolution"]) for row in rows} == {("7 steps", 64, 32)}
    assert commands[-1] == ["ganduel.report", "out/mnist_table"]
