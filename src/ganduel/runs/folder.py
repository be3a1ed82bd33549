"""A run folder: its lock, its configuration, its checkpoints and its logs."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ganduel import checkpoint
from ganduel.config.keys import leaves
from ganduel.config.schema import Train, marked
from ganduel.system.errors import UserError
from ganduel.system.files import (
    Damaged,
    locked,
    make_folder,
    numbered,
    parsing,
    read_configuration,
    read_rows,
    sync,
    write_text,
    writing,
)
from ganduel.system.terminal import say

LOCK = ".lock"
FREE = marked("free", Train)  # keys that a resumed run may change


class RunFolder:
    """The folder of a run, `runs_dir`/`name`. Only the first process writes into it."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.damaged: list[Path] = []  # checkpoints that could not be read

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder inside the context, and remove the unfinished files of a killed process.

        Raises UserError if another process holds the lock.
        """
        make_folder(self.path, "runs_dir")
        busy = f"name: {self.path} is in use by another process; wait for it, or give this run another name=..."
        with locked(self.path / LOCK, busy):
            for folder in (self.path, self.checkpoints, self.path / "samples", self.path / "samples" / "histograms"):
                for unfinished in folder.glob("*.tmp"):
                    unfinished.unlink()
            yield

    def move_aside(self) -> Path | None:
        """Move the files of an earlier run to <name>.old-1, -2, ... Returns the new path; None without such a run.

        Runs in folders below, such as those of a sweep, stay where they are: they may be running. Raises UserError if
        another process uses the folder.
        """
        if not (self.path / "config.yaml").exists() and not self.started():
            return None
        with self.held():  # another process may still use the folder
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
                number += 1
            others = {path for path in self.path.iterdir() if _holds_runs(path)}
            if not others:
                self.path.rename(aside)
                return aside
            aside.mkdir()
            for path in {*self.path.iterdir()} - others - {self.path / LOCK}:
                path.rename(aside / path.name)
            return aside

    def record(self, config: dict[str, Any], overrides: list[str]) -> None:
        """Write the composed configuration and the typed overrides."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write_text(self.path / "overrides.txt", "".join(f"{o}\n" for o in overrides))

    def stored_config(self) -> dict[str, Any]:
        """The configuration of the latest start or resumption: from config.yaml or, if that is damaged, from the newest
        checkpoint. Raises UserError if neither can be read.
        """
        path = self.path / "config.yaml"
        try:
            return read_configuration(path)
        except UserError:
            for state in self._states():
                with contextlib.suppress(UserError):
                    config: dict[str, Any] = checkpoint.load(state)["config"]
                    return config
            raise

    def stored_features(self) -> str:
        """The feature extractor of the latest start or resumption; "auto" if it is not known."""
        with contextlib.suppress(UserError), parsing(self.path, "a run"):
            return str(self.stored_config()["metric"]["features"])
        return "auto"

    def resume(self, use: Callable[[checkpoint.State], None]) -> tuple[bool, list[str]]:
        """Give the newest whole state to `use`, or the one before it if that is damaged.

        A state is damaged if it cannot be read, or if `use` raises anything but a UserError. Returns whether there is a
        state, and a warning for each damaged file before it. Raises UserError if the folder has checkpoints, but no
        whole state that can be used, or if `use` does.
        """
        warnings: list[str] = []
        for path in self._states():
            try:
                content = checkpoint.load(path)
                with parsing(path, "a state that these networks and optimizers can use"):
                    use(content)
                return True, warnings
            except Damaged as error:
                warnings.append(str(error))
                self.damaged.append(path)
        if warnings or any(self.checkpoints.glob("*.pt")):
            found = "; ".join(warnings) or f"{self.checkpoints} holds networks only, not the full training state"
            raise UserError(f"{found}: nothing is left to resume from; overwrite=true starts anew")
        return False, []

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
            numbers = numbered(self.checkpoints, ".pt")
            for old in numbers[: max(0, len(numbers) - keep)]:
                old.unlink()

    def note(self, text: str) -> None:
        """Write a message to train.log and to the terminal, in this order: the terminal may be gone."""
        with writing(path := self.path / "train.log"), open(path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%F %T')} {text}\n")
        say(text)

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add one line to a .jsonl file."""
        with writing(path := self.path / name), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut_back(self, name: str, step: int) -> None:
        """Drop the lines that training wrote after `step`, because it will write them again.

        Lines that are no rows go to another file beside it, and a message says so.
        """
        path = self.path / name
        with parsing(path, "a log"):
            rows, bad = read_rows(path)
        if bad:
            aside = path.with_name(f"{name}.damaged")
            with writing(aside), open(aside, "ab") as file:
                file.writelines(line + b"\n" for line in bad)
            self.note(f"warning: {path}: {len(bad)} damaged lines; they are in {aside} now")
        if path.exists():
            kept = [line for row, line in rows if row.get("by", "gan-train") != "gan-train" or row["step"] <= step]
            write_text(path, "".join(line.decode("utf-8") + "\n" for line in kept))


def _holds_runs(path: Path) -> bool:
    """Whether a folder is that of a run, or holds one at any depth."""
    return path.is_dir() and any(any(path.rglob(name)) for name in (LOCK, "config.yaml"))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """ "key: old -> new" for every changed setting that a resumed run may not change silently."""
    before, after = dict(leaves(old)), dict(leaves(new))
    changed = [key for key in {**before, **after} if before.get(key, "absent") != after.get(key, "absent")]
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in changed
        if not any(key == free or key.startswith(free + ".") for free in FREE)
    ]
