"""What a run says is explained, from one source for the legend's page and for TensorBoard; and the bar fits."""

import io
import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from ganduel.runs import legend
from ganduel.runs.legend import meaning
from ganduel.runs.logbook import short
from ganduel.system.terminal import Bar, bar_line

ROOT = Path(__file__).parents[1]
NOTES = ("health spread", "fid 85.2", "D 1.21", "G 0.874", "850 img/s", "D right 0.91/0.93/0.88", "spread 0.97")


def test_the_page_is_made_of_the_module():
    """Else: python scripts/config_reference.py legend > docs/legend.md"""
    assert (ROOT / "docs" / "legend.md").read_text() == legend.markdown()


def test_what_stands_first_says_most():
    """No name hides behind a more general one above it."""
    for name, text in legend.TAGS.items():
        assert meaning(name.replace("*", "_x")) == text, name
    assert meaning("loss/D_A").startswith("Loss of the discriminator") and meaning("loss/D_A") == meaning("loss/D")
    assert meaning("loss/r1").startswith("A penalty") and meaning("loss/dragan").startswith("A penalty")
    assert meaning("metric/fid_clip") == meaning("metric/fid") and meaning("speed") == ""


def test_a_run_explains_all_its_curves(train):
    """In TensorBoard, where the run has its folder's name. Training and validation share a chart."""
    arguments = ("augment=ada", "augment.ada.p=0.5", "regularizer=r1", "regularizer.r1.every=1", "every.log=2 steps")
    assert train(*arguments, "metric.which=fid", "metric.samples=100", "model.discriminator.norm=layer") == 0
    run = Path("runs/tiny")
    assert not (run / "tensorboard").exists()
    events = EventAccumulator(str(run))
    events.Reload()
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line if "/" in name} | {"metric/fid", "final/fid"}
    assert {"ada/p", "loss/r1", "validation/loss/D", "health/r_t", "health/gradient/D"} <= names
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        assert meaning(name) and events.SummaryMetadata(name).summary_description == meaning(name), name
    assert [point.step for point in events.Scalars("final/fid")] == [32]
    (config,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag[0] for part in layout.category for chart in part.chart}
    both = {name for name in names if re.fullmatch(charts["D"], name)}
    assert both == {"loss/D", "validation/loss/D"}


def test_the_words_of_the_bar_are_explained(trainer):
    from ganduel.runs.health import Health

    known = {*legend.BAR}
    assert {"D right", "spread", "health"} <= known
    health = Health(checks=1, lasting=1)
    said = health.status({"accuracy/real": 1.0, "accuracy/fake": 0.5, "health/spread": 0.9}, [""])
    assert set(said) <= known


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, " 62% ######----  681/1,094  00:31 left  health spread  fid 85.2  D 1.21"),
        (40, " 62%  681/1,094  00:31 left  fid 85.2"),
        (20, " 62%  681/1,094"),
        (4, " 62%"),
    ],
)
def test_the_bar_fits(columns, line):
    """It leaves out whole notes, the least important first, and cuts none."""
    assert bar_line(681, 1094, 31.4, NOTES, columns) == line
    assert len(line) <= columns


def test_the_bar_before_the_first_step():
    assert bar_line(0, 1094, None, (), 40) == "  0%  0/1,094"


def test_the_bar_on_a_terminal():
    """Its notes are those of the latest line of the log, at once, and it is as wide as asked."""
    file = io.StringIO()
    bar = Bar(total=10, initial=2, ncols=50, file=file)
    bar.update(3)
    bar.set_postfix_str("fid 85.2  G 0.874")
    last = file.getvalue().split("\r")[-1]
    assert last.startswith(" 50%  5/10  ") and last.rstrip().endswith("fid 85.2  G 0.874") and len(last) <= 50
    bar.close()


@pytest.mark.parametrize(
    ("value", "text"), [(5114.2, "5,114"), (-1234.5, "-1,234"), (84.12, "84.1"), (0.00123, "0.00123"), (2e6, "2e+06")]
)
def test_numbers_of_the_bar(value, text):
    assert short(value) == text
