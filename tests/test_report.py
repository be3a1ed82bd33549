"""gan-report: the table of what runs were set to and what came of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ganduel.commands import cli, report
from ganduel.config.schema import Report
from ganduel.report.runs import differing_settings, markdown, over_seeds, read


def write_run(path: Path, typed: str, config: dict, stats: list[dict] = (), metrics: list[dict] = ()) -> Path:
    """A run folder, as gan-train leaves it."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "overrides.txt").write_text("".join(f"{line}\n" for line in typed.split()))
    for name, lines in (("stats", stats), ("metrics", metrics)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def line(step: int, real: float, fake: float, loss: float, speed: float) -> dict:
    return {
        "step": step,
        "images": 10 * step,
        "validation/accuracy/real": real,
        "validation/accuracy/fake": fake,
        "validation/loss/G": loss,
        "speed/images_per_second": speed,
    }


@pytest.fixture
def pair(tmp_path, monkeypatch) -> list[dict]:
    """A sweep of two runs: the rows of its report."""
    monkeypatch.chdir(tmp_path)
    stats = [line(1, 0.5, 0.7, 2.0, 5.0), line(3, 1.0, 0.8, 1.0, 10.0)]
    measured = [{"by": "gan-train", "step": 1, "images": 10, "fid": fid, "recall": fid / 10} for fid in (9.0, 2.0, 4.0)]
    by_hand = {"by": "gan-fid", "step": 1, "images": 10, "fid": 1.0}
    write_run(
        Path("sweep/10"), "optimizer.D.lr=0.1 name=b", {"optimizer": {"D": {"lr": 0.1}}}, stats, [*measured, by_hand]
    )
    write_run(Path("sweep/9"), "optimizer.D.lr=0.2 name=a", {"optimizer": {"D": {"lr": 0.2}}})
    return report.main(Report(["sweep"], None, None, False, 0, False), [])["runs"]


def test_the_columns_of_the_report(pair):
    """Average accuracy of D and best loss of G on held-out images, for each value that was swept over."""
    assert pair[1] == {
        "run": "sweep/10",
        "optimizer.D.lr": 0.1,
        "fid, best": 2.0,
        "fid, last": 4.0,
        "kid, best": None,
        "kid, last": None,
        "isc, best": None,
        "isc, last": None,
        "recall, best": pytest.approx(0.9),  # the more, the better
        "recall, last": pytest.approx(0.4),
        **{
            f"{name}, {of}": None
            for name in ("coverage", "ppl", "reverse_kl", "successive_fid")
            for of in ("best", "last")
        },
        "accuracy of D, average": pytest.approx(0.75),
        "accuracy of D, best": pytest.approx(0.9),
        "loss of G, average": 1.5,
        "loss of G, best": 1.0,
        "steps": 3,
        "images/s": 7.5,
        "alarms": None,
        "time": pytest.approx(10 / 5 + 20 / 10),
    }


def test_a_run_that_has_just_begun_is_there(pair):
    """And 9 comes before 10."""
    assert pair[0]["run"] == "sweep/9" and pair[0]["optimizer.D.lr"] == 0.2
    assert pair[0]["fid, best"] is None and pair[0]["images/s"] is None and pair[0]["steps"] == pair[0]["time"] == 0


def test_runs_at_absolute_and_relative_paths(pair, tmp_path):
    """They have no common folder until all are absolute."""
    assert cli.command("report", ["sweep/9", str(tmp_path / "sweep" / "10")]) == 0
    assert (tmp_path / "sweep" / "report.html").exists()


def test_markdown():
    rows = [
        {"run": "a|b", "lr": 0.00012346, "kid": None, "time": 3725.6},
        {"run": "c", "lr": 7, "kid": None, "time": 0},
    ]
    assert markdown(rows).splitlines() == [
        "| run | lr | time |",
        "| --- | ---: | ---: |",
        r"| a\|b | 0.0001235 | 1:02:06 |",
        "| c | 7 | 0:00:00 |",
    ]


def columns(tmp_path: Path, *runs: tuple[str, dict]) -> list[dict]:
    """The settings that differ between runs of these (command lines, configurations)."""
    folders = [write_run(tmp_path / str(i), *run) for i, run in enumerate(runs)]
    return differing_settings([read(folder) for folder in folders])


def test_settings_that_were_typed_differently(tmp_path):
    """Of a group the choice, of a key the value in force; not what follows from them, nor what names the run."""
    assert columns(
        tmp_path,
        ("model=dcgan seed=1 name=a", {"model": {"width": 64}, "seed": 1, "regularizer": {}, "name": "a"}),
        (
            "model=wgan name=b regularizer=[r1]",
            {"model": {"width": 8}, "seed": 0, "regularizer": {"r1": {"weight": 5}}},
        ),
    ) == [
        {"model": "dcgan", "seed": 1, "regularizer": "[]"},
        {"model": "wgan", "seed": 0, "regularizer": "[r1]"},
    ]


def test_settings_that_a_run_was_not_told_or_does_not_have(tmp_path):
    """Of another family, or by an experiment: its model is not the default, and is called by its name."""
    rows = columns(
        tmp_path,
        ("experiment=x micro_batch=null", {"model": {"name": "wgan", "critic": 5}, "micro_batch": None}),
        ("model=dcgan model.width=8", {"model": {"name": "dcgan", "width": 8}, "micro_batch": None}),
    )
    assert rows == [
        {"experiment": "x", "model": "wgan", "model.width": None},
        {"experiment": None, "model": "dcgan", "model.width": 8},
    ]
    assert markdown(rows).splitlines()[2:] == ["| x | wgan | - |", "| - | dcgan | 8 |"]


def test_settings_that_differ_although_the_same_was_typed(tmp_path):
    assert columns(tmp_path, ("seed=1", {"seed": 1, "lr": 0.1}), ("seed=1", {"seed": 1, "lr": 0.2})) == [
        {"lr": 0.1},
        {"lr": 0.2},
    ]


def test_means_over_seeds(tmp_path):
    """The last values of two groups. Of 1, 2 and 6, the mean is 3; the squares of the differences sum to 14, so the
    standard deviation is the root of 7 and its error the root of 7 / 3. A run that measured nothing is left out."""
    folders = []
    for loss, values in (("hinge", [1.0, 2.0, 6.0, None]), ("wasserstein", [0.5])):
        for seed, value in enumerate(values):
            typed = f"loss={loss} seed={seed} name={loss}-{seed}"
            measured = (
                [] if value is None else [{"by": "gan-train", "step": 1, "images": 8, "modes": x} for x in (9.0, value)]
            )
            config = {"loss": {"_target_": loss}, "seed": seed, "name": f"{loss}-{seed}"}
            folders.append(write_run(tmp_path / loss / str(seed), typed, config, metrics=measured))
    runs, rows = report.read_runs(folders)
    assert over_seeds(runs, rows) == [
        {"loss": "hinge", "runs": 3, "modes": "3 ± 1.5"},
        {"loss": "wasserstein", "runs": 1, "modes": "0.5"},
    ]
    runs, rows = report.read_runs(folders[3:])
    assert over_seeds(runs, rows) == []  # no two runs differ in their seeds alone


def test_the_line_being_written_is_left_out(tmp_path):
    run = write_run(tmp_path / "a", "", {}, [line(1, 0.5, 0.5, 1.0, 1.0)])
    with open(run / "stats.jsonl", "a") as file:
        file.write('{"step": 2, "ima')
    assert [row["step"] for row in read(run).stats] == [1]


@pytest.mark.slow
def test_command(train, capsys):
    """On what gan-train leaves behind."""
    assert train("-m", "optimizer.D.lr=0.001,0.002", "metric.which=[fid]", "metric.samples=20", "name=sweep") == 0
    assert "gan-report runs/sweep\n" in capsys.readouterr().err.partition("compare them: ")[2]
    assert cli.command("report", ["runs/sweep"]) == 0
    head, _, first, second = capsys.readouterr().out.splitlines()
    for column in ("optimizer.D.lr", "fid, best", "fid, last", "accuracy of D, average", "loss of G, best", "images/s"):
        assert f"| {column} |" in head
    assert first.startswith("| runs/sweep/0 | 0.001 |") and second.startswith("| runs/sweep/1 | 0.002 |")
    assert cli.command("report", ["runs/sweep/1", "runs/sweep/0", "json=true"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)["runs"]] == ["runs/sweep/1", "runs/sweep/0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "gan-report runs/a runs/b"),
        (["a b,c(d'\\"], r"runs=a b,c(d'\ is no run folder"),
        (["runs/a", "jsn=true"], "Did you mean: json?"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert cli.command("report", arguments) == 1
    assert words in capsys.readouterr().err


def test_no_pytorch():
    """A table of text files must not take seconds."""
    code = "import sys, ganduel.commands.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_that_are_lists(tmp_path, capsys):
    """They are told as one types them, and may differ between runs of several seeds."""
    fids = [{"by": "gan-train", "step": 1, "images": 10, "fid": 2.0}]
    for i, (betas, fused) in enumerate([([0.5, 0.9], True), ([0.5, 0.9], True), ([0.0, 0.9], False)]):
        config = {"optimizer": {"betas": betas, "fused": fused}, "seed": i}
        write_run(tmp_path / str(i), "", config, [line(1, 0.5, 0.5, 1, 1)], fids)
    assert cli.command("report", [str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "| [0.5,0.9] | true | 1 |" in text and "| [0.0,0.9] | false | 2 |" in text
    assert "| [0.5,0.9] | true | 2 | 2 ± 0 |" in text  # two seeds
