"""Every printed command that can run here runs, shortened: one step of tiny networks on tiny data sets in their own
layouts, all in one folder, as a reader would type them. Those that cannot are named, with the reason."""

import contextlib
import io
import os
import re
import runpy
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import printed
import pytest
import test_published
from conftest import MODELS, pair, picture, tiny_networks
from printed import Printed
from test_printed import split_by
from test_sources import FACES, mnist_files
from test_trees import as_folder, as_zip

from ganduel.commands import cli
from ganduel.commands.cli import read
from ganduel.config.keys import LIST_GROUPS
from ganduel.config.schema import LIST_KEYS
from ganduel.evaluation import digit_classifier
from ganduel.runs.health import ALARMS

# Why a command is not run here: what it looks like -> the reason. All of them that start a program of ganduel compose.
LEFT_OUT = {
    printed.OPEN.pattern: "leaves something for the reader to fill in",
    r"^[A-Z_]*=?\S*torchrun": "needs several processes",
    "launcher=slurm": "needs Slurm",
    "figures=": "needs Matplotlib: test_figures.py draws all of these where it is",
    "watch=true": "serves a page until Ctrl-C: test_page.py reads it",
    "allow=mine": "needs files of its page: test_docs.py writes them and runs it as printed",
    "input=FILE|init_from=FILE": "needs a published network of gigabytes; input=dogs.pkl runs",
    r"^(pip|make|python3? -m venv)\b": "installs, or builds",
    r"^(GANDUEL_EXAMPLES=all )?(tensorboard|pytest)\b": "a program of others",
    r"^python (-c|make_images|scripts/(?!draw_pair))": "a script, which other tests run",
}
MAKES = ("gan-data", "gan-train", "gan-import")  # before the programs that read what these leave


def reason(command: Printed) -> str:
    """Why a command is not run; "" if it is."""
    return next((why for pattern, why in LEFT_OUT.items() if re.search(pattern, command.text)), "")


def commands() -> list[Printed]:
    """All that pages, YAML files and alarms print, each once."""
    alarms = [
        Printed(f"alarm {name}", f"gan-train {words}")
        for name, alarm in ALARMS.items()
        for words in re.findall(r"[\w.]+=[^\s,]+", alarm.advice)
    ]
    return list({" ".join(one.words): one for one in [*alarms, *printed.files(), *printed.pages()]}.values())


def counted(text: str) -> dict[str, int]:
    """How many commands run, and how many do not, by reason."""
    return Counter(reason(one) or text for one in commands())


def test_most_of_them_run(capsys):
    found = counted("run")
    with capsys.disabled():
        print("\nprinted commands, each once:", ", ".join(f"{count} {why}" for why, count in found.items()))
    assert set(found) == {"run", *LEFT_OUT.values()}, "a reason that no command has"
    assert found["run"] > 200
    programs = [one for one in commands() if one.words[0].startswith("gan-") and one.whole]
    assert sum(not reason(one) for one in programs) / len(programs) > 0.85


def laboratory(folder: Path) -> None:
    """The data sets of the commands, tiny, where a reader would have them."""
    as_folder(folder, mnist_files("data/mnist/MNIST/raw/"))
    for root in ("data/celeba", "archive"):
        for i, face in enumerate((*(f"{n:06d}" for n in range(2, 26)), *FACES)):
            picture(folder / root / "img_align_celeba" / f"{face}.jpg", i, (178, 218))
    faces = {f"img_align_celeba/{path.name}": path.read_bytes() for path in (folder / "archive").rglob("*.jpg")}
    as_zip(folder / "Downloads" / "archive.zip", faces)
    sets = [f"data/places/{name}" for name in ("corridor", "amusement_park", "kitchen")]
    sets += [f"{root}/{part}/{kind}" for root in ("data/afhq", "afhq") for part in ("train", "val") for kind in ANIMALS]
    sets += ["data/ffhq", "data/cifar10/a", "data/cifar10/b", "data/imagenet/n1", "data/imagenet/n2", "data/real"]
    for number, name in enumerate([*sets, "out/fake", "photos/real", "photos/fake"]):
        for i in range(24):
            picture(folder / name / f"{i:04d}.jpg", 100 * number + i, (210, 210) if "photos" in name else (40, 40))
    for i in range(24):
        key = f"{i:02x}".ljust(40, "0")
        place = folder / "data" / "lsun_bedroom_sample" / "data0" / "lsun" / "bedroom" / Path(*key[:3])
        picture(place / f"{key}.jpg", 9000 + i, (40, 40))
    for root in ("data/horse2zebra", "FOLDER", "data/maps"):
        pair(folder / root)


