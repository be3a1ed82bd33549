"""The reports' tables in docs/reports: every row has its recipe, and recipes say truly how long they take."""

import expected_times
import pytest
import report_rows
from test_recipes import NAMES, REPORTED, file

ROWS = list(report_rows.rows(report_rows.PAGES))
MADE = report_rows.made(ROWS)
PAGE = "| recipe | what it is | the report saw | here |\n|---|---|---|---|\n"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.report} {row.what[:40]}")
def test_every_row_has_its_recipe(row):
    assert report_rows.faults(row, MADE) == []


def test_all_reports_and_recipes_are_there():
    """A recipe that no row names would be found by nobody who reads the reports."""
    assert [sum(row.report == f"r{i}" and row.kind == "recipe" for row in ROWS) for i in range(5)] == [16, 7, 19, 15, 7]
    commands = " ".join(command for row in ROWS for command in row.commands) + " "
    assert {name for name in NAMES if f"experiment={name} " in commands} == {*REPORTED}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("| `gan-train experiment=mnist_dcgam` | networks | digits | - |", "unknown experiment 'mnist_dcgam'"),
        ("| `gan-train experiment=mnist_dcgan optimizer.G.rl=1` | networks | digits | - |", "unknown option"),
        ("| `gan-sample ckpt=x mode=gird` | networks | digits | - |", "unknown mode 'gird'"),
        ("| | networks | digits | - |", "no command"),
    ],
)
def test_a_row_without_its_recipe_is_named(row, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "r9.md").write_text(f"{PAGE}{row}\n| `gan-train experiment=demo` | another | | - |\n")
    monkeypatch.setattr("sys.argv", ["report_rows.py", str(tmp_path)])
    assert report_rows.main() == 1
    printed = capsys.readouterr()
    assert said in printed.err and "r9: networks: " in printed.err
    assert printed.out.splitlines()[-1] == "2 rows, 1 without a recipe"
    (tmp_path / "r9.md").write_text(PAGE.splitlines()[0])
    assert report_rows.main() == 1  # no rows at all are no good sign


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("gan-report runs/mnist_dcgan figures=paper`: `paper/losses.svg", None),
        ("gan-report runs/mnist_dcgam figures=paper`: `paper/losses.svg", "no recipe of this page makes that run"),
        ("gan-report runs/mnist_dcgan figures=paper`: `paper/loses.svg", "there is no figure loses"),
        ("gan-report runs/mnist_dcgan figures=paper`: `paper/collapse.svg", "needs metric.which=successive"),
        ("gan-report runs/mnist_dcgan figures=paper`: `paper/terms.svg", "no losses but those of G and D"),
        (
            "gan-report runs/places_wgan_gp-places_corridor figures=paper`: `paper/accuracy.svg",
            "its loss has no accuracy",
        ),
        ("gan-sample ckpt=runs/mnist_dcgan mode=interpolate mode.space=w", "it has no w"),
        ("gan-sample ckpt=runs/mnist_dcgan mode=translate input=photos direction=A2B", "not for its model"),
        ("gan-sample ckpt=runs/mnist_dcgan mode=histograms", None),
    ],
)
def test_a_figure_is_of_a_run_that_has_it(command, said, tmp_path):
    recipes = [f"| `gan-train experiment={name}` | a | b | - |" for name in ("mnist_dcgan", "places_wgan_gp")]
    table = f"\n\n| figure | command |\n|---|---|\n| a figure | `{command}` |\n"
    (tmp_path / "r9.md").write_text(PAGE + "\n".join(recipes) + table)
    rows = list(report_rows.rows(tmp_path))
    found = report_rows.faults(rows[-1], report_rows.made(rows))
    assert (said is None and found == []) or said in " ".join(found)


@pytest.mark.parametrize("name", REPORTED)
def test_expected_times_are_those_of_the_networks(name):
    header = " ".join(line[1:].strip() for line in file(name).splitlines())
    assert f"Expected: {expected_times.readable(expected_times.expected(name))}" in header
