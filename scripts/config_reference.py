"""Make the documentation's pages on configuration from configs/, whenever the documentation is built.

python scripts/config_reference.py loss         prints one page
mkdocs build                                    makes all pages: this file is a hook in mkdocs.yml
"""

import argparse
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ganduel.config import schema
from ganduel.config.keys import config_dir

TOP = config_dir()
LIMITS = {
    key: rules["limits"] for one in schema.SCHEMAS.values() for key, rules in schema.rules_of(one) if "limits" in rules
}
LINE = re.compile(r"(?P<indent> *)(?P<key>[\w@]+):(?: +(?P<value>\"[^\"]*\"|\S.*?))??(?: +# (?P<comment>.*))?")


def pages() -> dict[str, str]:
    """Page name -> Markdown: one page of recipes, one page for each command, and one for each group of options."""
    commands = {
        f"gan-{path.stem}": command_page(path) for path in sorted(TOP.glob("*.yaml"), key=lambda p: p.stem != "train")
    }
    groups = sorted(path.name for path in TOP.iterdir() if any(path.glob("*.yaml")) and path.name != "experiment")
    options = {name: group_page(name) for name in groups}
    return {"experiment": recipes_page(), **commands, **options}


def command_page(path: Path) -> str:
    return f"# gan-{path.stem}\n\n{lead(path)}\n\n{table(path)}"


def group_page(group: str) -> str:
    """The page of a group: all of its options, with their keys."""
    many = "any number: " if group in ("regularizer", "augment") else ""
    text = (
        f"# {group}\n\nOptions of the group `{group}`, {many}chosen as `{group}={'[NAME,...]' if many else 'NAME'}`.\n"
    )
    for path in sorted((TOP / group).glob("*.yaml")):
        begins = [f"Begins with the keys of [{base.stem}](#{base.stem}).\n\n" for base in bases(path)]
        text += f"\n## {path.stem}\n\n{lead(path)}\n\n{''.join(begins)}{table(path)}"
    return text


def recipes_page() -> str:
    """The page of recipes: the header and the settings of every experiment."""
    text = "# Recipes\n\n`gan-train experiment=NAME`. The tables that they belong to: [reports](../reports/index.md).\n"
    for path in sorted((TOP / "experiment").glob("*.yaml")):
        settings = path.read_text().partition("defaults:")[2]
        text += f"\n## {path.stem}\n\n{spread(lead(path))}\n\n```yaml\ndefaults:{settings}```\n"
    return text


def spread(text: str) -> str:
    """Put the commands of a header into code blocks, and each of its statements into a paragraph of its own."""
    text = re.sub(r"(?:^ {2}.*(?:\n|$))+", lambda m: f"\n```sh\n{textwrap.dedent(m[0])}```\n\n", text, flags=re.M)
    return re.sub(r"^(Data:|Expected:|The report|Here:)", r"\n**\1**", text, flags=re.M)


def lead(path: Path) -> str:
    """The comment at the beginning of a file, without `#`. Its indented lines are commands."""
    found = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            found.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(found)


def table(path: Path) -> str:
    """A Markdown table of the keys of a file, with their defaults and comments; "" if there are no keys."""
    explained = comments(path)
    rows = [f"| `{key}` | `{value}` | {explained[key]}{allowed(key)} |" for key, value, _ in keys_of(path)]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows, ""]) if rows else ""


def bases(path: Path) -> list[Path]:
    """The options of the same group that a file begins with and changes."""
    listed = yaml.safe_load(path.read_text()).get("defaults", []) if path.parent != TOP else []
    return [path.with_name(f"{name}.yaml") for name in listed if isinstance(name, str) and name != "_self_"]


def comments(path: Path) -> dict[str, str]:
    """Key -> comment. A key without one has that of the file in which it begins."""
    found = {key: comment for base in bases(path) for key, comment in comments(base).items()}
    return found | {key: comment or found.get(key, "") for key, _, comment in keys_of(path)}


def keys_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, default, comment) for every line of a YAML file that sets a value."""
    text = path.read_text()
    prefix = "" if path.parent == TOP or "@package _global_" in text else f"{path.parent.relative_to(TOP)}."
    above: list[tuple[int, str]] = []  # indent and key of the line's parents
    for line in text.splitlines():
        if not (match := LINE.fullmatch(line)):
            continue
        indent, key = len(match["indent"]), match["key"]
        above = [(i, k) for i, k in above if i < indent]
        names = [k for _, k in above] + [key]
        above.append((indent, key))
        hidden = names[0] in ("defaults", "hydra") or key.startswith("_")
        if match["value"] and not match["value"].startswith("{_target_") and not hidden:
            value = match["value"].replace("|", "\\|")
            yield prefix + ".".join(names), value, re.sub(r"([|*])", r"\\\1", match["comment"] or "")


def allowed(key: str) -> str:
    """The allowed range of a key from `schema`; "" if it has none."""
    if key in LIMITS:
        low, high = LIMITS[key]
        return f" ({low} or more)" if high is None else f" ({low} to {high})"
    return ""


def on_config(config: Any) -> Any:
    """MkDocs calls this before it looks for files. Adds the pages to the navigation."""
    for section in config.nav:
        if "Configuration" in section:
            section["Configuration"] = [f"reference/{name}.md" for name in pages()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """MkDocs calls this with the files in docs/. Adds the generated pages."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made = pages()
    parser.add_argument("page", choices=list(made), help="which")
    print(made[parser.parse_args().page])


if __name__ == "__main__":
    main()