ANIMALS = ("dog", "cat", "wild")
SHORT = {  # keys of a command -> their values here
    "train": {"duration": "1 steps", "batch_size": "4", "forecast": "false", "validation_images": "4", "workers": "1"},
    "data": {"workers": "1"},
    "sample": {"batch": "4"},
    "fid": {"metric.samples": "8", "workers": "1"},
    "export": {},
    "report": {},
    "import": {"workers": "1"},
}
TYPED = {  # the same, but only where they are typed
    "data.validation": "4",
    "every.metric": "1 steps",
    "every.sample": "1 steps",
    "repeats": "2",
    "count": "4",
    "mode.steps": "4",
    "hydra.sweeper.n_trials": "1",
}


def shortened(command: str, words: Sequence[str]) -> list[str]:
    """The arguments of a command, so that it takes a second or so."""
    short = dict(SHORT[command])
    values = dict(word.split("=", 1) for word in words if "=" in word)
    short |= {key: value for key, value in TYPED.items() if key in values}
    if command == "train":
        if "accept_changes" not in values:
            short["overwrite"] = "true"
        measured = "metric.which" in values or "hydra/sweeper" in values
        short |= {"metric.samples": "8"} if measured else {"metric.which": "[]"}
        short |= {"hydra.sweeper.n_trials": "1"} if "hydra/sweeper" in values else {}
        paired = ("model" in values and values["model"].startswith("cyclegan")) or "horse2zebra" in str(words)
        if re.search("ring8|grid25|model=points", str(words)):  # a point is one pixel
            short["data.source.count"] = "100"
        else:
            short["data.resolution"] = "32" if paired else "16"
        overrides = read("train", [first_of(word) for word in words if word != "-m" and "hydra/" not in word]).overrides
        short |= dict(word.split("=", 1) for word in tiny_networks(overrides))
        if "-m" in words and "," in values.get("model", ""):  # keys that not all of them have
            short = {key: value for key, value in short.items() if not key.startswith("model.")}
    elif command == "fid" and "," in values.get("metric.samples", ""):
        short["metric.samples"] = "4,8"
    if "folders" in values:
        short.pop("metric.samples")
    kept = [word.replace("range(10)", "0,1") for word in words if word.partition("=")[0] not in short]
    return [*kept, *(f"{key}={value}" for key, value in short.items())]


def first_of(word: str) -> str:
    """An argument of a sweep as its first job has it."""
    key, _, value = word.partition("=")
    value = re.sub(r"^range\(\d+\)$", "0,1", value)
    several = "," in value and key not in (*LIST_GROUPS, *LIST_KEYS["train"]) and not key.endswith("betas")
    value = re.sub(r"^interval\(([^,]+),.*\)$", r"\1", value)
    return f"{key}={value.split(',')[0] if several and '(' not in value else value}"


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        yield out


