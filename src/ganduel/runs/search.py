"""A search by Optuna that can go on in another process: a file in the sweep's folder holds its trials."""

import json
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from ganduel.system.files import parsing, write_text

FINISHED = "COMPLETE", "PRUNED", "FAIL"  # states of trials; all others were cut short, and are run again
WAY_OUT = "delete it to search anew"


class Trials(InMemoryStorage):
    """A storage of one study for Optuna's sweeper. It writes every change of a trial to a file at once.

    Optuna's own storage for files is a database. It needs an old SQLAlchemy, which clashes with other packages.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = Path(path)
        self.study: int | None = None  # known once the trials of the file are back

    def create_new_study(self, study_name: str | None = None) -> int:
        """The study, with the trials of the file. A trial that was cut short waits to be run with the same values."""
        study: int = super().create_new_study(study_name)
        with parsing(self.path, "a search", WAY_OUT):
            before = [_trial(stored) for stored in read(self.path)]
        for trial in before:
            super().create_new_trial(study, template_trial=trial)
        self.study = study
        return study

    def create_new_trial(self, *arguments: Any, **settings: Any) -> int:
        return self._kept(super().create_new_trial(*arguments, **settings))

    def set_trial_param(self, *arguments: Any) -> None:
        return self._kept(super().set_trial_param(*arguments))

    def set_trial_values(self, *arguments: Any) -> None:
        return self._kept(super().set_trial_values(*arguments))

    def set_trial_state(self, *arguments: Any) -> bool:
        return self._kept(super().set_trial_state(*arguments))

    def _kept(self, result: Any) -> Any:
        """Write all trials to the file, and return `result`."""
        assert self.study is not None
        trials = [_stored(trial) for trial in self.get_all_trials(self.study, deepcopy=False)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(trials, indent=1))
        return result


def read(path: Path) -> list[dict[str, Any]]:
    """The trials of a file, as plain values; none if there is no file. Raises UserError if the file is damaged."""
    if not path.exists():
        return []
    with parsing(path, "a search", WAY_OUT):
        trials = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(trials, list) or not all(isinstance(trial["state"], str) for trial in trials):
            raise ValueError("it holds no trials")
        return trials


def remaining(path: Path, wanted: int) -> tuple[int, list[int]]:
    """How many of the `wanted` trials are left, and their numbers in the order in which they will run.

    Those that were cut short come first, so that their runs go on. Raises UserError if the file is damaged.
    """
    trials = read(path)
    cut_short = [number for number, trial in enumerate(trials) if trial["state"] not in FINISHED]
    left = max(0, wanted - (len(trials) - len(cut_short)))
    numbers = chain(cut_short, count(len(trials)))
    return left, [next(numbers) for _ in range(left)]


def _stored(trial: Any) -> dict[str, Any]:
    return {
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": {name: distribution_to_json(kind) for name, kind in trial.distributions.items()},
        "fixed": trial.user_attrs,
        "system": trial.system_attrs,
        "start": trial.datetime_start and trial.datetime_start.isoformat(),
        "end": trial.datetime_complete and trial.datetime_complete.isoformat(),
    }


def _trial(stored: dict[str, Any]) -> Any:
    finished = stored["state"] in FINISHED
    start, end = (datetime.fromisoformat(stored[when]) if stored[when] else None for when in ("start", "end"))
    return FrozenTrial(
        number=-1,  # the storage counts
        state=TrialState[stored["state"]] if finished else TrialState.WAITING,
        value=None,
        values=stored["values"],
        datetime_start=start if finished else None,
        datetime_complete=end if finished else None,
        params=stored["params"],
        distributions={name: json_to_distribution(kind) for name, kind in stored["distributions"].items()},
        user_attrs=stored["fixed"],
        system_attrs=stored["system"],
        intermediate_values={},
        trial_id=-1,
    )
