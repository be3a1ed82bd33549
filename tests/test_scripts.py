"""The scripts run as their first lines say."""

import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ganduel import checkpoint
from ganduel.config.compose import compose
from ganduel.evaluation.digit_classifier import DigitClassifier

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str, *arguments: str) -> str:
    """What it prints."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
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


@pytest.mark.slow
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
        ["reading reals", "13"],
        ["root of the reals' covariance", "1"],
    ]
    times = json.loads(kept.read_text())
    assert all(len(rounds) == 2 and min(map(min, rounds)) > 0 for rounds in times.values())
    assert "a measurement takes " in printed and "the real images, once: " in printed


@pytest.mark.slow
def test_benchmark_winograd_compares_where_it_suits():
    rows = [
        line.split("|")[1:-1] for line in script("benchmark_winograd", "--rounds=1", "1x256x32", "1x64x32").splitlines()
    ]
    size, *times, ratio, errors = (cell.strip() for cell in rows[2])
    assert size == "1x256x32" and all(float(time) > 0 for time in times) and float(ratio.split()[0]) > 0
    own, direct = map(float, errors.split(","))
    assert 0 < direct < own < 1e-5  # so they were two ways
    assert rows[3][1].strip() == "does not suit"


@pytest.mark.slow
def test_gpu_check_tells_what_it_found_and_what_failed(tmp_path, monkeypatch):
    """Parts in processes of their own; rows of what ends badly are kept, and the rest goes on."""
    import gpu_check

    out = tmp_path / "check"
    script(
        "gpu_check",
        "--device=cpu",
        "--seconds=100",
        f"--out={out}",
        "--only",
        "numerics",
        "compile",
        "--families",
        "dcgan",
    )
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["machine"]["device"] == "cpu"
    assert [row["part"] for row in found["rows"]] == ["numerics"] * 4 + ["waiting", "compile"]
    assert not any(row["ok"] is False for row in found["rows"])
    assert out.with_suffix(".md").read_text().count("| numerics |") == 4

    def broken(bench):
        bench.tell("first", 1.0, "times", ok=True)
        bench.guarded("second", lambda: 1 / 0)
        bench.guarded("third", lambda: bench.tell("third", ok=True))

    monkeypatch.setitem(gpu_check.MEASUREMENTS, "waiting", broken)
    rows = tmp_path / "rows.jsonl"
    gpu_check.run_part("waiting", "cpu", 60.0, rows)
    told = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["what"], row["ok"]) for row in told] == [("first", True), ("second", False), ("third", True)]
    assert "ZeroDivisionError" in told[1]["note"]


def test_gpu_check_measures_gradients_and_ratios(tmp_path):
    import gpu_check

    told = []
    bench = gpu_check.Bench("cpu", 600.0, tmp_path, lambda what, *rest, **more: told.append((what, *rest, more)))
    gpu_check._numerics(bench, "dcgan")
    assert [row[0] for row in told] == [f"dcgan {precision}: {name}" for precision in ("fp32", "bf16") for name in "DG"]
    assert told[0][1] == 0 and 0 < told[2][1] < 0.4 and all(row[3]["ok"] for row in told)
    told.clear()
    gpu_check.against(bench, gpu_check.begun(bench, "dcgan", []), "dcgan", "precision=bf16", 0.5)
    assert told[0][0] == "precision=bf16" and told[0][1] > 0 and "after 6 iterations" in told[0][3]["note"]


def test_gpu_check_compares_captures_and_collectives_and_looks_into_phases(tmp_path):
    """Rehearsed on the CPU, where nothing is captured: the same weights, bit for bit."""
    import gpu_check

    told = []
    tell = lambda what, *rest, **more: told.append((what, *rest, more))  # noqa: E731
    bench = gpu_check.Bench("cpu", 600.0, tmp_path, tell, ["dcgan"])
    gpu_check.captures(bench)
    gpu_check.collectives(bench)
    half = told.pop(1)
    assert half[0] == "precision=fp16" and half[-1]["note"] == "this check needs CUDA"
    captured = ["dcgan", "optimizer=sgd", "optimizer=rmsprop", "dcgan"]
    assert [(row[0], row[1], row[3]["ok"]) for row in told] == [(what, 0, True) for what in captured], told
    one, other = (gpu_check.after_steps(bench.trainer("dcgan", f"seed={seed}", toy=True)) for seed in (0, 1))
    gpu_check.told_apart(bench, "other seeds", one, other)
    assert told[-1][1] > gpu_check.APART and told[-1][3]["ok"] is False
    told.clear()
    gpu_check.profile(bench)
    assert [row[0] for row in told] == ["dcgan: D", "dcgan: G"]
    assert all(row[1] > 0 and "% idle; aten::" in row[3]["note"] for row in told)


@pytest.mark.slow
def test_gpu_check_measures_quality(tmp_path):
    import gpu_check

    told = []
    tell = lambda what, *rest, **more: told.append((what, *rest, more))  # noqa: E731
    gpu_check.quality(gpu_check.Bench("cpu", 600.0, tmp_path, tell, ["dcgan"]))
    assert [row[0] for row in told] == [f"dcgan {precision}, seed 0" for precision in ("fp32", "bf16")]
    assert all(row[1] > 0 and row[3]["note"].startswith("16 images in ") for row in told)


def test_tables_are_made_of_what_gpu_check_found(tmp_path):
    """One section a date and device, the newest first; of the gradients of a family, the largest difference."""
    import benchmark_tables

    for date, values in (("2026-01-02-h100", (0.1, 0.3)), ("2026-03-04-h200", (0.25, 0.2))):
        rows = [
            {"part": "numerics", "what": f"dcgan bf16: {p}", "value": v, "unit": "apart", "ok": v < 0.3, "note": ""}
            for p, v in zip("DG", values, strict=True)
        ]
        rows.append(
            {"part": "speed dcgan", "what": "a=1", "value": 1234.5, "unit": "x", "ok": None, "note": "1|2"},
        )
        (tmp_path / date).mkdir()
        machine = {"device": date[-4:], "torch": "2.11", "seconds": 3}
        (tmp_path / date / "check.json").write_text(json.dumps({"machine": machine, "rows": rows}))
        (tmp_path / date / "other.json").write_text("[1]")
    text = f"before\n{benchmark_tables.BEGIN}\nold\n{benchmark_tables.END}\nafter\n"
    made = benchmark_tables.page(text, sorted(tmp_path.iterdir()))
    assert made.startswith("before\n") and made.endswith("after\n") and "old" not in made
    assert made.index("### 2026-03-04, h200") < made.index("### 2026-01-02, h100")
    assert "| dcgan bf16 | 0.25 apart | |" in made and "| dcgan bf16 | 0.3 apart | **failed** |" in made
    assert (
        made.count("| `dcgan` a=1 | 1,234 x | 1/2 |") == 2
        and benchmark_tables.page(made, [*tmp_path.iterdir()]) == made
    )


def test_the_page_has_the_tables_of_its_numbers(monkeypatch):
    import benchmark_tables

    monkeypatch.setattr(sys, "argv", ["benchmark_tables.py", "--check"])
    benchmark_tables.main()


@pytest.mark.slow
def test_benchmark_order_and_start_print_ratios():
    printed = script("benchmark_order", "--rounds=1", "--count=100000")
    assert "open 10^9 images" in printed and "an epoch's blocks against torch.randperm: " in printed
    rows = [line.split("|")[1:-1] for line in script("benchmark_start", "--rounds=1", "--models").splitlines()]
    assert rows[2][0].strip() == "torch" and rows[2][2].strip() == "1.00 (1.00 to 1.00)"
    assert rows[3][0].strip() == "gan-train --help" and float(rows[3][4].split()[0]) < 1  # it imports no PyTorch


def test_the_textbook_does_the_work_that_ours_does():
    """The same parameters, and every network moves."""
    import benchmark_plain as plain

    def count(network):
        return sum(p.numel() for p in network.parameters())

    sizes = {"dcgan": (3_576_704, 2_765_568), "cyclegan": (11_378_179, 2_764_737)}
    assert (count(plain.dcgan_generator(100, 64)), count(plain.dcgan_discriminator(64, torch.nn.BatchNorm2d))) == (
        sizes["dcgan"]
    )
    assert (count(plain.resnet(64, 9)), count(plain.patch_discriminator(64))) == sizes["cyclegan"]
    for model, loop in plain.TEXTBOOK.items():
        images = [torch.rand(2, 3, 64, 64) * 2 - 1 for _ in range(2 if model == "cyclegan" else 1)]
        for do in loop(*images, width=2).values():
            do()


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_scripts_explain_themselves(name, monkeypatch, capsys):
    """In this process, which has imported what they import. Others here start them as commands."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    assert not ended.value.code
    assert f"scripts/{name}.py" in capsys.readouterr().out


def test_mnist_table_trains_six_models_alike(monkeypatch):
    """Every row is a command that gan-train takes, for as many turns of G on batches of the same size."""
    spec = importlib.util.spec_from_file_location("mnist_table", SCRIPTS / "mnist_table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    commands = []
    monkeypatch.setattr(table.subprocess, "run", lambda command, **how: commands.append(command[2:]))
    monkeypatch.setattr(table.cli, "command", lambda name, arguments: commands.append([name, *arguments]))
    monkeypatch.setattr(sys, "argv", ["mnist_table.py", "--turns=7", "--root=digits", "--runs=out"])
    with pytest.raises(SystemExit):
        table.main()
    rows = [compose("train", overrides) for module, *overrides in commands if module == "ganduel.train"]
    assert [row.name for row in rows] == [
        f"mnist_table/{name}" for name in ("vanilla", "dcgan", "lsgan", "wgan", "wgan_gp", "resnet")
    ]
    assert {(row.duration, row.batch_size, row.data.resolution) for row in rows} == {("7 steps", 64, 32)}
    assert commands[-1] == ["report", "out/mnist_table"]
