"""Every command that is printed runs as printed: bash and zsh split it alike, and the program knows all its words."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import printed
import pytest
import report_rows
from conftest import TINY
from test_slips import SLIPPED

from ganduel.commands import cli
from ganduel.config.help import help_text
from ganduel.config.slips import SLIPS, answer
from ganduel.runs.health import ALARMS
from ganduel.system.terminal import program

SHELLS = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}  # as people type: zsh then knows no comments
STUB = '#!/bin/sh\nprintf "%s\\0" "$NUMBER" "$#" "${0##*/}" "$@" >> "$RECORD"\n'
NAMES = "gan-train gan-sample gan-fid gan-data gan-export gan-import gan-report torchrun tensorboard pip python python3"


VALUES = {"data": "mnist", "model": "wgan", "loss": "hinge", "regularizer": "r1", "metric.which": "fid"}
VALUES |= {"data.resolution": "64", "optimizer.G.betas": "0.5", "metric.samples": "100", "optimizer.G.lr": "1e-3"}


@pytest.fixture(scope="module")
def output(packed: str, tmp_path_factory: pytest.TempPathFactory) -> list[printed.Printed]:
    """Commands that the programs say: help, answers to slips, alarms, banner, end of a run, what to do after Ctrl-C."""
    found = []
    for name in cli.COMMANDS:
        for line in help_text(name, []).splitlines():
            if line.startswith("  gan-"):
                found.append(printed.Printed(f"gan-{name} --help", printed.with_comment(line)))
    for slip in SLIPS:
        value = next((value for key, value in VALUES.items() if slip.instead.startswith(f"{key}=")), "1")
        for command in slip.commands.split():
            needed = ["ckpt=x"] if command in ("sample", "export") and "ckpt" not in slip.instead else []
            told = answer(command, [*needed, f"{slip.keys.split()[0]}={value}"], [])
            found += printed.said(f"slips of gan-{command}", told)
    for command, arguments, _ in SLIPPED:
        found += printed.said("slips", answer(command, arguments, ["-m"]) or "")
    for name, alarm in ALARMS.items():
        advised = re.findall(r"[\w.]+=[^\s,]+", alarm.advice)
        found += [printed.Printed(f"alarm {name}", f"gan-train {words}") for words in advised]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as text:
        own = tmp_path_factory.mktemp("own options") / "conf"
        (own / "loss").mkdir(parents=True)
        (own / "loss" / "mine.yaml").write_text("# One's own.\n_target_: ganduel.losses.hinge\n")
        patch.chdir(own.parent)
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # as where it is activated
        arguments = [f"--config-dir={own}", "loss=mine", "allow=os,re", *TINY, packed, "model.channels=4"]
        assert cli.command("train", [*arguments, "augment=affine,diffaugment", "every.log=1 steps"]) == 0
        ran = printed.said("gan-train", text.getvalue())
    assert [one.words[0] for one in ran] == [
        "gan-train",
        *["gan-sample", "gan-fid", "gan-report", "tensorboard", "gan-train"],
    ]
    assert all("allow=os,re" in one.words for one in ran if one.words[0] in ("gan-sample", "gan-fid", "gan-train"))
    assert f"--config-dir={own}" in ran[0].words and ran[-1].words[-1] == "duration=8 steps"
    return [*found, *ran]


@pytest.fixture(scope="module")
def everything(output: list[printed.Printed]) -> list[printed.Printed]:
    return [*printed.pages(), *printed.files(), *output]


def split_by(shell: str, commands: list[printed.Printed], folder: Path) -> dict[int, list[list[str]]]:
    """Number of a command -> the words that programs got from it, as this shell splits them."""
    (folder / "bin").mkdir()
    (folder / "bin" / "stub").write_text(STUB)
    (folder / "bin" / "stub").chmod(0o755)
    for name in NAMES.split():
        (folder / "bin" / name).symlink_to("stub")
    (folder / "runs" / "a").mkdir(parents=True)  # what runs/* finds
    record = folder / "record"
    script = "".join(f"export NUMBER={number}\n{command.text}\n" for number, command in enumerate(commands))
    where = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "RECORD": str(record),
        "HOME": str(folder),
        "PS1": "",
        "PS2": "",
    }
    subprocess.run(SHELLS[shell], input=script, text=True, cwd=folder, env=where, capture_output=True, timeout=300)
    words, found = record.read_text().split("\0")[:-1], dict[int, list[list[str]]]()
    while words:
        number, count = int(words.pop(0)), int(words.pop(0))
        found.setdefault(number, []).append(words[: count + 1])
        del words[: count + 1]
    return found


@pytest.mark.parametrize("shell", SHELLS)
def test_both_shells_split_them_alike(everything, shell, tmp_path):
    """A bracket without quotes, a comment behind a command and a path with a space are what goes wrong in them."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    commands = [one for one in everything if not re.search(r"\bmake\b|pytest|mkdocs|<", one.text)]
    assert len(commands) > 300
    got = split_by(shell, commands, tmp_path)
    faults = []
    for number, one in enumerate(commands):
        wanted = [word for word in one.words if not re.match(r"[A-Z_]+=", word)]
        for separator in ("&&", ";"):  # only the first of several
            wanted = wanted[: wanted.index(separator)] if separator in wanted else wanted
        wanted = [word.replace("*", "a") for word in wanted]
        seen = got.get(number, [["nothing"]])[0]
        seen = seen[: seen.index("#")] if "#" in seen and wanted[0].startswith("gan-") else seen
        if seen != wanted:
            faults.append(f"{one.where}: {one.text}: {seen}")
    assert not faults, "\n".join(faults)


