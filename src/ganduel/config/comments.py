"""Keys with the comments that stand beside them in configs/, for --help and for the documentation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ganduel.config.keys import config_dir

LINE = re.compile(r"(?P<indent> *)(?P<key>[\w@]+):(?: +(?P<value>\"[^\"]*\"|\S.*?))??(?: +# (?P<comment>.*))?")
MORE = re.compile(r" {20,}# (.*)")  # a comment that goes on below its key


def lead(path: Path) -> str:
    """The comment at the beginning of a file, without `#`. Its indented lines are commands."""
    found = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            found.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(found)


def bases(path: Path) -> list[Path]:
    """The options of the same group that a file begins with and changes."""
    config: Any = OmegaConf.load(path)
    listed = config.get("defaults", []) if path.parent != config_dir() else []
    return [path.with_name(f"{name}.yaml") for name in listed if isinstance(name, str) and name != "_self_"]


def comments(path: Path) -> dict[str, str]:
    """Key -> comment. A key without a comment takes that of the file from `bases`."""
    found = {key: comment for base in bases(path) for key, comment in comments(base).items()}
    return found | {key: comment or found.get(key, "") for key, _, comment in keys_of(path)}


def keys_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, default, comment) for every line of a YAML file that sets a value."""
    for key, value, comment in _lines(path):
        if value and not value.startswith("{_target_"):
            yield key, value, comment


def headings(path: Path) -> dict[str, str]:
    """Key -> comment of the keys that only hold other keys."""
    return {key: comment for key, value, comment in _lines(path) if comment and not value}


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, value, comment) for every line of a YAML file, except Hydra's own and import paths."""
    text, top = path.read_text(), config_dir()
    prefix = "" if path.parent == top or "@package _global_" in text else f"{path.parent.relative_to(top)}."
    above: list[tuple[int, str]] = []  # indent and key of the line's parents
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not (match := LINE.fullmatch(line)):
            continue
        indent, key, comment = len(match["indent"]), match["key"], match["comment"] or ""
        above = [(i, k) for i, k in above if i < indent]
        names = [k for _, k in above] + [key]
        above.append((indent, key))
        if names[0] in ("defaults", "hydra") or key.startswith("_"):
            continue
        for below in lines[number + 1 :]:
            if not comment or not (more := MORE.fullmatch(below)):
                break
            comment += f" {more[1]}"
        yield prefix + ".".join(names), match["value"] or "", comment
