"""What a bad day brings: damaged states and logs, a terminal that is gone, file systems without locks, full disks, jobs
of a sweep that fail."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_equal, rows, state
from filelock import FileLock
from tensorboard.summary.writer.record_writer import RecordWriter

from ganduel import checkpoint
from ganduel.commands import cli, sweep
from ganduel.commands.train import interruptions
from ganduel.report import runs
from ganduel.runs.folder import RunFolder
from ganduel.runs.recorder import Recorder
from ganduel.system.errors import UserError
from ganduel.system.files import Damaged, locked, numbered, parsing, read_rows, writing
from ganduel.system.terminal import Steady, say

RUN = Path("runs/tiny")


@pytest.mark.parametrize(
    "error",
    [
        IndexError("pop from empty list"),
        RecursionError(),
        TypeError("x\ny"),
        MemoryError(),
        OSError("cut off"),
        EOFError(),
    ],
)
def test_whatever_a_parser_raises_is_one_line(error):
    message = r"^a\.pt: is damaged, or is not a checkpoint \(.*\); do this$"
    with pytest.raises(Damaged, match=message) as told, parsing("a.pt", "a checkpoint", "do this"):
        raise error
    assert "\n" not in str(told.value) and type(error).__name__ in str(told.value)


def test_what_is_no_damage_stays_what_it_is():
    with pytest.raises(UserError, match=r"^mine$") as told, parsing("a", "b"):
        raise UserError("mine")
    assert type(told.value) is UserError
    with pytest.raises(UserError, match="Permission denied") as told, parsing("a", "b"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert not isinstance(told.value, Damaged)
    with pytest.raises(KeyboardInterrupt), parsing("a", "b"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("number", [errno.EIO, errno.EISDIR])
def test_a_bad_sector_is_damage(number):
    with pytest.raises(Damaged, match=r"^a\.pt: is damaged"), parsing("a.pt", "a checkpoint"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("name", ["stats.jsonl", "config.yaml"])
def test_a_pipe_in_place_of_a_file_is_not_read(tmp_path, capsys, name):
    run = RunFolder(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 1")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)  # who reads it waits for ever
    runs.read(tmp_path)
    assert f"{tmp_path / name}: cannot be read (it is no regular file)" in capsys.readouterr().err
    with pytest.raises(UserError, match="no regular file"):
        run.cut_back(name, 2) if name == "stats.jsonl" else run.stored_config()


def test_a_checkpoint_on_a_bad_sector_falls_back(tmp_path, monkeypatch):
    run, bad, read = RunFolder(tmp_path), tmp_path / "checkpoints" / "latest.pt", torch.load
    for step in (1, 2):
        run.save({"config": {}, "data": {}, "step": step, "images_seen": 8, "state": {}})

    def load(file, *arguments, **settings):
        if file == bad:
            raise OSError(errno.EIO, "Input/output error")
        return read(file, *arguments, **settings)

    monkeypatch.setattr(torch, "load", load)
    seen: list[int] = []
    found, (warning,) = run.resume(lambda content: seen.append(content["step"]))
    assert found and seen == [1] and "Input/output error" in warning
    run.save({"config": {}, "data": {}, "step": 3, "images_seen": 8, "state": {}})
    assert bad.with_suffix(".damaged").exists() and (tmp_path / "checkpoints" / "previous.pt").exists()


def test_a_failed_write_names_the_file_and_the_way_out(tmp_path):
    with (
        pytest.raises(UserError, match=r"cannot write .*x.png .*No space left.*make room"),
        writing(tmp_path / "x.png"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def spoil(content: dict[str, Any], how: str) -> None:
    """Make a state that can be read and has a checksum, but cannot be used."""
    moments = next(iter(content["state"]["optimizers"]["G"]["state"].values()))
    if how == "nothing":
        content["state"] = None
    elif how == "no player":
        del content["state"]["optimizers"]["D"]
    elif how == "weights":
        content["state"]["game"]["generators.G.input.0.weight"] = torch.zeros(3)
    elif how == "moments":
        moments["exp_avg"] = moments["exp_avg"][:-1].clone()
    elif how == "counts":
        content["state"]["iteration"] = "four"
    elif how == "metric":
        content["metric"] = 7
    elif how == "means":
        content["state"]["stats"]["averages"] = {"D": torch.zeros(3)}
    elif how == "configuration":
        content["config"] = {"model": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["nothing", "no player", "weights", "moments", "counts", "metric", "means", "configuration"]
)
def test_a_state_that_cannot_be_used_falls_back(train, capsys, how):
    assert train("every.checkpoint=2 steps") == 0
    previous = state(RUN, "previous")
    path = RUN / "checkpoints" / "latest.pt"
    content = checkpoint.load(path)
    spoil(content, how)
    checkpoint.save(path, {key: value for key, value in content.items() if key != "format"})
    capsys.readouterr()
    code = train("every.checkpoint=2 steps")
    said = capsys.readouterr().err
    if how == "configuration":  # then it is another experiment, or damaged: in no case it is trained over
        assert code == 1 or "resuming from the checkpoint before it" in said
        return
    assert code == 0 and "resuming from the checkpoint before it" in said and "resumed at step 2" in said
    assert previous["step"] == 2 and state(RUN)["step"] == 4
    assert (RUN / "checkpoints" / "latest.damaged").exists()
    assert train("name=whole", "every.checkpoint=2 steps") == 0
    assert_equal(state("runs/whole")["state"], state(RUN)["state"])


def numbered_checkpoints(name: str) -> list[str]:
    return [path.name for path in numbered(Path("runs") / name / "checkpoints", ".pt")]


class Killed(BaseException):
    """SIGKILL in the middle of a function."""


@pytest.mark.parametrize("step", [6, 8])
def test_a_kill_between_the_two_files_of_a_checkpoint(train, monkeypatch, step):
    """The state is there, and its numbered file is not. In the end, the files are those of an undisturbed run."""
    settings = ("every.checkpoint=2 steps", "every.sample=8 steps", "duration=8 steps", "keep=2")
    assert train("name=whole", *settings) == 0
    write = RunFolder.save_networks

    def save_networks(self: RunFolder, content: dict[str, Any], *arguments: Any) -> None:
        if content["step"] == step:
            raise Killed
        write(self, content, *arguments)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(RunFolder, "save_networks", save_networks)
        train("name=cut", *settings)
    assert train("name=cut", *settings) == 0
    assert numbered_checkpoints("cut") == numbered_checkpoints("whole") and len(numbered_checkpoints("cut")) == 2


def test_an_interruption_displaces_no_numbered_checkpoint(train, monkeypatch):
    settings = ("every.checkpoint=2 steps", "every.sample=8 steps", "duration=6 steps", "keep=2")
    write = Recorder.write_statistics

    def signalled(self: Recorder) -> None:
        write(self)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "write_statistics", signalled)
        assert train(*settings, "every.log=1 steps") == 128 + signal.SIGTERM
    assert state(RUN)["step"] == 5
    assert train(*settings, "every.log=1 steps") == 0
    assert numbered_checkpoints("tiny") == ["000000.032kimg.pt", "000000.048kimg.pt"]


BAD = (
    b"\xff\xfe",
    b"3",
    b"{}",
    b"[1",
    b'"x"',
    b'{"step": null, "images": 1}',
    b'{"step": 1, "images": "x"}',
    b"[" * 9999,
)


@pytest.fixture
def log(tmp_path: Path) -> RunFolder:
    """A run folder with statistics, among them bad lines, a line of gan-fid and one that a process is writing."""
    good = [json.dumps({"step": step, "images": 8 * step, "loss/D": 0.5}).encode() for step in (1, 2, 3)]
    foreign = json.dumps({"by": "gan-fid", "step": 9, "images": 72}).encode()
    lines = [good[0], *BAD, good[1], foreign, good[2]]
    (tmp_path / "stats.jsonl").write_bytes(b"".join(line + b"\n" for line in lines) + b'{"step": 4, "im')
    return RunFolder(tmp_path)


def test_bad_lines_of_a_log_are_set_aside_and_named(log, capsys):
    log.cut_back("stats.jsonl", 2)
    kept = [json.loads(line)["step"] for line in (log.path / "stats.jsonl").read_text().splitlines()]
    assert kept == [1, 2, 9]
    assert (log.path / "stats.jsonl.damaged").read_bytes().split(b"\n")[:-1] == list(BAD)
    said = capsys.readouterr().err
    assert f"{len(BAD)} damaged lines; they are in {log.path}/stats.jsonl.damaged" in said
    assert said.strip() in (log.path / "train.log").read_text()
    log.cut_back("stats.jsonl", 2)
    assert capsys.readouterr().err == ""


# A short file that stands for 9^40 values, by aliases of aliases
BILLION_LAUGHS = b"x0: &x0 [a]\n" + b"".join(
    b"x%d: &x%d [%s]\n" % (i, i, b",".join([b"*x%d" % (i - 1)] * 9)) for i in range(1, 41)
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"a: [b\n"),
        ("config.yaml", b"- 1\n"),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", BILLION_LAUGHS),
        ("overrides.txt", b"\xff\xfe\n"),
        ("stats.jsonl", b'{"step": 1, "images": 8\n'),
        ("stats.jsonl", b'{"step": 4, "images": 32, "loss/G": "x"}\n'),
        ("metrics.jsonl", b'{"by": "gan-train", "step": 4, "images": 32, "fid": [1]}\n'),
    ],
)
def test_a_bad_file_takes_nothing_else_from_the_report(tmp_path, capsys, name, content):
    whole = {
        "config.yaml": b"seed: 1\n",
        "overrides.txt": b"seed=1\n",
        "stats.jsonl": b'{"step": 4, "images": 32, "loss/D": 0.5, "speed/images_per_second": 0}\n',
        "metrics.jsonl": b'{"by": "gan-train", "step": 4, "images": 32, "fid": 2.0}\n',
    }
    for file, text in (whole | {name: content}).items():
        (tmp_path / file).write_bytes(text)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "1 (copy)kimg.png").write_bytes(b"x")
    assert cli.command("report", [str(tmp_path), f"out={tmp_path / 'r.html'}"]) == 0
    assert (tmp_path / "r.html").exists()
    assert f"warning: {tmp_path / name}" in capsys.readouterr().err
    read = runs.read(tmp_path)
    intact = {"config": {"seed": 1}, "typed": {"seed": "1"}}
    damaged = {"config.yaml": "config", "overrides.txt": "typed"}.get(name)
    assert all(getattr(read, what) == value for what, value in intact.items() if what != damaged)
    assert numbered(tmp_path / "samples", ".png") == []


def test_features_of_a_damaged_configuration_are_those_of_the_checkpoint(tmp_path):
    run = RunFolder(tmp_path)
    assert run.stored_features() == "auto"
    content = {"config": {"metric": {"features": "clip"}}, "data": {}, "step": 1, "images_seen": 8, "state": {}}
    checkpoint.save(run.checkpoints / "latest.pt", content)
    (tmp_path / "config.yaml").write_text("[]: 3]")
    assert run.stored_features() == "clip"
    (tmp_path / "config.yaml").write_text("metric: {features: digits}")
    assert run.stored_features() == "digits"


class Gone(io.StringIO):
    """A terminal that somebody has closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch, tmp_path):
    gone = Steady(Gone())
    assert gone.write("abc") == 3 and gone.flush() is None and not gone.isatty()
    with contextlib.redirect_stderr(gone):
        say("nobody reads this")
        RunFolder(tmp_path).note("but it is in the log")
    assert "but it is in the log" in (tmp_path / "train.log").read_text()
    monkeypatch.setattr("sys.stderr", Gone())
    assert cli.command("train", ["misspelt=1"]) == 1
    assert isinstance(sys.stderr, Gone)


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_progress(tiny):
    """The reader of stderr ends at once, and that of stdout, too."""
    command = [sys.executable, "-m", "ganduel.train", *tiny, "every.log=1 steps", "duration=30 steps"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=300) == 0
    assert state(RUN)["step"] == 30 and rows(RUN)[-1]["step"] == 30
    assert "finished" in (RUN / "train.log").read_text()


