"""Make the documentation's pages on configuration from configs/, whenever the documentation is built.

python scripts/config_reference.py loss         prints one page; legend is docs/legend.md
mkdocs build                                    makes all pages: this file is a hook in mkdocs.yml
"""

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any

from ganduel.config import schema
from ganduel.config.comments import bases, comments, keys_of, lead
from ganduel.config.keys import config_dir
from ganduel.runs import legend

TOP = config_dir()
LIMITS = {
    key: rules["limits"] for one in schema.SCHEMAS.values() for key, rules in schema.rules_of(one) if "limits" in rules
}


def pages() -> dict[str, str]:
    """Page name -> Markdown: one page of recipes, one page for each command, and one for each group of options."""
    commands = {
        f"gan-{path.stem}": command_page(path) for path in sorted(TOP.glob("*.yaml"), key=lambda p: p.stem != "train")
    }
    groups = sorted(path.name for path in TOP.iterdir() if any(path.glob("*.yaml")) and path.name != "experiment")
    options = {name: group_page(name) for name in groups}
    return {"experiment": recipes_page(), **commands, **options}


def command_page(path: Path) -> str:
    return f"# gan-{path.stem}\n\n{spread(lead(path))}\n\n{table(path)}"


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


def table(path: Path) -> str:
    """A Markdown table of the keys of a file, with their defaults and comments; "" if there are no keys."""
    explained = comments(path)
    rows = [
        f"| `{key}` | `{escaped(value, '|')}` | {escaped(explained[key], '|*')}{allowed(key)} |"
        for key, value, _ in keys_of(path)
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows, ""]) if rows else ""


def escaped(text: str, letters: str) -> str:
    """Text in which these letters mean nothing to Markdown."""
    return re.sub(f"([{letters}])", r"\\\1", text)


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
    made = {**pages(), "legend": legend.markdown()}
    parser.add_argument("page", choices=list(made), help="which")
    print(made[parser.parse_args().page].rstrip("\n"))


if __name__ == "__main__":
    main()