@pytest.fixture
def published(tmp_path_factory, monkeypatch):
    """A tiny network in the published form, as bytes."""
    write = test_published.publish.__wrapped__(tmp_path_factory.mktemp("published"), monkeypatch)
    game = test_published.game()
    networks = [test_published.persistent(game.generators["G"]), test_published.persistent(game.discriminators["D"])]
    return write(G=networks[0], D=networks[1], G_ema=networks[0]).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``declarative_base")  # of Optuna, in SQLAlchemy
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of Unix")
def test_all_that_can_run_do(published, tmp_path, monkeypatch, capsys):
    """Split by bash, run in this process: what makes a run first, then what reads one."""
    lab = tmp_path / "lab"
    laboratory(lab)
    for name in ("dogs", "ffhq"):
        (lab / f"{name}.pkl").write_bytes(published)
    monkeypatch.chdir(lab)
    monkeypatch.setenv("HOME", str(lab))
    monkeypatch.setattr(digit_classifier, "STEPS", 100)
    chosen = [one for one in commands() if not reason(one)]
    (tmp_path / "shell").mkdir()
    split = split_by("bash", chosen, tmp_path / "shell")
    lines = [split[number][0] for number in range(len(chosen))]
    order = sorted(range(len(chosen)), key=lambda i: (not lines[i][0].startswith("python"), lines[i][0] not in MAKES))
    faults, spent = [], list[tuple[float, str]]()
    faults += runs_of_free_names()
    for number in order:
        one, (program, *words) = chosen[number], lines[number]
        began = time.process_time()
        try:
            told = started(program, words, monkeypatch)
        except Exception as error:  # so that all faults are seen at once
            told = repr(error)
        spent.append((time.process_time() - began, one.text))
        if told:
            faults.append(f"{one.where}: {one.text}: {told}")
    slowest = ", ".join(f"{seconds:.1f} s {text[:70]}" for seconds, text in sorted(spent, reverse=True)[:8])
    with capsys.disabled():
        print(f"\n{len(order)} commands ran, {len(faults)} failed, {sum(s for s, _ in spent):.0f} s; {slowest}")
    assert not faults, "\n".join(faults)


def started(program: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What went wrong with a command; "" if nothing did."""
    if program.startswith("python"):
        monkeypatch.setattr("sys.argv", [*words, "--share=0.05"])
        with quiet():
            runpy.run_path(str(printed.ROOT / words[0]), run_name="__main__")
        return ""
    command = program.removeprefix("gan-")
    words = words[: words.index("#")] if "#" in words else words
    if "mode=translate" in words:  # of RUN and DIR, which a reader replaces
        free = {"ckpt=RUN": "ckpt=runs/cyclegan-maps", "input=DIR": "input=photos"}
        words = [free.get(word, word) for word in words]
    asks = any(word in ("--help", "--cfg", "--version") for word in words)
    arguments = words if asks else shortened(command, words)
    monkeypatch.setattr("sys.argv", [program, *arguments])
    with quiet() as said:
        code = cli.command(command, arguments)
    errors = [line for line in said.getvalue().splitlines() if line.startswith("error")]
    return f"{code}: {errors or said.getvalue()[-300:]} ({' '.join(arguments)})" if code else ""


def runs_of_free_names() -> list[str]:
    """Runs that a reader has under a name that the page leaves open: RUN, runs/a. Returns what went wrong."""
    tiny = ["duration=1 steps", "batch_size=4", "forecast=false", "metric.which=[]", "validation_images=4"]
    styled = [*MODELS["stylegan2_ada"], "augment=[]", "regularizer=[]"]
    faults = []
    for name, words in {"RUN": styled, "ada": styled, "a": MODELS["dcgan"], "b": MODELS["dcgan"]}.items():
        with quiet() as said:
            if cli.command("train", [*words, *tiny, f"name={name}"]):
                faults.append(f"{name}: {said.getvalue()[-300:]}")
    os.symlink("runs/RUN", "RUN")
    maps = ["data=folder_pair", "data.name=maps", "data.resolution=24", "name=cyclegan-maps"]
    with quiet() as said:
        if cli.command("train", [*MODELS["cyclegan"][:4], *maps, *tiny]):
            faults.append(f"maps: {said.getvalue()[-300:]}")
    return faults
