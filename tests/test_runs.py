"""Runs that cannot be lost: resuming, stopping, changing, moving aside."""

import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import MODELS, NO_BATCH_NORM, TINY, assert_equal, rows, state

import ganduel
from ganduel import checkpoint
from ganduel.commands import cli
from ganduel.runs.folder import RunFolder, differences

RUN = Path("runs/tiny")
PENALTY = ("regularizer=[r1]", "regularizer.r1.every=3")  # a phase that is not due in every step


def spawn(arguments: tuple[str, ...], prepare: Callable[[], None] = lambda: None, **settings) -> subprocess.Popen:
    """The real command, in a process of its own, which calls `prepare` first. It hears SIGHUP, even under nohup."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ganduel.train", *arguments]

    def begin() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        prepare()

    return subprocess.Popen(command, env=environment, text=True, stdout=-1, stderr=-1, preexec_fn=begin, **settings)


class Finished(NamedTuple):
    folder: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def finished(packed, tmp_path_factory) -> Finished:
    """A run of four steps with metrics, which tests may read and not change."""
    folder, out, err = tmp_path_factory.mktemp("finished"), io.StringIO(), io.StringIO()
    settings = ("metric.which=[fid]", "metric.samples=100", "every.log=1 steps", "every.sample=1 steps")
    arguments = [*TINY, packed, *MODELS["dcgan"], *settings]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        assert cli.command("train", arguments) == 0
    return Finished(folder, out.getvalue(), err.getvalue())


def test_a_run_leaves_what_the_design_says(finished):
    assert finished.out == "runs/tiny\n"
    for word in (
        "run ",
        "device ",
        "data ",
        "networks ",
        "duration ",
        "resume ",
        "finished ",
        "gan-sample ckpt=runs/tiny",
    ):
        assert word in finished.err, word
    run = finished.folder / RUN
    found = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and not p.name.startswith("events.out.")}
    numbers = [f"000000.{8 * step:03d}" for step in range(5)]  # whole thousands would be one name for all
    assert found == {
        ".lock",
        "config.yaml",
        "overrides.txt",
        "train.log",
        "stats.jsonl",
        "metrics.jsonl",
        "samples/reals.png",
        *(f"samples/{folder}{seen}kimg.png" for folder in ("", "histograms/") for seen in numbers),
        "checkpoints/latest.pt",
        "checkpoints/previous.pt",
        "checkpoints/best.pt",
        *(f"checkpoints/{seen}kimg.pt" for seen in numbers[-3:]),
    }
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4]
    assert "model.channels=4" in (run / "overrides.txt").read_text().splitlines()
    assert [path.name for path in finished.folder.iterdir()] == ["runs"]


def test_tensorboard_has_every_curve_over_images_seen(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.folder / RUN))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    names = {"loss/D", "loss/G", "logits/real", "logits/fake", "accuracy/real", "accuracy/fake"}
    names |= {f"validation/{name}" for name in names}
    names |= {"learning_rate/D", "learning_rate/G", "speed/images_per_second", "memory/gigabytes", "metric/fid"}
    assert names <= scalars
    assert [e.step for e in events.Scalars("loss/D")] == [8, 16, 24, 32]
    assert [e.step for e in events.Scalars("metric/fid")][-1] == 32
    assert {"samples/reals", "samples/fakes", "samples/histograms"} <= set(events.Tags()["images"])
    assert any("hparams" in name for name in events.summary_metadata)


@pytest.mark.slow
def test_twenty_steps_resumed_to_forty_equal_forty(train):
    """Nothing of a checkpoint differs, and no line of the statistics is missing, repeated or changed."""
    common = ("every.log=3 steps", "every.checkpoint=7 steps", *PENALTY)
    assert train("name=a", "duration=20 steps", *common) == 0
    assert train("name=a", "duration=40 steps", *common) == 0
    assert train("name=b", "duration=40 steps", *common) == 0
    a, b = state("runs/a"), state("runs/b")
    assert a["step"] == 40 and a["images_seen"] == 320
    assert_equal(a["state"], b["state"])
    # The end of the first run wrote a line of its own, at step 20, which the longer one has not.
    whole = rows("runs/b")
    assert [r["step"] for r in whole] == [*range(3, 40, 3), 40]
    assert [r["step"] for r in rows("runs/a")] == [*range(3, 20, 3), 20, *range(21, 40, 3), 40]
    assert rows("runs/a")[:6] == whole[:6] and rows("runs/a")[8:] == whole[7:]


@pytest.mark.slow
def test_killed_at_random_moments(train, tiny):
    """SIGKILL, the same command again, and so on: the weights and the statistics are those of an undisturbed run."""
    common = ("duration=250 steps", "every.log=2 steps", "every.checkpoint=5 steps", "every.sample=50 steps", *PENALTY)
    assert train("name=whole", *common) == 0
    random.seed(0)
    killed = 0
    for _ in range(5):
        process = spawn((*tiny, "name=killed", *common))
        mark = rows("runs/killed")[-1]["step"] if Path("runs/killed/stats.jsonl").exists() else 0
        goal = mark + random.randint(3, 25)
        while process.poll() is None:
            if Path("runs/killed/stats.jsonl").exists():
                text = Path("runs/killed/stats.jsonl").read_text().splitlines()
                if text and text[-1].endswith("}") and json.loads(text[-1])["step"] >= goal:
                    process.kill()
            time.sleep(0.002)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed == 5
    assert train("name=killed", *common) == 0
    assert_equal(state("runs/whole")["state"], state("runs/killed")["state"])
    assert rows("runs/whole") == rows("runs/killed")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signals_save_and_end(train, tiny, number, code):
    common = ("duration=100000 steps", "every.log=1 steps", "every.sample=90000 steps", "every.checkpoint=90000 steps")
    process = spawn((*tiny, *common))
    while not (RUN / "stats.jsonl").exists() or len((RUN / "stats.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert "stopped and saved at step" in errors and "Traceback" not in errors
    saved = state(RUN)["step"]
    assert saved >= 3 and rows(RUN)[-1]["step"] == saved


@pytest.mark.slow
def test_sigusr1_saves_and_goes_on(tiny):
    process = spawn((*tiny, "duration=100000 steps", "every.log=1 steps", "every.checkpoint=90000 steps"))
    while not (RUN / "stats.jsonl").exists() or len((RUN / "stats.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    while state(RUN)["step"] < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    step = len((RUN / "stats.jsonl").read_text().splitlines())
    while len((RUN / "stats.jsonl").read_text().splitlines()) <= step:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_changed_settings_are_refused_then_taken(train, capsys):
    assert train() == 0
    before = (RUN / "checkpoints" / "latest.pt").read_bytes()
    assert train("duration=8 steps", "optimizer.G.lr=0.001") == 1
    error = capsys.readouterr().err
    assert "optimizer.G.lr: 0.0002 -> 0.001" in error and "accept_changes=true" in error
    assert (RUN / "checkpoints" / "latest.pt").read_bytes() == before
    assert train("duration=8 steps", "optimizer.G.lr=0.001", "accept_changes=true") == 0
    assert rows(RUN)[-1]["learning_rate/G"] == 0.001 and rows(RUN)[-1]["learning_rate/D"] == 0.0002
    assert "optimizer.G.lr: 0.0002 -> 0.001" in (RUN / "train.log").read_text()
    # A run whose epochs had another order, of an older ganduel, is refused, and goes on if asked to.
    content = checkpoint.load(RUN / "checkpoints" / "latest.pt")
    del content["data"]["order"]
    checkpoint.save(RUN / "checkpoints" / "latest.pt", content)
    capsys.readouterr()
    assert train("duration=9 steps", "optimizer.G.lr=0.001") == 1
    assert "ganduel: the order of an epoch's images, version 1 -> 2" in capsys.readouterr().err
    # The momentum of then, the settings of today: betas too.
    assert train("duration=9 steps", "optimizer.G.lr=0.001", "optimizer.G.betas=[0.0,0.9]", "accept_changes=true") == 0
    assert state(RUN)["state"]["optimizers"]["G"]["param_groups"][0]["betas"] in ([0.0, 0.9], (0.0, 0.9))


SMALLER = ("batch_size=4", "accept_changes=true")
FALLING = ("scheduler=cosine", "scheduler.length=20 steps")


@pytest.mark.slow
def test_a_run_goes_on_with_a_smaller_batch(train, capsys):
    """8 steps of 8 images and 8 of 4 are 96 images. They are a run's end, its files' names, and what curves lie over;
    and nothing of that is another when it is interrupted."""
    common = (*FALLING, "every.log=2 steps", "every.checkpoint=2 steps", "every.sample=100 steps", "keep=2")
    ends = {"a": ("duration=16 steps",), "b": ("duration=11 steps", "duration=16 steps")}
    for name, durations in ends.items():
        assert train(f"name={name}", *common, "duration=8 steps") == 0
        for duration in durations:
            capsys.readouterr()
            assert train(f"name={name}", *common, *SMALLER, duration) == 0
    said = capsys.readouterr().err
    assert "(resumed at step 11)" in said and "duration   16 steps = 0.1 kimg = 0.1 epochs, batch 4" in said
    assert "finished   16 steps = 0.1 kimg" in said
    expected = [(2, 16), (4, 32), (6, 48), (8, 64), (10, 72), (12, 80), (14, 88), (16, 96)]
    whole, parts = rows("runs/a"), [row for row in rows("runs/b") if row["step"] != 11]
    assert [(row["step"], row["images"]) for row in whole] == expected
    assert [row["learning_rate/G"] for row in whole] == pytest.approx(  # of the steps before
        [2e-4 * (1 + math.cos(math.pi * (step - 1) / 20)) / 2 for step, _ in expected]
    )
    assert whole[:5] == parts[:5] and whole[6:] == parts[6:]
    assert_equal(state("runs/a")["state"], state("runs/b")["state"])
    a = state("runs/a")
    assert (a["step"], a["images_seen"], a["state"]["iteration"]) == (16, 96, 16)
    numbered = sorted(p.name for p in Path("runs/a/checkpoints").glob("0*"))
    assert numbered == ["000000.088kimg.pt", "000000.096kimg.pt"]
    assert state("runs/a", "000000.096kimg")["step"] == 16
    assert train("name=a", *common, *SMALLER, "duration=0.09 kimg") == 1
    assert "duration=0.09 kimg is shorter than the 16 steps that runs/a has done already" in capsys.readouterr().err


@pytest.mark.slow
def test_so_many_kimg_are_so_many_images(train):
    """10 steps of 100 images and 30 of 50 are 2,500. Of files so many kimg apart, each has a name of its own."""
    kept = ("every.checkpoint=1 kimg", "every.sample=1 kimg", "keep=3", *NO_BATCH_NORM)
    assert train("batch_size=100", "duration=1 kimg", *kept) == 0
    assert train("batch_size=50", "duration=2.5 kimg", "accept_changes=true", *kept) == 0
    assert rows(RUN)[-1]["images"] == 2500 and state(RUN)["step"] == 40
    named = {p.name: state(RUN, p.stem)["images_seen"] for p in (RUN / "checkpoints").glob("0*")}
    assert named == {"000001kimg.pt": 1000, "000002kimg.pt": 1500, "000003kimg.pt": 2500}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), SMALLER])
def test_a_state_that_counts_iterations_alone_is_resumed(train, changes):
    """As checkpoints once were: their images are those of their own batch."""
    for name in ("old", "new"):
        assert train(f"name={name}", *FALLING, "duration=8 steps") == 0
    content = state("runs/old")
    del content["state"]["steps"], content["state"]["images_seen"]
    checkpoint.save(Path("runs/old/checkpoints/latest.pt"), {k: v for k, v in content.items() if k != "format"})
    for name in ("old", "new"):
        assert train(f"name={name}", *FALLING, *changes, "duration=12 steps") == 0
    old, new = state("runs/old"), state("runs/new")
    assert old["images_seen"] == new["images_seen"] == (64 + 4 * 4 if changes else 96)
    assert_equal(old["state"], new["state"])
    assert rows("runs/old")[-4:] == rows("runs/new")[-4:]


def test_a_run_with_the_names_of_older_versions_is_resumed(train):
    assert train() == 0
    content = state(RUN)
    config = content["config"]
    config["pace"] = config.pop("turns") | {"_target_": "ganduel.pace.Pace"}
    config["model"]["game"] = "ganduel.game.NoiseGame"
    config["data"]["margin"] = 0.0
    del config["data"]["load_size"]
    checkpoint.save(RUN / "checkpoints" / "latest.pt", {k: v for k, v in content.items() if k != "format"})
    assert ganduel.load(RUN / "checkpoints" / "latest.pt").sample(2).shape[0] == 2
    assert train("duration=8 steps") == 0
    assert state(RUN)["step"] == 8


@pytest.mark.slow
def test_networks_that_do_not_fit_are_refused(train, capsys):
    assert train() == 0
    assert train("duration=8 steps", "model.channels=8", "accept_changes=true") == 1
    assert "do not fit the settings (model.channels: 4 -> 8" in capsys.readouterr().err


@pytest.mark.slow
def test_what_may_change_freely(train):
    assert train() == 0
    free = (
        "duration=6 steps",
        "every.log=1 steps",
        "keep=1",
        "micro_batch=4",
        "workers=1",
        "metric.which=[fid]",
        "json=true",
    )
    assert train(*free, "metric.samples=50") == 0
    assert state(RUN)["step"] == 6


def test_other_images_are_refused(train, capsys, tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i in range(20):
        Image.new("L", (16, 16), i * 10).save(tmp_path / "photos" / f"{i:02d}.png")
    arguments = (
        "data=folder",
        "data.root=photos",
        "data.packed=photos/packed",
        "data.resolution=16",
        "data.channels=1",
    )
    assert train(*arguments) == 0
    Image.new("L", (16, 16), 255).save(tmp_path / "photos" / "03.png")
    assert train(*arguments, "duration=6 steps") == 1
    assert "the images themselves" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(train, capsys):
    assert train() == 0
    before = state(RUN)
    assert train() == 0
    assert_equal(before["state"], state(RUN)["state"])
    assert train("duration=2 steps") == 1
    assert "duration=2 steps is shorter" in capsys.readouterr().err


@pytest.mark.slow
def test_overwrite_moves_the_old_run_aside(train):
    assert train() == 0
    assert train("overwrite=true", "seed=1") == 0
    assert train("overwrite=true", "seed=2") == 0
    seeds = [state(f"runs/{name}")["config"]["seed"] for name in ("tiny.old-1", "tiny.old-2", "tiny")]
    assert seeds == [0, 1, 2]


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(train, capsys):
    assert train("duration=8 steps", "every.checkpoint=3 steps") == 0
    whole = state(RUN)
    latest = RUN / "checkpoints" / "latest.pt"
    content = bytearray(latest.read_bytes())
    with zipfile.ZipFile(latest) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 0xFF  # one byte of a tensor
    latest.write_bytes(content)
    assert train("duration=8 steps", "every.checkpoint=3 steps") == 0
    error = capsys.readouterr().err
    assert "warning: " in error and "damaged" in error and "resumed at step 6" in error
    assert_equal(whole["state"], state(RUN)["state"])
    for path in (RUN / "checkpoints").glob("[lp]*.pt"):
        path.write_bytes(b"nothing")
    assert train("duration=9 steps") == 1
    assert "overwrite=true starts anew" in capsys.readouterr().err


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(train, capsys):
    assert train("every.checkpoint=2 steps") == 0
    good = state(RUN)
    again = ("duration=40 steps", "optimizer.G.lr=1e30", "optimizer.D.lr=1e30", "accept_changes=true")
    assert train(*again) == 1
    error = capsys.readouterr().err
    assert "is not finite at step" in error and "of step 4" in error and error.splitlines()[-1].startswith("error: ")
    assert_equal(good["state"], state(RUN)["state"])


def test_out_of_memory_says_what_to_do(train, capsys, monkeypatch):
    from ganduel.trainer import Trainer

    def fail(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(Trainer, "iterate", fail)
    assert train("micro_batch=4") == 1
    error = capsys.readouterr().err
    assert "out of memory with micro_batch=4: set micro_batch=2" in error


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(train, tiny):
    """A limit on the size of files stands in for a full disk: the write fails half way."""
    import resource

    assert train("every.checkpoint=2 steps") == 0
    good = state(RUN)
    size = (RUN / "checkpoints" / "latest.pt").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    process = spawn((*tiny, "every.checkpoint=2 steps", "duration=8 steps"), prepare=limit)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "error: cannot write" in errors and "intact" in errors and "Traceback" not in errors
    assert_equal(good["state"], state(RUN)["state"])
    assert not list((RUN / "checkpoints").glob("*.tmp"))
    assert train("every.checkpoint=2 steps", "duration=8 steps") == 0
    assert state(RUN)["step"] == 8


@pytest.mark.slow
def test_periodic_checkpoints_hold_networks_only(train):
    kept = "every.checkpoint=10 steps", "every.sample=10 steps", "keep=2"
    assert train("duration=3 kimg", "batch_size=100", *kept, *NO_BATCH_NORM) == 0
    numbered = sorted(p.name for p in (RUN / "checkpoints").glob("[0-9]*"))
    assert numbered == ["000002kimg.pt", "000003kimg.pt"]
    assert set(state(RUN, "000003kimg")["state"]) == {"game", "ema"}
    for path in (RUN / "checkpoints").glob("*.pt"):
        assert torch.load(path, weights_only=True)["format"] == 1


@pytest.mark.parametrize(
    ("keep", "left"), [(0, []), (1, [6]), (2, [5, 6]), (3, [4, 5, 6]), (5, [2, 3, 4, 5, 6]), (None, [1, 2, 3, 4, 5, 6])]
)
def test_so_many_periodic_checkpoints_stay(tmp_path, keep, left):
    """The newest; while there are fewer of them, all. What is not numbered is never counted."""
    run = RunFolder(tmp_path)
    run.save({"state": {"game": {}, "ema": {}}})
    for number in range(1, 7):
        run.save_networks({"state": {"game": {}, "ema": {}}}, f"{number:06d}kimg.pt", keep)
        found = sorted(int(path.name[:6]) for path in run.checkpoints.glob("0*"))
        assert found == [n for n in range(1, number + 1) if keep is None or n > number - keep]
    assert found == left and (run.checkpoints / "latest.pt").exists()


@pytest.mark.slow
def test_init_from(train, capsys):
    assert train("name=old") == 0
    assert train("name=new", "init_from=runs/old", "seed=1", "optimizer.G.lr=1e-12", "optimizer.D.lr=1e-12") == 0
    old, new = state("runs/old")["state"]["game"], state("runs/new")["state"]["game"]
    name = "generators.G.input.0.weight"
    assert torch.allclose(old[name], new[name], atol=1e-6)
    assert train("name=other", "init_from=runs/old", "model.channels=8") == 1
    assert "init_from=runs/old: its networks are not those of this run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_has_a_run_folder_a_job(train):
    assert train("-m", "seed=0,1", "optimizer.G.lr=0.001") == 0
    seeds = [state(f"runs/tiny/{job}")["config"]["seed"] for job in (0, 1)]
    assert seeds == [0, 1]
    assert not Path("outputs").exists() and not Path("multirun").exists()
    assert train("seed=1", "optimizer.G.lr=0.001", "name=tiny/1", "duration=6 steps") == 0  # one of them goes on
    assert state("runs/tiny/1")["step"] == 6


@pytest.mark.slow
def test_a_kill_between_two_renames_loses_nothing(train):
    assert train("every.checkpoint=2 steps") == 0
    folder = RUN / "checkpoints"
    (folder / "latest.pt").rename(folder / "next.pt")  # as it is for a moment
    assert train("every.checkpoint=2 steps", "duration=6 steps") == 0
    assert [row["step"] for row in rows(RUN)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_damaged_checkpoint_does_not_replace_the_good_one(train, monkeypatch):
    assert train("every.checkpoint=2 steps") == 0
    folder = RUN / "checkpoints"
    good = state(RUN, "previous")
    (folder / "latest.pt").write_bytes(b"nothing")
    assert train("every.checkpoint=2 steps", "duration=6 steps", "every.sample=6 steps", "optimizer.G.lr=abc") == 1
    assert_equal(good["state"], state(RUN, "previous")["state"])
    run = RunFolder(RUN)
    loaded: list = []
    run.resume(loaded.append)
    (content,) = loaded
    run.save({k: v for k, v in content.items() if k not in ("format", "checksum")})
    assert_equal(good["state"], state(RUN)["state"])
    assert (folder / "latest.damaged").read_bytes() == b"nothing"


@pytest.mark.slow
def test_networks_without_a_state_are_not_trained_over(train, capsys):
    assert train() == 0
    for name in ("latest", "previous"):
        (RUN / "checkpoints" / f"{name}.pt").unlink()
    assert train() == 1
    assert "holds networks only, not the full training state" in capsys.readouterr().err


@pytest.mark.slow
def test_step_0_is_done_once(train):
    """A run that ended before its first checkpoint, or with it, begins anew."""
    settings = ("metric.which=[fid]", "metric.samples=20", "every.metric=2 steps")
    assert train(*settings) == 0
    for path in (RUN / "checkpoints").iterdir():
        path.unlink()
    assert train(*settings) == 0
    assert [row["step"] for row in rows(RUN, "metrics.jsonl")] == [0, 2, 4]


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGUSR1), (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)])
def test_the_most_urgent_signal_wins(train, monkeypatch, numbers):
    from ganduel.trainer import Trainer

    iterate = Trainer.iterate

    def interrupted(self) -> None:
        iterate(self)
        for number in numbers:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "iterate", interrupted)
    expected = signal.SIGTERM if signal.SIGTERM in numbers else signal.SIGINT
    assert train("every.checkpoint=4 steps") == 128 + expected
    assert state(RUN)["step"] == 1


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_who_handled_a_signal_before_is_asked_after_saving(train, monkeypatch, number):
    """As submitit, which queues a Slurm job again and ends the process."""
    from ganduel.trainer import Trainer

    iterate, saved = Trainer.iterate, []

    def interrupted(self) -> None:
        iterate(self)
        os.kill(os.getpid(), number)

    def again(*_: object) -> None:
        saved.append(state(RUN)["step"])
        sys.exit(255)

    monkeypatch.setattr(Trainer, "iterate", interrupted)
    before = signal.signal(number, again)
    try:
        with pytest.raises(SystemExit):
            train("every.checkpoint=4 steps")
    finally:
        signal.signal(number, before)
    assert saved == [1]


@pytest.mark.slow
def test_a_signal_ends_a_measurement(train, monkeypatch, capsys):
    from ganduel.game import LatentGame

    sample = LatentGame.sample

    def interrupted(self, generators, seed, *classes):
        if self.training and len(seed) == 8 and (RUN / "stats.jsonl").exists():  # the first batch of a measurement
            os.kill(os.getpid(), signal.SIGTERM)
        return sample(self, generators, seed, *classes)

    monkeypatch.setattr(LatentGame, "sample", interrupted)
    monkeypatch.setattr("ganduel.game.SHOWN", 4)
    measured = ("metric.which=[fid]", "metric.samples=100", "metric.batch=8", "every.metric=4 steps")
    assert train(*measured, "every.log=1 steps") == 143
    assert "a signal ended the measurement" in capsys.readouterr().err
    assert state(RUN)["step"] in (0, 4)


@pytest.mark.slow
def test_overwrite_moves_nothing_for_a_run_that_cannot_be(train):
    assert train() == 0
    assert train("overwrite=true", "batch_size=100000") == 1
    assert state(RUN)["step"] == 4 and not Path("runs/tiny.old-1").exists()


@pytest.mark.slow
def test_a_resumed_run_no_longer_needs_what_it_began_from(train):
    assert train("name=old") == 0
    assert train("name=new", "init_from=runs/old") == 0
    Path("runs/old").rename("runs/elsewhere")
    assert train("name=new", "init_from=runs/old", "duration=6 steps") == 0


@pytest.mark.slow
def test_what_was_allowed_is_not_stored(train):
    assert train("allow=[json]") == 0
    content = state(RUN)
    assert "allow" not in content["config"] and not any(o.startswith("allow") for o in content["overrides"])
    assert "allow" not in (RUN / "config.yaml").read_text()


def test_differences():
    old = {"seed": 0, "every": {"log": None}, "data": {"root": "a", "crop": None}, "optimizer": {"G": {"lr": 1}}}
    new = {"seed": 1, "every": {"log": "x"}, "data": {"root": "b", "crop": 3}, "optimizer": {"G": {"lr": 1, "eps": 2}}}
    assert differences(old, new) == ["seed: 0 -> 1", "data.crop: None -> 3", "optimizer.G.eps: absent -> 2"]
    assert differences(old, old) == []
