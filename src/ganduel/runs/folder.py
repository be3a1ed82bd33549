"""A run folder: its lock, its configuration, its checkpoints and its logs."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ganduel import checkpoint
from ganduel.config.keys import leaves
from ganduel.config.schema import Train, marked
from ganduel.system.errors import UserError
from ganduel.system.files import kimg, locked, make_folder, sync, write_text
from ganduel.system.terminal import say

FREE = marked("free", Train)  # keys that a resumed run may change


class RunFolder:
    """The folder of a run, `runs_dir`/`name`. Only the first process writes into it."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.damaged: list[Path] = []  # checkpoints that could not be read

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A context that locks the folder. Raises UserError if another process holds the lock."""
        make_folder(self.path, "runs_dir")
        busy = f"name: {self.path} is in use by another process; wait for it, or give this run another name=..."
        with locked(self.path / ".lock", busy):
            yield

    def move_aside(self) -> Path | None:
        """Rename the folder of an earlier run to <name>.old-1, -2, ... Returns the new path; None without such a run.

        Raises UserError if another process uses the folder.
        """
        if not (self.path / "config.yaml").exists() and not self.started():
            return None
        with self.held():  # another process may still use the folder
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
                number += 1
            self.path.rename(aside)
            return aside

    def record(self, config: dict[str, Any], overrides: list[str]) -> None:
        """Write the composed configuration and the typed overrides."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write_text(self.path / "overrides.txt", "".join(f"{o}\n" for o in overrides))

    def stored_config(self) -> dict[str, Any]:
        """The configuration of the latest start or resumption, as config.yaml stores it; {} if the file is missing."""
        path = self.path / "config.yaml"
        config: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
        return config

    def newest(self) -> tuple[checkpoint.State | None, list[str]]:
        """The whole state to resume from (None in a new folder), and a warning for each damaged file before it.

        Raises UserError if the folder has checkpoints, but no readable whole state.
        """
        warnings: list[str] = []
        for path in self._states():
            try:
                return checkpoint.load(path), warnings
            except UserError as error:
                warnings.append(str(error))
                self.damaged.append(path)
        if warnings or any(self.checkpoints.glob("*.pt")):
            found = "; ".join(warnings) or f"{self.checkpoints} holds networks only, not the full training state"
            raise UserError(f"{found}: nothing is left to resume from; overwrite=true starts anew")
        return None, []

    def started(self) -> bool:
        """Whether there is a state to resume from."""
        return bool(self._states())

    def _states(self) -> list[Path]:
        """Paths of whole states, in the order to try them.

        "next" is left over if a process ended before the last rename in `save`.
        """
        paths = [self.checkpoints / f"{name}.pt" for name in ("latest", "next", "previous")]
        return [path for path in paths if path.exists()]

    def save(self, content: checkpoint.State) -> None:
        """Save a whole state as latest.pt. The old latest.pt becomes previous.pt."""
        new, latest = self.checkpoints / "next.pt", self.checkpoints / "latest.pt"
        for name in ("stats.jsonl", "metrics.jsonl"):  # the lines before a checkpoint must be on disk first
            sync(self.path / name)
        while self.damaged:  # or a damaged latest.pt would replace a good previous.pt
            path = self.damaged.pop()
            path.replace(path.with_suffix(".damaged"))
        checkpoint.save(new, content)
        if latest.exists():
            latest.replace(self.checkpoints / "previous.pt")
        new.replace(latest)
        sync(self.checkpoints)

    def save_networks(self, content: checkpoint.State, name: str, keep: int | None = None) -> None:
        """Write a checkpoint of the networks alone. With `keep`, only the newest `keep` numbered ones stay."""
        if keep != 0:
            checkpoint.save(self.checkpoints / name, checkpoint.networks_only(content))
        if keep is not None:
            newest_first = sorted(self.checkpoints.glob("[0-9]*kimg.pt"), key=kimg, reverse=True)
            for old in newest_first[keep:]:
                old.unlink()

    def note(self, text: str) -> None:
        """Write a message to the terminal and to train.log."""
        say(text)
        with open(self.path / "train.log", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%F %T')} {text}\n")

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add one line to a .jsonl file."""
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut_back(self, name: str, step: int) -> None:
        """Drop the lines that training wrote after `step`, because it will write them again."""
        path = self.path / name
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            write_text(path, "".join(line + "\n" for line in lines if _keep(line, step)))


def _keep(line: str, step: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:  # the process ended while it wrote this line
        return False
    return row.get("by", "gan-train") != "gan-train" or row["step"] <= step


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """ "key: old -> new" for every changed setting that a resumed run may not change silently."""
    before, after = dict(leaves(old)), dict(leaves(new))
    changed = [key for key in {**before, **after} if before.get(key, "absent") != after.get(key, "absent")]
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in changed
        if not any(key == free or key.startswith(free + ".") for free in FREE)
    ]
