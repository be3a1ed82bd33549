"""The commands as functions: they do what the commands do, and what they return shows in a notebook."""

import io
import json
import math
import re
import subprocess
import sys
import threading
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_equal, picture, rows, state
from PIL import Image
from test_report import line, write_run

import ganduel
from ganduel.api import Picture, Samples
from ganduel.commands import cli, train
from ganduel.system.errors import Interrupted

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tour.ipynb"


def test_a_run_is_that_of_the_command_and_goes_on(tiny):
    """Two halves by the function are, bit for bit, the whole by the command. A finished run stays as it is."""
    plain = [argument for argument in tiny if not argument.startswith(("duration=", "name=", "every.sample="))]
    plain.append("every.sample=1 steps")
    assert cli.command("train", [*plain, "duration=4 steps", "name=whole"]) == 0
    ganduel.train(*plain, "duration=2 steps", "name=halves")
    run = ganduel.train(*plain, duration="4 steps", name="halves")
    assert rows(run.path) == rows("runs/whole")
    assert_equal(state(run.path)["state"], state("runs/whole")["state"])
    again = ganduel.train(*plain, duration="4 steps", name="halves")
    assert again.history == run.history and again.history["step"][-1] == 4
    assert repr(again) == "Run('runs/halves': step 4, 32 images seen)"
    assert torch.equal(run.sample([3, 8]).tensor, ganduel.load("runs/whole").bytes([3, 8]))
    assert list(run.pictures) == [0, 8, 16, 24, 32]


def test_values_are_written_as_one_types_them(monkeypatch):
    asked = []
    monkeypatch.setattr(train, "main", lambda config, typed: asked.append((config, typed)) or {"run": "."})
    monkeypatch.setattr(ganduel.api.Run, "__init__", lambda self, path: None)
    ganduel.train("model=dcgan", duration="9 steps", seed=3, forecast=False, micro_batch=None, regularizer=["r1", "r2"])
    ((config, typed),) = asked
    assert typed == [
        *("model=dcgan", "duration=9 steps", "seed=3", "forecast=false", "micro_batch=null", "regularizer=[r1,r2]"),
    ]
    assert config.duration == "9 steps" and config.seed == 3 and list(config.regularizer) == ["r1", "r2"]


def test_history_has_columns_of_one_length(tmp_path):
    """Statistics and metrics by their steps; what was not measured at a step is NaN."""
    stats = [line(2, 0.5, 0.75, 1.5, 10.0), {"step": 4, "images": 40, "loss/G": 2.0, "alarms": {"collapse": "text"}}]
    metrics = [{"by": "gan-train", "step": s, "images": 10 * s, "fid": float(s)} for s in (0, 4)]
    by_hand = {"by": "gan-fid", "step": 4, "images": 40, "fid": 99.0}
    history = ganduel.open_run(write_run(tmp_path / "a", "", {}, stats, [*metrics, by_hand])).history
    assert history["step"] == [0, 2, 4] and history["images"] == [0, 20, 40]
    assert history["fid"][::2] == [0.0, 4.0] and math.isnan(history["fid"][1])
    assert history["validation/loss/G"][1] == 1.5 and history["loss/G"][2] == 2.0
    assert all(len(column) == 3 for column in history.values()) and "alarms" not in history


def test_errors_are_one_line(tmp_path):
    """No error leads to another, and a notebook shows no lines of code."""
    with pytest.raises(ganduel.UserError, match="Did you mean: dcgan") as caught:
        ganduel.train("model=dcgn")
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert caught.value._render_traceback_() == [f"error: {caught.value}"]
    with pytest.raises(ganduel.UserError, match="call it once a value"):
        ganduel.train("-m", "seed=0,1")
    with pytest.raises(ganduel.UserError, match="has no value") as caught:
        ganduel.train("model=dcgan", "loss")
    assert caught.value.__context__ is None
    with pytest.raises(ganduel.UserError, match="is no run folder"):
        ganduel.open_run(tmp_path)


def test_a_stopped_cell_says_that_the_run_is_saved(monkeypatch):
    def stop(*_):
        raise Interrupted(130)

    monkeypatch.setattr(train, "main", stop)
    with pytest.raises(KeyboardInterrupt, match="the run is saved; the same call goes on") as caught:
        ganduel.train("model=dcgan")
    assert caught.value.__context__ is None


def test_signals_are_left_alone_outside_of_the_main_thread():
    """Where Python lets nobody catch them."""
    found = []

    def ask():
        with train.interruptions() as caught:
            found.append(caught)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [([], {})]


def test_a_measurement_is_that_of_gan_fid(train, capsys):
    assert train("metric.which=[fid]", "metric.samples=20") == 0
    capsys.readouterr()
    assert cli.command("fid", ["ckpt=runs/tiny", "metric.samples=20", "json=true"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert ganduel.open_run("runs/tiny").measure("metric.samples=20")["fid"] == expected["fid"]


def test_pictures_show_enlarged_without_blur(tmp_path):
    """A grid of 2 x 2 images of 8 pixels is 22 pixels wide: 23 times as large is still at most 512."""
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    samples = Samples(images)
    shown = np.array(Image.open(io.BytesIO(samples._repr_png_())))
    assert shown.shape == (22 * 23, 22 * 23, 3)
    assert np.array_equal(shown, np.kron(np.array(samples.image), np.ones((23, 23, 1))).astype(np.uint8))
    assert len(samples) == 4 and repr(samples) == "4 images, 8x8x3" and len(samples[1:3]) == 2
    assert [np.array(image).tolist() for image in samples] == images.permute(0, 2, 3, 1).tolist()
    assert Samples(images[:, :1])[0].mode == "L"
    samples.save(tmp_path / "a.png")
    assert np.array_equal(np.array(Picture.read(tmp_path / "a.png").image), np.array(samples.image))
    run = write_run(tmp_path / "run", "", {}, [{"step": 2, "images": 8}])
    samples.save(picture(run / "samples" / "000001kimg.png"))
    inside = re.search(r"base64,([^\"]+)", ganduel.open_run(run)._repr_html_())[1]
    assert b64decode(inside) == samples._repr_png_()


def test_importing_is_cheap():
    code = "import sys, ganduel; sys.exit(bool({'torch', 'hydra', 'omegaconf', 'PIL'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_the_tour_runs(tmp_path):
    """Every cell of the notebook, in a kernel, with fewer steps; what it shows are pictures, numbers and a bar."""
    nbformat, nbclient = (pytest.importorskip(name, reason="the extra [dev]") for name in ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel", reason="the extra [dev]")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    text = re.sub(r"\d+ kimg", "4 steps", nbformat.writes(notebook)).replace("metric.samples=1000", "metric.samples=64")
    notebook = nbformat.reads(text, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("image/png") == 4 and kinds.count("text/html") == 2
    printed = "".join(output.text for output in shown if output.output_type == "stream")
    assert "4/4" in printed and "Did you mean: hinge" in printed  # the bar of tqdm; a mistake
    assert (tmp_path / "runs" / "hinge" / "checkpoints" / "latest.pt").exists()


def test_the_tour_is_stored_with_what_it_showed():
    """So that those who only read it see pictures; no path of a machine is left in it."""
    notebook = json.loads(NOTEBOOK.read_text())
    shown = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
    assert shown.count("image/png") >= 3 and "image/gif" in shown and not re.search(r"/(tmp|home|root|work)/", shown)
