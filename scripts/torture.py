"""Disturb runs of every family, and compare each with one that nobody disturbed, bit for bit.

    python scripts/torture.py --rounds 100 --seed 0

A round takes one family and one disturbance at a random moment: SIGKILL, SIGTERM, SIGHUP, a disk that is full, or a
damaged file of the run's folder after a SIGKILL. Then the same command runs until it succeeds, and half of the time it
is disturbed once more. In the end the state, the statistics and the names of all files must be those of the undisturbed
run, and nothing may have printed a traceback. The exit code is 1 if a round was not so. A log that was damaged may lack
rows, and a number in it may be another, because logs have no checksum.

Networks are tiny and the images are digits, or noise for CycleGAN, so a round takes some seconds of one core. Processes
are forked from one that has trained once, because imports would take longer than the training.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ganduel import checkpoint
from ganduel.commands import cli

CONTEXT = multiprocessing.get_context("fork")
STEPS, EVERY = 15, 2  # steps of a run, and between two checkpoints
TWICE = 2  # disturbances of a round, at most
HANGS = 900  # seconds after which a run is given up
COMMON = (
    f"duration={STEPS} steps",
    f"every.checkpoint={EVERY} steps",
    "every.log=1 steps",
    "every.sample=7 steps",
    "every.validation=4 steps",
    "validation_images=8",
    "batch_size=4",
    "metric.which=[]",
    "forecast=false",
    "device=cpu",
    "workers=1",
)
SMALL = "data.resolution=16"
FAMILIES = {
    "vanilla": ("model=vanilla", "model.generator.widths=[16,16]", "model.discriminator.widths=[16]"),
    "dcgan": ("model=dcgan", "model.channels=4"),
    "wgan": ("model=wgan", "model.channels=4"),
    "wgan_gp": ("model=wgan_gp", "model.channels=4"),
    "resnet": ("model=resnet", "model.channels=2", SMALL),
    "stylegan2_ada": (
        "model=stylegan2_ada",
        SMALL,
        "model.channel_base=64",
        "model.channel_max=8",
        "model.latent=8",
        "model.generator.width=8",
    ),
    "projected": (
        "model=projected",
        SMALL,
        "model.latent=8",
        "model.generator.channels=2",
        "model.generator.excitation=4",
        "model.discriminator.input=64",
        "model.discriminator.channel_max=8",
    ),
    "projected_stylegan2": (
        "model=projected_stylegan2",
        SMALL,
        "model.latent=8",
        "model.generator.width=8",
        "model.generator.channel_base=64",
        "model.generator.channel_max=8",
        "model.discriminator.input=64",
        "model.discriminator.channel_max=8",
    ),
    "r3gan": (
        "model=r3gan",
        SMALL,
        "model.latent=8",
        "model.channel_base=64",
        "model.channel_max=8",
        "model.group=4",
        "model.blocks=1",
    ),
    "cyclegan": (
        "model=cyclegan",
        "model.channels=2",
        "model.generator.blocks=1",
        "model.pool_size=10",
        "data=folder_pair",
        "data.root=pair",
        "data.resolution=24",
    ),
    "cyclegan_unet": (
        "model=cyclegan_unet",
        "model.channels=2",
        "model.discriminator.depth=2",
        "model.pool_size=10",
        "data=folder_pair",
        "data.root=pair",
        "data.resolution=16",
    ),
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}
KINDS = (*SIGNALS, "full disk", "damaged file")


def pair(root: Path) -> None:
    """Noise for CycleGAN, in two domains."""
    rng = np.random.default_rng(0)
    for part in ("trainA", "trainB", "testA", "testB"):
        (root / part).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (28, 28, 3), np.uint8)).save(root / part / f"{i}.png")


def train(arguments: list[str], log: str, room: int | None) -> None:
    """What a new process does: gan-train, with files of at most `room` bytes."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    sys.argv = ["gan-train", *arguments]
    sys.exit(cli.command("train", arguments))


class Run:
    """One run folder, and what its processes print."""

    def __init__(self, family: str, name: str):
        self.path, self.log = Path("runs") / name, Path(f"{name}.log")
        self.arguments = [*FAMILIES[family], *COMMON, "data.packed=packed", f"name={name}"]

    def once(self, room: int | None = None, number: int | None = None, delay: float = 0) -> int:
        """Start the command, and after `delay` seconds send a signal. Returns the exit code."""
        process = CONTEXT.Process(target=train, args=(self.arguments, str(self.log), room))
        process.start()
        process.join(delay if number is not None else HANGS)
        if number is not None and process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, number)
        process.join(HANGS)
        if process.exitcode is None:
            process.kill()
            raise RuntimeError(f"{self.path} hangs: see {self.log}")
        return process.exitcode

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def files(self) -> set[str]:
        """The files of the folder. TensorBoard starts one for each process, and what is damaged is kept aside."""
        names = {str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file()}
        return {name for name in names if "events.out.tfevents" not in name and not name.endswith(".damaged")}

    def outcome(self) -> tuple[Any, list[Any]]:
        """The state and the statistics, without what clocks and memory meters said."""
        content = checkpoint.load(self.path / "checkpoints" / "latest.pt")
        lines = (self.path / "stats.jsonl").read_bytes().splitlines()
        rows = [json.loads(line) for line in lines]
        own = [{k: v for k, v in row.items() if not k.startswith(("speed/", "memory/"))} for row in rows]
        return {key: content[key] for key in ("state", "step", "images_seen", "validation", "metric", "best")}, own


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures of tensors and plain values are the same, bit for bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and (a == b or a != a)