def starting(one: printed.Printed) -> tuple[str, ...] | None:
    """The words of a command of ours, torchrun's translated; None for a command that cannot be composed here."""
    words = [word for word in one.words if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "torchrun" and "-m" in words:
        start = words.index("-m") + 1
        words = [words[start].replace("ganduel.", "gan-"), *words[start + 1 :]]
    own = {"--config-dir=conf", "--cfg", "--help", "-sc"} & {*words}
    own |= {word for word in words if word.startswith("settings_from=")}  # which needs that run
    return tuple(words) if words[0].startswith("gan-") and one.whole and not own else None


@pytest.mark.parametrize(("part", "least"), {"files": 40, "pages": 60, "output": 50}.items())
def test_all_of_them_compose(request, part, least, tmp_path, monkeypatch):
    """Keys and options exist, values have the right type; those that torchrun starts, too.

    A command that stands in several places is composed once; test_reports.py composes those of the reports' tables.
    """
    (tmp_path / "mine.py").touch()  # the package that how-tos allow
    monkeypatch.syspath_prepend(tmp_path)
    everything = printed.files() if part == "files" else printed.pages() if part == "pages" else []
    everything = everything or request.getfixturevalue("output")
    known = {tuple(shlex.split(line)) for row in report_rows.rows(report_rows.PAGES) for line in row.commands}
    if part == "pages":
        known |= {starting(one) for one in printed.files()}
    found = {words: one for one in everything if (words := starting(one)) and words not in known}
    assert len(found) > least
    faults = [(one, report_rows.fault(shlex.join(words))) for words, one in found.items()]
    assert not [f"{one.where}: {one.text}: {wrong}" for one, wrong in faults if wrong]


def test_a_program_of_an_environment_that_is_not_active(tmp_path, monkeypatch):
    """It is named by its path, so that what is printed runs; by its name alone where the shell finds it."""
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    for name in ("python", "gan-sample"):
        (bin / name).write_text("#!/bin/sh\n")
        (bin / name).chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bin / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert program("gan-sample") == ".venv/bin/gan-sample"
    assert program("gan-fid") == "gan-fid"  # where there is none, as from a checkout, no path helps
    monkeypatch.chdir(tmp_path / ".venv")
    assert program("gan-sample") == "bin/gan-sample"
    monkeypatch.chdir("/")
    monkeypatch.setenv("PATH", str(bin), prepend=":")
    assert program("gan-sample") == "gan-sample"


SHORT = ["duration=1 steps", "batch_size=4", "metric.which=[]", "forecast=false", "model.channels=4"]


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_the_first_hour_runs_shortened(shell, packed, tmp_path):
    """The demo, what its end prints, and start.md's next steps, by the shells, one after another."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    short = " ".join(shlex.quote(word) for word in [*SHORT, packed])
    page = [one.text for one in printed.pages() if one.where == "docs/start.md"]
    wanted = ("experiment=demo", "ckpt=runs/demo", "gan-report")
    chosen = [text for text in page if any(word in text for word in wanted) and "experiment=photos" not in text]
    assert len(chosen) > 6
    lines = []
    for text in chosen:
        command = text.partition(" #")[0].rstrip()
        shortened = {"gan-train": f" {short}", "gan-fid": " metric.samples=20"}.get(command.split()[0], "")
        lines.append(f"{command}{shortened if 'tensorboard' not in command else ''}\n")
    lines = [line for line in lines if not line.startswith("tensorboard")]
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    source = str(Path(report_rows.__file__).parents[1] / "src")
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": source}
    result = subprocess.run(
        [shell, "-c", "set -e\n" + "".join(lines)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