@pytest.mark.parametrize("ignored", [False, True])
def test_sighup_ends_a_run_except_under_nohup(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with interruptions() as (caught, _):
            os.kill(os.getpid(), signal.SIGHUP)
            assert caught == ([] if ignored else [signal.SIGHUP])
        assert signal.getsignal(signal.SIGHUP) is (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def hear() -> None:
    """In a child: hear Ctrl-C, even if these tests run in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("library", "number", "code"),
    [
        ("_yaml", signal.SIGINT, -signal.SIGINT),
        ("libtorch", signal.SIGINT, -signal.SIGINT),
        ("libtorch", signal.SIGUSR1, 0),
    ],
)
def test_signals_while_it_imports(tiny, library, number, code):
    """Ctrl-C ends it without a traceback; a request to save, before there is anything to save, does nothing.

    Hydra is what imports YAML's library.
    """
    command = [sys.executable, "-m", "ganduel.train", *tiny]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, preexec_fn=hear)
    while library not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code and "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed(tmp_path, data_folder, closed):
    """As under `>&-`, and in some daemons: a command does its work, and its exit code is right."""
    start = [sys.executable, "-c", "from ganduel.commands.start import data; data()", "data=folder", "workers=1"]
    settings = [f"data.root={data_folder}", "data.resolution=8", f"data.packed={tmp_path / 'packed'}"]
    for wrong, code in ([], 0), (["data.resolution=-1"], 1):
        arguments = [*start, *settings, *wrong]
        process = subprocess.Popen(arguments, stdout=-1, stderr=-1, preexec_fn=lambda: [os.close(n) for n in closed])
        _, errors = process.communicate(timeout=300)
        assert process.returncode == code and b"Traceback" not in errors, errors
    assert any((tmp_path / "packed").glob("*.json"))


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_a_text_that_finds_no_room_is_one_line(monkeypatch, capsys, flag):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = cli.command("data", [flag])
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert code == 1 and capsys.readouterr().err == "error: data: No space left on device; make room and run again\n"


def test_tensorboard_without_room_ends_no_run(train, capsys, monkeypatch):
    """Its thread meets the full disk, and the run hears of it at the next entry."""
    real, count = RecordWriter.write, []

    def write(self: RecordWriter, data: bytes) -> None:
        count.append(data)
        if len(count) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    assert train("every.log=1 steps") == 0
    said = capsys.readouterr().err
    assert said.count("TensorBoard's files cannot be written (No space left on device)") == 1
    assert "Traceback" not in said and [row["step"] for row in rows(RUN)] == [1, 2, 3, 4]


@pytest.mark.parametrize("error", [OSError(errno.ENOTSUP, "Operation not supported"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_costs_one_line(tmp_path, capsys, monkeypatch, error):
    def acquire(self: FileLock, timeout: float) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with RunFolder(tmp_path).held():
        assert capsys.readouterr().err.count("this file system has no locks") == 1
    monkeypatch.setattr(error, "errno", errno.EACCES, raising=False)
    if isinstance(error, OSError):
        with pytest.raises(OSError), locked(tmp_path / "x"):
            pass


def test_overwrite_leaves_runs_below_where_they_are(tmp_path):
    outer, inner = RunFolder(tmp_path / "x"), RunFolder(tmp_path / "x" / "0")
    with outer.held(), inner.held():
        outer.record({"seed": 0}, [])
        (outer.path / "samples").mkdir()
    with inner.held():
        assert outer.move_aside() == tmp_path / "x.old-1"
        assert inner.path.exists() and not (outer.path / "config.yaml").exists()
    assert {path.name for path in (tmp_path / "x.old-1").iterdir()} == {"config.yaml", "overrides.txt", "samples"}
    assert outer.move_aside() is None


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    unfinished = [tmp_path / "config.yaml.tmp", run.checkpoints / "000001kimg.pt.tmp"]
    for path in (*unfinished, tmp_path / "mine.tmp.txt"):
        path.write_text("")
    with run.held():
        assert not any(path.exists() for path in unfinished) and (tmp_path / "mine.tmp.txt").exists()


def test_a_sweep_and_a_run_share_no_name_by_default():
    with sweep.planned("train", ["model=dcgan,vanilla", "seed=0,1"]) as plan:
        assert plan.overrides == ["model=dcgan,vanilla", "seed=0,1", "name=dcgan-digits-sweep"]
    with sweep.planned("train", ["seed=0,1", "name=mine"]) as plan:
        assert plan.overrides == ["seed=0,1", "name=mine"]


@pytest.mark.slow
def test_a_job_that_diverges_ends_alone(train, capsys):
    assert train("-m", "optimizer.G.lr=1e-4,1e30,2e-4") == 1
    assert [(RUN / str(job) / "checkpoints" / "latest.pt").exists() for job in range(3)] == [True, True, True]
    assert [state(RUN / str(job))["step"] for job in (0, 2)] == [4, 4]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 1 of 3 jobs failed: runs/tiny/1 (") and "not finite" in last
    assert not (RUN / ".jobs").exists()


def test_what_a_launcher_raises_is_one_line(train, capsys, monkeypatch):
    def launch(*_: Any) -> None:
        raise RuntimeError('Could not detect "srun"')

    monkeypatch.setattr(sweep.hydra, "main", lambda **_: lambda job: launch)
    assert train("-m", "seed=0,1") == 1
    assert capsys.readouterr().err == 'error: the sweep has stopped (RuntimeError: Could not detect "srun")\n'


def test_a_search_goes_on_where_it_ended(tmp_path):
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    from ganduel.runs import search

    path = tmp_path / "s" / "search.json"
    assert search.remaining(path, 3) == (3, [0, 1, 2])

    def study() -> Any:
        return optuna.create_study(storage=search.Trials(str(path)), study_name="search", load_if_exists=True)

    first = study()
    one, two, three = (first.ask() for _ in range(3))
    rates = [trial.suggest_float("lr", 0, 1) for trial in (one, two, three)]
    first.tell(one, 0.5)
    first.tell(three, state=optuna.trial.TrialState.FAIL)  # and the second is cut short
    assert search.remaining(path, 5) == (3, [1, 3, 4])
    assert search.remaining(path, 1) == (0, [])
    again = study()
    assert [trial.value for trial in again.trials] == [0.5, None, None] and again.best_params == {"lr": rates[0]}
    waiting = again.ask()
    assert waiting.number == 1 and waiting.suggest_float("lr", 0, 1) == rates[1]
    again.tell(waiting, 0.25)
    assert again.ask().number == 3
    assert study().best_value == 0.25
    path.write_text("[{}]")
    with pytest.raises(UserError, match=r"is damaged, or is not a search .*; delete it to search anew"):
        search.remaining(path, 3)


def test_rows_that_are_being_written_are_no_damage(tmp_path):
    assert read_rows(tmp_path / "absent.jsonl") == ([], [])
    (tmp_path / "a.jsonl").write_text('{"step": 1, "images": 8}\n{"step": 2')
    assert [row["step"] for row, _ in read_rows(tmp_path / "a.jsonl").rows] == [1]
    assert read_rows(tmp_path / "a.jsonl").bad == []
