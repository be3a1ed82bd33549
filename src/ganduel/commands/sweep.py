"""Sweeps (`gan-train -m`), their jobs, and everything else that Hydra's own flags ask for.

A job that fails prints the reason and ends alone. The other jobs go on, wherever a launcher runs them. At the end, the
sweep names the failed jobs.
"""

import json
import os
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from ganduel.config.compose import finish, first_job
from ganduel.config.explain import explain
from ganduel.config.keys import config_dir, literal, parse
from ganduel.config.schema import METRICS
from ganduel.system.errors import Interrupted, UserError
from ganduel.system.files import brief, write_text
from ganduel.system.terminal import program

Perform = Callable[[str, Any, list[str]], dict[str, Any]]
Fail = Callable[[str], int]
# How Optuna searches, unless the command line says otherwise: it goes on after failed jobs, and keeps its trials.
SEARCH = ("hydra.sweeper.max_failure_rate=1", "hydra.sweeper.study_name=search")
KEPT = "hydra.sweeper.storage={{_target_:ganduel.runs.search.Trials,path:{path}}}"


class Plan(NamedTuple):
    """The overrides that a sweep gives to Hydra, and where its jobs report. Without a sweep, the overrides as typed."""

    overrides: list[str]
    outcomes: Path | None = None  # a folder in which each job says how it ended
    numbers: list[int] | None = None  # of the jobs; None: 0, 1, 2, ...


def through_hydra(
    name: str,
    flags: Sequence[str],
    typed: list[str],
    added: Sequence[str],
    perform: Perform,
    fail: Fail,
) -> int:
    """Let Hydra handle flags such as --help and --cfg, or run the jobs of a sweep. Returns the exit code.

    `added` are the overrides among `typed` that nobody typed. `perform` runs the command once; `fail`
    prints an error and returns the exit code.
    """
    sweeping = bool({"-m", "--multirun"} & {*flags})
    with planned(name, typed) if sweeping else _as_typed(typed) as plan:
        sys.argv = [f"gan-{name}", *flags, "--", *plan.overrides]
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises the original exceptions
        job, started = _job(name, plan, added, perform, fail), False

        def task(composed: Any) -> float | None:
            nonlocal started
            started = True
            return job(composed)

        try:
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(task)()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 2 if end.code else 0
        except (HydraException, OmegaConfBaseException) as error:
            return fail(explain(name, plan.overrides, error))
        except Exception as error:
            if isinstance(error, ValueError) and not started:
                return fail(explain(name, plan.overrides, error))
            if plan.outcomes is None:
                raise
            # If jobs have failed, that may be why: Optuna has no best trial if none succeeds.
            return summary(plan.outcomes, fail) or fail(f"the sweep has stopped ({brief(error)})")
        return summary(plan.outcomes, fail) if plan.outcomes else 0


@contextmanager
def _as_typed(typed: list[str]) -> Iterator[Plan]:
    yield Plan(typed)


@contextmanager
def planned(name: str, typed: list[str]) -> Iterator[Plan]:
    """A context with the plan of a sweep. Raises UserError if its first job cannot be composed.

    Without a name of its own, a sweep has the name that a run would have and "-sweep", because a run and a sweep of one
    name would lie in one folder. A search by Optuna goes on after the trials that it has finished.
    """
    if name != "train":  # Hydra's own files go to a folder that nobody keeps
        with tempfile.TemporaryDirectory() as scratch:
            yield Plan([*typed, f"hydra.sweep.dir='{scratch}'"], Path(scratch))
            return
    config, overrides, numbers = first_job(name, typed), typed, None
    if not any(override.key_or_group == "name" for override in parse(typed)):
        with open_dict(config):
            config.name = f"{config.name}-sweep"
        overrides = [*overrides, f"name={config.name}"]
    folder, sweeper = Path(config.hydra.sweep.dir).absolute(), config.hydra.sweeper
    if "n_trials" in sweeper and sweeper.get("storage", "") is None:
        from ganduel.runs import search

        kept = folder / "search.json"
        left, numbers = search.remaining(kept, sweeper.n_trials)
        others = [o for o in overrides if not o.startswith("hydra.sweeper.n_trials=")]
        overrides = [*SEARCH, KEPT.format(path=literal(str(kept))), *others, f"hydra.sweeper.n_trials={left}"]
    outcomes = folder / ".jobs"
    shutil.rmtree(outcomes, ignore_errors=True)
    try:
        yield Plan(overrides, outcomes, numbers)
    finally:
        shutil.rmtree(outcomes, ignore_errors=True)


def _job(name: str, plan: Plan, added: Sequence[str], perform: Perform, fail: Fail) -> Callable[[Any], float | None]:
    """The function that Hydra calls for each job. It may do so in other processes, or on other machines."""

    def job(composed: Any) -> float | None:
        context = HydraConfig.get()
        own = [source.path for source in context.runtime.config_sources if source.provider == "command-line"]
        overrides = [*(f"--config-dir={path}" for path in own), *(o for o in context.overrides.task if o not in added)]
        if context.mode != RunMode.MULTIRUN or plan.outcomes is None:
            try:
                return _value(perform(name, finish(composed), overrides))
            except UserError as error:
                sys.exit(fail(str(error)))
            except Interrupted as error:
                sys.exit(error.code)
        number = plan.numbers[context.job.num] if plan.numbers else context.job.num
        told: dict[str, Any] = {"job": f"job {number}"}
        if name == "train":
            with open_dict(composed):
                composed.name = f"{composed.name}/{number}"
            overrides = [o for o in overrides if not o.startswith("name=")] + [f"name={composed.name}"]
            told["job"] = f"{composed.runs_dir}/{composed.name}"
        value = None
        try:
            result = perform(name, finish(composed), overrides)
            value = _value(result)
            if name == "train":
                told["folder"] = os.path.dirname(result["run"])
            if "best" in result:
                told |= {"best": result["best"], "sign": METRICS[composed.metric.which[0]][1]}
        except Interrupted as error:
            sys.exit(error.code)
        except UserError as error:
            fail(f"{told['job']}: {error}")
            told["error"] = str(error).partition(";")[0]
        except Exception as error:  # a mistake of ours, or of a part that the user has written
            traceback.print_exc()
            told["error"] = brief(error)
        plan.outcomes.mkdir(parents=True, exist_ok=True)
        write_text(plan.outcomes / f"{number}.json", json.dumps(told))
        return value

    return job


def _value(result: dict[str, Any]) -> float | None:
    """The value of a result that a search optimises."""
    return result.get("best", next((value for value in result.values() if isinstance(value, float)), None))


def summary(outcomes: Path, fail: Fail) -> int:
    """Name the best and the failed jobs of a sweep, and how to compare all. Returns the exit code, 1 if some failed."""
    paths = sorted(outcomes.glob("*.json"), key=lambda path: int(path.stem))
    told = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    measured = [one for one in told if "best" in one]
    if len(measured) > 1:
        best = min(measured, key=lambda one: one["sign"] * one["best"])
        print(f"best of {len(measured)} runs: {best['best']:.4g}, {best['job']}", file=sys.stderr)
    if folders := sorted({one["folder"] for one in told if "folder" in one}):
        print("compare them: " + shlex.join([program("gan-report"), *folders]), file=sys.stderr)
    if failed := [one for one in told if "error" in one]:
        return fail(
            f"{len(failed)} of {len(told)} jobs failed: "
            + "; ".join(f"{one['job']} ({one['error']})" for one in failed)
        )
    return 0
