"""The text of --help: a command's examples, its groups with their options, and its keys with their comments."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ganduel.config.comments import comments, headings, lead
from ganduel.config.explain import explain
from ganduel.config.keys import LIST_GROUPS, config_dir, flatten, options, spelt
from ganduel.system.errors import UserError

WIDTH = 80  # columns of the text
MIDDLE = 34  # columns of "key=value"; the comments begin here


def help_text(command: str, overrides: Sequence[str]) -> str:
    """Help for a command with these overrides: other options have other keys. Raises UserError for a wrong override."""
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose(command, overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(explain(command, overrides, error)) from error
    own, groups = config_dir() / f"{command}.yaml", list(groups_of(config_dir() / f"{command}.yaml"))
    # Hydra does not say which options of a list were chosen. Each of them has a key of its name.
    chosen = {**config.hydra.runtime.choices, **{group: [*config[group]] for group in groups if group in LIST_GROUPS}}
    parts = [introduction(own)]
    if groups:
        parts.append("Groups, typed as group=option:")
        any_number = dict.fromkeys(LIST_GROUPS, "; any number, after commas")
        told = {group: ", ".join(options(group)) + any_number.get(group, "") for group in groups}
        parts.append("\n".join(row(group, text, 16) for group, text in told.items()))
    files = [own, *(file for group in groups for file in files_of(group, chosen.get(group)))]
    known, about = dict[str, str](), dict[str, str]()
    for path in files:
        known |= {key: comment for key, comment in comments(path).items() if comment or key not in known}
        about |= headings(path)
    parts.append("Keys, typed as key=value, with the values that they have here:")
    sections: dict[str, list[str]] = {}
    for key, value in settable(config, known):
        section = key.partition(".")[0] if "." in key else ""
        sections.setdefault(section, []).append(row(f"{key}={value}", known.get(key, ""), MIDDLE))
    for section, rows in sections.items():
        title = about.get(section, "")
        if section in groups and (named := [*files_of(section, chosen.get(section))]):
            title = f"{section}={','.join(path.stem for path in named)}"
        parts.append("\n".join([*textwrap.wrap(f"{title}:", WIDTH), *rows] if title else rows))
    return "\n\n".join([*parts, completion(command)])


def introduction(path: Path) -> str:
    """The comment at the top of a command's YAML file. Paragraphs are filled; indented lines stay."""
    text, made = lead(path), []
    for paragraph in text.split("\n\n"):
        made.append(
            paragraph if paragraph.startswith("  ") else textwrap.fill(paragraph, WIDTH, break_on_hyphens=False)
        )
    return "\n\n".join(made)


def completion(command: str) -> str:
    """How to switch on that the shell completes keys and options."""
    return (
        "Completion with the Tab key, in bash (in zsh after autoload -Uz bashcompinit &&\n"
        f'bashcompinit), for this shell:\n\n  eval "$(gan-{command} -sc install=bash)"'
    )


def groups_of(path: Path) -> Iterator[str]:
    """The groups from which a command's YAML file chooses, in its order."""
    defaults: Any = OmegaConf.to_container(OmegaConf.load(path))["defaults"]  # type: ignore[index, call-overload]
    for chosen in defaults:
        name = next(iter(chosen)) if isinstance(chosen, dict) else ""
        if name and (config_dir() / name).is_dir():
            yield name


def files_of(group: str, names: Any) -> Iterator[Path]:
    """The files of a group's chosen options: one name, a list of names, or None. The user's own files are left out."""
    for name in [names] if isinstance(names, str) else names or []:
        if (path := config_dir() / group / f"{name}.yaml").exists():
            yield path


def settable(config: Any, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(key, value as text) of all keys that a user may want to set.

    Left out are import paths, and values that only repeat another key.
    """
    for key, value in flatten(config):
        names = key.split(".")
        repeats = isinstance(value, str) and value.startswith("${") and not known.get(key)
        if names[0] == "hydra" or any(name.startswith("_") for name in names) or repeats or value == {}:
            continue
        if isinstance(value, str) and "${" in value:
            try:
                value = OmegaConf.select(config, key)
            except OmegaConfBaseException:  # it follows from a key that is missing
                value = "???"
        yield key, spelt(value)


def row(name: str, text: str, middle: int) -> str:
    """A name and its explanation beside it, within `WIDTH` columns. A long name has a line of its own."""
    space = " " * middle
    lines = textwrap.wrap(text, WIDTH, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)
    if not lines or len(name) + 4 > middle:
        return "\n".join([f"  {name}", *lines])
    lines[0] = f"  {name}".ljust(middle) + lines[0].lstrip()
    return "\n".join(lines)
