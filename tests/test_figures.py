"""gan-report figures=FOLDER: what each figure shows of a run, and the files."""

import sys

import pytest
from test_report import write_run

from ganduel.commands import cli
from ganduel.report.figures import FIGURES, plots
from ganduel.report.runs import read


def line(step: int, **values: float) -> dict:
    return {"step": step, "images": 1000 * step, **{name.replace("__", "/"): value for name, value in values.items()}}


@pytest.fixture
def runs(tmp_path, monkeypatch) -> list:
    """A GAN that has measured FID, and a CycleGAN."""
    monkeypatch.chdir(tmp_path)
    gan = [
        line(1, loss__D=1.0, loss__G=2.0, loss_ema__D=1.5, accuracy__real=0.5, accuracy__fake=0.7),
        line(2, loss__D=3.0, loss__G=4.0, loss_ema__D=2.0, accuracy__real=1.0, accuracy__fake=0.8),
    ]
    gan[1] |= {"validation/accuracy/real": 0.25, "validation/accuracy/fake": 0.75, "validation/loss/G": 5.0}
    fids = [{"by": "gan-train", "step": i, "images": 1000 * i, "fid": 9.0 - i, "fid_note": "x"} for i in (0, 1)]
    cycle = [line(1, loss__D_A=1.0, loss__G_A=2.0, loss__cycle_A=3.0, loss__identity_B=4.0, total__G=9.0)]
    write_run(tmp_path / "gan", "", {"name": "gan"}, gan, fids)
    write_run(tmp_path / "cycle", "", {"name": "cycle"}, cycle)
    return [read(tmp_path / name) for name in ("gan", "cycle")]


def test_losses_of_both_are_in_one_plot(runs):
    """A loss with a smoothed line is faint beside it."""
    assert FIGURES["losses"].lines(runs[0]) == [
        ("Loss of D", [(1, 1.0), (2, 3.0)], True, False),
        ("Loss of D", [(1, 1.5), (2, 2.0)], False, False),
        ("Loss of G", [(1, 2.0), (2, 4.0)], False, False),
    ]
    assert [one.label for one in FIGURES["critic"].lines(runs[0])] == ["Loss of D", "Loss of D"]


def test_all_terms_of_cyclegan_are_in_one_plot(runs):
    """As in report R4's figures 6 and 7."""
    terms = [one.label for one in FIGURES["terms"].lines(runs[1])]
    assert terms == ["Loss of D_A", "Loss of G_A", "Loss of cycle_A", "Loss of identity_B", "Loss with penalties of G"]
    assert [one.label for one in FIGURES["losses"].lines(runs[1])] == ["Loss of D_A", "Loss of G_A"]


def test_one_accuracy_counts_real_and_generated_images(runs):
    """As in report R2."""
    training, held_out = FIGURES["accuracy"].lines(runs[0])
    assert training.points == [(1000, pytest.approx(0.6)), (2000, pytest.approx(0.9))] and not training.dashed
    assert held_out == ("held-out images", [(2000, 0.5)], False, True)
    assert FIGURES["accuracy"].lines(runs[1]) == []


def test_runs_are_in_one_plot_where_they_are_compared(runs):
    found = {name: lines for name, _, lines in plots(runs)}
    assert {"losses-gan", "losses-cycle", "terms-cycle", "accuracy", "fid"} <= found.keys()
    assert found["fid"] == [("FID", [(0, 9.0), (1000, 8.0)], False, False)]
    write_run(runs[0].path.parent / "other", "", {}, [], [{"by": "gan-train", "step": 0, "images": 0, "fid": 7.0}])
    both = {name: lines for name, _, lines in plots([runs[0], read(runs[0].path.parent / "other")])}
    assert [one.label for one in both["fid"]] == ["gan", "other"]  # beside each other, by the names of the runs


@pytest.mark.slow
def test_the_files(runs, capsys):
    pytest.importorskip("matplotlib")
    assert cli.command("report", ["gan", "cycle", "figures=paper", "out=report.html"]) == 0
    written = {path.name for path in (runs[0].path.parent / "paper").iterdir()}
    assert {"losses-gan.png", "losses-gan.svg", "fid.svg", "accuracy.png"} <= written
    drawing = (runs[0].path.parent / "paper" / "losses-cycle.svg").read_text()
    assert "Loss of D_A" in drawing and "turns of G" in drawing  # as text, which papers can search
    assert cli.command("report", ["cycle", "gan", "figures=paper", "out=report.html"]) == 0
    assert (runs[0].path.parent / "paper" / "losses-cycle.svg").read_text() == drawing
    assert "figures paper/" in capsys.readouterr().err


def test_without_matplotlib(runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.command("report", ["gan", "figures=paper", "out=report.html"]) == 1
    assert "figures=FOLDER needs the package matplotlib: pip install 'ganduel[figures]'" in capsys.readouterr().err


def test_a_run_without_numbers(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "new", "", {"name": "new"})
    assert cli.command("report", ["new", "figures=paper"]) == 1
    assert "the runs have logged nothing yet" in capsys.readouterr().err
