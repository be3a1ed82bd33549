"""A run folder: who holds it, what was composed, its checkpoints, and how it is found again."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ganduel import checkpoint
from ganduel.config import leaves
from ganduel.errors import UserError
from ganduel.files import kimg, locked, make_folder, sync, write_text
from ganduel.terminal import say

# What may differ between a run and its continuation; the rest would make it another experiment.
FREE = (
    "accept_changes",
    "allow",
    "compile",
    "cuda_graphs",
    "cudnn_benchmark",
    "data.cache_gb",
    "data.features",
    "data.max_rejected",
    "data.on_device",
    "data.packed",
    "data.root",
    "data.source.root",
    "data.stream",
    "device",
    "duration",
    "every",
    "forecast",
    "health",
    "json",
    "keep",
    "loss_ema",
    "metric",
    "micro_batch",
    "name",
    "on_alarm",
    "overwrite",
    "runs_dir",
    "tf32",
    "workers",
)


class RunFolder:
    """`runs/<name>`. Only the first process writes into it."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.damaged: list[Path] = []  # checkpoints that could not be read

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out for as long as this one lives."""
        make_folder(self.path, "runs_dir")
        busy = f"name: {self.path} is in use by another process; wait for it, or give this run another name=..."
        with locked(self.path / ".lock", busy):
            yield

    def move_aside(self) -> Path | None:
        """Rename the folder of an earlier run to <name>.old-1, -2, ...; returns where it went."""
        if not (self.path / "config.yaml").exists() and not self.started():
            return None
        with self.held():  # not from under a living process
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
                number += 1
            self.path.rename(aside)
            return aside

    def record(self, config: dict[str, Any], overrides: list[str]) -> None:
        """Keep what was composed and what was typed."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write_text(self.path / "overrides.txt", "".join(f"{o}\n" for o in overrides))

    def recorded(self) -> dict[str, Any]:
        """What was composed when the run last began or resumed; {} where that is not there."""
        path = self.path / "config.yaml"
        config: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
        return config

    def newest(self) -> tuple[checkpoint.State | None, list[str]]:
        """The whole state to resume from, None in a new folder, and warnings of damaged files that were passed over."""
        warnings: list[str] = []
        for path in self._states():
            try:
                return checkpoint.load(path), warnings
            except UserError as error:
                warnings.append(str(error))
                self.damaged.append(path)
        if warnings or any(self.checkpoints.glob("*.pt")):
            found = "; ".join(warnings) or f"{self.checkpoints} holds networks, but no whole state"
            raise UserError(f"{found}: nothing is left to resume from; overwrite=true starts anew")
        return None, []

    def started(self) -> bool:
        """Whether there is a state to resume from."""
        return bool(self._states())

    def _states(self) -> list[Path]:
        """Whole states, the newest first; "next" is there when a process ended between two renames."""
        paths = [self.checkpoints / f"{name}.pt" for name in ("latest", "next", "previous")]
        return [path for path in paths if path.exists()]

    def save(self, content: checkpoint.State) -> None:
        """Make this the latest checkpoint; the latest becomes the previous one."""
        new, latest = self.checkpoints / "next.pt", self.checkpoints / "latest.pt"
        for name in ("stats.jsonl", "metrics.jsonl"):  # no checkpoint without the lines before it
            sync(self.path / name)
        while self.damaged:  # a bad file must not take a good one's place
            path = self.damaged.pop()
            path.replace(path.with_suffix(".damaged"))
        checkpoint.save(new, content)
        if latest.exists():
            latest.replace(self.checkpoints / "previous.pt")
        new.replace(latest)
        sync(self.checkpoints)

    def save_networks(self, content: checkpoint.State, name: str, keep: int | None = None) -> None:
        """Write a networks-only checkpoint; with `keep`, only the newest so many numbered ones stay."""
        if keep != 0:
            checkpoint.save(self.checkpoints / name, checkpoint.networks_only(content))
        if keep is not None:
            numbered = sorted(self.checkpoints.glob("[0-9]*kimg.pt"), key=kimg)
            for old in numbered[: len(numbered) - keep]:
                old.unlink()

    def note(self, text: str) -> None:
        """Tell the terminal and train.log."""
        say(text)
        with open(self.path / "train.log", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%F %T')} {text}\n")

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add one line to a .jsonl file."""
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut_back(self, name: str, step: int) -> None:
        """Drop the lines that training wrote after this step: it will write them again."""
        path = self.path / name
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            write_text(path, "".join(line + "\n" for line in lines if _keep(line, step)))


def _keep(line: str, step: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:  # cut off while it was written
        return False
    return row.get("by", "gan-train") != "gan-train" or row["step"] <= step


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """ "key: old -> new" of every setting that may not change silently between a run and its continuation."""
    before, after = dict(leaves(old)), dict(leaves(new))
    changed = [key for key in {**before, **after} if before.get(key, "absent") != after.get(key, "absent")]
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in changed
        if not any(key == free or key.startswith(free + ".") for free in FREE)
    ]
