"""A new run with the settings of another: `gan-train settings_from=runs/NAME name=NEW`."""

from collections.abc import Collection, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from ganduel.config.compose import compose
from ganduel.config.keys import for_hydra, parse
from ganduel.config.renamed import current
from ganduel.config.schema import plain
from ganduel.runs.folder import RunFolder, differences
from ganduel.system.errors import UserError

OWN = "name", "settings_from", "overwrite", "accept_changes", "json"  # keys that a new run does not take over


def again(overrides: Sequence[str]) -> list[str]:
    """The overrides of another run, then `overrides`, which name that run with `settings_from`.

    Overrides have Hydra's form. Those of the other run are left out if `overrides` set the same key, or choose an
    option of its group. Raises UserError if there is no such run, if the new run has no name, or if this version of
    ganduel composes other settings from the same overrides.
    """
    typed = {_key(override): override for override in parse(overrides)}
    if not typed["settings_from"].value():  # null; or empty, which is refused with all other keys
        return [*overrides]
    run = RunFolder(Path(str(typed["settings_from"].value())))
    if "name" not in typed:
        raise UserError("name is missing: give the run that settings_from begins a name=... of its own")
    try:
        lines = (run.path / "overrides.txt").read_text(encoding="utf-8").splitlines()
        stored = current(run.stored_config())
        written = [for_hydra("train", line) for line in lines if not line.startswith("--")]
        old = [(_key(parse([line])[0]), line) for line in written]
    except MemoryError:
        raise
    except Exception as error:  # a parser of foreign text raises many kinds of exceptions
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(
            f"settings_from={run.path} is no run folder with a config.yaml and an overrides.txt ({reason})"
        ) from error
    taken = [(key, line) for key, line in old if key not in OWN]
    changed = differences(stored, plain(compose("train", [line for _, line in taken])))
    if changed:
        raise UserError(
            f"settings_from={run.path}: this version composes other settings from the same command "
            f"({', '.join(changed)}); type that command with these keys instead"
        )
    return [*(line for key, line in taken if not _set_by(typed, key)), *overrides]


def _key(override: Override) -> str:
    """The place that an override sets: a key, a group, or the place of a group's options."""
    return str(override.package or override.key_or_group)


def _set_by(typed: Collection[str], key: str) -> bool:
    """Whether the keys in `typed` include this one, or a group that holds it."""
    parts = key.split(".")
    return any(".".join(parts[:end]) in typed for end in range(1, len(parts) + 1))