def damage(path: Path, rng: random.Random) -> None:
    """Flip one bit of a file, or cut it off."""
    content = bytearray(path.read_bytes())
    if not content:
        return
    at = rng.randrange(len(content))
    if rng.random() < 0.5:
        content[at] ^= 1 << rng.randrange(8)
    else:
        del content[at:]
    path.write_bytes(content)


def disturb(run: Run, kind: str, seconds: float, largest: int, rng: random.Random) -> tuple[set[str], list[str]]:
    """One disturbance. `seconds` is what a run takes, `largest` the bytes of its checkpoint.

    Returns the names of the files that were damaged, and what went wrong at once.
    """
    if kind == "full disk":
        before = len(run.said) if run.log.exists() else 0
        code, said = run.once(room=rng.randrange(200, int(1.1 * largest))), run.said[before:]
        named = re.search(r"error: .*/.*(make room|no room)", said)
        return set(), [] if code == 0 or (code == 1 and named) else [f"exit code {code}, {said[-200:]!r}"]
    code = run.once(number=SIGNALS.get(kind, signal.SIGKILL), delay=rng.uniform(0, seconds))
    wrong = [f"exit code {code} after {kind}"] if kind in ("SIGTERM", "SIGHUP") and code == 1 else []
    files = sorted(path for path in run.path.rglob("*") if path.is_file())
    if kind != "damaged file" or not files:
        return set(), wrong
    chosen = rng.choice(files)
    damage(chosen, rng)
    return {str(chosen.relative_to(run.path))}, wrong


def play(number: int, family: str, kind: str, reference: Run, seconds: float, rng: random.Random) -> list[str]:
    """One round. Returns what is wrong with it."""
    run = Run(family, f"{family}-{number}")
    largest = (reference.path / "checkpoints" / "latest.pt").stat().st_size
    damaged, wrong = disturb(run, kind, seconds, largest, rng)
    if rng.random() < 0.5:
        more, also = disturb(run, kind, seconds, largest, rng)
        damaged, wrong = damaged | more, wrong + also
    if (code := run.once()) != 0:
        return [*wrong, f"exit code {code}: {run.said.strip().splitlines()[-1][:300]}"]
    if "Traceback" in run.said:
        wrong.append("a traceback")
    (state, rows), (expected, expected_rows) = run.outcome(), reference.outcome()
    if not same(state, expected):
        wrong.append("another state")
    # A log has no checksum. So what is damaged in it is lost, and a flipped bit may make another number of one.
    strange = [row for row in rows if not any(same(row, expected) for expected in expected_rows)]
    if len(strange) > TWICE if "stats.jsonl" in damaged else not same(rows, expected_rows):
        wrong.append("other statistics")
    if (extra := run.files() - reference.files() - damaged) or (reference.files() - run.files() - damaged):
        wrong.append(f"other files: {sorted(extra) or sorted(reference.files() - run.files())}")
    return [f"{text}; damaged were {sorted(damaged)}" if damaged else text for text in wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="number of disturbed runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of families, disturbances and moments")
    parser.add_argument("--kinds", default=",".join(KINDS), help="disturbances, with commas between them")
    parser.add_argument("--families", default=",".join(FAMILIES), help="names with commas between them")
    settings = parser.parse_args()
    rng, families = random.Random(settings.seed), settings.families.split(",")
    kinds = settings.kinds.split(",")
    tried: Counter[tuple[str, str]] = Counter()
    bad: Counter[tuple[str, str]] = Counter()
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pair(Path("pair"))
        torch.set_num_threads(1)
        cli.command("train", Run("dcgan", "first").arguments)  # so every module is loaded
        references: dict[str, tuple[Run, float]] = {}
        for family in families:  # first, so that a family that does not train is told at once
            run, start = Run(family, family), time.perf_counter()
            if run.once() != 0:
                raise SystemExit(f"{family} does not train: {run.said[-500:]}")
            references[family] = run, time.perf_counter() - start
        for number in range(settings.rounds):
            family, kind = families[number % len(families)], kinds[number // len(families) % len(kinds)]
            wrong = play(number, family, kind, *references[family], rng)
            tried[family, kind] += 1
            bad[family, kind] += bool(wrong)
            for text in wrong or ["ended like the undisturbed run"]:
                print(f"round {number}, {family}, {kind}: {text}", file=sys.stderr, flush=True)
        os.chdir(here)
    print("| family | " + " | ".join(kinds) + " |\n|---|" + "---:|" * len(kinds))
    for family in families:
        cells = [f"{tried[family, k] - bad[family, k]} of {tried[family, k]}" for k in kinds]
        print(f"| {family} | " + " | ".join(cells) + " |")
    print(f"\n{settings.rounds} rounds, seed {settings.seed}: {sum(bad.values())} ended otherwise than undisturbed")
    return int(any(bad.values()))


if __name__ == "__main__":
    sys.exit(main())
